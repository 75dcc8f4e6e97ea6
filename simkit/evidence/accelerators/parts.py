"""Measured parts of a step: attention kernels, weight products, exchanges between chips, rates of the main memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.evidence.accelerators.conditions import format_of
from simkit.evidence.accelerators.table import MeasuredRow
from simkit.evidence.accelerators.whole_models import served
from simkit.evidence.silicon.product_rows import product_times_s
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile, Link
from simkit.serving.runtime import Runtime
from simkit.study.single_kernel import attention_kernel
from simkit.timing.chip_slices import GRIDS
from simkit.timing.exchanges import all_gather_time_s, all_reduce_time_s

# What a profiler calls the operators of a step; an operation that is none of these, or several at once, has no
# counterpart. `tail` operations stand outside the layers.
OPERATORS: Final = {
    "QKV_MM": "qkv_projection", "DO_MM (output projection)": "output_projection", "FF2_MM": "mlp_down",
    "tail: LM head matmul (Matmul_0)": "lm_head", "attention": "attention"}
# A product so large that only the memory counts: what `gemm` rates of DRAM are of (decode products of 70B models).
STREAMED_K, STREAMED_N, STREAMED_ROWS = 8192.0, 28672.0, 32.0
RING_CHIPS: Final = 4  # boards of a T3000, whose eight chips lie on a ring; two boards are a line


def kernel_times(rows: Sequence[MeasuredRow], chip: HardwareProfile, runtime: Runtime,
                 engine: str) -> tuple[Any, Any, str]:
    """Attention kernels alone, and bytes over peak bandwidth beside them."""
    one = rows[0]
    if not (one.n_q_heads and one.head_dim) or any(not (row.n_kv_heads and row.kv_len and row.batch) for row in rows):
        raise UserError("heads, batch or length of the kernel are not stated")
    kv_heads, batch, kv_len = (np.array([getattr(row, name) for row in rows], dtype=float)
                               for name in ("n_kv_heads", "batch", "kv_len"))
    found = attention_kernel(
        chip, n_q_heads=int(one.n_q_heads), n_kv_heads=kv_heads, head_dim=int(one.head_dim), batch=batch,
        kv_len=kv_len, kv_dtype=format_of(one.kv_dtype).name, engine=engine,
        kernel=runtime.attention_kernel)
    return found["time_s"], found["kv_cache_bytes"] / _peak_bytes_per_s(chip), ""


def product_times(rows: Sequence[MeasuredRow], chip: HardwareProfile) -> tuple[Any, Any, str]:
    """Weight products alone on one chip."""
    if any((row.chips or 1) > 1 for row in rows):
        raise UserError("how several chips share a product is not stated")
    m, n, k = (np.array([getattr(row, name) for row in rows], dtype=float) for name in ("m", "n", "k"))
    dtype = format_of(rows[0].weight_dtype)
    own = product_times_s(m, n, k, dtype, chip, n_copies=None)  # benchmarks rotate their operands
    peak = chip.compute.matrix_peak_flop_per_s[chip.compute.matrix_dtype(dtype.name)]
    moved = n * k * dtype.bytes_per_element + m * (k + n) * 2.0
    return own, np.maximum(moved / _peak_bytes_per_s(chip), 2.0 * m * n * k / peak), ""


def operator_times(rows: Sequence[MeasuredRow], chip: HardwareProfile, runtime: Runtime,
                   engine: str) -> tuple[Any, Any, str]:
    """One operator of a model's step, of one layer or of the ends, as the engine has it inside the step."""
    one = rows[0]
    if one.op not in OPERATORS:
        raise UserError(f"simkit's step has no operator of its own for '{one.op[:40]}'")
    at, copies, assumed = served(one, chip, runtime, engine)
    batch, kv_len = (np.array([getattr(row, name) or 1.0 for row in rows]) for name in ("batch", "kv_len"))
    points = at.replica.points(batch / copies, kv_len)
    step, _, timing = points.timed(at.replica.layout, at.replica.machine)
    name = OPERATORS[one.op]
    own = [operator for operator in step.operators if operator.name == name]
    count = sum(operator.count for operator in own)
    moved = sum(operator.count * (operator.weight_bytes + operator.kv_read_bytes) for operator in own) / count
    return (np.broadcast_to(timing.operator_time_s[name] / count, batch.shape),
            np.broadcast_to(moved / _peak_bytes_per_s(chip), batch.shape), assumed)


def exchange_times(rows: Sequence[MeasuredRow], chip: HardwareProfile) -> tuple[Any, Any, str]:
    """Collectives between chips; the bytes of a gather or scatter are those of the whole."""
    link, one = chip.scale_up, rows[0]
    if link is None:
        raise UserError(f"{chip.name} has no scale_up link in its profile")
    if any(row.moved_bytes is None or row.chips is None for row in rows):
        raise UserError("the bytes are not stated")
    moved = np.array([row.moved_bytes for row in rows], dtype=float)
    chips = float(one.chips or 1) * (chip.devices or 1)
    link = device_link(link, chip.devices or 1, one.chips or 1)
    if one.op == "all_reduce":
        own, passes = all_reduce_time_s(moved, chips, link), 2.0
    elif one.op in ("all_gather", "reduce_scatter"):
        own, passes = all_gather_time_s(moved / chips, chips, link), 1.0
    else:
        raise UserError(f"no collective is called '{one.op[:40]}'")
    naive = passes * (chips - 1.0) / chips * moved / link.bandwidth_bytes_per_s
    return np.where(chips > 1, own, np.nan), np.where(chips > 1, naive, np.nan), ""


def device_link(link: Link, devices: int, chips: float) -> Link:
    """The link between the devices of a grid's chips (the two of a board) along one line, or the ring of four chips up.

    A chip's hop passes half of its devices on the mean, and its start holds the hops inside; each of a chip's four
    sides has a link of every device.
    """
    if devices == 1 or link.topology not in GRIDS:
        return link
    hop_s = link.latency_s * 2.0 / (1 + devices)
    return replace(link, topology="torus" if chips >= RING_CHIPS else "mesh", shape=(int(chips * devices),), wraps=None,
                   bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / (2 * devices), latency_s=hop_s,
                   collective_launch_s=link.collective_launch_s - (devices - 1) * hop_s)


def memory_times(rows: Sequence[MeasuredRow], chip: HardwareProfile) -> tuple[Any, Any, str]:
    """Seconds a byte of the main memory: plain reads, and products that stream their weights."""
    one = rows[0]
    if one.op == "read":
        own: Any = 1.0 / (chip.main_memory.achievable_bytes_per_s or np.nan)
    elif one.op == "gemm":
        dtype = format_of(one.weight_dtype)
        m, n, k = (np.array([value]) for value in (STREAMED_ROWS, STREAMED_N, STREAMED_K))
        streamed = STREAMED_N * STREAMED_K * dtype.bytes_per_element
        own = product_times_s(m, n, k, dtype, chip, n_copies=None)[0] / streamed
    else:
        raise UserError("batch and length of the kernel are not stated")
    return np.full(len(rows), own), np.full(len(rows), 1.0 / _peak_bytes_per_s(chip)), ""


def _peak_bytes_per_s(chip: HardwareProfile) -> Any:
    bandwidth = chip.main_memory.chip_bandwidth_bytes_per_s
    return np.nan if bandwidth is None else bandwidth
