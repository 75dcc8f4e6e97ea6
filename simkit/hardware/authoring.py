"""Starting a new profile from one that exists: the same text, comments and sources kept, under another name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from simkit.foundation.errors import UserError
from simkit.foundation.input_file import read_text
from simkit.foundation.named_files import find_file, user_folders
from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import MAX_FILE_BYTES, parse_yaml
from simkit.hardware.catalog import KIND, VARIABLE, load_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.inherit import resolve

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_EDITOR: Final = "# yaml-language-server: $schema="
_TOP_KEY: Final = "^{key}:.*(?:\n[ \t].*)*\n"


def editor_line() -> str:
    """The first line of a profile from which editors know what to complete and check, wherever the file lies."""
    return _EDITOR + (shipped_folder(KIND) / "profile.schema.json").as_uri()


def require_name(name: str) -> None:
    """Raise :class:`UserError` when a profile may not have this name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name[:40]}' is not a name for a profile",
                        hint="expected letters, digits, '.', '_' and '-', such as my-chip")


def copy_profile(name: str, like: str, *, profiles: Path | str | None = None) -> str:
    """The YAML text of a new profile that starts as a copy of ``like``; its title says so and its aliases go.

    Raises :class:`UserError` when ``name`` is not a name that profiles may have or ``like`` is not known.
    """
    require_name(name)
    original = load_hardware(like, profiles=profiles)
    path = Path(original.file) if original.file else find_file(
        like, kind=KIND, what="hardware profile", folders=user_folders(profiles, VARIABLE))
    text = read_text(path, most_bytes=MAX_FILE_BYTES)
    text = _replaced(text, "name", f"name: {name}\n")
    text = _replaced(text, "title", f'title: "{name}, started from {original.name}"\n')
    # Measured data names the chip that was measured, not its copy.
    text = re.sub(_TOP_KEY.format(key="aliases"), "", text, count=1, flags=re.MULTILINE)
    heading = (f"# {name}: started as a copy of {original.name}. Every parameter below is that chip's until you\n"
               "# change it; give each new one its own source. `simkit profile check` reads this file back.\n#\n")
    first, _, rest = text.partition("\n")
    # A shipped file names the schema beside it, and beside the copy there is none.
    body = (rest if first.startswith(_EDITOR) else text).removeprefix("#\n")
    text = f"{editor_line()}\n{heading}{body}"
    copied = parse_yaml(text, file=str(path.parent / f"{name}.yaml"))
    extended = copied.data.get("extends")
    if isinstance(extended, str) and ("/" in extended or Path(extended).suffix):
        text = _replaced(text, "extends", f'extends: "{(path.parent / extended).resolve()}"\n')
    profile_from_yaml(resolve(copied).whole)
    return text


def _replaced(text: str, key: str, line: str) -> str:
    return re.sub(_TOP_KEY.format(key=key), lambda _: line, text, count=1, flags=re.MULTILINE)
