"""A chip made of tiles: a memory and an engine each, joined by a network on the chip.

Cycles and bytes a cycle are of the fabric's clock. Every default adds nothing: a fabric that states only its tiles is
as fast as its roofs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Final, Literal

from pydantic import Field

from simkit.foundation.units import COUNT, HERTZ
from simkit.foundation.validation import Flag, Quantity, WholeNumber
from simkit.hardware.declaration import Key, Prior
from simkit.hardware.devices import ByteEnergy

TileTopology = Literal["mesh", "torus", "ring", "exchange", "noc", "stream"]
# Topologies in which a message passes every tile between two: distance counts.
BY_NEIGHBOURS: Final[tuple[TileTopology, ...]] = ("mesh", "torus", "ring", "stream")

Cycles = Annotated[float, Quantity(COUNT, 0, 1e9)]
TwoSides = Annotated[tuple[Annotated[int, WholeNumber(1, 65536)], ...], Field(min_length=2, max_length=2)]
BytesPerCycle = Annotated[float, Quantity(COUNT, 1e-3, 1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """The memory and the engine of one tile."""

    port_bytes_per_cycle: BytesPerCycle | None = None
    """What reaches the engine from the tile's own memory; default: the memory level's bandwidth."""
    shared_bytes_per_cycle: BytesPerCycle | None = None
    """What one tile can take in from memory that all tiles share, such as DRAM."""
    attention_bytes_per_cycle: BytesPerCycle | None = None
    """Of a cache in shared memory that one tile works through in attention, by a kernel measured alone; default:
    shared_bytes_per_cycle."""
    stationary: TwoSides | None = None
    """Rows and columns of the operand that a systolic engine holds while rows of the other stream past it; printed."""
    engines: Annotated[int, WholeNumber(1, 65536)] = 1
    """Systolic engines of one tile."""
    fill_bytes_per_cycle: BytesPerCycle | None = None
    """Of loading that operand into one engine, beside the work on the one before; default: in no time."""
    step_cycles: Cycles = 0.0
    """Of a vector instruction besides its elements: one for each element that multiplies a row of the other operand."""
    accumulates_in_memory: Flag = False
    """true: a partial sum is read and written with each product, through the same port."""
    exponential_cycles: Cycles | None = None
    """Of one exponential on one tile; default: compute.special_rate, or where that is unknown no time."""
    overlaps: Flag = True
    """false: what a tile loads, multiplies and exponentiates follows one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLink:
    """What joins neighbouring tiles, or a tile and the exchange between all."""

    bytes_per_cycle: BytesPerCycle | None = None
    """Of one link in one direction; default: messages take no time besides their way."""
    hop_cycles: Cycles = 0.0
    """From one tile to the next on a message's way; through an exchange: from any tile to any other."""
    add_cycles: Cycles = 0.0
    """Of each addition that a sum waits for on its way: taking a message in, adding, sending on."""
    multicast: Flag = True
    """false: a message for many tiles is sent once for each."""
    energy_j_per_byte: ByteEnergy | None = None
    """Of one byte on one hop, switches and wires; without it energies stay unknown where tiles send messages."""


def _differs(record: Tile | TileLink) -> bool:
    """Whether anything is stated that takes time, also where a study puts an array in its place."""
    values = ((getattr(record, one.name), one.default) for one in fields(record) if one.name != "energy_j_per_byte")
    return any(not isinstance(value, float | int | tuple | None) or value != default for value, default in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The tiles of one chip and the network that joins them."""

    tiles: Annotated[tuple[Annotated[int, WholeNumber(1, 65536)], ...], Field(min_length=1, max_length=2)]
    """Tiles along each side."""
    topology: TileTopology
    """mesh, torus, ring: to the neighbours; stream: past all tiles of a row; exchange, noc: from any tile to any."""
    clock_hz: Annotated[float, Quantity(HERTZ, 1e6, 1e11)] | None = None
    """Default: compute.clock."""
    start_cycles: Annotated[Cycles | None, Key(prior=Prior(key="fabric.start_cycles", more_is_faster=False))] = None
    """Before each phase: the start of a program's next part, or a barrier of all tiles; default: the launch of each
    operator (overheads.kernel_launch)."""
    head_tiles: Annotated[int, WholeNumber(1, 10_000_000)] | None = None
    """Most tiles that share one KV head of one sequence."""
    head_ways: TwoSides | None = None
    """Tiles that a KV head of one sequence is dealt out over, by tokens and by the head dimension; default: as is
    fastest."""
    region: TwoSides | None = None
    """Tiles along each side of the chip that a layer runs on, regions side by side: products of the hidden state sum
    over the first side, those that give it back over the second; default: as is fastest."""
    in_flight: Annotated[int, WholeNumber(1, 10_000_000)] | None = None
    """Groups of sequences that pass through the regions at once, each in its own; default: as is fastest, at most one a
    region."""
    tile: Tile = Tile()
    link: TileLink = TileLink()

    @property
    def has_rates(self) -> bool:
        """Whether anything is stated that takes time: tiles and how they stand are none."""
        return self.start_cycles is not None or _differs(self.tile) or _differs(self.link)

    @property
    def phase_cycles(self) -> float:
        """Cycles before a phase, besides an operator's launch."""
        return 0.0 if self.start_cycles is None else self.start_cycles

    @property
    def most_regions(self) -> int:
        """Regions that stand side by side at most; one where distance does not count or a chip is one stream."""
        if self.topology not in BY_NEIGHBOURS or self.topology == "stream":
            return 1
        return self.n_tiles if self.region is None else math.prod(
            max(side // own, 1) for side, own in zip(self.sides, self.region, strict=True))

    @property
    def n_tiles(self) -> int:
        """Tiles of one chip."""
        return math.prod(self.tiles)

    @property
    def sides(self) -> tuple[int, int]:
        """Tiles along both sides; a row of tiles has one across."""
        return (self.tiles[0], self.tiles[1]) if len(self.tiles) == 2 else (self.tiles[0], 1)
