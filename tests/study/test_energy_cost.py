"""Joules and dollars of a token, by hand."""

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import Price
from simkit.step.build import build_step
from simkit.step.placement import Placement
from simkit.study.record import cost_usd_per_mtok, energy_j_per_token
from tests.step.test_operators import workload_of

LIT = {"power.idle": "100 W", "power.flop_energy": "0.5 pJ/FLOP", "memory.hbm.energy": "40 pJ/B", "memory.l2.energy": "10 pJ/B"}
H100 = load_hardware("h100-sxm", overrides=LIT)


def placed(**levels):
    return Placement(weights={"hbm": 1.0}, kv=levels, fits=True, max_batch=1.0)


def test_a_token_of_llama_2_7b_by_hand():
    """MHA of 32 heads of 128 and 32 layers; weights 6 607 M and the norms' none; batch 2, 1000 tokens."""
    step = build_step(workload_of("llama-2-7b", batch=2.0, kv_len=1000.0))
    weights = 2 * (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096 + 2 * 4096)  # the step reads 2 embedding rows
    read, written = 32 * 2 * 1000 * 2 * 4096 * 2, 32 * 2 * 2 * 4096 * 2
    flops = 2 * 2 * (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096) + 32 * 2 * 4 * 4096 * 1000
    computed = flops * 0.5e-12
    whole = weights * 40e-12 + (read + written) * 40e-12 + computed
    found = energy_j_per_token(step, placed(hbm=1.0), H100, 0.01, 1, 200.0)
    assert found == pytest.approx((whole + 100 * 0.01) / 2, rel=1e-12)
    split = energy_j_per_token(step, placed(hbm=0.25, l2=0.75), H100, 0.01, 1, 200.0)
    near = weights * 40e-12 + (read + written) * (0.25 * 40e-12 + 0.75 * 10e-12) + computed
    assert split == pytest.approx((near + 100 * 0.01) / 2, rel=1e-12)
    drafted = energy_j_per_token(step, placed(hbm=1.0), H100, 0.01, 1, 200.0, draft=step, draft_steps=3)
    assert drafted == pytest.approx((4 * whole + 100 * 0.01) / 2, rel=1e-12)


def test_a_level_without_an_energy_is_unknown_only_where_it_is_used():
    step = build_step(workload_of("llama-2-7b", batch=2.0, kv_len=1000.0))
    dark = load_hardware("h100-sxm", overrides={**LIT, "memory.smem.energy": "null"})
    assert dark.level("smem").energy_j_per_byte is None
    known = energy_j_per_token(step, placed(hbm=1.0, smem=0.0), dark, np.array([0.01]), 1, 200.0)
    assert known == pytest.approx(float(energy_j_per_token(step, placed(hbm=1.0), H100, 0.01, 1, 200.0)), rel=1e-15)
    assert np.isnan(energy_j_per_token(step, placed(hbm=0.5, smem=0.5), dark, np.array([0.01]), 1, 200.0))


@pytest.mark.parametrize("unknown", ["power.idle", "power.flop_energy"])
def test_half_of_what_energy_needs_is_not_enough(unknown):
    step = build_step(workload_of("llama-2-7b", batch=2.0, kv_len=1000.0))
    chip = load_hardware("h100-sxm", overrides={**LIT, unknown: "null"})
    assert np.isnan(energy_j_per_token(step, placed(hbm=1.0), chip, np.array([0.01]), 1, 200.0))


def test_a_million_tokens_cost_the_chips_rent_for_their_time():
    # 8 chips at 3 dollars an hour, 2000 tokens a second: 500 s a million, 8 x 3 x 500 / 3600 dollars.
    assert cost_usd_per_mtok(Price(usd_per_hour=3.0), 8, 2000.0) == pytest.approx(8 * 3 * 500 / 3600, rel=1e-12)
    assert np.isnan(cost_usd_per_mtok(Price(), 8, 2000.0))
