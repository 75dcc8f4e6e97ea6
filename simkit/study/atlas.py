r"""The atlas of attention: each kind on a model that has it, against plain GQA-8 there, and where that stops paying.

Plain: every layer that attends or keeps a state has the model's query heads and 8 KV heads of 128 elements over all
tokens; all else stays. Each runs on the chips of its least cost, and what is compared is chip-seconds of a token:

.. math:: A = \frac{chips_{plain}\, T_{plain}}{chips_{kind}\, T_{kind}}

A kind pays where :math:`A \ge 1.1`. Contexts, batches, drafts and bandwidths are tried in doublings.
"""

from __future__ import annotations

from dataclasses import replace
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
from simkit.study.cache_size import kv_bytes_per_token
from simkit.study.evaluate import FIT, evaluate_group
from simkit.study.vary import faster_memory

PAYS: Final = 1.1  # as other figures and claims of where a layout stops paying have it
CONTEXTS: Final = 2.0 ** np.arange(10, 21)
BATCHES: Final = 2.0 ** np.arange(11)
DRAFTS: Final = 2.0 ** np.arange(5)
FACTORS: Final = 2.0 ** np.arange(7)
_PLAIN_KV_HEADS, _PLAIN_WIDTH = 8, 128  # of Llama 3 (arXiv 2407.21783, table 3) and most models since
_FILE: Final = "attention_atlas.yaml"


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


def of_kind(kind: dict[str, str], chip: HardwareProfile, *, batch: float, kv_len: float,
            **formats: Any) -> dict[str, Any]:
    """One row. ``formats``: kv_dtype and weight_dtype. Raises :class:`UserError` where a chip cannot say."""
    model, layout = load_model(kind["model"]), kind["layout"]

    def costs(one: ModelArchitecture, name: str, on: HardwareProfile, at: Any, chips: Any) -> Any:
        """Chip-seconds of steps, NaN where they fit on no number of chips, and those chips."""
        found = evaluate_group(on, one, name, rivals=[name], chips=chips, baseline=False, batch=at[0], kv_len=at[1],
                               q_len=at[2], **formats).select(("step_time_s", "chips"))
        return found["step_time_s"] * found["chips"], found["chips"]

    def both(on: HardwareProfile, at: Any, chips: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
        """The kind's advantage and cost, and the chips of both; where only the plain model has no room it pays."""
        (own, own_chips), (other, other_chips) = (costs(one, name, on, at, count) for one, name, count in (
            (model, layout, chips[0]), (plain(model), "as-trained", chips[1])))
        with np.errstate(invalid="ignore"):
            return np.where(np.isnan(own), np.nan, np.nan_to_num(other, nan=np.inf) / own), own, own_chips, other_chips

    ends = np.cumsum([len(CONTEXTS), len(BATCHES), len(DRAFTS)])
    points = (np.r_[np.full(ends[0], batch), BATCHES, np.full(len(DRAFTS), batch)],
              np.r_[CONTEXTS, np.full(ends[2] - ends[0], kv_len)], np.r_[np.ones(ends[1]), DRAFTS])
    advantage, own, *chips = both(chip, points, (FIT, FIT))
    contexts, batches, drafts = np.split(advantage, ends[:2])
    now, factors = tuple(np.array([value]) for value in (batch, kv_len, 1.0)), np.full(len(FACTORS), np.nan)
    if np.isfinite(drafts[0]):
        factors = both(faster_memory(chip, FACTORS), tuple(np.repeat(value, len(FACTORS)) for value in now),
                       (int(chips[0][ends[1]]), int(chips[1][ends[1]])))[0]
    pooled = model.shape.mla is None and layout == "as-trained"  # where fewer heads can be asked for beside the kind
    copy = evaluate_group(chip, model, layout, rivals=[layout], chips=1, baseline=False, batch=np.full(
        len(CONTEXTS) + 1, batch), kv_len=np.r_[CONTEXTS, kv_len], q_len=np.ones(len(CONTEXTS) + 1), **formats).select(
            ("kv_read_bytes", "arithmetic_intensity"))
    balance, stops = float(np.max(chip.ridge_point_flop_per_byte())), stops_at(FACTORS, factors)
    return {
        "kind": kind["kind"], "model": model.name, "attention": layout, "hardware": chip.name, "batch": batch,
        "kv_len": kv_len,
        "stored_bytes_per_token": kv_bytes_per_token(model, parse_layout(layout, model), formats["kv_dtype"]),
        "read_bytes_per_sequence": copy["kv_read_bytes"][-1] / batch, "flop_per_byte": copy["arithmetic_intensity"][-1],
        "advantage": drafts[0], "pays_from_kv_len": pays_from(CONTEXTS, contexts),
        "pays_from_batch": pays_from(BATCHES, batches), "stops_at_draft_tokens": stops_at(DRAFTS, drafts),
        "machine_balance_flop_per_byte": balance,
        "stops_at_balance_flop_per_byte": balance / stops if np.isfinite(stops) else stops,
        "mqa_advantage": (own[ends[1]] / costs(model, "mqa", chip, now, FIT)[0]).item() if pooled else float("nan"),
        "quality": kind["quality"], "quality_source": kind["source"], "reads": copy["kv_read_bytes"][:-1] / batch}


def atlas(chips: list[HardwareProfile], *, batch: float, kv_len: float, **formats: Any) -> list[dict[str, Any]]:
    """A row for every kind and every chip that can say; ``reads`` of a row are bytes of one sequence at CONTEXTS."""
    rows = []
    for kind in kinds():
        for chip in chips:
            try:
                rows.append(of_kind(kind, chip, batch=batch, kv_len=kv_len, **formats))
            except UserError:  # a profile without a figure that this kind needs
                continue
    return rows
