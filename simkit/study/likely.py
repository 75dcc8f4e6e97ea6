"""Where a measurement would likely lie: what steps and kernels took over predictions, on chips that are known as well.

Factors with their source stand in ``hardware_profiles/priors/residuals.yaml``. Those of steps hold what their software
added, for nobody knows the software of a step that is only asked for. Ends are no nearer to the prediction than those
of the range by what is assumed of the chip (:mod:`simkit.study.ranges`). A step of MHA takes no less than one of
fewer heads and no more than its bytes say, but for what measured ratios go beyond: a speed-up's bounds end there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.profile import HardwareProfile
from simkit.study.record import FIELDS, Field

SHARES: Final = ("50", "90")
SHORT_S: Final = 20e-6  # twice a graph's launch of 5 to 12 us (simkit/evidence/data/silicon.README.md)
_PICKS: Final = {"low": np.fmin, "high": np.fmax}
_KERNEL: Final = {"time_s": "kernel_time_s", "speedup_vs_mha": "kernel_speedup_vs_mha"}


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
    value = FIELDS[name].value_of(at)
    if name == "speedup_vs_mha" and (at.mha is None or at.mha.timing is at.timing):
        return value  # MHA beside itself
    pick, number = _PICKS[end], int(end == "high")
    found = value * factors(at.hardware, name)[f"within_{share}"][number]
    if name == "speedup_vs_mha":
        mha, own = (one.totals.weight_bytes + one.totals.kv_read_bytes for one in (at.mha, at))
        known = _residuals()[name]["beyond"][f"within_{share}"]
        found = np.fmin(found, np.fmax(mha / own, value) * known[1]) if number else np.fmax(found, known[0])
    return pick(found, FIELDS[f"{name}_{end}"].value_of(at))


def kernel_ends(hardware: HardwareProfile, found: Mapping[str, Any], alone: Any) -> dict[str, Any]:
    """``*_likely`` and bounds of a kernel's ``time_s`` and ``speedup_vs_mha``.

    ``found``: these columns with their ``_low`` and ``_high``. ``alone``: where the kernel is MHA's, beside itself.
    """
    made: dict[str, Any] = {}
    for name, heading in _KERNEL.items():
        brief, long = (_by_end(factors(hardware, f"{word}{heading}")) for word in ("short ", ""))
        same = alone & (name == "speedup_vs_mha")
        for word, factor in brief.items():
            value = found[name] * np.where(same, 1.0, np.where(found["time_s"] < SHORT_S, factor, long[word]))
            pick, end = _PICKS.get(word[:-3]), f"{name}_{word[:-3]}"
            made[f"{name}_{word}"] = value if pick is None else pick(value, found[end])
    return made


def _by_end(known: Mapping[str, Any]) -> dict[str, float]:
    return {"likely": known["likely"]} | {f"{end}_{share}": known[f"within_{share}"][number]
                                          for share in SHARES for number, end in enumerate(_PICKS)}


def likely_fields(name: str, dimension: str | None, **values: Callable[..., Any]) -> Iterator[Field]:
    """The likely value of a column and the ends of its bounds; ``likely``, ``end``: the ways to them, if any."""
    likely, ends = values.get("likely"), values.get("end")
    yield Field(name=f"{name}_likely", heading="likely", dimension=dimension,
                **({"value_of": partial(likely, name)} if likely else {}),
                meaning=f"{name} times what measurements took of predictions in the median, on chips known as well")
    for share in SHARES:
        for end in _PICKS:
            yield Field(name=f"{name}_{end}_{share}", heading=f"{share} % {end}", dimension=dimension,
                        **({"value_of": partial(ends, name, share, end)} if ends else {}),
                        meaning=f"{end} end of what held {share} % of such measurements, and of {name}_{end}")


LIKELY_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({
    field.name: field for name in ("step_time_s", "speedup_vs_mha")
    for field in likely_fields(name, FIELDS[name].dimension, likely=_likely, end=_end)})
