"""The atlas of attention: what each kind reads of a context, and the context at which that takes half of a step."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.foundation.units import BYTES
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.style import INK, SMALL_POINTS, count, decade_axis, log_ticks, new_figure, tokens
from simkit.study.cache_size import kv_bytes_per_token
from simkit.study.evaluate import FIT, evaluate_group

# A model of each kind, as trained but for the first.
ATLAS: Final = (
    ("MHA", "llama-3.1-405b", "mha"), ("GQA", "llama-3.1-405b", "as-trained"),
    ("windows", "mimo-v2-flash", "as-trained"), ("MLA", "deepseek-v3", "as-trained"),
    ("top-k latents", "deepseek-v3.2", "as-trained"),
    ("top-k blocks", "minimax-m3", "as-trained"), ("NSA", "nsa-27b", "as-trained"),
    ("compressed", "deepseek-v4-pro", "as-trained"),
    ("delta rule 3:1", "qwen3.5-397b-a17b", "as-trained"), ("KDA and MLA 3:1", "kimi-k3", "as-trained"),
    ("Mamba-2 and GQA", "nemotron-3-ultra", "as-trained"))
CONTEXTS: Final = 2.0 ** np.arange(10, 21)


def draw(context: FigureContext) -> DrawnFigure:
    """Above a line a kind, below a row a kind with a mark for each chip."""
    request = context.request
    rows: list[dict[str, Any]] = []
    lines: dict[str, Any] = {}
    for kind, name, layout in ATLAS:
        model = load_model(name)
        per_token = kv_bytes_per_token(model, parse_layout(layout, model), request.kv_dtype)
        for chip in request.hardware:
            found = _points(chip, model, layout, float(request.focus_batch), request.kv_dtype, request.weight_dtype)
            if found is None:
                continue
            read, share, intensity = found
            lines.setdefault(kind, read / request.focus_batch)
            rows += [{"kind": kind, "model": name, "attention": layout, "hardware": chip.name,
                      "batch": request.focus_batch, "kv_len": int(n), "stored_bytes_per_token": per_token,
                      "read_bytes_per_sequence": float(r), "flop_per_byte": float(i), "attention_share": float(s),
                      "half_kv_len": _half(share)}
                     for n, r, s, i in zip(CONTEXTS, lines[kind], share, intensity, strict=True)]
    halves = {(row["kind"], row["hardware"]): row["half_kv_len"] for row in rows}
    longest = {kind: float(read[-1]) for kind, read in lines.items()}
    least, most = (end(longest, key=lambda kind: longest[kind]) for end in (min, max))
    return DrawnFigure(
        title=request.title or "What each kind of attention reads, and when reading it is half of a step",
        figure=_figure(context, lines, halves), rows=rows,
        finding=(f"Of {tokens(CONTEXTS[-1])} tokens a step reads {longest[most] / longest[least]:,.0f} times as much "
                 f"with {most} as with {least}. " + "; ".join(
                     f"{kind}: attention takes half of a step {_words(halves, kind, context)}"
                     for kind in ("GQA", "MLA", "top-k latents") if kind in lines) + "."),
        how_to_read="Above: cache, index keys and states of one sequence that one step reads, all layers. Below: the "
                    "context from which attention, its index and its states take half of the step; at the edge: never, "
                    "up to 1M. A longer context is given the chips that hold it. Models differ in size: " + ", ".join(
                        f"{kind} {name}" for kind, name, _ in ATLAS) + ".",
        inputs=f"Batch {count(request.focus_batch)}; cache {request.kv_dtype}, weights {request.weight_dtype}; "
               "contexts may be longer than a model was made for.",
        alt="Lines of bytes read against context: " + ", ".join(
            f"{kind} {size:.3g} at 1M" for kind, size in longest.items()))


def _points(chip: HardwareProfile, model: ModelArchitecture, layout: str, batch: float, kv_dtype: str,
            weight_dtype: str) -> tuple[Any, Any, Any] | None:
    """Bytes read, attention's share of the step and flops a byte at every context; None on a chip that cannot say."""
    def on(chips: Any, *names: str) -> list[Any]:
        columns = evaluate_group(
            chip, model, layout, rivals=[layout], kv_dtype=kv_dtype, weight_dtype=weight_dtype, chips=chips,
            batch=np.full(CONTEXTS.shape, batch), kv_len=CONTEXTS, q_len=np.ones(CONTEXTS.shape),
            baseline=False).select(names)
        return [columns[name] for name in names]

    try:
        attention_s, step_s = on(FIT, "attention_time_s", "step_time_s")
    except UserError:
        return None
    read, intensity = on(1, "kv_read_bytes", "arithmetic_intensity")  # one copy, whether it fits or not
    return read, attention_s / step_s, intensity


def _half(share: Any) -> float:
    """The first context at which attention takes half of the step; NaN where it never does."""
    above = np.flatnonzero(np.nan_to_num(share) >= 0.5)
    return float(CONTEXTS[above[0]]) if len(above) else float("nan")


def _words(halves: dict[tuple[str, str], float], kind: str, context: FigureContext) -> str:
    found = {chip: at for (one, chip), at in halves.items() if one == kind and np.isfinite(at)}
    return "from " + ", ".join(f"{tokens(at)} ({context.label(chip)})" for chip, at in found.items()) if found else (
        "on no chip here")


def _figure(context: FigureContext, lines: dict[str, Any], halves: dict[tuple[str, str], float]) -> Any:
    figure = new_figure(6.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(1.1, 1.0))
    decade_axis(upper, "y", BYTES)
    log_ticks(upper, "x", CONTEXTS[::5], [tokens(value) for value in CONTEXTS[::5]])
    for read in lines.values():
        upper.plot(CONTEXTS, read, color=INK, linewidth=1.1)
    upper.set(xlabel="context [tokens]", ylabel="bytes read of one sequence in a step")
    margin_labels(upper, [Label(x=1, y=float(read[-1]), text=kind, colour=INK) for kind, read in lines.items()])
    log_ticks(lower, "x", CONTEXTS[::5], [tokens(value) for value in CONTEXTS[::5]])
    lower.set_yticks(range(len(lines)), list(lines), fontsize=SMALL_POINTS)
    lower.invert_yaxis()
    chips = dict.fromkeys(chip for _, chip in halves)
    for index, chip in enumerate(chips):
        style = context.styles[chip]
        at = [halves.get((kind, chip), np.nan) for kind in lines]
        lower.scatter(np.where(np.isfinite(at), at, 1.6 * CONTEXTS[-1]), np.arange(len(lines)) + 0.12 * (index - 1),
                      color=style.colour, marker=style.marker, s=14, label=style.label)
    lower.set_xlabel("context at which attention is half of the step [tokens]")
    lower.set_xlim(CONTEXTS[0] / 2, 2.4 * CONTEXTS[-1])
    lower.legend(fontsize=SMALL_POINTS, frameon=False, loc="lower left")
    return figure
