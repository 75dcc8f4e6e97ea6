r"""Attention run in NumPy on a checkpoint's own weights: does pooling do what it says, and how much does it change?

.. math:: O = \mathrm{softmax}(Q_i K_{\lfloor i g \rfloor}^T / \sqrt{d}) \, V_{\lfloor i g \rfloor}, \quad g = K / n_q

for each query head i, causal, in float64, followed by the output projection. Positions are left out: rotary
embedding is linear in a head's key and the same for every head, so it commutes with pooling. The hidden states
are standard normal times the layer's input norm: they show the size of the change, not a model's quality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.model.head_pooling import pooled_rows
from simkit.model.tensor_files import TensorEntry

Array = NDArray[np.float64]
_TOKENS: Final = 32  # of the random input that both attentions are run on


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCheck:
    """One layer's attention before and after.

    ``identity_max_error``: largest difference between the source's attention and multi-head attention of its KV
    heads pooled into as many as they are and written out once per query head, which must be the same thing.
    ``output_relative_error``: ‖after − before‖ / ‖before‖ of the layer's attention output.
    """

    layer: int
    identity_max_error: float
    output_relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """The attention tensors of one layer of one checkpoint."""

    tensors: Mapping[str, TensorEntry]
    prefix: str
    n_q: int
    n_kv: int
    head_dim: int
    norm_epsilon: float

    def heads(self, hidden: Array, part: str, count: int) -> Array:
        """All heads' queries, keys or values, [count, tokens, head_dim]."""
        weight, bias = self._tensor(f"{part}_proj.weight"), self._tensor_or_none(f"{part}_proj.bias")
        rows = (weight.rows(index * self.head_dim, self.head_dim) for index in range(count))
        biases = (bias.rows(index * self.head_dim, self.head_dim) if bias else 0.0 for index in range(count))
        return self._projected(hidden, part, rows, biases)

    def pooled_to_itself(self, hidden: Array, part: str) -> Array:
        """Keys or values, [n_kv, tokens, head_dim], through the mean pooling that leaves K = n_kv heads."""
        weight, bias = self._tensor(f"{part}_proj.weight"), self._tensor_or_none(f"{part}_proj.bias")
        rows = pooled_rows(weight, n_kv=self.n_kv, n_kv_new=self.n_kv, method="mean")
        biases: Iterable[Array | float] = [0.0] * self.n_kv
        if bias:
            biases = pooled_rows(bias, n_kv=self.n_kv, n_kv_new=self.n_kv, method="mean")
        return self._projected(hidden, part, rows, biases)

    def _projected(self, hidden: Array, part: str, rows: Iterable[Array],
                   biases: Iterable[Array | float]) -> Array:
        """Heads from their weights one after another, each with its norm where the layer has one."""
        norm = self._tensor_or_none(f"{part}_norm.weight")
        heads = []
        for weight, bias in zip(rows, biases, strict=True):
            projected = hidden @ weight.T + bias
            if norm:
                scale = np.sqrt(np.mean(projected**2, axis=1, keepdims=True) + self.norm_epsilon)
                projected = projected / scale * norm.rows(0, self.head_dim)
            heads.append(projected)
        return np.stack(heads)

    def output(self, heads: Array) -> Array:
        """The output projection of all heads side by side, [tokens, hidden]."""
        entry = self._tensor("o_proj.weight")
        # Rows in blocks of a head's height: a 70B model's projection in float64 would be half a gigabyte.
        blocks = [heads @ entry.rows(first, min(self.head_dim, entry.shape[0] - first)).T
                  for first in range(0, entry.shape[0], self.head_dim)]
        return np.concatenate(blocks, axis=1)

    def _tensor(self, name: str) -> TensorEntry:
        return self.tensors[f"{self.prefix}self_attn.{name}"]

    def _tensor_or_none(self, name: str) -> TensorEntry | None:
        return self.tensors.get(f"{self.prefix}self_attn.{name}")


def attention(queries: Array, keys: Array, values: Array) -> Array:
    r"""Causal attention of ``n_q`` query heads on ``n_kv`` KV heads: query head i reads KV head ``i n_kv // n_q``.

    Shapes: queries [n_q, T, d], keys and values [n_kv, T, d]; the result is [T, n_q d].
    """
    n_q, tokens, head_dim = queries.shape
    hidden_from = np.triu(np.ones((tokens, tokens), dtype=bool), k=1)
    outputs = []
    for index in range(n_q):
        kv = index * len(keys) // n_q
        scores = queries[index] @ keys[kv].T / np.sqrt(head_dim)
        scores[hidden_from] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        outputs.append(weights / weights.sum(axis=1, keepdims=True) @ values[kv])
    return np.concatenate(outputs, axis=1)


def attention_checks(before: Mapping[str, TensorEntry], after: Mapping[str, TensorEntry], *, n_q: int, n_kv: int,
                     n_kv_new: int, head_dim: int, layers: int, norm_epsilon: float,
                     seed: int) -> tuple[AttentionCheck, ...]:
    """Compare attention before and after in the first, the middle and the last layer."""
    return tuple(
        _check(layer, before, after, n_q=n_q, n_kv=n_kv, n_kv_new=n_kv_new, head_dim=head_dim,
               norm_epsilon=norm_epsilon, seed=seed)
        for layer in sorted({0, layers // 2, layers - 1}))


def _check(layer: int, before: Mapping[str, TensorEntry], after: Mapping[str, TensorEntry], *, n_q: int, n_kv: int,
           n_kv_new: int, head_dim: int, norm_epsilon: float, seed: int) -> AttentionCheck:
    prefix = next(prefix for prefix in (f"model.layers.{layer}.", f"layers.{layer}.")
                  if f"{prefix}self_attn.k_proj.weight" in before)
    old = _Layer(tensors=before, prefix=prefix, n_q=n_q, n_kv=n_kv, head_dim=head_dim, norm_epsilon=norm_epsilon)
    new = _Layer(tensors=after, prefix=prefix, n_q=n_q, n_kv=n_kv_new, head_dim=head_dim, norm_epsilon=norm_epsilon)
    hidden = _hidden_states(before, prefix, layer, seed)
    queries = old.heads(hidden, "q", n_q)
    reference = attention(queries, old.heads(hidden, "k", n_kv), old.heads(hidden, "v", n_kv))
    once_per_query_head = (np.repeat(old.pooled_to_itself(hidden, part), n_q // n_kv, axis=0) for part in "kv")
    identity = attention(queries, *once_per_query_head)
    output = old.output(reference)
    pooled = new.output(attention(queries, new.heads(hidden, "k", n_kv_new), new.heads(hidden, "v", n_kv_new)))
    return AttentionCheck(
        layer=layer, identity_max_error=float(np.abs(identity - reference).max()),
        output_relative_error=float(np.linalg.norm(pooled - output) / np.linalg.norm(output)))


def _hidden_states(tensors: Mapping[str, TensorEntry], prefix: str, layer: int, seed: int) -> Array:
    width = tensors[f"{prefix}self_attn.k_proj.weight"].shape[1]
    states = np.random.default_rng([seed, layer]).normal(size=(_TOKENS, width))
    norm = tensors.get(f"{prefix}input_layernorm.weight")
    return states if norm is None else states * norm.rows(0, width)
