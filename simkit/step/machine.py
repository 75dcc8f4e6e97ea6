"""The machine: the chips that share one model, and how they share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simkit.step.sharding import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``chips`` of one hardware profile: ``tp`` share each layer, ``pp`` stages hold successive layers.

    ``mapping`` says what of attention is dealt out where chips outnumber KV heads; ``overflow``: points that may use
    the overflow tiers of memory. ``in_flight``: groups of sequences that one stage works on at once, on regions of
    its tiles. Numbers, or arrays with one entry a point.
    """

    chips: Any
    tp: Any
    pp: Any
    mapping: Mapping = "heads"
    overflow: Any = False
    in_flight: Any = 1.0

    @classmethod
    def split(cls, *, tp: Any = 1, pp: Any = 1, mapping: Mapping = "heads") -> Machine:
        """As many chips as ``tp`` ways in ``pp`` stages take."""
        return cls(chips=tp * pp, tp=tp, pp=pp, mapping=mapping)
