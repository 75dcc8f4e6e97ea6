"""The vectorised closed forms equal the plain ones, one problem at a time, on every chip that has kernel figures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.evidence.silicon.product_rows import weights_in_main_memory
from simkit.step.operators import AttentionTask, Operator, ProductTask
from simkit.timing import attention_kernel
from simkit.timing.attention_kernel import kernel_time
from simkit.timing.products import launch_floor_s, moved_bytes, streamed_times
from simkit.timing.products import product_s as kernel_s
from simkit.timing.step_timing import COMPUTE, LOAD_PATH
from tests.reference.measured_kernels import Problem, grouped_product_s, product_s, ways
from tests.reference_data import shipped_chips

CHIPS = [chip for chip in shipped_chips().values() if chip.kernel is not None and chip.compute.clock_hz is not None]
MEASURED = [chip for chip in CHIPS if chip.kernel.gemm is not None]
KERNELS = ("grouped", "grouped-unsplit", "unfused", "per-query-head")
GROUPS = (1, 2, 3, 4, 7, 8, 16, 18, 24, 34, 48, 64, 66, 96, 128)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    head_dim = draw(st.sampled_from([64, 128, 256]))
    latent = draw(st.integers(0, 4)) == 0
    keys, values = (576, 512) if latent else (head_dim, head_dim)
    cached = 576 if latent else 2 * head_dim
    width = draw(st.sampled_from([1.0, 1.03125, 2.0]))
    return Problem(
        sequences=draw(st.sampled_from([1, 2, 5, 16, 64, 300])), kv_heads=draw(st.sampled_from([1, 2, 8, 32])),
        query_rows=draw(st.sampled_from(GROUPS)), tokens=draw(st.integers(1, 9000)), key_dim=keys, value_dim=values,
        latent=latent, cached_elements=cached, token_bytes=width * cached,
        hit_share=draw(st.sampled_from([0.0, 0.3, 1.0])), kernel=draw(st.sampled_from(KERNELS)))


def task_of(problem: Problem) -> AttentionTask:
    return AttentionTask(
        sequences=problem.sequences, kv_heads=problem.kv_heads, query_rows=problem.query_rows, tokens=problem.tokens,
        key_dim=problem.key_dim, value_dim=problem.value_dim, latent=problem.latent,
        arrays=1 if problem.latent else 2, cached_elements=problem.cached_elements, bytes_per_token_head=problem.token_bytes, kernel=problem.kernel, page=1,
        length_factors=(1.0,))


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
@given(problem=problems(), alone=st.booleans(), faster=st.sampled_from([1.0, 0.5, 3.0]),
       limits=st.sampled_from([(1.0, np.inf, np.inf), (2.0, 8.0, 16.0), (16.0, 64.0, 4.0)]))
def test_attention_takes_the_best_of_all_mappings(chip, problem, alone, faster, limits):
    least, most, vector = limits  # groups that a library's kernels exist for
    kernel = replace(chip.kernel, matrix_least_group=least, matrix_most_group=most, vector_most_group=vector)
    chip, bandwidth = replace(chip, kernel=kernel), faster * float(chip.main_memory.chip_bandwidth_bytes_per_s)
    found = kernel_time(task_of(problem), chip, kernel, bandwidth, hit_share=problem.hit_share, alone=alone,
                        item_rows=1.0 if problem.kernel == "per-query-head" else None)
    every = sorted(ways(problem, chip, bandwidth, alone=alone), key=lambda way: way.body_s + way.floor_s)
    best = every[0]
    floor_s = float(found.floor_s) if alone else 0.0
    assert float(found.body_s) + floor_s == pytest.approx(best.body_s + best.floor_s, rel=1e-9)
    if not any(way.body_s + way.floor_s < (best.body_s + best.floor_s) * (1 + 1e-9) for way in every[1:]):
        assert float(found.body_s) == pytest.approx(best.body_s, rel=1e-9)
        assert float(found.unit_s[COMPUTE]) == pytest.approx(best.tokens_s if best.computing else 0.0, rel=1e-9)
        assert float(found.unit_s[LOAD_PATH]) == pytest.approx(0.0 if best.computing else best.tokens_s, rel=1e-9)
        levels = [seconds for name, seconds in found.unit_s.items() if name not in (COMPUTE, LOAD_PATH)]
        assert max(map(float, levels)) == pytest.approx(best.memory_s, rel=1e-9)


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
@pytest.mark.parametrize("seed", range(8))
def test_a_search_that_leaves_mappings_out_finds_what_all_of_them_at_once_give(chip, seed, monkeypatch):
    random = np.random.default_rng(seed)
    count, kind = 60, KERNELS[seed % 4]
    sizes = random.choice(GROUPS, count) if seed % 3 else np.full(count, random.choice(GROUPS))
    keys, values, cached = ((576, 512, 576), (128, 128, 256))[seed % 2]
    task = AttentionTask(
        sequences=random.choice([1.0, 2, 5, 16, 64, 300], count), kv_heads=random.choice([1.0, 2, 8, 32], count),
        query_rows=sizes.astype(float), tokens=np.floor(2 ** random.uniform(0, 17, count)) + 1, key_dim=keys,
        value_dim=values, latent=cached == keys, arrays=1 + (cached > keys),
        cached_elements=cached, kernel=kind, page=1, length_factors=(1.0,),
        bytes_per_token_head=random.choice([1.0, 1.03125, 2.0], count) * cached)
    library = random.integers(0, len(chip.kernel.libraries), count) if chip.kernel.libraries and seed > 3 else None
    kernel = chip.kernel if library is None else chip.kernel.for_libraries(library)

    def found(few):
        monkeypatch.setattr(attention_kernel, "FEW_PROBLEMS", few)
        return kernel_time(task, chip, kernel, chip.main_memory.chip_bandwidth_bytes_per_s, alone=seed % 4 > 1,
                           hit_share=random.random(), item_rows=1.0 if kind == "per-query-head" else None)

    state = random.bit_generator.state
    at_once = found(count)
    random.bit_generator.state = state
    searched = found(0)
    for name in at_once.unit_s:
        np.testing.assert_allclose(searched.unit_s[name], at_once.unit_s[name], rtol=1e-12)
    np.testing.assert_allclose(searched.body_s, at_once.body_s, rtol=1e-12)
    np.testing.assert_allclose(searched.floor_s, at_once.floor_s, rtol=1e-12)


def test_many_problems_at_once_are_the_same_as_one_by_one():
    (chip,) = [chip for chip in CHIPS if chip.name == "h100-sxm"]
    rows, tokens = np.meshgrid(np.array(GROUPS, float), np.array([100.0, 5000.0]))
    problem = Problem(sequences=4, kv_heads=8, query_rows=1, tokens=1, key_dim=128, value_dim=128, latent=False,
                      cached_elements=256, token_bytes=256.0)
    bandwidth = chip.main_memory.chip_bandwidth_bytes_per_s
    together = kernel_time(replace(task_of(problem), query_rows=rows, tokens=tokens), chip, chip.kernel, bandwidth, alone=True)
    for place in np.ndindex(rows.shape):
        alone = kernel_time(replace(task_of(problem), query_rows=rows[place], tokens=tokens[place]), chip, chip.kernel,
                            bandwidth, alone=True)
        assert together.body_s[place] == alone.body_s
        assert together.floor_s[place] == alone.floor_s


def product_operator(m, n, k, element_bytes, *, batches=1.0, weight_bytes=None, **task):
    return Operator(name="product", count=1, weight_bytes=batches * n * k * (weight_bytes or element_bytes), query_rows=m,
                    dtype="fp8" if element_bytes < 2 else "bf16",
                    product=ProductTask(m=m, n=n, k=k, batches=batches, weight_bytes=weight_bytes or element_bytes,
                                        input_bytes=element_bytes, **task))


@pytest.mark.parametrize("chip", MEASURED, ids=lambda chip: chip.name)
@given(m=st.integers(1, 5000), n=st.integers(1, 30_000), k=st.integers(1, 30_000), hit_share=st.sampled_from([0.0, 0.4, 1.0]),
       dtype=st.sampled_from(["bf16", "fp8"]))
def test_a_product_takes_the_best_of_all_tiles_and_pieces(chip, m, n, k, hit_share, dtype):
    element_bytes = {"bf16": 2.0, "fp8": 1.0}[dtype]
    task = product_operator(float(m), float(n), float(k), element_bytes).product
    moved_s = moved_bytes(task) * (1 - hit_share) / chip.main_memory.chip_bandwidth_bytes_per_s
    gemm = chip.kernel.gemm
    found = (launch_floor_s(task, chip, gemm) + kernel_s(task, dtype, chip, gemm, moved_s / gemm.dram_achieved_fraction).body_s
             + gemm.dram_ramp_ratio * (chip.main_memory.latency_s or 0) * (1 - hit_share))
    assert float(found) == pytest.approx(product_s(m, n, k, dtype, element_bytes, chip, hit_share), rel=1e-9)


@pytest.mark.parametrize("chip", MEASURED, ids=lambda chip: chip.name)
@given(m=st.lists(st.integers(1, 2500), min_size=1, max_size=9), n=st.integers(1, 30_000), k=st.integers(1, 30_000),
       batches=st.sampled_from([1.0, 3.0, 16.0]))
def test_many_rows_at_once_are_the_same_as_one_by_one(chip, m, n, k, batches):
    """Above 2048 rows nothing is looked up, and with widths as arrays neither: all three ways give one answer."""
    def found(rows, width):
        operator = product_operator(rows, width, float(k), 2.0, batches=batches)
        return streamed_times(operator, weights_in_main_memory(chip), chip).total_s

    rows = np.array(m, dtype=float)
    together = found(rows, float(n))
    np.testing.assert_allclose(found(rows, np.full(rows.shape, float(n))), together, rtol=1e-12)
    for place, one in enumerate(rows.tolist()):
        assert float(found(one, float(n))) == together[place]


@pytest.mark.parametrize("chip", MEASURED, ids=lambda chip: chip.name)
@given(m=st.floats(0.05, 600), n=st.integers(1, 30_000), k=st.integers(1, 30_000), experts=st.floats(1, 400),
       formats=st.sampled_from([(2.0, 2.0), (1.0, 1.0), (2.0, 0.5625)]), copies=st.sampled_from([0.0, 1e5, 3e8]))
def test_a_mixture_takes_the_best_of_all_tiles(chip, m, n, k, experts, formats, copies):
    element_bytes, weight_bytes = formats
    operator = product_operator(m, float(n), float(k), element_bytes, batches=experts, weight_bytes=weight_bytes,
                                grouped=True, routed_bytes=copies)
    found = streamed_times(operator, weights_in_main_memory(chip), chip)
    expected = grouped_product_s(m, n, k, experts, operator.dtype, element_bytes, weight_bytes, copies, chip)
    assert float(found.body_s) == pytest.approx(expected, rel=1e-9)
    assert found.total_s == found.launch_s + max(found.body_s, found.highest_roof_s)
