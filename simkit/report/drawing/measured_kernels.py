"""Measured kernels of a study's chips beside an engine's times, for the figures of validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from simkit.evidence.silicon.compare import SHIPPED_LADDERS, SHIPPED_SPREAD, SystemComparison, compare_chips
from simkit.foundation.errors import UserError
from simkit.report.drawing.study_points import Omission
from simkit.study.engines import engine_named
from simkit.study.study_file import FigureRequest

SOURCE: Final = "NVIDIA AIConfigurator (ai-dynamo/aiconfigurator@095f58a)"
_COLUMNS: Final = ("kv_dtype", "head_dim", "n_q_heads", "n_kv_heads", "batch", "kv_len")


REPLAYED_KERNELS: Final = 60
"""Kernels a chip that the event-driven engine replays for a figure: some seconds' work."""


def measured_systems(request: FigureRequest,
                     table: str = SHIPPED_SPREAD) -> tuple[list[SystemComparison], list[Omission]]:
    """The request's chips that a shipped table has, with what its engine predicts, and the others with the reason.

    Raises :class:`UserError` when none was measured.
    """
    drawn = REPLAYED_KERNELS if not engine_named(request.engine).closed_form and table == SHIPPED_SPREAD else None
    found = compare_chips(request.hardware, table, engine=request.engine, sample=drawn)
    shown = [one for one in found if one.skip_reason is None]
    known = {one.profile.name: one.skip_reason for one in found if one.profile is not None}
    missing = [Omission(chip=chip.name, reason=known.get(chip.name) or "no measured kernels of it are shipped")
               for chip in request.hardware if known.get(chip.name, "") is not None]
    if not shown:
        raise UserError(f"figure '{request.name}' has nothing to draw: none of its chips was measured",
                        hint="simkit evidence silicon lists those that were")
    return shown, missing


def kernel_row(one: SystemComparison, index: int) -> dict[str, Any]:
    """One measured kernel as a row of a figure's data: its shape, its time and the predicted one."""
    shape = {name: one.rows.columns[name][index].item() for name in _COLUMNS}
    return {"hardware": name_of(one)} | {name: int(value) if isinstance(value, float) else value
                                         for name, value in shape.items()} | {
        "measured_time_s": float(one.rows.time_s[index]), "predicted_time_s": float(one.predicted_s[index])}


def name_of(one: SystemComparison) -> str:
    """The profile name of a compared system."""
    return one.system if one.profile is None else one.profile.name


def inputs_of(request: FigureRequest, systems: Sequence[SystemComparison]) -> str:
    """The line under a caption: how many kernels, from where, against which engine."""
    count = sum(len(one.rows) for one in systems)
    how = "whole ladders of KV heads" if systems[0].rows.name == SHIPPED_LADDERS else "drawn at random over all shapes"
    return (f"{count} attention kernels, {how}, timed alone in a loop with a warm cache, the fastest framework of "
            f"each, from {SOURCE}; kernel figures of these chips were fitted to such tables: this is no forecast; "
            f"engine: {request.engine}.")
