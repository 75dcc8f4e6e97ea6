r"""What KV-cache entries cost to store, which tokens a cache keeps and reads, and how much room they are given.

Element formats are counted exactly, with their scales and zero points:

.. math:: b_{kv} = \text{bits}/8 + (\text{scale bytes} + \text{zero-point bytes}) / \text{group}

Windows, eviction, paging and ragged lengths take ``kv_len`` (tokens that went in) as a number or an array and return
tokens that stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.architecture import LayerGroup, ModelArchitecture


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementFormat:
    """How one element is stored. ``group`` elements share a scale (and a zero point); 0: one scale a tensor.

    Groups run along the head dimension of one token (``axis`` token) or along the tokens of one channel (channel:
    KIVI's keys, whose outliers sit in fixed channels).
    """

    name: str
    bits: float
    group: int = 0
    scale_bytes: float = 0.0
    zero_bytes: float = 0.0
    axis: Literal["token", "channel"] = "token"
    wide: int = 0
    """Elements of a vector that stay in 16 bits: the rotary part of a latent."""
    native: str = ""
    """The type in which matrix units multiply weights of this format as they are; others are widened first."""

    @property
    def bytes_per_element(self) -> float:
        """Stored bytes of one element with its share of scale and zero point, whole groups assumed.

        >>> FORMATS["int4"].bytes_per_element * 8
        4.5
        """
        return self.bits / 8 + (self.shared_bytes / self.group if self.group else 0.0)

    @property
    def shared_bytes(self) -> float:
        """Scale and zero point of one group."""
        return self.scale_bytes + self.zero_bytes

    @property
    def is_quantised(self) -> bool:
        """True when reading an element takes de-quantisation work before a bf16 multiply."""
        return self.bits < 16

    @property
    def unpack_flops(self) -> int:
        """Vector work to widen one element: a conversion, or a multiply-add with a group's scale and zero point.

        A scale of the whole tensor folds into the softmax's own factor and costs nothing an element.
        """
        if not self.is_quantised:
            return 0
        return 2 if self.group else 1

    def stored_bytes(self, tokens: Any, dim: int) -> Any:
        r"""Bytes of ``tokens`` vectors of ``dim`` elements, begun groups counted whole.

        .. math:: N d\,\text{bits}/8 + \begin{cases} N \lceil d/G \rceil s & \text{token axis} \\
                  \lceil N/G \rceil d\, s & \text{channel axis} \end{cases}

        >>> float(FORMATS["int4"].stored_bytes(4096, 128))
        294912.0
        """
        if self.wide:
            return replace(self, wide=0).stored_bytes(tokens, dim - self.wide) + np.asarray(tokens) * self.wide * 2.0
        elements = np.asarray(tokens, dtype=float) * dim * (self.bits / 8)
        if not self.group:
            return elements
        of_tokens = self.axis == "token"
        groups = tokens * np.ceil(dim / self.group) if of_tokens else np.ceil(np.asarray(tokens) / self.group) * dim
        return elements + groups * self.shared_bytes

    def appended_bytes(self, dim: int) -> float:
        r"""Bytes written for one new vector of ``dim`` elements: :math:`d\,\text{bits}/8` and the shared bytes it owes.

        Along a channel a group of ``G`` tokens writes its scales once, so a token owes :math:`d s / G`. The bf16 tail
        in which KIVI keeps an unfinished group is not modelled.

        >>> FORMATS["bf16"].appended_bytes(128), parse_format("int2-channel").appended_bytes(128)
        (256.0, 48.0)
        """
        if self.axis == "channel":
            return dim * self.bytes_per_element
        return float(self.stored_bytes(1, dim))


# fp8 caches carry one scale a tensor (vLLM, TensorRT-LLM): no bytes an element. int8 keeps an fp16 scale per
# 128 elements; int4 an fp16 scale and zero point per 64 (4.5 bits); int2 per 32 (3 bits: KIVI, arXiv 2402.02750).
# nvfp4 has an fp8 scale for 16 elements, mxfp4 and mxfp8 one of 8 bits (E8M0) for 32 (OCP MX 1.0), and weights in
# block fp8 an fp32 scale for 128 x 128 (DeepSeek-V3, arXiv 2412.19437, section 3.3).
FORMATS: Final = MappingProxyType({
    "fp32": ElementFormat(name="fp32", bits=32),
    "bf16": ElementFormat(name="bf16", bits=16),
    "fp16": ElementFormat(name="fp16", bits=16),
    "fp8": ElementFormat(name="fp8", bits=8, native="fp8"),
    "int8": ElementFormat(name="int8", bits=8, group=128, scale_bytes=2),
    "fp4": ElementFormat(name="fp4", bits=4, group=16, scale_bytes=1, native="fp4"),
    "nvfp4": ElementFormat(name="nvfp4", bits=4, group=16, scale_bytes=1, native="fp4"),
    "mxfp4": ElementFormat(name="mxfp4", bits=4, group=32, scale_bytes=1, native="fp4"),
    "mxfp8": ElementFormat(name="mxfp8", bits=8, group=32, scale_bytes=1, native="fp8"),
    # DeepSeek-V3.2's latents as FlashMLA and vLLM keep them: 512 elements with four fp32 scales, 64 rotary in bf16.
    "fp8-ds-mla": ElementFormat(name="fp8-ds-mla", bits=8, group=128, scale_bytes=4, wide=64),
    "fp8-block": ElementFormat(name="fp8-block", bits=8, group=128 * 128, scale_bytes=4, native="fp8"),
    "int4": ElementFormat(name="int4", bits=4, group=64, scale_bytes=2, zero_bytes=2),
    "int2": ElementFormat(name="int2", bits=2, group=32, scale_bytes=2, zero_bytes=2),
})
_VARIANT: Final = re.compile(r"([a-z0-9]+?)(?:-g(\d{1,5}))?(-channel)?", re.ASCII)
_FORMS: Final = ("a group as in int4-g128, groups along tokens as in int2-channel, keys and values apart as in "
                 "int2-channel/int2")


def parse_format(text: str, *, what: str = "KV dtype") -> ElementFormat:
    """Read ``bf16``, ``fp8``, ``int4``, ``int4-g128`` (a group of 128) or ``int2-channel``. Raises UserError."""
    name = text.strip().lower()
    if name in FORMATS:
        return FORMATS[name]
    match = _VARIANT.fullmatch(name)
    if match and match[1] in FORMATS:
        base = FORMATS[match[1]]
        if not base.group:
            raise UserError(f"{what} '{text[:40]}': {match[1]} shares no scale in groups",
                            hint="groups go with " + ", ".join(f for f, v in FORMATS.items() if v.group))
        group = int(match[2]) if match[2] else base.group
        if group < 1:
            raise UserError(f"{what} '{text[:40]}': a group has at least 1 element")
        return replace(base, name=name, group=group, axis="channel" if match[3] else "token")
    raise UserError(f"unknown {what} '{text[:40]}': expected one of {', '.join(FORMATS)}",
                    hint=did_you_mean(name, FORMATS) or _FORMS)


def parse_cache_formats(text: str, *, what: str = "KV dtype") -> tuple[ElementFormat, ElementFormat]:
    """Formats of keys and of values (of weights and of experts): one name for both, or ``keys/values``.

    Raises :class:`UserError`.
    """
    keys, slash, values = text.partition("/")
    first = parse_format(keys, what=what)
    return first, parse_format(values, what=what) if slash else first


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
