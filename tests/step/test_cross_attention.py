"""Cross-attention of an encoder-decoder: what it reads of the encoder's tokens, and what grouping does to it."""

from dataclasses import replace

import pytest

from simkit.foundation.errors import UserError
from simkit.step.build import build_step, step_totals
from simkit.step.placement import cached_bytes_per_sequence, demand
from simkit.study.point import decode_step
from tests.reference.dense_attention import Case, execute
from tests.step.test_operators import workload_of

T5 = "t5-v1.1-xxl"


def cross_of(workload):
    (operator,) = (op for op in build_step(workload).operators if op.name == "cross_attention")
    return operator


@pytest.mark.parametrize(("layout", "kv_heads"), [("mha", 64), ("gqa-8", 8), ("mqa", 1)])
@pytest.mark.parametrize(("sharding", "tp"), [("heads", 1), ("heads", 8), ("batch", 4), ("context", 8)])
@pytest.mark.parametrize("kernel", ["grouped", "per-query-head"])
def test_cross_attention_reads_the_encoder_s_keys_and_values_as_execution_does(layout, kv_heads, sharding, tp, kernel):
    # T5 1.1 XXL: 64 heads of 64 elements; three sequences of 24 encoder tokens.
    workload = replace(workload_of(T5, layout, batch=3.0, tp=float(tp), sharding=sharding), encoder_len=24.0, kernel=kernel)
    counted = execute(Case(n_q=64, n_kv=kv_heads, head_dim=64, lengths=(24, 24, 24), sharding=sharding, chips=tp, kernel=kernel)).chips
    operator = cross_of(workload)
    assert operator.kv_read_bytes == max(chip.bytes("cache.read") for chip in counted)
    assert operator.kv_reread_bytes == max(chip.bytes("cache.reread") for chip in counted)
    assert operator.matrix_flops == max(chip["attention.flops"] for chip in counted)
    assert operator.activation_bytes == max(chip.bytes("query.read", "output.write") for chip in counted)
    assert operator.kv_write_bytes == 0


def test_the_encoder_s_cache_is_stored_and_counted_beside_the_decoder_s():
    # 24 layers x 64 heads x 2 x 64 elements x 2 bytes = 393 216 bytes a token, 512 of the encoder and 100 of the decoder.
    workload = replace(workload_of(T5, "mha", kv_len=100.0), encoder_len=512.0)
    assert cached_bytes_per_sequence(workload) == 393216 * 612
    assert demand(workload).kv_bytes == 393216 * 612
    assert step_totals(build_step(workload)).kv_read_bytes == 393216 * 612
    assert step_totals(build_step(workload)).kv_write_bytes == 393216  # nothing is appended to the encoder's


def test_an_encoder_is_held_beside_the_decoder():
    assert demand(workload_of(T5)).weight_bytes == pytest.approx(2 * 11.3e9, rel=0.03)  # google/t5-v1_1-xxl: 11 B


def test_grouping_speeds_cross_attention_too():
    point = {"attention": ["mha", "gqa-8"], "batch": 32, "kv_len": 256, "chips": 8, "encoder_len": 2048}
    step = decode_step("tpu-v4", T5, **point)
    assert step["kv_cache_bytes"].tolist() == [393216 * 2304 * 32, 393216 * 2304 * 32 / 8]
    assert step["step_time_s"][0] > 1.5 * step["step_time_s"][1]


def test_a_decoder_alone_has_no_encoder_tokens():
    with pytest.raises(UserError, match="llama-2-70b has no cross-attention"):
        decode_step("h100-sxm", "llama-2-70b", encoder_len=512)
    with pytest.raises(UserError, match="encoder_len 0: expected a whole number"):
        decode_step("h100-sxm", T5, encoder_len=0)
