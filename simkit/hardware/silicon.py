r"""What a chip's parameters take of silicon, watts and dollars, for budgets of hypothetical chips.

.. math:: A = \frac{C_{sram} + k\, C_{cache}}{s} + a_F F + \sum_{dram} \frac{\beta}{\beta_{stack}}
          \left(a_{PHY} + \frac{n_{ctrl}}{\rho}\right) + a_L \beta_L

``s`` MiB of SRAM macros a mm2 of the node, ``k`` what a cache takes over a scratchpad, ``rho`` transistors a mm2, ``F``
the 16-bit matrix peak. :math:`a_F` is all that is left of a die (units, registers, control, network on chip, host
interface): of a base chip whose die is published its own, so that designs are that die and what changes of it; of
others the range of published dies of its kind, by the density of its node. Clocks and numbers of units take no area:
peaks, capacities and bandwidths do; a faster SRAM costs watts here, and no area.

.. math:: P = p_0 A + \max(\pi e_F, \beta e_\beta) + 2 \beta_L e_L, \qquad \$ = \frac{A}{a} \frac{w}{N_a Y_a} +
          \sum_{dram} C c, \qquad Y_a = \left(1 + \frac{a D}{\alpha}\right)^{-\alpha}

One roof at a time is busy: chips throttle where both are. Dies of ``a`` mm2 are as large as a scanner's field lets
them be. Packages, boards, masks and margins are not in the dollars: a price is the base chip's by the ratio of both.
Figures and sources: ``hardware_profiles/silicon/silicon.yaml``; energies and static power are the profile's own, else
the range of the published dies' profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import pi
from types import MappingProxyType
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.resources import shipped_folder
from simkit.foundation.units import BYTES_PER_S, parse_quantity
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile, MemoryLevel

LOW, CENTRAL, HIGH = range(3)
Range = tuple[float, float, float]
# Conversions: bits to bytes, pJ to J, bytes to GB, mm2 to cm2.
BITS_PER_BYTE, PICO, GIGA, MM2_PER_CM2 = 8, 1e-12, 1e9, 100


@cache
def silicon_constants() -> Mapping[str, Any]:
    """The document of constants, each with its source."""
    return MappingProxyType(load_yaml(shipped_folder("hardware_profiles") / "silicon" / "silicon.yaml").data)


@cache
def _published(name: str) -> HardwareProfile:
    """The profile of a chip whose die is published."""
    return load_hardware(name)


def _interfaces(chip: HardwareProfile) -> list[tuple[MemoryLevel, Mapping[str, Any]]]:
    """DRAM levels, each with the parameters of its family."""
    table = silicon_constants()["dram"]
    kinds = {level.name: level.dram.type if level.dram else level.name.upper() for level in chip.memory}
    return [(level, next((one for family, one in table.items() if kinds[level.name].startswith(family)), table["DDR"]))
            for level in chip.memory if level.kind == "dram" and level.bandwidth_bytes_per_s is not None]


def peak_flop_per_s(chip: HardwareProfile) -> Any:
    """The 16-bit matrix peak, or that of the format which stands in for it."""
    return chip.compute.matrix_peak_flop_per_s[chip.compute.matrix_dtype("bf16")]


@dataclass(frozen=True, kw_only=True)
class SiliconModel:
    """Area, power and cost of chips that differ from ``base`` in some parameters, on a process ``node``.

    ``blind``: as if nothing of the base chip's die, power and energies were stated, to check the model.
    """

    base: HardwareProfile
    node: str
    blind: bool = False

    @property
    def own_mm2(self) -> float | None:
        """The base chip's published silicon."""
        return None if self._own_die is None else float(self._own_die["mm2"])

    @property
    def _own_die(self) -> Mapping[str, Any] | None:
        return None if self.blind else silicon_constants()["dies"].get(self.base.name)

    def known_parts_mm2(self, chip: HardwareProfile, end: int = CENTRAL, node: str | None = None) -> Any:
        """SRAM, caches and interfaces: all but what goes with the matrix peak."""
        data, process = silicon_constants(), silicon_constants()["nodes"][node or self.node]
        area: Any = 0.0
        for level in chip.memory:
            if level.kind != "dram":
                over = data["cache_over_macro"]["value"][end] if level.kind == "cache" else 1.0
                area = area + over * level.chip_capacity_bytes / 2.0**20 / process["sram_mib_per_mm2"]
        for level, family in _interfaces(chip):
            rate: Any = level.chip_bandwidth_bytes_per_s
            stack_mm2 = family["phy_mm2"] + family["controller_mtransistors"] / process["density"]
            area = area + rate / self._stack_bytes_per_s(level.name, family) * stack_mm2
        if chip.scale_up is not None:
            area = area + data["link_mm2_per_gb_per_s"]["value"][end] * chip.scale_up.bandwidth_bytes_per_s / 1e9
        return area

    def _stack_bytes_per_s(self, name: str, family: Mapping[str, Any]) -> float:
        """Of one stack as the base chip has them, or as its family's standard."""
        own = self.base.level(name)
        if own.dram is not None and own.dram.stacks:
            return float(own.chip_bandwidth_bytes_per_s or 0.0) / own.dram.stacks
        return parse_quantity(family["bandwidth"], BYTES_PER_S)

    def mm2(self, chip: HardwareProfile, end: int = CENTRAL) -> Any:
        """Silicon of a chip, all its dies."""
        return self.known_parts_mm2(chip, end) + self.rest_mm2_per_flop_per_s[end] * peak_flop_per_s(chip)

    @cached_property
    def rest_mm2_per_flop_per_s(self) -> Range:
        """What is left of a die: of the base chip's own, else of others of its kind."""
        die, nodes = self._own_die, silicon_constants()["nodes"]
        if die is None:
            return _spread(SiliconModel(base=chip, node=self.node).rest_mm2_per_flop_per_s[CENTRAL]
                           for chip, _ in self._others if (chip.kind == "gpu") == (self.base.kind == "gpu"))
        scale = nodes[die["node"]]["density"] / nodes[self.node]["density"] / peak_flop_per_s(self.base)
        low, central, high = (scale * max(die["mm2"] - self.known_parts_mm2(self.base, end, die["node"]), 0.0)
                              for end in (LOW, CENTRAL, HIGH))
        return low, central, high

    def watts(self, chip: HardwareProfile, end: int = CENTRAL) -> Any:
        """What a chip must be fed and cooled for: static power, and the hungrier of arithmetic and main memory."""
        main, link = chip.main_memory, chip.scale_up
        if main.achievable_bytes_per_s is None:
            return np.nan
        stated = (None, None) if self.blind else (chip.power.energy_j_per_flop, main.energy_j_per_byte)
        flop_j, byte_j = (ends[end] if own is None else own for own, ends in zip(
            stated, (self._flop_j, self._byte_j), strict=True))
        busy = np.maximum(chip.compute.matrix_achievable_flop_per_s("bf16") * flop_j,
                          main.achievable_bytes_per_s * byte_j)
        if link is not None:
            link_j = link.energy_j_per_byte
            if link_j is None:
                link_j = silicon_constants()["link_energy_pj_per_bit"]["value"][end] * PICO * BITS_PER_BYTE
            busy = busy + 2.0 * link.bandwidth_bytes_per_s * link_j
        return self._static_w_per_mm2[end] * self.mm2(chip, end) + busy

    @cached_property
    def _static_w_per_mm2(self) -> Range:
        if self.own_mm2 is not None and self.base.power.idle_w is not None:
            return (self.base.power.idle_w / self.own_mm2,) * 3
        return _spread([chip.power.idle_w and chip.power.idle_w / die["mm2"] for chip, die in self._others])

    @cached_property
    def _flop_j(self) -> Range:
        return _spread([chip.power.energy_j_per_flop for chip, _ in self._others])

    @cached_property
    def _byte_j(self) -> Range:
        return _spread([level.energy_j_per_byte for chip, _ in self._others for level in chip.memory
                        if _alike(level, self.base.main_memory)])

    @property
    def _others(self) -> list[tuple[HardwareProfile, Mapping[str, Any]]]:
        """The other chips whose dies are published."""
        return [(_published(name), die) for name, die in silicon_constants()["dies"].items() if name != self.base.name]

    def made_usd(self, chip: HardwareProfile, end: int = CENTRAL) -> Any:
        """What dies and memory of a chip cost to make."""
        data = silicon_constants()
        area, alpha = self.mm2(chip, end), data["cluster_parameter"]["value"]
        die, radius = np.minimum(area, data["reticle_mm2"]["value"]), data["wafer_mm"]["value"] / 2
        gross = pi * radius**2 / die - pi * 2 * radius / np.sqrt(2 * die)
        defects = data["defects_per_cm2"]["value"][end] / MM2_PER_CM2
        good = gross * (1 + die * defects / alpha) ** -alpha
        memory = sum(level.chip_capacity_bytes / GIGA * one["usd_per_gb"][end] for level, one in _interfaces(chip))
        return area / die * data["nodes"][self.node]["wafer_usd"] / good + memory

    def price_usd(self, chip: HardwareProfile) -> Any:
        """The base chip's price by the ratio of what both take to make; NaN without a price."""
        if chip.price.purchase_usd is None:
            return np.nan
        return chip.price.purchase_usd * self.made_usd(chip) / self.made_usd(self.base)


def _alike(level: MemoryLevel, main: MemoryLevel) -> bool:
    """Whether two levels are built of the same: scratchpads, or DRAM of one family."""
    kinds = [(one.dram.type if one.dram else one.name.upper()).rstrip("23456789eEXx") for one in (level, main)]
    return level.kind == main.kind and (main.kind == "sram" or kinds[0] == kinds[1])


def _spread(stated: Iterable[float | None]) -> Range:
    """Least, middle and most, the middle in ratios; unknown where nothing is stated."""
    found = [one for one in stated if one is not None]
    return (min(found), float(np.exp(np.mean(np.log(found)))), max(found)) if found else (np.nan,) * 3


def silicon_model(base: HardwareProfile, node: str | None = None) -> SiliconModel:
    """The model of chips like ``base``.

    Raises :class:`UserError` for a node that is not known, and where neither ``node`` nor a published die says it.
    """
    known, nodes = silicon_constants()["dies"].get(base.name), silicon_constants()["nodes"]
    if node is not None and node not in nodes:
        raise UserError(f"--node '{node[:40]}': expected one of {', '.join(nodes)}", hint=did_you_mean(node, nodes))
    if node is None and known is None:
        raise UserError(f"{base.name}: no source gives its die and process", hint="--node n5 states the process")
    return SiliconModel(base=base, node=node or known["node"])


def checked_dies() -> list[dict[str, Any]]:
    """Published dies and power limits beside the model's, each with parameters of the other dies alone."""
    records = []
    for name, die in silicon_constants()["dies"].items():
        chip = _published(name)
        model, tdp_w = SiliconModel(base=chip, node=die["node"], blind=True), chip.power.tdp_w or np.nan
        low, central, high = (float(model.mm2(chip, end)) for end in (LOW, CENTRAL, HIGH))
        measured = {"published_mm2": die["mm2"], "mm2": central, "mm2_low": low, "mm2_high": high, "tdp_w": tdp_w,
                    "mm2_ratio": central / die["mm2"], "power_w": float(model.watts(chip)),
                    "power_ratio": float(model.watts(chip) / tdp_w)}
        records.append({"hardware": name, "node": die["node"], **{
            key: value if np.isfinite(value) else None for key, value in measured.items()}})
    return records
