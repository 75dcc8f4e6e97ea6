"""YAML with the line and column of every key kept, and PyYAML's traps closed.

Plain YAML 1.1 reads ``1e12`` as a string, ``no`` as False, ``12:30`` as 750 and lets a duplicate key win in
silence. Here a document is composed to nodes first: duplicate keys, anchors and aliases (a short alias bomb
expands to gigabytes), tags and over-long or over-deep files are refused with their place, scalars are read by
the few rules below, and :class:`YamlSource` finds the place of any key path afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.composer import Composer
from yaml.reader import ReaderError

from simkit.foundation.errors import Location, UserError, shorten
from simkit.foundation.input_file import read_text

KeyPath = tuple[str | int, ...]
MAX_FILE_BYTES: Final = 250_000
MAX_VALUES: Final = 10_000  # half a second of PyYAML; the longest profile has some 600
_MAX_DEPTH: Final = 30
# Controls but for tab and line ends, and the marks that change the order of letters ("Trojan Source", CVE-2021-42574).
_UNFIT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_INT: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?(?:\d{1,30}\.\d{0,30}|\.\d{1,30}|\d{1,30}(?=[eE]))(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class YamlSource:
    """A parsed document (``data``: dicts, lists, strings, numbers) that remembers where each key stood.

    ``files`` names the file of keys that stood in another one than ``file``, where documents were merged.
    """

    file: str
    data: dict[str, Any]
    places: dict[KeyPath, tuple[int, int]] = field(repr=False)
    files: Mapping[KeyPath, str] = field(repr=False, default_factory=dict)

    def locate(self, path: Sequence[str | int]) -> Location:
        """The place of a key path, or of its longest part that the file has."""
        known: KeyPath = tuple(path)
        while known and known not in self.places:
            known = known[:-1]
        line, column = self.places.get(known, (1, 1))
        return Location(file=self.files.get(known, self.file), line=line, column=column, key=dotted(path) or None)


def dotted(path: Iterable[str | int]) -> str:
    """A key path as the user would write it after ``--set``: ``memory.hbm.bandwidth``."""
    return ".".join(str(part) for part in path)


def load_yaml(path: Path | str) -> YamlSource:
    """Read one YAML file whose top level is a mapping.

    Raises :class:`UserError` with its place when it is missing, unreadable, too large, not UTF-8 or other YAML.
    """
    return _parsed(read_text(path, most_bytes=MAX_FILE_BYTES), file=str(path))


def parse_yaml(text: str, *, file: str) -> YamlSource:
    """Read YAML from a string; ``file`` is the name that messages use. Raises :class:`UserError`."""
    try:
        root = _root(text, file)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"a character that text files do not hold (code {error.character})",
                        where=Location(file=file, line=line)) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, file) from None
    if root is None:
        raise UserError("the file is empty", where=Location(file=file))
    if not isinstance(root, yaml.MappingNode):
        raise UserError("expected 'key: value' lines at the top level", where=_place(root, file))
    places: dict[KeyPath, tuple[int, int]] = {}
    data = _build(root, (), file, places)
    return YamlSource(file=file, data=data, places=places)


def _root(text: str, file: str) -> yaml.Node | None:
    """The document's top node, from libyaml where PyYAML has it: eight times as fast, but its faults are told worse."""
    if yaml.__with_libyaml__:
        try:
            return _FastComposer(text, file).get_single_node()
        except (yaml.MarkedYAMLError, ReaderError, UnicodeEncodeError):  # the last: half of a surrogate pair
            pass  # PyYAML's own parser finds it again, and has the words
    return _PlainComposer(text, file).get_single_node()


class _Composer(Composer):
    """Events to nodes in one pass; what could grow without bound or run code is refused as it is met."""

    _file: str
    _depth = _values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[attr-defined]
        where = _mark(event.start_mark, self._file)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise UserError("anchors and aliases (&, *) are not read here; write the value out", where=where)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise UserError(f"tags ({shorten(tag, 40)}) are not read here", where=where)
        if self._depth >= _MAX_DEPTH:
            raise UserError(f"nested deeper than {_MAX_DEPTH} levels", where=where)
        if self._values >= MAX_VALUES:
            raise UserError(f"more than {MAX_VALUES:,} keys and values", where=where)
        self._values += 1
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def resolve(self, *_: object) -> str:
        """No tags: ``read_scalar`` decides what a plain scalar is."""
        return ""

    def descend_resolver(self, *_: object) -> None:
        """Nothing to prepare, as nothing is resolved."""

    def ascend_resolver(self) -> None:
        """Nothing to clear."""


class _PlainComposer(_Composer, yaml.SafeLoader):
    def __init__(self, text: str, file: str) -> None:
        yaml.SafeLoader.__init__(self, text)
        self._file = file


class _FastComposer(_Composer, *((yaml.CSafeLoader,) if yaml.__with_libyaml__ else ())):  # type: ignore[misc]
    def __init__(self, text: str, file: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)
        self._file = file


def _build(node: yaml.Node, path: KeyPath, file: str, places: dict[KeyPath, tuple[int, int]]) -> Any:
    places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError("a key must be a single word", where=_place(key_node, file))
            key = _text(key_node, file)
            key_path = (*path, key)
            if key in mapping:
                first = places[key_path][0]
                raise UserError(f"'{key}' stands here a second time (first on line {first})",
                                where=_place(key_node, file, key_path))
            places[key_path] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            mapping[key] = _build(value_node, key_path, file, places)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), file, places) for index, item in enumerate(node.value)]
    text = _text(node, file)
    quoted = isinstance(node, yaml.ScalarNode) and bool(node.style)  # libyaml says "" of a plain one, PyYAML None
    return text if quoted else read_scalar(text)


def _text(node: yaml.Node, file: str) -> str:
    """A scalar's text, in which an escape such as "\\e" may have put what could steer a terminal or hide words."""
    text = str(node.value)
    found = None if text.isprintable() else _UNFIT.search(text)
    if found:
        raise UserError(f"a character that text files do not hold (code {ord(found[0])})", where=_place(node, file))
    return text


def read_scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar: true/false/null, an integer, a decimal number (``1e12`` too), else the text itself.

    >>> read_scalar("1e12"), read_scalar("no"), read_scalar("12:30"), read_scalar("8")
    (1000000000000.0, 'no', '12:30', 8)
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


_parsed = lru_cache(maxsize=256)(parse_yaml)  # a study reads the same profiles again and again; nobody changes them
# What PyYAML's parser says, and the slip behind it: the first whose words are in its problem and context.
_SLIPS: Final = (
    ("found character '\\t'", "a tab: indent with spaces"),
    ("mapping values are not allowed", "a ':' too many: check the indentation, or quote a text that holds ': '"),
    ("but found another document", "a second document: one file holds one, without further '---' lines"),
    ("<document start>", "text after the document's end"),
    ("found unexpected end of stream", "a quote that is opened is never closed"),
    ("while parsing a flow mapping", "'{' without its '}', or a comma missing"),
    ("while parsing a flow sequence", "'[' without its ']', or a comma missing"),
    ("while parsing a block mapping", "this line does not fit the lines above: check indentation and brackets"),
    ("while parsing a block collection", "this line does not fit the list above: check indentation and brackets"),
    ("sequence entries are not allowed", "a list item may not stand here: begin it on its own line"),
    ("cannot start any token", "a text that begins with this character needs quotes"),
    ("expected the node content", "a value is missing, or a text that begins with this character needs quotes"),
    ("chomping or indentation", "after | or > the text begins on the next line"),
    ("unknown escape character", "a backslash in double quotes is an escape: use single quotes"),
    ("alphabetic or numeric character", "a text that begins with & or * or % needs quotes"),
)


def _syntax_error(error: yaml.MarkedYAMLError, file: str) -> UserError:
    said = f"{error.context or ''} {error.problem or ''}"
    slip = next((words for sign, words in _SLIPS if sign in said), None)
    # An opened quote or bracket is better shown where it was opened than at the file's end.
    opened = "end of stream" in said or "<stream end>" in said
    mark = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
    return UserError(f"not YAML: {slip or error.problem}", where=_mark(mark, file) if mark else Location(file=file))


def _place(node: yaml.Node, file: str, path: KeyPath = ()) -> Location:
    return replace(_mark(node.start_mark, file), key=dotted(path) or None)


def _mark(mark: Any, file: str) -> Location:
    return Location(file=file, line=mark.line + 1, column=mark.column + 1)
