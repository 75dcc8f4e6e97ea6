"""Claims about memory, parameters and who uses what: cache sizes, users, contexts, uptraining, adopters."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from simkit.claims.verdict import (
    Axis,
    Claim,
    Finding,
    Names,
    Point,
    cache_reduction,
    listed,
    verdict_over,
    within,
)
from simkit.foundation.units import BYTES, COUNT, format_quantity
from simkit.foundation.validation import Number, Quantity, Text
from simkit.hardware.catalog import Chips
from simkit.model.architecture import ModelArchitecture, count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kinds.catalogue import AS_TRAINED
from simkit.model.kv_cache import FORMATS
from simkit.model.uptraining import uptraining_cost
from simkit.study.cache_size import kv_bytes_per_token
from simkit.study.capacity import capacity
from simkit.study.evaluate import FIT
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario

Bytes = Annotated[float, Quantity(BYTES, 1, 1e18)]
Ratio = Annotated[Number, Field(gt=0)]
ABOUT: Final = 0.1  # "about" and "roughly": within a tenth
SECONDS_PER_DAY: Final = 86_400


def _size(value: float) -> str:
    return format_quantity(value, BYTES, digits=4)


class CacheSize(Claim, test="cache_size"):
    """The cache of one sequence has the size that is claimed."""

    model: Text
    attention: Text
    kv_len: Point
    kv_dtype: Text = "bf16"
    claimed_bytes: Bytes

    def judge(self, engine: str, chips: Chips) -> Finding:
        """The size; else the context, layout and format whose cache comes nearest to the claimed one."""
        del engine, chips
        model = load_model(self.model)
        token_bytes = kv_bytes_per_token(model, parse_layout(self.attention, model), self.kv_dtype)
        size = token_bytes * self.kv_len
        own = f"{_size(size)} ({self.attention}, {self.kv_dtype}, {self.kv_len:g} tokens)"
        finding = Finding(verdict="holds", figure=own, found=size, claimed=self.claimed_bytes, unit="B")
        if within(size, self.claimed_bytes, ABOUT):
            return finding
        formats = [name for name in FORMATS if within(self.kv_len * kv_bytes_per_token(
            model, parse_layout(self.attention, model), name), self.claimed_bytes, ABOUT)]
        tokens = np.floor(self.claimed_bytes / token_bytes)
        heads = [k for k in range(1, model.n_q_heads + 1) if model.n_q_heads % k == 0]
        by_heads = {k: self.kv_len * kv_bytes_per_token(model, parse_layout(f"gqa-{k}", model), self.kv_dtype)
                    for k in heads}
        nearest = min(heads, key=lambda k: abs(np.log(by_heads[k] / self.claimed_bytes)))
        trained = kv_bytes_per_token(model, parse_layout("as-trained", model), self.kv_dtype) * self.kv_len
        condition = (f"{_size(self.claimed_bytes)} hold {tokens:g} tokens; at {self.kv_len:g} tokens {nearest} KV "
                     f"heads come nearest ({_size(by_heads[nearest])}); the model as trained has {_size(trained)}")
        if formats:
            return replace(finding, verdict="holds when", condition=f"the cache is in {listed(formats)}; {condition}")
        return replace(finding, verdict="does not hold", condition=condition)


class CacheRatio(Claim, test="cache_ratio"):
    """A layout makes the cache smaller by the claimed factor."""

    model: Text
    attention: Text
    against: Text = "mha"
    claimed_ratio: Ratio

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Bytes of a token under one layout over the other."""
        del engine, chips
        model = load_model(self.model)
        ours, theirs = (kv_bytes_per_token(model, parse_layout(name, model)) for name in (self.attention, self.against))
        ratio = theirs / ours
        return Finding(verdict="holds" if within(ratio, self.claimed_ratio, 1e-9) else "does not hold", found=ratio,
                       claimed=self.claimed_ratio,
                       figure=f"{ratio:g}x: {_size(theirs)} a token with {self.against}, {_size(ours)} with "
                              f"{self.attention}")


class _Room(Claim, test="room"):
    """A smaller cache holds more in the same memory, in proportion: on a machine of each width."""

    column: ClassVar[Literal["max_batch", "max_kv_len"]]
    what: ClassVar[str]
    hardware: Text
    model: Text
    attention: Text
    against: Text = "mha"
    batch: Point = 1
    kv_len: Point = 4096
    tp: Axis = (1,)
    claimed_ratio: Ratio

    def judge(self, engine: str, chips: Chips) -> Finding:
        """What the two layouts hold on the same chips, width by width."""
        del engine
        hardware, model = chips(self.hardware), load_model(self.model)
        widths = [int(width) for width in self.tp]
        rows, copies = [], []
        for width in widths:
            columns = capacity(hardware, model, [self.attention, self.against], scenario=parse_scenario(
                attention_sharding="heads"), batch=self.batch, kv_len=self.kv_len, chips=width, tp=width)
            rows.append(columns[self.column][:, 0])
            copies.append(float(columns["kv_copies"][0, 0]))
        ours, theirs = np.array(rows).T
        ratio = ours / theirs
        kept = ratio >= self.claimed_ratio * (1 - ABOUT)
        verdict = verdict_over(kept)
        figures = ", ".join(f"{r:.2f}x on {w}" for r, w in zip(ratio, widths, strict=True))
        condition = None
        if verdict == "holds when":
            good = [width for width, ok in zip(widths, kept, strict=True) if ok]
            bad = [(w, c) for w, c, ok in zip(widths, copies, kept, strict=True) if not ok]
            condition = (f"tensor parallelism is {listed(good)}; on {bad[0][0]} chips the "
                         f"{parse_layout(self.attention, model).n_kv_heads} KV heads are stored {bad[0][1]:g} times")
        return Finding(verdict=verdict, condition=condition, found=float(ratio[0]), claimed=self.claimed_ratio,
                       figure=f"{self.what.format(self)}: {figures} chips; on {widths[0]}: {ours[0]:g} instead of "
                              f"{theirs[0]:g}")


class ProportionalReads(Claim, test="proportional_reads"):
    """A step reads at least ``enough_share`` of the factor fewer bytes by which the cache of one sequence shrinks."""

    hardware: Text
    model: Text
    attention: Text
    batch: Axis
    kv_len: Point
    tp: Axis
    enough_share: Ratio

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Bytes of the cache, and of cache and weights, that all chips read in a step, over widths and batches."""
        model, widths = load_model(self.model), [int(width) for width in self.tp]
        factor = cache_reduction(model, self.attention)
        cache, whole = [], []
        for width in widths:
            read = decode_step(chips(self.hardware), self.model, attention=[["mha"], [self.attention]], engine=engine,
                               batch=np.array(self.batch)[None, :], kv_len=self.kv_len, chips=width, tp=width)
            of_cache, of_weights = read["kv_read_bytes"], read["weight_read_bytes"]
            cache.append(of_cache[0] / of_cache[1])
            whole.append((of_cache + of_weights)[0] / (of_cache + of_weights)[1])
        kept = np.array(cache) >= self.enough_share * factor
        good = [width for width, row in zip(widths, kept, strict=True) if row.all()]
        figures = ", ".join(f"{row.max():.3g}x on {width}" for row, width in zip(cache, widths, strict=True))
        best = np.array(whole)
        verdict = verdict_over(kept)
        return Finding(
            verdict=verdict, found=float(np.max(cache)), claimed=factor,
            figure=f"{factor:g}x smaller caches; cache bytes of a step: {figures} chips",
            condition=f"tensor parallelism is {listed(good)}; with the weights, which every step reads too, "
                      f"{best.min():.2f}x at batch {self.batch[0]:g} to {best.max():.2f}x at {self.batch[-1]:g}")


class MoreUsers(_Room, test="more_users"):
    """A smaller cache serves more users in the same memory, in proportion."""

    column = "max_batch"
    what = "users at {0.kv_len:g} tokens"


class LongerContexts(_Room, test="longer_contexts"):
    """A smaller cache serves longer contexts in the same memory, in proportion."""

    column = "max_kv_len"
    what = "context of {0.batch:g} users"


class PracticalContext(Claim, test="practical_context"):
    """A long context is impractical with one layout and practical with another on a named machine."""

    hardware: Text
    chips: Point
    model: Text
    attention: Text
    against: Text = "mha"
    kv_len: Point

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Users that fit under each layout, and the chips that the worse one needs for as many."""
        del engine
        hardware, model = chips(self.hardware), load_model(self.model)

        def users(layout: str, kv_dtype: str = "bf16") -> float:
            return float(capacity(hardware, model, [layout], scenario=parse_scenario(kv_dtype=kv_dtype), batch=1,
                                  kv_len=self.kv_len, chips=int(self.chips))["max_batch"][0, 0])

        ours, theirs, in_8_bits = users(self.attention), users(self.against), users(self.against, "fp8")
        needed = capacity(hardware, model, [self.against], scenario=parse_scenario(), batch=max(ours, 1.0),
                          kv_len=self.kv_len, chips=FIT)["chips"][0, 0]
        figure = (f"{ours:g} users with {self.attention} and {theirs:g} with {self.against} on {self.chips:g} "
                  f"{hardware.name} ({in_8_bits:g} with {self.against} in fp8)")
        if ours <= theirs:
            return Finding(verdict="does not hold", figure=figure, found=ours / max(theirs, 1.0))
        if theirs == 0:
            return Finding(verdict="holds", figure=figure, found=ours)
        return Finding(verdict="holds when", figure=figure, found=ours, claimed=None,
                       condition=f"practical means more than {theirs:g} and up to {ours:g} users a machine: "
                                 f"{self.against} needs {needed:g} chips for {ours:g}")


class Uptraining(Claim, test="uptraining"):
    """A claimed share of pre-training costs the claimed chip-days."""

    model: Text
    hardware: Text
    claimed_fraction: Ratio
    claimed_chip_days: Ratio
    plausible_utilisation: Annotated[list[Number], Field(min_length=2, max_length=2)]

    def judge(self, engine: str, chips: Chips) -> Finding:
        """The utilisation at which the claimed chip-days pay for that share of pre-training."""
        del engine
        model, hardware = load_model(self.model), chips(self.hardware)
        compute = hardware.compute
        rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")]
        cost = uptraining_cost(model, uptraining_fraction=self.claimed_fraction, chip_flop_per_s=rate,
                               utilization_fraction=1.0)
        days = (cost.chip_time_s or 0.0) / SECONDS_PER_DAY
        needed = days / self.claimed_chip_days
        low, high = self.plausible_utilisation
        return Finding(
            verdict="holds when" if low <= needed <= high else "does not hold", found=days, unit="chip-days",
            claimed=self.claimed_chip_days,
            figure=f"{cost.uptraining_flops:.2e} flops, {days:.0f} chip-days of {hardware.name} at peak",
            condition=f"training reaches {needed:.0%} of peak: a share of {self.claimed_fraction:.0%} is then "
                      f"{self.claimed_chip_days:g} chip-days. That quality recovers is the paper's measurement, not "
                      f"simulated")


class Parameters(Claim, test="parameters"):
    """A model has the claimed number of parameters."""

    model: Text
    claimed: Ratio

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Parameters counted tensor by tensor."""
        del engine, chips
        model = load_model(self.model)
        total = float(count_parameters(model, parse_layout("as-trained", model)).total)
        return Finding(verdict="holds" if within(total, self.claimed, ABOUT) else "does not hold", found=total,
                       claimed=self.claimed, figure=f"{total / 1e9:.1f} billion parameters, not {self.claimed / 1e9:g}"
                       if not within(total, self.claimed, ABOUT) else f"{total / 1e9:.1f} billion parameters")


class Adopters(Claim, test="adopters"):
    """Models were trained with a layout."""

    layout: Literal["mha", "gqa", "mqa"]
    models: Names

    def judge(self, engine: str, chips: Chips) -> Finding:
        """The KV heads that each model of the catalogue was trained with."""
        del engine, chips
        trained = {name: _family(load_model(name)) for name in self.models}
        matches = [kind == self.layout for kind in trained.values()]
        others = listed([f"{name} ({kind})" for name, kind in trained.items() if kind != self.layout])
        yes = [name for name, kind in trained.items() if kind == self.layout]
        verdict = verdict_over(matches)
        return Finding(verdict=verdict, found=float(sum(matches)), claimed=float(len(matches)), unit=COUNT[:0],
                       figure=f"{sum(matches)} of {len(matches)} were trained with {self.layout}",
                       condition=f"meant are {listed(yes)}; not {others}" if verdict == "holds when" else None)


def _family(model: ModelArchitecture) -> str:
    """The trained layout without its number: mha, gqa, mqa, mla."""
    return parse_layout(AS_TRAINED, model).label.partition("-")[0]
