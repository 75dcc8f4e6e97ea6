"""simkit: whole decode steps and single kernels, each question list as one call of arrays."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any


def version() -> str:
    """The installed version."""
    import simkit

    return simkit.__version__


@functools.cache
def _described() -> tuple[Any, Any]:
    import simkit

    return simkit.load_hardware("h100-sxm"), simkit.load_model("llama-2-70b")


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """Steps of Llama-2-70B on eight H100, bf16: their times alone, which is what the others are asked for."""
    import simkit

    hardware, model = _described()
    kv_heads, batches, kv_lens = zip(*((point["n_kv_heads"], point["batch"], point["kv_len"]) for point in points),
                                     strict=True)
    found = simkit.decode_step(hardware, model, attention=[f"gqa-{heads}" for heads in kv_heads], chips=8,
                               batch=batches, kv_len=kv_lens, baseline=False, fields=("step_time_s",))
    answers: list[float | None] = found["step_time_s"].tolist()
    return answers


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """Kernels as ``simkit evidence silicon`` predicts them: the profile's kernel figures were fitted to this table."""
    import numpy as np

    from simkit.evidence.silicon.compare import predicted_times_s
    from simkit.evidence.silicon.tables import MeasuredTimes
    from simkit.hardware.catalog import load_hardware

    names = ("system", "kv_dtype", "head_dim", "n_q_heads", "n_kv_heads", "batch", "kv_len")
    columns = {name: np.array([kernel[name] for kernel in kernels]) for name in names}
    rows = MeasuredTimes(kind="decode_attention", name="peers", columns=columns, time_s=np.ones(len(kernels)))
    answers: list[float | None] = predicted_times_s(rows, load_hardware("h100-sxm")).tolist()
    return answers


def parameters_of(folder: str) -> float:
    """Parameters as ``simkit model import`` counts them."""
    from simkit.model.architecture import count_parameters
    from simkit.model.attention import parse_layout
    from simkit.model.import_config import import_config

    model = import_config(Path(folder) / "config.json").model
    return float(count_parameters(model, parse_layout("as-trained", model)).total)
