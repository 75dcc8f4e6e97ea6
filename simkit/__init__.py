"""simkit: a hardware-target simulator and roofline modeler for LLM decode.

Everything that the command line does is here too::

    import simkit
    result = simkit.decode_step("h100-sxm", "llama-2-70b", attention=["mha", "gqa-8"], batch=[1, 32], kv_len=4096)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
RECORDS_VERSION = 4
"""Version of the records that ``--format json`` prints: docs/records.schema.json has their keys and types."""

if TYPE_CHECKING:
    from simkit.errors import UserError
    from simkit.hardware.catalog import load_hardware
    from simkit.model.catalog import load_model
    from simkit.study.point import decode_step

__all__ = ["RECORDS_VERSION", "UserError", "__version__", "decode_step", "load_hardware", "load_model"]

_HOMES = {
    "UserError": "simkit.errors",
    "load_hardware": "simkit.hardware.catalog",
    "load_model": "simkit.model.catalog",
    "decode_step": "simkit.study.point",
}


def __getattr__(name: str) -> Any:
    """Load public functions on first use: ``import simkit`` alone stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
