"""genz-llm: its decode model, and its attention operators alone.

GenZ reads bandwidths in units of 2^30 bytes a second. ``genz`` is its own H100 (3400 in that unit, 3.65e12 bytes a
second); ``genz_si`` the same chip with the data sheet's 3.35e12 bytes a second and links of 450e9.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

SYSTEM: Any = "H100_GPU"


def version() -> str:
    """The installed version."""
    return metadata.version("genz-llm")


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """Steps of its ``llama2_70b`` with other KV heads; a model is a Python object, so that is possible."""
    import copy

    from GenZ import decode_moddeling
    from GenZ.Models.get_language_model import get_configs

    answers: list[float | None] = []
    for point in points:
        model = copy.copy(get_configs("llama2_70b"))
        model.num_key_value_heads = point["n_kv_heads"]
        found = decode_moddeling(model=model, batch_size=point["batch"], input_tokens=point["kv_len"], output_tokens=0,
                                 Bb=1, system_name=SYSTEM, bits="bf16", tensor_parallel=8)
        answers.append(float(found["Latency"]) / 1e3)
    return answers


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """The two attention operators of a decode layer; fp8 there means queries and arithmetic in fp8 as well."""
    from GenZ.analyse_model import analysis_model
    from GenZ.LLM_inference import get_inference_system
    from GenZ.Models.attention import mha_flash_attention_decode
    from GenZ.Models.default_models import ModelConfig
    from GenZ.parallelism import ParallelismConfig

    systems = {dtype: get_inference_system(system_name=SYSTEM, bits=bits)
               for dtype, bits in (("bf16", "bf16"), ("fp8", "fp8"))}
    answers: list[float | None] = []
    for kernel in kernels:
        heads = kernel["n_q_heads"]
        model = ModelConfig(hidden_size=heads * kernel["head_dim"], num_attention_heads=heads,
                            num_key_value_heads=kernel["n_kv_heads"], head_dim=kernel["head_dim"])
        layer = mha_flash_attention_decode(model, ParallelismConfig(), kernel["kv_len"], 0)
        operators = [[one[0], kernel["batch"], *one[1:]] for one in layer if one[0] in {"Logit Pre", "Attend Pre"}]
        table = analysis_model(operators, system=systems[kernel["kv_dtype"]], intermediate_on_chip=True)
        answers.append(float(table["Latency (msec)"].sum()) / 1e3)
    return answers
