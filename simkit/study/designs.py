"""Hypothetical chips: base profiles with parameters at many values, timed as arrays through the engines' equations.

A space is the product of its axes, or a quasi-random sample of it (scrambled Sobol points, Sobol 1967, Owen 1998; ends
without a step are evenly dense in their logarithm). A design is a place in that order, so that any part of a space can
be made anywhere. Figures that a profile holds as arrays are timed together; those from which more follows on loading
(numbers of units, what a borrowed kernel is scaled by) load the profile once for each combination of their values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.axis_syntax import quantity_texts
from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import USD, WATTS, parse_quantity
from simkit.hardware.catalog import load_hardware
from simkit.hardware.parameters import ProfileParameter, profile_parameters, with_parameter
from simkit.hardware.profile import HardwareProfile
from simkit.hardware.silicon import CENTRAL, HIGH, LOW, SiliconModel, silicon_constants, silicon_model
from simkit.study.digests import digest
from simkit.study.record import Field
from simkit.study.vary import quantity_text

MOST_LOADED: Final = 4096  # combinations of values for which a profile is loaded anew
MOST_DESIGNS: Final = 1_000_000_000

DESIGN_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in (
    Field(name="mm2", heading="mm2", meaning="modelled silicon of a chip, all its dies"),
    Field(name="mm2_low", meaning="low end of its range by the parameters of the model"),
    Field(name="mm2_high", meaning="high end of that range"),
    Field(name="power_w", heading="watts", dimension=WATTS,
          meaning="modelled power of a chip: static, and the hungrier of arithmetic and main memory"),
    Field(name="power_w_low", dimension=WATTS, meaning="low end of its range"),
    Field(name="power_w_high", dimension=WATTS, meaning="high end of its range"),
    Field(name="price_usd", heading="price", dimension=USD,
          meaning="the base chip's price by the ratio of modelled costs of dies and memory"),
    Field(name="tokens_per_s_per_mm2", heading="tok/s/mm2", meaning="tokens/s over the silicon of all chips"),
    Field(name="tokens_per_s_per_w", heading="tok/s/W", meaning="tokens/s over the power of all chips"),
    Field(name="tokens_per_s_per_usd", heading="tok/s/$", meaning="tokens/s over the price of all chips"),
)})
_ENDS: Final = {"": CENTRAL, "_low": LOW, "_high": HIGH}
# What a budget bounds and a design is ranked by, each with its words.
MEASURES: Final = {"mm2": "mm2", "power_w": "W", "price_usd": "USD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A chip that designs start from, as :func:`simkit.hardware.catalog.load_hardware` takes it."""

    name: str
    overrides: tuple[tuple[str, str], ...] = ()
    folder: str | None = None
    node: str | None = None
    assume: str | None = None

    def load(self, more: tuple[tuple[str, str], ...] = ()) -> HardwareProfile:
        """The profile, with more values set."""
        return _loaded(self, more)

    def silicon(self) -> SiliconModel:
        """The model of its area, power and price, by the chip as it is built."""
        return _silicon(self)


@lru_cache(maxsize=64)
def _silicon(base: Base) -> SiliconModel:
    return silicon_model(load_hardware(base.name, profiles=base.folder, assume=base.assume), base.node)


@lru_cache(maxsize=1024)
def _loaded(base: Base, more: tuple[tuple[str, str], ...]) -> HardwareProfile:
    return load_hardware(base.name, overrides={**dict(base.overrides), **dict(more)}, profiles=base.folder,
                         assume=base.assume)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A parameter at ``values`` (SI units), or, where there are none, anywhere from ``start`` to ``stop``."""

    key: str
    dimension: str
    whole: bool
    values: tuple[float, ...]
    start: float
    stop: float

    def at(self, share: Any) -> Any:
        """The values at shares of the axis from 0 to below 1."""
        if self.values:
            return np.array(self.values)[(share * len(self.values)).astype(int)]
        found = self.start * (self.stop / self.start) ** share
        return np.round(found) if self.whole else found


def is_range(text: str) -> bool:
    """Whether a value of ``--set`` leaves something to choose."""
    return ".." in text or len(quantity_texts(text, what="--set")) > 1


def read_axis(key: str, text: str, profile: HardwareProfile) -> Axis:
    """An axis from a list or range of quantities; ends without a step are the ends of a sample.

    Raises :class:`UserError` when the chip has no such parameter, naming both.
    """
    known = {one.key: one for one in profile_parameters(profile) if one.dimension is not None}
    if key not in known:
        raise UserError(f"--set {key[:80]}: {profile.name} has no such parameter", hint=did_you_mean(key, known))
    ends, dimension = text.split(".."), str(known[key].dimension)
    is_open = len(ends) == 2 and not {"*", "+", ","}.intersection(text)
    texts = [end.strip() for end in ends] if is_open else quantity_texts(text, what=f"--set {key}")
    if is_open and texts[0][-1:].isdecimal():
        texts[0] += texts[1].lstrip("0123456789.")
    values = [_read(one, dimension, key) for one in texts]
    if is_open and not 0 < values[0] < values[1]:
        raise UserError(f"--set {key}={text[:60]}: a sample goes from an end above 0 to a higher one")
    return Axis(key=key, dimension=dimension, whole=known[key].whole, values=() if is_open else tuple(values),
                start=min(values), stop=max(values))


def _read(text: str, dimension: str, key: str) -> float:
    try:
        return parse_quantity(text, dimension)
    except UserError as error:
        raise UserError(f"--set {key}: {error.message}", hint=error.hint) from None


@dataclass(frozen=True, kw_only=True)
class DesignSpace:
    """All designs of ``bases`` over ``axes``, or ``sample`` of them (of each base, the same), or those ``listed`` by
    their parameters.
    """

    bases: Sequence[Base]
    axes: Sequence[Axis]
    sample: int | None = None
    seed: int = 0
    listed: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        """Designs of one base chip."""
        if self.listed is not None:
            return len(next(iter(self.listed.values())))
        return prod(len(axis.values) for axis in self.axes) if self.sample is None else self.sample

    def plain(self) -> dict[str, Any]:
        """What its results depend on, for manifests."""
        return {"sha256": digest([self.bases, self.axes, silicon_constants()]), "sample": self.sample,
                "seed": self.seed, "axes": [axis.key for axis in self.axes]}

    def check(self) -> None:
        """Raise :class:`UserError` for a space that cannot be walked."""
        open_ = [axis.key for axis in self.axes if not axis.values]
        if open_ and self.sample is None:
            raise UserError(f"--set {open_[0]}: a range without a step", hint="give one (1TB/s..40TB/s*2), or --sample")
        if len(self) > MOST_DESIGNS:
            raise UserError(f"{len(self):,} designs are more than {MOST_DESIGNS:,}", hint="shorten the ranges, or "
                            "--sample some of them")

    def values(self, first: int, last: int) -> dict[str, Any]:
        """The parameters of the designs ``first`` up to, not including, ``last``."""
        if self.listed is not None:
            return {key: column[first:last] for key, column in self.listed.items()}
        if self.sample is None:
            where = np.unravel_index(np.arange(first, last), [len(axis.values) for axis in self.axes])
            return {axis.key: np.array(axis.values)[at] for axis, at in zip(self.axes, where, strict=True)}
        from scipy.stats.qmc import Sobol

        points = Sobol(len(self.axes), scramble=True, seed=self.seed)
        with warnings.catch_warnings():  # a part of a sequence need not be a power of two
            warnings.simplefilter("ignore", UserWarning)
            shares = (points.fast_forward(first) if first else points).random(last - first)
        return {axis.key: axis.at(shares[:, place]) for place, axis in enumerate(self.axes)}

    def columns(self, base: int, first: int, last: int,
                timed: Callable[[HardwareProfile, int], dict[str, Any]]) -> dict[str, Any]:
        """Columns of designs of one base chip: their parameters, area, power and price, and what ``timed`` says of a
        profile with so many points.
        """
        values, silicon, parts = self.values(first, last), self.bases[base].silicon(), []
        for where, profile in profiles_at(self.bases[base], values):
            own = {f"{name}{end_name}": measure(profile, end) for name, measure in (
                ("mm2", silicon.mm2), ("power_w", silicon.watts)) for end_name, end in _ENDS.items()}
            own["price_usd"], found = silicon.price_usd(profile), timed(profile, len(where))
            for name, measured in (("mm2", "mm2"), ("w", "power_w"), ("usd", "price_usd")):
                own[f"tokens_per_s_per_{name}"] = found["tokens_per_s"] / (found["chips"] * own[measured])
            parts.append((where, found | own))
        if len(parts) == 1:
            return values | {name: np.broadcast_to(column, (last - first,)) for name, column in parts[0][1].items()}
        order = np.argsort(np.concatenate([where for where, _ in parts]))
        return values | {name: np.concatenate([np.broadcast_to(part[name], where.shape) for where, part in parts])[
            order] for name in parts[0][1]}


def profiles_at(base: Base, values: Mapping[str, Any]) -> Iterator[tuple[Any, HardwareProfile]]:
    """The profiles of designs, with arrays for parameters: the places of the designs that share one, and it.

    Raises :class:`UserError` where parameters would load the profile too often, or no such profile may be.
    """
    known: dict[str, ProfileParameter] = {one.key: one for one in profile_parameters(base.load())}
    loaded = [key for key in values if not known[key].broadcasts]
    count = len(next(iter(values.values())))
    kinds, of_kind = np.zeros((1, 0)), np.zeros(count, dtype=int)
    if loaded:
        kinds, of_kind = np.unique(np.stack([values[key] for key in loaded], axis=1), axis=0, return_inverse=True)
    if len(kinds) > MOST_LOADED:
        raise UserError(f"{len(kinds):,} values of {', '.join(loaded)} would load {base.name} as often",
                        hint=f"give lists of them, at most {MOST_LOADED:,} combinations")
    for number, kind in enumerate(kinds):
        profile = base.load(tuple((key, quantity_text(value, str(known[key].dimension), whole=known[key].whole))
                                  for key, value in zip(loaded, kind.tolist(), strict=True)))
        where = np.flatnonzero(of_kind.ravel() == number)
        for key, column in values.items():
            if key not in loaded:
                profile = with_parameter(profile, key, np.asarray(column)[where])
        yield where, profile
