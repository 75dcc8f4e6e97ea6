r"""The atlas of attention: each kind on a model that has it, against plain GQA-8 there, and where that stops paying.

Plain: every layer that attends or keeps a state has the model's query heads and 8 KV heads of 128 elements over all
tokens; all else stays. Each runs on the chips of its least cost, and what is compared is chip-seconds of a token:

.. math:: A = \frac{chips_{plain}\, T_{plain}}{chips_{kind}\, T_{kind}}

A kind pays where :math:`A \ge 1.1`. Contexts, batches, drafts and bandwidths are tried in doublings.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind: the model and layout that stand for it, and its quality where it is published."""

    kind: str
    model: str
    layout: str = "as-trained"
    quality: str = ""
    source: str = ""


def kinds() -> list[Kind]:
    """Every kind of the atlas."""
    text = files("simkit.study").joinpath(_FILE).read_text(encoding="utf-8")
    return [Kind(**entry) for entry in parse_yaml(text, file=_FILE).data["kinds"]]


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
    first = 0 if not len(short) else short[-1] + 1
    return float("nan") if not len(known) else float(values[known[first]]) if first < len(known) else float("inf")


def stops_at(values: Any, advantage: Any) -> float:
    """The first of ``values`` at which a kind does not pay; infinite: it pays at all; NaN: it fits nowhere."""
    short = np.flatnonzero(np.nan_to_num(advantage, nan=np.inf) < PAYS)
    return float("nan") if np.all(np.isnan(advantage)) else float(values[short[0]]) if len(short) else float("inf")


def of_kind(kind: Kind, chip: HardwareProfile, *, batch: float, kv_len: float, **formats: str) -> dict[str, Any]:
    """One row of the atlas. ``formats``: kv_dtype and weight_dtype. Raises :class:`UserError` where a chip cannot say."""
    model = load_model(kind.model)
    baseline = plain(model)

    def cost(one: ModelArchitecture, layout: str, chips: Any = FIT, on: HardwareProfile = chip, **at: Any) -> Any:
        """Chip-seconds of a step; NaN where it fits on no number of chips."""
        point = {"batch": batch, "kv_len": kv_len, "q_len": 1.0} | at
        arrays = dict(zip(point, np.broadcast_arrays(*map(np.asarray, point.values())), strict=True))
        arrays = {name: np.ravel(value) * 1.0 for name, value in arrays.items()}
        found = evaluate_group(on, one, layout, rivals=[layout], chips=chips, baseline=False, **arrays,
                               **formats).select(("step_time_s", "chips"))
        return found["step_time_s"] * found["chips"], found["chips"]

    ends = np.cumsum([len(CONTEXTS), len(BATCHES), len(DRAFTS)])
    points = {"batch": np.r_[np.full(ends[0], batch), BATCHES, np.full(len(DRAFTS), batch)],
              "kv_len": np.r_[CONTEXTS, np.full(ends[2] - ends[0], kv_len)],
              "q_len": np.r_[np.ones(ends[1]), DRAFTS]}
    own, chips_own = cost(model, kind.layout, **points)
    other, chips_other = cost(baseline, "as-trained", **points)
    # Where only the plain model fits on no number of chips, the kind pays.
    advantage = np.where(np.isnan(own), np.nan, np.where(np.isnan(other), np.inf, other / own))
    contexts, batches, drafts = np.split(advantage, ends[:2])
    faster = np.full(len(FACTORS), np.nan)
    if np.isfinite(drafts[0]):
        many = {"on": faster_memory(chip, FACTORS), "batch": np.full(len(FACTORS), batch)}
        faster = (cost(baseline, "as-trained", int(chips_other[ends[1]]), **many)[0]
                  / cost(model, kind.layout, int(chips_own[ends[1]]), **many)[0])
    pooled = model.shape.mla is None and kind.layout == "as-trained"
    stored = evaluate_group(chip, model, kind.layout, rivals=[kind.layout], chips=1, baseline=False, batch=np.full(
        CONTEXTS.shape, batch), kv_len=CONTEXTS, q_len=np.ones(CONTEXTS.shape), **formats)
    one_copy = stored.select(("kv_read_bytes", "arithmetic_intensity"))
    at = int(np.searchsorted(CONTEXTS, kv_len).clip(0, len(CONTEXTS) - 1))
    balance, stops = float(np.max(chip.ridge_point_flop_per_byte())), stops_at(FACTORS, faster)
    return {
        "kind": kind.kind, "model": kind.model, "attention": kind.layout, "hardware": chip.name, "batch": batch,
        "kv_len": kv_len, "stored_bytes_per_token": kv_bytes_per_token(model, parse_layout(kind.layout, model),
                                                                     formats["kv_dtype"]),
        "read_bytes_per_sequence": one_copy["kv_read_bytes"][at] / batch,
        "flop_per_byte": one_copy["arithmetic_intensity"][at], "advantage": drafts[0],
        "pays_from_kv_len": pays_from(CONTEXTS, contexts), "pays_from_batch": pays_from(BATCHES, batches),
        "stops_at_draft_tokens": stops_at(DRAFTS, drafts), "stops_at_bandwidth_factor": stops,
        "machine_balance_flop_per_byte": balance,
        "stops_at_balance_flop_per_byte": balance / stops if np.isfinite(stops) else stops,
        "mqa_advantage": (own[ends[1]] / cost(model, "mqa")[0]).item() if pooled else float("nan"),
        "quality": kind.quality, "quality_source": kind.source,
        "reads": one_copy["kv_read_bytes"] / batch}


def atlas(chips: list[HardwareProfile], *, batch: float, kv_len: float, **formats: str) -> list[dict[str, Any]]:
    """A row for every kind and every chip that can say; ``reads`` of a row are bytes of one sequence at CONTEXTS."""
    rows = []
    for kind in kinds():
        for chip in chips:
            try:
                rows.append(of_kind(kind, chip, batch=batch, kv_len=kv_len, **formats))
            except UserError:  # a profile without a figure that this kind needs
                continue
    return rows
