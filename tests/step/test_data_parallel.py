"""Attention data-parallel: each chip does it for its own sequences alone, and nothing is exchanged in it."""

import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.step.machine import Machine
from simkit.step.sharding import busiest_expert_share
from simkit.study.engines import CLOSED_FORM
from simkit.study.evaluate import Points
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario


def placed(model, sharding, *, tp=8, ep=1, batch=64, weight_dtype="bf16"):
    """A step on chips with room for anything."""
    chip = load_hardware("h200-sxm", overrides={"memory.hbm.capacity": "100TB"})
    points = Points(hardware=chip, model=load_model(model), engine=CLOSED_FORM, batch=float(batch), kv_len=4096.0, q_len=1.0,
                    scenario=parse_scenario(attention_sharding=sharding, ep=ep, weight_dtype=weight_dtype))
    machine = Machine.split(tp=float(tp), mapping="heads" if sharding == "auto" else sharding)
    return points.placed(parse_layout("as-trained", points.model), machine).step


@pytest.mark.parametrize("model", ["llama-3.1-70b", "deepseek-v3", "gpt-oss-120b"])
def test_attention_of_a_chip_is_that_of_one_machine_with_its_sequences(model):
    shared, alone = placed(model, "data", batch=64), placed(model, "auto", tp=1, batch=8)
    for one, other in zip(shared.attention_operators, alone.attention_operators, strict=True):
        assert one == other
    products = {one.name: one for one in alone.layer_operators if "projection" in one.name}
    for one in shared.layer_operators:
        if one.name in products:
            assert one.weight_bytes == products[one.name].weight_bytes  # every chip has them all
    assert products


def test_nothing_is_exchanged_in_attention_and_rows_meet_once_a_feed_forward_layer():
    times = {sharding: {one.name: one for one in placed("llama-3.1-70b", sharding).collectives}
             for sharding in ("heads", "batch", "data")}
    assert set(times["data"]) == {"all_reduce", "gather_logits", "stage_hop"}
    assert times["data"]["all_reduce"].count == 80  # gathered before and summed after each MLP
    assert times["data"]["gather_logits"].count == 0  # each chip has the whole vocabulary for its own rows
    assert times["heads"]["all_reduce"].count == 1 + 2 * 80
    assert "to_sequences" in times["batch"] or times["batch"]["all_reduce"].count == 161


def test_beside_wide_experts_rows_go_out_in_their_format_and_come_back_in_16_bits():
    found = {one.name: one for one in placed("deepseek-v3", "data", ep=8, batch=128, weight_dtype="fp8").collectives}
    rows, top_k, hidden, layers = 128 / 8, 8, 7168, 58
    busiest = busiest_expert_share(8 * rows, top_k, 8, 256)
    assert found["expert_dispatch"].bytes == pytest.approx(busiest * rows * top_k * hidden * 1)
    assert found["expert_combine"].bytes == pytest.approx(busiest * rows * top_k * hidden * 2)
    assert rows * hidden < found["expert_dispatch"].merged_bytes < found["expert_dispatch"].bytes
    assert found["expert_dispatch"].count == found["expert_combine"].count == layers
    assert found["all_reduce"].count == 3  # the dense layers


def test_flops_are_those_of_one_chip_and_each_chip_reads_attention_weights():
    asked = {"batch": 64, "kv_len": 4096, "baseline": False, "weight_dtype": "fp8"}
    both = [decode_step("h200-sxm", "llama-3.1-70b", chips=chips, tp=chips, attention_sharding=sharding, **asked)
            for chips, sharding in ((8, "data"), (1, "auto"))]
    assert both[0]["flops"] == pytest.approx(both[1]["flops"], rel=1e-12)
    assert both[0]["kv_read_bytes"] == pytest.approx(both[1]["kv_read_bytes"], rel=1e-12)
    attention = 80 * (2 * 8192**2 + 2 * 8192 * 1024)
    vocabulary = 128_256 * 8192
    assert both[0]["weight_read_bytes"] - both[1]["weight_read_bytes"] == pytest.approx(7 * (attention + vocabulary), rel=1e-9)
