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
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Self

from simkit.foundation.errors import UserError
from simkit.model.kinds.widths import ModelShape

CacheRole = Literal["key", "value", "latent"]
"""What an array is to the cache formats: ``value`` takes the values' own format, the others the keys'."""
ReadPattern = Literal["contiguous"]
"""How the tokens that a step reads of an array lie in it; the replay must know every one."""
Feature = Literal["separate formats", "eviction by score", "cross-attention"]
FEATURES: Final[tuple[Feature, ...]] = ("separate formats", "eviction by score", "cross-attention")
READ_PATTERNS: Final[tuple[ReadPattern, ...]] = ("contiguous",)


def every_token(context_tokens: Any) -> Any:
    """All tokens that the layer keeps: what most arrays store, and read in a step."""
    return context_tokens


def heads_that_divide(name: str, model: ModelShape) -> int:
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
    the tokens stored of a context (arrays broadcast).
    """

    name: str
    elements: int
    role: CacheRole
    shared: bool
    stored_tokens: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a step reads of one array: ``tokens`` of a context (arrays broadcast), and how they lie in memory."""

    array: StoredArray
    tokens: Callable[[Any], Any]
    pattern: ReadPattern


def read_in_full(arrays: tuple[StoredArray, ...]) -> tuple[Read, ...]:
    """Every kept token of each array, one after another."""
    return tuple(Read(array=array, tokens=every_token, pattern="contiguous") for array in arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    r"""A weight matrix of every head, and the product of the step that multiplies by it.

    Parameters
    ----------
    name, rows, columns: of one head's matrix.
    heads: which heads have one. ``query``: every query head, dealt out over the chips; ``attended``: every query head
        that a chip attends with (all of them where the batch or the context is dealt out instead); ``kv``: every KV
        head; ``one``: a single matrix, which chips repeat.
    joined: how heads' matrices make one. ``columns``: they read the same input; ``rows``: their outputs add up;
        ``none``: each head multiplies its own input.
    product: the step's operator; projections of one name and the same input are one product. Empty: an
        :class:`Expansion` multiplies by it.
    after_core: True for what multiplies attention's output.
    makes: name of the cached array that this projection computes, if any.
    """

    name: str
    rows: int
    columns: int
    heads: Literal["query", "attended", "kv", "one"]
    joined: Literal["columns", "rows", "none"] = "columns"
    product: str
    after_core: bool = False
    makes: str = ""


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

    @classmethod
    @abstractmethod
    def spells(cls, name: str) -> bool:
        """True for the names of this kind's layouts on any model."""

    @classmethod
    @abstractmethod
    def of_model(cls, name: str, model: ModelShape) -> Self:
        """The layout that a name of this kind means on a model. Raises :class:`UserError`, saying what would do."""

    @classmethod
    @abstractmethod
    def as_trained(cls, name: str, model: ModelShape) -> Self | None:
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
            if made != {(array.elements, "one" if array.shared else "kv")}:
                raise TypeError(f"{type(self).__name__} stores {array.elements} elements of {array.name}, "
                                f"and projects {made}")
        if not any(p.after_core for p in self.projections) or set(self.refuses) - set(FEATURES):
            raise TypeError(f"{type(self).__name__} has no output projection, or refuses what is not in {FEATURES}")

    @cached_property
    def elements_per_token(self) -> int:
        """Cached elements of one token and layer, one copy, over all heads."""
        return sum(array.elements * (1 if array.shared else self.n_kv_heads) for array in self.arrays)

    @cached_property
    def keeps_keys_and_values(self) -> bool:
        """True where every KV head has a key and a value of its own: what measured kernels of ordinary heads read."""
        return {array.role for array in self.arrays} == {"key", "value"}
