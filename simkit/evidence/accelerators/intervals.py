r"""Bounds of a prediction from what predictions of other chips missed, and how often they hold.

Residuals are :math:`\ln(t/\hat t)` of rows to which no constant was fitted. Rows of one chip and software are one
cluster; boards of one die are one chip (:data:`ONE_DIE`). Of a chip's rows, bounds come from the clusters of the other
chips that are known as well (leave one chip out); where these are fewer than :data:`LEAST_CLUSTERS` of
:data:`LEAST_CHIPS`, from those known by measurements in either way or by none (:data:`NEAR`), else from all others.

Clusters differ from one another more than rows of one do, so that clusters count and not rows. Their quantiles
:math:`q` at :math:`(1 \mp s)/2` are draws of what the next cluster's would be, and the bound ends where a share
:math:`(1+s)/2` of next clusters have theirs (Student's t, as of a next study in meta-analysis: Higgins, Thompson,
Spiegelhalter 2009, J. R. Stat. Soc. A 172, section 4):

.. math:: \overline{q} \mp t_{n-1,(1+s)/2}\; s_q \sqrt{1 + 1/n}

That quantiles are normal is assumed: clusters alone (conformal prediction over groups: Dunn, Wasserman, Ramdas 2022,
arXiv 1809.07441) give no finite 90 % bound below nineteen of them.

Rows whose prompts and answers are not stated miss by more, and take their bounds from such rows.

Kernels, products and exchanges are few in the table of accelerators. Beside them stand the kernels measured on four
GPUs, each predicted from its own calibration, from each other chip's, and from its data sheet alone
(``tools/derive_residuals.py``); those predicted below :data:`SHORT_S` are launches more than bytes, and their own kind.

A step of MHA takes no less than one of grouped heads but for its weights, and no more than all bytes say
(:attr:`Missed.least`, ``most``); bounds of a ratio end there, widened by what measured ratios go beyond.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from scipy.stats import t as student

from simkit.evidence.accelerators.compare import Compared, alike_pairs
from simkit.evidence.accelerators.conditions import lengths_assumed, model_of, read_parameters
from simkit.evidence.accelerators.table import MeasuredRow
from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.catalog import Chips, load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.serving.runtime import Runtime
from simkit.study.likely import SHORT_S

SHARES: Final = (0.5, 0.9)
LEAST_CLUSTERS: Final = 4
LEAST_CHIPS: Final = 3  # known in the same way; known nearly so:
LEAST_NEAR_CHIPS: Final = 2
OWN: Final = "measured kernels"
MEASURED: Final = frozenset({OWN, "a measured chip like it"})
NEAR: Final = (MEASURED, frozenset({"tiles", "data sheet"}))
KINDS: Final = {"kernel_s": "kernel", "gemm_s": "product", "collective_s": "exchange",
                "bandwidth_bytes_per_s": "product", "slope_s_per_token": "step"}
TIMED: Final = ("kernel_s", "gemm_s", "collective_s")
ONE_DIE: Final = {"a100-sxm-40gb": "a100-sxm-80gb", "tenstorrent-wormhole-n150": "tenstorrent-wormhole-n300"}
UNSTATED: Final = "step of lengths unstated"
# SambaNova's requests hold a first token of Llama-2-7B of seven times Llama-3-8B's (the table's own note), which says
# nothing of steps: their ratios are judged, and give no bounds.
NO_RATIO: Final = {("sambanova-sn40l", "request_s")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """What a prediction missed: the logarithm of measured over predicted.

    ``place``: of the row, of a ratio that of MHA's; -1: kernels of a GPU. ``cluster``: chip and software, or chip and
    the one whose calibration stands in. ``least``, ``most``: logarithms of a ratio's physical ends over the prediction.
    """

    place: int
    kind: str
    known_by: str
    cluster: tuple[str, str]
    value: float
    least: float = -np.inf
    most: float = np.inf
    grouped: int = -1
    """Of a ratio, the place of the row beside MHA's."""


def kind_of(row: MeasuredRow, predicted_s: float) -> str:
    """What a row is of: rows of one kind may miss alike. A slope is of steps, a rate of memory of its products."""
    kind = KINDS.get(row.quantity, "step")
    return f"short {kind}" if row.quantity in TIMED and predicted_s < SHORT_S else kind


def known_by(kind: str, chip: HardwareProfile, runtime: Runtime) -> str:
    """What times of that kind rest on."""
    if kind.endswith("exchange"):
        link = chip.provenance.get("links.scale_up.latency")
        return OWN if link is not None and link.confidence == "calibration" else "data sheet"
    return OWN if runtime.profile else chip.known_by


def factors(residuals: Sequence[tuple[float, tuple[str, str]]], share: float) -> tuple[float, float]:
    """What a prediction is multiplied by for the ends of its bounds, from residuals with their clusters.

    A share of 0 gives the middle twice. NaN where fewer than two chips say what chips differ by.
    """
    clusters: dict[tuple[str, str], list[float]] = defaultdict(list)
    for value, cluster in residuals:
        clusters[cluster].append(value)
    count = len(clusters)
    if len({chip for chip, _ in clusters}) < 2:
        return np.nan, np.nan
    levels = np.array([1.0 - share, 1.0 + share]) / 2.0
    own = np.array([np.quantile(values, levels, method="hazen") for values in clusters.values()])
    ends = own.mean(axis=0) + student.ppf(levels, count - 1) * own.std(axis=0, ddof=1) * np.sqrt(1.0 + 1.0 / count)
    low, high = np.exp(ends)
    return float(low), float(high)


@cache
def of_gpus() -> tuple[Missed, ...]:
    """What predictions of kernels that four GPUs measured missed, as equally likely values of each cluster."""
    data = load_yaml(shipped_folder("hardware_profiles") / "priors" / "residuals.yaml").data
    return tuple(Missed(place=-1, kind=one["kind"], known_by=one["known_by"], cluster=(one["chip"], one["by"]),
                        value=float(np.log(factor))) for one in data["kernels"] for factor in one["factors"])


def residuals_of(found: Compared, chips: Chips = load_hardware) -> list[Missed]:
    """Of each predicted row, and of each pair by its MHA row."""
    log, profile = np.log(found.measured / found.predicted), cache(chips)

    def one(place: int, kind: str, value: float, **of_ratio: Any) -> Missed:
        chip, runtime = profile(found.rows[place].chip), found.runtimes[place]
        return Missed(place=place, kind=kind, known_by=known_by(kind.removesuffix(" ratio"), chip, runtime),
                      cluster=(ONE_DIE.get(chip.name, chip.name), runtime.name), value=float(value), **of_ratio)

    rows = [one(place, UNSTATED if lengths_assumed(found.rows[place])
                else kind_of(found.rows[place], found.predicted[place]), log[place])
            for place in np.flatnonzero(np.isfinite(log)).tolist()]
    pairs = [one(mha, f"{kind_of(found.rows[grouped], found.predicted[grouped])} ratio", log[mha] - log[grouped],
                 grouped=grouped, **_physical(found, mha, grouped))
             for mha, grouped in alike_pairs(found.rows) if np.isfinite(log[mha] + log[grouped])]
    return rows + pairs


def _physical(found: Compared, mha: int, grouped: int) -> dict[str, float]:
    """Logarithms of the least and the most that a ratio may be, over the one predicted."""
    models = [found.rows[place].model for place in (mha, grouped)]
    own_weights, grouped_weights = (sum(read_parameters(model_of(name))) if name else 1.0 for name in models)
    own = found.predicted[mha] / found.predicted[grouped]
    least, most = min(own_weights / grouped_weights, 1.0), found.naive[mha] / found.naive[grouped]
    return {"least": float(np.log(least / own)),
            "most": float(np.log(max(most, least) / own)) if np.isfinite(most) else np.inf}


def fitted(found: Compared, one: Missed) -> bool:
    """Whether something was fitted to the row, or to either row of a ratio."""
    return found.calibrated(one.place) or (one.grouped >= 0 and found.calibrated(one.grouped))


def alike(others: Sequence[Missed], how: str) -> list[Missed]:
    """Of some residuals those of chips known so; where these are few, of those known nearly so, and then all."""
    near: frozenset[str] = next((names for names in NEAR if how in names), frozenset())
    for names, least in ((frozenset({how}), LEAST_CHIPS), (near, LEAST_NEAR_CHIPS)):
        some = {one.cluster for one in others if one.known_by in names}
        if len(some) >= LEAST_CLUSTERS and len({chip for chip, _ in some}) >= least:
            return [one for one in others if one.known_by in names]
    return list(others)


def quantiles(used: Sequence[Missed]) -> list[tuple[float, float]]:
    """Factors at each of :data:`SHARES`; NaN without residuals."""
    return [factors([(one.value, one.cluster) for one in used], share) for share in SHARES]


def beyond(ratios: Sequence[Missed]) -> list[tuple[float, float]]:
    """Factors by which measured ratios go below the least and above the most that physics says, at each share."""
    known = [one for one in ratios if np.isfinite(one.least)]
    return [(factors([(min(one.value - one.least, 0.0), one.cluster) for one in known], share)[0],
             factors([(max(one.value - one.most, 0.0), one.cluster) for one in known], share)[1]) for share in SHARES]


def outside(found: Compared, one: Missed) -> bool:
    """Whether a residual gives no bounds: a slope's, which is part of a step, and those of :data:`NO_RATIO`."""
    row = found.rows[one.place]
    is_slope = row.quantity.startswith("slope") or row.op.startswith("slope")
    return is_slope or (one.kind.endswith("ratio") and (one.cluster[0], row.quantity) in NO_RATIO)


def bounds(found: Compared, chips: Chips = load_hardware) -> list[tuple[Missed, list[tuple[float, float]]]]:
    """Each residual with the factors at each of :data:`SHARES` that other chips give."""
    everything = residuals_of(found, chips)
    givers = [one for one in everything if not fitted(found, one) and not outside(found, one)] + [*of_gpus()]
    of_key: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    slack: dict[tuple[str, str], list[tuple[float, float]]] = {}
    made = []
    for at in everything:
        key, chip = (at.kind, at.cluster[0], at.known_by), at.cluster[0]
        if key not in of_key:
            others = [one for one in givers if one.kind == at.kind and one.cluster[0] != chip]
            of_key[key], slack[key[:2]] = quantiles(alike(others, at.known_by)), beyond(others)
        ends = [(max(low, np.exp(at.least) * below), min(high, np.exp(at.most) * above))
                for (low, high), (below, above) in zip(of_key[key], slack[key[:2]], strict=True)]
        made.append((at, [(min(pair), max(pair)) for pair in ends]))
    return made


def coverage(found: Compared, chips: Chips = load_hardware) -> list[dict[str, Any]]:
    """One record a chip and kind: how often measurements lie in bounds from other chips, and these' median.

    ``rows`` are those to which nothing was fitted; how many others there are, and how often these lie in bounds, is
    ``rows_fitted`` and ``fitted_inside_90``.
    """
    groups: dict[tuple[str, str, str], list[tuple[Missed, list[tuple[float, float]]]]] = defaultdict(list)
    for at, ends in bounds(found, chips):
        groups[found.rows[at.place].chip, at.known_by, at.kind].append((at, ends))
    made = []
    for (chip, how, kind), members in groups.items():
        inside = np.array([[low <= np.exp(at.value) <= high for low, high in ends] for at, ends in members])
        seen = np.array([fitted(found, at) for at, _ in members])
        low, high = (float(end) for end in np.median([ends[-1] for _, ends in members], axis=0))
        known = np.isfinite(low)
        shares = {name: float(np.mean(inside[of, level])) if known and of.any() else None for name, of, level in (
            ("inside_50", ~seen, 0), ("inside_90", ~seen, 1), ("fitted_inside_90", seen, 1))}
        last = shares.pop("fitted_inside_90")
        made.append({"chip": chip, "known_by": how, "kind": kind, "rows": int((~seen).sum()), **shares,
                     "low_90": low if known else None, "high_90": high if known else None,
                     "rows_fitted": int(seen.sum()), "fitted_inside_90": last})
    return made


def points(found: Compared, chips: Chips = load_hardware) -> list[dict[str, Any]]:
    """One record a row: what was measured and predicted, the bounds of that, what was assumed."""
    ends = {at.place: pairs for at, pairs in bounds(found, chips) if not at.kind.endswith("ratio")}

    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return [{
        "id": row.id, "chip": row.chip, "series": row.series, "quantity": row.quantity, "model": row.model or None,
        "op": row.op or None, "chips": row.chips, "batch": row.batch, "prompt_tokens": row.prompt_tokens,
        "output_tokens": row.output_tokens, "kv_len": row.kv_len, "software": row.software,
        "runtime": found.runtimes[place].name, "calibrated": found.calibrated(place), "measured": row.value,
        "predicted": plain(row.time_of(found.predicted[place])), "error": plain(found.error[place]),
        **_ends_of(found, place, ends),
        "naive": plain(row.time_of(found.naive[place])), "assumed": found.assumed[place] or None,
        "why": found.why[place] or None} for place, row in enumerate(found.rows)]


def _ends_of(found: Compared, place: int, ends: Mapping[int, list[tuple[float, float]]]) -> dict[str, Any]:
    """``low_50`` to ``high_90`` of a row's value; None where nothing is known."""
    row = found.rows[place]
    known = ends.get(place, [(np.nan, np.nan)] * len(SHARES))
    made: dict[str, Any] = {}
    for share, pair in zip(SHARES, known, strict=True):
        values = sorted(row.time_of(found.predicted[place] * factor) for factor in pair)
        made |= {f"{end}_{100 * share:.0f}": float(value) if np.isfinite(value) else None
                 for end, value in zip(("low", "high"), values, strict=True)}
    return made
