"""Folders where numba and matplotlib keep what they made, for users whose home cannot be written (or who have none).

Numba refuses to work without one, and matplotlib warns on every run. Both are pointed to a folder of this user in the
system's place for temporary files, unless the user's own variables name one.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

NUMBA: Final = "NUMBA_CACHE_DIR"
MATPLOTLIB: Final = "MPLCONFIGDIR"


def prepare_numba() -> None:
    """Call before a function is compiled: caches lie beside the source or in the user's cache, or here."""
    if NUMBA in os.environ or _can_be_made(Path(__file__).parent / "__pycache__") or _home_can_hold(".cache"):
        return
    if "numba" in sys.modules:  # it has read its variables
        sys.modules["numba"].config.CACHE_DIR = str(temporary_folder("numba"))
    os.environ[NUMBA] = str(temporary_folder("numba"))


def prepare_matplotlib() -> None:
    """Call before matplotlib is imported."""
    if MATPLOTLIB not in os.environ and not _home_can_hold(".config", ".cache"):
        os.environ[MATPLOTLIB] = str(temporary_folder("matplotlib"))


def temporary_folder(name: str) -> Path:
    """A folder of this user's own, the same on every run; another one if somebody else has taken that name."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    shared = Path(tempfile.gettempdir()) / f"simkit-{user}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        state = shared.lstat()
        ours = stat.S_ISDIR(state.st_mode) and (not hasattr(os, "getuid") or state.st_uid == os.getuid())
        if ours and not state.st_mode & 0o022:
            (shared / name).mkdir(exist_ok=True)
            return shared / name
    except OSError:
        pass  # somebody else's file stands there
    return Path(tempfile.mkdtemp(prefix="simkit-"))


def _home_can_hold(*names: str) -> bool:
    variables = {".cache": "XDG_CACHE_HOME", ".config": "XDG_CONFIG_HOME"}
    try:
        return all(_can_be_made(Path(os.environ.get(variables[name]) or Path.home() / name)) for name in names)
    except RuntimeError:  # no home at all
        return False


def _can_be_made(folder: Path) -> bool:
    """True when files can be put into the folder, or it can be made."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
