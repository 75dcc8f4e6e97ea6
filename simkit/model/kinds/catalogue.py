"""The kinds that layouts are parsed with: the one list that a new kind joins."""

from __future__ import annotations

from typing import Final

from simkit.model.kinds.base import AttentionLayout
from simkit.model.kinds.gla import GroupedLatent
from simkit.model.kinds.gta import GroupedTied
from simkit.model.kinds.heads import Heads
from simkit.model.kinds.mla import Latent

KINDS: Final[tuple[type[AttentionLayout], ...]] = (Heads, Latent, GroupedTied, GroupedLatent)
