"""What one decode step is asked to do, and how it is split over chips. Numeric fields broadcast as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.architecture import LayerGroup, ModelArchitecture, group_layout
from simkit.model.kinds.base import ATTENDED, ArrayPart, AttentionLayout, Read, StoredArray
from simkit.model.kv_cache import FORMATS, SCORE_BYTES, ElementFormat, KvPolicy
from simkit.step.expert_load import ExpertLoad
from simkit.step.machine import Machine
from simkit.step.sharding import ShardedHeads, is_cut_by, shard_heads, shard_numbers

# The bits in the names over 8 (IEEE 754; bfloat16).
ACTIVATION_BYTES: Final = {"fp32": 4.0, "bf16": 2.0}

# What a pool of chips may do of a step: attention over the cache, the products around it, feed-forward blocks, and
# embedding, LM head and sampling.
PARTS: Final = ("attention", "projections", "ffn", "ends")
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
    ``value_format`` is the values' own storage when it differs from the keys' ``kv_format``, and ``expert_format``
    that of routed experts' weights, or of the MLPs of a model without experts. ``grouped-unsplit`` is
    the grouped kernel without cutting long sequences over units; ``cache_order`` says whether the tokens of one
    head lie side by side (head-major) or the heads of one token (token-major), within a page or a whole sequence.
    ``expert_load`` says how often rows choose each expert; None: equally often.
    ``parts`` is what these chips do of the step, of :data:`PARTS`, ``micro_batches`` how many groups of sequences they
    do it for one after another; None: one a pipeline stage.
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
    expert_format: ElementFormat | None = None
    value_format: ElementFormat | None = None
    policy: KvPolicy = field(default_factory=KvPolicy)
    kernel: AttentionKernel = "grouped"
    cache_order: CacheOrder = "head-major"
    activation_dtype: str = "bf16"
    machine: Machine = field(default_factory=Machine.split)
    ep: Any = 1
    expert_load: ExpertLoad | None = None
    static: bool = False
    devices: int = 1
    encoder_len: Any = 0
    parts: tuple[str, ...] = PARTS
    micro_batches: Any = None

    @cached_property
    def microbatches(self) -> Any:
        """Groups of sequences in flight at once: on all stages or as many as asked for, as far as the batch goes."""
        most = self.machine.pp * self.machine.in_flight if self.micro_batches is None else self.micro_batches
        return np.minimum(most, self.batch)

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
            return shard_numbers(self.layout.n_q_heads, self.n_kv_heads, self.machine.tp, static=self.static,
                                 sharding=self.machine.mapping, devices=self.devices)
        except TypeError:  # arrays have no hash
            return shard_heads(self.layout.n_q_heads, self.n_kv_heads, self.machine.tp, static=self.static,
                               sharding=self.machine.mapping, devices=self.devices)

    @property
    def computed_q_heads(self) -> Any:
        """Query heads whose projections this chip computes: padded where each takes whole heads, else its part."""
        part = self.layout.n_q_heads / self.heads.ways
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

    def of(self, group: LayerGroup) -> DecodeWorkload:
        """The step as the layers of a group see it: with the layout that they have."""
        if group.shape is None:
            return self
        layout = group_layout(self.model, self.layout, group)
        return self if layout is self.layout else replace(self, layout=layout, n_kv_heads=layout.n_kv_heads)

    @property
    def is_data_parallel(self) -> bool:
        """Whether each chip does the attention of its own sequences by itself."""
        return not self.static and isinstance(self.machine.mapping, str) and self.machine.mapping == "data"

    @cached_property
    def of_rows(self) -> DecodeWorkload:
        """The step as one chip does it with the rows that are its own: all, unless attention is data-parallel."""
        if not self.is_data_parallel:
            return self
        alone = replace(self.machine, tp=1.0, mapping="heads")
        return replace(self, machine=alone, batch=self.attention_sequences, micro_batches=1)

    @property
    def activation_bytes_per_element(self) -> float:
        """Stored bytes of one activation."""
        return ACTIVATION_BYTES[self.activation_dtype]

    @cached_property
    def of_experts(self) -> DecodeWorkload:
        """The step as routed experts see it: with the format of their weights."""
        own = self.expert_format
        return self if own is None else replace(self, weight_format=own, expert_format=None)

    @property
    def gemm_dtype(self) -> str:
        """The type in which weight products run."""
        return self.weight_format.native or self.activation_dtype

    @property
    def gemm_input_bytes(self) -> float:
        """Bytes of an input element as a weight product reads it: quantised to the weights' format where it runs."""
        if self.weight_format.native:
            return self.weight_format.bytes_per_element
        return self.activation_bytes_per_element

    def tokens_read(self, group: LayerGroup) -> Any:
        """Cached entries of one sequence that a query on one chip's layer multiplies by, averaged over the lengths."""
        return self.mean_over_lengths(group, lambda kept: self.on_chip(self.layout.attended(kept)))

    def on_chip(self, tokens: Any) -> Any:
        """Tokens of one sequence on the busiest of the chips that deal them out."""
        return np.ceil(tokens / self.heads.context_ways)

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
    def entry_reads(self) -> tuple[Read, ...]:
        """The arrays of one entry that attention multiplies by."""
        return tuple(read for read in self.layout.reads if read.array.part == "entry")

    @property
    def elements_per_kv_head(self) -> Any:
        """Elements that this chip holds of an entry, over its KV heads: what they share counts in parts."""
        return sum(read.array.elements
                   * (1.0 if not read.array.shared else self.held_heads(read.array) / self.heads.kv_per_chip)
                   for read in self.entry_reads)

    def format_of(self, array: StoredArray) -> ElementFormat:
        """How an array's elements are stored; what has no rotary part of a latent has no elements in 16 bits."""
        own = self.value_format or self.kv_format if array.role == "value" else self.kv_format
        return FORMATS["fp8"] if own.wide and array.role != "latent" else own

    @property
    def unpack_flops_per_token(self) -> int:
        """Vector work per token, layer and KV head to widen a quantised cache before a kernel multiplies by it."""
        return sum(int(read.array.elements) * self.format_of(read.array).unpack_flops for read in self.entry_reads)

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

    def stored_bytes(self, tokens: Any, *, allocated: bool = False) -> Any:
        """Bytes that this chip keeps of ``tokens`` kept tokens of one sequence in one layer, with scales.

        ``allocated``: in the room given to them. States are no tokens and have no pages; of each token that is verified
        together with others one is kept, for the token may be the last that is accepted.
        """
        def rows(array: StoredArray) -> Any:
            if array.part == "state":
                return array.stored_tokens(tokens) * self.q_len
            own = self.on_chip(array.stored_tokens(tokens))
            return self.policy.paging.allocated(own) if allocated and self.layout.kept else own

        return sum(self.held_heads(array) * self.bytes_of(array, rows(array)) for array in self.layout.arrays)

    def read_bytes(self, tokens: Any, parts: Iterable[ArrayPart] = ATTENDED) -> Any:
        """Bytes that this chip reads in a step, each once, of what attention multiplies by (or of other arrays)."""
        return sum(self.held_heads(read.array) * self._one_head_bytes(read, tokens)
                   for read in self.layout.reads if read.array.part in parts)

    def reread_bytes(self, tokens: Any, readers: Any) -> Any:
        """Bytes that are read again when each of ``readers`` work items of one sequence reads what it multiplies by,
        and when each query of a step gathers what it has chosen.
        """
        return sum(readers * self._all_queries_bytes(read, tokens) - self.held_heads(read.array)
                   * self._one_head_bytes(read, tokens) for read in self._attention_reads)

    def shared_reread_bytes(self, tokens: Any, readers: Any) -> Any:
        """Those of them beyond ``readers / kv_per_chip`` reads of everything: what KV heads share, for each but one."""
        kv_heads = self.heads.kv_per_chip
        return sum(readers / kv_heads * (kv_heads - self.held_heads(read.array)) * self._one_head_bytes(read, tokens)
                   for read in self._attention_reads if read.array.shared)

    @property
    def _attention_reads(self) -> tuple[Read, ...]:
        return tuple(read for read in self.layout.reads if read.array.part in ATTENDED)

    def _one_head_bytes(self, read: Read, tokens: Any) -> Any:
        """Each entry once: queries of a step that choose for themselves may choose as many each as there are in all."""
        rows = read.tokens(tokens)
        if read.pattern == "gathered":
            rows = np.minimum(rows * self.q_len, self.layout.entries(tokens))
        return self.bytes_of(read.array, rows if read.array.part == "state" else self.on_chip(rows))

    def _all_queries_bytes(self, read: Read, tokens: Any) -> Any:
        once = self.bytes_of(read.array, self.on_chip(read.tokens(tokens)))
        return once * self.q_len if read.pattern == "gathered" else once

    def bytes_of(self, array: StoredArray, rows: Any) -> Any:
        """Bytes of ``rows`` vectors of one head of an array, with their scales."""
        if array.own_bytes is not None:
            return rows * array.elements * array.own_bytes
        return self.format_of(array).stored_bytes(rows, int(array.elements))

    @property
    def appended_bytes(self) -> Any:
        """Bytes that this chip writes for one new token of a sequence in one layer; of a compressed entry its part."""
        return sum(self.held_heads(array) / array.tokens_per_entry
                   * (self.format_of(array).appended_bytes(int(array.elements)) if array.own_bytes is None
                      else array.elements * array.own_bytes)
                   for array in self.layout.writes.appended)

    @property
    def token_bytes(self) -> Any:
        """Bytes by which one token lets the cache of a layer grow, begun groups of a format counted whole."""
        return sum(self.held_heads(array) * self.bytes_of(array, 1.0) / array.tokens_per_entry
                   for array in self.layout.arrays if array.part in ("entry", "pooled", "index") and self.layout.kept)

    def page_bytes(self, page_tokens: float) -> list[tuple[Any, float]]:
        """Bytes of a page of tokens of each array on this chip, and tokens at which the array stops growing."""
        return [(self.held_heads(array) * (self.bytes_of(array, self.q_len) if array.part == "state" else
                                           self.bytes_of(array, 1.0) * page_tokens / array.tokens_per_entry),
                 page_tokens if array.part == "state" else
                 self.layout.compression.window if array.part == "recent" and self.layout.compression else np.inf)
                for array in self.layout.arrays if self.layout.kept]

    def mean_over_lengths(self, group: LayerGroup, of_tokens: Callable[[Any], Any]) -> Any:
        """Mean over the batch's lengths of a function of the tokens that a layer keeps of one sequence."""
        return self.policy.lengths.mean_of(lambda kv_len: of_tokens(self.policy.kept(kv_len, group)), self.kv_len)

    def length_factors(self, group: LayerGroup) -> tuple[Any, ...]:
        """Tokens that a layer's attention reads of each length over their mean: less apart where a window, a budget or
        an index bounds them.
        """
        lengths, rule = self.policy.lengths, self.policy.eviction
        if lengths.factors == (1.0,) or (group.window is None and rule is None and self.layout.indexer is None):
            return lengths.factors
        mean, kv_len = self.tokens_read(group), np.asarray(self.kv_len)
        return tuple(self.on_chip(self.layout.attended(self.policy.kept(np.maximum(np.rint(kv_len * one), 1.0), group)))
                     / mean for one in lengths.factors)

    def layer_read_bytes(self, group: LayerGroup) -> Any:
        """Bytes of one sequence's cache by which this chip's attention multiplies in one layer, on average."""
        return self.mean_over_lengths(group, self.read_bytes)

    def layer_stored_bytes(self, group: LayerGroup, *, allocated: bool = False) -> Any:
        """Bytes that it keeps; ``allocated`` rounds up to pages or to the reserved length: the room given."""
        own = self.of(group)
        if not group.attends:
            return 0.0
        return self.mean_over_lengths(group, lambda kept: own.stored_bytes(kept, allocated=allocated))

    @property
    def encoder_tokens(self) -> Any:
        """Encoder tokens of one sequence that one chip's cross-attention reads; 0 for a decoder alone."""
        return np.ceil(self.encoder_len / self.heads.context_ways) if self.model.cross_attention else 0.0

    @property
    def cross_cache_bytes(self) -> Any:
        """Encoder keys and values of one sequence over all layers, on one chip."""
        return self.model.n_layers * self.stored_bytes(self.encoder_len) if self.model.cross_attention else 0.0

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
        arrays = self.layout.arrays
        return self._over(arrays, self._heads_stored) / self._over(
            arrays, lambda array: 1.0 if array.shared else self.n_kv_heads)

    def evenness(self, parts: Iterable[ArrayPart] = ATTENDED) -> Any:
        """Cache of all chips over that of as many like the busiest: below 1 where heads do not deal out evenly."""
        arrays = tuple(array for array in self.layout.arrays if array.part in parts)
        if len({array.shared for array in arrays}) > 1:
            return self._over(arrays, self._heads_stored) / self._over(
                arrays, lambda array: self.storing_ways * self.held_heads(array))
        if arrays and arrays[0].shared:
            return 1.0
        return self.heads.copies * self.n_kv_heads / (self.heads.kv_per_chip * self.storing_ways)

    def _heads_stored(self, array: StoredArray) -> Any:
        """Heads of an array over all chips of a stage, copies included."""
        return self.storing_ways * self.held_heads(array) if array.shared else self.heads.copies * self.n_kv_heads

    def _over(self, arrays: Iterable[StoredArray], heads: Callable[[StoredArray], Any]) -> Any:
        """Bytes of one sequence when every array has so many heads."""
        return sum(
            heads(array) * self._entries_of(array) * array.elements
            * (self.format_of(array).bytes_per_element if array.own_bytes is None else array.own_bytes)
            for array in arrays)

    def _entries_of(self, array: StoredArray) -> Any:
        return self.layout.entries(self.kv_len) if array.part == "entry" else array.stored_tokens(self.kv_len)
