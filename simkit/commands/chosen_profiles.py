"""The chips that a command asks about: ``-H`` with ``--set`` and ``--profiles``, one value or lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Final

import click

from simkit.foundation.errors import UserError, UserErrorGroup

if TYPE_CHECKING:
    from simkit.hardware.catalog import Chips
    from simkit.hardware.profile import HardwareProfile

MOST_VARIANTS: Final = 10_000  # of a chip, by lists of --set
MOST_CHIPS: Final = "simkit.budget_chips"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """Where profiles come from: ``--set`` and ``--profiles``."""

    settings: tuple[str, ...]
    folder: str | None

    @property
    def variants(self) -> dict[str, dict[str, str]]:
        """``--set`` by key, once for every combination of the values in its lists and ranges; by a suffix of names."""
        from itertools import product

        from simkit.foundation.axis_syntax import quantity_texts
        from simkit.hardware.catalog import parse_overrides

        values = {key: quantity_texts(text, what=f"--set {key[:80]}")
                  for key, text in parse_overrides(self.settings).items()}
        if prod(map(len, values.values())) > MOST_VARIANTS:
            raise UserError(f"--set: more than {MOST_VARIANTS:,} combinations", hint="shorten the lists")
        several = [key for key, texts in values.items() if len(texts) > 1]
        found = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
        return {"".join(f"{',' if place else ':'}{key}={one[key]}" for place, key in enumerate(several)): one
                for one in found}

    @property
    def overrides(self) -> dict[str, str]:
        """``--set`` by key. Raises :class:`UserError` where it has lists or ranges."""
        found = self.variants
        if len(found) > 1:
            raise UserError("--set: one value of each key here", hint=(
                "one machine is asked about; simulate and most others take lists and ranges"))
        return next(iter(found.values()))

    def every(self, names: Sequence[str], *, of_several: bool = False) -> list[HardwareProfile]:
        """The profiles of ``-H``, each with every combination of ``--set``'s lists, by which several are named."""
        found = []
        for name in names:
            for suffix, overrides in self.variants.items():
                settings = tuple(f"{key}={text}" for key, text in overrides.items())
                chip = Profiles(settings=settings, folder=self.folder).loader(
                    is_named=of_several or len(names) > 1)(name)
                found.append(replace(chip, name=chip.name + suffix))
        return found

    def load(self, names: Sequence[str]) -> list[HardwareProfile]:
        """The profiles of ``-H`` with ``--set`` applied to each; a fault of ``--set`` says in which of several."""
        load = self.loader(is_named=len(names) > 1)
        return [load(name) for name in names]

    def loader(self, *, is_named: bool = True) -> Chips:
        """What loads each profile once, with ``--set`` applied; ``is_named``: a fault of ``--set`` says in which."""
        from simkit.hardware.catalog import load_hardware

        overrides = self.overrides

        @cache
        def load(name: str) -> HardwareProfile:
            try:
                return _within_budget(load_hardware(name, overrides=overrides, profiles=self.folder))
            except UserError as error:
                of_set = (error.where is not None and error.where.file == "--set"
                          and not isinstance(error, UserErrorGroup))
                if not (is_named and of_set):
                    raise
                raise UserError(f"{error.message} (in {name})", where=error.where, hint=error.hint) from None

        return load


def _within_budget(hardware: HardwareProfile) -> HardwareProfile:
    """The chip; with a warning where ``--budget-chips`` asks for more of them than its systems have."""
    context = click.get_current_context(silent=True)
    budget = None if context is None else context.meta.get(MOST_CHIPS)
    if budget is not None and budget > hardware.max_chips:
        from simkit.commands.console import warn

        warn(f"--budget-chips {budget}: {hardware.name} systems end at {hardware.max_chips} chips: so does the budget")
    return hardware
