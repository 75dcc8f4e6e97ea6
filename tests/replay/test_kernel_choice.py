"""Which kernel a library would run, against its cost model worked out for one problem at a time."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.hardware.kernel_shape import SPLITS
from simkit.replay import kernel_choice
from simkit.replay.engine import task_of
from simkit.replay.kernel_choice import choose_kernels, partial_elements
from simkit.replay.target import machine_of
from simkit.replay.unit_kernel import UnitKernel, parameters_of, unit_kernels
from tests.replay.cases import attention_operator

UNIT = UnitKernel(matrix=True, readers=1, setup_s=1e-6, token_s=1e-9, load_bytes_per_s=1e15, tile_tokens=64, floor_s=0.0,
                  rows_s=0.0)


def problem(layout="mqa", batch=8, kv_len=2048, **scenario):
    chip = load_hardware("h100-sxm")
    machine = machine_of(chip, "hbm")
    operator = attention_operator(layout, batch, kv_len, **scenario)
    return operator, task_of(operator), machine, parameters_of(task_of(operator), chip, machine.home)


def parameters(units=4, **kernel):
    found = problem()[3]
    return replace(found, units=units, kernel=replace(found.kernel, **kernel))


def estimate_s(lengths, cut, *, heads=1, unit=UNIT, units=4, exposed=0.0, kv_bytes=1.0, memory_s=0.0):
    return kernel_choice._estimate_s(np.array(lengths), np.array(cut), heads, unit,
                                     parameters(units, exposed_setup_fraction=exposed), kv_bytes, memory_s)


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
    assert estimate_s([100], [1], heads=6, unit=three, units=8, kv_bytes=1000.0) == pytest.approx(1e-6 + 128 * 5e-9, rel=1e-12)


def test_memory_binds_with_the_set_up_that_it_cannot_hide():
    """Five items on four units: two waves (1.25 when items differ) of 1 us set-up, of which 30 % are exposed."""
    assert estimate_s([100] * 5, [1] * 5, exposed=0.3, memory_s=1e-3) == pytest.approx(1e-3 + 0.3 * 2e-6, rel=1e-12)
    assert estimate_s([100] * 4 + [500], [1] * 5, exposed=0.3, memory_s=1e-3) == pytest.approx(1e-3 + 0.3 * 1.25e-6, rel=1e-12)
    assert estimate_s([100] * 5, [1] * 5, exposed=0.3, memory_s=1e-9) == pytest.approx(2 * 1.128e-6, rel=1e-12)


def cuts(lengths, heads=1, *, units=4, tile=64, kernel="grouped", most=128):
    task = replace(problem()[1], kernel=kernel)
    machine = replace(problem()[2], units=units)
    return [cut.tolist() for cut in kernel_choice._cuts(
        np.array(lengths), heads, task, machine, parameters(most_sequence_units=most), replace(UNIT, tile_tokens=tile))]


def test_cuts_are_tried_from_whole_sequences_to_pieces_of_a_tile():
    assert cuts([256]) == [[1], [2], [3], [4]]  # pieces of 64 tokens are a tile, of 256/6 less
    assert cuts([255]) == [[1], [2], [3]]
    assert cuts([10**6], most=8) == [[1], [2], [3], [4], [6], [8]]
    assert cuts([10**6]) == [[count] for count in SPLITS]


def test_kernels_without_splits_take_whole_sequences():
    assert cuts([4096, 64], kernel="grouped-unsplit") == cuts([4096, 64], kernel="unfused") == [[1, 1]]


def test_equal_sequences_are_not_cut_once_there_are_two_items_a_unit():
    assert len(cuts([4096] * 7)) > 1
    assert len(cuts([4096] * 3, 2)) > 1
    assert cuts([4096] * 8) == [[1] * 8]
    assert cuts([4096] * 4, 2) == [[1] * 4]


def test_a_ragged_batch_is_cut_however_many_items_it_has():
    """599 tokens are above 1.5 means of 300, 450 are not; pieces are of the mean, and of parts of it."""
    assert cuts([450, 150] * 8) == [[1] * 16]
    assert cuts([599, 1] * 8)[:3] == [[1] * 16, [2, 1] * 8, [4, 1] * 8]
    assert cuts([451, 149] * 8)[1] == [2, 1] * 8


def test_no_sequence_is_cut_into_more_pieces_than_units_may_share_it():
    assert max(max(cut) for cut in cuts([10**6, 1, 1, 1], most=16)) == 16


def test_partial_results_are_those_of_the_sequences_that_were_cut():
    """Pieces 3 and 2 (the third sequence is whole), 8 heads of 8 query rows of 128 values."""
    task = problem("gqa-8")[1]
    assert partial_elements(task, np.array([3, 2, 1])) == 5 * 8 * 8 * 128
    assert partial_elements(task, np.array([1, 1, 1])) == 0


def best_by_hand(operator, task, machine, known, lengths, *, hit_share, alone):
    """The least estimate of each kernel over all cuts, from the formula in the module's docstring."""
    heads, kv_bytes = round(float(task.kv_heads)), float(operator.kv_read_bytes)
    found = []
    for unit in unit_kernels(operator, task, machine.hardware, known, 1.0):
        cache = min(known.cache_bytes_per_s, machine.hardware.level("l2").achievable_bytes_per_s)
        memory_s = max(kv_bytes * (1 - hit_share) / machine.path[-1].bytes_per_s, kv_bytes * unit.readers / cache)
        times = []
        for cut in kernel_choice._cuts(lengths, heads * unit.readers, task, machine, known, unit):
            time = kernel_choice._estimate_s(lengths, cut, heads * unit.readers, unit, known, kv_bytes, memory_s)
            pieces = cut[cut > 1].sum() * heads * float(task.query_rows) * task.value_dim
            time += known.combine_s(float(pieces)) + unit.rows_s + (unit.floor_s if alone else 0.0)
            times.append((time, cut.tolist()))
        found.append((min(times)[0], unit.readers, min(times)[1]))
    return sorted(found)


@pytest.mark.parametrize(("layout", "batch", "kv_len"), [
    ("mqa", 1, 16384), ("mqa", 64, 512), ("gqa-8", 4, 4096), ("mha", 2, 1024), ("gqa-4", 32, 8192), ("mqa", 5, 16384)])
@pytest.mark.parametrize("kernel", ["grouped", "per-query-head"])
@pytest.mark.parametrize(("hit_share", "alone"), [(0.0, False), (1.0, True), (0.4, True)])
def test_the_kernel_of_least_estimated_time_comes_first_and_near_ones_after(layout, batch, kv_len, kernel, hit_share, alone):
    operator, task, machine, known = problem(layout, batch, kv_len, attention_kernel=kernel)
    lengths = np.full(batch, kv_len)
    found = choose_kernels(operator, task, machine, known, lengths, hit_share=hit_share, alone=alone)
    expected = best_by_hand(operator, task, machine, known, lengths, hit_share=hit_share, alone=alone)
    near = [one for one in expected if one[0] <= 1.15 * expected[0][0]]
    assert [(one.estimate_s, one.unit.readers, one.cut.tolist()) for one in found] == [
        (pytest.approx(time, rel=1e-12), readers, cut) for time, readers, cut in near]


def test_a_fraction_of_a_head_is_one_item():
    operator, task, machine, known = problem("mqa", 1, 4096)
    part = replace(task, kv_heads=0.25)
    (whole, *_), (found, *_) = (choose_kernels(operator, one, machine, known, np.array([4096]), hit_share=0.0, alone=False)
                                for one in (task, part))
    assert found.cut.tolist() == whole.cut.tolist()


def test_a_second_kernel_is_kept_only_when_it_is_close():
    """Over many problems both happen, and all that are kept are within 15 % of the first."""
    counts = set()
    for layout in ("mqa", "gqa-2", "gqa-8"):
        for batch, kv_len in ((1, 512), (8, 2048), (64, 1024)):
            operator, task, machine, known = problem(layout, batch, kv_len)
            found = choose_kernels(operator, task, machine, known, np.full(batch, kv_len), hit_share=0.0, alone=False)
            counts.add(len(found))
            assert all(one.estimate_s <= 1.15 * found[0].estimate_s for one in found)
    assert len(counts) > 1


def test_without_a_cache_no_kernel_reads_a_range_twice():
    """Each reader would take it from memory again; one head an item by order is taken at its word."""
    operator, task, machine, known = problem("mqa", 8, 2048)
    bare = replace(machine, cache=None, path=machine.path[-1:])
    found = choose_kernels(operator, task, bare, known, np.full(8, 2048), hit_share=0.0, alone=False)
    assert {one.unit.readers for one in found} == {1}
    operator, task, machine, known = problem("mqa", 8, 2048, attention_kernel="per-query-head")
    bare = replace(machine, cache=None, path=machine.path[-1:])
    found = choose_kernels(operator, task, bare, known, np.full(8, 2048), hit_share=0.0, alone=False)
    assert {one.unit.readers for one in found} == {64}


def test_a_group_for_which_no_kernel_is_left_is_an_error_and_names_the_chip():
    operator, task, machine, known = problem("mqa", 8, 2048)
    vector_only = replace(known, kernel=replace(known.kernel, matrix_most_group=0.0))
    bare = replace(machine, cache=None, path=machine.path[-1:])
    with pytest.raises(ValueError, match=machine.hardware.name):
        choose_kernels(operator, task, bare, vector_only, np.full(8, 2048), hit_share=0.0, alone=False)
