r"""Joules and dollars of a step.

.. math:: E = \sum_l bytes_l e_l + flops\, e_f + P_{idle} T \qquad
          C = \text{chips} \cdot \text{price} / \text{throughput}

``e_l`` is the energy of a byte on its whole way from its home into a compute unit. A parameter that the profile lacks
makes the result NaN (unknown), never zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.hardware.profile import HardwareProfile, Price
from simkit.step.machine_totals import StepTotals, step_totals
from simkit.step.operators import DecodeStep
from simkit.step.placement import Placement

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MTOK = 1e6


def energy_j_per_token(step: DecodeStep, placement: Placement, hardware: HardwareProfile, step_time_s: Any,
                       chips: Any, tokens_per_s: Any, *, totals: StepTotals | None = None,
                       draft: DecodeStep | None = None, draft_steps: int = 0) -> Any:
    """Energy of one token over all chips: weights and cache from their homes, matrix flops, and idle power.

    ``totals`` are the step's where they are known. ``draft_steps`` steps of a ``draft`` model precede each step when
    tokens are proposed by one.
    Activations are left out: they stay on chip, where profiles rarely have an energy, and are a few per cent of bytes.
    """
    power = hardware.power
    if power.energy_j_per_flop is None or power.idle_w is None:
        return np.full(np.shape(step_time_s), np.nan)
    joules: Any = power.idle_w * chips * step_time_s
    joules = joules + _moved_and_computed_j(totals or step_totals(step), placement, hardware, power.energy_j_per_flop)
    if draft is not None:
        joules = joules + draft_steps * _moved_and_computed_j(step_totals(draft), placement, hardware,
                                                              power.energy_j_per_flop)
    return joules / (tokens_per_s * step_time_s)


def _moved_and_computed_j(totals: StepTotals, placement: Placement, hardware: HardwareProfile,
                          energy_j_per_flop: float) -> Any:
    joules: Any = totals.matrix_flops * energy_j_per_flop
    for shares, amount in ((placement.weights, totals.weight_bytes),
                           (placement.kv, totals.kv_read_bytes + totals.kv_write_bytes)):
        for name, share in shares.items():
            energy = hardware.level(name).energy_j_per_byte
            moved = amount * share
            joules = joules + (np.where(moved > 0, np.nan, 0.0) if energy is None else moved * energy)
    return joules


def cost_usd_per_mtok(price: Price, chips: Any, tokens_per_s: Any) -> Any:
    """Rent of all chips for the time of a million tokens; NaN without a price."""
    if price.usd_per_hour is None:
        return np.full(np.shape(tokens_per_s), np.nan)
    return chips * price.usd_per_hour / SECONDS_PER_HOUR / tokens_per_s * TOKENS_PER_MTOK
