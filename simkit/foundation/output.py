"""What leaves the program: records as CSV or JSON, and files that are whole or not there at all."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from simkit.foundation.errors import Location, UserError, shorten
from simkit.foundation.scratch import scratch

Record = Mapping[str, Any]
FORMATS: Final = ("table", "csv", "json")
# A cell that begins so is run as a formula by spreadsheets, full-width forms included (OWASP, "CSV Injection").
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]+")


def json_text(records: Sequence[Record]) -> str:
    """One JSON array, a record a line; unknown values are null.

    >>> json_text([{"batch": 1, "step_time_s": None}])
    '[\\n{"batch": 1, "step_time_s": null}\\n]\\n'
    """
    if not records:
        return "[]\n"
    return "[\n" + ",\n".join(json.dumps(dict(record), allow_nan=False) for record in records) + "\n]\n"


def csv_text(records: Sequence[Record]) -> str:
    """The same records as CSV with a header: unknown values are empty, truth is ``true``/``false``, floats are exact.

    Text that a spreadsheet would run as a formula gets an apostrophe in front.

    >>> csv_text([{"model": "=1+1", "fits": True, "step_time_s": None}])
    "model,fits,step_time_s\\n'=1+1,true,\\n"
    """
    if not records:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(records[0])
    for record in records:
        writer.writerow([_csv_cell(value) for value in record.values()])
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Python's csv writer leaves a lone carriage return unquoted, which readers take for the end of the row; other
        # controls could steer the terminal that the file is shown on.
        line = _CONTROLS.sub(" ", value)
        return "'" + line if line.lstrip().startswith(_FORMULA_STARTS) else line
    return value


def check_target(path: Path | str, *, force: bool) -> Path:
    """The file that ``path`` means, links followed.

    Raises :class:`UserError` when it stands already and ``force`` is false, when its folder is missing, or when it
    is a folder or a device.
    """
    where = Location(file=shorten(str(path), 200))
    try:
        target = Path(path).resolve()
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot write: {_reason(error)}", where=where) from None
    if mode is None:
        if not target.parent.is_dir():
            raise UserError("cannot write: its folder does not exist", where=where)
    elif stat.S_ISDIR(mode):
        raise UserError("cannot write: it is a folder; expected a file name", where=where)
    elif not stat.S_ISREG(mode):
        raise UserError("cannot write: not a regular file; leave out -o to write to the standard output", where=where)
    elif not force:
        raise UserError("exists already; give --force to replace it", where=where)
    return target


@contextmanager
def atomic_file(path: Path | str, *, force: bool = False) -> Iterator[Path]:
    """A name to write to beside ``path``, with its suffix; moved into place when the block ends, removed if it fails.

    What a killed run left under such a name goes, too. Raises :class:`UserError` when the file cannot be written or
    stands already (see :func:`check_target`).
    """
    target = check_target(path, force=force)
    stem = target.stem[:80]
    try:
        with scratch(target.parent, f".{stem}.", f".part{target.suffix}", as_folder=False) as part:
            yield part
            check_target(target, force=force)
            _place(part, target, force=force)
    except OSError as error:
        raise UserError(f"cannot write: {_reason(error)}", where=Location(file=shorten(str(path), 200))) from None


def _place(part: Path, target: Path, *, force: bool) -> None:
    """Give a whole file its name in one step; without ``force`` never over what another run has just put there."""
    if not force:
        try:
            os.link(part, target)
        except FileExistsError:
            check_target(target, force=False)
        except OSError:  # a file system without links
            os.replace(part, target)  # noqa: PTH105 - Path.replace is the same call; this one is the documented atom
        return
    os.replace(part, target)  # noqa: PTH105 - as above


def write_text(path: Path | str, text: str, *, force: bool = False) -> None:
    """Write a whole text file, or nothing. Raises :class:`UserError` as :func:`atomic_file` does."""
    with atomic_file(path, force=force) as part, part.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
