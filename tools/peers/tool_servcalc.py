"""servcalc: its decode step alone, in its vLLM profile at the middle of its range.

It knows one GPU and no tensor parallelism, so a step is asked of one GPU with eight times the H100's memory, bandwidth
and arithmetic. A kernel is what the cache adds to a step: the same roof without the weights and without the overhead.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import metadata
from typing import Any

CHIPS = 8


def version() -> str:
    """The installed version."""
    return metadata.version("servcalc")


def _arch(**fields: Any) -> Any:
    from vramcalc import Arch

    return Arch(tie_word_embeddings=False, attention_bias=False, norms_per_layer=2, **fields)


@functools.cache
def _described() -> tuple[Any, Any, Any]:
    """One H100, eight of them as one, and the efficiencies of the profile."""
    from servcalc import calibration, gpus

    one = gpus.resolve("H100 80GB")
    eight = gpus.GpuSpec("eight H100", CHIPS * one.vram_bytes, CHIPS * one.bandwidth_gbs, CHIPS * one.bf16_tflops)
    return one, eight, calibration.get("vllm_bf16")


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """Steps of Llama-2-70B; without memory or queue, which only its whole estimate looks at."""
    from servcalc import timing, work

    _, eight, efficiencies = _described()
    answers: list[float | None] = []
    for point in points:
        arch = _arch(hidden_size=8192, num_layers=80, num_heads=64, num_kv_heads=point["n_kv_heads"], head_dim=128,
                     intermediate_size=28672, vocab_size=32000)
        batch = point["batch"]
        asked = work.decode_step(arch, batch, batch * point["kv_len"], work.kv_bytes_per_token(arch, 16),
                                 work.weight_bytes(arch, 16).stream, kv_realloc=False)
        answers.append(timing.step_time(asked, eight, efficiencies, batch).ms.mid / 1e3)
    return answers


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """Bytes and arithmetic of one layer's cache at the profile's efficiencies."""
    from servcalc import timing, work

    one, _, efficiencies = _described()
    efficiencies = dataclasses.replace(efficiencies, overhead_ms=(0.0, 0.0, 0.0))
    answers: list[float | None] = []
    for kernel in kernels:
        heads, batch = kernel["n_q_heads"], kernel["batch"]
        arch = _arch(hidden_size=heads * kernel["head_dim"], num_layers=1, num_heads=heads, vocab_size=32000,
                     num_kv_heads=kernel["n_kv_heads"], head_dim=kernel["head_dim"], intermediate_size=1)
        tokens = batch * kernel["kv_len"]
        kv_bits = 8 if kernel["kv_dtype"] == "fp8" else 16
        asked = work.Work(float(work.kv_bytes_per_token(arch, kv_bits) * tokens), float(4 * arch.q * tokens))
        answers.append(timing.step_time(asked, one, efficiencies, batch).ms.mid / 1e3)
    return answers


def parameters_of(folder: str) -> float:
    """Parameters of a folder with a ``config.json``."""
    from servcalc.profiles import resolve_profile
    from vramcalc.loaders import load_arch, load_config

    resolve_profile("vllm", load_config(folder))  # refuses quantisations
    return float(load_arch(folder).param_count())
