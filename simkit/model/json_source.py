"""JSON with the line and column of every key kept: configurations and checkpoint indexes that others wrote.

Python's own parser keeps no places, lets a duplicate key win in silence, reads ``NaN`` and runs into the
recursion limit on hostile nesting. Here a file is read into the same :class:`YamlSource` that YAML is, so that
one way of naming places serves both.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final

from simkit.foundation.errors import Location, UserError, shorten
from simkit.foundation.input_file import read_text
from simkit.foundation.yaml_source import KeyPath, YamlSource

MAX_FILE_BYTES: Final = 10_000_000  # MiniMax-M3's list of layers that are not quantised has 3 MB
MAX_VALUES: Final = 100_000  # a second; a configuration has some 50, and lists of such layers
_MAX_DEPTH: Final = 30
_MAX_DIGITS: Final = 64
# Possessive (++, *+): a text that is never closed would otherwise be tried in every way of cutting it into pieces.
_TOKEN: Final = re.compile(
    r"""(?P<mark>[{}\[\]:,])
    |(?P<string>"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+")
    |(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    |(?P<word>[A-Za-z_+-][A-Za-z_]*)""", re.VERBOSE | re.ASCII)
_SPACE: Final = re.compile(r"[ \t\r\n]*", re.ASCII)
# Infinity is no JSON, but what Python writes for a limit that is none (Nemotron's time_step_limit).
_WORDS: Final[dict[str, bool | float | None]] = {"true": True, "false": False, "null": None, "Infinity": math.inf}
_NOT_NUMBERS: Final = frozenset({"NaN", "nan", "-Infinity", "inf", "-inf"})


def load_json(path: Path | str, *, most_bytes: int = MAX_FILE_BYTES, most_values: int = MAX_VALUES) -> YamlSource:
    """Read one JSON file whose top level is an object.

    Parameters
    ----------
    path: the file.
    most_bytes, most_values: the largest file that is read: indexes of large checkpoints are longer than any
        configuration.

    Raises :class:`UserError` with file:line:column when the file is missing, unreadable, too large, not UTF-8
    or not JSON.
    """
    return parse_json(read_text(path, most_bytes=most_bytes), file=str(path), most_values=most_values)


def parse_json(text: str, *, file: str, most_values: int = MAX_VALUES) -> YamlSource:
    """Read JSON from a string; ``file`` is the name that messages use. Raises :class:`UserError`."""
    return _Parser(text, file, most_values).document()


class _Parser:
    """Recursive descent over one text; depth is bounded before Python's stack is."""

    def __init__(self, text: str, file: str, most_values: int) -> None:
        self._text = text
        self._file = file
        self._most_values = self._left = most_values
        self._at = 0
        self._line = 1
        self._line_start = 0
        self._counted_to = 0
        self._places: dict[KeyPath, tuple[int, int]] = {}

    def document(self) -> YamlSource:
        self._skip_space()
        if self._at == len(self._text):
            raise UserError("the file is empty", where=Location(file=self._file))
        if self._text[self._at] != "{":
            raise self._error("not a JSON object: expected '{' at the top of the file")
        data = self._value((), 0)
        self._skip_space()
        if self._at < len(self._text):
            raise self._error("not JSON: expected the end of the file after the closing '}'")
        return YamlSource(file=self._file, data=data, places=self._places)

    def _value(self, path: KeyPath, depth: int) -> Any:
        self._skip_space()
        place = self._place()
        self._places.setdefault(path, place)
        if depth > _MAX_DEPTH:
            raise self._error(f"nested deeper than {_MAX_DEPTH} levels")
        self._left -= 1
        if self._left < 0:
            raise self._error(f"more than {self._most_values:,} values")
        kind, token = self._token("a value")
        if token == "{":
            return self._object(path, depth)
        if token == "[":
            return self._list(path, depth)
        if kind == "string":
            return self._string(token, place)
        if kind == "number":
            return self._number(token, place)
        if kind == "word" and token in _WORDS:
            return _WORDS[token]
        if token in _NOT_NUMBERS:
            raise self._error(f"{token} is not a number that JSON has", place)
        raise self._error(f"not JSON: expected a value, found '{shorten(token, 20)}'", place)

    def _string(self, token: str, place: tuple[int, int]) -> str:
        text = str(json.loads(token))
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise self._error("a text with half of a surrogate pair, which no output can hold", place) from None
        return text

    def _number(self, token: str, place: tuple[int, int]) -> int | float:
        value = json.loads(token) if len(token) <= _MAX_DIGITS else math.inf
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(f"the number {shorten(token, 20)} is too large", place)
        return int(value) if isinstance(value, int) else float(value)

    def _object(self, path: KeyPath, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._next_is("}"):
            return found
        while True:
            self._skip_space()
            place = self._place()
            kind, token = self._token("a key in double quotes")
            if kind != "string":
                raise self._error(f"not JSON: expected a key in double quotes, found '{shorten(token, 20)}'", place)
            key = self._string(token, place)
            key_path = (*path, key)
            if key in found:
                first = self._places[key_path][0]
                raise self._error(f"'{shorten(key, 40)}' stands here a second time (first on line {first})", place)
            self._places[key_path] = place
            self._expect(":")
            found[key] = self._value(key_path, depth + 1)
            if self._expect(",}") == "}":
                return found

    def _list(self, path: KeyPath, depth: int) -> list[Any]:
        found: list[Any] = []
        if self._next_is("]"):
            return found
        while True:
            found.append(self._value((*path, len(found)), depth + 1))
            if self._expect(",]") == "]":
                return found

    def _expect(self, marks: str) -> str:
        self._skip_space()
        place = self._place()
        wanted = " or ".join(f"'{mark}'" for mark in marks)
        _, token = self._token(wanted)
        if token not in marks:
            raise self._error(f"not JSON: expected {wanted}, found '{shorten(token, 20)}'", place)
        return token

    def _next_is(self, mark: str) -> bool:
        self._skip_space()
        if self._text.startswith(mark, self._at):
            self._at += 1
            return True
        return False

    def _token(self, wanted: str) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            found = f"'{self._text[self._at]}'" if self._at < len(self._text) else "the end of the file"
            if found == "'\"'":
                found = "a text with a wrong escape, a line break or no closing quote"
            raise self._error(f"not JSON: expected {wanted}, found {found}")
        self._at = match.end()
        return str(match.lastgroup), match[0]

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _place(self) -> tuple[int, int]:
        """Line and column of the present position; lines are counted on from the last call, never from the top."""
        passed = self._text.count("\n", self._counted_to, self._at)
        if passed:
            self._line += passed
            self._line_start = self._text.rfind("\n", self._counted_to, self._at) + 1
        self._counted_to = self._at
        return self._line, self._at - self._line_start + 1

    def _error(self, message: str, place: tuple[int, int] | None = None) -> UserError:
        line, column = place or self._place()
        return UserError(message, where=Location(file=self._file, line=line, column=column))
