"""Claims about speed: proportional gains, what binds, stacking, and the gap between GPUs and ASICs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

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
from simkit.foundation.validation import Number, Text
from simkit.hardware.catalog import Chips
from simkit.hardware.profile import HardwareProfile
from simkit.model.catalog import load_model
from simkit.study.point import decode_step
from simkit.study.single_kernel import attention_kernel
from simkit.study.stacking import stack

Share = Annotated[Number, Field(gt=0, le=1)]
ROUNDING: Final = 1e-3
SCALES: Final = 0.05  # what scales, scores and page tables may take off a product of byte reductions


def _profiles(names: Sequence[str], chips: Chips) -> Any:
    """The profiles of these names as an axis of points."""
    return np.array([chips(name) for name in names], dtype=object)


class ProportionalSpeedup(Claim, test="proportional_speedup"):
    """The step speeds up by at least ``enough_share`` of the factor by which the cache shrinks."""

    hardware: Names
    model: Text
    attention: Text
    batch: Axis
    kv_len: Point
    enough_share: Share

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Step and attention speed-ups over the batch, chip by chip."""
        model = load_model(self.model)
        factor = cache_reduction(model, self.attention)
        result = decode_step(_profiles(self.hardware, chips)[:, None], self.model,
                             attention=[[["mha"]], [[self.attention]]], batch=np.array(self.batch)[None, :],
                             kv_len=self.kv_len, engine=engine)
        step, core = result["speedup_vs_mha"][1], result["attention_speedup_vs_mha"][1]
        kept = step >= self.enough_share * factor
        figures = "; ".join(
            f"{name} {_span(step[row])} in the step and {_span(core[row])} in attention alone"
            for row, name in enumerate(self.hardware))
        reached = np.nanmax(step) / factor
        alone = [name for row, name in enumerate(self.hardware) if np.nanmax(core[row]) >= self.enough_share * factor]
        verdict = verdict_over(kept[np.isfinite(step)])
        where = (f"attention alone comes to {self.enough_share:.0%} of the factor on {listed(alone)}" if alone
                 else f"not even attention alone comes to {self.enough_share:.0%} of the factor")
        if verdict == "holds when":
            row, column = np.argwhere(kept)[0]
            where = (f"on {self.hardware[row]} from batch {self.batch[column]:g} on, where the MHA step is bound by "
                     f"{result['bound'][0][row, column]}; {where}")
        return Finding(verdict=verdict, found=float(np.nanmax(step)), claimed=factor,
                       figure=f"{factor:g}x fewer bytes, batch {self.batch[0]:g} to {self.batch[-1]:g}: {figures}",
                       condition=f"the step reaches at most {reached:.0%} of the factor; {where}")


def _span(values: Any) -> str:
    known = values[np.isfinite(values)]
    return "does not fit" if not known.size else f"{known.min():.2f}-{known.max():.2f}x"


class MemoryBound(Claim, test="memory_bound"):
    """A memory level takes most of every step."""

    hardware: Names
    model: Text
    attention: Names
    batch: Axis
    kv_len: Axis

    def judge(self, engine: str, chips: Chips) -> Finding:
        """What binds at each point of the grid, counted chip by chip."""
        shape = (len(self.hardware), len(self.attention), len(self.batch), len(self.kv_len))
        axes = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
        result = decode_step(
            _profiles(self.hardware, chips)[axes[0]], self.model,
            attention=np.array(self.attention, dtype=object)[axes[1]], batch=np.array(self.batch)[axes[2]],
            kv_len=np.array(self.kv_len)[axes[3]], engine=engine, baseline=False)
        causes: list[str] = []
        always, never = [], []
        points = bound = 0
        for row, name in enumerate(self.hardware):
            levels = [level.name for level in chips(name).memory]
            fits = result["fits"][row]
            by_memory = np.isin(result["bound"][row].astype(str), levels) & fits
            points, bound = points + int(fits.sum()), bound + int(by_memory.sum())
            if by_memory.sum() == fits.sum():
                always.append(name)
            if not by_memory.any():
                never.append(name)
            other = result["bound"][row][fits & ~by_memory]
            if other.size:
                named = [f"{cause} {np.sum(other == cause) / fits.sum():.0%}" for cause in sorted(set(other))]
                causes.append(f"{name} {', '.join(named)}")
        if not points:
            return Finding(verdict="does not hold", figure="none of these points fits on its machine")
        share = bound / points
        verdict = verdict_over([share == 1.0, bound > 0]) if bound else "does not hold"
        return Finding(
            verdict=verdict, found=share, claimed=1.0,
            figure=f"{share:.0%} of {points} points are bound by a memory level",
            condition=f"always on {listed(always)}, never on {listed(never)}; of each chip's points otherwise bound: "
                      + "; ".join(causes) if causes else None)


class NearInSpeed(Claim, test="near_in_speed"):
    """A layout's step takes at most ``most_slower`` times another's."""

    hardware: Names
    model: Text
    attention: Text
    against: Text
    batch: Axis
    kv_len: Axis
    most_slower: Number

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Step times of the two on the same chips over batch and context."""
        result = decode_step(
            _profiles(self.hardware, chips)[:, None, None], self.model,
            attention=np.array([self.attention, self.against], dtype=object)[:, None, None, None],
            batch=np.array(self.batch)[:, None], kv_len=np.array(self.kv_len), engine=engine, baseline=False)
        ratio = result["step_time_s"][0] / result["step_time_s"][1]
        known = np.isfinite(ratio)
        near = (ratio <= self.most_slower) & known
        limits = []
        for row, name in enumerate(self.hardware):
            for column, batch in enumerate(self.batch):
                good = near[row, column]
                if not good[known[row, column]].all():
                    far = np.array(self.kv_len)[known[row, column] & ~good]
                    limits.append(f"on {name} at batch {batch:g} below {far.min():g} tokens "
                                  f"({ratio[row, column, known[row, column]].max():.2f} times at {self.kv_len[-1]:g})")
        return Finding(verdict=verdict_over(near[known]), found=float(ratio[known].max()), claimed=self.most_slower,
                       figure=f"{self.attention} takes {ratio[known].min():.2f} to {ratio[known].max():.2f} times the "
                              f"step of {self.against}",
                       condition="; ".join(limits) or None)


class ReducersMultiply(Claim, test="reducers_multiply"):
    """What all reducers save together is the product of what each saves alone."""

    hardware: Names
    model: Text
    reducers: Names
    batch: Point
    kv_len: Axis
    what: Literal["bytes", "time"]

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Savings of each reducer alone and of all of them, on the same chips, over the context."""
        kept, parts, worst = [], [], 1.0
        for name in self.hardware:
            found = [self._share(chips(name), kv_len, engine) for kv_len in self.kv_len]
            known = [(tokens, share, text) for tokens, (share, text) in zip(self.kv_len, found, strict=True)
                     if np.isfinite(share)]
            if not known:
                parts.append(f"{name} does not fit")
                continue
            kept += [within(share, 1.0, SCALES) for _, share, _ in known]
            worst = min([worst, *(share for _, share, _ in known)], key=lambda share: -abs(np.log(share)))
            good = [tokens for tokens, share, _ in known if within(share, 1.0, SCALES)]
            parts.append(f"{name} at {listed(good)} tokens of {listed([tokens for tokens, _, _ in known])}"
                         f" (at {known[-1][0]:g}: {known[-1][2]})")
        return Finding(verdict=verdict_over(kept), found=worst, claimed=1.0,
                       figure=f"together over the product of each alone, in {self.what}: down to {worst:.2f}",
                       condition="the product is kept on " + "; ".join(parts))

    def _share(self, chip: HardwareProfile, kv_len: float, engine: str) -> tuple[float, str]:
        """Together over the product at one context, NaN where MHA does not fit, with the rungs in words."""
        column = "cache_saved" if self.what == "bytes" else "step_speedup"
        model = load_model(self.model)
        first = stack(chip, model, ["mha"], batch=self.batch, kv_len=kv_len)
        if not first["fits"][0]:
            return float("nan"), ""
        chips = int(first["chips"][0])

        def saved(reducers: list[str]) -> dict[str, Any]:
            return stack(chip, model, ["mha", *reducers], batch=self.batch, kv_len=kv_len, chips=chips, engine=engine)

        product = float(np.prod([saved([reducer])[column][-1] for reducer in self.reducers]))
        together = saved(list(self.reducers))
        rungs = ", ".join(f"{value:.3g}x" for value in together[column][1:])
        text = f"{together[column][-1]:.3g}x of {product:.3g}x, rung by rung {rungs}"
        if self.what == "time":
            text += (f", headroom {together['headroom'][0]:.3g} to {together['headroom'][-1]:.3g}, attention "
                     f"{together['attention_share'][0]:.0%} to {together['attention_share'][-1]:.0%} of the step")
        return float(together[column][-1]) / product, text


class SmallerGap(Claim, test="smaller_gap"):
    """Every ASIC gains less from a layout than every GPU."""

    hardware: Names
    gpus: Names
    model: Text
    attention: Text
    batch: Point
    kv_len: Point

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Speed-ups of step and attention on each chip, the level that holds the cache and its ridge point."""
        names = [*self.gpus, *self.hardware]
        result = decode_step(_profiles(names, chips), self.model, attention=[["mha"], [self.attention]],
                             batch=self.batch, kv_len=self.kv_len, engine=engine)
        step, core = result["speedup_vs_mha"][1], result["attention_speedup_vs_mha"][1]
        least = np.nanmin(step[: len(self.gpus)])
        smaller = step[len(self.gpus):] < least
        texts = []
        for place, name in enumerate(self.hardware, start=len(self.gpus)):
            chip = chips(name)
            ridge = chip.ridge_point_flop_per_byte()
            texts.append(f"{name} {step[place]:.2f}x (attention {core[place]:.2f}x; cache in {chip.main_memory.name}, "
                         f"ridge {ridge:.3g} flop/B; {result['chips'][1][place]:g} chips, bound by "
                         f"{result['bound'][0][place]})")
        gpus = ", ".join(f"{name} {step[place]:.2f}x" for place, name in enumerate(self.gpus))
        good = [name for name, ok in zip(self.hardware, smaller, strict=True) if ok]
        bad = [name for name, ok in zip(self.hardware, smaller, strict=True) if not ok]
        verdict = verdict_over(smaller)
        return Finding(verdict=verdict, found=float(np.nanmax(step[len(self.gpus):])), claimed=float(least),
                       figure=f"GPUs: {gpus}. ASICs: " + "; ".join(texts), condition=None if verdict != "holds when"
                       else f"the machine is {listed(good)}; not {listed(bad)}")


class RidgeThreshold(Claim, test="ridge_threshold"):
    """More bandwidth for the same arithmetic shrinks the gain: the bandwidth of one level is the variable."""

    hardware: Text
    level: Text
    n_q_heads: int
    n_kv_heads: int
    batch: Point
    kv_len: Point
    enough_share: Share

    def judge(self, engine: str, chips: Chips) -> Finding:
        """The ridge point below which attention gains less than ``enough_share`` of the factor, by bisection."""
        chip = chips(self.hardware)
        factor = self.n_q_heads / self.n_kv_heads

        def at_ridge(ridge: float) -> float:
            rate = chip.compute.matrix_achievable_flop_per_s("bf16") / ridge
            levels = tuple(replace(level, bandwidth_bytes_per_s=rate / level.achievable_fraction)
                           if level.name == self.level else level
                           for level in chip.memory)
            columns = attention_kernel(replace(chip, memory=levels), n_q_heads=self.n_q_heads,
                                       n_kv_heads=self.n_kv_heads, batch=self.batch, kv_len=self.kv_len, engine=engine)
            return float(columns["speedup_vs_mha"])

        low, high = 0.1, 1000.0
        ends = at_ridge(low), at_ridge(high)
        if not ends[0] < self.enough_share * factor <= ends[1]:
            return Finding(verdict="does not hold", found=ends[0], claimed=factor,
                           figure=f"{ends[0]:.2f}x at ridge {low:g}, {ends[1]:.2f}x at {high:g}")
        while high / low > 1 + ROUNDING:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if at_ridge(middle) >= self.enough_share * factor else (middle, high)
        return Finding(
            verdict="holds when", found=high, unit="flop/B",
            figure=f"attention gains {ends[1]:.2f}x at ridge 1000 flop/B, {at_ridge(high):.2f}x at {high:.3g}, "
                   f"{at_ridge(1.0):.2f}x at 1",
            condition=f"the ridge of the level that holds the cache is below {high:.3g} flop/B: above it {factor:g} "
                      f"query heads a KV head gain {self.enough_share:.0%} of their factor or more, whatever the "
                      f"bandwidth")
