"""A report in a folder: the page, its figures and its data, written aside and moved into place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from simkit import __version__
from simkit.foundation.errors import Location, UserError
from simkit.foundation.input_file import open_file, read_text
from simkit.foundation.output import atomic_file
from simkit.foundation.output_folder import move_files, settled, staged_folder
from simkit.foundation.scratch import held
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.export import csv_text, json_text, save_figure
from simkit.report.drawing.study_points import Omission, grid_records
from simkit.report.drawing.style import ChipStyle, chip_styles, house_style
from simkit.report.explore import explorer
from simkit.report.figures.registry import FIGURES
from simkit.report.page import PageFigure, page_figure, render_page
from simkit.study.study_file import Study
from simkit.sweep.executors import processes

MANIFEST: Final = "manifest.json"
_FOLDERS: Final = ("figures", "data")
PAGE: Final = "index.html"
SLIDES: Final = "slides.html"
_MOST_MANIFEST_BYTES: Final = 1_000_000


def default_folder(study: Study) -> Path:
    """Where a report goes when nothing else is said: ``out/STUDY`` in the present folder."""
    return Path("out") / study.name


def build_report(study: Study, out_dir: Path, *, force: bool = False, command: str = "simkit report",
                 progress: Callable[[str], None] = lambda _: None, workers: int = 1) -> Path:
    """Write the report of a study and return the page's path.

    A folder that an earlier report wrote is renewed: what that report wrote and nobody changed is replaced; what a
    user added or changed is never deleted, and stops the run unless ``force`` allows replacing it. ``command`` is
    printed on the page; ``progress`` is told what is being made; ``workers``: processes that draw and
    time. Raises :class:`UserError` when the folder cannot be written or holds other people's files.
    """
    out_dir = Path(out_dir)
    _check_target(out_dir, force=force)
    try:
        with staged_folder(out_dir) as staging:
            _write(study, staging, command, progress, workers)
            written = _manifest(staging)
            _note(staging, written)
            if not settled(staging, out_dir):
                with held(out_dir, wait=True):
                    _renew(staging, out_dir, written, force=force)
    except OSError as error:
        raise _cannot_write(out_dir, error) from None
    return out_dir / PAGE


def _write(study: Study, folder: Path, command: str, progress: Callable[[str], None], workers: int) -> None:
    for name in _FOLDERS:
        (folder / name).mkdir()
    with ExitStack() as stack:
        pool = stack.enter_context(processes(workers - 1)).executor if workers > 1 else None

        def later(work: Callable[..., Any], *more: Any) -> Callable[[], Any]:
            """Its result, when it is asked for; by this process where no other has begun with it."""
            here = partial(work, study, *more)
            there = pool.submit(_there, work, study, *more) if pool else None
            return lambda: here() if there is None or there.cancel() else there.result()

        # Others begin with what takes longest and with the last figures, this process with the first.
        points, explored = later(_records, folder), later(_explored, command)
        drawings = [later(_figure, number, folder) for number in reversed(range(len(study.figures)))][::-1]
        figures: list[PageFigure] = []
        for number, request in enumerate(study.figures):
            progress(f"figure {number + 1} of {len(study.figures)}: {request.name}")
            figures.append(drawings[number]())
        progress("the study's points and the page")
        records, omissions = points()
        pages = render_page(study, figures, records, omissions, command=command, explored=explored())
    for name, text in zip((PAGE, SLIDES), pages, strict=True):
        (folder / name).write_text(text, encoding="utf-8", newline="")


_KEPT: dict[str, Study] = {}


def _there(work: Callable[..., Any], study: Study, *more: Any) -> Any:
    """In a worker, which serves one report: by its first copy of the study, for what is known goes by the chip."""
    return work(_KEPT.setdefault("study", study), *more)


def _styles(study: Study) -> dict[str, ChipStyle]:
    styles = chip_styles(study.hardware, study.labels)
    extra = {chip.name: chip for request in study.figures
             for chip in (*request.hardware, *(one for one, _ in request.ffn)) if chip.name not in styles}
    return styles | chip_styles([*study.hardware, *extra.values()], study.labels)


def _figure(study: Study, number: int, folder: Path) -> PageFigure:
    """One figure in its files and ready for the page, without the drawing: it could not pass between processes."""
    request = study.figures[number]
    with house_style():
        drawn = FIGURES[request.kind](FigureContext(request=request, styles=_styles(study)))
        svg = save_figure(drawn.figure, folder / "figures", request.name)
    size = Figure(figsize=tuple(drawn.figure.get_size_inches()))
    (folder / "figures" / f"{request.name}.csv").write_text(csv_text(drawn.rows), encoding="utf-8", newline="")
    return page_figure(request.name, request.note, replace(drawn, figure=size, rows=[]), svg)


def _records(study: Study, folder: Path) -> tuple[list[dict[str, Any]], list[Omission]]:
    """Every point of the study, written into its files."""
    records, omissions = grid_records(study)
    (folder / "data" / "records.csv").write_text(csv_text(records), encoding="utf-8", newline="")
    (folder / "data" / "records.json").write_text(json_text(records), encoding="utf-8", newline="")
    return records, omissions


def _explored(study: Study, command: str) -> str | None:
    return explorer(study, _styles(study), command)


def _manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path in the report."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_target(out_dir: Path, *, force: bool) -> dict[str, set[str]]:
    """The files of the report that stands there and the digests that are its own; empty when there is none."""
    where = Location(file=str(out_dir))
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise UserError("is not a folder that a report can be written to", where=where, hint="give another with -o")
    if not out_dir.is_dir():
        return {}
    for folder in _FOLDERS:
        # What is written below a link lands somewhere else than in the folder that the user named.
        if (out_dir / folder).is_symlink():
            raise UserError("is a link: a report writes into its own folder only",
                            where=Location(file=str(out_dir / folder)), hint="give another folder with -o")
    manifest = out_dir / MANIFEST
    if manifest.is_file():
        return _read_manifest(manifest)
    if any(out_dir.iterdir()) and not force:
        raise UserError("the folder holds files that no report wrote", where=where,
                        hint="give another with -o, or --force to write among them")
    return {}


def _read_manifest(path: Path) -> dict[str, set[str]]:
    """Digests by name: one each, or two while one report replaces another, as a killed run leaves them."""
    found: dict[str, set[str]] = {}
    try:
        content: Any = json.loads(read_text(path, most_bytes=_MOST_MANIFEST_BYTES))
        for entries in (content["files"], content.get("replaced", {})):
            for name, digest in entries.items():
                # Only where reports write: what leads elsewhere, by itself or over a link, would be removed there.
                if ("\0" not in name and Path(name).name not in ("", "..")
                        and Path(name).parent.as_posix() in (".", *_FOLDERS)):
                    found.setdefault(str(name), set()).add(str(digest))
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError("not the manifest of a report", where=Location(file=str(path)),
                        hint="remove it, or give another folder with -o") from None
    return found


def _check_changed(out_dir: Path, earlier: dict[str, set[str]], written: dict[str, str], *, force: bool) -> None:
    """Refuse to replace what a user put there or changed."""
    if force:
        return
    for name, digest in written.items():
        present = out_dir / name
        if present.exists() and _digest(present) not in {digest, *earlier.get(name, ())}:
            why = "was changed since the last report" if name in earlier else "was not written by a report"
            raise UserError(f"{why}; it would be overwritten", where=Location(file=str(present)),
                            hint="move it away, or --force to overwrite")


def _note(folder: Path, files: dict[str, str], replaced: dict[str, str] | None = None) -> None:
    """Write the manifest of a report in one step."""
    note = {"written_by": f"simkit {__version__}", "files": files} | ({"replaced": replaced} if replaced else {})
    with atomic_file(folder / MANIFEST, force=True) as part:
        part.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8", newline="")


def _renew(staging: Path, out_dir: Path, written: dict[str, str], *, force: bool) -> None:
    """Replace an earlier report file by file, and remove what only that one had.

    Until all is in place the manifest names the files of both, so that the next run knows what a killed one left.
    """
    earlier = _check_target(out_dir, force=force)
    _check_changed(out_dir, earlier, written, force=force)
    present = {name: _digest(out_dir / name) for name in earlier if (out_dir / name).is_file()}
    replaced = {name: digest for name, digest in present.items() if digest in earlier[name]}
    _note(out_dir, written, replaced)
    move_files(staging, out_dir, written)
    for name in replaced.keys() - written.keys():
        (out_dir / name).unlink(missing_ok=True)
    _note(out_dir, written)


def _cannot_write(out_dir: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the report: {error.strerror or error}", where=Location(file=str(out_dir)))
