"""The keys of a study's file and of its figures, and those of their values that have a syntax of their own."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from simkit.foundation.axis_syntax import parse_axis
from simkit.foundation.errors import UserError
from simkit.foundation.validation import Name, StrictRecord, Text, WholeNumber, rule

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
Names = Annotated[list[Text], Field(min_length=1, max_length=24)]


class FocusSchema(StrictRecord):
    """The point at which figures of a single point are drawn."""

    batch: Point
    """Sequences of figures that show a single point."""
    kv_len: Point
    """Their cached tokens."""


class FigureSchema(StrictRecord):
    """One figure; what it leaves out it takes from the study."""

    kind: FigureKind
    """What it shows; docs/studies.md lists them."""
    name: Name | None = None
    """Name of its files; default: the kind."""
    title: Text | None = None
    """Heading; default: the kind's own."""
    hardware: Names | None = None
    """Profiles in place of the study's; catalogue: all there are."""
    model: Text | None = None
    """Model in place of the study's first."""
    layouts: Names | None = None
    """Layouts in place of the study's."""
    batch: Axis | None = None
    """Sequences in place of the study's; a single one moves the focus."""
    kv_len: Axis | None = None
    """Cached tokens likewise."""
    kv_dtype: Text | None = None
    """Format of the cache in place of the study's."""
    weight_dtype: Text | None = None
    """Format of the weights likewise."""
    chips: Chips | None = None
    """Chips in place of the study's."""
    engine: Text | None = None
    """Engine in place of the study's."""
    reducers: Names | None = None
    """For ``stacking``: what is turned on one after another, as in ``simkit stack``."""
    beside: Text | None = None
    """For ``grouping_law`` and ``kv_head_cost``: a second engine, drawn beside the first, or of tiles before it."""
    ffn: Names | None = None
    """For ``split_machines``: second pools of chips with their numbers, as after --ffn; default: the study's."""
    between: Text | None = None
    """For ``split_machines``: what joins them to the first pool, as after --between; default: the study's."""
    note: Text | None = None
    """A sentence printed under the caption."""

    @model_validator(mode="after")
    def _has_only_its_own_options(self) -> FigureSchema:
        if self.reducers is not None and self.kind != "stacking":
            raise rule(f"only a stacking figure has reducers, not {self.kind}", "reducers")
        if self.beside is not None and self.kind not in ("grouping_law", "kv_head_cost"):
            raise rule(f"only grouping_law and kv_head_cost have a second engine, not {self.kind}", "beside")
        for key in ("ffn", "between"):
            if getattr(self, key) is not None and self.kind != "split_machines":
                raise rule(f"only a split_machines figure has its own {key}, not {self.kind}", key)
        return self


class StudySchema(StrictRecord):
    """A simkit study."""

    schema_version: Literal[1]
    """Form of this file."""
    name: Name
    """Of the folder under out/."""
    title: Text
    """Heading of the page."""
    question: Text
    """The question that the page answers."""
    text: list[Text] = Field(default_factory=list)
    """Paragraphs above the figures."""
    assumptions: list[Text] = Field(default_factory=list)
    """What a reader must know to judge the figures, listed under the text."""
    hardware: Names
    """Profiles by name or path."""
    labels: dict[str, Annotated[str, Field(min_length=1, max_length=24)]] = Field(default_factory=dict)
    """Short names in figures, of chips called as under ``hardware`` or as their profiles are."""
    models: Names
    """Models by name or path; the first is drawn where a figure takes one."""
    layouts: Names
    """Names as on the command line (mha, gqa-K, as-trained), in the order of legends."""
    batch: Axis
    """Sequences, a list or range as on the command line."""
    kv_len: Axis
    """Cached tokens a sequence, likewise."""
    kv_dtype: Text = "bf16"
    """Format of the KV cache, as after --kv-dtype."""
    weight_dtype: Text = "bf16"
    """Format of the weights."""
    chips: Chips = "fit"
    """A number; fit: of least cost a token where every layout fits; fit-each: for each alone; fewest; up-to-N."""
    engine: Text = "roofline"
    """roofline or replay."""
    ffn: Text | None = None
    """A second pool of chips for every point, as after --ffn: groq-3-lpu:256."""
    between: Text | None = None
    """What joins the two pools, as after --between: 400GB/s,2us."""
    with_attention: Text | None = None
    """What stays with attention, as after --with-attention."""
    micro_batches: Annotated[int, WholeNumber(1, 1_000_000)] | None = None
    """Groups of sequences that keep both pools busy; default: those of the shortest step."""
    focus: FocusSchema | None = None
    """The point that figures of one point show; a study without figures needs none."""
    figures: Annotated[list[FigureSchema], Field(max_length=40)] = Field(default_factory=list)
    """What to draw, in the order of the page; empty: only swept."""

    @model_validator(mode="after")
    def _is_consistent(self) -> StudySchema:
        if self.figures and self.focus is None:
            raise rule("missing key 'focus': figures show a point", "focus")
        names = [figure.name or figure.kind for figure in self.figures]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise rule(f"a second figure called '{name}': give it a 'name'", "figures", str(index))
        return self
