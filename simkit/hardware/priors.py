"""What stands for a parameter that no source gives: the range of machines of the same class, its middle as estimate.

A field with a :class:`simkit.hardware.declaration.Prior` that a profile does not state takes the range of the
profile's class in ``hardware_profiles/priors/priors.yaml`` (written by tools/derive_priors.py). Two things are left
alone, for they would be charged twice: what the measured kernels of a profile's ``kernel`` section hold, and what was
fitted together with a parameter that the profile states (``not_beside``; with ``default_beside`` the estimate stays at
the default that the fit had, and the range holds). A further DRAM tier takes the range of the class whose main memory
is of its family. The network between systems (``links.scale_out``) has no class: it keeps what its profile states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from typing import Any, Final

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.resources import shipped_folder
from simkit.foundation.units import format_quantity
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.parameters import prior_fields, with_assumed
from simkit.hardware.profile import Assumed, HardwareProfile, Provenance

ASSUMPTIONS: Final = ("priors", "ideal")
# Measured decode kernels hold what these parameters stand for; their launches inside a step are the profile's.
IN_KERNELS: Final = ("memory.", "compute.", "overheads.layer_latency")
# No step depends on it: it is not among what a decode step's times assume, and serving says it.
OF_PROMPTS: Final = "compute.matrix.prompt_fraction"
# Whose main memory a tier's is like, by how its JEDEC family begins; a tier of unknown family is one of DIMMs.
TIER_CLASSES: Final = {"HBM": "gpu-hbm", "GDDR": "gpu-gddr", "LPDDR": "gpu-unified", "": "cpu"}
_ASSUMPTION: ContextVar[str] = ContextVar("simkit_assumption", default="priors")


def _dram(chip: HardwareProfile) -> str:
    memory = chip.main_memory
    return memory.dram.type if memory.dram else ""


def _in_sram(chip: HardwareProfile) -> bool:
    return chip.main_memory.kind == "sram"


# Order decides: the first rule that holds names the class.
CLASSES: Final[tuple[tuple[str, str, Callable[[HardwareProfile], bool]], ...]] = (
    ("cpu", "kind cpu", lambda chip: chip.kind == "cpu"),
    ("gpu-hbm", "kind gpu, main memory HBM*", lambda chip: chip.kind == "gpu" and _dram(chip).startswith("HBM")),
    ("gpu-gddr", "kind gpu, main memory GDDR*", lambda chip: chip.kind == "gpu" and _dram(chip).startswith("GDDR")),
    ("gpu-unified", "kind gpu, any other main memory", lambda chip: chip.kind == "gpu"),
    ("wafer", "main memory sram, layer-pipelined, 100 000 units or more",
     lambda chip: _in_sram(chip) and chip.sharding == "layer-pipelined" and chip.compute.units >= 100_000),
    ("stream", "main memory sram, layer-pipelined",
     lambda chip: _in_sram(chip) and chip.sharding == "layer-pipelined"),
    ("sram-banked", "main memory sram", _in_sram),
    ("noc-grid", "main memory GDDR*", lambda chip: _dram(chip).startswith("GDDR")),
    ("asic-lpddr", "main memory LPDDR*", lambda chip: _dram(chip).startswith("LPDDR")),
    ("dataflow-hbm", "512 units or more", lambda chip: chip.compute.units >= 512),
    ("systolic-hbm", "every other machine", lambda _: True),
)


def class_of(chip: HardwareProfile) -> str:
    """The class that a profile falls in, by what it states."""
    return next(name for name, _, holds in CLASSES if holds(chip))


@contextmanager
def assuming(assumption: str) -> Iterator[None]:
    """What profiles loaded inside this block assume: ``priors``, or ``ideal`` (fractions of 1, no launches).

    Raises :class:`UserError` for another word.
    """
    token = _ASSUMPTION.set(_checked(assumption))
    try:
        yield
    finally:
        _ASSUMPTION.reset(token)


def assumption() -> str:
    """What profiles that are loaded now assume."""
    return _ASSUMPTION.get()


def _checked(word: str) -> str:
    if word not in ASSUMPTIONS:
        raise UserError(f"assume '{word[:40]}': expected priors or ideal", hint=did_you_mean(word, ASSUMPTIONS))
    return word


def with_priors(profile: HardwareProfile, assume: str | None = None,
                as_built: HardwareProfile | None = None) -> HardwareProfile:
    """The profile with the priors of its class for what it does not state, and ``assumed`` saying which.

    ``assume``: ``priors``, ``ideal``: list them, but keep the defaults; None: as :func:`assuming` says. ``as_built``:
    the profile without what-ifs; None: there are none.
    """
    word = assumption() if assume is None else _checked(assume)
    found = tuple(_assumed(profile, (as_built or profile).unstated))
    assumed = tuple(one for one in found if one.key != OF_PROMPTS)
    if not found or word == "ideal":
        return replace(profile, assumed=assumed, ideal=word == "ideal")
    values = {one.key: one.value for one in found if one.value is not None}
    changed = with_assumed(profile, values)
    return replace(changed, assumed=assumed, provenance={
        **profile.provenance, **{one.key: one.provenance for one in found}})


def _assumed(profile: HardwareProfile, unstated: Sequence[str]) -> Iterator[Assumed]:
    main = f"memory.{profile.main_memory.name}."
    tiers = _tiers(profile)
    kept = [key for key in profile.unstated if _has_class(key, main, tiers)
            and not (profile.kernel_parameters is not None and key.startswith(IN_KERNELS))]
    # A what-if changes what it names: only what the file itself states stands against another prior.
    silent = {key.replace(main, "memory.main.") for key in unstated}
    for key in kept:
        prior, dimension, default, record = prior_fields(profile)[key]
        whose = tiers.get(key) or class_of(profile)
        found = _ranges()[whose].get(prior.key)
        if found is None or found.get("not_beside", key) not in {key, *silent}:
            continue
        scale = prior.scale(record)
        low, central, high = (found[word] * scale for word in ("low", "central", "high"))
        if low == high == default:
            continue
        fitted = found.get("default_beside", key) not in {key, *silent}
        value = default if fitted else central
        if value is not None:
            profile = with_assumed(profile, {key: value})  # the vector rate's estimate scales that of exponentials
        yield Assumed(key=key, fast=high if prior.more_is_faster else low, slow=low if prior.more_is_faster else high,
                      central=central, value=value, provenance=_provenance(found, whose, (
                          " to ".join(format_quantity(end, dimension) for end in (low, high)))))


def _has_class(key: str, main: str, tiers: Mapping[str, str]) -> bool:
    """Whether a range of machines stands for a parameter: not for caches and scratchpads beside the main memory."""
    return key in tiers or not key.startswith(("memory.", "links.scale_out.")) or key.startswith(main)


def _tiers(profile: HardwareProfile) -> dict[str, str]:
    """The achieved fractions of DRAM beside the main memory in which weights or cache may live, each with its class."""
    tiers = {}
    for level in profile.memory:
        if level.kind == "dram" and level is not profile.main_memory and {"weights", "kv"}.intersection(level.holds):
            kind = level.dram.type if level.dram else ""
            tiers[f"memory.{level.name}.achievable_fraction"] = next(
                name for family, name in TIER_CLASSES.items() if kind.startswith(family))
    return tiers


def _provenance(found: Mapping[str, Any], whose: str, ends: str) -> Provenance:
    machines = ", ".join(one["machine"] for one in found["measured"])
    return Provenance(confidence="assumed", note=f"range {ends}", source=(
        f"prior of class {whose}, {found['from']}: {' '.join(found['how'].split())}"
        + (f"; {machines}" if machines else "")))


@cache
def rows_behind_ranges() -> frozenset[str]:
    """Rows and series of the accelerators' table that ranges of classes rest on, as their sources name them."""
    sources = (one["source"] for parameters in _ranges().values() for found in parameters.values()
               for one in found["measured"])
    return frozenset(row for source in sources for row in re.findall(r"accelerators ([\w-]+)", source))


@cache
def _ranges() -> dict[str, dict[str, Any]]:
    """The ranges of each class by parameter."""
    data = load_yaml(shipped_folder("hardware_profiles") / "priors" / "priors.yaml").data
    return {name: one["parameters"] for name, one in data["classes"].items()}
