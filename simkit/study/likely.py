"""Where a measurement would likely lie: what measured steps took over predictions, on chips that are known as well.

Factors with their source stand in ``hardware_profiles/priors/residuals.yaml``. They hold what the software of those
steps added, for nobody knows the software of a step that is only asked for. Ends are no nearer to the prediction than
those of the range by what is assumed of the chip (:mod:`simkit.study.ranges`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.profile import HardwareProfile
from simkit.study.record import FIELDS, Field

SHARES: Final = ("50", "90")
_PICKS: Final = {"low": np.fmin, "high": np.fmax}


@cache
def _residuals() -> Mapping[str, Mapping[str, Any]]:
    data = load_yaml(shipped_folder("hardware_profiles") / "priors" / "residuals.yaml").data
    return dict(data["residuals"])


def factors(hardware: HardwareProfile, name: str) -> Mapping[str, Any]:
    """``likely``, ``within_50`` and ``within_90`` on a prediction of that column, of chips known as this one is."""
    known = _residuals()[name]
    return dict(known.get(hardware.known_by, known["any chip"]))


def _likely(name: str, at: Any) -> Any:
    own = FIELDS[name].value_of(at)
    alone = name == "speedup_vs_mha" and (at.mha is None or at.mha.timing is at.timing)
    return own if alone else own * factors(at.hardware, name)["likely"]


def _end(name: str, share: str, end: str, at: Any) -> Any:
    if name == "speedup_vs_mha" and (at.mha is None or at.mha.timing is at.timing):
        return FIELDS[name].value_of(at)  # MHA beside itself
    pick, (low, high) = _PICKS[end], factors(at.hardware, name)[f"within_{share}"]
    assumed = FIELDS[f"{name}_{end}"].value_of(at)
    return pick(FIELDS[name].value_of(at) * (low if end == "low" else high), assumed)


def _fields(name: str) -> Iterator[Field]:
    dimension = FIELDS[name].dimension
    yield Field(name=f"{name}_likely", heading="likely", dimension=dimension, value_of=partial(_likely, name),
                meaning=f"{name} times what measured steps took of predictions in the median, on chips known as well")
    for share in SHARES:
        for end in _PICKS:
            yield Field(name=f"{name}_{end}_{share}", heading=f"{share} % {end}", dimension=dimension,
                        value_of=partial(_end, name, share, end),
                        meaning=f"{end} end of what held {share} % of such measurements, and of {name}_{end}")


LIKELY_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({
    field.name: field for name in ("step_time_s", "speedup_vs_mha") for field in _fields(name)})
