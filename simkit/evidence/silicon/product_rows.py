"""Measured weight products and all-reduces as the engines' operators and collectives."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.tables import ELEMENT_BYTES, MeasuredTimes
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import ElementFormat, parse_format
from simkit.step.operators import gemm
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload
from simkit.timing.exchanges import all_reduce_time_s
from simkit.timing.products import moved_bytes, streamed_times

# The benchmark of products goes round about six sets of buffers: with fewer or more the times of products near the
# cache's size make no sense (scan of 1, 3, 4, 5, 6, 7, 8, 12 over the measured rows: least error at 6).
WEIGHT_COPIES: Final = 6


def gemm_times_s(rows: MeasuredTimes, hardware: HardwareProfile) -> Any:
    """Predicted seconds of ``y[m, n] = x[m, k] w[k, n]``: a step's own operator, timed by itself and in its loop."""
    columns = rows.columns
    times = np.empty(len(rows))
    for dtype in np.unique(columns["dtype"]):
        where = np.flatnonzero(columns["dtype"] == dtype)
        m, n, k = (columns[name][where] for name in ("m", "n", "k"))
        times[where] = product_times_s(m, n, k, parse_format(str(dtype)), hardware)
    return times


def product_times_s(m: Any, n: Any, k: Any, weight_format: ElementFormat, hardware: HardwareProfile,
                    n_copies: int | None = WEIGHT_COPIES) -> Any:
    """Seconds of products whose weights are stored so, alone, in a loop over so many of them; None: always cold."""
    operator = gemm(_step_of_rows(m, weight_format), "gemm", 1, k, n)
    assert operator.product is not None  # noqa: S101  # gemm makes nothing else
    return streamed_times(operator, weights_in_main_memory(hardware), hardware, alone=True,
                          scanned_bytes=n_copies and n_copies * moved_bytes(operator.product)).total_s


def _step_of_rows(rows: Any, weight_format: ElementFormat) -> DecodeWorkload:
    """A decode step of so many sequences whose weights have this format, of a model that plays no further part."""
    model = ModelArchitecture(
        name="products", title="products alone", hidden_size=1, n_q_heads=1, n_kv_heads=1, head_dim=1,
        layer_groups=(LayerGroup(count=1, window=None, moe=False),), mlp=None, moe=None, mla=None, vocab_size=1,
        tied_embeddings=True)
    return DecodeWorkload(model=model, layout=parse_layout("mha", model), n_kv_heads=1, batch=rows, kv_len=1.0,
                          q_len=1.0, kv_format=parse_format("bf16"), weight_format=weight_format)


def weights_in_main_memory(hardware: HardwareProfile) -> Placement:
    """Weights where they usually lie; what was measured fitted."""
    home = [level for level in hardware.homes("weights") if not level.overflow][-1]
    return Placement(weights={home.name: 1.0}, kv={}, fits=True, max_batch=np.inf)


def allreduce_times_s(rows: MeasuredTimes, hardware: HardwareProfile) -> Any:
    """Predicted seconds of all-reduces inside a node. Raises :class:`UserError` for a chip without a link."""
    if hardware.scale_up is None:
        raise UserError(f"{hardware.name} has no scale_up link in its profile")
    size = np.array([ELEMENT_BYTES[str(name)] for name in rows.columns["dtype"]])
    return all_reduce_time_s(rows.columns["elements"] * size, rows.columns["chips"], hardware.scale_up)
