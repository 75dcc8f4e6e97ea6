"""What layers wait for on machines without launches: published single-user rates and the law behind them."""

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware


def step_s(hardware: str, model: str, **words) -> float:
    return float(simkit.decode_step(hardware, model, attention="as-trained", batch=1, kv_len=1024, **words)["step_time_s"])


def test_a_mixture_s_layer_waits_for_its_router_as_for_one_more_exchange():
    # Groq: dense layers of 7B and 70B take 41.7 us each, a layer of Mixtral 65 us (480 tokens/s): 1.56 times.
    dense, mixture = step_s("groq-lpu", "llama-2-7b") / 32, step_s("groq-lpu", "mixtral-8x7b") / 32
    assert mixture / dense == pytest.approx(1.56, rel=0.15)


def test_a_wider_layer_on_a_wafer_takes_as_much_longer_as_was_measured():
    # WaferLLM (arXiv 2502.04563v2) on a WSE-2: 2700 tokens/s over 32 layers and 840 over 80, a layer 1.286 times as long.
    overheads = load_hardware("cerebras-wse2").overheads
    from simkit.timing.exchanges import distance_growth
    assert distance_growth(2 * (8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 29568), overheads) == pytest.approx(1.286, rel=0.01)
    # Four times the weights, twice the side, twice the distance.
    assert distance_growth(4 * 436e6, overheads) - 1 == pytest.approx(overheads.layer_latency_distance_fraction, rel=1e-6)


def test_the_calibrated_layer_keeps_its_latency():
    # 1800 tokens/s of Llama 3.1 8B are what the WSE-3's latency was calibrated on.
    assert 1 / step_s("cerebras-wse3", "llama-3.1-8b") == pytest.approx(1800, rel=0.01)


def test_machines_with_launches_have_no_layer_latency():
    assert load_hardware("h100-sxm").overheads.layer_latency_s == 0
    result = simkit.decode_step("h100-sxm", "mixtral-8x7b", attention="as-trained", batch=1, kv_len=1024)
    assert np.isfinite(result["step_time_s"]).all()


def test_a_distance_without_the_layer_it_was_measured_on_is_refused():
    with pytest.raises(UserError, match="layer_latency_weights"):
        load_hardware("groq-lpu", overrides={"overheads.layer_latency_distance_fraction": "0.3"})


def test_the_new_figures_can_be_set():
    near = load_hardware("cerebras-wse3", overrides={"overheads.layer_latency_distance_fraction": "0"})
    far = load_hardware("cerebras-wse3")
    times = [float(simkit.decode_step(chip, "llama-3.1-70b", attention="as-trained", batch=1, kv_len=1024)["step_time_s"])
             for chip in (near, far)]
    assert times[0] < times[1]
