"""Files and folders that a run writes aside: held while it lives, removed when it ends, and later if it was killed.

Their names are ``BEGIN xxxxxxxx END`` with eight hexadecimal digits, so that nothing of the user's is taken for one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(parent: Path, begin: str, end: str, *, as_folder: bool) -> Iterator[Path]:
    """A new file or folder of that kind of name in ``parent``, gone when the block ends unless it was moved away.

    Those of runs that were killed go first. Raises OSError when the parent cannot be written.
    """
    remove_abandoned(parent, begin, end)
    while True:
        path = parent / f"{begin}{secrets.token_hex(4)}{end}"
        if path.exists():
            continue
        try:
            # Inside: an interrupt may come as soon as it is there.
            if as_folder:
                path.mkdir()
            else:
                path.touch(exist_ok=False)
            with held(path) as mine:
                if mine:  # else taken for abandoned between its making and its holding
                    yield path
                    return
        finally:
            _remove_whole(path)


def remove_abandoned(parent: Path, begin: str, end: str) -> None:
    """Remove what runs that no longer live have left under such names; what cannot be removed stays."""
    name = re.compile(re.escape(begin) + "[0-9a-f]{8}" + re.escape(end))
    try:
        found = [path for path in parent.iterdir() if name.fullmatch(path.name)]
    except OSError:
        return  # the write itself will tell
    for path in found:
        with held(path, surely=True) as abandoned:
            if abandoned:
                _remove(path)


@contextmanager
def held(path: Path, *, wait: bool = False, surely: bool = False) -> Iterator[bool]:
    """Hold a file or folder against other runs; False when another holds it or it has gone.

    The system lets go when this process ends, however it ends. Where there are no such locks (Windows, some network
    file systems), runs side by side are the user's care: True, or False for who must know ``surely``.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield not surely and path.exists()
        return
    try:
        locked = _lock(handle, wait=wait)
        yield (not surely if locked is None else locked) and _is_still(path, handle)
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool | None:
    """True when the lock was had, False when another has it, None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return None if error.errno in {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS} else False
    return True


def _is_still(path: Path, handle: int) -> bool:
    """True when the name still means what was opened."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))  # noqa: PTH116 - beside fstat, which Path has not
    except OSError:
        return False


def _remove_whole(path: Path) -> None:
    """Remove; an interrupt meanwhile waits until it has gone."""
    try:
        _remove(path)
    except BaseException:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return  # the folder is gone or read-only: the error of the write itself is the one to tell
