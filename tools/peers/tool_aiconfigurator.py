"""aiconfigurator: steps and kernels out of its database of measurements.

The table of measured kernels **is** that database's (an earlier commit of it), so its error on the kernels is one of
look-up, interpolation and re-measurement, not of a model. Steps are of one framework; of kernels the fastest of three
counts, as in the table. ``tool_aiconfigurator_sol`` asks the same of its formulas, which need no measurements.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

MODE = "SILICON"
FRAMEWORKS = ("trtllm", "vllm", "sglang")
READING_SYSTEM = "b200_sxm"  # the one with kernels in every format of weights
_QUANTISATION = {"bf16": "bfloat16", "fp8": "fp8"}
LLAMA_2_70B = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192,
               "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "vocab_size": 32000,
               "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "hidden_act": "silu", "rms_norm_eps": 1e-5}


def version() -> str:
    """The installed version."""
    return metadata.version("aiconfigurator")


def _database(system: str, framework: str) -> Any:
    from aiconfigurator_core.sdk import perf_database

    logging.disable(logging.WARNING)
    newest = perf_database.get_latest_database_version(system, framework)
    return perf_database.get_database_view(system, framework, newest or "estimate", database_mode=MODE,
                                           allow_missing_data=MODE == "SOL")


def _engine(folder: str, system: str, framework: str, *, experts_apart: int = 1) -> Any:
    """A model on eight chips: what ``EngineHandle.compile`` does, with the mode's database."""
    from aiconfigurator_core.sdk import engine

    database = _database(system, framework)
    config = engine.build_model_config(tp_size=8, pp_size=1, attention_dp_size=1, moe_tp_size=8 // experts_apart,
                                       moe_ep_size=experts_apart)
    spec = engine.build_engine_spec_json(
        engine.get_model(folder, config, framework), model_path=folder, system=system, backend=framework,
        backend_version=database.version, kv_block_size=None, systems_path=None, nextn=0, database=database)
    return engine.EngineHandle(bytes(engine.aiconfigurator_core.engine_spec_bincode_from_json(spec)))


@functools.cache
def _step_engine(n_kv_heads: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:  # a model that it does not ship is a folder with a config.json
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA_2_70B | {"num_key_value_heads": n_kv_heads}),
                                                  encoding="utf-8")
        return _engine(folder, "h100_sxm", FRAMEWORKS[0])


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """One decode step in the first framework."""
    return [_step_engine(point["n_kv_heads"]).predict_decode_latency(point["batch"], point["kv_len"], 2) / 1e3
            for point in points]


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """Its decode-attention operator in every framework that has the shape; the fastest."""
    from aiconfigurator_core.sdk import common, engine
    from aiconfigurator_core.sdk.operations import GenerationAttention

    databases = [_database("h100_sxm", framework) for framework in FRAMEWORKS]
    answers: list[float | None] = []
    for kernel in kernels:
        cache = common.KVCacheQuantMode[_QUANTISATION[kernel["kv_dtype"]]]
        operator = GenerationAttention("attention", 1.0, kernel["n_q_heads"], kernel["n_kv_heads"], cache,
                                       head_size=kernel["head_dim"])
        found = []
        for database in databases:
            try:
                found.append(float(engine._evaluate_single_op(database, operator, is_context=False,  # noqa: SLF001
                                                              batch_size=kernel["batch"], s=kernel["kv_len"])))
            except Exception:  # noqa: BLE001 - whatever it raises for a shape that a framework never ran
                continue
        answers.append(min(found) / 1e3 if found else None)
    return answers


def parameters_of(folder: str) -> None:
    """Takes a folder when some framework answers a step on eight chips; parameters it does not count."""
    refusals = []
    for framework in FRAMEWORKS:
        for experts_apart in (8, 1):
            try:
                _engine(folder, READING_SYSTEM, framework,
                        experts_apart=experts_apart).predict_decode_latency(4, 1024, 2)
            except Exception as error:  # noqa: BLE001 - of many kinds
                refusals.append(str(error))
            else:
                return
    raise ValueError(refusals[0])
