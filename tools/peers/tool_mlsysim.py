"""mlsysim: the time between tokens of its ``ServingModel``, and its cache's bytes alone.

Its serving model has one accelerator, so a step is asked of one with eight times the H100's memory, bandwidth and
arithmetic. A decode step there is weights and cache over peak bandwidth and 10 us a layer.
"""

from __future__ import annotations

import functools
import json
from importlib import metadata
from pathlib import Path
from typing import Any

CHIPS = 8


def version() -> str:
    """The installed version."""
    return metadata.version("mlsysim")


@functools.cache
def _described() -> tuple[Any, Any, Any]:
    """One H100, eight of them as one, and Llama-2-70B."""
    from mlsysim import Hardware, Models

    one = Hardware.Cloud.H100
    memory = one.memory.model_copy(update={"capacity": CHIPS * one.memory.capacity,
                                           "bandwidth": CHIPS * one.memory.bandwidth})
    compute = one.compute.model_copy(update={
        "peak_flops": CHIPS * one.compute.peak_flops,
        "precision_flops": {name: CHIPS * rate for name, rate in one.compute.precision_flops.items()}})
    return one, one.model_copy(update={"memory": memory, "compute": compute}), Models.Language.Llama2_70B


def step_times_s(points: list[dict[str, int]]) -> list[float | None]:
    """One decode step of Llama-2-70B."""
    from mlsysim.engine.solvers.serving import ServingModel

    _, eight, model = _described()
    solver = ServingModel()
    answers: list[float | None] = []
    for point in points:
        asked = model.model_copy(update={"kv_heads": point["n_kv_heads"]})
        answers.append(float(solver.solve(asked, eight, seq_len=point["kv_len"], batch_size=point["batch"],
                                          precision="fp16").itl.m_as("s")))
    return answers


def kernel_times_s(kernels: list[dict[str, Any]]) -> list[float | None]:
    """What a step adds for one layer's cache: bytes over peak bandwidth."""
    from mlsysim.models.types import TransformerWorkload

    one, _, model = _described()
    answers: list[float | None] = []
    for kernel in kernels:
        heads = kernel["n_q_heads"]
        layer = TransformerWorkload(name="one layer", architecture="Transformer", parameters=model.parameters, layers=1,
                                    hidden_dim=heads * kernel["head_dim"], heads=heads, kv_heads=kernel["n_kv_heads"],
                                    head_dim=kernel["head_dim"])
        held = layer.get_kv_cache_size(seq_len=kernel["kv_len"], batch_size=kernel["batch"],
                                       precision=_bytes(1 if kernel["kv_dtype"] == "fp8" else 2))
        answers.append(float((held / one.memory.bandwidth).m_as("s")))
    return answers


@functools.cache
def _bytes(count: int) -> Any:
    from mlsysim.core.units import ureg

    return count * ureg.byte


def parameters_of(folder: str) -> float:
    """Parameters of a folder with a ``config.json``, which the tool itself would fetch by the model's name."""
    from mlsysim.core.units import ureg
    from mlsysim.models import importer

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    importer.fetch_hf_config = lambda _: config
    return float(importer.import_hf_model(Path(folder).name).parameters.m_as(ureg.count))
