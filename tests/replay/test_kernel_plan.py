"""How kernels are cut into items and loads, against cuts worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.replay import kernel_plan
from simkit.replay.engine import task_of
from simkit.replay.kernel_choice import KernelChoice, parameters_of
from simkit.replay.kernel_plan import plan_kernels, sequence_tokens, split_count
from simkit.replay.target import target_of
from simkit.timing.kernel_cost import UnitKernel
from tests.replay.cases import attention_operator

UNMEASURED = "mi300x"  # 304 units of two slots, no kernel parameters; FlashAttention's heuristic cuts


def target(name=UNMEASURED, **parameters):
    chip = load_hardware(name)
    return replace(target_of(chip, chip.main_memory.name), **parameters)


def plan(layout="mqa", batch=8, kv_len=2048, *, on=None, **scenario):
    operator = attention_operator(layout, batch, kv_len, **scenario)
    (found,) = plan_kernels(operator, task_of(operator), on or target(), hit_share=0.0, alone=False)
    return operator, found


@pytest.mark.parametrize(("items", "tokens", "slots", "pieces"), [
    (8, 131072, 264, 29),  # 33 fill the slots; 85 % of that are 28.05
    (1, 10**6, 1000, 109),  # 128 pieces at the most fill 12.8 %; 85 % of that need 108.8
    (1, 1024, 264, 4), (1, 1023, 264, 3),  # no piece below 256 tokens
    (1, 255, 264, 1),
    (1, 10**6, 2, 2), (1, 10**6, 1, 1),  # no more pieces than slots
    (211, 10**6, 264, 5),  # 211 of 264 slots are 79.9 %, 5 x 211 fill four waves to 99.9 %
    (212, 10**6, 264, 1), (80, 10**6, 100, 1),  # from 80 % on nothing is cut
    (70, 512, 100, 1),  # two pieces fill two waves no better than one piece fills one
    (17, 10**6, 40, 2),  # 34 of 40 slots are exactly 85 % of what 40 pieces fill
])
def test_pieces_are_the_fewest_that_fill_the_slots_within_85_percent_of_the_best(items, tokens, slots, pieces):
    assert split_count(items=items, tokens=tokens, slots=slots) == pieces


@pytest.mark.parametrize(("factors", "mean", "lengths"), [
    ((1.0,), 100.0, [100, 100, 100, 100]),
    ((0.5, 1.5), 100.0, [150, 150, 50, 50]),  # every factor for as many sequences as its share
    ((1.0,), 100.5, [101, 101, 100, 100]),  # whole tokens, 402 in all
    ((0.5, 0.5, 0.5, 2.5), 10.0, [25, 5, 5, 5]),
    ((0.01, 0.01, 0.01, 3.97), 2.0, [7, 1, 1, 1]),  # nobody reads less than a token
])
def test_sequences_share_the_batch_s_tokens_as_their_spread_says(factors, mean, lengths):
    task = replace(task_of(attention_operator("mqa", 4, 64)), tokens=mean, length_factors=factors)
    assert sequence_tokens(task, 4).tolist() == lengths


def test_three_sequences_take_the_factors_of_three_even_places_of_the_spread():
    """Places 0, 0 and 1 of two factors: 1/2, 1/2 and 3/2, whose mean 5/6 is that of the 100 tokens."""
    task = replace(task_of(attention_operator("mqa", 3, 64)), tokens=100.0, length_factors=(0.5, 1.5))
    assert sequence_tokens(task, 3).tolist() == [180, 60, 60]


@pytest.mark.parametrize(("lengths", "heads", "slots", "cut"), [
    ([4096, 4096], 4, 128, [14, 14]),  # 16 pieces of 8 items fill 128 slots; 14 are 87.5 % of that
    ([7486] * 34, 1, 132, [7] * 34),  # 7486 / (7486 / 7) is above 7 in binary floating point
    ([4097, 4096], 4, 128, [14, 14]),  # a mean of 4096.5 tokens: the longer one has no piece more, which were another wave
    ([300] * 100, 1, 100, [1] * 100),
    # A giant: the ten sequences mean 1090 tokens and are worth four pieces; 272 tokens are cut down to the even share's least.
    ([10000] + [100] * 9, 1, 100, [40] + [1] * 9),
    # Another: 32 slots want three pieces of the mean 9000, and the even share of 90 000 tokens is less, 2812.
    ([41000, 1000, 1000, 1000, 1000], 2, 32, [15, 1, 1, 1, 1]),
    # 24 slots want seven, of 1286 tokens: less than the even share, 3750.
    ([41000, 1000, 1000, 1000, 1000], 2, 24, [32, 1, 1, 1, 1]),
    # A giant among sequences that fill the slots by themselves: pieces of the even share, 109 000 tokens on 100 slots.
    ([100000] + [100] * 90, 1, 100, [92] + [1] * 90),
    # As long as two even shares it is not worth a combine pass; a little longer it is.
    ([5000] + [100] * 1000, 1, 10, [1] * 1001), ([2000] + [10] * 1000, 1, 1000, [8] + [1] * 1000),
    ([2000, 500, 500] + [1000] * 97, 1, 100, [1] * 100), ([2500] + [1000] * 99, 1, 100, [3] + [1] * 99),
    # Ten sequences of 1000 tokens on 100 slots are worth three pieces each, and twice as long a one six; 2500 tokens are a
    # giant, and all are cut to the least piece.
    ([2000, 500, 500] + [1000] * 7, 1, 100, [6, 2, 2] + [3] * 7), ([2500, 250, 250] + [1000] * 7, 1, 100, [10, 1, 1] + [4] * 7),
    ([200000] + [300] * 99, 1, 100, [88] + [1] * 99), ([10**6] + [1] * 4, 1, 128, [128, 1, 1, 1, 1]),
])
def test_sequences_are_cut_alike_and_giants_to_the_even_share_of_a_slot(lengths, heads, slots, cut):
    assert kernel_plan._cuts(np.array(lengths), heads, slots).tolist() == cut


def test_items_are_sequence_by_sequence_head_by_head_piece_by_piece_readers_side_by_side():
    """Five tokens in two pieces and three in one, two heads, two readers each: eight and four items."""
    tokens, stream = kernel_plan._items(np.array([5, 3]), np.array([2, 1]), kv_heads=2, readers=2)
    assert tokens.tolist() == [2, 2, 3, 3, 2, 2, 3, 3, 3, 3, 3, 3]
    assert stream.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    tokens, stream = kernel_plan._items(np.array([2, 1]), np.array([5, 1]), kv_heads=1, readers=1)
    assert (tokens.tolist(), stream.tolist()) == ([1, 1, 1], [0, 1, 2])  # no piece without a token


@pytest.mark.parametrize(("lengths", "heads", "banks", "partial", "cut"), [
    ([64] * 8, 1, 8, 100, [1] * 8),  # one item a bank already
    # One sequence of 64 tokens on 8 banks: 8 pieces of 8 tokens fill every bank once, for 8 x 100 bytes of partial results;
    # more pieces would not be shorter than what they add to the combine pass.
    ([64], 1, 8, 1, [8]),
    # Partial results as large as the whole read: never worth it.
    ([64], 1, 8, 10**6, [1]),
    # Two heads, whole 2 x 64 tokens on 4 banks: two pieces each.
    ([64], 2, 4, 1, [2]),
    # The longer of two sequences is cut to the other's length.
    ([96, 32], 1, 4, 1, [3, 1]),
    ([3], 1, 8, 1, [3]),  # no more pieces than tokens
    # A giant beside more sequences than banks: four pieces make 24 items, six a bank of 3.5 tokens on average.
    ([64] + [1] * 20, 1, 4, 1, [4] + [1] * 20),
])
def test_banks_get_the_pieces_of_least_time_with_the_combine_pass(lengths, heads, banks, partial, cut):
    """A token is 16 bytes: cutting saves ``16 banks`` bytes of time for each token off the fullest bank."""
    assert kernel_plan._bank_cuts(np.array(lengths), heads, banks, 16.0, float(partial)).tolist() == cut


def test_a_cut_of_banks_is_the_best_of_all_piece_lengths():
    """The cost by its definition, for every whole length of pieces up to four items a bank."""
    rng = np.random.default_rng(4)
    for _ in range(60):
        lengths = np.sort(rng.integers(1, 400, rng.integers(1, 6)))[::-1]
        heads, banks, partial = int(rng.integers(1, 5)), int(rng.integers(1, 40)), float(rng.choice([1.0, 300.0, 5000.0]))

        def cost(cut, lengths=lengths, heads=heads, banks=banks, partial=partial):
            items = int(cut.sum()) * heads
            piece = float(np.ceil(lengths / cut).max())
            even = np.ceil(items / banks) * lengths.sum() / cut.sum()
            return max(even, piece) * 16.0 * banks + (items * partial if cut.max() > 1 else 0.0)

        most = min(lengths[0], int(np.ceil(4 * banks * lengths[0] / (heads * lengths.sum()))))
        tried = [cost(np.ceil(lengths / np.ceil(lengths[0] / count)).astype(int)) for count in range(1, most + 1)]
        found = kernel_plan._bank_cuts(lengths, heads, banks, 16.0, partial)
        assert cost(found) == pytest.approx(min(tried), rel=1e-12)


@pytest.mark.parametrize(("outstanding", "longest", "granule", "in_flight"), [
    (32768, 4096, 32, 4),  # 128 tokens of 256 bytes in flight: four loads of 32
    (49152, 4096, 32, 6),  # 192 tokens: 48 a load would be no power of two
    (32768, 320, 16, 8),  # a sixteenth of the item at most, 20 tokens
    (2048, 4096, 4, 2),  # at least four tokens a load, whatever is in flight
    (100, 4096, 4, 1),
    (10**6, 10**6, 64, 61),  # a tile at the most: 61 whole ones
    (32768, 16, 4, 32), (32768, 1, 4, 32),
    (10**6, 512, 32, 122), (10**6, 511, 16, 244),  # a sixteenth of 512 are 32
])
def test_loads_are_a_quarter_of_what_a_slot_keeps_in_flight(outstanding, longest, granule, in_flight):
    assert kernel_plan._granule(256.0, target(outstanding_bytes_per_slot=float(outstanding)), longest) == (granule, in_flight)


def test_without_a_bound_a_slot_keeps_as_many_loads_in_flight_as_hide_the_longest_latency():
    """The slowest server gives 4 slots 1e12 bytes/s; 1 us of it is 250 000 bytes of a slot: 16 loads of 64 tokens, and 4."""
    base = target("groq-lpu")
    path = tuple(replace(base.path[0], name=str(i), bytes_per_s=rate, latency_s=latency)
                 for i, (rate, latency) in enumerate([(4e12, 1e-6), (1e12, 1e-7)]))
    found = kernel_plan._granule(256.0, replace(base, path=path, units=2, slots_per_unit=2), 10**6)
    assert found == (64, 4 + int(np.ceil(250_000 / (64 * 256))))
    assert kernel_plan._granule(256.0, replace(base, path=path), 3)[0] == 3


def test_an_unmeasured_gpu_cuts_one_head_of_a_few_sequences():
    """MQA, 8 sequences of 2048: 8 items on 608 slots, pieces of 256 tokens at the least: 7 fill 85 % of what 8 do."""
    operator, found = plan()
    assert found.cut.tolist() == [7] * 8
    assert (found.items, found.streams, found.splits) == (56, 56, 7.0)
    assert found.distinct_tokens == found.item_tokens.sum() == 8 * 2048
    assert found.bytes_per_token * found.distinct_tokens == operator.kv_read_bytes
    # 64 query rows of 128 values, a maximum and a sum each, written once and read once in four bytes.
    assert found.combine_bytes == 56 * 2 * 64 * (128 + 2) * 4


def test_two_pieces_are_combined_and_the_longest_item_says_how_large_a_load_is():
    """MQA, eight sequences of 512 tokens: two pieces each. One of 3 means among shorter ones is not cut by a kernel without splits."""
    _, found = plan(kv_len=512)
    assert found.cut.tolist() == [2] * 8
    assert found.combine_bytes == 16 * 2 * 64 * 130 * 4
    _, ragged = plan("mha", kv_len=300, attention_kernel="grouped-unsplit", lengths="8,1,1,1")
    assert (ragged.item_tokens.max(), ragged.item_tokens.min()) == (873, 109)
    assert ragged.granule_tokens == kernel_plan._granule(ragged.bytes_per_token, target(), 873)[0]
    assert ragged.granule_tokens > kernel_plan._granule(ragged.bytes_per_token, target(), 109)[0]


def test_several_query_tokens_share_a_head_s_item():
    """Four query tokens of one head an item: eight readers of a KV head still, partial results of four rows."""
    operator = attention_operator("gqa-8", 2, 2048, attention_kernel="per-query-head")
    task = replace(task_of(operator), query_rows=32.0)
    (found,) = plan_kernels(replace(operator, query_rows=4.0), task, target(), hit_share=0.0, alone=False)
    assert found.item_tokens.sum() == 8 * found.distinct_tokens
    assert found.combine_bytes == found.items * 2 * 4 * 130 * 4


def test_a_fraction_of_a_head_or_sequence_is_one_item_of_its_bytes():
    operator = attention_operator("mqa", 1, 64, attention_kernel="grouped-unsplit")
    task = replace(task_of(operator), kv_heads=0.25, sequences=0.25)
    (found,) = plan_kernels(operator, task, target(), hit_share=0.0, alone=False)
    assert (found.items, found.bytes_per_token * 64) == (1, operator.kv_read_bytes)


def test_whole_sequences_leave_nothing_to_combine():
    _, found = plan(attention_kernel="grouped-unsplit")
    assert (found.items, found.combine_bytes, found.splits) == (8, 0.0, 1.0)
    _, found = plan("mha", batch=64)
    assert (found.items, found.combine_bytes) == (64 * 64, 0.0)


def test_one_head_an_item_reads_a_kv_head_s_tokens_once_for_each_query_head():
    """GQA-8 of 64 query heads: eight readers a KV head, with one query row each."""
    operator, found = plan("gqa-8", batch=2, attention_kernel="per-query-head")
    pieces = split_count(items=2 * 64, tokens=2048, slots=608)
    assert found.items == 2 * 64 * pieces
    assert found.streams == 2 * 8 * pieces
    assert found.distinct_tokens == 2 * 8 * 2048
    assert found.item_tokens.sum() == 8 * found.distinct_tokens
    assert found.bytes_per_token * found.distinct_tokens == operator.kv_read_bytes
    assert found.combine_bytes == found.items * 2 * 1 * (128 + 2) * 4
    assert np.array_equal(found.item_stream[:8], np.zeros(8))


def test_a_compiled_machine_streams_the_whole_cache_as_one_item():
    operator, found = plan("gqa-8", batch=3, on=target("groq-lpu"), static=True)
    assert found.items == found.streams == len(found.item_stream) == 1
    assert found.item_tokens.tolist() == [3 * 8 * 2048]
    assert found.distinct_tokens == 3 * 8 * 2048
    assert (found.combine_bytes, found.splits, found.cut.tolist()) == (0.0, 1.0, [1, 1, 1])
    assert found.bytes_per_token * found.distinct_tokens == operator.kv_read_bytes


def test_a_compiled_program_of_one_head_a_time_streams_every_read():
    _, found = plan("gqa-8", batch=3, on=target("groq-lpu"), static=True, attention_kernel="per-query-head")
    assert found.item_tokens.tolist() == [8 * found.distinct_tokens]


def test_banks_hold_pieces_of_sequences():
    chip = target("generic-sram-asic")
    operator, found = plan("mqa", batch=1, kv_len=8192, on=chip)
    partial = 2 * 64 * 130 * 4
    assert found.cut.tolist() == kernel_plan._bank_cuts(
        np.array([8192]), 1, chip.units, float(operator.kv_read_bytes) / 8192, partial).tolist()
    assert found.cut[0] > 1
    assert found.combine_bytes == found.items * partial


def test_granules_are_counted_up_and_name_what_runs_alike():
    _, found = plan(kv_len=1000)
    assert (found.granules == np.ceil(found.item_tokens / found.granule_tokens)).all()
    _, same = plan(kv_len=1000)
    _, longer = plan(kv_len=1000, batch=16)
    assert found.name == same.name
    assert found.name != longer.name


def chosen(*, load, token_s, kv_len=65536, readers=1, cut=1, outstanding=np.inf, kv_heads=1, latency_s=1e-6,
           lengths=None):
    """One sequence of so many KV heads on H100 as a library runs it: 512 bytes a token and head."""
    on = replace(target("h100-sxm"), outstanding_bytes_per_slot=float(outstanding))
    operator = attention_operator(f"gqa-{kv_heads}", 1, kv_len)
    parameters = replace(parameters_of(task_of(operator), on.hardware, on.home), dram_latency_s=latency_s)
    unit = UnitKernel(matrix=True, readers=readers, setup_s=0.0, token_s=token_s, load_bytes_per_s=load, tile_tokens=64,
                      floor_s=0.0, rows_s=0.0)
    choice = KernelChoice(unit=unit, cut=np.full(len(lengths or [kv_len]), cut), estimate_s=0.0)
    return kernel_plan._chosen_plan(choice, operator, on, parameters, np.array(lengths or [kv_len]), kv_heads)


def test_a_measured_unit_keeps_in_flight_what_it_loads_in_a_latency_of_the_home():
    """65 536 bytes in 1 us are 128 tokens of 512: four loads of 32, and one more that passes the load path."""
    found = chosen(load=65536e6, token_s=1e-12)
    assert (found.granule_tokens, found.granules_in_flight) == (32, 5)
    # Half of that computed as fast as it loads: 64 tokens a latency.
    found = chosen(load=65536e6, token_s=1 / 64e6)
    assert (found.granule_tokens, found.granules_in_flight) == (16, 5)
    # 117 tokens: loads of 16, of which 7.3 are eight, and one.
    found = chosen(load=60000e6, token_s=1e-12)
    assert (found.granule_tokens, found.granules_in_flight) == (16, 9)
    # Ten tokens a latency: loads of the least size, at least four buffers so that computing leaves room for loads.
    found = chosen(load=5120e6, token_s=1e-12)
    assert (found.granule_tokens, found.granules_in_flight) == (4, 4)


def test_a_home_without_a_latency_still_keeps_loads_on_their_way():
    found = chosen(load=65536e6, token_s=1e-12, latency_s=0.0)
    assert (found.granule_tokens, found.granules_in_flight) == (4, 4)


def test_a_unit_s_buffers_bound_what_it_keeps_in_flight():
    found = chosen(load=65536e6, token_s=1e-12, outstanding=16384)
    assert (found.granule_tokens, found.granules_in_flight) == (8, 4)
    found = chosen(load=65536e6, token_s=1e-12, outstanding=1024)
    assert (found.granule_tokens, found.granules_in_flight) == (4, 1)


def test_a_chosen_kernel_s_items_are_its_pieces_times_its_readers():
    found = chosen(load=65536e6, token_s=1e-12, kv_len=1024, readers=4, cut=2)
    assert (found.items, found.streams, found.distinct_tokens) == (8, 2, 1024)
    assert (found.splits, found.combine_bytes) == (2.0, 0.0)  # its combine pass is a parameter of the chip
    assert found.bytes_per_token == 512.0
    two = chosen(load=65536e6, token_s=1e-12, kv_len=1024, kv_heads=2)
    assert (two.distinct_tokens, two.bytes_per_token) == (2 * 1024, 512.0)


def test_the_longest_item_says_how_large_a_chosen_kernel_s_loads_are():
    assert chosen(load=65536e6, token_s=1e-12, kv_len=1060, lengths=[1024, 36]).granule_tokens == 32
