"""decode_step: broadcasting, fitting chips, comparison on the same machine, and the step speed-ups of the brief."""

from dataclasses import replace

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.study.record import FIELDS, to_records

# A machine on which only memory takes time.
IDEAL = {"overheads.kernel_launch": "0 s", "links.scale_up.latency": "0 s", "links.scale_up.bandwidth": "1 EB/s",
         "compute.matrix.peak.bf16": "90 PFLOP/s", "compute.special_rate": "1 Eop/s", "memory.l2.bandwidth": "1 PB/s",
         "memory.hbm.capacity": "8 TB"}


def test_every_field_of_the_contract_is_there_and_has_the_broadcast_shape():
    result = simkit.decode_step("h100-sxm", "llama-2-70b", attention=[["mha"], ["mqa"]], batch=[1, 8, 32], kv_len=4096)
    assert set(result) == set(FIELDS)
    assert all(column.shape == (2, 3) for column in result.values())
    assert len(to_records(result)) == 6


@pytest.mark.parametrize(("batch", "speedup"), [(1, 1.2), (16, 2.1), (64, 3.8), (256, 6.0)])
def test_an_8x_smaller_cache_speeds_the_step_as_bytes_alone_say(batch, speedup):
    # The brief: 1.2x at batch 1, 2.1x at 16, 3.8x at 64, 6.0x at 256, for the same weights. GQA-8's own K/V
    # projections are 12 % of MHA's weights fewer (68.98 against 78.37 billion), which counts most at small batches.
    # Without what kernels cost: load paths and tiles stand between a chip and its bytes.
    ideal = replace(simkit.load_hardware("h100-sxm", overrides=IDEAL), kernel=None)
    result = simkit.decode_step(ideal, "llama-2-70b", attention=["mha", "gqa-8"], batch=batch, kv_len=4096, chips=8, tp=8)
    assert result["speedup_vs_mha"][1] == pytest.approx(speedup, rel=0.08)


def test_compared_layouts_run_on_the_same_chips_unless_each_may_choose():
    together = simkit.decode_step("h100-sxm", "llama-2-70b", attention=["mha", "mqa"], batch=32, kv_len=4096)
    assert together["chips"][0] == together["chips"][1] == 8
    apart = simkit.decode_step("h100-sxm", "llama-2-70b", attention=["mha", "mqa"], batch=32, kv_len=4096,
                               chips="fit-each")
    assert apart["chips"][1] < apart["chips"][0]


def test_fit_takes_the_fewest_chips_that_hold_the_model():
    fit = simkit.decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=[1, 8, 64], kv_len=4096)
    for chips, batch in zip(fit["chips"], fit["batch"], strict=True):
        if chips > 1:
            half = simkit.decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=batch, kv_len=4096,
                                      chips=int(chips) // 2)
            assert not half["fits"]


def test_a_point_that_does_not_fit_keeps_its_bytes_and_has_no_time():
    result = simkit.decode_step("h100-sxm", "llama-2-70b", attention="mha", batch=32, kv_len=32768, chips=8)
    (record,) = to_records(result)
    assert record["fits"] is False
    assert record["kv_cache_bytes"] == 10737418240 * 8 * 32
    assert record["step_time_s"] is None
    assert record["bound"] is None


def test_mqa_on_eight_way_tensor_parallelism_stores_and_reads_eight_copies():
    result = simkit.decode_step("h100-sxm", "llama-2-70b", attention=["gqa-8", "mqa"], batch=1, kv_len=4096, chips=8, tp=8)
    assert result["kv_copies"].tolist() == [1, 8]
    assert result["kv_cache_bytes"].tolist() == [1342177280, 167772160]
    assert result["kv_read_bytes"].tolist() == [1342177280, 1342177280]


def test_max_batch_fits_and_one_more_does_not():
    for attention in ("mha", "gqa-8", "mqa"):
        result = simkit.decode_step("h100-sxm", "llama-2-70b", attention=attention, batch=1, kv_len=4096, chips=8)
        most = float(result["max_batch"])
        both = simkit.decode_step("h100-sxm", "llama-2-70b", attention=attention, batch=[most, most + 1], kv_len=4096,
                                  chips=8, tp=int(result["tp"]), attention_sharding=str(result["mapping"]))
        assert both["fits"].tolist() == [True, False]


def test_groq_lpu_needs_as_many_chips_as_the_model_and_cache_fill():
    # One GroqChip holds 230 MB: 140 GB of weights need at least 600 of them (model.md section 3).
    result = simkit.decode_step("groq-lpu", "llama-2-70b", attention="gqa-8", batch=1, kv_len=4096)
    assert float(result["chips"]) >= 137.9e9 / 230e6
    assert result["fits"].all()


@pytest.mark.parametrize("bad", [{"batch": 0}, {"batch": -1}, {"batch": float("nan")}, {"kv_len": 0}, {"q_len": 0},
                                 {"batch": 1e300}, {"batch": "many"}, {"chips": 0}, {"chips": "all"}, {"chips": "up-to-0"}, {"chips": "up-to-x"}, {"fields": "step_time_s"}, {"chips": 7, "tp": 2},
                                 {"chips": 8, "tp": 3}, {"attention": "gqa-7"}, {"attention": "mla"}, {"kv_dtype": "bf8"},
                                 {"engine": "guess"}, {"batch": [1, 2], "kv_len": [1, 2, 3]}])
def test_what_makes_no_sense_is_refused_in_words(bad):
    with pytest.raises(UserError) as caught:
        simkit.decode_step("h100-sxm", "llama-2-70b", **bad)
    assert len(str(caught.value)) > 20


def test_nan_marks_what_cannot_be_known():
    result = simkit.decode_step("cerebras-wse3", "llama-2-70b", attention="gqa-8")
    assert np.isnan(result["energy_j_per_token"]) or result["energy_j_per_token"] > 0
