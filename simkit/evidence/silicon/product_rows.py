"""Measured weight products and exchanges between chips as the engines' operators and collectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.attention_rows import one_layer
from simkit.evidence.silicon.tables import ELEMENT_BYTES, MeasuredTimes
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile, Link
from simkit.model.architecture import LayerGroup, Moe
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import ElementFormat, parse_format
from simkit.step.collectives import collectives_of
from simkit.step.machine import Machine
from simkit.step.operators import Operator, gemm
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload
from simkit.timing.exchanges import all_reduce_time_s, expert_times_s
from simkit.timing.products import moved_bytes, streamed_times

# The benchmark of products goes round about six sets of buffers: with fewer or more the times of products near the
# cache's size make no sense (scan of 1, 3, 4, 5, 6, 7, 8, 12 over the measured rows: least error at 6).
WEIGHT_COPIES: Final = 6
CHIPS_OF_A_NODE: Final = 8


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
    operator = product(m, n, k, weight_format)
    assert operator.product is not None  # noqa: S101  # gemm makes nothing else
    return streamed_times(operator, weights_in_main_memory(hardware), hardware, alone=True,
                          scanned_bytes=n_copies and n_copies * moved_bytes(operator.product)).total_s


def product(m: Any, n: Any, k: Any, weight_format: ElementFormat) -> Operator:
    """``y[m, n] = x[m, k] w[k, n]`` as a step of so many sequences runs it, of a model that plays no further part."""
    model = one_layer(1, 1)
    return gemm(DecodeWorkload(model=model, layout=parse_layout("mha", model), n_kv_heads=1, batch=m, kv_len=1.0,
                               q_len=1.0, kv_format=parse_format("bf16"), weight_format=weight_format), "gemm", 1, k, n)


def weights_in_main_memory(hardware: HardwareProfile) -> Placement:
    """Weights where they usually lie; what was measured fitted."""
    home = [level for level in hardware.homes("weights") if not level.overflow][-1]
    return Placement(weights={home.name: 1.0}, kv={}, fits=True, max_batch=np.inf)


def allreduce_times_s(rows: MeasuredTimes, hardware: HardwareProfile) -> Any:
    """Predicted seconds of all-reduces inside a node. Raises :class:`UserError` for a chip without a link."""
    link = linked(hardware)
    size = np.array([ELEMENT_BYTES[str(name)] for name in rows.columns["dtype"]])
    return all_reduce_time_s(rows.columns["elements"] * size, rows.columns["chips"], link)


def dispatch_times_s(rows: MeasuredTimes, hardware: HardwareProfile) -> Any:
    """Predicted seconds of dispatches (fp8) and combines (16 bits) among the chips of nodes, by the kernels that ran:
    a step's own exchanges. Raises :class:`UserError` for a chip without a link.
    """
    columns, link = rows.columns, linked(hardware)
    times = np.empty(len(rows))
    shape = ("hidden_size", "top_k", "experts", "nodes")
    for where in rows.groups(shape):
        hidden, top_k, count, nodes = (int(columns[name][where[0]]) for name in shape)
        chips = float(nodes * CHIPS_OF_A_NODE)
        moe = Moe(experts=count, top_k=top_k, expert_size=1, shared_size=0, gated=True)
        model = replace(one_layer(1, hidden), moe=moe, layer_groups=(LayerGroup(count=1, window=None, moe=True),))
        workload = DecodeWorkload(
            model=model, layout=parse_layout("mha", model), n_kv_heads=1, batch=columns["tokens"][where] * chips,
            kv_len=1.0, q_len=1.0, kv_format=parse_format("bf16"), weight_format=parse_format("fp8"),
            machine=Machine.split(tp=chips, mapping="data"), ep=chips)
        for exchange in collectives_of(workload):
            if exchange.kind in ("dispatch", "combine"):
                few, many = expert_times_s(replace(exchange, copy_units=columns["sms"][where]), link)
                own = columns["exchange"][where] == exchange.kind
                times[where[own]] = np.where(columns["mode"][where] == "low-latency", few, many)[own]
    return times


def linked(hardware: HardwareProfile) -> Link:
    """The chip's link inside a node. Raises :class:`UserError` where it has none."""
    if hardware.scale_up is None:
        raise UserError(f"{hardware.name} has no scale_up link in its profile")
    return hardware.scale_up
