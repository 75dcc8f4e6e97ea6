"""llm-flops: the decode token of its ``estimate``, and its cache's roof alone.

Its tensor parallelism splits prefills only, so a step is asked of one GPU with eight times the H100's memory, bandwidth
and arithmetic.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from importlib import metadata
from pathlib import Path
from typing import Any

CHIPS = 8
_ATTAINED_BANDWIDTH, _ATTAINED_FLOPS = 0.8, 0.5  # its own defaults, of every chip


def version() -> str:
    """The installed version."""
    return metadata.version("llm-flops")


@functools.cache
def _described() -> tuple[Any, Any, Any]:
    """One H100, eight of them as one, and Llama-2-70B."""
    from llmflops.hardware import get_gpu
    from llmflops.registry import get_config

    one = get_gpu("H100-SXM")
    eight = dataclasses.replace(one, name="eight H100", memory_gb=CHIPS * one.memory_gb,
                                memory_bandwidth_gbps=CHIPS * one.memory_bandwidth_gbps,
                                peak_tflops={name: CHIPS * rate for name, rate in one.peak_tflops.items()})
    return one, eight, get_config("meta-llama/Llama-2-70b-hf")


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """One decode step at the end of a prompt of ``kv_len`` tokens."""
    from llmflops import estimate

    _, eight, model = _described()
    answers: list[float | None] = []
    for point in points:
        found = estimate(dataclasses.replace(model, num_key_value_heads=point["n_kv_heads"]), gpu=eight,
                         batch_size=point["batch"], sequence_length=point["kv_len"], precision="bf16",
                         include_backward=False)
        answers.append(float(found["details"]["performance"]["decode_latency_per_token_s"]))
    return answers


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """The larger of cache over bandwidth and products over arithmetic, as its decode step adds them to the weights'."""
    from llmflops.config import ModelConfig
    from llmflops.memory import kv_cache_bytes

    one, _, _ = _described()
    answers: list[float | None] = []
    for kernel in kernels:
        heads, tokens = kernel["n_q_heads"], kernel["batch"] * kernel["kv_len"]
        layer = ModelConfig(name="one layer", hidden_size=heads * kernel["head_dim"], num_layers=1,
                            num_attention_heads=heads, num_key_value_heads=kernel["n_kv_heads"],
                            head_dim=kernel["head_dim"], vocab_size=32000, intermediate_size=1)
        held = kv_cache_bytes(layer, kernel["batch"], kernel["kv_len"],
                              "fp8" if kernel["kv_dtype"] == "fp8" else "bf16")
        answers.append(max(held / (one.memory_bandwidth_bytes() * _ATTAINED_BANDWIDTH),
                           4 * heads * kernel["head_dim"] * tokens / (one.peak_flops("bf16") * _ATTAINED_FLOPS)))
    return answers


def parameters_of(folder: str) -> float:
    """Parameters of a folder with a ``config.json``, which the tool itself would fetch by the model's name."""
    from llmflops.memory import parameter_count
    from llmflops.registry import _map_hf_config

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return float(parameter_count(_map_hf_config(Path(folder).name, config)).total)
