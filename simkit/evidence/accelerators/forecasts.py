"""Dated predictions of steps that nobody has published, with bounds, and what measurements say of them.

A row of the table is frozen: the question, what was predicted on its day, and a digest of what that followed from
(profile with the priors that fill it, model, formats, residuals). Nobody knows the software of such a step: what
measured software took on chips known as well is in ``*_likely`` and in the bounds (:mod:`simkit.study.likely`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.evidence.accelerators.conditions import formats_of, model_of
from simkit.evidence.accelerators.table import MeasuredRow
from simkit.foundation.csv_rows import named_rows, number_cell
from simkit.foundation.errors import UserError
from simkit.foundation.input_file import read_text
from simkit.hardware.catalog import Chips, load_hardware
from simkit.model.catalog import load_model
from simkit.study.digests import digest
from simkit.study.grid import Grid
from simkit.study.likely import LIKELY_FIELDS, SHARES, factors
from simkit.study.record import to_records

Record = dict[str, Any]
SHIPPED: Final = "forecasts.csv"
TEXTS: Final = ("chip", "model", "attention", "weight_dtype", "kv_dtype")
NUMBERS: Final = ("chips", "batch", "kv_len")
QUESTION: Final = (*TEXTS, *NUMBERS)
HEADS: Final = ("n_q_heads", "n_kv_heads")
QUANTITIES: Final = ("step_time_s", "speedup_vs_mha")
RESIDUALS: Final = ("likely", "within_50", "within_90")
COLUMNS: Final = ("made", *QUESTION, *HEADS, *LIKELY_FIELDS, "digest")
CONTEXT_WITHIN: Final = 0.1  # of a forecast's context: a measured one so near is taken for it
ROUNDING: Final = 1e-4  # the table has five digits
MOST: Final = 1e12


def read_forecasts(path: Path | None = None) -> list[Record]:
    """All rows of a table with :data:`COLUMNS`, the shipped one by default. Raises :class:`UserError` with the line."""
    file = str(path or resources.files("simkit.evidence").joinpath("data", SHIPPED))
    rows = named_rows(read_text(file, most_bytes=10_000_000), file, COLUMNS)
    return [{**row, **{name: number_cell(name, row, where, most=MOST, whole=name in (*NUMBERS, *HEADS))
                       if row[name] or name not in LIKELY_FIELDS else None
                       for name in (*NUMBERS, *HEADS, *LIKELY_FIELDS)}} for where, row in rows]


def question_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row asks: one step."""
    return tuple(row[name] for name in QUESTION)


def command_of(row: Mapping[str, Any]) -> str:
    """The command that answers a row's question."""
    return ("simkit simulate -H {chip} -M {model} -A {attention} --batch {batch} --kv-len {kv_len} --chips {chips} "
            "--weight-dtype {weight_dtype} --kv-dtype {kv_dtype} --bounds").format(**row)


def answers(asked: Sequence[Mapping[str, Any]], chips: Chips = load_hardware) -> dict[tuple[Any, ...], Record]:
    """Today's rows by question, without those that have no answer: chip or model unknown, or no room."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in asked:
        groups[tuple(row[name] for name in QUESTION if name not in ("attention", "batch"))].append(row)
    load, made = cache(chips), {}
    for (chip, model_name, weights, kv_dtype, count, kv_len), rows in groups.items():
        layouts, batches = ([*dict.fromkeys(row[name] for row in rows)] for name in ("attention", "batch"))
        try:
            hardware, model = load(chip), load_model(model_name)
            found = to_records(Grid(
                hardware=[hardware], model=[model], kv_dtype=[kv_dtype], attention=layouts, batch=batches,
                kv_len=[kv_len], chips=count, scenario={"weight_dtype": weights},
                fields=("fits", *HEADS, *LIKELY_FIELDS)).columns())
        except UserError:
            continue
        residuals = [factors(hardware, name)[one] for name in QUANTITIES for one in RESIDUALS]
        inputs = {"profile": hardware, "model": model, "residuals": residuals}
        for (layout, batch), record in zip(product(layouts, batches), found, strict=True):
            own = dict(zip(QUESTION, (chip, model_name, layout, weights, kv_dtype, count, batch, kv_len), strict=True))
            if record.pop("fits"):
                made[question_of(own)] = {**own, **record, "digest": digest([inputs, own])[:16]}
    return made


def score(forecasts: Sequence[Record], measured: Sequence[MeasuredRow], chips: Chips = load_hardware) -> list[Record]:
    """One record a forecast and quantity: its bounds, what was measured, the bound that holds it, what changed since.

    ``error`` is the likely value over the measured one, less 1; ``state`` says what today's program answers.
    """
    steps, today, made = _measured_steps(measured), answers(forecasts, chips), []
    for row in forecasts:
        now, found = today.get(question_of(row)), _beside(row, steps)
        for quantity in QUANTITIES if row["n_kv_heads"] != row["n_q_heads"] else QUANTITIES[:1]:
            if row[f"{quantity}_likely"] is None:  # MHA beside it has no room
                continue
            values = {name.removeprefix(f"{quantity}_"): row[name] for name in LIKELY_FIELDS
                      if name.startswith(quantity)}
            value = float(np.median(found[quantity])) if found[quantity] else None
            inside = value and next((share for share in SHARES
                                     if values[f"low_{share}"] <= value <= values[f"high_{share}"]), "none")
            made.append({
                "made": row["made"], **{name: row[name] for name in QUESTION}, "quantity": quantity, **values,
                "measured": value, "rows": len(found[quantity]), "error": value and values["likely"] / value - 1.0,
                "inside": inside, "likely_now": now and now[f"{quantity}_likely"],
                "state": _state(row, now, f"{quantity}_likely"), "digest": row["digest"], "command": command_of(row)})
    return made


def _state(then: Record, now: Record | None, name: str) -> str:
    if now is None:
        return "no answer today"
    if then["digest"] != now["digest"]:
        return "inputs changed since"
    return "reproduces" if abs(now[name] / then[name] - 1.0) < ROUNDING else "engine changed since"


def _measured_steps(rows: Sequence[MeasuredRow]) -> dict[tuple[Any, ...], list[tuple[float, int, str, float]]]:
    """Context, KV heads, software and seconds of measured steps, by what else a forecast states."""
    found: dict[tuple[Any, ...], list[tuple[float, int, str, float]]] = defaultdict(list)
    for row in rows:
        context = row.kv_len or (row.prompt_tokens and row.prompt_tokens + (row.output_tokens or 0.0) / 2.0)
        if (row.quantity in ("step_s", "user_tokens_per_s") and row.op in ("", "step") and context
                and row.speculation in ("", "none")):
            try:
                model = model_of(row.model)
                weights, kv_dtype, _ = formats_of(row, model)
            except UserError:
                continue
            found[row.chip, model.name, weights.name, kv_dtype.name, row.chips or 1.0, row.batch].append(
                (context, row.n_kv_heads or model.n_kv_heads, row.software, row.time_of(row.value)))
    return found


def _beside(row: Record, steps: Mapping[tuple[Any, ...], Sequence[tuple[float, int, str, float]]],
            ) -> dict[str, list[float]]:
    """What was measured of a forecast's quantities: steps of its heads, and ratios to MHA of the same software."""
    near = [one for one in steps.get(tuple(row[name] for name in QUESTION if name not in ("attention", "kv_len")), ())
            if abs(one[0] / row["kv_len"] - 1.0) <= CONTEXT_WITHIN]
    mha, own = ([one for one in near if one[1] == row[name]] for name in HEADS)
    return {"step_time_s": [one[3] for one in own],
            "speedup_vs_mha": [every[3] / one[3] for one in own for every in mha if every[::2] == one[::2]]}


def summary(records: Sequence[Record]) -> str:
    """How many forecasts have a measurement, and how many of these lie in their bounds."""
    known = [one["inside"] for one in records if one["inside"] is not None]
    held = [f"{sum(known.count(inner) for inner in SHARES[:number])} inside {share} %"
            for number, share in enumerate(SHARES, 1)]
    return f"{len(known)} of {len(records)} measured" + (": " + ", ".join(held) if known else "")
