r"""What it costs to uptrain a multi-head checkpoint into one with fewer KV heads (Ainslie et al. 2023, section 2.1).

.. math:: C = \alpha \cdot 6 \, P \, D

P parameters that a token passes, D pre-training tokens, α the share of pre-training that is repeated, 6 flops a
parameter and token (forward and backward). Prices on a profile are made elsewhere from the chip time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simkit.foundation.errors import UserError
from simkit.model.architecture import ModelArchitecture, count_parameters, encoder_parameters
from simkit.model.attention import parse_layout
from simkit.model.kinds.catalogue import AS_TRAINED

# Ainslie et al. 2023, section 3.2: gains beyond 5 % of pre-training diminish.
UPTRAINING_FRACTION: Final = 0.05
_FLOPS_PER_PARAMETER_AND_TOKEN: Final = 6  # 2 forward, 4 backward (Kaplan et al. 2020, arXiv 2001.08361)


@dataclass(frozen=True, slots=True, kw_only=True)
class UptrainingCost:
    """Compute of an uptraining run; ``chip_time_s`` (chips times seconds) is None when no chip's rate was given."""

    uptraining_flops: float
    uptraining_tokens: float
    chip_time_s: float | None


def uptraining_cost(model: ModelArchitecture, *, pretraining_tokens: float | None = None,
                    uptraining_fraction: float = UPTRAINING_FRACTION, layout: str = AS_TRAINED,
                    chip_flop_per_s: float | None = None, utilization_fraction: float | None = None) -> UptrainingCost:
    r"""Flops, tokens and chip time of uptraining: :math:`C = \alpha \cdot 6 P D`, :math:`C / (R \, u)`.

    Parameters
    ----------
    model: the architecture; of a mixture of experts P are the active parameters, of T5 also the encoder's.
    pretraining_tokens: D; the model file's parameter when None.
    uptraining_fraction: the share α, above 0 and up to 1.
    layout: the attention layout that is trained; its parameters count.
    chip_flop_per_s: R, one chip's peak rate in the dtype of training. None: no chip time.
    utilization_fraction: u, the share of R that the run achieves (model flops utilisation); needed with R.

    Raises :class:`UserError` when the tokens are unknown or a share is outside (0, 1].

    >>> from simkit.model.catalog import load_model
    >>> cost = uptraining_cost(load_model("llama-2-7b"), chip_flop_per_s=989e12, utilization_fraction=0.4)
    >>> f"{cost.uptraining_flops:.2e} flops, {cost.chip_time_s / 3600:.0f} chip-hours"
    '4.04e+21 flops, 2839 chip-hours'
    """
    tokens = model.pretraining_tokens if pretraining_tokens is None else pretraining_tokens
    if tokens is None:
        raise UserError(f"{model.name} says no pretraining_tokens", hint="give the number of tokens it was trained on")
    if tokens <= 0:
        raise UserError(f"{tokens:g} pre-training tokens: expected more than 0")
    for what, share in (("uptraining_fraction", uptraining_fraction), ("utilization_fraction", utilization_fraction)):
        if share is not None and not 0 < share <= 1:
            raise UserError(f"{what} {share:g} is out of range: expected more than 0 and at most 1")
    passed = count_parameters(model, parse_layout(layout, model)).active + encoder_parameters(model)
    flops = uptraining_fraction * _FLOPS_PER_PARAMETER_AND_TOKEN * passed * tokens
    chip_time_s = None
    if chip_flop_per_s is not None:
        if utilization_fraction is None or chip_flop_per_s <= 0:
            raise UserError("chip time needs a chip's rate above 0 and the share of it that training achieves")
        chip_time_s = flops / (chip_flop_per_s * utilization_fraction)
    return UptrainingCost(uptraining_flops=flops, uptraining_tokens=uptraining_fraction * tokens,
                          chip_time_s=chip_time_s)
