"""Exact flops and bytes of a step, against the arithmetic of model.md section 1 and of the papers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.architecture import count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.mixture import distinct_experts
from simkit.step.placement import cached_bytes_per_sequence
from simkit.step.sharding import shard_heads
from simkit.step.workload import DecodeWorkload
from simkit.timing.roofs import compute_time_s
from tests.step.machine_words import machine_words


def workload_of(model_name: str, layout: str = "as-trained", batch: float = 1.0, kv_len: float = 4096.0,
                q_len: float = 1.0, kv: str = "bf16", **split) -> DecodeWorkload:
    model = load_model(model_name)
    chosen = parse_layout(layout, model)
    return DecodeWorkload(model=model, layout=chosen, n_kv_heads=chosen.n_kv_heads, batch=batch, kv_len=kv_len,
                          q_len=q_len, kv_format=FORMATS[kv], weight_format=FORMATS["bf16"], **machine_words(split))


def attention_of(workload: DecodeWorkload):
    (operator,) = [op for op in build_step(workload).operators if op.attention is not None]
    return operator


@pytest.mark.parametrize(("layout", "cache_bytes"), [("mha", 10737418240), ("gqa-8", 1342177280), ("mqa", 167772160)])
def test_llama_2_70b_cache_at_4096_tokens_is_exact(layout, cache_bytes):
    # 80 layers x n_kv x 4096 tokens x 128 x (K and V) x 2 bytes: model.md section 2.
    workload = workload_of("llama-2-70b", layout)
    operator = attention_of(workload)
    assert operator.count * operator.kv_read_bytes == cache_bytes
    assert cached_bytes_per_sequence(workload) == cache_bytes


@pytest.mark.parametrize(("layout", "intensity"), [("mha", 1), ("gqa-8", 8), ("mqa", 64)])
def test_attention_intensity_of_64_query_heads_in_bf16_is_the_group_size(layout, intensity):
    operator = attention_of(workload_of("llama-2-70b", layout, batch=7.0, kv_len=777.0))
    assert operator.matrix_flops / operator.kv_read_bytes == intensity


def test_verifying_draft_tokens_raises_the_intensity_by_their_number():
    one, five = (attention_of(workload_of("llama-2-70b", "gqa-8", q_len=q)) for q in (1.0, 5.0))
    assert five.kv_read_bytes == one.kv_read_bytes
    assert five.matrix_flops == 5 * one.matrix_flops


def test_deepseek_v2_reads_its_latent_once_at_about_242_flops_a_byte():
    # 2 x 128 heads x (2 x 512 + 64) flops over (512 + 64) x 2 bytes a token: model.md section 3.
    for operator in (op for op in build_step(workload_of("deepseek-v2")).operators if op.attention is not None):
        assert operator.matrix_flops / operator.kv_read_bytes == pytest.approx(2 * 128 * (2 * 512 + 64) / (576 * 2))
        assert operator.matrix_flops / operator.kv_read_bytes == pytest.approx(242, rel=0.003)


@pytest.mark.parametrize(("name", "layout"), [
    *itertools.product(["llama-2-70b", "gpt-3-175b", "palm-540b", "llama-3-8b"], ["mha", "gqa-8", "mqa"]),
    ("falcon-7b", "mha"), ("falcon-7b", "mqa"),  # 71 query heads: no eight groups
])
def test_a_step_reads_every_weight_once_and_multiplies_twice_per_row(name, layout):
    model = load_model(name)
    workload = workload_of(name, layout, batch=3.0)
    step = build_step(workload)
    gemms = [op for op in step.operators if op.matrix_flops != 0.0 and op.attention is None]
    weights = sum(op.count * op.weight_bytes for op in gemms) / 2
    count = count_parameters(model, parse_layout(layout, model))
    embedding = model.vocab_size * model.hidden_size
    tables = (0 if model.tied_embeddings else embedding) + model.learned_positions * model.hidden_size
    assert weights == count.total - tables
    assert sum(op.count * op.matrix_flops for op in gemms) == pytest.approx(2 * 3 * weights)


def test_mla_and_experts_read_every_weight_once_when_every_expert_is_chosen():
    model = load_model("deepseek-v2")
    step = build_step(workload_of("deepseek-v2", batch=1e8))
    read = sum(op.count * op.weight_bytes for op in step.operators if op.name != "embedding") / 2
    count = count_parameters(model, parse_layout("mla", model))
    assert read == pytest.approx(count.total - model.vocab_size * model.hidden_size, rel=1e-9)


def test_expected_distinct_experts_meet_both_ends():
    # One row chooses exactly k; many rows choose all; 8 experts, top 2, 2 rows: 8 (1 - (6/8)^2) = 3.5.
    assert distinct_experts(8, 2, 1) == pytest.approx(2)
    assert distinct_experts(8, 2, 2) == pytest.approx(3.5)
    assert distinct_experts(128, 8, 1e6) == pytest.approx(128)


@pytest.mark.parametrize(("n_kv", "ways", "per_chip", "copies"),
                         [(64, 8, 8, 1), (8, 8, 1, 1), (8, 16, 1, 2), (1, 8, 1, 8), (2, 8, 1, 4), (4, 8, 1, 2)])
def test_kv_heads_replicate_once_chips_outnumber_them(n_kv, ways, per_chip, copies):
    heads = shard_heads(64, n_kv, ways, static=False)
    assert (heads.kv_per_chip, heads.copies) == (per_chip, copies)


def test_uneven_groups_hold_every_kv_head_that_a_chips_queries_touch():
    # 48 query heads on 6 KV heads over 4 chips: chip 0 holds queries 0-11, which touch KV heads 0 and 1.
    assert shard_heads(48, 6, 4, static=False).kv_per_chip == 2
    # By brute force over all chips, for every shape of up to 24 heads.
    for n_q in range(1, 25):
        for n_kv in (k for k in range(1, n_q + 1) if n_q % k == 0):
            for ways in (w for w in range(1, n_q + 1) if n_q % w == 0):
                own, group = n_q // ways, n_q // n_kv
                touched = max(len({q // group for q in range(c * own, (c + 1) * own)}) for c in range(ways))
                assert shard_heads(n_q, n_kv, ways, static=False).kv_per_chip == touched


def test_sliding_window_layers_read_at_most_their_window():
    long, short = (attention_bytes("mistral-7b", kv_len=n) for n in (32768.0, 4096.0))
    assert long == short
    assert attention_bytes("mistral-7b", kv_len=100.0) == pytest.approx(short * 100 / 4096)


def attention_bytes(name: str, kv_len: float) -> float:
    operators = build_step(workload_of(name, kv_len=kv_len)).operators
    return float(sum(op.count * op.kv_read_bytes for op in operators))


@pytest.mark.parametrize(("kv", "bits"), [("bf16", 16), ("fp8", 8), ("int4", 4.5), ("int2", 3.0)])
def test_quantised_caches_carry_their_scales(kv, bits):
    # int4: group 64, fp16 scale and zero point: 4 + 32/64 bits; int2: group 32: 2 + 32/32 bits (KIVI).
    assert FORMATS[kv].bytes_per_element * 8 == bits
    assert attention_of(workload_of("llama-2-70b", "mha", kv=kv)).kv_read_bytes * 80 == 10737418240 * bits / 16


def test_arrays_of_heads_and_chips_broadcast_in_one_step():
    model = load_model("llama-2-70b")
    workload = DecodeWorkload(
        model=model, layout=parse_layout("mha", model), n_kv_heads=np.array([64, 8, 1])[:, None], batch=1.0,
        kv_len=4096.0, q_len=1.0, kv_format=FORMATS["bf16"], weight_format=FORMATS["bf16"],
        machine=Machine.split(tp=np.array([1.0, 8.0])))
    read = attention_of(workload).kv_read_bytes * 80
    assert read.tolist() == [[10737418240, 1342177280], [1342177280, 167772160], [167772160, 167772160]]


def test_a_cache_in_the_matrix_units_own_format_is_not_widened():
    fp8, int4 = (attention_of(workload_of("llama-2-70b", "mqa", kv=kv)) for kv in ("fp8", "int4"))
    # One conversion an fp8 element, a multiply-add with scale and zero point an int4 element; 4096 tokens x 256.
    assert (fp8.unpack_flops, int4.unpack_flops) == (4096 * 256, 2 * 4096 * 256)
    h100, a100, groq = (load_hardware(name) for name in ("h100-sxm", "a100-sxm-80gb", "groq-lpu"))
    without = replace(fp8, unpack_flops=0.0)
    assert compute_time_s(fp8, h100) == compute_time_s(without, h100)  # H100 multiplies fp8
    for chip in (a100, groq):
        assert compute_time_s(fp8, chip) >= compute_time_s(without, chip)
    assert compute_time_s(int4, h100) >= compute_time_s(replace(int4, unpack_flops=0.0), h100)
