r"""Bounds of a prediction from what predictions of other chips missed, and how often they hold.

Residuals are :math:`\ln(t/\hat t)` of rows to which no constant was fitted. Rows of one chip and software are one
cluster: clusters weigh the same, whatever their rows. Of a chip's rows, bounds are quantiles over the clusters of the
other chips that are known as well (leave one chip out); where fewer than :data:`LEAST_CLUSTERS` of
:data:`LEAST_CHIPS` are left, of those known by measured kernels in either way (:data:`MEASURED`), else of all others,
and where these are fewer too there is no bound. With ``n`` clusters a
share ``s`` is asked of the levels
:math:`\frac{1-s}{2}\frac{n+1}{n} - \frac1n` from either end (split conformal prediction, Vovk et al. 2005), and at the
least of :math:`\frac{1-s}{2n}`: of the outermost cluster's own rows, not of its outermost row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from simkit.evidence.accelerators.compare import Compared, alike_pairs
from simkit.evidence.accelerators.table import MeasuredRow
from simkit.hardware.catalog import Chips, load_hardware

SHARES: Final = (0.5, 0.9)
LEAST_CLUSTERS, LEAST_CHIPS = 3, 2
MEASURED: Final = frozenset({"measured kernels", "a measured chip like it"})
KINDS: Final = {"kernel_s": "kernel", "gemm_s": "product", "collective_s": "exchange",
                "bandwidth_bytes_per_s": "memory", "slope_s_per_token": "slope"}


def kind_of(row: MeasuredRow) -> str:
    """What a row is of: rows of one kind may miss alike."""
    return "slope" if row.op.startswith("slope") else KINDS.get(row.quantity, "step")


def factors(residuals: Any, clusters: Sequence[Any], share: float) -> tuple[float, float]:
    """What a prediction is multiplied by for the ends of its bounds; every cluster weighs the same."""
    names, of = np.unique(np.array([str(one) for one in clusters]), return_inverse=True)
    count = len(names)
    order = np.argsort(residuals)
    weight = (1.0 / (np.bincount(of)[of] * count))[order]
    middle = np.cumsum(weight) - weight / 2.0
    tail = (1.0 - share) / 2.0
    level = max(tail * (count + 1) / count - 1.0 / count, tail / count)
    low, high = np.interp([level, 1.0 - level], middle, np.asarray(residuals)[order])
    return float(np.exp(low)), float(np.exp(high))


def residuals_of(found: Compared, chips: Chips = load_hardware) -> list[tuple[int, str, str, tuple[str, str], float]]:
    """Place, kind, how its chip is known, cluster, residual: of each predicted row, and of each pair by its MHA row."""
    log = np.log(found.measured / found.predicted)
    known: dict[str, str] = {}

    def one(place: int, kind: str, value: float) -> tuple[int, str, str, tuple[str, str], float]:
        row = found.rows[place]
        how = known.get(row.chip) or known.setdefault(row.chip, chips(row.chip).known_by)
        return place, kind, how, (row.chip, found.runtimes[place].name), float(value)

    rows = [one(place, kind_of(found.rows[place]), log[place]) for place in np.flatnonzero(np.isfinite(log)).tolist()]
    pairs = [one(mha, f"{kind_of(found.rows[mha])} ratio", log[mha] - log[grouped])
             for mha, grouped in alike_pairs(found.rows) if np.isfinite(log[mha] + log[grouped])]
    return rows + pairs


def bounds(found: Compared, chips: Chips = load_hardware) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """Factors at each of :data:`SHARES` for every predicted row and kind, from the rows of other chips."""
    everything = residuals_of(found, chips)
    honest = [one for one in everything if not found.calibrated(one[0])]
    made: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    result = {}
    for place, kind, how, (chip, _), _ in everything:
        key = chip, kind, how
        if key not in made:
            others = [one for one in honest if one[1] == kind and one[3][0] != chip]
            alike = [one for one in others if one[2] == how]
            near = [one for one in others if {one[2], how} <= MEASURED]
            used = next((some for some in (alike, near, others) if len({one[3] for one in some}) >= LEAST_CLUSTERS
                         and len({one[3][0] for one in some}) >= LEAST_CHIPS), [])
            made[key] = [factors([one[4] for one in used], [one[3] for one in used], share) if used else
                         (np.nan, np.nan) for share in SHARES]
        result[place, kind] = made[key]
    return result


def coverage(found: Compared, chips: Chips = load_hardware) -> list[dict[str, Any]]:
    """One record a chip and kind: how often measurements lie in bounds that other chips gave, and their width."""
    ends = bounds(found, chips)
    groups: dict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
    for place, kind, how, (chip, _), residual in residuals_of(found, chips):
        groups[chip, how, kind].append((place, residual))
    made = []
    for (chip, how, kind), members in groups.items():
        shares = [np.mean([low <= np.exp(residual) <= high for place, residual in members
                           for low, high in [ends[place, kind][level]]]) for level in range(len(SHARES))]
        low, high = ends[members[0][0], kind][-1]
        known = np.isfinite(low)
        made.append({"chip": chip, "known_by": how, "kind": kind, "rows": len(members),
                     "inside_50": float(shares[0]) if known else None, "inside_90": float(shares[1]) if known else None,
                     "low_90": low if known else None, "high_90": high if known else None})
    return made


def points(found: Compared, chips: Chips = load_hardware) -> list[dict[str, Any]]:
    """One record a row: what was measured and predicted, the bounds of that, what was assumed."""
    ends = bounds(found, chips)

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


def _ends_of(found: Compared, place: int, ends: dict[tuple[int, str], list[tuple[float, float]]]) -> dict[str, Any]:
    """``low_50`` to ``high_90`` of a row's value; None where nothing is known."""
    row = found.rows[place]
    known = ends.get((place, kind_of(row)), [(np.nan, np.nan)] * len(SHARES))
    made: dict[str, Any] = {}
    for share, pair in zip(SHARES, known, strict=True):
        values = sorted(row.time_of(found.predicted[place] * factor) for factor in pair)
        made |= {f"{end}_{100 * share:.0f}": float(value) if np.isfinite(value) else None
                 for end, value in zip(("low", "high"), values, strict=True)}
    return made
