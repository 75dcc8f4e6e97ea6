"""The size of a KV cache as arithmetic: no chip, no time."""

from __future__ import annotations

from typing import Any

from simkit.model.architecture import ModelArchitecture
from simkit.model.kinds.base import AttentionLayout
from simkit.model.kv_cache import parse_format
from simkit.step.build import build_step, step_totals
from simkit.step.workload import DecodeWorkload


def kv_bytes_per_token(model: ModelArchitecture, layout: AttentionLayout, kv_dtype: str = "bf16") -> int:
    r"""Cache of one token over all layers, one copy: :math:`\sum_\ell n_{kv} (d_k + d_v) b_{kv}`.

    Of a compressed cache a token's part of an entry; states do not grow and are not in it.

    >>> from simkit.model.attention import parse_layout
    >>> from simkit.model.catalog import load_model
    >>> llama = load_model("llama-2-70b")
    >>> [kv_bytes_per_token(llama, parse_layout(name, llama)) for name in ("mha", "gqa-8", "mqa")]
    [2621440, 327680, 40960]
    """
    one = DecodeWorkload(model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=1, kv_len=1, q_len=1,
                         kv_format=parse_format(kv_dtype), weight_format=parse_format("bf16"))
    return round(float(sum(group.count * one.of(group).token_bytes for group in model.attending_groups)))


def read_per_sequence(model: ModelArchitecture, layout: AttentionLayout, kv_len: Any, kv_dtype: str) -> tuple[Any, Any]:
    """Bytes of cache, index keys and states that a step reads of one sequence; attention's matrix flops a byte."""
    step = build_step(DecodeWorkload(
        model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=1.0, kv_len=kv_len, q_len=1.0,
        kv_format=parse_format(kv_dtype), weight_format=parse_format("bf16")))
    cores = step.attention_operators
    intensity = sum(op.count * op.matrix_flops for op in cores) / sum(op.count * op.kv_read_bytes for op in cores)
    return step_totals(step).kv_read_bytes, intensity
