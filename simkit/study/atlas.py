r"""The atlas of attention: each kind on a model that has it, against plain GQA-8 there, and where that stops paying.

Plain: every layer that attends or keeps a state has the model's query heads and 8 KV heads of 128 elements over all
tokens; all else stays. Each runs on the chips of its least cost, and what is compared is chip-seconds of a token:

.. math:: A = \frac{chips_{plain}\, T_{plain}}{chips_{kind}\, T_{kind}}

A kind pays where :math:`A \ge 1.1`. Contexts, batches, drafts and bandwidths are tried in doublings. Where a model fits
on no number of chips, its attention alone is timed, on one chip as if that had room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kinds.widths import LayerShape
from simkit.study.cache_size import kv_bytes_per_token, read_per_sequence
from simkit.study.evaluate import FIT, Evaluated, evaluate_group
from simkit.study.vary import faster_memory

PAYS: Final = 1.1  # as other figures and claims of where a layout stops paying have it
CONTEXTS: Final = 2.0 ** np.arange(10, 21)
BATCHES: Final = 2.0 ** np.arange(11)
DRAFTS: Final = 2.0 ** np.arange(5)
FACTORS: Final = 2.0 ** np.arange(7)
_PLAIN_KV_HEADS, _PLAIN_WIDTH = 8, 128  # of Llama 3 (arXiv 2407.21783, table 3) and most models since
_FILE: Final = "attention_atlas.yaml"
_NOW: Final = len(CONTEXTS) + len(BATCHES)  # place of the point at hand among contexts, batches and drafts
_UNKNOWN: Final = np.full(_NOW + len(DRAFTS), np.nan)


def kinds() -> list[dict[str, str]]:
    """Every kind: the model and layout that stand for it, and its quality where it is published."""
    text = files("simkit.study").joinpath(_FILE).read_text(encoding="utf-8")
    return [{"layout": "as-trained", "quality": "", "source": ""} | entry
            for entry in parse_yaml(text, file=_FILE).data["kinds"]]


def plain(model: ModelArchitecture) -> ModelArchitecture:
    """The model with plain GQA-8 in every layer that attends or keeps a state."""
    shape = LayerShape(name=model.name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads,
                       n_kv_heads=np.gcd(_PLAIN_KV_HEADS, model.n_q_heads).item(), head_dim=_PLAIN_WIDTH)
    return replace(model, mla=None, n_kv_heads=shape.n_kv_heads, head_dim=shape.head_dim, layer_groups=tuple(
        replace(group, window=None, shape=shape) if group.attends else group for group in model.layer_groups))


def pays_from(values: Any, advantage: Any) -> float:
    """The first of ``values`` from which on a kind pays as far as it fits; infinite: never; NaN: it fits nowhere."""
    known = np.flatnonzero(~np.isnan(advantage))
    short = np.flatnonzero(advantage[known] < PAYS)
    later = known[short[-1] + 1:] if len(short) else known
    return float("nan") if not len(known) else float(values[later[0]]) if len(later) else float("inf")


def stops_at(values: Any, advantage: Any) -> float:
    """The first of ``values`` at which a kind does not pay; infinite: it pays at all; NaN: it fits nowhere."""
    short = np.flatnonzero(np.nan_to_num(advantage, nan=np.inf) < PAYS)
    return float("nan") if np.all(np.isnan(advantage)) else float(values[short[0]]) if len(short) else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """A model on a chip, over contexts, batches and drafts: chip-seconds of a step, NaN where it fits on no number of
    chips, and of its attention; of a step on the same machine with faster memory; ``lacks``: why it has no step.
    """

    cost: Any
    attention: Any
    faster: Any
    chips: float = float("nan")
    bound: str = ""
    lacks: str = ""


def _side(chip: HardwareProfile, model: ModelArchitecture, layout: str, batch: float, kv_len: float, *,
          alone: bool = False, **formats: Any) -> _Side:
    """``alone``: attention on one chip also where the model fits on several."""
    at = np.repeat([[batch], [kv_len], [1.0]], _NOW + len(DRAFTS), axis=1)
    at[1, :len(CONTEXTS)], at[0, len(CONTEXTS):_NOW], at[2, _NOW:] = CONTEXTS, BATCHES, DRAFTS

    def timed(on: HardwareProfile, points: Any, chips: int | str) -> Evaluated:
        return evaluate_group(on, model, layout, rivals=[layout], baseline=False, batch=points[0], kv_len=points[1],
                              q_len=points[2], chips=chips, **formats)

    faster, lacks = _UNKNOWN[:len(FACTORS)], ""
    try:
        found = timed(chip, at, FIT).select(("step_time_s", "attention_time_s", "chips", "bound"))
        cost, attention = (found[name] * found["chips"] for name in ("step_time_s", "attention_time_s"))
        chips, fits = int(found["chips"][_NOW]), bool(np.isfinite(cost[_NOW]))
        if fits:
            faster = chips * timed(faster_memory(chip, FACTORS), np.repeat(
                at[:, _NOW:_NOW + 1], len(FACTORS), axis=1), chips).step_time_s
        if alone or not fits:
            single = timed(chip, at[:, :_NOW + 1], 1)
            attention = np.broadcast_to(single.timing.attention_time_s, _NOW + 1)
        if not fits:
            need, room = single.points.demand(single.layout, single.machine), sum(
                level.usable_bytes for level in chip.memory if {"weights", "kv"} & {*level.holds})
            needed = np.ceil((need.weight_bytes + np.ravel(need.kv_bytes)[-1]) / room)
            lacks = f"{model.title} " + (
                f"needs {needed:,.0f} chips or more, and a system has {chip.max_chips:,}" if needed > chip.max_chips
                else f"fits on no number of chips up to {chip.max_chips:,}")
    except UserError as error:  # a profile without a figure that this model needs
        return _Side(cost=_UNKNOWN, attention=_UNKNOWN[:_NOW + 1], faster=_UNKNOWN[:len(FACTORS)], lacks=str(error))
    return _Side(cost=cost, attention=attention[:_NOW + 1], faster=faster, lacks=lacks,
                 **({"chips": chips, "bound": found["bound"][_NOW]} if fits else {}))


def _over(other: Any, own: Any) -> Any:
    """A kind's advantage; where only the plain model has no room it pays without bound."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(own), np.nan, np.nan_to_num(other, nan=np.inf) / own)


def _on_chip(own: _Side, other: _Side, chip: HardwareProfile) -> dict[str, Any]:
    contexts, batches, drafts = np.split(_over(other.cost, own.cost), [len(CONTEXTS), _NOW])
    attention = other.attention / own.attention
    balance = float(np.max(chip.ridge_point_flop_per_byte()))
    stops = stops_at(FACTORS, _over(other.faster, own.faster))
    return {
        "chips": own.chips, "bound": own.bound, "advantage": drafts[0],
        "pays_from_kv_len": pays_from(CONTEXTS, contexts), "pays_from_batch": pays_from(BATCHES, batches),
        "stops_at_draft_tokens": stops_at(DRAFTS, drafts), "machine_balance_flop_per_byte": balance,
        "stops_at_balance_flop_per_byte": balance / stops if np.isfinite(stops) else stops,
        "attention_advantage": attention[-1],
        "attention_pays_from_kv_len": pays_from(CONTEXTS, attention[:len(CONTEXTS)])}


def atlas(chips: Sequence[HardwareProfile], *, batch: float, kv_len: float, asked: Sequence[dict[str, str]] = (),
          **formats: Any) -> list[dict[str, Any]]:
    """A row for every kind (or those ``asked`` for) and chip; ``reads`` of a row: bytes of one sequence at CONTEXTS.

    ``formats``: kv_dtype and weight_dtype. ``without_step``: why a chip has no step of the kind, or of plain GQA-8.
    """
    rows, plains = [], {}
    for kind in asked or kinds():
        model, layout = load_model(kind["model"]), kind["layout"]
        parsed, pooled = parse_layout(layout, model), model.shape.mla is None and layout == "as-trained"
        reads, intensity = read_per_sequence(model, parsed, np.r_[CONTEXTS, kv_len], formats["kv_dtype"])
        of_kind = {"stored_bytes_per_token": kv_bytes_per_token(model, parsed, formats["kv_dtype"]),
                   "read_bytes_per_sequence": reads[-1], "flop_per_byte": intensity[-1]}
        for chip in chips:
            both = chip.name, model.name
            if both not in plains:
                plains[both] = _side(chip, plain(model), "as-trained", batch, kv_len, **formats)
            own, mqa = _side(chip, model, layout, batch, kv_len, **formats), float("nan")
            other = plains[both]
            if bool(own.lacks) != bool(other.lacks):  # attention of both on one chip
                own, other = (side if side.lacks else _side(
                    chip, one, name, batch, kv_len, alone=True, **formats) for side, one, name in (
                        (own, model, layout), (other, plain(model), "as-trained")))
            if pooled and not own.lacks:  # fewer heads can be asked for beside the kind
                beside = evaluate_group(chip, model, "mqa", rivals=["mqa"], baseline=False, batch=[batch],
                                        kv_len=[kv_len], q_len=[1.0], **formats)
                mqa = own.cost[_NOW] / (beside.step_time_s * beside.machine.chips).item()
            rows.append({
                "kind": kind["kind"], "model": model.name, "attention": layout, "hardware": chip.name, "batch": batch,
                "kv_len": kv_len, **of_kind, **_on_chip(own, other, chip), "mqa_advantage": mqa,
                "without_step": own.lacks or (other.lacks and f"with GQA-8 {other.lacks}"),
                "quality": kind["quality"], "quality_source": kind["source"], "reads": reads[:-1]})
    return rows
