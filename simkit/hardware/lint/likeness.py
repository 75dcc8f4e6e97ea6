"""Comparison with like chips: an order of magnitude beyond every one of them is more often a slip than a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simkit.hardware.lint.dram import memory_family, near_bank
from simkit.hardware.lint.remarks import Path, Remark, outside
from simkit.hardware.profile import HardwareProfile


def _comparable(profile: HardwareProfile) -> Iterator[tuple[str, Path, float]]:
    """Parameters that like chips share, under a name that says what makes them alike."""
    where = " at the banks" if any(near_bank(level) for level in profile.memory) else ""
    for level in profile.memory:
        home = (memory_family(level) or f"{level.scope} {level.kind}") + where
        yield f"capacity of {home}", ("memory", level.name, "capacity"), level.capacity_bytes
        if level.bandwidth_bytes_per_s is not None:
            yield f"bandwidth of {home}", ("memory", level.name, "bandwidth"), level.bandwidth_bytes_per_s
        if level.latency_s:
            yield f"latency of {home}", ("memory", level.name, "latency"), level.latency_s
    for dtype, peak in profile.compute.matrix_peak_flop_per_s.items():
        yield f"{dtype} matrix rate{where}", ("compute", "matrix", "peak", dtype), peak
    if profile.compute.vector_peak_flop_per_s is not None:
        yield "vector rate", ("compute", "vector_peak"), profile.compute.vector_peak_flop_per_s
    if profile.power.tdp_w is not None:
        yield "power", ("power", "tdp"), profile.power.tdp_w
    if profile.overheads.kernel_launch_s:
        yield "kernel launch", ("overheads", "kernel_launch"), profile.overheads.kernel_launch_s


def parameters_resemble_like_chips(profile: HardwareProfile, catalogue: Sequence[HardwareProfile]) -> Iterator[Remark]:
    """A parameter ten times beyond every chip of the same kind is more often a slip than a record.

    Needs three others that state the parameter. A hundred times beyond is an error: no part was ever that far ahead.
    """
    others: dict[str, list[float]] = {}
    for other in catalogue:
        if other.kind == profile.kind and other.name != profile.name:
            for what, _, value in _comparable(other):
                others.setdefault(what, []).append(value)
    for what, path, value in _comparable(profile):
        known = others.get(what, [])
        if len(known) < 3:
            continue
        severity = outside(value, min(known) / 10, max(known) * 10, 10)
        if severity == "error" and profile.kind == "cpu" and value < min(known):
            severity = "warning"  # two cores of a virtual machine stand beside two sockets
        if severity:
            ratio = value / max(known) if value > max(known) else min(known) / value
            yield severity, path, (f"{what} is {ratio:.3g} times {'above' if value > max(known) else 'below'} every "
                                   f"other {profile.kind} of the catalogue: a slip of unit?")
