"""llm-analysis: ``inference`` of its shipped Llama-2-70B, and its cache's latency alone.

Its MLPs have two matrices and a width that is a multiple of the hidden size, so its own configuration says 32768 where
the model has three matrices of 28672. It counts the cache twice a step ("load and store").
"""

from __future__ import annotations

import dataclasses
import logging
from importlib import metadata
from typing import Any


def version() -> str:
    """The installed version."""
    return metadata.version("llm-analysis")


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """The decode latency of ``inference``: the last of ``kv_len`` tokens is the one generated."""
    from llm_analysis.analysis import LLMAnalysis
    from llm_analysis.config import (
        ParallelismConfig,
        get_dtype_config_by_name,
        get_gpu_config_by_name,
        get_model_config_by_name,
    )

    logging.getLogger("llm_analysis").setLevel(logging.ERROR)
    shipped = get_model_config_by_name("upstage_Llama-2-70b-instruct-v2")
    chip, dtype = get_gpu_config_by_name("h100-sxm-80gb"), get_dtype_config_by_name("w16a16e16")
    answers: list[float | None] = []
    for point in points:
        model = dataclasses.replace(shipped, num_key_value_heads=point["n_kv_heads"])
        found = LLMAnalysis(model, chip, dtype, ParallelismConfig(tp_size=8)).inference(
            batch_size_per_gpu=point["batch"], seq_len=point["kv_len"] - 1, num_tokens_to_generate=1)
        answers.append(float(found["decode_latency"]))
    return answers


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """What ``inference`` adds to a step for one layer's cache: bytes twice over bandwidth."""
    from llm_analysis.analysis import LLMAnalysis
    from llm_analysis.config import ModelConfig, get_gpu_config_by_name

    chip = get_gpu_config_by_name("h100-sxm-80gb")
    answers: list[float | None] = []
    for kernel in kernels:
        heads = kernel["n_q_heads"]
        model = ModelConfig(name="one layer", num_layers=1, n_head=heads, hidden_dim=heads * kernel["head_dim"],
                            vocab_size=32000, num_key_value_heads=kernel["n_kv_heads"])
        tool = LLMAnalysis(model, chip)
        held = tool.get_memory_kv_cache_per_layer(kernel["batch"], kernel["kv_len"],
                                                  kv_cache_dtype_bytes=1 if kernel["kv_dtype"] == "fp8" else 2)
        answers.append(2 * held / (tool.get_gpu_hbm_bandwidth() * 1e9))
    return answers


def parameters_of(folder: str) -> float:
    """Parameters of a folder with a ``config.json``, by way of the configuration classes of ``transformers``."""
    from llm_analysis.analysis import LLMAnalysis
    from llm_analysis.config import get_gpu_config_by_name, get_model_config_from_hf

    logging.getLogger("llm_analysis").setLevel(logging.ERROR)
    tool = LLMAnalysis(get_model_config_from_hf(folder), get_gpu_config_by_name("h100-sxm-80gb"))
    return float(tool.total_num_params)
