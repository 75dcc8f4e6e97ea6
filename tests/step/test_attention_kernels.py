"""What an attention kernel pays besides the cache: repeated reads, passes through memory, widening, padding, upkeep."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.kv_cache import FORMATS, parse_eviction, parse_paging
from simkit.step.build import build_step
from simkit.step.operators import Operator
from simkit.step.workload import DecodeWorkload
from simkit.study.point import decode_step
from simkit.timing.roofs import compute_time_s
from tests.step.test_operators import attention_of, workload_of

GROUPED = workload_of("llama-2-70b", "gqa-8", batch=4.0)


def with_kernel(kernel: str, base: DecodeWorkload = GROUPED) -> Operator:
    return attention_of(replace(base, kernel=kernel))


def test_a_kernel_by_query_head_reads_a_kv_head_once_for_each_of_its_queries():
    grouped, apart = with_kernel("grouped"), with_kernel("per-query-head")
    assert grouped.kv_reread_bytes == 0
    assert apart.kv_read_bytes + apart.kv_reread_bytes == 8 * grouped.kv_read_bytes
    assert apart.matrix_flops == grouped.matrix_flops
    assert (grouped.query_rows, apart.query_rows) == (8, 1)


def test_an_unfused_kernel_passes_scores_and_probabilities_through_memory_twice_each():
    # FlashAttention (arXiv 2205.14135) saves exactly these: 4 x B n_q N elements of 2 bytes.
    saved = with_kernel("unfused").activation_bytes - with_kernel("grouped").activation_bytes
    assert saved == 4 * 4 * 64 * 4096 * 2
    assert with_kernel("unfused").launches == 3


def test_unfused_attention_grows_with_the_context_beside_the_cache_as_mqa_shrinks_it():
    # MQA's cache is 2 x 128 elements a token, 64 heads' scores and probabilities 256: the passes double the traffic.
    operator = with_kernel("unfused", workload_of("llama-2-70b", "mqa"))
    assert (operator.activation_bytes - with_kernel("grouped").activation_bytes / 4) == operator.kv_read_bytes


@pytest.mark.parametrize(("keys", "values", "flops"), [("bf16", "bf16", 0), ("int4", "bf16", 256), ("int4", "int4", 512),
                                                       ("bf16", "fp8", 128)])
def test_widening_costs_a_conversion_or_a_multiply_add_for_each_element_that_is_stored_narrow(keys, values, flops):
    narrow = attention_of(replace(GROUPED, kv_format=FORMATS[keys], value_format=FORMATS[values]))
    assert narrow.unpack_flops == 4 * 8 * 4096 * flops


def test_a_kernel_by_query_head_widens_again_for_each_query():
    int4 = replace(GROUPED, kv_format=FORMATS["int4"])
    assert with_kernel("per-query-head", int4).unpack_flops == 8 * with_kernel("grouped", int4).unpack_flops


def test_h2o_reads_and_writes_a_score_for_each_kept_token_and_kv_head_and_streaming_none():
    def upkeep(rule: str) -> list[Operator]:
        policy = replace(GROUPED.policy, eviction=parse_eviction(rule))
        return [op for op in build_step(replace(GROUPED, policy=policy)).operators if op.name == "eviction_scores"]

    (scores,) = upkeep("h2o:512+512")
    assert scores.kv_read_bytes == scores.kv_write_bytes == 4 * 8 * 1024 * 4  # sequences x KV heads x tokens x fp32
    assert upkeep("streaming:4+1020") == upkeep("snapkv:1024+256") == []


@pytest.mark.parametrize(("page", "pages"), [(16, 256), (64, 64), (4096, 1)])
def test_a_paged_kernel_reads_four_bytes_a_page_a_sequence_and_layer(page, pages):
    paged = attention_of(replace(GROUPED, policy=replace(GROUPED.policy, paging=parse_paging(page, None))))
    assert paged.kv_read_bytes - attention_of(GROUPED).kv_read_bytes == 4 * pages * 4


def test_queries_per_cache_byte_grow_with_the_tokens_a_step_verifies_until_the_ridge():
    # Leviathan et al. (arXiv 2211.17192): a verification costs about a step while memory binds. 8 grouped heads x 5 rows
    # are 40 flops a byte in bf16, far below an H100's ridge of 295; 8 x 200 are beyond it.
    times = decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=64, kv_len=8192, q_len=[1, 5, 200], chips=8)
    one, five, many = times["attention_time_s"]
    assert five == pytest.approx(one, rel=0.05)
    assert many > 4 * one
    assert times["arithmetic_intensity"].tolist() == [8, 40, 1600]


def test_rows_pad_to_the_tile_and_fall_back_to_the_vector_unit_when_that_loses():
    chip = load_hardware("h100-sxm")
    tile, matrix = chip.compute.matrix_tile_rows, chip.compute.matrix_achievable_flop_per_s("bf16")
    vector = chip.compute.vector_peak_flop_per_s
    rows = np.array([1.0, tile / 2, tile, tile + 1, 2 * tile])
    operator = Operator(name="x", count=1, matrix_flops=1e12 * rows, query_rows=rows)
    padded = 1e12 * np.ceil(rows / tile) * tile / matrix
    np.testing.assert_allclose(compute_time_s(operator, chip), np.minimum(padded, 1e12 * rows / vector), rtol=1e-12)


def test_expanded_latents_are_read_once_and_no_two_queries_share_a_key():
    workload = workload_of("deepseek-v2", "mla-expanded", q_len=3.0)
    for kernel in ("grouped", "per-query-head"):
        for operator in build_step(replace(workload, kernel=kernel)).attention_operators:
            assert (operator.kv_reread_bytes, operator.query_rows) == (0, 3)
            assert operator.kv_read_bytes == 4096 * 576 * 2
            assert operator.matrix_flops == 2 * 3 * 128 * 4096 * (192 + 128)
