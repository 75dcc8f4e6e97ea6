"""JSON with the line and column of every key kept: configurations and checkpoint indexes that others wrote.

Python's own parser keeps no places, lets a duplicate key win in silence, reads ``NaN`` and runs into the recursion
limit on hostile nesting. Here a pass over the tokens notes the places and looks at all that first; the result is the
same :class:`YamlSource` that YAML is read into, so that one way of naming places serves both.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
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
_TOKEN: Final = re.compile(r"""[{}\[\]:,]|"(?:[^"\\]++|\\.)*+"|[^\s{}\[\]:,"]++""", re.ASCII | re.DOTALL)
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_NOT_NUMBERS: Final = frozenset({"NaN", "-Infinity"})


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
    scan = _Scan(text, file, most_values)
    if not text.strip():
        raise UserError("the file is empty", where=Location(file=file))
    if not text.lstrip().startswith("{"):
        raise scan.error("not a JSON object: expected '{' at the top of the file", len(text) - len(text.lstrip()))
    for match in _TOKEN.finditer(text):
        if not scan.take(match[0], match.start()):
            break
    try:
        data: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as fault:
        raise scan.error(f"not JSON: {fault.msg[0].lower()}{fault.msg[1:]}", fault.pos) from None
    except (RecursionError, ValueError):
        raise scan.error("not JSON", 0) from None
    return YamlSource(file=file, data=data, places=scan.places)


class _Scan:
    """Places of keys and values, token by token; ``inside``: the path of every object and list that is open, and the
    key or index of what comes next (None: a key comes).
    """

    def __init__(self, text: str, file: str, most_values: int) -> None:
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.file, self.most_values, self.values = file, most_values, 0
        self.places: dict[KeyPath, tuple[int, int]] = {}
        self.inside: list[tuple[KeyPath, str | int | None]] = [((), "")]

    def place(self, at: int) -> tuple[int, int]:
        line = bisect_right(self.lines, at)
        return line, at - self.lines[line - 1] + 1

    def error(self, message: str, at: int) -> UserError:
        line, column = self.place(at)
        return UserError(message, where=Location(file=self.file, line=line, column=column))

    def take(self, token: str, at: int) -> bool:
        """Note a token; False where it closes more than was open: what follows is no JSON."""
        path, key = self.inside[-1]
        if token in ("}", "]"):
            self.inside.pop()
        elif token == "," and len(self.inside) > 1:
            self.inside[-1] = (path, key + 1 if isinstance(key, int) else None)
        elif token.startswith('"') and key is None:
            self._key(path, self._text(token, at), at)
        elif token not in (",", ":"):
            self._value(token, at, path if key is None or len(self.inside) == 1 else (*path, key))
        return len(self.inside) > 1

    def _text(self, token: str, at: int) -> str:
        try:
            text = str(json.loads(token))
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error("a text with half of a surrogate pair, which no output can hold", at) from None
        except json.JSONDecodeError as fault:
            raise self.error(f"not JSON: {fault.msg[0].lower()}{fault.msg[1:]}", at) from None
        return text

    def _key(self, path: KeyPath, key: str, at: int) -> None:
        if (*path, key) in self.places:
            first = self.places[*path, key][0]
            raise self.error(f"'{shorten(key, 40)}' stands here a second time (first on line {first})", at)
        self.places[*path, key] = self.place(at)
        self.inside[-1] = (path, key)

    def _value(self, token: str, at: int, path: KeyPath) -> None:
        if token.startswith('"'):
            self._text(token, at)
        elif token in _NOT_NUMBERS:
            raise self.error(f"{token} is not a number that JSON has", at)
        elif _NUMBER.fullmatch(token) and (len(token) > _MAX_DIGITS or math.isinf(float(token))):
            raise self.error(f"the number {shorten(token, 20)} is too large", at)
        self.values += 1
        if self.values > self.most_values:
            raise self.error(f"more than {self.most_values:,} values", at)
        self.places.setdefault(path, self.place(at))
        if token in ("{", "["):
            self.inside.append((path, None if token == "{" else 0))
            if len(self.inside) > _MAX_DEPTH + 1:
                raise self.error(f"nested deeper than {_MAX_DEPTH} levels", at)
