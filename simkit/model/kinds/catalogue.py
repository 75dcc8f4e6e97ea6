"""The kinds that layouts are parsed with: the one list that a new kind joins."""

from __future__ import annotations

from typing import Final

from simkit.model.kinds.base import AttentionLayout
from simkit.model.kinds.gla import GroupedLatent
from simkit.model.kinds.gqla import GroupQueryLatent
from simkit.model.kinds.gta import GroupedTied
from simkit.model.kinds.heads import Heads
from simkit.model.kinds.mla import Latent
from simkit.model.kinds.recurrent import Recurrent

AS_TRAINED: Final = "as-trained"
KINDS: Final[tuple[type[AttentionLayout], ...]] = (Heads, Latent, GroupedTied, GroupedLatent, GroupQueryLatent,
                                                Recurrent)
LAYOUT_FORMS: Final = (AS_TRAINED, *(form for kind in KINDS for form in kind.forms))
"""Names on the command line, for help and messages: ``K`` stands for a number of key/value or latent heads."""
