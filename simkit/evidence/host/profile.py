"""A hardware profile of this machine, written from what was measured on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from simkit.evidence.host.measure import HostFigures, LevelFigures
from simkit.foundation.units import BYTES_PER_S, FLOP_PER_S, OPS_PER_S, SECONDS, format_quantity
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.profile import HardwareProfile

DIGITS: Final = 4


def profile_text(figures: HostFigures, name: str) -> str:
    """The YAML of a profile called ``name``; every figure says how it was measured."""
    when = datetime.now(UTC).date().isoformat()
    lines = [
        f"# {name}: measured by simkit calibrate host on {when}, on a machine that may have been busy.",
        "#",
        "# Bandwidths are those of attention's reads (two float32 sequences in tiles of 8 KiB by turns, all cores), in",
        "# processor time, so that other programs' share of the cores does not count. They are achieved, not peaks.",
        "schema_version: 1",
        f"name: {name}",
        f"title: {_quoted(f'{figures.processor}, {figures.cores} cores, as measured')}",
        "vendor: measured",
        "kind: cpu",
        f"year: {when[:4]}",
        "sources:",
        f"  host: {_quoted(f'simkit calibrate host, {when}, float32, {figures.cores} threads')}",
        "compute:",
        _figure("  units", str(figures.cores), "cores that the process may use"),
        "  unit_name: core",
        *([] if figures.clock_hz is None else [
            f"  clock: {{value: {figures.clock_hz / 1e9:.{DIGITS}g} GHz, source: /proc/cpuinfo, "
            "confidence: datasheet}"]),
        "  matrix:",
        "    peak:",
        _figure("      fp32", format_quantity(figures.gemm_flop_per_s, FLOP_PER_S, digits=DIGITS),
                "NumPy's matrix product, the fastest turn"),
        _figure("    achievable_fraction", f"{figures.rows_flop_per_s / figures.gemm_flop_per_s:.{DIGITS}g}",
                "compiled products with rows in the nearest cache, over the matrix product"),
        _figure("  vector_peak", format_quantity(figures.rows_flop_per_s, FLOP_PER_S, digits=DIGITS),
                "compiled products with rows in the nearest cache"),
        _figure("  special_rate", format_quantity(figures.exponential_ops_per_s, OPS_PER_S, digits=DIGITS),
                "online softmax in tiles of 16 scores: maximum, exponential and sum"),
        _figure("  outstanding_bytes", f"{max(figures.outstanding_bytes, 1.0):.0f} B",
                "one core's stream from DRAM times the latency of a pointer chase"),
        "memory:",
    ]
    for level in figures.levels:
        lines += _level(level)
    lines += [
        "system:",
        _figure("  max_chips", "1", "one machine"),
        "overheads:",
        _figure("  kernel_launch", format_quantity(figures.item_s, SECONDS, digits=DIGITS),
                "one query row of one token: what a row of an item costs besides its tiles"),
    ]
    text = "\n".join(lines) + "\n"
    profile_from_yaml(parse_yaml(text, file=f"{name}.yaml"))
    return text


def profile_of(figures: HostFigures, name: str = "this-machine") -> HardwareProfile:
    """The profile itself, without a file."""
    return profile_from_yaml(parse_yaml(profile_text(figures, name), file=f"{name}.yaml"))


def _level(level: LevelFigures) -> list[str]:
    cache = level.cache
    head = [f"  {level.name}:", f"    kind: {'dram' if cache is None else 'cache'}"]
    note = f"quartiles {level.spread_fraction:.0%} apart"
    if cache is None:
        source = "the operating system's count of pages"
    else:
        head.append(f"    scope: {'unit' if cache.per_core else 'chip'}")
        nominal = cache.instance_bytes * (1 if cache.per_core else cache.instances)
        source = cache.source
        if level.capacity_bytes != nominal:
            says = "nothing says its size" if cache.assumed else f"{nominal / 2**20:g} MiB by {cache.source}"
            source = f"measured: where bandwidth falls halfway to DRAM's; {says}"
    confidence = "estimate" if cache is not None and cache.assumed else "calibration"
    share = level.bandwidth_bytes_per_s / (cache.instances if cache is not None and cache.per_core else 1)
    return [
        *head,
        f"    capacity: {{value: {level.capacity_bytes:.0f} B, source: {_quoted(source)}, confidence: {confidence}}}",
        _figure("    bandwidth", format_quantity(share, BYTES_PER_S, digits=DIGITS), note),
        _figure("    latency", format_quantity(level.latency_s, SECONDS, digits=DIGITS),
                "pointer chase through a random cycle of lines; misses of address translation included"),
    ]


def _figure(key: str, value: str, note: str) -> str:
    return f"{key}: {{value: {value}, source: host, confidence: calibration, note: {_quoted(note)}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "/").replace('"', "'") + '"'
