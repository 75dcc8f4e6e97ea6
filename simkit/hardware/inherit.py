"""``extends:`` in a profile: another profile with some parameters changed, merged before anything is checked.

::

    schema_version: 1
    name: h100-at-8
    extends: h100-sxm
    memory: {hbm: {bandwidth: 8 TB/s}}

Sections are merged key by key, parameters and lists replaced whole. What a file changes keeps that file's lines, what
it leaves alone those of the profile that it extends, so that every message points to where the words stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from simkit.foundation.errors import UserError, shown
from simkit.foundation.named_files import catalogue_files, find_file
from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import KeyPath, YamlSource, load_yaml

PROFILES: Final = "hardware_profiles"
MAX_DEPTH: Final = 8
_SUFFIXES: Final = (".yaml", ".yml")
_NOT_INHERITED: Final = ("extends", "aliases")  # measured data names the chip that was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSource:
    """A profile's document with all that it extends: ``whole``, and ``as_built``, without later changes.

    ``as_built`` is the document of the file that states the ``kernel`` section: kernels were tuned for the memory
    that stands there, not for what a file that extends it asks what if.
    """

    whole: YamlSource
    as_built: YamlSource


def load_profile_source(path: Path | str, folders: Sequence[Path] = ()) -> ProfileSource:
    """Read a profile and what it extends; ``folders`` are searched for names before the shipped profiles.

    Raises :class:`UserError` when one of the files cannot be read, extends itself by any way round, or stands more
    than eight files from the first.
    """
    return resolve(load_yaml(path), folders)


def resolve(source: YamlSource, folders: Sequence[Path] = ()) -> ProfileSource:
    """As :func:`load_profile_source`, of a document that was read already."""
    chain = [source]
    while "extends" in chain[-1].data:
        asking = chain[-1]
        where = asking.locate(["extends"])
        if "name" not in asking.data:
            raise UserError("missing key 'name'", where=asking.locate(["name"]),
                            hint="a profile that extends another has a name of its own")
        path = _extended(asking, folders)
        if any(_same(path, Path(earlier.file)) for earlier in chain):
            raise UserError(f"{shown(asking.data['extends'], 80)} leads back to {Path(path).name}: profiles extend one "
                            "another in a circle", where=where)
        if len(chain) > MAX_DEPTH:
            raise UserError(f"more than {MAX_DEPTH} profiles, each extending the next", where=where)
        chain.append(load_yaml(path))
    whole = as_built = chain.pop()
    for above in reversed(chain):
        whole = _merged(above, whole)
        as_built = whole if "kernel" in above.data else as_built
    return ProfileSource(whole=whole, as_built=as_built)


def aliases_of(folders: Sequence[Path]) -> dict[str, str]:
    """The profile that each name in measured data means."""
    known = {}
    for name, path in catalogue_files(PROFILES, folders).items():
        declared = load_yaml(path).data.get("aliases")
        for alias in declared if isinstance(declared, list) else ():
            known[str(alias)] = name
    return known


def _extended(asking: YamlSource, folders: Sequence[Path]) -> Path:
    """The file that ``extends`` means: a path from the file's own folder, or a name, but never the file itself."""
    name, where = asking.data["extends"], asking.locate(["extends"])
    if not isinstance(name, str) or not name or len(name) > 4096 or "\0" in name:
        raise UserError(f"{shown(name)} is not the name or path of a profile", where=where)
    here = Path(asking.file).parent
    try:
        if Path(name).suffix in _SUFFIXES or "/" in name:
            return find_file(str(here / name), kind=PROFILES, what="hardware profile", folders=folders)
        for folder in (here, *folders, shipped_folder(PROFILES)):
            for candidate in (folder / f"{name}{suffix}" for suffix in _SUFFIXES):
                if candidate.is_file() and not _same(candidate, Path(asking.file)):
                    return candidate
        return find_file(name, kind=PROFILES, what="hardware profile", folders=folders,
                         aliases=lambda: aliases_of(folders))
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror or error}", where=where) from None
    except UserError as error:
        raise UserError(error.message, where=where, hint=error.hint) from None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _merged(above: YamlSource, base: YamlSource) -> YamlSource:
    """``base`` with what ``above`` says in its place."""
    inherited = {key: value for key, value in base.data.items() if key not in _NOT_INHERITED}
    if "title" not in above.data and isinstance(base.data.get("title"), str):
        inherited["title"] = f"{above.data['name']}, changed from {base.data['title']}"[:2000]
    inherited = _with_full_sources(inherited, above.data.get("sources"))
    places = dict(base.places)
    files = {path: base.files.get(path, base.file) for path in base.places}
    replaced: list[KeyPath] = []
    data = _overlaid(inherited, {key: value for key, value in above.data.items() if key != "extends"}, (), replaced)
    gone = {path for path in places for prefix in replaced if path[:len(prefix)] == prefix}
    for path in gone:
        del places[path], files[path]
    places.update(above.places)
    files.update(dict.fromkeys(above.places, above.file))
    return YamlSource(file=above.file, data=data, places=places, files=files)


def _overlaid(base: dict[str, Any], above: dict[str, Any], path: KeyPath, replaced: list[KeyPath]) -> dict[str, Any]:
    """Deep merge; ``replaced`` collects the paths at which nothing of the base is left."""
    merged = dict(base)
    for key, value in above.items():
        below, here = base.get(key), (*path, key)
        if _is_section(below, here) and _is_section(value, here):
            merged[key] = _overlaid(below, value, here, replaced)
        else:
            merged[key] = value
            replaced.append(here)
    return merged


def _is_section(node: Any, path: KeyPath) -> TypeGuard[dict[str, Any]]:
    """Keys of their own, unlike a parameter with its source (the names of sources and levels are free)."""
    return isinstance(node, dict) and ("value" not in node or path in (("sources",), ("memory",)))


def _with_full_sources(data: dict[str, Any], sources_above: Any) -> dict[str, Any]:
    """``data`` with each short source name that ``sources_above`` gives another meaning written out in full."""
    table = data.get("sources")
    if not isinstance(table, dict) or not isinstance(sources_above, dict):
        return data
    changed = {name: text for name, text in table.items() if sources_above.get(name, text) != text}

    def spelled(node: Any) -> Any:
        if isinstance(node, list):
            return [spelled(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: changed.get(value, value) if key == "source" and isinstance(value, str) else spelled(value)
                for key, value in node.items()}

    return {key: value if key == "sources" else spelled(value) for key, value in data.items()} if changed else data
