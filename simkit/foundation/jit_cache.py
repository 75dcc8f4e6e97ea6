"""Functions compiled by Numba and kept on disk, where the disk may cost time but never a result.

A disk that is full or read-only is met quietly, and a change in any file whose functions a compiled function inlines is
noticed: Numba stamps cached machine code with the time and size of the one file that defines the compiled function, and
the event loop inlines functions of the modules beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

from simkit.foundation.library_caches import prepare_numba

Function = TypeVar("Function", bound=Callable[..., Any])

prepare_numba()


def compiled(**options: Any) -> Callable[[Function], Function]:
    """``numba.njit`` with its cache on disk; ``options`` are Numba's."""

    def compile_function(function: Function) -> Function:
        made: Function = njit(cache=True, **options)(function)
        cache: Any = getattr(made, "_cache", None)  # absent when compilation is switched off (NUMBA_DISABLE_JIT)
        save = getattr(cache, "save_overload", None)
        if save is not None:

            def save_if_possible(*found: Any) -> None:
                try:
                    save(*found)
                except OSError:
                    return  # compiled again next time

            cache.save_overload = save_if_possible
        return made

    return compile_function


def inner(function: Function) -> Function:
    """``compiled`` for what only compiled functions call: reading Python's arguments is half of a small function."""
    return compiled(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def leaf(function: Function) -> Function:
    """``compiled`` for a small function in a hot loop, taken into its callers: Numba counts references for each array
    of a tuple that is passed on, which costs more than a few sums.
    """
    return compiled(inline="always")(function)


def stamp_module(names: Mapping[str, Any]) -> None:
    """Stamp every compiled function among a module's ``globals()`` with the text of all files of its folder."""
    for value in names.values():
        if hasattr(value, "py_func"):
            stamp_with_folder(value, Path(names["__file__"]).parent)


def stamp_with_folder(compiled: Any, folder: Path) -> None:
    """Make ``compiled``'s cache entries valid only for the present text of all Python files in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):  # absent when compilation is switched off (NUMBA_DISABLE_JIT)
        cache_file._source_stamp = digest.hexdigest()  # noqa: SLF001  # Numba has no public way to say so
