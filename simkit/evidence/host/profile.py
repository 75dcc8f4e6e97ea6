"""A hardware profile of this machine, written from what was measured on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from simkit.evidence.host.measure import HostParameters, LevelParameters
from simkit.foundation.units import BYTES_PER_S, FLOP_PER_S, OPS_PER_S, SECONDS, format_quantity
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.profile import HardwareProfile

DIGITS: Final = 4


def profile_text(parameters: HostParameters, name: str) -> str:
    """The YAML of a profile called ``name``; every parameter says how it was measured."""
    when = datetime.now(UTC).date().isoformat()
    lines = [
        f"# {name}: measured by simkit calibrate host on {when}, on a machine that may have been busy.",
        "#",
        "# Bandwidths are those of attention's reads (two float32 sequences in tiles of 8 KiB by turns, all cores), in",
        "# processor time, so that other programs' share of the cores does not count. They are achieved, not peaks.",
        "schema_version: 1",
        f"name: {name}",
        f"title: {_quoted(f'{parameters.processor}, {parameters.cores} cores, as measured')}",
        "vendor: measured",
        "kind: cpu",
        f"year: {when[:4]}",
        "sources:",
        f"  host: {_quoted(f'simkit calibrate host, {when}, float32, {parameters.cores} threads')}",
        "compute:",
        _parameter("  units", str(parameters.cores), "cores that the process may use"),
        "  unit_name: core",
        *([] if parameters.clock_hz is None else [
            f"  clock: {{value: {parameters.clock_hz / 1e9:.{DIGITS}g} GHz, source: /proc/cpuinfo, "
            "confidence: datasheet}"]),
        "  matrix:",
        "    peak:",
        _parameter("      fp32", format_quantity(parameters.gemm_flop_per_s, FLOP_PER_S, digits=DIGITS),
                "NumPy's matrix product, the fastest turn"),
        _parameter("    achievable_fraction", f"{parameters.rows_flop_per_s / parameters.gemm_flop_per_s:.{DIGITS}g}",
                "compiled products with rows in the nearest cache, over the matrix product"),
        _parameter("  vector_peak", format_quantity(parameters.rows_flop_per_s, FLOP_PER_S, digits=DIGITS),
                "compiled products with rows in the nearest cache"),
        _parameter("  special_rate", format_quantity(parameters.exponential_ops_per_s, OPS_PER_S, digits=DIGITS),
                "online softmax in tiles of 16 scores: maximum, exponential and sum"),
        _parameter("  outstanding_bytes", f"{max(parameters.outstanding_bytes, 1.0):.0f} B",
                "one core's stream from DRAM times the latency of a pointer chase"),
        "memory:",
    ]
    for level in parameters.levels:
        lines += _level(level)
    lines += [
        "system:",
        _parameter("  max_chips", "1", "one machine"),
        "overheads:",
        _parameter("  kernel_launch", format_quantity(parameters.item_s, SECONDS, digits=DIGITS),
                "one query row of one token: what a row of an item costs besides its tiles"),
    ]
    text = "\n".join(lines) + "\n"
    profile_from_yaml(parse_yaml(text, file=f"{name}.yaml"))
    return text


def profile_of(parameters: HostParameters, name: str = "this-machine") -> HardwareProfile:
    """The profile itself, without a file."""
    return profile_from_yaml(parse_yaml(profile_text(parameters, name), file=f"{name}.yaml"))


def _level(level: LevelParameters) -> list[str]:
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
        _parameter("    bandwidth", format_quantity(share, BYTES_PER_S, digits=DIGITS), note),
        _parameter("    latency", format_quantity(level.latency_s, SECONDS, digits=DIGITS),
                "pointer chase through a random cycle of lines; misses of address translation included"),
    ]


def _parameter(key: str, value: str, note: str) -> str:
    return f"{key}: {{value: {value}, source: host, confidence: calibration, note: {_quoted(note)}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "/").replace('"', "'") + '"'
