"""Every operator of a step beside its figures written out by hand, from the published shapes of three models.

Llama 2 70B (arXiv 2307.09288): D = 8192, F = 28672, 64 query and 8 KV heads of 128, V = 32000, 80 layers. Mixtral 8x7B
(arXiv 2401.04088): D = 4096, 8 experts of 14336, 2 a token, 32 and 8 heads of 128. DeepSeek-V2 (arXiv 2405.04434):
D = 5120, 128 heads, latents of 1536 for queries and 512 for keys and values, 128 + 64 a key, 128 a value.
"""

from typing import Any

import pytest

from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS, KvPolicy, parse_eviction
from simkit.step.build import build_step
from simkit.step.operators import Operator
from simkit.step.sharding import busiest_expert_share
from simkit.step.workload import DecodeWorkload
from tests.step.machine_words import machine_words

FIGURES = ("matrix_flops", "vector_flops", "unpack_flops", "exponentials", "weight_bytes", "kv_read_bytes", "kv_reread_bytes",
           "kv_write_bytes", "activation_bytes")


def step_of(name: str, layout: str = "as-trained", **words: Any) -> Any:
    model = load_model(name)
    parsed = parse_layout(layout, model)
    words = {"q_len": 1.0, "kv_format": FORMATS["bf16"], "weight_format": FORMATS["bf16"]} | words
    return build_step(DecodeWorkload(model=model, layout=parsed, n_kv_heads=parsed.n_kv_heads, **machine_words(words)))


def one(step: Any, name: str) -> Operator:
    return next(operator for operator in step.operators if operator.name == name)


def check(operator: Operator, **expected: Any) -> None:
    """All figures that are not named are 0, and one row and one launch are what an operator has by itself."""
    for figure in FIGURES:
        assert getattr(operator, figure) == pytest.approx(expected.pop(figure, 0.0), rel=1e-12), (operator.name, figure)
    for name, default in (("count", 1), ("query_rows", 1), ("launches", 1)):
        assert getattr(operator, name) == pytest.approx(expected.pop(name, default), rel=1e-12), (operator.name, name)
    assert not expected


def product(rows: float, width_in: float, width_out: float, **more: Any) -> dict[str, Any]:
    """y = x w in 16 bits: 2 flops a weight and row, each weight once, each row in and out."""
    return {"matrix_flops": 2 * rows * width_in * width_out, "weight_bytes": 2 * width_in * width_out,
            "activation_bytes": 2 * rows * (width_in + width_out), "query_rows": rows} | more


def test_a_llama_2_70b_step_of_six_sequences_and_two_tokens_on_four_by_two_chips():
    step = step_of("llama-2-70b", batch=6.0, kv_len=1000.0, q_len=2.0, tp=4, pp=2)
    rows = 6  # two microbatches of 3 sequences with 2 tokens each
    check(one(step, "norm"), count=80, vector_flops=5 * rows * 8192, activation_bytes=4 * 2 * rows * 8192)
    check(one(step, "qkv_projection"), count=80, **product(rows, 8192, (16 + 2 * 2) * 128))
    check(one(step, "kv_append"), count=80, vector_flops=3 * rows * (16 + 2) * 128,
          kv_write_bytes=rows * 2 * (2 * 128) * 2, activation_bytes=2 * 2 * rows * (16 + 2) * 128)
    scores = 3 * 2 * 16 * 1000
    check(one(step, "attention"), count=80, matrix_flops=4 * scores * 128, vector_flops=4 * scores, exponentials=scores,
          kv_read_bytes=3 * 1000 * 2 * (2 * 128) * 2, activation_bytes=2 * 3 * 2 * 16 * (2 * 128), query_rows=2 * 8)
    check(one(step, "output_projection"), count=80, **product(rows, 16 * 128, 8192))
    check(one(step, "mlp_up"), count=80, **product(rows, 8192, 2 * 28672 / 4, vector_flops=4 * rows * 28672 / 4))
    check(one(step, "mlp_down"), count=80, **product(rows, 28672 / 4, 8192))
    check(one(step, "embedding"), weight_bytes=2 * rows * 8192 / 4, activation_bytes=2 * rows * 8192)
    check(one(step, "lm_head"), **product(rows, 8192, 32000 / 4))
    check(one(step, "sampling"), vector_flops=4 * rows * 8000, exponentials=rows * 8000, activation_bytes=8 * rows * 8000)
    assert [operator.name for operator in step.layer_operators] == [
        "norm", "qkv_projection", "kv_append", "attention", "output_projection", "norm", "mlp_up", "mlp_down"]
    assert [operator.name for operator in step.end_operators] == ["embedding", "norm", "lm_head", "sampling"]
    assert [(found.name, found.kind, float(found.count), float(found.bytes), found.chips) for found in step.collectives] == [
        ("all_reduce", "all_reduce", 161.0, 2.0 * rows * 8192, 4),
        ("gather_logits", "all_gather", 1.0, 4.0 * rows * 8000, 4),
        ("stage_hop", "send", 2.0, 2.0 * rows * 8192 / 4, 2)]


@pytest.mark.parametrize(("kernel", "rereads", "query_rows", "launches", "passes"), [
    ("grouped", 0, 8, 1, 0), ("per-query-head", 7, 1, 1, 0), ("unfused", 0, 8, 3, 4)])
def test_what_a_kernel_repeats_of_the_attention_core(kernel, rereads, query_rows, launches, passes):
    """By query head a KV head is read once more for each of its other 7 queries; unfused scores pass memory 4 times."""
    step = step_of("llama-2-70b", batch=3.0, kv_len=500.0, kernel=kernel)
    stored, scores = 3 * 500 * 8 * (2 * 128) * 2, 3 * 64 * 500
    check(one(step, "attention"), count=80, matrix_flops=4 * scores * 128, vector_flops=4 * scores, exponentials=scores,
          kv_read_bytes=stored, kv_reread_bytes=rereads * stored, query_rows=query_rows, launches=launches,
          activation_bytes=2 * 3 * 64 * (2 * 128) + passes * 2 * scores)


@pytest.mark.parametrize(("kernel", "rereads", "query_rows", "launches", "passes"), [
    ("grouped", 0, 4, 1, 0), ("per-query-head", 3, 1, 1, 0), ("unfused", 0, 4, 3, 4)])
def test_what_a_kernel_repeats_of_cross_attention(kernel, rereads, query_rows, launches, passes):
    """T5 XXL's decoder (arXiv 1910.10683): D = 4096, 64 heads of 64, 24 layers; here with 16 KV heads."""
    step = step_of("t5-v1.1-xxl", "gqa-16", batch=3.0, kv_len=10.0, encoder_len=512.0, kernel=kernel)
    stored, scores = 3 * 512 * 16 * (2 * 64) * 2, 3 * 64 * 512
    check(one(step, "cross_attention"), count=24, matrix_flops=4 * scores * 64, vector_flops=4 * scores,
          exponentials=scores, kv_read_bytes=stored, kv_reread_bytes=rereads * stored, query_rows=query_rows,
          launches=launches, activation_bytes=2 * 3 * 64 * (2 * 64) + passes * 2 * scores)
    check(one(step, "cross_q_projection"), count=24, **product(3, 4096, 64 * 64))
    check(one(step, "cross_output_projection"), count=24, **product(3, 64 * 64, 4096))


@pytest.mark.parametrize(("kernel", "times", "query_rows"), [("grouped", 1, 4), ("per-query-head", 4, 1)])
def test_a_quantised_cache_is_widened_element_by_element_once_a_reader(kernel, times, query_rows):
    """INT4 with zero points: a multiply-add an element of the encoder's keys and values, again for every other query."""
    form = FORMATS["int4"]
    step = step_of("t5-v1.1-xxl", "gqa-16", batch=3.0, kv_len=10.0, encoder_len=512.0, kernel=kernel, kv_format=form)
    for name, tokens in (("cross_attention", 512), ("attention", 10)):
        found = one(step, name)
        assert found.unpack_flops == times * 3 * 16 * tokens * (2 * 64) * 2
        assert found.query_rows == query_rows


def test_heavy_hitters_cost_a_sum_and_a_comparison_a_score():
    step = step_of("llama-2-70b", batch=3.0, kv_len=1000.0, q_len=2.0, tp=4, policy=KvPolicy(eviction=parse_eviction("h2o:50+50")))
    moved = 3 * 2 * 100 * 4
    check(one(step, "eviction_scores"), count=80, vector_flops=2 * 3 * 2 * 16 * 100, kv_read_bytes=moved, kv_write_bytes=moved)


def test_activations_in_32_bits_move_twice_the_bytes():
    wide = one(step_of("llama-2-70b", batch=3.0, kv_len=500.0, activation_dtype="fp32"), "norm")
    assert wide.activation_bytes == 4 * 4 * 3 * 8192


def test_queries_without_a_latent_of_their_own_come_from_the_hidden_state():
    """DeepSeek-V2-Lite: D = 2048, 16 heads of 128 + 64 a query."""
    step = step_of("deepseek-v2-lite", batch=3.0, kv_len=100.0)
    check(one(step, "q_up_projection"), count=1, **product(3, 2048, 16 * 192))
    assert "q_down_projection" not in {operator.name for operator in step.operators}


def test_the_experts_of_mixtral_on_two_chips():
    """Five rows choose 2 of 8 experts: 8 (1 - 0.75^5) distinct ones are read; every chip has half of each."""
    step = step_of("mixtral-8x7b", batch=5.0, kv_len=100.0, tp=2)
    distinct = 8 * (1 - 0.75**5)
    check(one(step, "router"), count=32, **product(5, 4096, 8))
    for name, matrices, gates in (("experts_up", 2, 4), ("experts_down", 1, 0)):
        check(one(step, name), count=32, matrix_flops=2 * matrices * 4096 * 5 * 2 * 14336 / 2,
              vector_flops=gates * 5 * 2 * 14336 / 2, weight_bytes=2 * matrices * 4096 * distinct * 14336 / 2,
              activation_bytes=2 * (5 * (2 + 1) * 4096 + 5 * 2 * 14336 / 2), query_rows=5 * 2 / distinct)
    dealt = step_of("mixtral-8x7b", batch=5.0, kv_len=100.0, tp=4, ep=2)
    assert [(found.name, float(found.count), float(found.bytes), found.chips) for found in (
        step.collectives[0], step.collectives[-1], dealt.collectives[0], dealt.collectives[-1])] == [
        ("all_reduce", 65.0, 2 * 5 * 4096, 2), ("stage_hop", 1.0, 2 * 5 * 4096 / 2, 1),
        # With experts dealt out each chip runs its own on all rows, and the sums are added up as before.
        ("all_reduce", 65.0, 2 * 5 * 4096, 4), ("stage_hop", 1.0, 2 * 5 * 4096 / 4, 1)]
    sent = step_of("mixtral-8x7b", batch=5.0, kv_len=100.0, tp=4, ep=2, sharding="data").collectives
    assert [(one.name, float(one.count), float(one.bytes)) for one in sent if one.kind in ("all_reduce", "combine")] == [
        # Data-parallel rows go to their experts and return, two copies of each, instead; all of the vocabulary is here.
        ("all_reduce", 0.0, 2 * 5 * 4096), ("expert_combine", 32.0, pytest.approx(
            2 * 5 * 4096 * 2 / 2 * busiest_expert_share(5, 2, 2, 8)))]


def test_experts_that_every_row_visits_are_counted_beside_the_chosen_ones():
    """DeepSeek-V2: 6 of 160 experts of 1536 and two shared ones, as one of 3072."""
    step = step_of("deepseek-v2", batch=3.0, kv_len=100.0)
    distinct = 160 * (1 - (1 - 6 / 160)**3)
    down = one(step, "experts_down")
    assert down.matrix_flops == pytest.approx(2 * 5120 * 3 * (6 * 1536 + 3072), rel=1e-12)
    assert down.weight_bytes == pytest.approx(2 * 5120 * (distinct * 1536 + 3072), rel=1e-12)
    assert down.activation_bytes == pytest.approx(2 * (3 * 7 * 5120 + 3 * (6 * 1536 + 3072)), rel=1e-12)


def test_a_layer_of_deepseek_v2_with_its_products_absorbed():
    step = step_of("deepseek-v2", batch=3.0, kv_len=100.0, tp=4)
    own, scores = 32, 3 * 32 * 100
    check(one(step, "q_down_projection"), count=1, **product(3, 5120, 1536))
    check(one(step, "q_up_projection"), count=1, **product(3, 1536, own * 192))
    check(one(step, "kv_down_projection"), count=1, **product(3, 5120, 512 + 64))
    check(one(step, "kv_append"), count=1, vector_flops=3 * 3 * (own + 1) * 64, kv_write_bytes=3 * 576 * 2,
          activation_bytes=2 * 2 * 3 * (own + 1) * 64)
    for name, width_in, width_out in (("absorb_key", 128, 512), ("absorb_value", 512, 128)):
        check(one(step, name), count=1, matrix_flops=2 * 3 * own * width_in * width_out,
              weight_bytes=2 * own * width_in * width_out, activation_bytes=2 * 3 * own * (width_in + width_out),
              query_rows=3)
    check(one(step, "attention"), count=1, matrix_flops=2 * scores * (576 + 512), vector_flops=4 * scores,
          exponentials=scores, kv_read_bytes=3 * 100 * 576 * 2, activation_bytes=2 * 3 * own * (576 + 512),
          query_rows=own)
    check(one(step, "output_projection"), count=1, **product(3, own * 128, 5120))


def test_a_layer_of_deepseek_v2_with_its_latents_expanded():
    step = step_of("deepseek-v2", "mla-expanded", batch=3.0, kv_len=100.0, tp=4)
    own, scores = 32, 3 * 32 * 100
    check(one(step, "expand_latent"), count=1, matrix_flops=2 * 300 * 512 * own * (128 + 128),
          weight_bytes=2 * 512 * own * (128 + 128), activation_bytes=2 * 2 * 300 * own * (128 + 128), query_rows=300)
    check(one(step, "attention"), count=1, matrix_flops=2 * scores * (192 + 128), vector_flops=4 * scores,
          exponentials=scores, kv_read_bytes=3 * 100 * 576 * 2, activation_bytes=2 * 3 * own * (192 + 128))
    assert {operator.name for operator in step.layer_operators} & {"absorb_key", "absorb_value"} == set()
