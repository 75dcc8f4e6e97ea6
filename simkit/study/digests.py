"""What a result depends on, as digests: records by their content, engines by their source text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

# What a profile or a model says to people; no result follows from it.
_WORDS: Final = frozenset({"title", "vendor", "year", "aliases", "notes", "provenance", "file"})
_PACKAGE: Final = Path(__file__).resolve().parents[1]
# What the time of a replayed attention kernel follows from, and what any column of a sweep follows from.
REPLAY_SOURCES: Final = ("foundation", "model", "hardware", "step", "timing", "replay")
SWEEP_SOURCES: Final = (*REPLAY_SOURCES, "roofline", "study", "sweep")


def digest(record: Any) -> str:
    """SHA-256 of a record's content (dataclasses, mappings, sequences, numbers, text), exact to a float's last bit.

    Titles, sources and file names do not count.
    """
    text = json.dumps(plain(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plain(record: Any) -> Any:
    """A record as JSON's own types; Raises TypeError for what has no content of its own."""
    if record is None or isinstance(record, str | bool | int | float):
        return record
    if isinstance(record, np.generic | np.ndarray):
        return record.tolist()
    if is_dataclass(record):
        named = {field.name: plain(getattr(record, field.name)) for field in fields(record) if field.name not in _WORDS}
        return {"": type(record).__name__, **named}
    if isinstance(record, Mapping | MappingProxyType):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, tuple | list | set | frozenset):
        items = [plain(item) for item in record]
        return sorted(items, key=repr) if isinstance(record, set | frozenset) else items
    raise TypeError(f"{type(record).__name__} has no content to take a digest of")


@cache
def source_digest(folders: tuple[str, ...]) -> str:
    """SHA-256 of the text of all Python files in folders of this package: the version of what they compute.

    Raises FileNotFoundError for a folder that is not there, whose changes would go unseen.
    """
    found = hashlib.sha256()
    for folder in folders:
        if not (_PACKAGE / folder).is_dir():
            raise FileNotFoundError(_PACKAGE / folder)
        for path in sorted((_PACKAGE / folder).rglob("*.py")):
            found.update(path.relative_to(_PACKAGE).as_posix().encode())
            found.update(path.read_bytes())
    return found.hexdigest()
