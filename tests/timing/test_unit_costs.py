"""What an item costs a compute unit: H100's kernels worked by hand at round parameters, and which kernels there are."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.step.operators import AttentionTask
from simkit.timing.kernel_cost import (
    chip_kernel,
    kernel_work,
    kernels_of_library,
    matrix_kernel,
    row_groups,
    vector_kernel,
)

SHIPPED = load_hardware("h100-sxm")
# 100 units of 1 GHz, 2000 dense flops and 16 exponentials a cycle and unit.
CHIP = replace(
    SHIPPED,
    compute=replace(SHIPPED.compute, units=100, clock_hz=1e9, matrix_peak_flop_per_s={"bf16": 2e14}, special_ops_per_s=1.6e12),
    kernel=replace(
        SHIPPED.kernel, item_setup_cycles=4000.0, load_bytes_per_cycle_per_unit=20.0, matrix_efficiency=0.5,
        launch_cycles=10000.0, vector_item_setup_cycles=2000.0, vector_elements_per_cycle=10.0, vector_token_cycles=0.4,
        vector_launch_ratio=1.2, tile_tokens=64.0, vector_tile_tokens=16.0, row_cycles=50.0, split_combine_cycles=3000.0,
        combine_cycles_per_64_bytes=8.0, cache_bytes_per_cycle_per_unit=30.0, dram_ramp_ratio=9.0, most_item_rows=1024.0,
        latent={"item_setup_cycles": 7000.0, "row_cycles": 25.0, "load_bytes_per_cycle_per_unit": 12.0},
        tuned_for_bytes_per_s=SHIPPED.main_memory.chip_bandwidth_bytes_per_s))
HOME = CHIP.main_memory


def task(rows=8.0, **changed):
    """4 sequences of 8 KV heads of 128 bf16 elements."""
    parameters = {
        "sequences": 4.0, "kv_heads": 8.0, "query_rows": rows, "tokens": 1000.0, "key_dim": 128, "value_dim": 128,
        "latent": False, "arrays": 2, "cached_elements": 256, "bytes_per_token_head": 512.0, "kernel": "grouped", "page": 1,
        "length_factors": (1.0,)}
    return AttentionTask(**parameters | changed)


def latents(rows=16.0, **changed):
    """One latent of 512 + 64 elements a token for all heads."""
    return task(rows, kv_heads=1.0, key_dim=576, value_dim=512, latent=True, arrays=1, cached_elements=576,
                bytes_per_token_head=1152.0, **changed)


def parameters_of(one, chip=CHIP, home=None):
    home = home or chip.main_memory
    return chip_kernel(chip, chip.kernel, home, home.chip_bandwidth_bytes_per_s, latent=one.latent)


def kernels(one, *, chip=CHIP, load_fraction=1.0, query_rows=None, home=None):
    """Every kernel that the library could run, the matrix unit's first."""
    known = replace(parameters_of(one, chip, home), load_fraction=load_fraction)
    work = kernel_work(one, heads=one.sequences * one.kv_heads, rows=one.query_rows, tokens=one.tokens,
                       token_bytes=one.bytes_per_token_head, cached_elements=one.cached_elements, item_rows=query_rows)
    rows, matrix, vector = kernels_of_library(work, known.kernel)
    found = [matrix_kernel(of_item, work, known) for of_item in dict.fromkeys(rows[matrix].tolist())]
    return [*found, vector_kernel(work, known)] if vector.any() else found


def with_kernel(**parameters):
    return replace(CHIP, kernel=replace(CHIP.kernel, **parameters))


def rows_of(found, rows):
    """Query rows an item of each matrix kernel, 0 for the vector lanes' kernel."""
    return [rows / one.readers if one.matrix else 0 for one in found]


def test_an_item_of_the_matrix_unit():
    """A token: 8 rows are padded to 16, of 2 (128 + 128) flops each, at half of 2000 a cycle: 8.192 cycles.

    Beside the items, 4 x 8 heads of 8 rows of 128 elements are 256 rows of 50 cycles, on 100 units.
    """
    found = kernels(task(), load_fraction=0.25)[0]
    assert (found.matrix, found.readers, found.tile_tokens) == (True, 1, 64)
    assert found.setup_s == pytest.approx(4e-6)
    assert found.token_s == pytest.approx(8.192e-9)
    assert found.load_bytes_per_s == pytest.approx(20 * 1e9 / 4)
    assert found.floor_s == pytest.approx(10e-6)
    assert found.rows_s == pytest.approx(256 * 50 / 100 * 1e-9)


def test_an_item_of_the_vector_lanes():
    """One of 8 query heads: 256 elements of a token at 10 a cycle and 0.4 cycles of upkeep; nothing bounds its loads."""
    found = kernels(task(), load_fraction=0.25)[1]
    assert (found.matrix, found.readers, found.tile_tokens) == (False, 8, 16)
    assert found.setup_s == pytest.approx(2e-6)
    assert found.token_s == pytest.approx(26e-9)
    assert found.load_bytes_per_s == math.inf
    assert found.floor_s == pytest.approx(12e-6)
    assert found.rows_s == 0


def test_exponentials_bind_where_the_matrix_unit_is_faster():
    """16 padded rows, an exponential of a token each, at 2 a cycle."""
    slow = replace(CHIP, compute=replace(CHIP.compute, special_ops_per_s=0.2e12))
    assert kernels(task(), chip=slow)[0].token_s == pytest.approx(8.192e-9)
    slow = replace(CHIP, compute=replace(CHIP.compute, special_ops_per_s=0.1e12))
    assert kernels(task(), chip=slow)[0].token_s == pytest.approx(16e-9)


def test_a_kernel_a_query_head_has_one_row_an_item_whatever_its_group():
    """Eight readers of a KV head, of the matrix unit or of the vector lanes; all query rows of the problem are the same."""
    matrix, vector = kernels(task(kernel="per-query-head"), query_rows=1.0)
    assert (matrix.matrix, matrix.readers, vector.matrix, vector.readers) == (True, 8, False, 8)
    assert matrix.rows_s == pytest.approx(256 * 50 / 100 * 1e-9)
    assert [one.readers for one in kernels(task(16.0, kernel="per-query-head"), query_rows=2.0)] == [8, 16]
    few = with_kernel(vector_most_group=4.0, matrix_most_group=4.0, most_item_rows=0.5)
    assert [one.matrix for one in kernels(task(kernel="per-query-head"), query_rows=1.0, chip=few)] == [True, False]
    assert [one.matrix for one in kernels(latents(kernel="per-query-head"), query_rows=1.0)] == [True]


@pytest.mark.parametrize(("rows", "parts"), [
    (1.0, [1]), (8.0, [8]), (16.0, [16, 8]), (48.0, [48, 24, 16, 8]), (128.0, [64, 32, 16, 8]), (7.0, [7])])
def test_an_item_takes_all_query_rows_of_a_head_or_equal_parts_of_them(rows, parts):
    found = rows_of(kernels(task(rows)), rows)
    assert found == ([rows, *parts] if rows > 64 else parts) + [0]


def test_every_query_row_of_a_head_is_an_item_of_the_vector_lanes():
    assert [kernels(task(rows))[-1].readers for rows in (1.0, 2.0, 40.0)] == [1, 2, 40]


@pytest.mark.parametrize(("limits", "found"), [
    ({}, [32, 16, 8, 0]),
    ({"matrix_least_group": 32.0, "matrix_most_group": 32.0, "vector_most_group": 32.0}, [32, 16, 8, 0]),
    ({"matrix_least_group": 33.0}, [0]),
    ({"matrix_most_group": 31.0}, [0]),
    ({"vector_most_group": 31.0}, [32, 16, 8]),
    ({"vector_most_group": 31.0, "matrix_most_group": 31.0}, [0]),
    ({"most_item_rows": 16.0}, [16, 8, 0]),
    ({"most_item_rows": 4.0, "vector_most_group": 31.0}, [0]),
])
def test_of_the_kernels_a_library_has_those_for_the_group(limits, found):
    """32 query rows: what it has no kernel for runs one query head an item."""
    assert rows_of(kernels(task(32.0), chip=with_kernel(**limits)), 32) == found


@pytest.mark.parametrize(("limits", "found"), [
    ({}, [32, 16, 8]), ({"matrix_most_group": 31.0}, [0]), ({"most_item_rows": 16.0}, [16, 8])])
def test_latents_run_on_the_matrix_unit_where_it_takes_their_group(limits, found):
    assert rows_of(kernels(latents(32.0), chip=with_kernel(**limits)), 32) == found


def test_kernels_for_latents_have_figures_of_their_own():
    """A token: 16 rows of 2 (576 + 512) flops; 4 sequences of 16 rows of 512 elements are 256 rows of 128."""
    found = kernels(latents())[0]
    assert found.setup_s == pytest.approx(7e-6)
    assert found.load_bytes_per_s == pytest.approx(12e9)
    assert found.token_s == pytest.approx(16 * 2 * (576 + 512) / 1000 * 1e-9)
    assert found.rows_s == pytest.approx(256 * 25 / 100 * 1e-9)
    assert kernels(task())[0].setup_s == pytest.approx(4e-6)


def test_elements_of_8_bits_have_the_launches_and_set_ups_of_their_kernels():
    """257 bytes of 256 elements, scales included; rows beyond the native kernel's are widened first."""
    chip = with_kernel(native_8bit_rows=4.0, launch_ratio_8bit=1.5, launch_ratio_native_8bit=0.8, setup_ratio_8bit=0.9,
                       dequantise_elements_per_cycle=100.0, dequantise_token_elements=44.0, vector_elements_per_cycle_8bit=8.0,
                       vector_item_setup_ratio_8bit=1.1)
    matrix, vector = kernels(task(bytes_per_token_head=257.0), chip=chip)
    assert matrix.setup_s == pytest.approx(3.6e-6)
    assert matrix.token_s == pytest.approx((8.192 + 3.0) * 1e-9)
    assert matrix.floor_s == pytest.approx(10e-6 * 1.5 * 0.8)
    assert vector.setup_s == pytest.approx(2.2e-6)
    assert vector.token_s == pytest.approx((256 / 8 + 0.4) * 1e-9)
    assert vector.floor_s == pytest.approx(10e-6 * 1.5 * 1.2)


def test_what_the_units_load_and_take_from_the_shared_cache():
    known = parameters_of(task())
    assert known.load_bytes_per_s == pytest.approx(20e9)
    assert known.cache_bytes_per_s == pytest.approx(30 * 100 * 1e9)
    assert (known.units, known.clock_hz, known.widened_ratio) == (100, 1e9, 1)
    bare = replace(CHIP, memory=[level for level in CHIP.memory if level.kind != "cache"])
    assert parameters_of(task(), bare).cache_bytes_per_s is None


def test_load_paths_grow_with_bandwidth_beyond_what_they_were_tuned_for_and_never_shrink():
    wide, narrow = (replace(HOME, bandwidth_bytes_per_s=HOME.bandwidth_bytes_per_s * factor) for factor in (3.0, 0.5))
    tripled, same = (parameters_of(task(), home=level) for level in (wide, narrow))
    assert tripled.load_bytes_per_s == pytest.approx(60e9)
    assert tripled.cache_bytes_per_s == pytest.approx(9e12)
    assert (same.widened_ratio, same.load_bytes_per_s) == (1, pytest.approx(20e9))
    matrix, vector = kernels(task(), home=wide)
    assert matrix.load_bytes_per_s == pytest.approx(60e9)
    assert matrix.token_s == pytest.approx(8.192e-9)  # the matrix unit stays
    assert vector.token_s == pytest.approx((256 / 10 + 0.4) * 1e-9)  # and so do the vector lanes


def test_faster_memory_converts_8_bit_elements_no_faster():
    chip = with_kernel(native_8bit_rows=0.0, dequantise_elements_per_cycle=100.0, dequantise_token_elements=44.0)
    wide = replace(HOME, bandwidth_bytes_per_s=HOME.bandwidth_bytes_per_s * 3)
    assert kernels(task(bytes_per_token_head=257.0), chip=chip, home=wide)[0].token_s == pytest.approx((8.192 + 3.0) * 1e-9)


def test_problems_of_many_sizes_are_grouped_as_each_by_itself():
    """Groupings that no limit binds for repeat the size above it, so that columns have one length."""
    sizes = np.array([1.0, 7.0, 18.0, 48.0, 67.0, 128.0, 18.0])
    together = row_groups(sizes)
    for size, column in zip(sizes, together.T, strict=True):
        assert set(column) == set(row_groups(size).ravel())
    assert np.array_equal(row_groups(np.full(5, 18.0)), row_groups(18.0))
    assert row_groups(18.0).ravel().tolist() == [18, 9, 6]
