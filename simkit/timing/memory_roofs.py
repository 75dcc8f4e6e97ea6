"""Bytes of an operator at each memory level and how long each level needs for them: the same for every engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator
from simkit.step.placement import Placement


def memory_times(operator: Operator, placement: Placement, hardware: HardwareProfile, *,
                 hit_share: Any = 0.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds and bytes at each level.

    ``hit_share`` of the resident bytes come from a warm cache and do not reach their home.

    Weights and cache are read at their homes and pass through every nearer level, at the same time as they are read.
    Shares of one tensor in several homes belong to different layers: they are read one after another, and the home
    that takes longest is the one that binds. Activations move beside them, in the nearest level that holds them.
    """
    resident = _resident_bytes(operator, placement)
    passing = _activation_bytes(operator, hardware)
    _add_rereads(operator, placement, hardware, resident, passing)
    read_s: dict[str, Any] = {}
    seconds: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    beyond: Any = 0.0
    served = np.ndim(hit_share) == 0 and hit_share == 0.0
    for level in reversed(hardware.memory):
        own = resident.get(level.name, 0.0) * (1.0 - hit_share)
        if level.kind == "cache" and level.scope == "chip" and not served:
            beyond = beyond + sum(resident.values()) * hit_share
            served = True
        through = beyond + (own + passing.get(level.name, 0.0))
        moved[level.name] = through
        beyond = through
        rate = level.achievable_bytes_per_s
        if rate is not None:
            read_s[level.name] = own / rate
            seconds[level.name] = through / rate
        elif level.name in resident and np.any(np.asarray(own) > 0):
            raise UserError(f"{hardware.name}: no source gives memory.{level.name}.bandwidth, and the step reads "
                            "from it",
                            hint=f"--set memory.{level.name}.bandwidth=... states an assumption")
    if len(resident) <= 1:
        return seconds, moved  # one home: its reads are all that it reads, and part of what passes through it
    homes_s = sum(read_s.values())
    slowest: Any = 0.0
    for time in read_s.values():
        slowest = np.maximum(slowest, time)
    for name, time in read_s.items():
        binding = (time >= slowest) & (np.asarray(time) > 0)
        seconds[name] = np.maximum(seconds[name], np.where(binding, homes_s, 0.0))
    return seconds, moved


def _resident_bytes(operator: Operator, placement: Placement) -> dict[str, Any]:
    """Bytes of weights and cache by the level that is their home."""
    kv_bytes = operator.kv_read_bytes + operator.kv_write_bytes
    at_home: dict[str, Any] = {}
    for shares, amount in ((placement.weights, operator.weight_bytes), (placement.kv, kv_bytes)):
        if np.ndim(amount) == 0 and amount == 0.0:
            continue  # shares may be one a point, and nothing of it is read
        for name, share in shares.items():
            if np.ndim(share) > 0 or share > 0.0:
                at_home[name] = at_home.get(name, 0.0) + amount * share
    return at_home


def _add_rereads(operator: Operator, placement: Placement, hardware: HardwareProfile, resident: dict[str, Any],
                 passing: dict[str, Any]) -> None:
    """Repeated reads of the same cache bytes: served by the chip's cache at best (a lower bound), else at home."""
    if np.ndim(operator.kv_reread_bytes) == 0 and operator.kv_reread_bytes == 0.0:
        return
    caches = [level for level in hardware.memory if level.kind == "cache" and level.scope == "chip"]
    if caches:
        name = caches[-1].name
        passing[name] = passing[name] + operator.kv_reread_bytes
        return
    for name, share in placement.kv.items():
        resident[name] = resident.get(name, 0.0) + operator.kv_reread_bytes * share


def _activation_bytes(operator: Operator, hardware: HardwareProfile) -> dict[str, Any]:
    """Activations pass from operator to operator in the nearest shared level that holds them, caches included."""
    waiting: Any = np.asarray(operator.activation_bytes, dtype=float)
    stations = [level for level in hardware.memory
                if "activations" in level.holds or (level.kind == "cache" and level.scope == "chip")]
    passing: dict[str, Any] = {}
    for level in stations:
        fits = (waiting <= level.usable_bytes) | (level is stations[-1])
        passing[level.name] = np.where(fits, waiting, 0.0)
        waiting = np.where(fits, 0.0, waiting)
    return passing
