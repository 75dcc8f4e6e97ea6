"""Claims that fewer KV heads stack with techniques that do not shrink the cache: kernels, speculation, batching."""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from simkit.claims.verdict import Claim, Finding, Names, Point, listed, verdict_over
from simkit.foundation.validation import StrictRecord, Text
from simkit.hardware.catalog import Chips
from simkit.hardware.profile import HardwareProfile
from simkit.study.point import decode_step

KEPT: Final = 0.95  # assumed: a product missed by less is what people mean by stacking


class Setting(StrictRecord):
    """How a model is served, as far as it differs from the claim's own setting."""

    batch: Point | None = None
    attention_kernel: Text | None = None
    kv_dtype: Text | None = None
    weight_dtype: Text | None = None
    speculation: Text | None = None


class Technique(StrictRecord):
    """A technique by its name, and the settings without it and with it."""

    name: Text
    before: Setting = Setting()
    after: Setting = Setting()


class StacksWith(Claim, test="stacks_with"):
    """Tokens a second gain the product of what the layout and the technique gain alone."""

    hardware: Names
    model: Text
    attention: Text
    batch: Point
    kv_len: Point
    techniques: Annotated[list[Technique], Field(min_length=1, max_length=50)]

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Gains of the layout, of the technique and of both, each over MHA without it on the same chips."""
        kept, worst, parts, stacking = [], 1.0, [], []
        for technique in self.techniques:
            told = []
            for name in self.hardware:
                layout, alone, both = self._gains(chips(name), technique, engine)
                if not np.isfinite(both):
                    told.append(f"{name} does not fit")
                    continue
                share = both / (layout * alone)
                kept.append(share >= KEPT)
                worst = min(worst, share)
                if share >= KEPT:
                    stacking.append(f"{technique.name} on {name}")
                told.append(f"{name} {layout:.2f}x and {alone:.2f}x, {both:.2f}x together ({share:.2f} of the product)")
            parts.append(f"{technique.name}: {', '.join(told)}")
        return Finding(verdict=verdict_over(kept), found=worst, claimed=1.0,
                       figure=f"{self.attention} and the technique alone, and both: " + "; ".join(parts),
                       condition=None if all(kept) else f"what is meant is {listed(stacking)}")

    def _gains(self, chip: HardwareProfile, technique: Technique, engine: str) -> tuple[float, float, float]:
        """Of the layout without the technique, of the technique with MHA, and of both."""
        before, after = (self._asked(setting) for setting in (technique.before, technique.after))
        most = max(float(decode_step(chip, self.model, attention="mha", baseline=False, **asked)["chips"][()])
                   for asked in (before, after))

        def tokens_per_s(attention: str, asked: dict[str, Any]) -> float:
            found = decode_step(chip, self.model, attention=attention, chips=most, engine=engine, baseline=False,
                                **asked)
            return float(found["tokens_per_s"][()])

        first = tokens_per_s("mha", before)
        return (tokens_per_s(self.attention, before) / first, tokens_per_s("mha", after) / first,
                tokens_per_s(self.attention, after) / first)

    def _asked(self, setting: Setting) -> dict[str, Any]:
        """The claim's own setting with what a technique changes."""
        return {"batch": self.batch, "kv_len": self.kv_len} | setting.model_dump(exclude_none=True)
