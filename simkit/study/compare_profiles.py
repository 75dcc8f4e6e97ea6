"""Two chips side by side: the parameters in which they differ, and what it does to a reference decode."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from simkit.foundation.errors import UserError
from simkit.foundation.tables import Records, cell
from simkit.hardware.parameters import profile_parameters
from simkit.hardware.profile import HardwareProfile
from simkit.hardware.summary import unit_of
from simkit.study.asked import chips_of, only
from simkit.study.point import decode_step
from simkit.study.record import FIELDS, to_records

_COMPARED: Final = ("chips", "step_time_s", "attention_time_s", "tokens_per_s", "bound", "speedup_vs_mha")


def compare_profiles(first: Any, second: Any, *, model: Any = "llama-2-70b", batch: float = 32,
                     kv_len: float = 4096) -> Records:
    """Parameters in which two profiles differ, then a decode step with MHA and GQA-8 on each.

    Parameters: first, second: names, paths or loaded profiles; model, batch, kv_len: of the step, which runs on the
    chips that the one with less memory needs, or, where the other's systems have no such number, on as many as each
    needs. ``ratio`` is the second over the first.
    """
    chips = [only(chips_of(one), "profile") for one in (first, second)]
    found = [*_parameters(*chips), *_decode(chips, model=model, attention=["mha", "gqa-8"], batch=batch, kv_len=kv_len)]
    return Records(record for record in found if record["first"] != record["second"])


def _difference(key: str, first: Any, second: Any, dimension: str | None) -> dict[str, Any]:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
    return {"key": key, "first": first, "second": second, "unit": unit_of(dimension),
            "ratio": second / first if numbers and first else None,
            "first_text": cell(first, dimension), "second_text": cell(second, dimension)}


def _parameters(first: HardwareProfile, second: HardwareProfile) -> list[dict[str, Any]]:
    left, right = ({one.key: one for one in profile_parameters(chip)} for chip in (first, second))
    return [_difference(key, left[key].value if key in left else None, right[key].value if key in right else None,
                        one.dimension) for key, one in {**left, **right, **left}.items()]


def _decode(chips: list[HardwareProfile], **point: Any) -> list[dict[str, Any]]:
    results = [to_records(decode_step(chip, **point)) for chip in chips]
    most = max(record["chips"] for records in results for record in records)
    with suppress(UserError):  # the same number of chips where both systems have it: a ratio of chips, not of systems
        results = [to_records(decode_step(chip, chips=most, **point)) for chip in chips]
    return [_difference(f"decode {one['attention']}: {FIELDS[name].heading or name}", one[name], other[name],
                        FIELDS[name].dimension)
            for one, other in zip(*results, strict=True) for name in _COMPARED]
