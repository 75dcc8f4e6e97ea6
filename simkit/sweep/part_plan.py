"""Which points make a part of a sweep, what its results depend on, and the call that a worker makes."""

from __future__ import annotations

import io
import json
import pickle
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit import __version__
from simkit.foundation.errors import UserError, shown
from simkit.study.digests import SWEEP_SOURCES, digest, source_digest
from simkit.study.engines import engine_named
from simkit.study.grid import Grid
from simkit.study.replay_cache import without_cache
from simkit.sweep.part_files import ROW_GROUP_POINTS, Form, encode

MANIFEST: Final = "manifest"
_MANIFEST_VERSION: Final = 1
# Some seconds of one core's work: what a kill may cost, and small enough to balance over workers.
PART_POINTS: Final = {True: ROW_GROUP_POINTS, False: 256}  # of closed forms, and of engines that go point by point
_AXES: Final = ("attention", "kv_dtype", "batch", "kv_len", "q_len")
_OPTIONS: Final = ("chips", "tp", "pp", "engine", "baseline", "scenario")
_LISTED_VALUES: Final = 64  # longer axes stand in the manifest by number, ends and digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cut of a sweep into parts, and its manifest. ``cache``: replayed points may come from the disk."""

    points: int
    part_points: int
    form: Form
    manifest: dict[str, Any]
    cache: bool

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.points // self.part_points)

    @property
    def manifest_text(self) -> str:
        """The manifest as it stands in files."""
        return json.dumps(self.manifest, indent=1)

    def points_of(self, index: int) -> int:
        """Points of one part."""
        return min(self.part_points, self.points - index * self.part_points)

    def payload(self, sweep: Grid) -> bytes:
        """All that a worker needs to compute any part."""
        sink = io.BytesIO()
        pickler = pickle.Pickler(sink, protocol=5)
        pickler.dispatch_table = {MappingProxyType: _reduce_read_only}
        pickler.dump((sweep, self.part_points, self.form, self.manifest["made_with"], self.cache))
        return sink.getvalue()


def _reduce_read_only(mapping: MappingProxyType[Any, Any]) -> Any:
    return MappingProxyType, (dict(mapping),)


def plan_of(sweep: Grid, form: Form, *, cache: bool = True) -> Plan:
    """The plan of a sweep. Raises :class:`UserError` when it has no points."""
    points = len(sweep)
    if not points:
        raise UserError("a sweep without points: an axis is empty")
    part_points = PART_POINTS[engine_named(sweep.engine).closed_form]
    manifest = {
        "manifest_version": _MANIFEST_VERSION,
        "format": form,
        "points": points,
        "part_points": part_points,
        "parts": -(-points // part_points),
        "hardware": [[chip.name, digest(chip)] for chip in sweep.hardware],
        "models": [[model.name, digest(model)] for model in sweep.model],
        "study": {**{name: _axis(getattr(sweep, name)) for name in _AXES},
                  **{name: _plain_option(getattr(sweep, name)) for name in _OPTIONS},
                  **({} if sweep.designs is None else {"designs": sweep.designs.plain(), "fields": sweep.fields})},
        "made_with": made_with(form),
    }
    # As read back from a file, so that a manifest compares equal to itself.
    manifest = json.loads(json.dumps(manifest))
    return Plan(points=points, part_points=part_points, form=form, manifest=manifest, cache=cache)


def _axis(values: Sequence[Any]) -> Any:
    listed = list(values)
    if len(listed) <= _LISTED_VALUES:
        return listed
    return {"values": len(listed), "first": listed[0], "last": listed[-1], "sha256": digest(listed)}


def _plain_option(value: Any) -> Any:
    return {key: digest(word) if isinstance(word, tuple) else str(word) for key, word in value.items()} if hasattr(
        value, "items") else value


def made_with(form: Form) -> dict[str, str]:
    """What besides the study decides the last bit of a result: versions, sources and the kind of machine."""
    found = {"simkit": __version__, "sources": source_digest(SWEEP_SOURCES), "numpy": np.__version__,
             "machine": platform.machine()}
    for package in ("numba", "pyarrow") if form == "parquet" else ("numba",):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # a form or an engine that is not used here does not need it
    return found


def changes(then: Any, now: dict[str, Any]) -> str | None:
    """What differs between two manifests, in words; None when nothing does."""
    if then == now:
        return None
    if not isinstance(then, dict) or then.get("manifest_version") != now["manifest_version"]:
        return "simkit's manifests have changed"
    for kind, word in (("hardware", "profile"), ("models", "model")):
        before, after = then.get(kind), now[kind]
        if not (isinstance(before, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in before)
                and [name for name, _ in before] == [name for name, _ in after]):
            return f"the study has changed ({kind})"
        different = [name for (name, was), (_, is_now) in zip(before, after, strict=True) if was != is_now]
        if different:
            return f"the {word} {', '.join(different)} has changed"
    before = _section(then, "study")
    for name, value in now["study"].items():
        if before.get(name) != value:
            return f"the study has changed ({name})"
    before = _section(then, "made_with")
    for name, value in now["made_with"].items():
        if before.get(name) != value:
            named = "its source text" if name == "sources" else f"{name} {shown(before.get(name))} -> {value}"
            return f"simkit or what it stands on has changed ({named})"
    return "the plan of the parts has changed"


def _section(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    """A section of a manifest that was read back, and that anybody may have changed."""
    found = manifest.get(key)
    return found if isinstance(found, dict) else {}


def compute_part(payload: bytes, index: int, tell: Callable[[int], None] = lambda _: None) -> bytes:
    """In a worker: the bytes of one part; ``tell`` is called with the points computed so far.

    Raises :class:`UserError` when this worker would compute other figures.
    """
    sweep, part_points, form, expected, cache = _unpacked(payload)
    here = made_with(form)
    if here != expected:
        name = next(name for name in {**expected, **here} if expected.get(name) != here.get(name))
        raise UserError(f"the worker on {platform.node()} has {name} {here.get(name)}, not {expected.get(name)}",
                        hint="install the same versions on all workers")
    first = index * part_points

    def told() -> Iterator[dict[str, Any]]:
        done = 0
        for columns in sweep.between(first, min(first + part_points, len(sweep))):
            done += len(columns["fits"])
            tell(done)
            yield columns

    with nullcontext() if cache else without_cache():
        return encode(told(), form)


@lru_cache(maxsize=2)
def _unpacked(payload: bytes) -> Any:
    return pickle.loads(payload)  # noqa: S301 - made by the run that asks, and carried by its own executor
