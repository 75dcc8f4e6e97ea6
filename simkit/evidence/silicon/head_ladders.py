"""What fewer KV heads bought on silicon: measured kernels at equal query heads, beside an engine's of those sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.evidence.silicon.compare import SHIPPED_LADDERS, predicted_times_s, systems_of
from simkit.evidence.silicon.tables import MeasuredTimes, shipped_table
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAdvantage:
    """A grouped kernel's speed over MHA's at equal other columns, as measured and as an engine predicts it."""

    hardware: str
    n_kv_heads: int
    batch: int
    kv_len: int
    measured_speedup: float
    predicted_speedup: float


def nearest_advantages(chip: HardwareProfile, model: ModelArchitecture, n_kv_heads: Sequence[int], *, kv_dtype: str,
                       tokens: float, engine: str = "roofline") -> list[MeasuredAdvantage]:
    """The measured kernels of a chip that are nearest to a workload, one for each number of KV heads that was measured.

    Kernels have the model's query heads and head size and the cache's format; of their sizes the one is taken whose
    cached tokens (batch x length) are nearest to ``tokens`` by their ratio.

    Parameters: n_kv_heads: numbers below the query heads; engine: whose prediction stands beside. Returns nothing for
    a chip or a shape that the shipped table lacks.
    """
    table = shipped_table(SHIPPED_LADDERS)
    columns = table.columns
    ours = (np.isin(columns["system"], systems_of(chip)) & (columns["kv_dtype"] == kv_dtype)
            & (columns["n_q_heads"] == model.n_q_heads) & (columns["head_dim"] == model.head_dim))
    return [found for heads in n_kv_heads
            if (found := _nearest(table.take(ours), chip, model.n_q_heads, heads, tokens, engine)) is not None]


def _nearest(rows: MeasuredTimes, chip: HardwareProfile, n_q_heads: int, n_kv_heads: int, tokens: float,
             engine: str) -> MeasuredAdvantage | None:
    columns = rows.columns
    sizes = np.stack([columns["batch"], columns["kv_len"]], axis=1)
    mha, grouped = (sizes[columns["n_kv_heads"] == heads] for heads in (n_q_heads, n_kv_heads))
    both = [size for size in grouped.tolist() if size in mha.tolist()]
    if not both or n_kv_heads == n_q_heads:
        return None
    batch, kv_len = min(both, key=lambda size: abs(np.log(size[0] * size[1] / tokens)))
    at: Any = (columns["batch"] == batch) & (columns["kv_len"] == kv_len)
    pair = rows.take([int(np.flatnonzero(at & (columns["n_kv_heads"] == heads))[0])
                      for heads in (n_q_heads, n_kv_heads)])
    measured, predicted = pair.time_s, predicted_times_s(pair, chip, engine)
    return MeasuredAdvantage(
        hardware=chip.name, n_kv_heads=n_kv_heads, batch=int(batch), kv_len=int(kv_len),
        measured_speedup=float(measured[0] / measured[1]), predicted_speedup=float(predicted[0] / predicted[1]))
