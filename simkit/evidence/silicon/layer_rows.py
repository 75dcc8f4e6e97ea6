r"""Measured modules of a layer as the operators of a step: sparse attention, states, and the kernels of prompts.

A module is what one layer's attention launches (projections, index, choice, core, output), or a kernel of it, or of a
prompt: attention, or a product of more than 256 rows. Its software adds a time of its own, which differs between
frameworks and shrinks with none of the sizes; a step in which everything is one graph pays the profile's launches
instead. So each row is predicted for its framework,

.. math:: T = T_{framework} + r_{framework} \sum_{operators} (T_{engine} - T_{launch})

with the two numbers of ``simkit/evidence/data/layer_overheads.yaml``, fitted by tools/refit_layers.py for each measured
chip, of prompts to a part of the rows (:func:`fitted_to`); a sibling takes those of the chip that its profile is
``like``; kernels that no chip ran take the mean of their op.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.attention_rows import one_layer
from simkit.evidence.silicon.product_rows import product
from simkit.evidence.silicon.tables import Kind, MeasuredTimes
from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kinds.widths import LayerShape, State, StateKind
from simkit.model.kv_cache import parse_format
from simkit.roofline.engine import operator_times
from simkit.step.build import attention_block
from simkit.step.operators import ATTENTION_PARTS, Operator
from simkit.step.placement import Placement
from simkit.step.prefill import prefill_attention
from simkit.step.workload import DecodeWorkload

OVERHEADS_FILE: Final = "layer_overheads.yaml"
STATE_KINDS: Final[Mapping[str, StateKind]] = {"gdn": "gated-delta", "kda": "kda", "mamba2": "mamba-2"}
# TensorRT-LLM keeps states in bf16: with 4 bytes its long runs would pass the memory's peak.
_STATE_BYTES: Final = {"trtllm": 2}
FITTED_EXPERTS: Final = 256
_SHAPES: Final[Mapping[Kind, tuple[str, ...]]] = {  # columns of which a row's operators are made one by one
    "decode_linear_attention": ("framework", "op", "kernel", "n_k_heads", "k_head_dim", "n_v_heads", "v_head_dim",
                                "state_dim", "n_groups", "conv_width"),
    "decode_sparse_attention": ("framework", "op", "kernel", "model", "n_q_heads", "weight_dtype", "kv_dtype"),
    "prefill_attention": ("framework", "kernel", "kv_dtype", "n_q_heads", "head_dim", "window"),
    "prefill_gemm": ("framework", "kernel", "dtype")}
_ARRAYS: Final = ("batch", "q_len", "kv_len", "kv_len_before", "n_kv_heads", "m", "n", "k")
_PARTS: Final = {"mqa_logits": ("index_scores",), "topk": ("top_k",), "attn": ("attention",)}

LayerRows = Iterator[tuple[Any, tuple[Operator, ...], tuple[str, str]]]


def layer_times_s(rows: MeasuredTimes, hardware: HardwareProfile) -> Any:
    """Predicted seconds of each row, by the overheads of its framework."""
    times = np.empty(len(rows))
    for where, operators, key in layer_operators(rows):
        floor_s, ratio = overheads(hardware, *key)
        times[where] = floor_s + ratio * engine_s(operators, hardware)
    return times


def fitted_to(rows: MeasuredTimes) -> Any:
    """Mask of the rows that constants were fitted to, where others are held out: of prompts sizes that are powers of
    two, of exchanges those of 256 experts, by the kernels for many rows on H100 alone.
    """
    columns = rows.columns
    if rows.kind == "expert_dispatch":
        few = columns["mode"] == "low-latency"
        return (columns["experts"] == FITTED_EXPERTS) & (few | (columns["system"] == "h100_sxm"))
    first, second = ("n", "k") if rows.kind == "prefill_gemm" else ("n_q_heads", "q_len")
    return (np.log2(columns[first]) % 1 == 0) & (np.log2(columns[second]) % 1 == 0)


def overheads(hardware: HardwareProfile, framework: str, module: str) -> tuple[float, float]:
    """Seconds that a framework adds to a module on a chip, and what its kernels take over the engine's time."""
    known = _shipped()
    for name in (hardware.name, hardware.kernel_like):
        if name in known and module in known[name].get(framework, {}):
            return known[name][framework][module]
    op = module.partition("/")[0]
    others = [one for chip in known.values() for name, one in chip.get(framework, {}).items()
              if name.partition("/")[0] == op]
    floor_s, ratio = np.mean(others, axis=0) if others else (0.0, 1.0)
    return float(floor_s), float(ratio)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    text = resources.files("simkit.evidence").joinpath("data", OVERHEADS_FILE).read_text(encoding="utf-8")
    return {chip: {framework: {module: (float(one["floor_us"]) * 1e-6, float(one["ratio"]))
                               for module, one in modules.items()} for framework, modules in by_framework.items()}
            for chip, by_framework in parse_yaml(text, file=OVERHEADS_FILE).data.items()}


def engine_s(operators: tuple[Operator, ...], hardware: HardwareProfile) -> Any:
    """Seconds of the operators in a loop, their launches left out."""
    home = [level for level in hardware.homes("weights") if not level.overflow][-1].name
    placement = Placement(weights={home: 1.0}, kv={home: 1.0}, fits=True, max_batch=np.inf)
    found = [operator_times(operator, placement, hardware, start="warm") for operator in operators]
    return sum(one.total_s - one.launch_s for one in found)


def layer_operators(rows: MeasuredTimes) -> LayerRows:
    """Row numbers, their operators as arrays over the rows, and (framework, module): one for each shape and format."""
    columns = rows.columns
    made = {"decode_linear_attention": _state_operators, "decode_sparse_attention": _sparse_operators,
            "prefill_attention": _prompt_operators, "prefill_gemm": _product_operators}[rows.kind]
    for where in rows.groups(_SHAPES[rows.kind]):
        first = {name: column[where[0]].item() for name, column in columns.items()}
        operators, module = made(first, {name: columns[name][where] for name in _ARRAYS if name in columns})
        yield where, operators, (str(first["framework"]), module)


def _step(model: ModelArchitecture, group: LayerGroup, arrays: Mapping[str, Any], kv: str, weights: str
          ) -> list[Operator]:
    own = replace(group, count=1)
    one = replace(model, layer_groups=(own,))
    layout = parse_layout("as-trained", one)
    return attention_block(DecodeWorkload(
        model=one, layout=layout, n_kv_heads=layout.n_kv_heads, batch=arrays["batch"], q_len=arrays["q_len"],
        kv_len=arrays.get("kv_len", 1.0), kv_format=parse_format(kv), weight_format=parse_format(weights)), own)


def _sparse_operators(first: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[tuple[Operator, ...], str]:
    """A layer of the named model on a chip that has ``n_q_heads`` of its query heads."""
    name, op = str(first["model"]).rpartition("/")[2].lower(), str(first["op"])
    model = load_model(name.removesuffix("-fp8").removesuffix("-nvfp4"))
    group = next((group for group in model.layer_groups if group.shape and _is_of(op, group.shape)), None)
    if group is None or group.shape is None:
        raise UserError(f"{op}: {model.name} has no such layer")
    heads, shape = int(first["n_q_heads"]), group.shape
    part = heads / shape.n_q_heads
    kv_heads = heads if shape.mla else max(1, round(shape.n_kv_heads * part))
    index = shape.indexer
    if index is not None and index.by_kv_head:
        index = replace(index, heads=kv_heads)
    own = replace(shape, n_q_heads=heads, n_kv_heads=kv_heads, indexer=index,
                  output_groups=max(1, round(shape.output_groups * part)) if shape.output_groups else 0)
    operators = _step(replace(model, n_q_heads=heads, n_kv_heads=kv_heads), replace(group, shape=own), arrays,
                      str(first["kv_dtype"]), str(first["weight_dtype"]))
    parts = next((parts for end, parts in _PARTS.items() if op.endswith(end)), None)
    kept = tuple(o for o in operators if (o.name in parts if parts else o.name != "norm"))
    return kept, f"{op}/{first['kernel']}"


def _is_of(op: str, shape: LayerShape) -> bool:
    index, pooled = shape.indexer, shape.compression
    if "csa" in op or op == "dsv4_paged_mqa_logits":
        return index is not None and pooled is not None
    if "hca" in op:
        return index is None and pooled is not None
    return index is not None and pooled is None and index.shared == op.endswith("skip_indexer")


def _state_operators(first: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[tuple[Operator, ...], str]:
    """A recurrence, its short convolution, or both where one kernel does both."""
    op, kernel = str(first["op"]), str(first["kernel"])
    mamba, values = op == "mamba2", int(first["n_v_heads"])
    state = State(kind=STATE_KINDS[op], key_heads=int(first["n_groups"] if mamba else first["n_k_heads"]),
                  key_dim=int(first["state_dim"] if mamba else first["k_head_dim"]), value_heads=values,
                  value_dim=int(first["v_head_dim"]), conv_width=int(first["conv_width"]),
                  state_bytes=_STATE_BYTES.get(str(first["framework"]), 4))
    shape = LayerShape(name=op, hidden_size=1, n_q_heads=values, n_kv_heads=values, head_dim=1, state=state)
    model = ModelArchitecture(
        name=op, title=op, hidden_size=1, n_q_heads=values, n_kv_heads=values, head_dim=1, mlp=None, moe=None, mla=None,
        layer_groups=(LayerGroup(count=1, window=None, moe=False, shape=shape),), vocab_size=1, tied_embeddings=True)
    fused = op == "kda" and "recurrent" not in kernel
    part = "convolution" if "conv1d" in kernel else "fused" if fused else "state_update"
    operators = _step(model, model.layer_groups[0], arrays, "bf16", "bf16")
    return tuple(o for o in operators if o.name in ATTENTION_PARTS and part in (o.name, "fused")), f"{op}/{part}"


def _prompt_operators(first: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[tuple[Operator, ...], str]:
    """Attention of whole prompts, of one layer."""
    heads, window = int(first["n_q_heads"]), int(first["window"])
    model = one_layer(heads, int(first["head_dim"]), window=window or None)
    workload = DecodeWorkload(
        model=model, layout=parse_layout("mha", model), n_kv_heads=arrays["n_kv_heads"], batch=1.0, kv_len=1.0,
        q_len=1.0, kv_format=parse_format(str(first["kv_dtype"])), weight_format=parse_format("bf16"))
    found = prefill_attention(workload, arrays["q_len"], arrays["q_len"] + arrays["kv_len_before"], arrays["batch"])
    return tuple(found), f"prefill_attention/{first['kernel']}/{first['kv_dtype']}"


def _product_operators(first: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[tuple[Operator, ...], str]:
    """A product of a prompt's rows. Of a plug-in's name the words that count stand at its end."""
    kernel = str(first["kernel"]).rpartition("/")[2]
    operator = product(arrays["m"], arrays["n"], arrays["k"], parse_format(str(first["dtype"])))
    return (operator,), f"prefill_gemm/{kernel}/{first['dtype']}"
