"""A hardware profile as the replay needs it: units and slots, what they keep in flight, and the servers they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile, MemoryLevel

# Work items that share one compute unit, so that one item's set-up hides behind another's loads: decode kernels of
# 128 threads and 2 x 32 KiB of tiles leave room for two blocks on every GPU here (CUDA occupancy rules). Where kernels
# were measured, set-up and load path are those of a whole unit, whatever shares it: one item runs at a time.
RESIDENT_ITEMS: Final = 2

Schedule = Literal["dispatched", "banked", "static"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One shared data path: bytes pass it in order of request at ``bytes_per_s`` (of the whole chip).

    ``per_unit``: each unit has its own, at its share of that rate.
    """

    name: str
    bytes_per_s: float
    latency_s: float
    per_unit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTarget:
    """What one chip is to a kernel. ``path`` runs from the unit to the home of the cache, the home last.

    ``schedule``: ``dispatched`` units take work items as they become free and keep bounded bytes in flight;
    ``banked`` machines hold the KV cache in SRAM banks beside their units, dealt out by a compiler;
    ``static`` ones run one compiled program that streams through the whole chip, with loads issued early enough to
    hide every latency but the first. ``load_fraction`` of the buffers of a unit's load path are in use.
    """

    hardware: HardwareProfile
    units: int
    slots_per_unit: int
    outstanding_bytes_per_slot: float
    item_setup_s: float
    path: tuple[Server, ...]
    home: MemoryLevel
    cache: MemoryLevel | None
    schedule: Schedule
    load_fraction: float = 1.0

    @property
    def slots(self) -> int:
        """Work items that run at once."""
        return self.units * self.slots_per_unit

    @property
    def cache_server(self) -> int:
        """Where the shared cache stands on the path, or -1."""
        return -1 if self.cache is None else [server.name for server in self.path].index(self.cache.name)


def target_of(hardware: HardwareProfile, home_name: str) -> ReplayTarget:
    """Read a profile for a kernel whose KV cache lives in one level.

    Raises :class:`UserError` when that level has no bandwidth parameter.
    """
    home = hardware.level(home_name)
    if home.achievable_bytes_per_s is None:
        raise UserError(f"{hardware.name}: no source gives memory.{home.name}.bandwidth, and the cache lives there",
                        hint=f"--set memory.{home.name}.bandwidth=... states an assumption")
    before = hardware.memory[: hardware.memory.index(home)]
    caches = [level for level in before if level.kind == "cache" and level.scope == "chip"]
    schedule = schedule_of(hardware, home)
    compute = hardware.compute
    resident = RESIDENT_ITEMS if schedule == "dispatched" and hardware.kernel is None else 1
    in_flight: Any = compute.outstanding_bytes_per_unit if schedule == "dispatched" else None
    return ReplayTarget(
        hardware=hardware, units=1 if schedule == "static" else compute.units, slots_per_unit=resident,
        schedule=schedule, home=home, item_setup_s=0.0, cache=caches[-1] if caches else None,
        path=tuple(_server(level, schedule) for level in (*before, home)
                   if level.achievable_bytes_per_s is not None or level in caches),
        outstanding_bytes_per_slot=np.inf if in_flight is None else float(in_flight) / resident)


def schedule_of(hardware: HardwareProfile, home: MemoryLevel) -> Schedule:
    """How a machine runs a kernel whose cache lives in ``home``.

    GPUs and CPUs dispatch. Accelerators with compiled schedules stream, except that those which work tensor-parallel
    out of SRAM hold it as banks beside their units; layer-pipelined ones cut any dimension, so their banks are even.
    """
    if hardware.kind in ("gpu", "cpu"):
        return "dispatched"
    return "banked" if home.kind == "sram" and hardware.sharding == "tensor" else "static"


def _server(level: MemoryLevel, schedule: Schedule) -> Server:
    # A cache whose rate no source gives does not bind, as in the closed-form engine; its capacity still serves.
    rate = level.achievable_bytes_per_s
    return Server(name=level.name, bytes_per_s=np.inf if rate is None else float(rate),
                  latency_s=level.latency_s or 0.0,
                  per_unit=level.scope == "unit" or (schedule == "banked" and level.kind == "sram"))
