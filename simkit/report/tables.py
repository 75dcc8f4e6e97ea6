"""Tables of the page: cells with what they show and what they sort by. The template escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from simkit.foundation.units import (
    BYTES,
    BYTES_PER_S,
    FLOP_PER_S,
    SECONDS,
    USD_PER_HOUR,
    WATTS,
    format_quantity,
)
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.style import count, layout_name, times
from simkit.study.record import FIELDS
from simkit.study.study_file import Study

UNKNOWN: Final = "–"
_HEADINGS: Final = {
    "hardware": "chip", "chips": "chips", "attention": "layout", "step_time_s": "step",
    "speedup_vs_mha": "step vs MHA", "attention_speedup_vs_mha": "attention vs MHA",
    "tokens_per_s_per_user": "tok/s/user", "tokens_per_s": "tok/s", "kv_cache_bytes": "KV cache",
    "max_batch": "max batch", "bound": "step bound by", "attention_bound": "attention bound by",
    "energy_j_per_token": "J/token", "cost_usd_per_mtok": "$/Mtok"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: its text and, for numbers, the value that sorting compares."""

    text: str
    value: float | int | None = None
    numeric: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A sortable table: headings with their meaning, and rows of cells."""

    name: str
    caption: str
    headings: tuple[tuple[str, str], ...]
    rows: list[list[Cell]]


def _text(value: object) -> Cell:
    return Cell(text=UNKNOWN if value is None or value == "" else str(value))


def _number(value: Any, text: str) -> Cell:
    return Cell(text=UNKNOWN if value is None else text, value=value, numeric=True)


def result_cell(field: str, value: Any, study: Study) -> Cell:
    """How a record's field is written in a table; what cannot be known is a dash."""
    if field == "hardware":
        return _text(study.labels.get(str(value), str(value)))
    if field == "attention":
        return _text(layout_name(str(value)))
    if value is None or isinstance(value, str):
        return _text(value) if field in {"bound", "attention_bound"} or isinstance(value, str) else _number(None, "")
    if "speedup" in field:
        return _number(value, times(value))
    dimension = FIELDS[field].dimension
    if dimension in (SECONDS, BYTES):
        return _number(value, format_quantity(value, dimension))
    return _number(value, count(value) if value >= 100 or value == int(value) else f"{value:.3g}")


def results_table(study: Study, records: Sequence[dict[str, Any]], model: str) -> Table:
    """The records of one model at the study's focus point."""
    focus = [row for row in records if row["model"] == model and row["batch"] == study.focus_batch
             and row["kv_len"] == study.focus_kv_len]
    fields = [name for name in _HEADINGS if any(row[name] is not None for row in focus)]
    return Table(
        name=f"results-{model}",
        caption=f"{model}, batch {study.focus_batch}, {count(study.focus_kv_len)} cached tokens, cache "
                f"{study.kv_dtype}, weights {study.weight_dtype}, engine {study.engine}. A dash: it, or MHA that "
                "it is set against, does not fit, or no source gives what is needed.",
        headings=tuple((_HEADINGS[name], FIELDS[name].meaning) for name in fields),
        rows=[[result_cell(name, row[name], study) for name in fields] for row in focus])


def hardware_table(study: Study) -> Table:
    """The chips: vendor peaks of arithmetic and of each memory level, and the ridge where the cache usually lives."""
    rows = []
    for chip in study.every_chip:
        home = chip.main_memory
        ridge = chip.ridge_point_flop_per_byte()
        peak = chip.compute.matrix_peak_flop_per_s[chip.compute.matrix_dtype("bf16")]
        levels = ", ".join(
            f"{level.name} {format_quantity(level.chip_capacity_bytes, BYTES)}"
            + (f" at {format_quantity(level.chip_bandwidth_bytes_per_s, BYTES_PER_S)}"
               if level.chip_bandwidth_bytes_per_s else " (no source gives its bandwidth)")
            for level in chip.memory)
        rows.append([
            _text(study.label(chip)), _text(chip.title), _text(chip.kind), _number(chip.year, str(chip.year)),
            _number(peak, f"{format_quantity(peak, FLOP_PER_S)} {chip.compute.matrix_dtype('bf16')}"),
            _text(home.name), _number(ridge, f"{ridge:.3g}" if ridge is not None else ""), _text(levels),
            _number(chip.max_chips, count(chip.max_chips)),
            _number(chip.power.tdp_w, format_quantity(chip.power.tdp_w or 0.0, WATTS)),
            _number(chip.price.usd_per_hour, format_quantity(chip.price.usd_per_hour or 0.0, USD_PER_HOUR))])
    headings = (("chip", "short name in figures"), ("title", "as sold"), ("kind", "gpu, tpu or asic"),
                ("year", "of release"), ("matrix peak", "dense vendor peak for 16-bit work"),
                ("cache in", "memory level that usually holds the KV cache"),
                ("ridge", "achievable flops over achievable bytes a second of that level"),
                ("memory, nearest first", "vendor figures"),
                ("largest system", "chips"), ("power", "of one chip"), ("price", "rent of one chip"))
    return Table(name="hardware", caption="The chips of this study at vendor peaks; ridges and the engine use "
                 "achievable rates, whose sources stand below.", headings=headings, rows=rows)


def source_table(chip: HardwareProfile) -> Table:
    """Every figure of a profile as its file writes it, with its source, confidence and note."""
    written = load_yaml(chip.file).data if chip.file else {}
    rows = [[_text(key), _text(_as_written(written, key)), _text(item.source), _text(item.confidence), _text(item.note)]
            for key, item in chip.provenance.items()]
    return Table(name=f"sources-{chip.name}", caption=f"{chip.title}: {len(rows)} figures and where they come from.",
                 headings=(("figure", "key in the profile"), ("value", "as the profile writes it"),
                           ("source", "document or page"), ("confidence", "how far to trust it"), ("note", "")),
                 rows=rows)


def sources_of(chip: HardwareProfile) -> list[str]:
    """The documents behind a profile's figures, each once."""
    return list(dict.fromkeys(item.source for item in chip.provenance.values() if item.source))


def _as_written(data: dict[str, Any], key: str) -> str | None:
    node: Any = data
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    value = node.get("value") if isinstance(node, dict) else node
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
