"""Running a sweep into a file: parts beside it while it runs, joined at the end, resumed after any kind of death.

::

    results.parquet.parts/manifest.json                what the parts are parts of
    results.parquet.parts/part-000007-0a1b....parquet  whole, or not there; its name holds the digest of its bytes
    results.parquet                                    when all parts are there
    results.parquet.manifest.json                      the manifest and the digest of the result

Which points a part holds follows from the study alone. Workers give back the bytes of a part and only this process
writes, so a result is the same for any number of workers, and for a run that was killed and resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self

from simkit.foundation.errors import Location, UserError, shorten
from simkit.foundation.input_file import read_text
from simkit.foundation.output import atomic_file, check_target
from simkit.foundation.scratch import held
from simkit.study.grid import Grid
from simkit.sweep.executors import HereExecutor, Workers, is_loss
from simkit.sweep.part_files import Form, form_of, join
from simkit.sweep.part_plan import MANIFEST, Plan, changes, compute_part, plan_of

_TELL_EVERY_S: Final = 1.0  # while no part ends
_DIGITS: Final = 16  # of a part's digest, in its name
_MANIFEST_NAME: Final = "manifest.json"
_PART_NAME: Final = re.compile(rf"part-(\d{{6,9}})-([0-9a-f]{{{_DIGITS}}})", re.ASCII)
_MOST_MANIFEST_BYTES: Final = 10_000_000
_REPLACES_NAME: Final = "replaces"  # the digest of the file that --force allowed to replace: a resumed run may, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is: points done in all, how many of them an earlier run had done, and the time since it began."""

    points: int
    done_points: int
    kept_points: int
    elapsed_s: float


class WorkerLostError(Exception):
    """A worker died; finished parts are kept."""


def run_sweep(sweep: Grid, output: Path | str, *, workers: Workers | None = None, resume: bool = False,
              force: bool = False, cache: bool = True, progress: Callable[[Progress], None] | None = None) -> Path:
    """Evaluate every point into a Parquet or CSV file and return its path.

    Parameters
    ----------
    sweep: the points.
    output: a name that ends in ``.parquet`` or ``.csv``.
    workers: an executor and how many parts it is given at a time; left open, this thread.
    resume: keep the finished parts of an earlier run of the same sweep.
    force: replace what stands there, unfinished parts included; if it dies, ``resume`` may replace it as well.
    cache: replayed points may come from the disk, and are kept there.
    progress: called at the start, while a part is computed, and after it.

    Raises :class:`UserError` when the output stands already, the parts there are of another sweep, or the disk is
    full; :class:`WorkerLostError` when a worker died. In both cases a run with ``resume`` goes on.
    """
    output = Path(output)
    form = form_of(output)
    plan = plan_of(sweep, form, cache=cache)
    if resume and _is_complete(plan, output):
        shutil.rmtree(_folder(output), ignore_errors=True)
        return output
    check_target(output, force=force or (resume and (_folder(output) / _MANIFEST_NAME).is_file()))
    with _parts_folder(plan, output, resume=resume, force=force) as folder:
        joined = folder / f"joined{output.suffix}"
        with Joining(joined, form) as joining:
            _compute(sweep, plan, folder, joining, workers or Workers(executor=HereExecutor(), in_flight=1), progress)
            with _told(output):
                joining.finish()
        _finish(plan, joined, folder, output, force=force)
    return output


def _folder(output: Path) -> Path:
    return output.with_name(output.name + ".parts")


def _sidecar(output: Path) -> Path:
    return output.with_name(output.name + ".manifest.json")


def _is_complete(plan: Plan, output: Path) -> bool:
    """True when the output is the whole result of this very sweep. Raises :class:`UserError` when it is another's."""
    if not output.is_file() or not _sidecar(output).is_file():
        return False
    note = _read_json(_sidecar(output))
    different = changes(note.get(MANIFEST), plan.manifest)
    if different:
        raise UserError(f"{different} since this result was made", where=Location(file=shorten(str(output), 200)),
                        hint="give --force instead of --resume to make it again")
    return note.get("sha256") == _file_digest(output)


@contextmanager
def _parts_folder(plan: Plan, output: Path, *, resume: bool, force: bool) -> Iterator[Path]:
    """The folder of parts with this sweep's manifest in it, held by this process alone."""
    folder = _folder(output)
    where = Location(file=shorten(str(folder), 200))
    with _told(output):
        _refuse_foreign(folder)
        if folder.is_dir() and not resume:
            if not force:
                raise UserError("an unfinished sweep stands there", where=where,
                                hint="go on with --resume, or start again with --force")
            with _lock(folder):
                pass  # whoever still works there is not disturbed
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
    with _lock(folder):
        manifest = folder / _MANIFEST_NAME
        if manifest.is_file():
            different = changes(_read_json(manifest), plan.manifest)
            if different:
                raise UserError(f"{different} since the parts there were made", where=where,
                                hint="undo the change to --resume, or start again with --force")
        else:
            with _told(output):
                if force and output.is_file():
                    _write_whole(folder / _REPLACES_NAME, _file_digest(output).encode())
                _write_whole(manifest, (plan.manifest_text + "\n").encode())
        yield folder


def _refuse_foreign(folder: Path) -> None:
    """Nothing but files of its own may stand where parts are: what is written over a link lands somewhere else."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError("not a folder of parts", where=Location(file=shorten(str(folder), 200)),
                        hint="move it away, or give another output")
    for entry in folder.iterdir() if folder.is_dir() else ():
        if not stat.S_ISREG(entry.lstat().st_mode):
            raise UserError("a link, folder or device where a sweep has files of its own",
                            where=Location(file=shorten(str(entry), 200)), hint="move it away, or give another output")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder against a second run; the system lets go when this process ends, however it ends."""
    with held(folder) as mine:
        if not mine:
            raise UserError("another sweep is writing there", where=Location(file=shorten(str(folder), 200)))
        yield


class Joining:
    """Joins parts in a thread while others are still computed: at the end, little is left to join."""

    def __init__(self, target: Path, form: Form) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._queue: SimpleQueue[Path | None] = SimpleQueue()
        self._ready: dict[int, Path] = {}
        self._next = 0
        self.form = form
        self._ended = False
        self._joined = self._thread.submit(join, iter(self._queue.get, None), target, form)

    def add(self, index: int, part: Path) -> None:
        """A part is there; it is joined when all before it are."""
        self._ready[index] = part
        while self._next in self._ready:
            self._queue.put(self._ready.pop(self._next))
            self._next += 1

    def finish(self) -> None:
        """Wait until all is joined. Raises OSError when the disk refused it."""
        self._end()
        self._joined.result()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._queue.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._thread.shutdown()


def _compute(sweep: Grid, plan: Plan, folder: Path, joining: Joining, workers: Workers,
             progress: Callable[[Progress], None] | None) -> None:
    """Compute the parts that are missing, a bounded number at a time, and hand all to ``joining``."""
    began = time.monotonic()
    parts = _finished(plan, folder, joining.form)
    for index, part in parts.items():
        joining.add(index, part)
    kept = done = sum(plan.points_of(index) for index in parts)
    missing = iter(index for index in range(plan.parts) if index not in parts)
    payload = plan.payload(sweep)
    waiting: dict[Future[bytes], int] = {}

    def tell(under_way: int = 0) -> None:
        if progress is not None:
            progress(Progress(points=plan.points, done_points=done + under_way, kept_points=kept,
                              elapsed_s=time.monotonic() - began))

    # A part takes seconds: this thread says how far it is, other workers that they are at work.
    own = (tell,) if isinstance(workers.executor, HereExecutor) else ()

    tell()
    try:
        while True:
            for index in missing:
                waiting[workers.executor.submit(compute_part, payload, index, *own)] = index
                if len(waiting) >= workers.in_flight:
                    break
            if not waiting:
                return
            for future in _next_ended(waiting, tell):
                index = waiting.pop(future)
                content = future.result()
                name = f"part-{index:06d}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.{joining.form}"
                with _told(folder):
                    _write_whole(folder / name, content)
                joining.add(index, folder / name)
                done += plan.points_of(index)
                tell()
    except Exception as error:
        if is_loss(error):
            raise WorkerLostError(f"a worker was lost ({type(error).__name__}); finished parts are kept: "
                                  "go on with --resume") from error
        raise
    finally:
        for future in waiting:
            future.cancel()


def _next_ended(waiting: dict[Future[bytes], int], tell: Callable[[], None]) -> set[Future[bytes]]:
    while not (ended := wait(waiting, timeout=_TELL_EVERY_S, return_when=FIRST_COMPLETED).done):
        tell()
    return ended


def _finished(plan: Plan, folder: Path, form: Form) -> dict[int, Path]:
    """Whole parts by index; what was damaged on disk is removed and will be made again."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(f"part-*.{form}")):
        name = _PART_NAME.fullmatch(path.stem)
        if name and int(name[1]) < plan.parts and _file_digest(path)[:_DIGITS] == name[2]:
            found[int(name[1])] = path
        else:
            path.unlink()
    return found


def _finish(plan: Plan, joined: Path, folder: Path, output: Path, *, force: bool) -> None:
    """Move the joined file into place with its manifest, and only then let the parts go."""
    with _told(output):
        digest = _file_digest(joined)
        target = output.resolve()
        allowed = [digest, *(note.read_text(encoding="utf-8") for note in folder.glob(_REPLACES_NAME))]
        if not force and target.exists() and _file_digest(target) not in allowed:
            raise UserError("exists already, and is not what this sweep gives; give --force to replace it",
                            where=Location(file=shorten(str(output), 200)))
        _sync(joined)
        os.replace(joined, target)  # noqa: PTH105 - as in simkit.foundation.output
        note = {"sha256": digest, MANIFEST: plan.manifest}
        with atomic_file(_sidecar(output), force=True) as part:
            part.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8", newline="\n")
        shutil.rmtree(folder)


@contextmanager
def _told(output: Path) -> Iterator[None]:
    """What the disk refuses is the user's to mend; finished parts stay."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror or error}", where=Location(file=shorten(str(output), 200)),
                        hint="finished parts are kept: make room and go on with --resume") from None


def _write_whole(path: Path, content: bytes) -> None:
    """A file that is whole or not there, also after a crash of the machine."""
    part = path.with_name(f".{path.name}.new")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(read_text(path, most_bytes=_MOST_MANIFEST_BYTES))
    except (UserError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError("not the manifest of a sweep", where=Location(file=shorten(str(path), 200)),
                        hint="start again with --force") from None
    return content
