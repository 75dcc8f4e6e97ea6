r"""What an attention kind answers: arrays stored, arrays read, weights, products, writes, and what it composes with.

A kind is a class; a layout is an instance of it: the kind applied to one model. Everything else asks a layout and never
which kind it is. A kind with an answer missing cannot be made (the methods are abstract), nor one whose answers
contradict each other (:meth:`AttentionLayout.__post_init__`).

Counts are of one token, layer and head. Which chip holds which head is the step's matter (``simkit.step``): a kind says
only whether an array has one copy for every KV head or one for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from simkit.foundation.errors import UserError
from simkit.model.kinds.widths import Compression, Indexer, LayerShape, State

CacheRole = Literal["key", "value", "latent"]
"""What an array is to the cache formats: ``value`` takes the values' own format, the others the keys'."""
ArrayPart = Literal["entry", "recent", "pooled", "index", "state"]
"""What an array is to the step: entries that attention multiplies by (``recent``: the newest tokens of a compressed
cache, ``pooled``: entries beside those that an index chooses), keys of an index, or a state that each step replaces."""
ReadPattern = Literal["contiguous", "gathered"]
"""How the tokens that a step reads of an array lie in it: in a row, or wherever each query's choice fell."""
ATTENDED: Final[tuple[ArrayPart, ...]] = ("entry", "recent", "pooled")
"""What attention multiplies by."""
Feature = Literal["separate formats", "eviction", "eviction by score", "cross-attention"]
FEATURES: Final[tuple[Feature, ...]] = ("separate formats", "eviction", "eviction by score", "cross-attention")
READ_PATTERNS: Final[tuple[ReadPattern, ...]] = ("contiguous", "gathered")
_LONG_CONTEXT: Final = 2**30  # tokens by which growth is measured: what does not grow is nothing beside them


def every_token(context_tokens: Any) -> Any:
    """All tokens that the layer keeps: what most arrays store, and read in a step."""
    return context_tokens


def no_token(context_tokens: Any) -> Any:
    """What a layer stores that reads another one's cache."""
    return context_tokens * 0.0


def one_a_sequence(context_tokens: Any) -> Any:
    """A state: one of it, however long the context."""
    return context_tokens * 0.0 + 1.0


def heads_that_divide(name: str, model: LayerShape) -> int:
    """``K`` of a layout's name ``kind-K``. Raises :class:`UserError` when it does not divide the query heads."""
    n_kv_heads, n_q = int(name.rpartition("-")[2]), model.n_q_heads
    if n_kv_heads < 1 or n_q % n_kv_heads:
        divisors = [str(k) for k in range(1, n_q + 1) if n_q % k == 0]
        raise UserError(f"{name}: {n_kv_heads} KV heads do not divide the {n_q} query heads of {model.name}",
                        hint="K may be " + ", ".join(divisors))
    return n_kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """An array of the cache: ``elements`` of every stored token, once a KV head or, when ``shared``, once for all.

    A shared array can be sharded over no heads: chips that divide the heads keep a copy each. ``stored_tokens`` gives
    the tokens stored of a context (arrays broadcast), one entry for ``tokens_per_entry`` of them. ``own_bytes`` an
    element where the cache's format does not apply. ``derived``: made by pooling or a recurrence, so that no projection
    has its width.
    """

    name: str
    elements: float
    role: CacheRole
    shared: bool
    stored_tokens: Callable[[Any], Any]
    part: ArrayPart = "entry"
    tokens_per_entry: int = 1
    own_bytes: float | None = None
    derived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a step reads of one array: ``tokens`` of a context (arrays broadcast), and how they lie in memory."""

    array: StoredArray
    tokens: Callable[[Any], Any]
    pattern: ReadPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    r"""A weight matrix of every head, and the product of the step that multiplies by it.

    Parameters
    ----------
    name, rows, columns: of one head's matrix.
    heads: which heads have one. ``query``: every query head, dealt out over the chips; ``attended``: every query head
        that a chip attends with (all of them where the batch or the context is dealt out instead); ``kv``: every KV
        head; ``one``: a single matrix, which chips repeat; ``group``: one for each group of heads. Of
        groups that read one input chips repeat one when they outnumber them; others they cut along their rows.
    joined: how heads' matrices make one. ``columns``: they read the same input; ``rows``: their outputs add up;
        ``none``: each head multiplies its own input.
    product: the step's operator; projections of one name and the same input are one product. Empty: an
        :class:`Expansion` multiplies by it.
    after_core: True for what multiplies attention's output.
    makes: name of the cached array that this projection computes, if any.
    groups: how many matrices a ``group`` projection has.
    """

    name: str
    rows: int
    columns: int
    heads: Literal["query", "attended", "kv", "one", "group"]
    joined: Literal["columns", "rows", "none"] = "columns"
    product: str
    after_core: bool = False
    makes: str = ""
    groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """Every entry read is multiplied up, from ``rank`` elements to ``columns`` of each query head, before the core."""

    rank: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    r"""Attention proper: a score takes ``2 d_k`` flops, one exponential, and ``2 d_v`` flops for its value.

    ``shared_keys``: the query heads of a KV head multiply by the same keys. ``latent_kernel``: libraries read this
    cache with kernels written for latents. ``expansion``: what makes keys and values from the entries first.
    """

    key_dim: int
    value_dim: int
    shared_keys: bool
    latent_kernel: bool
    expansion: Expansion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """Arrays that take every new token, and elements that get a rotary embedding: of a query head, of a KV head, and of
    what all heads share.
    """

    appended: tuple[StoredArray, ...]
    rotary_per_query_head: int
    rotary_per_kv_head: int
    rotary_shared: int


@dataclass(frozen=True, kw_only=True)
class AttentionLayout(ABC):
    """A kind applied to one model of ``hidden_size`` and ``n_q_heads``; ``name`` is the layout's as it was asked for.

    ``n_kv_heads`` heads of the cache are what chips can divide: 1 where one latent serves all query heads.
    """

    kind: ClassVar[str]
    """The kind's own name, such as ``mla``."""
    forms: ClassVar[tuple[str, ...]]
    """Names on the command line, for messages: ``gqa-K`` stands for any number."""
    stands_alone: ClassVar[str] = ""
    """What to tell a user who joins this kind's name to another's; empty: nothing in particular."""

    name: str
    hidden_size: int
    n_q_heads: int
    n_kv_heads: int
    indexer: Indexer | None = None
    compression: Compression | None = None
    kept: bool = True
    """False: the layer reads what an earlier layer has stored."""

    @classmethod
    @abstractmethod
    def spells(cls, name: str) -> bool:
        """True for the names of this kind's layouts on any model."""

    @classmethod
    @abstractmethod
    def of_model(cls, name: str, model: LayerShape) -> Self:
        """The layout that a name of this kind means on a model. Raises :class:`UserError`, saying what would do."""

    @classmethod
    @abstractmethod
    def as_trained(cls, name: str, model: LayerShape) -> Self | None:
        """The model's own layout, called ``name``, when it was trained with this kind."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The name by which this layout can be asked for, whatever it was called: ``as-trained`` is ``gqa-8``."""

    @property
    @abstractmethod
    def arrays(self) -> tuple[StoredArray, ...]:
        """What is kept between steps."""

    @property
    @abstractmethod
    def reads(self) -> tuple[Read, ...]:
        """What a step reads of it."""

    @property
    @abstractmethod
    def projections(self) -> tuple[Projection, ...]:
        """Weight matrices in the order of their products."""

    @property
    @abstractmethod
    def core(self) -> Core:
        """The attention of a decode step."""

    @property
    @abstractmethod
    def prefill_core(self) -> Core:
        """The attention of a prompt's chunk."""

    @property
    @abstractmethod
    def writes(self) -> Writes:
        """What a new token changes."""

    @property
    @abstractmethod
    def refuses(self) -> Mapping[Feature, str]:
        """Features that do not compose with this layout, each with a clause that begins with a verb and says why."""

    def __post_init__(self) -> None:
        """Answers must agree: what is stored is projected and read, and what is read can be replayed."""
        names = [array.name for array in self.arrays]
        if not names or len(set(names)) < len(names):
            raise TypeError(f"{type(self).__name__} keeps {names}: expected arrays of different names")
        if {read.array.name for read in self.reads} - set(names) or set(names) - {r.array.name for r in self.reads}:
            raise TypeError(f"{type(self).__name__} stores {names} and reads {[r.array.name for r in self.reads]}")
        for read in self.reads:
            if read.pattern not in READ_PATTERNS:
                raise TypeError(f"{type(self).__name__} reads {read.array.name} {read.pattern}: no engine knows how")
        for array in self.arrays:
            made = {(p.columns, p.heads) for p in self.projections if p.makes == array.name}
            if self.kept and not array.derived and made != {(array.elements, "one" if array.shared else "kv")}:
                raise TypeError(f"{type(self).__name__} stores {array.elements} elements of {array.name}, "
                                f"and projects {made}")
        if not any(p.after_core for p in self.projections) or set(self.refuses) - set(FEATURES):
            raise TypeError(f"{type(self).__name__} has no output projection, or refuses what is not in {FEATURES}")

    def spanned(self, own: tuple[StoredArray, ...]) -> tuple[StoredArray, ...]:
        """What is kept of a layer whose tokens have these arrays: compressed, indexed, or by another layer."""
        entries, pooled, index = every_token, self.compression, self.indexer
        ratio, found = 1, own
        if pooled is not None:
            entries, ratio, beside = pooled.entries, pooled.ratio, pooled.among_tokens
            found = (*(own if beside else ()),
                     *(replace(array, name=f"compressed {array.name}", stored_tokens=entries, tokens_per_entry=ratio,
                               derived=True, part="pooled" if beside else "entry") for array in own),
                     *(replace(array, name=f"recent {array.name}" if beside else array.name, part="recent",
                               stored_tokens=pooled.recent) for array in own))
        if not self.kept:
            found = tuple(replace(array, stored_tokens=no_token) for array in found)
        if index is not None and self.has_index_keys:
            found = (*found, StoredArray(name="index", elements=index.dim, role="key", shared=True, part="index",
                                         stored_tokens=entries, tokens_per_entry=ratio, own_bytes=index.key_bytes,
                                         derived=pooled is not None))
        return found

    def spanned_reads(self) -> tuple[Read, ...]:
        """Of entries what the index chooses, or all of them; of other arrays what there is."""
        chosen = self.indexer is not None
        return tuple(
            Read(array=array, tokens=self.chosen, pattern="gathered") if chosen and array.part == "entry" else
            Read(array=array, pattern="contiguous",
                 tokens=self.entries if array.part == "entry" else array.stored_tokens) for array in self.arrays)

    @property
    def has_index_keys(self) -> bool:
        """True where a layer has an index with keys of its own."""
        return self.indexer is not None and not self.indexer.shared and not (
            self.compression is not None and self.compression.among_tokens)

    def entries(self, context_tokens: Any) -> Any:
        """Entries of a context from which an index may choose, the newest tokens of a compressed cache apart."""
        pooled = self.compression
        return context_tokens if pooled is None or pooled.among_tokens else pooled.entries(context_tokens)

    def chosen(self, context_tokens: Any) -> Any:
        """Entries of them that one query reads."""
        entries = self.entries(context_tokens)
        return entries if self.indexer is None else np.minimum(entries, self.indexer.most_entries)

    def attended(self, context_tokens: Any) -> Any:
        """Entries and recent tokens by which one query multiplies."""
        pooled = self.compression
        recent = 0.0 if pooled is None else pooled.recent(context_tokens)
        beside = pooled.entries(context_tokens) if pooled is not None and pooled.among_tokens else 0.0
        return self.chosen(context_tokens) + recent + beside

    def span_projections(self, own: tuple[StoredArray, ...], query_rank: int | None) -> tuple[Projection, ...]:
        """Weights of the compressor and of the index, whose queries are made from ``query_rank`` elements."""
        wide, pooled, index, found = self.hidden_size, self.compression, self.indexer, []
        # An entry's candidates and their weights in the pool, of its own tokens and of those before them.
        pool = 1 if pooled is None else 2 * (2 if pooled.overlap else 1)
        if pooled is not None and pooled.among_tokens:
            found = [Projection(name=f"{branch} {a.name}", rows=wide, columns=int(a.elements),
                                heads="one" if a.shared else "kv", product="branch_projection",
                                makes=makes and makes + a.name)
                     for a in own for branch, makes in (("compressed", ""), ("recent", "recent "))]
        elif pooled is not None:
            found = [Projection(name=f"compressor {a.name}", rows=wide, columns=int(pool * a.elements),
                                heads="one" if a.shared else "kv", product="compressor_projection") for a in own]
        if index is not None and self.has_index_keys:
            found.append(Projection(
                name="index_query", rows=query_rank or wide, product="index_query_projection",
                columns=index.dim * (1 if index.by_kv_head else index.heads),
                heads="group" if index.by_kv_head else "one", groups=index.heads if index.by_kv_head else 1))
            found.append(Projection(name="index_key", rows=wide, columns=pool * index.dim, heads="one",
                                    product="index_key_projection", makes="" if pooled else "index"))
            if index.weighted:
                found.append(Projection(name="index_weight", rows=wide, columns=index.heads, heads="one",
                                        product="index_key_projection"))
        return tuple(found)

    @property
    def span_refuses(self) -> dict[Feature, str]:
        """What does not compose with an index, a compressed cache or one that another layer keeps."""
        if self.compression is not None:
            return {"eviction": f"keeps one entry for {self.compression.ratio} tokens, which no rule drops one by one"}
        if self.indexer is not None:
            return {"eviction": "chooses by an index over all tokens, none of which may be dropped"}
        return {} if self.kept else {"eviction": "reads a cache that another layer keeps, and has none to drop from"}

    @property
    def state(self) -> State | None:
        """The recurrence that stands in place of attention, if one does."""
        return None

    @cached_property
    def elements_per_token(self) -> int:
        """Elements by which one token lets the cache of a layer grow, one copy, over all heads."""
        return round(sum(array.elements * (1 if array.shared else self.n_kv_heads)
                         * float(array.stored_tokens(_LONG_CONTEXT)) / _LONG_CONTEXT for array in self.arrays))

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """True where every KV head has a key and a value of its own: what measured kernels of ordinary heads read."""
        return [array.role for array in self.arrays] == ["key", "value"]


def spans_of(model: LayerShape) -> dict[str, Any]:
    """How a layer's entries are chosen, compressed or borrowed, whatever their arrays."""
    return {"indexer": model.indexer, "compression": model.compression, "kept": model.kept}


@dataclass(frozen=True, kw_only=True)
class Cached(AttentionLayout):
    """``own_arrays`` of a token, spanned as the layer says, and ``rotary`` elements of it."""

    @property
    @abstractmethod
    def own_arrays(self) -> tuple[StoredArray, ...]:
        """Arrays of a token before any of it is compressed, indexed or borrowed."""

    @property
    @abstractmethod
    def rotary(self) -> tuple[int, int, int]:
        """Elements with a rotary embedding: of a query head, of a KV head, and of what all heads share."""

    @cached_property
    def arrays(self) -> tuple[StoredArray, ...]:
        return self.spanned(self.own_arrays)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        return self.spanned_reads()

    @cached_property
    def prefill_core(self) -> Core:
        """That of a step, unless prompts expand what is cached."""
        return self.core

    @cached_property
    def writes(self) -> Writes:
        """Every token's entry, unless an earlier layer keeps it."""
        per_query_head, per_kv_head, shared = self.rotary
        return Writes(appended=self.arrays if self.kept else (), rotary_per_query_head=per_query_head,
                      rotary_per_kv_head=per_kv_head, rotary_shared=shared)
