"""Where tests find the reference tables that are too big to ship, and the catalogue of chips as it is shipped."""

import os
from functools import cache
from pathlib import Path

import pytest

from simkit.hardware.catalog import list_hardware
from simkit.hardware.profile import HardwareProfile

REPOSITORY = Path(__file__).resolve().parents[1]


@cache
def shipped_chips() -> dict[str, HardwareProfile]:
    """Every shipped chip by its name, read once for all tests of a worker."""
    return {chip.name: chip for chip in list_hardware()}


def reference_path(name: str) -> Path:
    """The file or folder ``name`` of the reference data; skips the calling test when it is not there.

    Looked for in the folder named by the environment variable SIMKIT_REFERENCE, else in shared/reference
    beside the checkout. Usable in a test, in a fixture and at the head of a test module.
    """
    given = os.environ.get("SIMKIT_REFERENCE")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "reference"
    path = folder / name
    if not path.exists():
        looked_in = "the folder that SIMKIT_REFERENCE names" if given else "../shared/reference"
        pytest.skip(
            f"reference data {name!r} is not in {looked_in}; "
            "set SIMKIT_REFERENCE to the folder that holds the reference tables to run this test",
            allow_module_level=True,
        )
    return path
