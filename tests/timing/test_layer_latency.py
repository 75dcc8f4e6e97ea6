"""What layers wait for on machines without launches: published single-user rates and the law behind them."""

import numpy as np
import pytest

import simkit
from simkit.hardware.catalog import load_hardware


def test_a_mixture_s_layer_waits_for_its_router_as_for_one_more_exchange():
    def wait_s(model: str) -> float:
        slow, fast = (float(simkit.decode_step(
            load_hardware("groq-lpu", overrides={"overheads.layer_latency": latency}), model, attention="as-trained",
            batch=1, kv_len=1024)["step_time_s"]) for latency in ("30 us", "0 s"))
        return slow - fast

    assert wait_s("llama-2-7b") == pytest.approx(32 * 30e-6)
    assert wait_s("mixtral-8x7b") == pytest.approx(32 * 45e-6)


def test_the_range_of_a_layer_s_latency_holds_published_rates():
    """The middle of the range rests on one of them: Llama 2 7B at 750 tokens/s."""
    for chip, model, published in (("groq-lpu", "llama-2-7b", 750), ("groq-lpu", "llama-2-70b", 300),
                                   ("cerebras-wse3", "llama-3.1-8b", 1800), ("cerebras-wse3", "llama-3.1-70b", 450)):
        found = simkit.decode_step(chip, model, attention="as-trained", batch=1, kv_len=1024)
        assert float(found["tokens_per_s_low"]) < published < float(found["tokens_per_s_high"])


def test_machines_with_launches_have_no_layer_latency():
    assert load_hardware("h100-sxm").overheads.layer_latency_s == 0
    result = simkit.decode_step("h100-sxm", "mixtral-8x7b", attention="as-trained", batch=1, kv_len=1024)
    assert np.isfinite(result["step_time_s"]).all()
