"""What the measured tables give for the class priors: each function returns a value and where it stands.

Reads the folder that SIMKIT_REFERENCE names, else ../shared/reference.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from simkit.evidence.silicon.layer_rows import engine_s, layer_operators
from simkit.evidence.silicon.tables import read_table
from simkit.hardware.catalog import list_hardware
from simkit.hardware.priors import assuming
from simkit.hardware.profile import HardwareProfile

REPOSITORY: Final = Path(__file__).resolve().parents[1]


def reference() -> Path:
    """The folder of the measured tables."""
    given = os.environ.get("SIMKIT_REFERENCE")
    return Path(given) if given else REPOSITORY.parent / "shared" / "reference"


@cache
def rows(name: str) -> list[dict[str, str]]:
    """The rows of one table of the reference folder."""
    with gzip.open(reference() / name, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def chips() -> dict[str, HardwareProfile]:
    """The shipped profiles by name."""
    with assuming("ideal"):  # what is derived here takes no part in it
        return {chip.name: chip for chip in list_hardware()}


SYSTEMS: Final = {"a100_sxm": "a100-sxm-80gb", "h100_sxm": "h100-sxm", "b200_sxm": "b200-sxm", "l40s": "l40s"}
LEAST_PROMPT_S: Final = 0.2e-3  # below, launches and tiles of a few rows decide
AIC: Final = "ai-dynamo/aiconfigurator@095f58a by way of"


def _products(name: str, system: str, dtype: str) -> list[tuple[int, float, float, float, float]]:
    """Of every product: rows, weight bytes, seconds, roof of the bytes, roof of the flops (both in seconds)."""
    chip = chips()[SYSTEMS[system]]
    peak = chip.compute.matrix_peak_flop_per_s["bf16" if dtype == "bfloat16" else dtype]
    bandwidth = float(chip.main_memory.chip_bandwidth_bytes_per_s or math.nan)
    size = 2 if dtype == "bfloat16" else 1
    found = []
    for row in rows(name):
        if row["system"] == system and row["dtype"] == dtype:
            m, n, k = (int(row[key]) for key in "mnk")
            bytes_ = size * (n * k + m * k) + 2 * m * n
            found.append((m, float(size * n * k), float(row["latency_us"]) * 1e-6, bytes_ / bandwidth,
                          2 * m * n * k / peak))
    return found


def gemm_stream(*, system: str, dtype: str) -> tuple[float, str]:
    """Median share of the DRAM peak that products of at most 16 rows reach."""
    shares = [read / time for m, weights, time, read, _ in _products("decode_gemm.csv.gz", system, dtype)
              if m <= 16 and weights >= 64e6]
    return statistics.median(shares), f"{AIC} decode_gemm.csv.gz, {system} {dtype}: median of {len(shares)} products"


def gemm_roof(*, system: str, dtype: str) -> tuple[float, str]:
    """Median share of the roofline that products of 256 rows reach."""
    shares = [max(read, flops) / time for m, weights, time, read, flops
              in _products("decode_gemm.csv.gz", system, dtype) if m == 256 and weights >= 64e6]
    return statistics.median(shares), f"{AIC} decode_gemm.csv.gz, {system} {dtype}: median of {len(shares)} products"


def gemm_large(*, system: str, dtype: str) -> tuple[float, str]:
    """95 % of large products reach less of the matrix peak than this."""
    sides = {(row["m"], row["n"], row["k"]) for row in rows("prefill_gemm.csv.gz")
             if min(int(row[key]) for key in "mnk") >= 4096}
    weights = {int(n) * int(k) * 2.0 for _, n, k in sides}
    shares = sorted(flops / time for m, bytes_, time, _, flops in _products("prefill_gemm.csv.gz", system, dtype)
                    if m >= 4096 and bytes_ in weights)
    return shares[-1 - len(shares) // 20], (
        f"{AIC} prefill_gemm.csv.gz, {system} {dtype}: 95th percentile of {len(shares)} products")


def prompt_attention(*, system: str) -> tuple[float, str]:
    """Median share of its highest roof that a prompt's attention of 0.2 ms and more reaches, of the best library."""
    table = read_table(reference() / "prefill_attention.csv.gz").of_system(system)
    bare = replace(chips()[SYSTEMS[system]], kernel=None, kernel_parameters=None)
    shares: dict[str, list[float]] = {}
    for where, operators, (library, module) in layer_operators(table):
        if module.endswith("bf16"):
            long = table.time_s[where] >= LEAST_PROMPT_S
            shares.setdefault(library, []).extend((engine_s(operators, bare) / table.time_s[where])[long].tolist())
    best = max(shares, key=lambda library: statistics.median(shares[library]))
    return statistics.median(shares[best]), (
        f"{AIC} prefill_attention.csv.gz, {system}: median of {len(shares[best])} of {best}'s kernels")


def all_reduce(*, system: str, chips: int) -> tuple[float, str]:
    """Median time of all-reduces up to 16 KB."""
    times = [float(row["latency_us"]) * 1e-6 for row in rows("allreduce.csv.gz")
             if row["system"] == system and int(row["chips"]) == chips and int(row["elements"]) <= 8192]
    return statistics.median(times), (
        f"{AIC} allreduce.csv.gz, {system}, {chips} chips: median of {len(times)}, {_us(times)} us")


def _us(times: list[float]) -> str:
    return f"{min(times) * 1e6:.1f}-{max(times) * 1e6:.1f}"


def accelerator_rows(series: str) -> list[dict[str, str]]:
    """The rows of one series of the measurements of everything that is not NVIDIA."""
    return [row for row in rows("accelerators/measurements.csv.gz") if row["series"] == series]


def _row(identifier: str) -> dict[str, str]:
    return next(row for row in rows("accelerators/measurements.csv.gz") if row["id"] == identifier)


def tt_collective(*, op: str, boards: int, bytes: int) -> tuple[float, str]:  # noqa: A002 - the table's column
    """A timed collective of Wormhole; a board is two chips."""
    row = next(row for row in accelerator_rows("tt-ccl")
               if row["op"] == op and int(row["chips"]) == boards and int(row["bytes"]) == bytes)
    return float(row["value"]), f"accelerators {row['id']}: {op} of {bytes} B, {2 * boards} chips"


def tt_link(*, boards: int, wire: float) -> tuple[float, str]:
    r"""Bytes a chip sends in the largest all-reduce, :math:`2(p-1)n/p`, over its time and the wire of one link."""
    row = max((row for row in accelerator_rows("tt-ccl") if row["op"] == "all_reduce" and int(row["chips"]) == boards),
              key=lambda row: int(row["bytes"]))
    p = 2 * boards
    rate = 2 * (p - 1) / p * int(row["bytes"]) / float(row["value"])
    return rate / wire, f"accelerators {row['id']}: {rate / 1e9:.2f} GB/s a chip, {p} chips"


def tt_dram(*, op: str, nominal: int) -> tuple[float, str]:
    """Mean DRAM rate of one Wormhole over its nominal one."""
    found = [row for row in accelerator_rows("tt-dram") if row["op"] == op and f"{nominal} GB/s nominal" in row["note"]]
    mean = statistics.mean(float(row["value"]) for row in found) / (nominal * 1e9)
    return mean, f"accelerators {', '.join(row['id'] for row in found)}"


def tt_gap(*, generation: str) -> tuple[float, str]:
    """Median gap between the operators of a traced layer."""
    gaps = [float(match.group(1)) * 1e-6 for row in accelerator_rows("tt-layer-ops")
            if generation in row["note"] and not row["op"].startswith("tail")
            and (match := re.search(r"gap to the next operation ([\d.]+) us", row["note"]))]
    return statistics.median(gaps), f"accelerators tt-layer-ops {generation}: median of {len(gaps)} gaps"


def apple_stream(*, row: str, bytes: float, peak: float, what: str) -> tuple[float, str]:  # noqa: A002
    """Bytes of a step times its rate, over the peak."""
    return bytes * float(_row(row)["value"]) / peak, f"accelerators {row}: {what}"


def one_card_stream(*, rows: list[str], weights: float, cache_per_token: float, peak: float) -> tuple[float, str]:
    """Rate of a whole step of one sequence on one card, a lower bound: prefill and launches are in the time."""
    shares = []
    for identifier in rows:
        row = _row(identifier)
        prompt, output = int(row["prompt_tokens"]), int(row["output_tokens"])
        bytes_ = weights + cache_per_token * (prompt + output / 2)
        shares.append(bytes_ * output / float(row["value"]) / peak)
    return statistics.mean(shares), f"accelerators {', '.join(rows)}: bytes of a step over its time; a lower bound"


# Bytes of bf16 weights that a step reads (no embedding table), layers; both of the published configurations.
MODELS: Final = {"llama-2-7b": (13.21e9, 32), "llama-2-70b": (137.4e9, 80)}


def inferentia2_two_models() -> tuple[float, float, tuple[str, str]]:
    r"""Solve :math:`T = W/(p \beta x) + L c` for x, c from two models at batch 1 on p = 12 chips, short contexts."""
    found = {name: min((row for row in accelerator_rows("neuron")
                        if row["model"] == name and row["batch"] == "1" and row["weight_dtype"] == "bf16"),
                       key=lambda row: float(row["value"])) for name in MODELS}
    beta = 12 * float(chips()["inferentia2"].main_memory.chip_bandwidth_bytes_per_s or math.nan)
    (small, small_layers), (large, large_layers) = MODELS.values()
    time = [float(found[name]["value"]) for name in MODELS]
    slowness = (time[1] - time[0] * large_layers / small_layers) / (
        large / beta - small / beta * large_layers / small_layers)
    layer = (time[0] - small / beta * slowness) / small_layers
    return 1 / slowness, layer, (found["llama-2-7b"]["id"], found["llama-2-70b"]["id"])


def two_models() -> tuple[float, str]:
    """Share of the bandwidth by :func:`inferentia2_two_models`."""
    share, layer, ids = inferentia2_two_models()
    return share, f"accelerators {', '.join(ids)}: two models solved, {layer * 1e6:.0f} us a layer besides"


def wafer_layer(*, row: str, layers: int) -> tuple[float, str]:
    """Time of a token over its layers."""
    return 1 / float(_row(row)["value"]) / layers, f"accelerators {row}: 1/({float(_row(row)['value'])} x {layers})"


TABLES: Final[dict[str, Callable[..., tuple[float, str]]]] = {
    function.__name__: function for function in (
        gemm_stream, gemm_roof, gemm_large, prompt_attention, all_reduce, tt_collective, tt_link, tt_dram, tt_gap,
        apple_stream, one_card_stream, two_models, wafer_layer)}
