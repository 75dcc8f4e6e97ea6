"""The table of published figures as its YAML file holds it: papers, rows, tables over the batch, and its checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from simkit.evidence.published_setup import COLUMNS, MEASURES, SetupSchema, merged
from simkit.foundation.validation import Name, Number, StrictRecord, Text, check, rule
from simkit.foundation.yaml_source import YamlSource, load_yaml, parse_yaml

FILE: Final = "published.yaml"
Split = Literal["exact", "calib", "predict", "shape", "negative"]
Bound = Literal["at-least", "at-most", "below", "in-range"]


def _measure(name: str) -> str:
    known = (*MEASURES, *COLUMNS)
    if name not in known:
        raise rule(f"unknown measure '{name[:40]}': expected one of {', '.join(known)}")
    return name


Measure = Annotated[str, AfterValidator(_measure)]

_UNITS: Final = {"step_time_s": "s", "kernel_time_s": "s", "generation_time_s": "s", "attention_time_s": "s",
                 "product_time_s": "s", "layer_time_s": "s", "layer_message_time_s": "s",
                 "attention_layer_time_s": "s", "prompt_time_s": "s",
                 "kv_cache_bytes": "B", "memory_bytes": "B", "kv_bytes_per_token": "B", "weight_read_bytes": "B"}


_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}"
Word = Annotated[str, Field(pattern=f"^{_WORD}$")]
"""A part of a row's name."""


class RowSchema(StrictRecord):
    """One published figure: what it is, how it is reproduced, and what counts as reproduced."""

    id: Name
    quantity: Text
    take: Measure
    published: Number | None = None
    changes: dict[str, Any] = Field(default_factory=dict, alias="with")
    over: dict[str, Any] | None = None
    minus: dict[str, Any] | None = None
    order: Annotated[list[dict[str, Any]], Field(min_length=2)] | None = None
    """Setups whose figures must not fall from one to the next."""
    says: Text | None = None
    bound: Bound | None = None
    split: Split | None = None
    tolerance: Annotated[Number, Field(gt=0, lt=1)] | None = None
    rounding: Annotated[Number, Field(gt=0, lt=0.01)] | None = None
    note: Text | None = None
    why: Text | None = None

    @model_validator(mode="after")
    def _says_what_was_published(self) -> RowSchema:
        if (self.published is None) == (self.order is None):
            raise rule("expected either 'published' or 'order'", "published")
        return self


class TableSchema(StrictRecord):
    """Figures by measure and batch, all of one setup."""

    changes: dict[str, Any] = Field(default_factory=dict, alias="with")
    over_batch: dict[Measure, dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}$")], Number]]

    @property
    def layout(self) -> str:
        """Part of the names of the rows: the attention layout that they share."""
        return str(self.changes.get("attention", "row"))

    @model_validator(mode="after")
    def _is_of_one_layout(self) -> TableSchema:
        if re.fullmatch(_WORD, self.layout) is None:
            raise rule("expected one attention layout, such as gqa-8", "with.attention")
        return self


class SpeculationSchema(StrictRecord):
    """The rows of the file's ``speculation_table``, with one of its two result columns as the published figure."""

    take: Measure
    column: Literal["measured", "formula"]
    why: dict[str, Text] = Field(default_factory=dict)


class PaperSchema(StrictRecord):
    """A source and its rows."""

    id: Name
    title: Text
    split: Split
    tolerance: Annotated[Number, Field(gt=0, lt=1)] | None = None
    assumes: Text
    setup: dict[str, Any]
    rows: list[RowSchema] = Field(default_factory=list)
    tables: list[TableSchema] = Field(default_factory=list)
    speculation: SpeculationSchema | None = None


class SpeculationTableSchema(StrictRecord):
    """Leviathan et al. 2022, Table 2."""

    cost_ratios: dict[str, Number]
    rows: list[tuple[Word, Word, int, int, Number, Number, Number]]

    @model_validator(mode="after")
    def _drafts_have_ratios(self) -> SpeculationTableSchema:
        for _, draft, *_ in self.rows:
            if draft not in self.cost_ratios:
                raise rule(f"draft '{draft}' has no cost ratio: expected one of {', '.join(self.cost_ratios)}", "rows")
        return self


class PublishedSchema(StrictRecord):
    """A file of published figures."""

    schema_version: Literal[1]
    papers: Annotated[list[PaperSchema], Field(min_length=1)]
    speculation_table: SpeculationTableSchema | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """One row ready to be reproduced: its paper's words and settings filled in."""

    id: str
    paper: str
    unit: str
    split: Split
    tolerance: float | None
    assumptions: str
    stated: RowSchema
    setup: SetupSchema
    over: SetupSchema | None
    minus: SetupSchema | None
    order: tuple[SetupSchema, ...]


def read_published(data: Path | None = None) -> list[PublishedRow]:
    """Every row of the shipped table, or of the file ``data``. Raises :class:`UserError` with every fault."""
    if data is None:
        shipped = files("simkit.evidence").joinpath("data").joinpath(FILE)
        source = parse_yaml(shipped.read_text(encoding="utf-8"), file=FILE)
    else:
        source = load_yaml(data)
    table = check(PublishedSchema, source.data, source)
    return [row for number, paper in enumerate(table.papers)
            for row in _rows_of(paper, table.speculation_table, source, number)]


def _rows_of(paper: PaperSchema, speculation: SpeculationTableSchema | None, source: YamlSource,
             number: int) -> Iterator[PublishedRow]:
    rows = [*paper.rows, *_table_rows(paper), *_speculation_rows(paper, speculation)]

    def setup(changes: dict[str, Any]) -> SetupSchema:
        # Places inside the file are known for what it holds; a merged setup is shown at its paper.
        shown = YamlSource(file=source.file, data=changes, places={(): source.places.get(("papers", number), (1, 1))})
        return check(SetupSchema, changes, shown)

    for row in rows:
        own = merged(paper.setup, row.changes)
        yield PublishedRow(
            id=f"{paper.id}.{row.id}", paper=paper.title, stated=row, assumptions=paper.assumes,
            unit="" if row.over is not None else _UNITS.get(row.take, ""), split=row.split or paper.split,
            tolerance=row.tolerance or paper.tolerance, setup=setup(own),
            over=None if row.over is None else setup(merged(own, row.over)),
            minus=None if row.minus is None else setup(merged(own, row.minus)),
            order=tuple(setup(merged(own, changes)) for changes in row.order or ()))


def _table_rows(paper: PaperSchema) -> Iterator[RowSchema]:
    for table in paper.tables:
        for take, by_batch in table.over_batch.items():
            for batch, figure in by_batch.items():
                yield RowSchema.model_validate({
                    "id": f"{table.layout}-b{batch}-{take}".replace("_", "-"),
                    "quantity": f"{take.replace('_', ' ')} at batch {batch}", "take": take, "published": figure,
                    "with": {**table.changes, "batch": float(batch)}})


def _speculation_rows(paper: PaperSchema, table: SpeculationTableSchema | None) -> Iterator[RowSchema]:
    if paper.speculation is None or table is None:
        return
    for task, draft, temperature, gamma, acceptance, measured, formula in table.rows:
        row_id = f"{task}-{draft}-t{temperature}"
        yield RowSchema.model_validate({
            "id": row_id, "quantity": f"speed-up with {gamma} tokens from T5 {draft}, acceptance {acceptance:g}",
            "take": paper.speculation.take,
            "published": measured if paper.speculation.column == "measured" else formula,
            "why": paper.speculation.why.get(row_id),
            "with": {"draft_cost_ratio": table.cost_ratios[draft],
                     "words": {"speculation": f"draft=t5-v1.1-{draft},gamma={gamma},acceptance={acceptance}"}}})
