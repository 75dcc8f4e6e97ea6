"""Prompts as operators: causal pairs counted by hand, chunks that add up to the whole, and the flops of a forward pass."""

import numpy as np
import pytest

from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS
from simkit.step.prefill import causal_pairs, prefill_attention
from simkit.step.workload import DecodeWorkload
from tests.step.machine_words import machine_words


def workload(name="llama-3.1-8b", layout="as-trained", **changes):
    model = load_model(name)
    parsed = parse_layout(layout, model)
    return DecodeWorkload(model=model, layout=parsed, n_kv_heads=parsed.n_kv_heads, batch=1, kv_len=1, q_len=1,
                          kv_format=FORMATS["bf16"], weight_format=FORMATS["bf16"], **machine_words(changes))


@pytest.mark.parametrize("most", [np.inf, 1, 5, 64])
@pytest.mark.parametrize(("chunk", "end"), [(1, 1), (7, 7), (3, 20), (20, 23)])
def test_pairs_are_those_counted_one_by_one(chunk, end, most):
    counted = sum(min(position, most) for position in range(end - chunk + 1, end + 1))
    assert causal_pairs(chunk, end, most) == counted


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite"])
def test_chunks_of_a_prompt_compute_what_the_prompt_does(name):
    given = workload(name)

    def flops(chunk, end):
        return sum(op.count * op.matrix_flops for op in prefill_attention(given, chunk, end)
                   if op.name == "prefill_attention")

    whole = flops(3000, 3000)
    assert sum(flops(1000, end) for end in (1000, 2000, 3000)) == pytest.approx(whole, rel=1e-12)


def test_causal_attention_costs_half_of_what_all_pairs_would():
    """4 n_q d N^2 L / 2 for large N (FlashAttention's count of causal flops)."""
    given = workload()
    (core,) = prefill_attention(given, 8192, 8192)
    assert core.count * core.matrix_flops == pytest.approx(32 * 4 * 32 * 128 * 8192**2 / 2, rel=1e-3)


def test_tensor_parallel_chips_share_the_heads_of_a_prompt():
    (alone,), (shared,) = prefill_attention(workload(), 512, 512), prefill_attention(workload(tp=8), 512, 512)
    assert alone.matrix_flops == 8 * shared.matrix_flops


def test_a_sliding_window_bounds_what_a_prompt_reads():
    cores = prefill_attention(workload("gemma-2-9b"), 1024, 65536)
    assert min(float(core.kv_read_bytes) for core in cores) < 0.1 * max(float(core.kv_read_bytes) for core in cores)


def test_a_chunk_of_deepseek_v2_by_hand():
    """600 new tokens after 1400 on four chips in two stages, each of which works on half of the chunk (arXiv 2405.04434)."""
    given = workload("deepseek-v2", tp=4, pp=2)
    core, expand, *_ = prefill_attention(given, 600, 2000)
    heads, pairs = 128 / 4, 600 * 1400 + 600 * 601 / 2
    assert core.matrix_flops == pytest.approx(2 * heads * pairs * (192 + 128) / 2, rel=1e-12)
    assert core.vector_flops == pytest.approx(4 * heads * pairs / 2, rel=1e-12)
    assert core.exponentials == pytest.approx(heads * pairs / 2, rel=1e-12)
    assert core.kv_read_bytes == pytest.approx(2000 * 576 * 2 / 2, rel=1e-12)
    assert core.activation_bytes == pytest.approx(600 * heads * (192 + 128) * 2 / 2, rel=1e-12)
    assert core.query_rows == 600 * heads
    # Latents of earlier chunks are multiplied up once more; the up-projections are read for them.
    earlier, width = 1400 / 2, heads * (128 + 128)
    assert expand.matrix_flops == pytest.approx(2 * earlier * 512 * width, rel=1e-12)
    assert expand.weight_bytes == pytest.approx(512 * width * 2, rel=1e-12)
    assert expand.activation_bytes == pytest.approx(2 * earlier * width * 2, rel=1e-12)
    assert expand.query_rows == earlier
    _, first, *_ = prefill_attention(given, 600, 600)
    assert (first.matrix_flops, first.weight_bytes, first.activation_bytes, first.query_rows) == (0, 0, 0, 1)


def test_a_chunk_under_a_window_reads_the_window_before_it():
    """Gemma 2 9B (arXiv 2408.00118): 16 heads and 8 KV heads of 256, every other layer sees 4096 tokens."""
    local, whole = sorted(prefill_attention(workload("gemma-2-9b"), 1000, 20000), key=lambda core: float(core.kv_read_bytes))
    assert local.kv_read_bytes == (4096 + 1000) * 8 * 2 * 256 * 2
    assert whole.kv_read_bytes == 20000 * 8 * 2 * 256 * 2
    assert local.matrix_flops == 4 * 16 * 256 * 1000 * 4096
    assert (local.count, whole.count) == (21, 21)
    assert local.query_rows == 1000 * 2


def test_heads_in_place_of_a_latent_leave_nothing_to_expand():
    (core, *more) = prefill_attention(workload("deepseek-v2-lite", "gqa-4"), 600, 2000)
    assert {operator.name for operator in (core, *more)} == {"prefill_attention"}


def test_an_empty_chunk_does_nothing():
    (core,) = prefill_attention(workload(), 0, 1000)
    assert (core.matrix_flops, core.activation_bytes, core.query_rows) == (0, 0, 4)  # a row of each query of a group


@pytest.mark.parametrize("sharding", ["batch", "context"])
def test_chips_that_deal_out_the_cache_deal_out_a_chunk(sharding):
    """MQA on four chips: all heads on each, a quarter of the chunk's work and of the cache."""
    (alone,), (dealt,) = (prefill_attention(workload("llama-3.1-8b", "mqa", **split), 600, 2000)
                          for split in ({}, {"tp": 4, "sharding": sharding}))
    for figure in ("matrix_flops", "exponentials", "kv_read_bytes", "activation_bytes"):
        assert getattr(dealt, figure) == pytest.approx(getattr(alone, figure) / 4, rel=1e-12)
