"""Where the shipped profiles, models, studies and traces lie: inside the wheel, or at the checkout's root."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder of shipped data called ``name`` ("hardware_profiles", "workloads/models", ...).

    A wheel carries it under ``simkit/_data``; a checkout (also ``pip install -e``) has it beside the package.
    """
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name
