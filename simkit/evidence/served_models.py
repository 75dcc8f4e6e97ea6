"""Served models beside measurements: TPOT and TTFT of whole systems in a closed loop of ``concurrency`` clients.

Rows name the chip, model, framework, precision, prompt and output length, clients and split. Each is played through one
replica (:mod:`simkit.serving`) whose clients send ten requests each, all lengths equal, as such benchmarks do; but for
the three pairs of lengths of InferenceMAX, which draws each evenly from 0.8 of it to all of it (its README:
bench_serving with ``--random-range-ratio 0.8``), so that its clients get out of step.
What the rows leave open is assumed here and said: an empty precision is bf16; TensorRT-LLM keeps the cache of an 8- or
4-bit model in fp8, vLLM and SGLang in bf16 (their defaults). Splits wider than a node whose ``tp`` is the square of
``moe_ep`` are read as ``tp = moe_ep``: most such runs stand in the table a second time that way, times and all.

Rows that no machine of that many chips can serve as they are labelled, by the arithmetic of their prompts alone
(:func:`prompts_over_peak`), are compared like the others and counted beside the error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from simkit.foundation.csv_rows import named_rows, number_cell
from simkit.foundation.errors import Location, UserError
from simkit.foundation.input_file import read_text
from simkit.hardware.catalog import Chips, load_hardware
from simkit.model.architecture import count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS
from simkit.serving.replica import build_replicas, paged
from simkit.serving.requests import CHUNK_REQUESTS, Requests, Stream
from simkit.serving.runtime import Runtime, load_runtime
from simkit.serving.serve import Policy, Server, build_server, serve
from simkit.study.scenario import parse_scenario

MODELS: Final = {
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b", "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "Qwen/Qwen3-32B": "qwen3-32b", "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b", "openai/gpt-oss-120b": "gpt-oss-120b",
    "deepseek-ai/DeepSeek-R1": "deepseek-v3", "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-v3", "nvidia/DeepSeek-V3.1-NVFP4": "deepseek-v3",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5", "moonshotai/Kimi-K2.5": "kimi-k2",
}
REQUESTS_A_CLIENT: Final = 10
DRAWN_LENGTHS: Final = ((1024, 1024), (1024, 8192), (8192, 1024))  # of InferenceMAX
LEAST_DRAWN: Final = 0.8  # its RANDOM_RANGE_RATIO
PAGE_TOKENS: Final = 16
NODE_CHIPS: Final = 8
# Tokens of an iteration: TensorRT-LLM's max_num_tokens and vLLM's max_num_batched_tokens on these chips, by default.
CHUNK_TOKENS: Final = 8192
MOST_BYTES: Final = 50_000_000
MOST_TOKENS: Final = 10**9
MOST_CLIENTS: Final = 100_000
COLUMNS: Final = ("system", "model", "precision", "framework", "isl", "osl", "concurrency", "tp", "pp", "attention_dp",
                  "moe_ep", "ttft_ms", "tpot_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One measured row, in SI units."""

    system: str
    model: str
    precision: str
    framework: str
    prompt_tokens: int
    output_tokens: int
    clients: int
    tp: int
    pp: int
    attention_dp: int
    moe_ep: int
    ttft_s: float
    tpot_s: float
    line: int

    @property
    def shared_by(self) -> int:
        """Chips that share a layer; see the module's reading of squares."""
        return self.moe_ep if self.tp > NODE_CHIPS and self.tp == self.moe_ep**2 else self.tp

    @property
    def comparable(self) -> bool:
        """True for a known model and format, split by tensors (and experts) within one group of chips."""
        return (self.model in MODELS and self.precision in FORMATS and self.attention_dp == self.pp == 1
                and 1 <= self.moe_ep <= self.shared_by)

    @property
    def kv_dtype(self) -> str:
        """Format of the cache; see the module's assumptions."""
        return "fp8" if self.framework == "trtllm" and self.precision in ("fp8", "fp4") else "bf16"


def read_rows(path: Path | str) -> list[ServedModel]:
    """All rows of a table of measurements. Raises :class:`UserError` with file and line."""
    text = read_text(path, most_bytes=MOST_BYTES, unpack=True)
    return [_measured(row, where) for where, row in named_rows(text, str(path), COLUMNS)]


def _measured(row: dict[str, str], where: Location) -> ServedModel:
    def number(name: str, *, most: float = MOST_TOKENS, whole: bool = True) -> Any:
        return number_cell(name, row, where, most=most, whole=whole)

    def split(name: str) -> int:
        """Chips that share something; 0 where that is no whole number of them, as where only some layers are split."""
        value = float(row[name]) if row[name].replace(".", "", 1).isdecimal() else number(name) if row[name] else 1.0
        return int(value) if value == int(value) else 0

    return ServedModel(
        system=row["system"], model=row["model"], precision=row["precision"] or "bf16", framework=row["framework"],
        prompt_tokens=number("isl"), output_tokens=number("osl"), clients=number("concurrency", most=MOST_CLIENTS),
        tp=split("tp"), pp=split("pp"), attention_dp=split("attention_dp"), moe_ep=split("moe_ep"),
        ttft_s=number("ttft_ms", whole=False) / 1e3, tpot_s=number("tpot_ms", whole=False) / 1e3, line=where.line or 0)


@lru_cache(maxsize=256)
def _server(chips: Chips, system: str, model: str, precision: str, kv_dtype: str, tp: int, ep: int,
            engine: str) -> Server:
    scenario = paged(parse_scenario(kv_dtype=kv_dtype, weight_dtype=precision, ep=ep), PAGE_TOKENS)
    (found,) = build_replicas(chips(system), load_model(MODELS[model]), ["as-trained"],
                              scenario=scenario, chips=tp, tp=tp, engine=engine)
    return build_server(found, Policy(chunk_tokens=CHUNK_TOKENS, most_running=1024))


def predict(row: ServedModel, runtime: Runtime, *, engine: str = "roofline",
            chips: Chips = load_hardware) -> tuple[float, float]:
    """``(TPOT, TTFT)`` in seconds, means over all requests, of one row under a runtime. Raises :class:`UserError`.

    Parameters: row; runtime; engine: ``roofline`` or ``replay``; chips: gives a profile by its name.
    """
    server = _server(chips, row.system, row.model, row.precision, row.kv_dtype, row.shared_by, row.moe_ep, engine)
    server = replace(server, policy=replace(server.policy, runtime=runtime, clients=row.clients))
    count = row.clients * REQUESTS_A_CLIENT
    longest = row.prompt_tokens, row.output_tokens
    least = LEAST_DRAWN if longest in DRAWN_LENGTHS else 1.0
    prompts, outputs = np.random.default_rng(0).integers(
        np.ceil(np.multiply(longest, least)).astype(np.int64), longest, (count, 2), endpoint=True).T

    def chunks() -> Iterator[Requests]:
        for start in range(0, count, CHUNK_REQUESTS):
            part = slice(start, start + CHUNK_REQUESTS)
            yield Requests(arrival_s=np.zeros(len(prompts[part])), prompt_tokens=prompts[part].copy(),
                           output_tokens=outputs[part].copy())

    served = serve(server, Stream(name="closed loop", chunks=chunks), keep_events=count)
    spans = served.spans
    if not len(spans):
        raise UserError(f"{row.model}: {row.prompt_tokens} + {row.output_tokens} tokens do not fit on "
                        f"{row.shared_by} x {row.system}")
    generated = outputs[spans[:, 0].astype(np.int64)]
    return (float(np.mean((spans[:, 4] - spans[:, 3]) / np.maximum(generated - 1, 1))),
            float(np.mean(spans[:, 3] - spans[:, 1])) + runtime.request_s)


def prompts_over_peak(row: ServedModel, chips: Chips = load_hardware) -> float:
    r"""Flops a second of the row's prompts over the peak of all its chips, from its own labels and times.

    .. math:: \frac{C}{T_{first} + (o - 1)\,T_{token}} \cdot \frac{2\,P_{active}\,i}{p\,\pi}

    ``C`` clients that each wait for ``o`` tokens send that many prompts of ``i`` tokens a second; attention's own
    flops are left out. Above 1 the row is not what its labels say: its prompts were cached, or more chips served them.
    """
    requests_per_s = row.clients / (row.ttft_s + (row.output_tokens - 1) * row.tpot_s)
    token_flops, peak = _token_flops_and_peak(chips, row.system, row.model, row.precision)
    return requests_per_s * row.prompt_tokens * token_flops / (row.shared_by * peak)


@lru_cache(maxsize=256)
def _token_flops_and_peak(chips: Chips, system: str, model: str, precision: str) -> tuple[float, float]:
    """Flops of a prompt token in the linear layers, and a chip's peak in the format that multiplies them."""
    compute, architecture = chips(system).compute, load_model(MODELS[model])
    active = count_parameters(architecture, parse_layout("as-trained", architecture)).active_without_embedding
    dtype = compute.matrix_dtype(FORMATS[precision].native or "bf16")
    return 2.0 * active, float(compute.matrix_peak_flop_per_s[dtype])


def compare(data: Path | str, *, runtime: str | None = None, engine: str = "roofline",
            chips: Chips = load_hardware) -> list[dict[str, Any]]:
    """Errors of TPOT and TTFT, one record a chip, model, framework and precision, then one over all dense models and
    one over all mixtures of experts.

    Parameters
    ----------
    data: a table with the columns :data:`COLUMNS`.
    runtime: one runtime for all rows; None: the calibrated one of each row's framework.
    engine: ``roofline`` or ``replay``.
    chips: gives a profile by its name.
    """
    groups: dict[tuple[str, str, str, str], list[ServedModel]] = {}
    left_out: dict[tuple[str, str, str, str], int] = {}
    for row in read_rows(data):
        key = (row.system, row.model, row.framework, row.precision)
        groups.setdefault(key, [])
        left_out.setdefault(key, 0)
        if row.comparable and _is_known(chips, row.system):
            groups[key].append(row)
        else:
            left_out[key] += 1
    records: list[dict[str, Any]] = []
    by_kind: dict[str, list[tuple[list[tuple[float, float]], int, int]]] = {}
    for key, rows in groups.items():
        errors = [found for row in rows if (found := _errors(row, runtime, engine, chips)) is not None]
        over_peak = sum(prompts_over_peak(row, chips) > 1 for row in rows)
        # What does not fit on the catalogue's chips is counted, not compared.
        counts = left_out[key] + len(rows) - len(errors), over_peak
        records.append(_record(key, engine, errors, *counts))
        if errors:
            kind = "dense models" if load_model(MODELS[key[1]]).moe is None else "mixtures of experts"
            by_kind.setdefault(kind, []).append((errors, *counts))
    for kind, parts in by_kind.items():
        if len(parts) > 1:
            errors = [error for found, _, _ in parts for error in found]
            records.append(_record(("all", kind, "all", "all"), engine, errors, sum(part[1] for part in parts),
                                   sum(part[2] for part in parts)))
    return records


@lru_cache(maxsize=256)
def _is_known(chips: Chips, system: str) -> bool:
    """Whether a profile has the system's name or alias."""
    try:
        return bool(chips(system))
    except UserError:
        return False


def _errors(row: ServedModel, runtime: str | None, engine: str, chips: Chips) -> tuple[float, float] | None:
    """Predicted over measured less 1, of TPOT and TTFT; None where the model does not fit."""
    try:
        predicted = predict(row, load_runtime(runtime or row.framework), engine=engine, chips=chips)
    except UserError:
        return None
    return predicted[0] / row.tpot_s - 1, predicted[1] / row.ttft_s - 1


def _record(key: tuple[str, str, str, str], engine: str, errors: Sequence[tuple[float, float]], left_out: int,
            over_peak: int) -> dict[str, Any]:
    system, model, framework, precision = key
    bias, tpot, ttft = [one[0] for one in errors], [abs(one[0]) for one in errors], [abs(one[1]) for one in errors]
    return {
        "system": system, "model": model, "framework": framework, "precision": precision, "engine": engine,
        "rows": len(tpot), "tpot_median_ape": _median(tpot), "tpot_mape": _mean(tpot), "tpot_bias": _mean(bias),
        "ttft_median_ape": _median(ttft), "not_compared": left_out, "over_peak": over_peak,
    }


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
