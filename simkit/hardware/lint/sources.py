"""Where parameters come from: a parameter that nobody can look up cannot be defended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from simkit.foundation.yaml_source import YamlSource
from simkit.hardware.declaration import label_keys
from simkit.hardware.lint.remarks import Path, Remark
from simkit.hardware.profile import HardwareProfile

_LABELS: Final = label_keys(HardwareProfile)
_SECTIONS: Final = ("compute", "memory", "fabric", "links", "system", "overheads", "power", "price", "kernel")


def parameters_name_their_source(source: YamlSource) -> Iterator[Remark]:
    """A parameter that nobody can look up cannot be defended; a short name must be one of the ``sources:`` table."""
    table = source.data.get("sources")
    named = set(table) if isinstance(table, dict) else set()
    used: set[str] = set()
    for section in _SECTIONS:
        for path, leaf in _parameters(source.data.get(section), (section,)):
            origin = leaf.get("source") if isinstance(leaf, dict) else None
            if leaf is None or (isinstance(leaf, dict) and leaf.get("value") is None and origin is None):
                continue  # null: no source gives the parameter, which is itself an answer
            if not origin:
                yield "warning", path, "no source: write {value: ..., source: ..., confidence: ...}"
            elif origin in named:
                used.add(origin)
            elif not any(mark in origin for mark in " ./:"):
                yield "warning", path, f"'{origin[:40]}' is neither in the sources table nor a citation"
    for name in sorted(named - used):
        if source.locate(("sources", name)).file != source.file:
            continue  # of a profile that this one extends, whose parameters were replaced
        yield "warning", ("sources", name), "no parameter uses this source"


def _parameters(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Leaves that are parameters: scalars and ``{value: ...}`` mappings which are not mere labels."""
    if isinstance(node, dict) and "value" not in node:
        for key, value in node.items():
            if isinstance(value, dict) or key not in _LABELS:
                yield from _parameters(value, (*path, key))
    elif len(path) > 1:
        yield path, node
