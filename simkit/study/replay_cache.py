"""Replayed points kept on disk by content, so that no point is replayed twice on a machine.

A point's name is the digest of all that its results follow from: the operator (what is read, in what format and
order), where its cache lies, the profile, and the source text of the replay. An entry is a small JSON file moved
into place in one step: runs side by side share the folder without locks, and an entry that is damaged, cut short or
of another point is as good as none. The folder is ``SIMKIT_CACHE`` or the platform's own for caches, and is kept below
:data:`MOST_BYTES`, the oldest entries going first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simkit.foundation.errors import UserError
from simkit.foundation.input_file import read_text
from simkit.hardware.parameters import once_a_profile
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.study.digests import REPLAY_SOURCES, digest, source_digest
from simkit.timing.step_timing import StepTiming, TimedOperator

VARIABLE: Final = "SIMKIT_CACHE"
MOST_BYTES: Final = 512 * 2**20
# An entry takes a whole block on disk, which is what the bound is about.
BLOCK_BYTES: Final = 4096
_MOST_ENTRY_BYTES: Final = 100_000
_KEPT_WHEN_FULL: Final = 0.9  # so that a full cache is not swept at every entry
_WRITES_BETWEEN_SWEEPS: Final = 2_000

_ENABLED: ContextVar[bool] = ContextVar("simkit_result_cache", default=True)


def cache_folder() -> Path:
    """``SIMKIT_CACHE``, or ``simkit`` in the platform's folder for caches."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "simkit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / "simkit" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simkit"


@contextmanager
def without_cache() -> Iterator[None]:
    """Neither read nor write replayed points on disk inside this block."""
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def replay_engine(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    """The replay engine, its points taken from the disk where they are known."""
    from simkit.replay.engine import evaluate
    cache = shared_cache() if _ENABLED.get() else None
    return evaluate(step, placement, hardware, store=None if cache is None else cache.timed)


_CACHES: dict[Path, ResultCache] = {}


def shared_cache() -> ResultCache | None:
    """The cache of this process for the present folder; None where there is no home to put one."""
    try:
        folder = cache_folder()
    except RuntimeError:  # a user without a home folder
        return None
    return _CACHES.setdefault(folder, ResultCache(folder=folder))


_profile_digest = once_a_profile(digest)


@dataclass(kw_only=True)
class ResultCache:
    """Timed attention operators in a folder, one file each, kept below ``most_bytes`` of disk."""

    folder: Path
    most_bytes: int = MOST_BYTES
    hits: int = 0
    misses: int = 0
    _writes: int = 0

    def timed(self, operator: Operator, placement: Placement, hardware: HardwareProfile, how: tuple[Any, ...],
              replay: Callable[[], TimedOperator]) -> TimedOperator:
        """The time of one point: from disk, or replayed and kept.

        Parameters
        ----------
        operator, placement, hardware: the point, all its fields single numbers.
        how: further words of the replay that its results depend on.
        replay: replays the point.
        """
        name = digest([source_digest(REPLAY_SOURCES), _profile_digest(hardware), operator, dict(placement.kv),
                       list(how)])
        path = self.folder / "replay" / name[:2] / f"{name}.json"
        known = _read(path, name)
        if known is not None:
            self.hits += 1
            return known
        self.misses += 1
        timed = replay()
        self._write(path, name, timed)
        return timed

    def _write(self, path: Path, name: str, timed: TimedOperator) -> None:
        body = json.dumps([float(timed.total_s), _numbers(timed.cause_s), _numbers(timed.level_bytes)])
        part = path.with_name(f".{name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(f"{_seal(name, body)}\n{body}\n", encoding="ascii")
            part.replace(path)
        except OSError:
            # A cache that cannot be written (full disk, read-only home) costs time, never a result.
            _remove(part)
            return
        self._writes += 1
        if self._writes % _WRITES_BETWEEN_SWEEPS == 0:
            self.trim()

    def trim(self) -> None:
        """Remove the oldest entries until the folder is below its bound."""
        entries = []
        for path in (self.folder / "replay").glob("??/*.json"):
            try:
                state = path.stat()
            except OSError:
                continue  # another run has just removed it
            entries.append((state.st_mtime_ns, path, math.ceil(state.st_size / BLOCK_BYTES) * BLOCK_BYTES))
        held_bytes = sum(size for _, _, size in entries)
        if held_bytes <= self.most_bytes:
            return
        for _, path, size in sorted(entries, key=lambda entry: entry[:2]):
            if held_bytes <= self.most_bytes * _KEPT_WHEN_FULL:
                return
            _remove(path)
            held_bytes -= size


def _read(path: Path, name: str) -> TimedOperator | None:
    """The entry of that name; None when it is missing, damaged or another's."""
    try:
        seal, _, body = read_text(path, most_bytes=_MOST_ENTRY_BYTES).rstrip("\n").partition("\n")
        if seal != _seal(name, body):
            return None
        total_s, cause_s, level_bytes = json.loads(body)
        values = [total_s, *cause_s.values(), *level_bytes.values()]
    except (UserError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    if not all(type(value) is float and 0 <= value < math.inf for value in values):
        return None
    return TimedOperator(total_s=total_s, cause_s=cause_s, level_bytes=level_bytes)


def _seal(name: str, body: str) -> str:
    return hashlib.sha256(f"{name}\n{body}".encode()).hexdigest()


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in table.items()}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # read-only, or another run's: nothing follows from a file that stays
