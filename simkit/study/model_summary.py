"""A model as records: the line of a list, its shape and cache parameter by parameter, and what uptraining it costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simkit.foundation.tables import Records, cell
from simkit.foundation.units import BYTES, COUNT
from simkit.hardware.summary import unit_of
from simkit.model.architecture import ModelArchitecture, count_parameters
from simkit.model.attention import parse_layout
from simkit.model.kinds.catalogue import AS_TRAINED
from simkit.model.uptraining import UPTRAINING_FRACTION, uptraining_cost
from simkit.study.asked import chips_of, models_of, only
from simkit.study.cache_size import kv_bytes_per_token
from simkit.study.record import SECONDS_PER_HOUR


def summaries(models: Iterable[ModelArchitecture]) -> Records:
    """One record a model, with its heads and the cache of one token."""
    return Records(_summary(model) for model in models)


def _summary(model: ModelArchitecture) -> dict[str, Any]:
    layout = parse_layout(AS_TRAINED, model)
    counted = count_parameters(model, layout)
    return {
        "name": model.name, "title": model.title, "n_layers": model.n_layers, "hidden_size": model.hidden_size,
        "n_q_heads": model.n_q_heads, "n_kv_heads": model.n_kv_heads, "attention": layout.label,
        "head_dim": model.head_dim, "parameters": counted.total, "active_parameters": counted.active,
        "kv_bytes_per_token": kv_bytes_per_token(model, layout), "max_context": model.max_context,
        "text": _billions(counted.total),
    }


def _billions(count: float) -> str:
    return f"{count / 1e9:.4g} billion"


def parameter_records(model: ModelArchitecture) -> Records:
    """One record a number of an architecture: shape, parameters, and its KV cache under each layout."""
    trained = parse_layout(AS_TRAINED, model)
    counted = count_parameters(model, trained)
    windows = sorted({group.window for group in model.layer_groups if group.window is not None})
    entries: list[tuple[str, Any, str | None]] = [
        ("layers", model.n_layers, COUNT), ("hidden_size", model.hidden_size, COUNT),
        ("n_q_heads", model.n_q_heads, COUNT), ("n_kv_heads", model.n_kv_heads, COUNT),
        ("head_dim", model.head_dim, COUNT), ("trained_with", trained.label, None),
        ("vocab_size", model.vocab_size, COUNT), ("max_context", model.max_context, COUNT),
        ("windows", ", ".join(map(str, windows)) or None, None),
        ("experts", model.moe.experts if model.moe else None, COUNT),
        ("experts_per_token", model.moe.top_k if model.moe else None, COUNT),
        ("parameters", counted.total, COUNT), ("parameters_published", model.params_published, COUNT),
        ("active_parameters", counted.active, COUNT),
        ("active_parameters_published", model.params_active_published, COUNT),
        ("pretraining_tokens", model.pretraining_tokens, COUNT),
    ]
    for layout in dict.fromkeys((trained.label, "mha", "mqa")):
        per_token = kv_bytes_per_token(model, parse_layout(layout, model))
        entries.append((f"kv_bytes_per_token.{layout}", per_token, BYTES))
    return Records({"model": model.name, "key": key, "value": value, "unit": unit_of(unit),
                    "text": cell(value, unit) if "parameters" not in key else _billions(value)}
                   for key, value, unit in entries if value is not None)


def uptrain(model: Any, hardware: Any, *, attention: str = AS_TRAINED, utilization: float = 0.4,
            fraction: float = UPTRAINING_FRACTION, tokens: float | None = None) -> Records:
    """What it costs to turn a multi-head checkpoint into one with fewer KV heads, in flops, chip hours and dollars.

    Parameters: model, hardware: a name, a path or what was loaded of it; attention: the layout that is trained;
    utilization: share of the chip's bf16 peak that training achieves; fraction: share of pre-training that is repeated;
    tokens: those of pre-training, None: the model file's.
    """
    chip, model = only(chips_of(hardware), "hardware"), only(models_of(model), "model")
    cost = uptraining_cost(
        model, pretraining_tokens=tokens, uptraining_fraction=fraction, layout=attention,
        chip_flop_per_s=chip.compute.matrix_peak_flop_per_s[chip.compute.matrix_dtype("bf16")],
        utilization_fraction=utilization)
    hours = (cost.chip_time_s or 0.0) / SECONDS_PER_HOUR
    rent = chip.price.usd_per_hour
    return Records([{
        "model": model.name, "attention": attention, "hardware": chip.name, "uptraining_flops": cost.uptraining_flops,
        "uptraining_tokens": cost.uptraining_tokens, "utilization_fraction": utilization,
        "chip_time_s": cost.chip_time_s, "chip_hours": hours, "cost_usd": None if rent is None else hours * rent}])
