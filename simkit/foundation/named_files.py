"""Finding a YAML file by name: a path first, then the user's folders, then the shipped catalogue."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from simkit.foundation.errors import Location, UserError, did_you_mean, shorten, shown
from simkit.foundation.resources import shipped_folder

_SUFFIXES: Final = (".yaml", ".yml")
Read = TypeVar("Read")
Fault = Callable[[UserError], Any] | None


def user_folders(option: Path | str | None, variable: str) -> list[Path]:
    """Folders to search before the shipped ones: the option's, then those of the environment variable.

    Raises :class:`UserError` when one of them is not there: a typing mistake would otherwise simulate another chip.
    """
    named = [("", Path(option))] if option else []
    named += [(f"{variable}: ", Path(part)) for part in os.environ.get(variable, "").split(os.pathsep) if part]
    for origin, folder in named:
        if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises on over-long and unreadable names
            raise UserError(f"{origin}{shown(str(folder), 200)} is not a folder")
    return [folder for _, folder in named]


def catalogue_files(kind: str, folders: Iterable[Path] = ()) -> dict[str, Path]:
    """Every catalogue entry by name (its file's stem), a user's file winning over a shipped one."""
    return {name: folder / file for name, (folder, file) in sorted(_places(kind, folders).items())}


def _places(kind: str, folders: Iterable[Path]) -> dict[str, tuple[Path, str]]:
    """Folder and file of every entry: to join the paths of a hundred takes a millisecond."""
    found: dict[str, tuple[Path, str]] = {}
    for folder in (*folders, shipped_folder(kind)):
        for file in _entries(folder):
            name, dot, suffix = file.rpartition(".")
            if name and dot + suffix in _SUFFIXES and not name.startswith("."):
                found.setdefault(name, (folder, file))
    return found


def read_all(kind: str, folders: Iterable[Path], read: Callable[[Path], Read], fault: Fault = None) -> list[Read]:
    """What is read of every catalogue entry; the error of a faulty file goes to ``fault``, or, with None, is raised."""
    found = []
    for path in catalogue_files(kind, folders).values():
        try:
            found.append(read(path))
        except UserError as error:
            if fault is None:
                raise
            fault(error)
    return found


def _entries(folder: Path) -> list[str]:
    """The names of the folder's files in order; none when there is no such folder."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - as above
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot list the folder: {reason}", where=Location(file=shorten(str(folder), 200))) from None


def find_file(name: str, *, kind: str, what: str, folders: Iterable[Path] = (),
              aliases: Callable[[], dict[str, str]] | None = None) -> Path:
    """The file that ``name`` means. Raises :class:`UserError` with the nearest known names.

    ``aliases`` is asked only when no file has the name: it maps other names to catalogue names.
    """
    if not name or len(name) > 4096 or "\0" in name:
        raise UserError(f"{what}: a name or a path is missing")
    path = Path(name)
    is_file = os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises on over-long and unreadable names
    if path.suffix in _SUFFIXES or os.sep in name:
        if is_file:
            return path
        if os.path.exists(path):  # noqa: PTH110 - as above
            raise UserError(f"{shown(name, 200)} is not a file that holds a {what}")
        files = catalogue_files(kind, folders)
        stem = path.name.removesuffix(path.suffix) if path.suffix in _SUFFIXES else path.name
        raise UserError(f"no such {what} file {shown(name, 200)}", hint=did_you_mean(stem, files))
    places = _places(kind, folders)
    other = aliases() if aliases and name not in places else {}
    if found := places.get(other.get(name, name)):
        return found[0] / found[1]
    if is_file:
        return path
    near = did_you_mean(name, places)
    if not (near and near.startswith("did")):  # an alias only where no name is near: both mean the same file
        alias = did_you_mean(name, other)
        near = alias if alias and alias.startswith("did") else near
    raise UserError(f"unknown {what} {shown(name, 80)}", hint=near)
