"""What a claim is, what a test may find, and how a grid of settings becomes a verdict."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PlainValidator, PrivateAttr

from simkit.foundation.axis_syntax import parse_axis
from simkit.foundation.errors import Location, UserError
from simkit.foundation.validation import Name, StrictRecord, Text, rule
from simkit.hardware.catalog import Chips
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.study.cache_size import kv_bytes_per_token

Verdict = Literal["holds", "holds when", "does not hold"]


def _axis(value: object) -> tuple[float, ...]:
    if isinstance(value, bool) or not isinstance(value, int | float | str | list):
        raise rule("expected a number, a list such as [1, 8], or a range such as 1k..128k*2")
    try:
        return tuple(parse_axis(",".join(map(str, value)) if isinstance(value, list) else str(value)))
    except UserError as error:
        raise rule(str(error)) from None


def _point(value: object) -> float:
    values = _axis(value)
    if len(values) != 1:
        raise rule("expected one value, not a list")
    return values[0]


Axis = Annotated[tuple[float, ...], PlainValidator(_axis)]
Point = Annotated[float, PlainValidator(_point)]
Names = Annotated[list[Text], Field(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a test found: ``found`` beside ``claimed`` in ``unit``, the figure in words, and when the claim holds."""

    verdict: Verdict
    figure: str
    condition: str | None = None
    found: float | None = None
    claimed: float | None = None
    unit: str = ""


class Claim(StrictRecord):
    """A statement and the setting in which it is tested; each kind of test adds its own keys and its ``judge``."""

    tests: ClassVar[dict[str, type[Claim]]] = {}
    id: Name
    says: Text
    test: Text
    _where: Location | None = PrivateAttr(default=None)

    def at(self, where: Location) -> Self:
        """The claim, which knows where it stands."""
        self._where = where
        return self

    def judged(self, engine: str, chips: Chips) -> Finding:
        """As :meth:`judge`; what the engine refuses of the claim's setting is told at its place."""
        try:
            return self.judge(engine, chips)
        except UserError as fault:
            if self._where is None or fault.where is not None:
                raise
            raise UserError(fault.message, where=self._where, hint=fault.hint) from None

    def __init_subclass__(cls, test: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Claim.tests[test] = cls

    def on(self, hardware: Sequence[str]) -> Self:
        """The claim about these chips instead of those that it names; one about no chip stays as it is."""
        named = getattr(self, "hardware", None)
        if named is None:
            return self
        if isinstance(named, str) and len(hardware) != 1:
            raise UserError(f"{self.id} is about one machine: expected one name after -H, not {len(hardware)}",
                            hint="--only chooses claims")
        return self.model_copy(update={"hardware": hardware[0] if isinstance(named, str) else list(hardware)})

    @abstractmethod
    def judge(self, engine: str, chips: Chips) -> Finding:
        """Ask the engine of that name, on the profiles that ``chips`` gives."""


def verdict_over(holds: Any) -> Verdict:
    """The verdict over a grid of settings: everywhere, nowhere, or somewhere.

    >>> verdict_over([True, True]), verdict_over([True, False]), verdict_over([False])
    ('holds', 'holds when', 'does not hold')
    """
    everywhere = np.asarray(holds, dtype=bool)
    if everywhere.size and everywhere.all():
        return "holds"
    return "holds when" if everywhere.any() else "does not hold"


def cache_reduction(model: ModelArchitecture, attention: str) -> float:
    """How much smaller a token's cache is under a layout than with MHA."""
    mha, ours = (kv_bytes_per_token(model, parse_layout(name, model)) for name in ("mha", attention))
    return mha / ours


def within(found: float, claimed: float, tolerance: float) -> bool:
    """Whether two figures agree: :math:`|found / claimed - 1| \\le tolerance`.

    >>> within(10.7, 2.5, 0.1), within(2.6, 2.5, 0.1)
    (False, True)
    """
    return abs(found / claimed - 1) <= tolerance


def listed(values: Sequence[Any]) -> str:
    """Values in words: ``1, 2 and 4``.

    >>> listed([1.0, 2.0, 4.0]), listed(["a"])
    ('1, 2 and 4', 'a')
    """
    words = [f"{value:g}" if isinstance(value, float | int) else str(value) for value in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "none"
