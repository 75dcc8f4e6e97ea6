"""Everything about a workload that is not an axis of numbers: formats, cache policy, kernel, sharding, speculation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, check_whole, did_you_mean, shown
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture, group_layout
from simkit.model.equal_parameters import with_parameters_of_mha
from simkit.model.kinds.base import AttentionLayout
from simkit.model.kv_cache import (
    FORMATS,
    ElementFormat,
    KvPolicy,
    parse_cache_formats,
    parse_eviction,
    parse_lengths,
    parse_paging,
)
from simkit.step.expert_load import ExpertLoad, parse_expert_load
from simkit.step.machine import Machine
from simkit.step.sharding import AttentionSharding, parse_attention_sharding
from simkit.step.workload import (
    PARTS,
    AttentionKernel,
    CacheOrder,
    DecodeWorkload,
    parse_cache_order,
    parse_kernel,
)
from simkit.study.pool_words import Pools, parse_pools
from simkit.study.speculation import Speculation, parse_speculation

# What a layout is compared with: MHA of the same MLP, or layouts whose MLP is wider by what they save beside MHA.
AS_PUBLISHED: Final = "as-published"
COMPARISONS: Final = ("mha", "mha-equal-parameters")


SECONDS_PER_YEAR: Final = 31_557_600.0
JOULES_PER_KWH: Final = 3.6e6
DEFAULT_OWNERSHIP: Final = "years=4,utilisation=0.6,power=0.1"
_LIMITS: Final = {"years": (0.1, 30.0), "utilisation": (0.01, 1.0), "power": (0.0, 10.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    r"""What a chip costs who buys it: its price over the hours in which it serves, and its power.

    .. math:: \frac{\$}{s} = \text{chips} \Big( \frac{P}{T u} + W c \Big)

    ``P`` is the price of a chip, ``T`` its life (``life_s``), ``u`` the part of it in which it serves, ``W`` its power
    limit and ``c`` the dollars of a joule. Hosts, networks, cooling and staff are not in it. The defaults are examples,
    for users to set.
    """

    life_s: float = 4.0 * SECONDS_PER_YEAR
    serving_fraction: float = 0.6
    power_usd_per_j: float = 0.1 / JOULES_PER_KWH

    @property
    def terms(self) -> str:
        """The assumptions in words.

        >>> Ownership().terms
        '4 years of which they serve 60%, power at 0.1 dollars a kWh'
        """
        return (f"{self.life_s / SECONDS_PER_YEAR:g} years of which they serve {self.serving_fraction:.0%}, power at "
                f"{self.power_usd_per_j * JOULES_PER_KWH:g} dollars a kWh")

    def usd_per_s(self, hardware: HardwareProfile, chips: Any) -> Any:
        """Dollars a second in which they serve; NaN without a price or a power limit.

        >>> from simkit.hardware.catalog import load_hardware
        >>> round(3600 * Ownership(serving_fraction=0.5).usd_per_s(load_hardware("h100-sxm"), 8), 2)
        14.56
        """
        price, tdp_w = hardware.price.purchase_usd, hardware.power.tdp_w
        if price is None or tdp_w is None:
            return np.nan
        return chips * (price / (self.life_s * self.serving_fraction) + tdp_w * self.power_usd_per_j)


def parse_ownership(text: str) -> Ownership:
    """Read ``years=4,utilisation=0.6,power=0.1``; what is left out keeps its default. Raises :class:`UserError`."""
    found: dict[str, float] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in _LIMITS or not equals or key in found:
            raise UserError(f"owned '{text[:60]}': expected {DEFAULT_OWNERSHIP}", hint=did_you_mean(key, _LIMITS))
        least, most = _LIMITS[key]
        try:
            found[key] = float(value)
        except ValueError:
            raise UserError(f"owned: {key} {value[:20]}: expected a number from {least:g} to {most:g}") from None
        if not least <= found[key] <= most:
            raise UserError(f"owned: {key} {value[:20]}: expected a number from {least:g} to {most:g}")
    given = {**{key: float(value) for key, value in (one.split("=") for one in DEFAULT_OWNERSHIP.split(","))}, **found}
    return Ownership(life_s=given["years"] * SECONDS_PER_YEAR, serving_fraction=given["utilisation"],
                     power_usd_per_j=given["power"] / JOULES_PER_KWH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way of serving a model; ``kv_dtype`` and ``weight_dtype`` are the names as given, for records.

    ``sharding`` None: the fastest way, unless the chip's profile names one. ``comparison``: one of
    :data:`COMPARISONS`. ``pools``: a second pool of chips beside attention's.
    """

    kv_dtype: str = "bf16"
    weight_dtype: str = "bf16"
    key_format: ElementFormat = FORMATS["bf16"]
    value_format: ElementFormat = FORMATS["bf16"]
    weight_formats: tuple[ElementFormat, ElementFormat] | None = (FORMATS["bf16"], FORMATS["bf16"])
    policy: KvPolicy = field(default_factory=KvPolicy)
    kernel: AttentionKernel = "grouped"
    cache_order: CacheOrder = "head-major"
    sharding: AttentionSharding | None = None
    ep: int = 1
    expert_load: ExpertLoad | None = None
    speculation: Speculation | None = None
    encoder_len: int = 0
    comparison: str = "mha"
    ownership: Ownership = field(default_factory=Ownership)
    pools: Pools | None = None

    def workload(self, hardware: HardwareProfile, model: ModelArchitecture, layout: AttentionLayout, *, batch: Any,
                 kv_len: Any, q_len: Any, machine: Machine, parts: tuple[str, ...] = PARTS,
                 micro_batches: Any = None) -> DecodeWorkload:
        """The step that this scenario asks of a model under a layout on a machine, or the parts that a pool does of it.

        Raises :class:`UserError` when keys and values have formats of their own and the layout stores one latent, and
        when encoder tokens are given to a model without cross-attention.
        """
        if self.encoder_len and not model.cross_attention:
            raise UserError(f"encoder_len {self.encoder_len}: {model.name} has no cross-attention",
                            hint="encoder tokens go with an encoder-decoder model such as t5-v1.1-xxl")
        self._check_composes(model, layout)
        if self.comparison != "mha":
            model = with_parameters_of_mha(model, layout)
        verified = q_len if self.speculation is None else q_len * 0 + self.speculation.draft_tokens + 1.0
        weights, experts = self.weights_of(model)
        return DecodeWorkload(
            model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=batch, kv_len=kv_len, q_len=verified,
            kv_format=self.key_format, value_format=self.value_format, weight_format=weights,
            expert_format=experts if experts != weights else None,
            policy=self.policy, kernel=self.kernel, cache_order=self.cache_order,
            machine=machine, ep=self._expert_ways(model, machine.tp), expert_load=self.expert_load,
            static=hardware.sharding == "layer-pipelined", devices=hardware.devices or 1, encoder_len=self.encoder_len,
            parts=parts, micro_batches=micro_batches)

    def weights_of(self, model: ModelArchitecture) -> tuple[ElementFormat, ElementFormat]:
        """Formats of a model's weights and of its routed experts'; those that it is published in where asked for."""
        return self.weight_formats or parse_cache_formats(model.weight_dtype or "bf16", what="weight dtype")

    def mapping(self, hardware: HardwareProfile) -> AttentionSharding | None:
        """How attention is dealt out, as asked for or as the chip's profile says; None: the fastest way."""
        return self.sharding or hardware.attention_sharding

    def _check_composes(self, model: ModelArchitecture, layout: AttentionLayout) -> None:
        """Raise :class:`UserError` when the layout does not go with the formats or the eviction rule."""
        rule = self.policy.eviction
        for refuses in {id(one): one.refuses for group in model.attending_groups
                        for one in [layout if group.shape is None else group_layout(model, layout, group)]}.values():
            why = refuses.get("separate formats")
            if why and self.key_format != self.value_format:
                raise UserError(f"kv dtype {self.kv_dtype}: {model.name} {why}",
                                hint=f"give one format, such as {self.key_format.name}")
            why = refuses.get("eviction")
            if why and rule is not None:
                raise UserError(f"eviction {rule.kind}: {model.name} {why}", hint="expected none")
            why = refuses.get("eviction by score")
            if why and rule is not None and rule.chooses_by_head:
                raise UserError(f"eviction {rule.kind}: {model.name} under {layout.name} {why}",
                                hint="a streaming rule keeps the same tokens for every head")

    def _expert_ways(self, model: ModelArchitecture, tp: Any) -> Any:
        """Chips with different experts: as many as were asked for, as far as tp and the model's experts allow."""
        if self.ep == 1 or model.moe is None:
            return 1
        return np.gcd(np.asarray(tp, dtype=np.int64), np.gcd(self.ep, model.moe.experts))


def parse_scenario(*, kv_dtype: str = "bf16", weight_dtype: str = "bf16", eviction: str = "none",
                   layer_budgets: tuple[float, ...] = (1.0,), page: int | None = None, reserve: int | None = None,
                   lengths: str = "equal", attention_kernel: str = "grouped", cache_order: str = "head-major",
                   attention_sharding: str = "auto", ep: int = 1, expert_load: str = "uniform",
                   speculation: str = "none", encoder_len: int | None = None, comparison: str = "mha",
                   owned: str = DEFAULT_OWNERSHIP, ffn: Any = None, between: str | None = None,
                   with_attention: str | None = None, micro_batches: int | None = None, **unknown: Any) -> Scenario:
    """Read a scenario from words, as on the command line. Raises :class:`UserError` naming the word that is wrong.

    Parameters
    ----------
    kv_dtype: ``bf16``, ``fp8``, ``int4``, ``int4-g128``, ``int2-channel/int2`` (keys/values).
    weight_dtype: as kv_dtype, with routed experts' after a slash: ``nvfp4``, ``bf16/mxfp4``; or ``as-published``.
    eviction: ``none``, ``streaming:4+1020``, ``h2o:512+512``, ``snapkv:1024+256``.
    layer_budgets: factors on the eviction budget, repeated over the layers.
    page: tokens a page; not together with ``reserve``.
    reserve: tokens reserved contiguously a sequence.
    lengths: ``equal``, ``lognormal:CV``, ``uniform:SPREAD`` or relative lengths.
    attention_kernel: ``grouped``, ``grouped-unsplit``, ``per-query-head``, ``unfused``.
    cache_order: ``head-major`` or ``token-major``: what lies side by side in the cache.
    attention_sharding: ``heads``, ``batch``, ``context``, ``data``, or ``auto``: the fastest, or the profile's own.
    ep: chips that hold different experts, as far as tp and the number of experts allow.
    expert_load: how often rows choose each expert: ``uniform``, ``zipf:1.0``, or a file of counts.
    speculation: ``none``, ``draft=MODEL,gamma=4,acceptance=0.8``, ``mtp=1,acceptance=0.85`` or ``medusa=4,..``.
    encoder_len: tokens that an encoder-decoder's encoder read, for its cross-attention.
    comparison: ``mha``, or ``mha-equal-parameters``: layouts with fewer K and V weights have a wider MLP instead.
    owned: years of use, the part of them in which chips serve, dollars a kWh: ``years=4,utilisation=0.6,power=0.1``.
    ffn: a second pool of chips for what is not attention's: ``groq-3-lpu:64``, or a profile and a number of chips.
    between: what joins the pools: ``400GB/s,2us`` in each direction, or ``free``.
    with_attention: what stays with attention: some of ``projections,ffn,ends``, or ``none``.
    micro_batches: parts of the batch that keep both pools busy; None: those of the shortest step.
    unknown: any other word is refused.
    """
    for word in unknown:
        raise UserError(f"nothing is called '{word[:40]}' here", hint=did_you_mean(
            word, (*_scenario.__wrapped__.__annotations__, "ffn", "between", "with_attention", "micro_batches")))
    words = (kv_dtype, weight_dtype, eviction, layer_budgets, page, reserve, lengths, attention_kernel, cache_order,
             attention_sharding, ep, expert_load, speculation, encoder_len, comparison, owned)
    try:
        # A draft model and a load may be files that change.
        known = (speculation, expert_load) == ("none", "uniform")
        found = _scenario(*words) if known else _scenario.__wrapped__(*words)
    except TypeError:  # a list in place of a tuple
        found = _scenario.__wrapped__(*words)
    asked = (ffn, between, with_attention, micro_batches)
    return found if asked == (None,) * len(asked) else replace(found, pools=parse_pools(*asked))


@lru_cache(maxsize=1024)
def _scenario(kv_dtype: str, weight_dtype: str, eviction: str, layer_budgets: tuple[float, ...], page: int | None,
              reserve: int | None, lengths: str, attention_kernel: str, cache_order: str,
              attention_sharding: str, ep: int, expert_load: str, speculation: str, encoder_len: int | None,
              comparison: str, owned: str) -> Scenario:
    """Programs ask in the same words in a loop: they are read once."""
    for name, value, most in (("page", page, 10**6), ("reserve", reserve, 10**9), ("ep", ep, 10**5),
                              ("encoder_len", encoder_len, 10**9)):
        check_whole(name, value, most)
    for name, text in (("kv_dtype", kv_dtype), ("weight_dtype", weight_dtype), ("eviction", eviction),
                       ("lengths", lengths), ("attention_kernel", attention_kernel), ("cache_order", cache_order),
                       ("attention_sharding", attention_sharding), ("expert_load", expert_load),
                       ("speculation", speculation), ("comparison", comparison), ("owned", owned)):
        if not isinstance(text, str):
            raise UserError(f"{name}: {shown(text)} is not a word: expected text")
    if comparison not in COMPARISONS:
        raise UserError(f"baseline '{comparison[:40]}': expected one of {', '.join(COMPARISONS)}",
                        hint=did_you_mean(comparison, COMPARISONS))
    keys, values = parse_cache_formats(kv_dtype)
    return Scenario(
        kv_dtype=kv_dtype.strip().lower(), weight_dtype=weight_dtype.strip().lower(), key_format=keys,
        value_format=values,
        weight_formats=None if weight_dtype.strip().lower() == AS_PUBLISHED else parse_cache_formats(
            weight_dtype, what="weight dtype"),
        policy=KvPolicy(eviction=parse_eviction(eviction, layer_budgets), paging=parse_paging(page, reserve),
                        lengths=parse_lengths(lengths)),
        kernel=parse_kernel(attention_kernel), cache_order=parse_cache_order(cache_order),
        sharding=None if attention_sharding == "auto" else parse_attention_sharding(attention_sharding),
        ep=int(ep), expert_load=parse_expert_load(expert_load),
        speculation=parse_speculation(speculation), encoder_len=int(encoder_len or 0),
        comparison=comparison, ownership=parse_ownership(owned))
