"""Several layouts of the same few points: their chips are searched for once, and each layout is timed once.

Figures and tables ask for one layout after another, and one figure after another for the same point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from simkit.model.attention import parse_layout
from simkit.step.machine import Machine

MOST_POINTS: Final = 512  # of a group that is remembered: of more, the arrays would fill memory
MOST_REMEMBERED: Final = 64
_GROUPS: dict[Any, Group] = {}


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Points (:class:`simkit.study.evaluate.Points`), the chips on which all that is compared fits, and what has been
    timed on them.
    """

    points: Any
    machine: Machine
    found: dict[tuple[str, bool], Any]

    def timed(self, attention: str, on_machine: Callable[..., Any], *, baseline: bool) -> Any:
        """One layout, with MHA beside it where asked for, timed by :func:`simkit.study.evaluate.on_machine`."""
        if (attention, baseline) not in self.found:
            layout, mha = (parse_layout(one, self.points.model) for one in (attention, "mha"))
            if baseline:
                found = self.timed(attention, on_machine, baseline=False)
                found = replace(found, mha=found if layout == mha else self.timed("mha", on_machine, baseline=False))
            else:
                found = on_machine(self.points, layout, self.machine, baseline=False)
            self.found[attention, baseline] = found
        return self.found[attention, baseline]


def group_of(points: Any, chips: Any, compared: tuple[str, ...]) -> Group:
    """The group of these points on the ``chips`` on which all ``compared`` layouts fit."""
    key = (id(points.hardware), id(points.model), points.engine.name, points.tp, points.pp, chips, compared, *(
        (one.shape, one.tobytes()) for one in (points.batch, points.kv_len, points.q_len)))
    known = _GROUPS.get(key)
    if known is None or known.points.scenario != points.scenario:
        known = Group(points=points, found={}, machine=points.chips_for(
            [parse_layout(one, points.model) for one in compared], chips))
        if points.batch.size <= MOST_POINTS:
            if len(_GROUPS) >= MOST_REMEMBERED:
                _GROUPS.clear()
            _GROUPS[key] = known  # its points keep chip and model alive, and with them the numbers that name them
    return known
