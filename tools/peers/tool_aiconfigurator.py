"""aiconfigurator: steps and kernels out of its database of measurements.

The table of measured kernels **is** that database's (an earlier commit of it), so its error on the kernels is one of
look-up, interpolation and re-measurement, not of a model. Of three frameworks the fastest counts, as in the table.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

FRAMEWORKS = ("trtllm", "vllm", "sglang")
_QUANTISATION = {"bf16": "bfloat16", "fp8": "fp8"}
LLAMA_2_70B = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192,
               "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "vocab_size": 32000,
               "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "hidden_act": "silu", "rms_norm_eps": 1e-5}


def version() -> str:
    """The installed version."""
    return metadata.version("aiconfigurator")


@functools.cache
def _step_engines(n_kv_heads: int) -> list[Any]:
    from aiconfigurator_core.sdk.engine import EngineHandle

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:  # a model that it does not ship is a folder with a config.json
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA_2_70B | {"num_key_value_heads": n_kv_heads}),
                                                  encoding="utf-8")
        return [EngineHandle.compile(folder, "h100_sxm", framework, tp_size=8) for framework in FRAMEWORKS]


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """One decode step, the fastest framework's."""
    return [min(engine.predict_decode_latency(point["batch"], point["kv_len"], 2)
                for engine in _step_engines(point["n_kv_heads"])) / 1e3 for point in points]


@functools.cache
def _databases() -> list[Any]:
    from aiconfigurator_core.sdk import perf_database

    return [perf_database.get_database_view("h100_sxm", framework,
                                            perf_database.get_latest_database_version("h100_sxm", framework),
                                            database_mode="SILICON") for framework in FRAMEWORKS]


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """Its decode-attention operator in every framework that has the shape; the fastest."""
    from aiconfigurator_core.sdk import common, engine
    from aiconfigurator_core.sdk.operations import GenerationAttention

    logging.disable(logging.WARNING)
    answers: list[float | None] = []
    for kernel in kernels:
        cache = common.KVCacheQuantMode[_QUANTISATION[kernel["kv_dtype"]]]
        operator = GenerationAttention("attention", 1.0, kernel["n_q_heads"], kernel["n_kv_heads"], cache,
                                       head_size=kernel["head_dim"])
        found = []
        for database in _databases():
            try:
                found.append(float(engine._evaluate_single_op(database, operator, is_context=False,  # noqa: SLF001
                                                              batch_size=kernel["batch"], s=kernel["kv_len"])))
            except Exception:  # noqa: BLE001 - whatever it raises for a shape that a framework never ran
                continue
        answers.append(min(found) / 1e3 if found else None)
    return answers
