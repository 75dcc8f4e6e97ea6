"""The one error that a user's mistake may raise, and the place in a file that it points to.

Anything that is not a :class:`UserError` is a bug in simkit and shows a traceback. This module knows
nothing of click: commands turn a :class:`UserError` into one or two lines on stderr and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

MAX_SHOWN_ERRORS: Final = 20
_MAX_KEY: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a mistake stands: a file (or ``--option``), 1-based line and column, and the dotted key."""

    file: str
    line: int | None = None
    column: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        text = ":".join(parts)
        return f"{text}: {shorten(self.key, _MAX_KEY)}" if self.key else text


class UserError(Exception):
    """A mistake in what the user gave: what is wrong, where, and what to write instead.

    Parameters
    ----------
    message: what is wrong and what was expected, without a final full stop.
    where: the place in a file or on the command line, if there is one.
    hint: what to write instead, or the nearest right name.
    """

    def __init__(self, message: str, *, where: Location | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return one_line(f"{text}; {self.hint}" if self.hint else text)

    def __reduce__(self) -> Any:
        # Exceptions are rebuilt from their positional arguments; keywords must survive the way out of a worker.
        return _rebuild, (type(self), self.message, self.where, self.hint)


class UserErrorGroup(UserError):  # noqa: N818 - a group of errors, named as ExceptionGroup is
    """Several mistakes of one file, found in one reading and reported together, one a line.

    ``unlisted``: how many there are besides ``errors``, too many for each to be put into words.
    """

    def __init__(self, errors: Iterable[UserError], unlisted: int = 0) -> None:
        self.errors = tuple(errors)
        self.unlisted = unlisted
        first = self.errors[0]
        super().__init__(first.message, where=first.where, hint=first.hint)

    def __str__(self) -> str:
        lines = [str(error) for error in self.errors[:MAX_SHOWN_ERRORS]]
        more = len(self.errors) + self.unlisted - len(lines)
        if more:
            lines.append(f"... and {more:,} more")
        return "\n".join(lines)

    def __reduce__(self) -> Any:
        return UserErrorGroup, (self.errors, self.unlisted)


def _rebuild(kind: type[UserError], message: str, where: Location | None, hint: str | None) -> UserError:
    return kind(message, where=where, hint=hint)


def raise_collected(errors: list[UserError], unlisted: int = 0) -> None:
    """Raise nothing, the single error, or all of them as one :class:`UserErrorGroup`, with ``unlisted`` others."""
    if len(errors) == 1 and not unlisted:
        raise errors[0]
    if errors:
        raise UserErrorGroup(errors, unlisted)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The hint for an unknown name: the nearest known ones, or the whole list when it is short.

    >>> did_you_mean("h100sxm", ["h100-sxm", "a100-sxm-80gb"])
    "did you mean 'h100-sxm'?"
    """
    candidates = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower()[:200], list(lowered), n=2, cutoff=0.6)
    if near:
        ratio = difflib.SequenceMatcher(None, name.lower()[:200], near[0]).ratio()
        begun = [candidate for candidate in lowered if len(name) > 2 and candidate.startswith(name.lower())]
        # "h100" for h100-pcie or h100-sxm: nearer in letters is h800.
        near = begun if ratio < 0.9 and 1 < len(begun) <= 3 else near[:1] if ratio > 0.75 else near
    elif len(name) > 2:
        # "wse" or "405b" for a name that holds it: too short a part for the ratio above.
        part = _letters(name[:200])
        near = [candidate for candidate in lowered if part and part in _letters(candidate)][:2]
    if near:
        return "did you mean " + " or ".join(f"'{lowered[hit]}'" for hit in near) + "?"
    if candidates and len(candidates) <= 12:
        return "known: " + ", ".join(candidates)
    return None


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def check_whole(name: str, value: object, most: int) -> None:
    """Raise :class:`UserError` unless a value is a whole number from 1 to ``most``, or None."""
    if value is None:
        return
    try:
        good = not isinstance(value, str | bool) and value == int(value) and 1 <= value <= most  # type: ignore[call-overload,operator]
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise UserError(f"{name} {shown(value)}: expected a whole number from 1 to {most:,}")


def shown(value: object, most: int = 40) -> str:
    """A value from a file as its author would recognise it in a message, on one line and never long.

    >>> shown("8 GBs"), shown(None), shown([1, 2]), shown(True), shown(0.5)
    ("'8 GBs'", 'an empty value', 'a list', 'true', '0.5')
    """
    if value is None or value == "":
        return "an empty value"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 10**18:
        return "the number given"  # repr() of a huge int raises or floods the terminal
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(shorten(value, most)) if isinstance(value, str) else shorten(repr(value), most)


def shorten(text: str, most: int) -> str:
    """``text``, or its beginning and dots when it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def one_line(text: str) -> str:
    """Escape line breaks and whatever could steer a terminal: names in a file are not trusted."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
