"""DRAM evidence: replay the runs of cycle-accurate simulators and say how far the event model is from them.

A row of the table is one run: a DRAM type, a mapping, a controller setting, a request pattern, and the fraction of
peak bandwidth that the simulator reached. The same requests are generated again from the pattern's definition and
replayed by ``simkit.replay.dram``. Rows of Ramulator are the target; rows of DRAMsim3, whose queues are organised
differently, are a cross-check (the two simulators differ from each other by 8-35 % on interleaved streams).

Random patterns are redrawn, not copied: the reference's random numbers are not published. Where a run depends on very
few of them (the bases of random streams), the mean over several draws is compared with the reference's single draw;
with few streams that draw alone moves bandwidth by up to 20 % (the model's own draws differ as much), so ranks among
near-equal rows of a small group say little: GDDR6's six are 0.83-1.0, depending on the draws. Patterns without random
numbers (sequential, conflict, spread, mlp_sequential) show what the model itself does: at most 1.5 % off.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.csv_rows import named_rows
from simkit.foundation.errors import Location, UserError
from simkit.foundation.input_file import read_text
from simkit.replay.dram.patterns import generate
from simkit.replay.dram.simulate import DramConfig, Refresh, Scheduler, replay_requests
from simkit.replay.dram.standards import standard_named

SHIPPED_TABLE: Final = "dram_reference.csv"

CROSS_CHECK_SIMULATOR: Final = "dramsim3"
# DRAMsim3's own queue discipline is not modelled; its rows are replayed under the nearest one.
SCHEDULER_OF: Final[Mapping[str, str]] = {"rowhit": "rowhit", "frfcfs": "frfcfs", "perbank_frfcfs": "rowhit"}

STREAM_BASE_DRAWS: Final = 8
# The reference's runs are of 100,000 to 1,000,000 requests; a run is generated whole, some 100 bytes a request.
MOST_REQUESTS: Final = 1e7
MOST_BYTES: Final = 10_000_000

REQUIRED_COLUMNS: Final = ("simulator", "dram_type", "pattern", "parameter", "achieved_fraction_of_peak", "requests",
                           "mapping", "scheduler", "refresh", "queue", "pcs", "mlp_limit", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRun:
    """One row of the table: what was run, and the fraction of peak bandwidth (useful bytes) that it reached."""

    line: int
    simulator: str
    dram_type: str
    pattern: str
    parameter: float
    achieved_fraction_of_peak: float
    requests: int
    mapping: str
    scheduler: str
    refresh: str
    read_queue: int
    driven_pseudo_channels: int
    max_outstanding_reads: int | None
    seed: int
    simulator_requests_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A replayed run: the model's fraction of peak, or why it was not replayed, and the core time it took."""

    run: ReferenceRun
    achieved_fraction_of_peak: float | None
    skip_reason: str | None
    requests: int
    replay_time_s: float

    @property
    def relative_error(self) -> float:
        """|model / simulator - 1|."""
        assert self.achieved_fraction_of_peak is not None  # noqa: S101  # callers filter skipped rows
        return abs(self.achieved_fraction_of_peak / self.run.achieved_fraction_of_peak - 1.0)


def read_runs(data: Path | None = None) -> list[ReferenceRun]:
    """The runs of a CSV file, or of the table shipped with simkit; raises ``UserError`` with file and line."""
    if data is None:
        text = resources.files("simkit.evidence").joinpath("data", SHIPPED_TABLE).read_text(encoding="utf-8")
        name = SHIPPED_TABLE
    else:
        name = str(data)
        text = read_text(data, most_bytes=MOST_BYTES, failure="cannot read the DRAM table")
    runs = [_read_run(row, name, where.line or 0) for where, row in named_rows(text, name, REQUIRED_COLUMNS)]
    if not runs:
        raise UserError("the DRAM table has a header but no rows", where=Location(file=name, line=1))
    return runs


def _read_run(cells: Mapping[str, str], name: str, line: int) -> ReferenceRun:
    def number(column: str, *, least: float, most: float = MOST_REQUESTS, default: float | None = None) -> float:
        text = cells[column].strip()
        where = Location(file=name, line=line, key=column)
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"expected a number, found '{text}'", where=where) from None
        if not value >= least:
            raise UserError(f"expected a number of at least {least}, found '{text}'", where=where)
        if value > most:
            raise UserError(f"expected a number of at most {most:g}, found '{text}'", where=where)
        return value

    limit = number("mlp_limit", least=1, default=0)
    fraction = number("achieved_fraction_of_peak", least=0)
    if fraction == 0:
        raise UserError("a run that reached no bandwidth cannot be compared",
                        where=Location(file=name, line=line, key="achieved_fraction_of_peak"))
    has_speed = bool(cells.get("sim_req_per_cpu_s", "").strip())
    texts = {column: cells[column].strip() for column in (
        "simulator", "dram_type", "pattern", "mapping", "scheduler", "refresh")}
    return ReferenceRun(
        line=line, **texts, parameter=number("parameter", least=0), achieved_fraction_of_peak=fraction,
        requests=int(number("requests", least=1)), read_queue=int(number("queue", least=1)),
        driven_pseudo_channels=int(number("pcs", least=1)), max_outstanding_reads=int(limit) or None,
        seed=int(number("seed", least=0, default=1)),
        simulator_requests_per_s=number("sim_req_per_cpu_s", least=0) if has_speed else None)


def replay_run(run: ReferenceRun) -> Comparison:
    """Replay one row; a setting that the model does not know makes a skipped comparison, not an error."""
    try:
        scheduler = SCHEDULER_OF.get(run.scheduler, run.scheduler)
        config = DramConfig(
            standard=standard_named(run.dram_type), mapping=run.mapping, read_queue=run.read_queue,
            driven_pseudo_channels=run.driven_pseudo_channels, scheduler=cast("Scheduler", scheduler),
            refresh=cast("Refresh", run.refresh))
        draws = STREAM_BASE_DRAWS if run.pattern.startswith("streams_random") else 1
        fractions = []
        requests = 0
        spent_s = 0.0
        for draw in range(draws):
            trace = generate(run.pattern, config, requests=run.requests, parameter=run.parameter,
                             seed=run.seed + draw)
            start = time.thread_time()
            result = replay_requests(config, trace.address_bytes, is_write=trace.is_write,
                                     max_outstanding_reads=run.max_outstanding_reads, completions=False)
            spent_s += time.thread_time() - start
            requests += trace.address_bytes.size
            fractions.append(trace.useful_bytes / result.elapsed_s / config.peak_bandwidth_bytes_per_s)
    except UserError as problem:
        return Comparison(run=run, achieved_fraction_of_peak=None, skip_reason=str(problem), requests=0,
                          replay_time_s=0.0)
    return Comparison(run=run, achieved_fraction_of_peak=float(np.mean(fractions)), skip_reason=None,
                      requests=requests, replay_time_s=spent_s)


def replay_runs(runs: list[ReferenceRun]) -> Iterator[Comparison]:
    """Replay row after row, after one short replay that pays for compilation."""
    replay_requests(DramConfig(standard=standard_named("HBM3_6400")), np.arange(4) * 32)
    for run in runs:
        yield replay_run(run)


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    r"""Spearman's rank correlation with mean ranks for ties; None for fewer than two or all-equal values.

    .. math:: \rho = \mathrm{cov}(R_x, R_y) / (\sigma_{R_x} \sigma_{R_y})
    """
    if first.size < 2:
        return None
    ranks = []
    for values in (first, second):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks.append((ends - (counts - 1) / 2)[inverse])
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _errors(compared: list[Comparison], prefix: str) -> dict[str, Any]:
    error = np.array([comparison.relative_error for comparison in compared])
    model = np.array([comparison.achieved_fraction_of_peak for comparison in compared], dtype=np.float64)
    reference = np.array([comparison.run.achieved_fraction_of_peak for comparison in compared])
    return {
        f"{prefix}rows": len(compared),
        f"{prefix}mean_relative_error": float(error.mean()) if compared else None,
        f"{prefix}max_relative_error": float(error.max()) if compared else None,
        f"{prefix}rank_correlation": rank_correlation(model, reference),
    }


def _requests_per_s(compared: list[Comparison]) -> dict[str, float | None]:
    timed = [(c.requests, c.replay_time_s, c.run) for c in compared if c.run.simulator_requests_per_s]
    model_s = sum(seconds for _, seconds, _ in timed)
    simulator_s = sum(run.requests / cast("float", run.simulator_requests_per_s) for _, _, run in timed)
    return {
        "requests_per_s": sum(n for n, _, _ in timed) / model_s if model_s else None,
        "simulator_requests_per_s": sum(run.requests for _, _, run in timed) / simulator_s if simulator_s else None,
    }


def compare(data: Path | None = None) -> list[dict[str, Any]]:
    """One record per pattern and DRAM type: errors against Ramulator, the cross-check, rows skipped and why.

    Fields: ``pattern, dram_type, rows, mean_relative_error, max_relative_error, rank_correlation`` of the target rows;
    the same with ``cross_check_`` for DRAMsim3's; ``skipped`` and ``skip_reasons``; ``requests_per_s`` of the model
    and ``simulator_requests_per_s``, each per core. A figure without rows behind it is None.
    """
    groups: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for comparison in replay_runs(read_runs(data)):
        groups[comparison.run.pattern, comparison.run.dram_type].append(comparison)
    records = []
    for (pattern, dram_type), group in sorted(groups.items()):
        replayed = [comparison for comparison in group if comparison.skip_reason is None]
        cross_check = [c for c in replayed if c.run.simulator.startswith(CROSS_CHECK_SIMULATOR)]
        target = [c for c in replayed if not c.run.simulator.startswith(CROSS_CHECK_SIMULATOR)]
        reasons = sorted({c.skip_reason for c in group if c.skip_reason is not None})
        records.append({"pattern": pattern, "dram_type": dram_type, **_errors(target, ""),
                        **_errors(cross_check, "cross_check_"), "skipped": len(group) - len(replayed),
                        "skip_reasons": "; ".join(reasons), **_requests_per_s(target)})
    return records
