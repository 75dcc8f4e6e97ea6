r"""The roofs above an operator: what each unit and each memory level needs for it, and which of them binds.

A dictionary of roofs holds seconds by cause; the highest of them is the operator's time, and it belongs to the roof
that binds (Williams, Waterman, Patterson 2009). Roofs within :data:`AS_HIGH` of the highest count as high: of those a
memory level binds before a kernel's load path, and that before arithmetic, the higher one of each kind, the first on
ties. Every engine takes its roofs from here.

A kernel that loops alone finds its data in the caches. LRU under a cyclic scan of ``S`` bytes keeps everything of
``S`` below the capacity ``C`` and nothing above it; hashing and pseudo-LRU blur the step. The share that levels up to
capacity ``C`` serve falls linearly between:

.. math:: h(C) = \mathrm{clip}\left(\frac{w - S/C}{w - 1/w}, 0, 1\right)

Lines dealt at random to sets of 16 ways would hit with a Poisson tail instead: 10 % at 1.33 C. Measured decode kernels
on L40S show none there (closed form 1.4 % off in the median over 40 rows, with that tail 14 %), nor do H100, A100 and
B200 prefer it (31 786, 5 214 and 32 110 rows: mean errors within 0.05 points of each other).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.profile import HardwareProfile, MemoryLevel
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.timing.step_timing import COMPUTE, LATENCY, LOAD_PATH, SPECIAL_FUNCTION

# Half-width of the transition on a logarithmic scale: from 1/1.25 to 1.25 of the capacity.
TRANSITION_RATIO: Final = 1.25


def cyclic_hit_share(scanned_bytes: Any, cache: MemoryLevel | None, kernel: DecodeKernel | None = None) -> Any:
    """Share of a cyclic scan that a cache serves when a kernel loops alone; 0 without a cache.

    Where kernels were measured, their effective fraction of the capacity and their w count: partitioned caches keep
    copies of each other's lines.

    >>> from simkit.hardware.catalog import load_hardware
    >>> l2 = load_hardware("h100-sxm").level("l2")
    >>> float(cyclic_hit_share(1e6, l2)), float(cyclic_hit_share(1e9, l2))
    (1.0, 0.0)
    """
    if cache is None:
        return np.zeros(np.shape(scanned_bytes))
    effective, ratio = 1.0, TRANSITION_RATIO
    if kernel is not None:
        effective, ratio = kernel.cache_effective_fraction, kernel.cache_transition_ratio
    occupancy = np.asarray(scanned_bytes, dtype=float) / (effective * cache.usable_bytes)
    return np.clip((ratio - occupancy) / (ratio - 1 / ratio), 0.0, 1.0)


def last_shared_cache(hardware: HardwareProfile) -> MemoryLevel | None:
    """The last cache that all units share, or None."""
    caches = [level for level in hardware.memory if level.kind == "cache" and level.scope == "chip"]
    return caches[-1] if caches else None


def looped_placement(operator: Operator, placement: Placement, hardware: HardwareProfile) -> Placement:
    """The placement as a looped kernel sees it: its cache reads come from the nearest caches that hold them.

    What no cache holds stays at its home. Caches of scope ``unit`` count together: units read different items.
    """
    served: Any = 0.0
    shares: dict[str, Any] = {}
    for level in hardware.memory:
        if level.kind == "cache" and level.bandwidth_bytes_per_s is not None:
            up_to_here = np.maximum(cyclic_hit_share(operator.kv_read_bytes, level), served)
            shares[level.name] = up_to_here - served
            served = up_to_here
    for name, share in placement.kv.items():
        shares[name] = shares.get(name, 0.0) + share * (1.0 - served)
    return replace(placement, kv=shares)


AS_HIGH: Final = 0.95  # of the highest roof: rates are calibrated to a few per cent, which cannot tell such roofs apart
_NOT_A_LEVEL: Final = ((LOAD_PATH,), (COMPUTE, SPECIAL_FUNCTION))

def highest_s(times_s: Iterable[Any]) -> Any:
    """The highest of some roofs, point by point; 0 without one."""
    highest: Any = 0.0
    for time_s in times_s:
        highest = np.maximum(highest, time_s)
    return highest


def by_binding_roof(roofs: Mapping[str, Any], highest: Any) -> dict[str, Any]:
    """The highest roof's time given to the roof that binds; roofs that are 0 everywhere are left out.

    >>> shares = by_binding_roof({"compute": 1.0, "hbm": 0.96, "l2": 0.9}, 1.0)
    >>> {name: float(time_s) for name, time_s in shares.items()}
    {'hbm': 1.0, 'l2': 0.0, 'compute': 0.0}
    """
    shares: dict[str, Any] = {}
    roofs = {name: time_s for name, time_s in roofs.items() if np.ndim(time_s) > 0 or time_s != 0.0}
    levels = tuple(name for name in roofs if not any(name in kind for kind in _NOT_A_LEVEL))
    rest = highest
    for kind in (levels, *_NOT_A_LEVEL):
        own = {name: roofs[name] for name in kind if name in roofs}
        high = highest_s(own.values())
        for name, time_s in own.items():
            shares[name] = np.where((time_s >= high) & (high >= AS_HIGH * highest), rest, 0.0)
            rest = rest - shares[name]
    return shares


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time of one execution of an operator, by roof, and the bytes it moves at each level.

    ``unit_s`` are times of a measured kernel by cause, roofs like the others: its memory's, its units' load path or
    arithmetic.
    ``body_s`` is such a kernel's whole time but for the launch; 0 where nothing was measured.
    """

    compute_s: Any
    special_s: Any
    level_s: dict[str, Any]
    level_bytes: dict[str, Any]
    launch_s: Any
    unit_s: dict[str, Any]
    body_s: Any = 0.0
    beside_bytes: Any = 0.0

    @cached_property
    def roofs(self) -> dict[str, Any]:
        """All roofs by the name that binds."""
        roofs = {COMPUTE: self.compute_s, SPECIAL_FUNCTION: self.special_s, **self.level_s}
        for name, time in self.unit_s.items():
            roofs[name] = np.maximum(roofs.get(name, 0.0), time)
        return roofs

    @cached_property
    def highest_roof_s(self) -> Any:
        """The roof that binds, without the launch."""
        return highest_s(self.roofs.values())

    @cached_property
    def total_s(self) -> Any:
        """Launch plus the highest roof, or a measured kernel's own time where that is longer."""
        return self.launch_s + np.maximum(self.highest_roof_s, self.body_s)

    @property
    def extra_s(self) -> Any:
        """What a kernel adds to the highest roof: set-up, uneven waves, ramps, the combine pass."""
        return np.maximum(self.body_s - self.highest_roof_s, 0.0)

    @cached_property
    def cause_s(self) -> dict[str, Any]:
        """The highest roof's time given to the roof that binds, launch and extras to latency."""
        shares = by_binding_roof(self.roofs, self.highest_roof_s)
        return shares | {LATENCY: shares.get(LATENCY, 0.0) + self.launch_s + self.extra_s}


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
    cold = served = np.ndim(hit_share) == 0 and hit_share == 0.0
    for level in reversed(hardware.memory):
        own = resident.get(level.name, 0.0)
        if not cold:
            own = own * (1.0 - hit_share)
        if level.kind == "cache" and level.scope == "chip" and not served:
            beyond = beyond + sum(resident.values()) * hit_share
            served = True
        through = beyond + (own + passing.get(level.name, 0.0))
        moved[level.name] = through
        beyond = through
        rate = level.achievable_bytes_per_s
        if rate is not None:
            if len(resident) > 1:
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
    for level in stations[:-1]:
        fits = waiting <= level.usable_bytes
        passing[level.name] = np.where(fits, waiting, 0.0)
        waiting = np.where(fits, 0.0, waiting)
    if stations:
        passing[stations[-1].name] = waiting
    return passing


def compute_time_s(operator: Operator, hardware: HardwareProfile, placement: Placement | None = None) -> Any:
    r"""Matrix unit with rows padded to its tile, or the vector unit when padding loses (model.md section 3).

    .. math:: T_0 = \min\left( \max\left(\frac{F_m}{\pi_m} \frac{\lceil r/M \rceil M}{r}, \frac{F_v}{\pi_v}\right),
              \frac{F_m + F_v}{\pi_v} \right)

    A quantised cache that the matrix unit does not multiply as it is takes :math:`F_u` more flops of the vector unit;
    or it is converted on its way in, as fast as a cache of 16 bits would stream, whichever takes less: a format of
    fewer bytes never makes a machine slower than not using it.

    .. math:: T = \min\left( T_0|_{F_v + F_u},\; \max(T_0, T_{16}) \right)

    ``placement`` says where the cache lives; without one there is no :math:`T_{16}`.
    """
    compute = hardware.compute
    rows, tile = np.asarray(operator.query_rows, dtype=float), compute.matrix_tile_rows
    padding = np.ceil(rows / tile) * tile / rows
    matrix_s = operator.matrix_flops * padding / compute.matrix_achievable_flop_per_s(operator.dtype)
    vector_rate = compute.vector_peak_flop_per_s
    if vector_rate is None:
        return matrix_s
    vector_s, unpack_s = operator.vector_flops / vector_rate, operator.unpack_flops / vector_rate
    all_vector_s = (operator.matrix_flops + operator.vector_flops) / vector_rate
    # A matrix unit that multiplies the cache's own format needs nothing widened; the vector unit always does.
    native = operator.cache_dtype in compute.matrix_peak_flop_per_s
    widened_s = np.minimum(np.maximum(matrix_s, vector_s + (0.0 if native else unpack_s)), all_vector_s + unpack_s)
    if placement is None or (np.ndim(unpack_s) == 0 and unpack_s == 0.0):
        return widened_s
    kept_s, _ = memory_times(replace(operator, kv_read_bytes=operator.widened_read_bytes,
                                     kv_reread_bytes=operator.widened_reread_bytes), placement, hardware)
    plain_s = np.minimum(np.maximum(matrix_s, vector_s), all_vector_s)
    return np.minimum(widened_s, np.maximum(plain_s, highest_s(kept_s.values())))


def special_function_time_s(operator: Operator, hardware: HardwareProfile) -> Any:
    """Exponentials over their rate; 0 where there is none: measured kernels hold it, or ideal values are asked for."""
    rate = hardware.compute.special_ops_per_s
    return 0.0 if rate is None else operator.exponentials / rate
