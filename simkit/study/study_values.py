"""Values of a study's file that have a syntax of their own: axes, points, chips, kinds of figures."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import PlainValidator, WithJsonSchema

from simkit.foundation.axis_syntax import parse_axis
from simkit.foundation.errors import UserError
from simkit.foundation.validation import rule

_CHIPS_WORDS: Final = "fit|fit-each|fewest|up-to-[1-9][0-9]{0,5}"


def _axis(value: object) -> tuple[int, ...]:
    """A number, a list of numbers, or the command line's syntax: whole numbers of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | list):
        raise rule("expected a number, a list such as [1, 8], or a range such as 1k..128k*2")
    text = ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
    try:
        return tuple(int(number) for number in parse_axis(text))
    except UserError as error:
        raise rule(str(error)) from None


def _point(value: object) -> int:
    values = _axis(value)
    if len(values) != 1:
        raise rule("expected one value, not a list")
    return values[0]


def _chips(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000:
        return value
    if isinstance(value, str) and re.fullmatch(_CHIPS_WORDS, value):
        return value
    raise rule("expected 1 to 1000000 chips, fit, fit-each, fewest, or up-to-8")


_AXIS_JSON: Final = {"oneOf": [{"type": "integer"}, {"type": "string"},
                               {"type": "array", "items": {"type": "integer"}}]}
Axis = Annotated[tuple[int, ...], PlainValidator(_axis), WithJsonSchema(_AXIS_JSON)]
Point = Annotated[int, PlainValidator(_point), WithJsonSchema(_AXIS_JSON)]
Chips = Annotated[int | str, PlainValidator(_chips), WithJsonSchema({"oneOf": [
    {"type": "integer", "minimum": 1, "maximum": 1_000_000}, {"type": "string", "pattern": f"^({_CHIPS_WORDS})$"}]})]
FigureKind = Literal["roofline", "grouping_law", "kv_capacity", "step_breakdown", "advantage_heatmap",
                     "separate_causes", "both_metrics", "bandwidth_scaling", "concurrent_users", "energy_cost",
                     "tp_replication", "quality_speed", "stacking", "stall_breakdown", "replay_against_roofline",
                     "serving_goodput", "predicted_against_measured", "error_by_regime", "advantage_against_measured",
                     "attention_atlas", "scattered_rows", "published_figures", "tile_map", "kv_head_cost",
                     "head_copies", "split_machines", "prefix_worth", "access_pattern"]
