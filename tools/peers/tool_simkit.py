"""simkit: whole decode steps and single kernels, each question list as one call of arrays."""

from __future__ import annotations

import functools
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
    """Steps of Llama-2-70B on eight H100, bf16."""
    import numpy as np

    import simkit

    hardware, model = _described()
    answers: list[float | None] = [None] * len(points)
    for heads in sorted({point["n_kv_heads"] for point in points}):
        where = [i for i, point in enumerate(points) if point["n_kv_heads"] == heads]
        found = simkit.decode_step(hardware, model, attention=f"gqa-{heads}", chips=8,
                                   batch=np.array([points[i]["batch"] for i in where]),
                                   kv_len=np.array([points[i]["kv_len"] for i in where]))["step_time_s"]
        for i, time_s in zip(where, found.tolist(), strict=True):
            answers[i] = time_s
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
