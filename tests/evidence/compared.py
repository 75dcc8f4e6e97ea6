"""Whole tables beside their predictions, compared once for all tests of a worker that read them."""

from functools import cache
from typing import Any

from simkit.evidence import dram as dram_evidence
from simkit.evidence.published import compare as compare_published
from simkit.evidence.silicon.compare import compare
from tests.reference_data import reference_path
from tools.docs.build_pages import accelerators_compared as accelerators
from tools.docs.build_pages import accelerators_covered

__all__ = ["accelerators", "accelerators_covered", "dram", "kernels", "published"]


@cache
def kernels(table: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The records of a whole reference table by system and regime."""
    return {(one["system"], one["regime"]): one for one in compare(reference_path(f"{table}.csv.gz"))}


@cache
def published() -> dict[str, dict[str, Any]]:
    """The records of all published figures by id."""
    return {one["id"]: one for one in compare_published()}


@cache
def dram() -> list[dict[str, Any]]:
    """The shipped runs of DRAM."""
    return list(dram_evidence.compare())
