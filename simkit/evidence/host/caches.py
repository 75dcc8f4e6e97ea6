"""Cache sizes of this machine, from the kernel's tables, the C library, or an assumption that says so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys/devices/system/cpu")
SHARED_LEVEL: Final = 3  # from here on caches belong to a cluster of cores or to a socket
# What sysconf calls each level, and what is assumed where nothing says (the least common denominator of 2015-2025).
_SYSCONF: Final = {1: "SC_LEVEL1_DCACHE_SIZE", 2: "SC_LEVEL2_CACHE_SIZE", 3: "SC_LEVEL3_CACHE_SIZE"}
_ASSUMED: Final = {1: 32 * 1024, 2: 512 * 1024, 3: 8 * 1024 * 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """One level of data cache: bytes of one instance, whether each core has its own, instances, and who says so."""

    level: int
    instance_bytes: float
    per_core: bool
    instances: int
    source: str
    assumed: bool = False


def cache_sizes(cpus: list[int], sysfs: Path = SYSFS) -> list[CacheSize]:
    """Data caches that these processors use, nearest first."""
    found = _from_sysfs(cpus, sysfs)
    return found or [_from_libc(level, len(cpus)) for level in sorted(_ASSUMED)]


def _from_sysfs(cpus: list[int], sysfs: Path) -> list[CacheSize]:
    sharing: dict[int, dict[str, float]] = {}
    for cpu in cpus:
        for index in sorted((sysfs / f"cpu{cpu}" / "cache").glob("index*")):
            words = {name: _text(index / name) for name in ("level", "type", "size", "shared_cpu_list")}
            if words["type"] in {"Data", "Unified"} and words["size"] and words["level"].isdigit():
                sharing.setdefault(int(words["level"]), {})[words["shared_cpu_list"]] = size_bytes(words["size"])
    # A process that may use one processor sees one instance of each level; the last is shared with others all the same.
    nearest = set(sharing[min(sharing)]) if sharing else set()
    return [CacheSize(level=level, instance_bytes=max(instances.values()), instances=len(instances),
                      per_core=level < SHARED_LEVEL and len(instances) >= len(cpus) and set(instances) == nearest,
                      source="/sys/devices/system/cpu")
            for level, instances in sorted(sharing.items())]


def _from_libc(level: int, count: int) -> CacheSize:
    try:
        given = os.sysconf(_SYSCONF[level]) if _SYSCONF[level] in os.sysconf_names else 0
    except (AttributeError, OSError, ValueError):  # no sysconf on Windows; names that this system does not answer
        given = 0
    return CacheSize(level=level, instance_bytes=float(given if given > 0 else _ASSUMED[level]),
                     per_core=level < SHARED_LEVEL, instances=count if level < SHARED_LEVEL else 1, assumed=given <= 0,
                     source="sysconf" if given > 0 else "assumed: this system does not say")


def size_bytes(text: str) -> float:
    """A size as the kernel writes it.

    >>> size_bytes("32K"), size_bytes("1M")
    (32768.0, 1048576.0)
    """
    factors = {"K": 1024, "M": 1024**2, "G": 1024**3}
    return float(text[:-1]) * factors[text[-1]] if text[-1:] in factors else float(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
