"""Which kernel a library would run, against its cost model worked out for one problem at a time."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.hardware.kernel_shape import SPLITS
from simkit.replay import kernel_choice
from simkit.replay.engine import task_of
from simkit.replay.kernel_choice import choose_kernels, combining_s, parameters_of, unit_kernels, work_of
from simkit.replay.target import target_of
from simkit.timing.attention_kernel import piece_counts
from simkit.timing.kernel_cost import MappedKernel, UnitKernel, mapped_kernel, memory_times
from tests.replay.cases import attention_operator

UNIT = UnitKernel(matrix=True, readers=1, setup_s=1e-6, token_s=1e-9, load_bytes_per_s=1e15, tile_tokens=64, floor_s=0.0,
                  rows_s=0.0)


def problem(layout="mqa", batch=8, kv_len=2048, **scenario):
    chip = load_hardware("h100-sxm")
    target = target_of(chip, "hbm")
    operator = attention_operator(layout, batch, kv_len, **scenario)
    return operator, task_of(operator), target, parameters_of(task_of(operator), chip, target.home)


def parameters(units=4, **kernel):
    found = problem()[3]
    return replace(found, units=units, kernel=replace(found.kernel, **kernel))


def estimate_s(lengths, cut, *, heads=1, unit=UNIT, units=4, exposed=0.0, kv_bytes=1.0, memory_s=0.0):
    """Of items on ``heads`` times their readers, without combine pass, ramp and rows."""
    load_s = kv_bytes / (sum(lengths) * heads) / unit.load_bytes_per_s
    kernel = MappedKernel(
        per_unit=len(lengths) * heads * unit.readers / units, setup_s=unit.setup_s, token_s=max(unit.token_s, load_s),
        tile_tokens=unit.tile_tokens, memory_s=memory_s, beside_s=0.0, computing=True, row_elements=0.0)
    chip = parameters(units, exposed_setup_fraction=exposed, split_combine_cycles=0.0)
    return kernel_choice.estimate_s(kernel, np.array(lengths), np.array(cut), chip)


@pytest.mark.parametrize(("sequences", "waves"), [(1, 1), (4, 1), (5, 2), (8, 2), (29, 8), (31, 8), (33, 8.25)])
def test_equal_items_run_in_whole_waves_up_to_eight_of_them(sequences, waves):
    """An item of 100 tokens is two tiles of 64: 1 us and 128 ns."""
    assert estimate_s([100] * sequences, [1] * sequences) == pytest.approx(waves * 1.128e-6, rel=1e-12)


def test_every_head_and_piece_is_an_item_and_pieces_are_whole_tiles():
    """Two sequences of 300 tokens in three pieces of 100, for two heads: twelve items on four units, three waves."""
    assert estimate_s([300, 300], [3, 3], heads=2) == pytest.approx(3 * 1.128e-6, rel=1e-12)


def test_unequal_items_share_the_units_evenly_unless_the_longest_lasts():
    """Items of 2 us (1024 tokens) and 1.064 us (64): sixteen on four units take their sum, five the longest at least."""
    long, short = 1e-6 + 1024e-9, 1.064e-6
    assert estimate_s([1024] * 8 + [64] * 8, [1] * 16) == pytest.approx((8 * long + 8 * short) / 4, rel=1e-12)
    assert estimate_s([1024, 64], [1, 1]) == pytest.approx(long, rel=1e-12)
    # A cut of the long one in two counts both of its pieces.
    assert estimate_s([1024, 64, 64], [2, 1, 1], units=1) == pytest.approx(2 * 1.512e-6 + 2 * short, rel=1e-12)


def test_a_unit_loads_at_its_own_rate_when_that_is_slower_than_its_arithmetic():
    """1000 bytes of 100 tokens and two heads are 5 a token; at 1e9 bytes/s 5 ns a token; three readers load it thrice over."""
    unit = replace(UNIT, load_bytes_per_s=1e9)
    assert estimate_s([100], [1], heads=2, unit=unit, kv_bytes=1000.0) == pytest.approx(1e-6 + 128 * 5e-9, rel=1e-12)
    three = replace(unit, readers=3)
    assert estimate_s([100], [1], heads=2, unit=three, units=8, kv_bytes=1000.0) == pytest.approx(1e-6 + 128 * 5e-9, rel=1e-12)


def test_of_so_many_unequal_items_one_unit_runs_two():
    """Five items on four units: two of the longest five meet on one, which takes the two shortest of them at least."""
    long, short = 1e-6 + 1024e-9, 1e-6 + 960e-9
    assert estimate_s([1024] * 4 + [960], [1] * 5) == pytest.approx(2 * short, rel=1e-12)
    assert estimate_s([1024] * 5 + [64], [1] * 6) == pytest.approx(2 * long, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_no_schedule_of_unequal_items_is_shorter_than_the_estimate(seed):
    """Longest first onto the unit that is free soonest is a schedule; equal items it places best."""
    random = np.random.default_rng(seed)
    units = int(random.integers(1, 6))
    lengths = random.integers(1, 3000, int(random.integers(1, 25)))
    busy = np.zeros(units)
    for length in sorted(lengths, reverse=True):
        busy[busy.argmin()] += 1e-6 + np.ceil(length / 64) * 64e-9
    found = estimate_s(lengths.tolist(), [1] * len(lengths), units=units)
    assert found <= busy.max() * (1 + 1e-12)
    assert busy.max() <= found * (4 / 3 + 1e-12)  # Graham 1969: within 4/3 of the best schedule, near this bound here


def test_memory_binds_with_the_set_up_that_it_cannot_hide():
    """Five items on four units are two waves of 1 us set-up, of which 30 % are exposed."""
    for lengths in ([100] * 5, [100] * 4 + [500]):
        assert estimate_s(lengths, [1] * 5, exposed=0.3, memory_s=1e-3) == pytest.approx(1e-3 + 0.3 * 2e-6, rel=1e-12)
    assert estimate_s([100] * 5, [1] * 5, exposed=0.3, memory_s=1e-9) == pytest.approx(2 * 1.128e-6, rel=1e-12)


def cuts(lengths, heads=1, *, units=4, kernel="grouped", most=128):
    known = parameters(units, most_sequence_units=most)
    mapped = MappedKernel(per_unit=len(lengths) * heads / units, setup_s=1e-6, token_s=1e-9, tile_tokens=64, memory_s=0.0,
                          beside_s=0.0, computing=True, row_elements=0.0)
    return [cut.tolist() for cut in kernel_choice._cuts(np.array(lengths), mapped, piece_counts(kernel, known.kernel))]


def test_cuts_are_tried_from_whole_sequences_to_the_most_pieces():
    assert cuts([10**6], most=8) == [[1], [2], [3], [4], [6], [8]]
    assert cuts([10**6]) == [[count] for count in SPLITS]


def test_kernels_without_splits_take_whole_sequences():
    assert cuts([4096, 64], kernel="grouped-unsplit") == cuts([4096, 64], kernel="unfused") == [[1, 1]]


def test_equal_sequences_are_not_cut_once_there_are_two_items_a_unit():
    assert len(cuts([4096] * 7)) > 1
    assert len(cuts([4096] * 3, 2)) > 1
    assert cuts([4096] * 8) == [[1] * 8]
    assert cuts([4096] * 4, 2) == [[1] * 4]


def test_sequences_that_differ_by_a_token_have_as_many_pieces():
    """A mean of 4096.5 tokens is dealt out as 4097 and 4096; a piece more of the longer were another wave of items."""
    assert cuts([4097, 4096]) == [[count] * 2 for count in SPLITS]


def test_a_ragged_batch_is_cut_however_many_items_it_has():
    """599 tokens are above 1.5 means of 300, 450 are not; pieces are of the mean, and of parts of it."""
    assert cuts([450, 150] * 8) == [[1] * 16]
    assert cuts([599, 1] * 8)[:3] == [[1] * 16, [2, 1] * 8, [4, 1] * 8]
    assert cuts([451, 149] * 8)[1] == [2, 1] * 8


def test_no_sequence_is_cut_into_more_pieces_than_units_may_share_it():
    assert max(max(cut) for cut in cuts([10**6, 1, 1, 1], most=16)) == 16


def test_partial_results_are_those_of_the_sequences_that_were_cut():
    """Pieces 3 and 2 (the third sequence is whole), 8 heads of 8 query rows of 128 values, on 4 units.

    81 920 floats are 40 960 x 8 bytes: 5120 lines of 64, 1280 a unit, at 8 cycles, after 3000 cycles of its own.
    """
    known = parameters(split_combine_cycles=3000.0, combine_cycles_per_64_bytes=8.0)
    row_elements = 3 * 8 * 8 * 128
    assert combining_s(row_elements, np.array([3, 2, 1]), known) == pytest.approx((3000 + 8 * 640) / known.clock_hz, rel=1e-12)
    assert combining_s(row_elements, np.array([1, 1, 1]), known) == 0


def best_by_hand(operator, task, target, known, lengths, *, hit_share, alone):
    """The least time of each kernel over all cuts of equal sequences, from the equations in the model's docstring."""
    kv_bytes, items = float(operator.kv_read_bytes), len(lengths) * round(float(task.kv_heads))
    kernel, hz, units = known.kernel, known.clock_hz, known.units
    rows = items * float(task.query_rows) * task.value_dim
    cache = min(known.cache_bytes_per_s, target.hardware.level("l2").achievable_bytes_per_s)
    run = kernel.page_tokens * float(task.bytes_per_token_head) / 2
    dram_s = kv_bytes * (1 - hit_share) / target.path[-1].bytes_per_s * (1 + kernel.dram_run_overhead_bytes / run)
    found = []
    for unit in unit_kernels(work_of(operator, task, lengths, hit_share), known):
        times = []
        for pieces in SPLITS:
            each = items * unit.readers / units
            if pieces > 1 and (each >= 2 or task.kernel in ("grouped-unsplit", "unfused")):
                break
            waves = each * pieces if each * pieces >= 8 else np.ceil(each * pieces)
            tokens = np.ceil(lengths[0] / (pieces * unit.tile_tokens)) * unit.tile_tokens
            item_s = unit.setup_s + tokens * max(unit.token_s, float(task.bytes_per_token_head) / unit.load_bytes_per_s)
            memory_s = max(dram_s, kv_bytes * unit.readers / cache)
            time = max(waves * item_s, memory_s + kernel.exposed_setup_fraction * waves * unit.setup_s)
            if pieces > 1:
                lines = rows * pieces * 4 / 64 / units
                time += (kernel.split_combine_cycles + kernel.combine_cycles_per_64_bytes * lines) / hz
            time += kernel.dram_ramp_ratio * target.home.latency_s * (1 - hit_share) + unit.rows_s
            times.append((time + (unit.floor_s if alone else 0.0), [pieces] * len(lengths)))
        found.append((min(times)[0], unit.readers, min(times)[1]))
    return sorted(found)


@pytest.mark.parametrize(("layout", "batch", "kv_len"), [
    ("mqa", 1, 16384), ("mqa", 64, 512), ("gqa-8", 4, 4096), ("mha", 2, 1024), ("gqa-4", 32, 8192), ("mqa", 5, 16384)])
@pytest.mark.parametrize("kernel", ["grouped", "per-query-head"])
@pytest.mark.parametrize(("hit_share", "alone"), [(0.0, False), (1.0, True), (0.4, True)])
def test_the_kernel_of_least_estimated_time_comes_first_and_near_ones_after(layout, batch, kv_len, kernel, hit_share, alone):
    operator, task, target, known = problem(layout, batch, kv_len, attention_kernel=kernel)
    lengths = np.full(batch, kv_len)
    found = choose_kernels(operator, task, target, known, lengths, hit_share=hit_share, alone=alone)
    expected = best_by_hand(operator, task, target, known, lengths, hit_share=hit_share, alone=alone)
    near = [one for one in expected if one[0] <= 1.15 * expected[0][0]]
    assert [(one.estimate_s, one.unit.readers, one.cut.tolist()) for one in found] == [
        (pytest.approx(time, rel=1e-12), readers, cut) for time, readers, cut in near]


def test_a_fraction_of_a_head_is_one_item():
    operator, task, target, known = problem("mqa", 1, 4096)
    part = replace(task, kv_heads=0.25)
    (whole, *_), (found, *_) = (choose_kernels(operator, one, target, known, np.array([4096]), hit_share=0.0, alone=False)
                                for one in (task, part))
    assert found.cut.tolist() == whole.cut.tolist()


def test_a_second_kernel_is_kept_only_when_it_is_close():
    """Over many problems both happen, and all that are kept are within 15 % of the first."""
    counts = set()
    for layout in ("mqa", "gqa-2", "gqa-8"):
        for batch, kv_len in ((1, 512), (8, 2048), (64, 1024)):
            operator, task, target, known = problem(layout, batch, kv_len)
            found = choose_kernels(operator, task, target, known, np.full(batch, kv_len), hit_share=0.0, alone=False)
            counts.add(len(found))
            assert all(one.estimate_s <= 1.15 * found[0].estimate_s for one in found)
    assert len(counts) > 1


def test_without_a_cache_no_kernel_that_reads_a_range_twice_is_chosen():
    """Each reader would take it from memory again; one head an item by order is taken at its word."""
    operator, task, target, known = problem("mqa", 8, 16384)
    bare = replace(target, cache=None, path=target.path[-1:])
    found = choose_kernels(operator, task, bare, known, np.full(8, 16384), hit_share=0.0, alone=False)
    assert {one.unit.readers for one in found} == {1}
    operator, task, target, known = problem("mqa", 8, 2048, attention_kernel="per-query-head")
    found = choose_kernels(operator, task, bare, known, np.full(8, 2048), hit_share=0.0, alone=False)
    assert {one.unit.readers for one in found} == {64}
    work = work_of(operator, task, np.full(8, 2048), 0.0)
    vector = unit_kernels(work, known)[-1]
    chip = kernel_choice._on_target(known, bare)
    read_s = mapped_kernel(vector, work, chip, memory_times(work, chip)).memory_s
    assert read_s == pytest.approx(64 * memory_times(work, chip).dram_s, rel=1e-12)


def test_a_library_without_a_kernel_for_a_group_runs_one_query_head_an_item():
    operator, task, target, known = problem("mqa", 8, 2048)
    vector_only = replace(known, kernel=replace(known.kernel, matrix_most_group=0.0, vector_most_group=0.0))
    found = choose_kernels(operator, task, target, vector_only, np.full(8, 2048), hit_share=0.0, alone=False)
    assert [(one.unit.matrix, one.unit.readers) for one in found] == [(False, 64)]
