r"""Which tokens a cache keeps and reads, and how much room they are given: windows, eviction, paging, ragged lengths.

All functions take ``kv_len`` (tokens that went in) as a number or an array and return tokens that stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.architecture import LayerGroup, ModelArchitecture

SCORE_BYTES: Final = 4  # H2O accumulates attention probabilities in fp32
BLOCK_TABLE_ENTRY_BYTES: Final = 4  # an int32 page number (vLLM block tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """A rule that keeps part of the context on layers that would see all of it.

    - ``streaming``: ``sinks`` first tokens and a window of ``recent`` ones: ``min(N, sinks + recent)``
      (StreamingLLM, arXiv 2309.17453).
    - ``h2o``: ``heavy`` hitters by accumulated score and ``recent`` tokens: ``min(N, heavy + recent)``, with a running
      score per kept token and KV head that is read and written every step (H2O, arXiv 2306.14048).
    - ``snapkv``: the prompt compressed to ``heavy`` tokens once, the ``recent`` generated ones kept
      (SnapKV, arXiv 2404.14469); no upkeep while decoding.

    ``layer_budgets`` scales the kept tokens layer by layer, repeated over the layers (PyramidKV-like schedules).
    """

    kind: Literal["streaming", "h2o", "snapkv"]
    fixed: int
    recent: int
    layer_budgets: tuple[float, ...]

    @property
    def budget(self) -> int:
        """Tokens kept by a layer of budget 1."""
        return self.fixed + self.recent

    @property
    def keeps_scores(self) -> bool:
        """True when a score per kept token is updated every step."""
        return self.kind == "h2o"

    @property
    def chooses_by_head(self) -> bool:
        """True when each KV head keeps tokens of its own, by what its queries attended to."""
        return self.kind in ("h2o", "snapkv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """How room is given: in pages of ``page`` tokens, or ``reserve`` tokens at once (contiguous, up to max_len)."""

    page: int = 1
    reserve: int | None = None

    def allocated(self, tokens: Any) -> Any:
        r"""Tokens of room: :math:`\lceil N/page \rceil page`, or ``max_len`` reserved ahead."""
        if self.reserve is not None:
            return np.maximum(tokens, self.reserve) * 1.0
        return np.ceil(np.asarray(tokens) / self.page) * self.page

    def table_bytes(self, tokens: Any) -> Any:
        """Page-table bytes that one layer's kernel reads for one sequence; contiguous caches have none."""
        return np.ceil(np.asarray(tokens) / self.page) * (BLOCK_TABLE_ENTRY_BYTES if self.page > 1 else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How context lengths differ across a batch: ``shares`` of the sequences have ``factors`` times ``kv_len``."""

    name: str = "equal"
    shares: tuple[float, ...] = (1.0,)
    factors: tuple[float, ...] = (1.0,)

    def mean_of(self, function: Callable[[Any], Any], kv_len: Any) -> Any:
        r"""Mean over the batch of a function of the length: :math:`\sum_k w_k f(m_k N)`.

        Lengths are whole tokens: :math:`m_k N` is rounded, so the mean length is ``N`` to within half a token.
        """
        if self.factors == (1.0,):
            return function(kv_len)
        parts: Any = 0.0
        for share, factor in zip(self.shares, self.factors, strict=True):
            parts = parts + share * function(np.maximum(np.rint(np.asarray(kv_len) * factor), 1.0))
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPolicy:
    """Eviction, room and raggedness together; the default keeps every token, exactly, of equal sequences."""

    eviction: Eviction | None = None
    paging: Paging = field(default_factory=Paging)
    lengths: Lengths = field(default_factory=Lengths)

    def kept(self, kv_len: Any, group: LayerGroup) -> Any:
        r"""Tokens that one layer of the group keeps of ``kv_len``: :math:`\min(N, W)` or :math:`\min(N, budget)`."""
        if group.window is not None:
            return np.minimum(kv_len, group.window)
        if self.eviction is None:
            return kv_len
        return np.minimum(kv_len, max(1, round(self.eviction.budget * group.budget)))

    def groups(self, model: ModelArchitecture) -> tuple[LayerGroup, ...]:
        """The model's layer groups, split where the eviction budget differs from layer to layer.

        Raises :class:`UserError` when the rule has no layer to work on: a sliding window already evicts.
        """
        rule = self.eviction
        if rule is None:
            return model.layer_groups
        if all(group.window is not None for group in model.layer_groups):
            widest = max(group.window or 0 for group in model.layer_groups)
            raise UserError(f"{rule.kind} eviction has nothing to evict on {model.name}: every layer is a sliding "
                            f"window of {widest} tokens already",
                            hint="drop the eviction rule, or take a model with global layers")
        split: list[LayerGroup] = []
        index = 0
        for group in model.layer_groups:
            if group.window is not None or rule.layer_budgets == (1.0,):
                split.append(group)
                continue
            cycle = [rule.layer_budgets[(index + i) % len(rule.layer_budgets)] for i in range(group.count)]
            index += group.count
            split += [group.with_budget(budget, cycle.count(budget)) for budget in dict.fromkeys(cycle)]
        return tuple(split)


EVICTION_KINDS: Final[tuple[Literal["streaming", "h2o", "snapkv"], ...]] = ("streaming", "h2o", "snapkv")
_EVICTION: Final = re.compile(r"(streaming|h2o|snapkv):(\d{1,9})\+(\d{1,9})", re.ASCII)
_EVICTION_FORMS: Final = ("expected streaming:SINKS+WINDOW, h2o:HEAVY+RECENT or snapkv:PROMPT+GENERATED, "
                          "such as streaming:4+1020")
_SPREAD: Final = re.compile(r"(lognormal|uniform):(\d{1,3}(?:\.\d{1,6})?)", re.ASCII)
LENGTH_BINS: Final = 32  # equal shares of the sequences, each at the middle of its quantiles


def parse_eviction(text: str, layer_budgets: tuple[float, ...] = (1.0,)) -> Eviction | None:
    """Read ``none`` or ``streaming:4+1020``, ``h2o:512+512``, ``snapkv:1024+256``. Raises :class:`UserError`."""
    name = text.strip().lower()
    if name in ("none", ""):
        return None
    match = _EVICTION.fullmatch(name)
    if match is None:
        given = name.partition(":")[0]
        hint = did_you_mean(given, EVICTION_KINDS) if given not in EVICTION_KINDS else None
        raise UserError(f"eviction '{text[:40]}': {_EVICTION_FORMS}", hint=hint)
    if int(match[2]) + int(match[3]) < 1:
        raise UserError(f"eviction '{text[:40]}' keeps no token", hint=_EVICTION_FORMS)
    if not layer_budgets or any(not 0 < budget <= 1000 for budget in layer_budgets):
        raise UserError("layer budgets: expected numbers above 0, such as 1.5,1,0.5")
    (kind,) = (known for known in EVICTION_KINDS if known == match[1])
    return Eviction(kind=kind, fixed=int(match[2]), recent=int(match[3]), layer_budgets=layer_budgets)


def parse_lengths(text: str) -> Lengths:
    """Read how lengths spread around ``kv_len``: ``equal``, ``lognormal:CV``, ``uniform:SPREAD`` or a list of lengths.

    ``lognormal:0.8`` has a coefficient of variation of 0.8; ``uniform:0.5`` runs from 0.5 to 1.5 times; both are cut
    into 32 equally likely bins with the mean kept. ``3,1,1,1`` are relative lengths of the batch's sequences in turn.
    """
    name = text.strip().lower()
    if name == "equal":
        return Lengths()
    match = _SPREAD.fullmatch(name)
    middles = (np.arange(LENGTH_BINS) + 0.5) / LENGTH_BINS
    if match and match[1] == "uniform" and float(match[2]) < 1:
        factors = 1 + float(match[2]) * (2 * middles - 1)
    elif match and match[1] == "lognormal" and 0 < float(match[2]) <= 10:
        sigma = np.sqrt(np.log1p(float(match[2]) ** 2))
        factors = np.exp(sigma * np.array([NormalDist().inv_cdf(p) for p in middles]))
    else:
        try:
            factors = np.array([float(part) for part in name.split(",")])
        except ValueError:
            factors = np.array([])
        # The mean of factors without bounds would overflow, and each length be none of it.
        if not 2 <= len(factors) <= 100_000 or not np.all((factors >= 1e-9) & (factors <= 1e9)):
            raise UserError(f"lengths '{text[:40]}': expected equal, lognormal:CV, uniform:SPREAD below 1, or relative "
                            "lengths such as 8,1,1,1")
    factors = factors / factors.mean()
    return Lengths(name=name, shares=(1 / len(factors),) * len(factors), factors=tuple(factors.tolist()))


def parse_paging(page: int | None, reserve: int | None) -> Paging:
    """Room for caches from ``--page`` and ``--reserve``. Raises :class:`UserError` when both are given."""
    if page is not None and reserve is not None:
        raise UserError("--page and --reserve exclude each other: a cache is paged or reserved contiguously")
    return Paging(page=page or 1, reserve=reserve)
