"""What a question is about, as people write it: one value or several, names or what was loaded of them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.catalog import load_model

MOST_POINTS: Final = 100_000  # of one call whose records are all kept


def listed(values: Any) -> list[Any]:
    """One value, or several, as a list."""
    alone = isinstance(values, str | HardwareProfile | ModelArchitecture) or np.ndim(values) == 0
    return [values] if alone else list(values)


def chips_of(hardware: Any) -> list[HardwareProfile]:
    """Profiles by name, path or loaded, one or several."""
    return [one if isinstance(one, HardwareProfile) else load_hardware(one) for one in listed(hardware)]


def models_of(model: Any) -> list[ModelArchitecture]:
    """Architectures by name, path or loaded, one or several."""
    return [one if isinstance(one, ModelArchitecture) else load_model(one) for one in listed(model)]


def only(values: list[Any], what: str) -> Any:
    """The one value of a list. Raises :class:`UserError` for several."""
    if len(values) != 1:
        raise UserError(f"{what}: {len(values)} are named", hint="name one")
    return values[0]
