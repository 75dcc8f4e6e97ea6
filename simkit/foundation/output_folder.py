"""Folders of results: written aside, and moved into place whole or, where a folder stands already, file by file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from simkit.foundation.scratch import scratch


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` to write into, removed when the block ends unless it was moved away.

    Folders above ``target`` are made. Raises OSError when that cannot be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.parent, f".{target.name[:80]}.", ".part", as_folder=True) as staging:
        yield staging


def settled(staging: Path, target: Path) -> bool:
    """Give a whole folder its name in one step; False when one stands there that is not empty."""
    try:
        os.rename(staging, target)  # noqa: PTH104 - Path.rename is the same call; this one is the documented atom
    except OSError as error:
        # Windows says EACCES or EEXIST of any folder that stands there.
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST} or (os.name == "nt" and target.is_dir()):
            return False
        raise
    return True


def move_files(staging: Path, target: Path, names: Iterable[str]) -> None:
    """Move files into a folder that stands, each in one step."""
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(place)
