"""What one decode step is asked to do, and how it is split over chips. Numeric fields broadcast as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.kinds.base import AttentionLayout, Read, StoredArray
from simkit.model.kv_cache import FORMATS, SCORE_BYTES, ElementFormat, KvPolicy
from simkit.step.machine import Machine
from simkit.step.sharding import ShardedHeads, is_cut_by, shard_heads, shard_numbers

# The bits in the names over 8 (IEEE 754; bfloat16).
ACTIVATION_BYTES: Final = {"fp32": 4.0, "bf16": 2.0}
# Weight formats that matrix units multiply as they are; others are widened to the activations' type first.
NATIVE_GEMM_FORMATS: Final = ("fp8", "fp4")

AttentionKernel = Literal["grouped", "grouped-unsplit", "per-query-head", "unfused"]
ATTENTION_KERNELS: Final[tuple[AttentionKernel, ...]] = ("grouped", "grouped-unsplit", "per-query-head", "unfused")
CacheOrder = Literal["head-major", "token-major"]
CACHE_ORDERS: Final[tuple[CacheOrder, ...]] = ("head-major", "token-major")


def parse_kernel(text: str) -> AttentionKernel:
    """Read ``grouped``, ``grouped-unsplit``, ``per-query-head`` or ``unfused``. Raises :class:`UserError`."""
    for known in ATTENTION_KERNELS:
        if text.strip().lower() == known:
            return known
    raise UserError(f"unknown attention kernel '{text[:40]}': expected one of {', '.join(ATTENTION_KERNELS)}",
                    hint=did_you_mean(text, ATTENTION_KERNELS))


def parse_cache_order(text: str) -> CacheOrder:
    """Read ``head-major`` or ``token-major``. Raises :class:`UserError`."""
    for known in CACHE_ORDERS:
        if text.strip().lower() == known:
            return known
    raise UserError(f"unknown order of the cache '{text[:40]}': expected one of {', '.join(CACHE_ORDERS)}",
                    hint=did_you_mean(text, CACHE_ORDERS))


@dataclass(frozen=True, kw_only=True)
class DecodeWorkload:
    """One step of ``batch`` sequences with ``kv_len`` cached tokens each, producing or verifying ``q_len`` tokens.

    ``machine``: the chips, and how they share the model; ``ep`` of those that share a layer hold different experts;
    ``static`` machines (compiled schedules) may cut any dimension, so ``tp`` need not be whole and no KV head is
    replicated; each of a chip's ``devices`` takes whole heads. ``n_kv_heads`` overrides the layout's count so that
    several head layouts can be one array axis.
    ``value_format`` is the values' own storage when it differs from the keys' ``kv_format``. ``grouped-unsplit`` is
    the grouped kernel without cutting long sequences over units; ``cache_order`` says whether the tokens of one
    head lie side by side (head-major) or the heads of one token (token-major), within a page or a whole sequence.
    ``encoder_len`` are the encoder's tokens, whose keys and values every step of an encoder-decoder's cross-
    attention reads and none changes.
    """

    model: ModelArchitecture
    layout: AttentionLayout
    n_kv_heads: Any
    batch: Any
    kv_len: Any
    q_len: Any
    kv_format: ElementFormat
    weight_format: ElementFormat
    value_format: ElementFormat | None = None
    policy: KvPolicy = field(default_factory=KvPolicy)
    kernel: AttentionKernel = "grouped"
    cache_order: CacheOrder = "head-major"
    activation_dtype: str = "bf16"
    machine: Machine = field(default_factory=Machine.split)
    ep: Any = 1
    static: bool = False
    devices: int = 1
    encoder_len: Any = 0

    @cached_property
    def microbatches(self) -> Any:
        """Groups of sequences in flight at once: one a pipeline stage, as far as the batch goes."""
        return np.minimum(self.machine.pp, self.batch)

    @cached_property
    def sequences(self) -> Any:
        """Sequences of the microbatch that a stage works on."""
        return np.ceil(np.asarray(self.batch) / self.microbatches)

    @cached_property
    def rows(self) -> Any:
        """Token rows of a microbatch: ``B q``."""
        return self.sequences * self.q_len

    @cached_property
    def attention_sequences(self) -> Any:
        """Sequences whose attention the busiest chip computes: fewer than a microbatch when the batch is sharded."""
        return np.ceil(self.sequences / self.heads.batch_ways)

    @cached_property
    def heads(self) -> ShardedHeads:
        """Heads per chip under this sharding."""
        try:
            return shard_numbers(self.model.n_q_heads, self.n_kv_heads, self.machine.tp, static=self.static,
                                 sharding=self.machine.mapping, devices=self.devices)
        except TypeError:  # arrays have no hash
            return shard_heads(self.model.n_q_heads, self.n_kv_heads, self.machine.tp, static=self.static,
                               sharding=self.machine.mapping, devices=self.devices)

    @property
    def computed_q_heads(self) -> Any:
        """Query heads whose projections this chip computes: padded where each takes whole heads, else its part."""
        part = self.model.n_q_heads / self.heads.ways
        if self.static:
            return part
        if isinstance(self.machine.mapping, str):
            return self.heads.q_per_chip if self.machine.mapping == "heads" else part
        return np.where(is_cut_by(self.machine.mapping, "heads"), self.heads.q_per_chip, part)

    @property
    def computed_kv_heads(self) -> Any:
        """KV heads whose new keys and values this chip computes: its own, or its part where chips divide the rest."""
        own, part = self.heads.kv_per_chip, self.n_kv_heads / self.heads.ways
        if isinstance(self.machine.mapping, str):
            return own if self.machine.mapping == "heads" else part
        return np.where(is_cut_by(self.machine.mapping, "heads"), own, part)

    @cached_property
    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Layers by kind, split further where eviction budgets differ. Raises :class:`UserError`."""
        return self.policy.groups(self.model)

    @property
    def activation_bytes_per_element(self) -> float:
        """Stored bytes of one activation."""
        return ACTIVATION_BYTES[self.activation_dtype]

    @property
    def gemm_dtype(self) -> str:
        """The type in which weight products run."""
        name = self.weight_format.name
        return name if name in NATIVE_GEMM_FORMATS else self.activation_dtype

    @property
    def gemm_input_bytes(self) -> float:
        """Bytes of an input element as a weight product reads it: quantised to the weights' format where it runs."""
        if self.weight_format.name in NATIVE_GEMM_FORMATS:
            return self.weight_format.bytes_per_element
        return self.activation_bytes_per_element

    def tokens_read(self, group: LayerGroup) -> Any:
        """Cached tokens of one sequence that one chip's layer reads, averaged over the batch's lengths."""
        return self.mean_over_lengths(group, lambda tokens: tokens)

    def whole(self, width: int) -> Any:
        """This chip's part of what chips repeat (routers, projections that no head owns); static machines cut it."""
        return width / self.heads.ways if self.static else width

    def held_heads(self, array: StoredArray) -> Any:
        """Heads of an array on the busiest chip: its KV heads, or the copy that they share (static machines cut it)."""
        return self.whole(1) if array.shared else self.heads.kv_per_chip

    @property
    def has_mixed_arrays(self) -> bool:
        """True when some arrays have a copy for every KV head and others one for all of them."""
        return len({array.shared for array in self.layout.arrays}) > 1

    @property
    def elements_per_kv_head(self) -> Any:
        """Elements that this chip holds of a token, over its KV heads: what they share counts in parts."""
        return sum(array.elements * (1.0 if not array.shared else self.held_heads(array) / self.heads.kv_per_chip)
                   for array in self.layout.arrays)

    def format_of(self, array: StoredArray) -> ElementFormat:
        """How an array's elements are stored."""
        return self.value_format or self.kv_format if array.role == "value" else self.kv_format

    @property
    def unpack_flops_per_token(self) -> int:
        """Vector work per token, layer and KV head to widen a quantised cache before a kernel multiplies by it."""
        return sum(read.array.elements * self.format_of(read.array).unpack_flops for read in self.layout.reads)

    @cached_property
    def widened(self) -> DecodeWorkload:
        """The same step with its cache in 16 bits: itself where nothing has to be widened."""
        return self if self.unpack_flops_per_token == 0 else replace(self, kv_format=FORMATS["bf16"], value_format=None)

    @property
    def native_cache_dtype(self) -> str:
        """The matrix format that could multiply this cache as it is stored; "" when scales in groups forbid it."""
        values = self.value_format or self.kv_format
        same = self.kv_format == values and self.kv_format.is_quantised and not self.kv_format.group
        return self.kv_format.name if same else ""

    def stored_bytes(self, tokens: Any) -> Any:
        """Bytes that this chip keeps of ``tokens`` tokens of one sequence in one layer, with scales."""
        return sum(
            self.held_heads(array) * self.format_of(array).stored_bytes(array.stored_tokens(tokens), array.elements)
            for array in self.layout.arrays)

    def read_bytes(self, tokens: Any) -> Any:
        """Bytes that this chip reads of them in a step, each once."""
        return sum(self.held_heads(read.array) * self._one_head_bytes(read, tokens) for read in self.layout.reads)

    def reread_bytes(self, tokens: Any, readers: Any) -> Any:
        """Bytes that are read again when each of ``readers`` work items of one sequence reads what it multiplies by."""
        return sum((readers - self.held_heads(read.array)) * self._one_head_bytes(read, tokens)
                   for read in self.layout.reads)

    def shared_reread_bytes(self, tokens: Any, readers: Any) -> Any:
        """Those of them beyond ``readers / kv_per_chip`` reads of everything: what KV heads share, for each but one."""
        kv_heads = self.heads.kv_per_chip
        return sum(readers / kv_heads * (kv_heads - self.held_heads(read.array)) * self._one_head_bytes(read, tokens)
                   for read in self.layout.reads if read.array.shared)

    def _one_head_bytes(self, read: Read, tokens: Any) -> Any:
        return self.format_of(read.array).stored_bytes(read.tokens(tokens), read.array.elements)

    @property
    def appended_bytes(self) -> Any:
        """Bytes that this chip writes for one new token of a sequence in one layer."""
        return sum(self.held_heads(array) * self.format_of(array).appended_bytes(array.elements)
                   for array in self.layout.writes.appended)

    def mean_over_lengths(self, group: LayerGroup, of_tokens: Callable[[Any], Any]) -> Any:
        """Mean over the batch's lengths of a function of the tokens that this chip's layer keeps of one sequence."""
        return self.policy.lengths.mean_of(
            lambda kv_len: of_tokens(np.ceil(self.policy.kept(kv_len, group) / self.heads.context_ways)), self.kv_len)

    def layer_read_bytes(self, group: LayerGroup) -> Any:
        """Bytes of one sequence's cache that this chip reads of one layer in a step, averaged over the batch."""
        return self.mean_over_lengths(group, self.read_bytes)

    def layer_stored_bytes(self, group: LayerGroup, *, allocated: bool = False) -> Any:
        """Bytes that it keeps; ``allocated`` rounds up to pages or to the reserved length: the room given."""
        return self.mean_over_lengths(
            group, lambda tokens: self.stored_bytes(self.policy.paging.allocated(tokens) if allocated else tokens))

    @property
    def encoder_tokens(self) -> Any:
        """Encoder tokens of one sequence that one chip's cross-attention reads; 0 for a decoder alone."""
        return np.ceil(self.encoder_len / self.heads.context_ways) if self.model.cross_attention else 0.0

    @property
    def cross_cache_bytes(self) -> Any:
        """Encoder keys and values of one sequence over all layers, on one chip."""
        return self.model.n_layers * self.stored_bytes(self.encoder_tokens)

    def score_bytes(self, group: LayerGroup) -> Any:
        """Bytes of H2O's running scores of one sequence in one layer on one chip; 0 without such a rule."""
        rule = self.policy.eviction
        if rule is None or not rule.keeps_scores or group.window is not None:
            return 0.0
        return self.heads.kv_per_chip * self.tokens_read(group) * SCORE_BYTES

    @property
    def storing_ways(self) -> Any:
        """Chips of a stage that hold the same tokens of the same sequences: each its own heads of them."""
        return self.heads.ways / (self.heads.batch_ways * self.heads.context_ways)

    @property
    def copies(self) -> Any:
        """How often the whole cache is stored over all chips: above 1 when chips outnumber its heads."""
        if not self.has_mixed_arrays:
            return self.heads.copies
        return self._over_arrays(self._heads_stored) / self._over_arrays(
            lambda array: 1.0 if array.shared else self.n_kv_heads)

    @property
    def evenness(self) -> Any:
        """Cache of all chips over that of as many like the busiest: below 1 where heads do not deal out evenly."""
        if not self.has_mixed_arrays:
            return self.heads.copies * self.n_kv_heads / (self.heads.kv_per_chip * self.storing_ways)
        return self._over_arrays(self._heads_stored) / self._over_arrays(
            lambda array: self.storing_ways * self.held_heads(array))

    def _heads_stored(self, array: StoredArray) -> Any:
        """Heads of an array over all chips of a stage, copies included."""
        return self.storing_ways * self.held_heads(array) if array.shared else self.heads.copies * self.n_kv_heads

    def _over_arrays(self, heads: Callable[[StoredArray], Any]) -> Any:
        """Stored bytes of one sequence when every array has so many heads."""
        return sum(
            heads(array) * array.stored_tokens(self.kv_len) * array.elements * self.format_of(array).bytes_per_element
            for array in self.layout.arrays)
