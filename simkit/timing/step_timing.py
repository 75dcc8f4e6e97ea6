"""What an engine says of a step: one result type for all engines, every field an array over the points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

# Causes that are not a memory level; memory levels go by their own names.
COMPUTE: Final = "compute"
LOAD_PATH: Final = "load_path"  # of a measured kernel's units: bytes in flight over latency; it reads the memory
SPECIAL_FUNCTION: Final = "special_function"
LINK: Final = "link"
LATENCY: Final = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where a step's time and bytes go.

    ``cause_time_s`` splits the time of a step by what binds (a memory level's name, load_path, compute,
    special_function, link, latency), ``operator_cause_s`` each operator's and exchange's, by name, and
    ``attention_cause_time_s`` is that of attention alone. ``level_bytes`` are the bytes that one chip moves at each
    level in a step.
    """

    cause_time_s: dict[str, Any]
    attention_cause_time_s: dict[str, Any]
    operator_cause_s: dict[str, dict[str, Any]]
    level_bytes: dict[str, Any]

    def plus(self, name: str, other: Account, times: float) -> Account:
        """This step's account followed by ``times`` of another's, gathered under one operator name; attention stays
        this one's.
        """
        def summed(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
            return {key: value + times * theirs[key] for key, value in mine.items()}

        return Account(cause_time_s=summed(self.cause_time_s, other.cause_time_s),
                       attention_cause_time_s=self.attention_cause_time_s,
                       operator_cause_s=self.operator_cause_s | {
                           name: {cause: times * time for cause, time in other.cause_time_s.items()}},
                       level_bytes=summed(self.level_bytes, other.level_bytes))


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """Time of a step and where it goes.

    ``operator_time_s`` adds up to ``step_time_s``, collectives and waiting included. ``account`` is called when its
    parameters are first asked for: MHA beside a layout needs times alone.
    """

    step_time_s: Any
    attention_time_s: Any
    operator_time_s: dict[str, Any]
    account: Callable[[], Account]

    @cached_property
    def _account(self) -> Account:
        return self.account()

    @property
    def cause_time_s(self) -> dict[str, Any]:
        """The time of the step by what binds; see :class:`Account`."""
        return self._account.cause_time_s

    @property
    def attention_cause_time_s(self) -> dict[str, Any]:
        """The time of attention by what binds; see :class:`Account`."""
        return self._account.attention_cause_time_s

    @property
    def operator_cause_s(self) -> dict[str, dict[str, Any]]:
        """The time of each operator and exchange by what binds; see :class:`Account`."""
        return self._account.operator_cause_s

    @property
    def level_bytes(self) -> dict[str, Any]:
        """Bytes that one chip moves at each memory level in a step."""
        return self._account.level_bytes

    @property
    def bound(self) -> Any:
        """The cause that takes most of the step, by name."""
        return _largest(self.cause_time_s, np.shape(self.step_time_s))

    @property
    def attention_bound(self) -> Any:
        """The cause that takes most of the attention operator alone, by name."""
        return _largest(self.attention_cause_time_s, np.shape(self.step_time_s))

    def plus(self, name: str, other: StepTiming, times: float) -> StepTiming:
        """This step followed by ``times`` steps of another, gathered under one operator name."""
        return StepTiming(
            step_time_s=self.step_time_s + times * other.step_time_s, attention_time_s=self.attention_time_s,
            operator_time_s=self.operator_time_s | {name: times * other.step_time_s},
            account=lambda: self._account.plus(name, other._account, times))


def _largest(times: dict[str, Any], shape: tuple[int, ...]) -> Any:
    names = np.array(list(times), dtype=object)
    best = np.zeros(shape, dtype=int)
    highest: Any = np.full(shape, -np.inf)
    for index, time in enumerate(times.values()):
        above = time > highest
        best = np.where(above, index, best)
        highest = np.where(above, time, highest)
    return names[best]
