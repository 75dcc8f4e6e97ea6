"""Rules on arithmetic: what units and a clock can do, and what formats and pipes are to one another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from simkit.foundation.units import FLOP_PER_S, HERTZ, format_quantity
from simkit.hardware.lint.ranges import (
    CLOCK_HZ,
    FLOPS_PER_CLOCK,
    FORMAT_RATIOS,
    MATRIX_TO_VECTOR,
    SPECIAL_OPS_PER_CLOCK,
    VECTOR_FLOPS_PER_CLOCK,
)
from simkit.hardware.lint.remarks import Path, Remark, outside, unless_within
from simkit.hardware.profile import Compute, HardwareProfile

MEASURED: Final = ("calibration", "paper-measured")


def clock_is_of_its_kind(profile: HardwareProfile) -> Iterator[Remark]:
    """Clocks have stood between 0.7 and 3.3 GHz (CPUs: 6) since 2005, when voltage stopped falling with size."""
    clock = profile.compute.clock_hz
    if clock is None:
        return
    least, most = CLOCK_HZ[profile.kind]
    yield from unless_within(clock, least, most, 2, ("compute", "clock"), (
        f"{format_quantity(clock, HERTZ)}: clocks of a kind '{profile.kind}' lie between "
        f"{format_quantity(least, HERTZ)} and {format_quantity(most, HERTZ)}"))


def matrix_rate_follows_from_units_and_clock(profile: HardwareProfile) -> Iterator[Remark]:
    r"""Flops of one unit in one clock, :math:`\pi / (U f)`, is a design parameter with a known range by machine."""
    compute = profile.compute
    if compute.clock_hz is None:
        return
    least, most = FLOPS_PER_CLOCK[profile.kind]
    for dtype, peak in compute.matrix_peak_flop_per_s.items():
        per_clock = peak / (compute.units * compute.clock_hz)
        yield from unless_within(per_clock, least, most, 4, ("compute", "matrix", "peak", dtype), (
            f"{format_quantity(peak, FLOP_PER_S)} is {per_clock:.3g} flops a clock in each of {compute.units} "
            f"{compute.unit_name}s; {profile.kind} units do {least} to {most}"))
    if compute.vector_peak_flop_per_s is not None:
        per_clock = compute.vector_peak_flop_per_s / (compute.units * compute.clock_hz)
        least, most = VECTOR_FLOPS_PER_CLOCK[profile.kind]
        yield from unless_within(per_clock, least, most, 4, ("compute", "vector_peak"), (
            f"{format_quantity(compute.vector_peak_flop_per_s, FLOP_PER_S)} is {per_clock:.3g} flops a clock in "
            f"each of {compute.units} {compute.unit_name}s; {profile.kind} units do {least} to {most}"))


def half_rate(compute: Compute) -> float | None:
    """The 16-bit matrix rate, against which other parameters are held."""
    peaks = compute.matrix_peak_flop_per_s
    return peaks.get("bf16", peaks.get("fp16"))


def multiplier_arrays_are_powers_of_two(profile: HardwareProfile) -> Iterator[Remark]:
    """Rows, columns, pipes and lanes come in powers of two, and so does a unit's flops in a clock.

    The peak may be stated below the clock given (B300: 0.91 of it) or above (H100's vector rate: 1.08). A slip of ten
    in the peak, the units or the clock leaves a factor of 1.25. Rates that were measured fall where they fall.
    """
    compute = profile.compute
    rates: list[tuple[Path, float | None]] = [(("compute", "vector_peak"), compute.vector_peak_flop_per_s)]
    rates += [(("compute", "matrix", "peak", dtype), compute.matrix_peak_flop_per_s.get(dtype))
              for dtype in ("bf16", "fp16")]
    for path, rate in rates:
        stated = profile.provenance.get(".".join(path))
        if rate is None or compute.clock_hz is None or (stated is not None and stated.confidence in MEASURED):
            continue
        per_clock = rate / compute.units / compute.clock_hz
        off = per_clock / 2.0 ** round(math.log2(per_clock / 0.99))
        if not 0.9 <= off <= 1.1:
            yield "warning", path, (
                f"{format_quantity(rate, FLOP_PER_S)} is {per_clock:.4g} flops a clock in each of {compute.units} "
                f"{compute.unit_name}s, which is near no power of two: a slip in it, in the units or in the clock?")


def rates_are_in_order(profile: HardwareProfile) -> Iterator[Remark]:
    """Matrix units exist to be faster than vector units, and each format has its place beside the 16-bit one.

    Halving the width doubles the rate by construction of the multiplier array; more usually means that a sparse
    parameter stands beside a dense one.
    """
    compute = profile.compute
    peaks, half = compute.matrix_peak_flop_per_s, half_rate(compute)
    if half is not None and compute.vector_peak_flop_per_s is not None:
        least, most = MATRIX_TO_VECTOR
        yield from unless_within(half / compute.vector_peak_flop_per_s, least, most, 1.8, ("compute", "vector_peak"), (
            f"the 16-bit matrix rate is {half / compute.vector_peak_flop_per_s:.3g} times the vector rate: "
            f"expected {least:g} to {most:g}"))
    if half is not None:
        for dtype, rate in peaks.items():
            if dtype == "fp4" and "fp8" in peaks:
                continue  # its neighbour says more
            least, most = FORMAT_RATIOS[dtype]
            severity = outside(rate / half, least, most, 2.5)
            if severity:
                sparse = "; is one of them a sparse parameter?" if rate / half > most else ""
                yield severity if dtype != "int8" else "warning", ("compute", "matrix", "peak", dtype), (
                    f"{dtype} is {rate / half:.3g} times the 16-bit rate: expected {least:g} to {most:g}{sparse}")
    if "fp8" in peaks and "fp4" in peaks and outside(peaks["fp4"] / peaks["fp8"], 0.99, 2.6, 2.5):
        yield "warning", ("compute", "matrix", "peak", "fp4"), (
            f"fp4 is {peaks['fp4'] / peaks['fp8']:.3g} times fp8: expected 1 to 2; is one of them a sparse parameter?")


def exponentials_follow_from_units_and_clock(profile: HardwareProfile) -> Iterator[Remark]:
    """Special function units give 4 to 64 results a clock in each unit of a GPU, and fewer than the vector pipes."""
    compute = profile.compute
    if compute.special_ops_per_s is None:
        return
    if compute.vector_peak_flop_per_s is not None and compute.special_ops_per_s > compute.vector_peak_flop_per_s:
        yield "error", ("compute", "special_rate"), "more exponentials per second than vector flops"
    if compute.clock_hz is not None:
        per_clock = compute.special_ops_per_s / compute.units / compute.clock_hz
        least, most = SPECIAL_OPS_PER_CLOCK[profile.kind]
        yield from unless_within(per_clock, least, most, 4, ("compute", "special_rate"), (
            f"{per_clock:.3g} results a clock in each of {compute.units} {compute.unit_name}s: expected {least:g} "
            f"to {most:g}"))


def products_reach_their_share(profile: HardwareProfile) -> Iterator[Remark]:
    """Large products reach 0.5 to 0.99 of a dense peak; tiles are as many rows as the array, a power of two."""
    compute = profile.compute
    reached = compute.matrix_achievable_fraction
    yield from unless_within(reached, 0.3, 1.0, 6, ("compute", "matrix", "achievable_fraction"), (
        f"{reached:g} of the peak: large products reach 0.3 and more"))
    rows = compute.matrix_tile_rows
    if rows & (rows - 1):
        yield "warning", ("compute", "matrix", "tile_rows"), f"{rows} rows are no power of two, as those of tiles are"
    elif rows > 256:
        yield "error", ("compute", "matrix", "tile_rows"), f"no matrix unit has tiles of {rows} rows"


RULES = (clock_is_of_its_kind, matrix_rate_follows_from_units_and_clock, multiplier_arrays_are_powers_of_two,
         rates_are_in_order, exponentials_follow_from_units_and_clock, products_reach_their_share)
