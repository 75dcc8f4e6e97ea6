"""Address mapping of one channel: which bits of a byte address choose bank, bank group, stack, column and row.

A mapping is a list of (field, bits) from the least significant bit above the burst upward; the row takes the rest.
Above it, an XOR hash may fold low row bits into bank group, bank and stack, which scatters strides that would
otherwise return to one bank (Zhang, Zhu, Zhang, "A permutation-based page interleaving scheme", MICRO 2000).

Names as in the reference runs (lo = log2(128 B / burst)):

``bg128``   column[lo] | bank group | column | bank | stack | row: each 128 B line in one bank, the next line in the
            next bank group
``bg128x``  bg128 with the XOR hash
``bg32``    bank group | column | bank | stack | row: consecutive bursts alternate bank groups
``robaco``  column | bank group | bank | stack | row: a whole row is contiguous
``mop128``  column[lo] | bank group | bank | stack | column | row

With two pseudo-channels driven as one channel, their bit stands directly below the bank group.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import UserError, did_you_mean
from simkit.replay.dram.standards import DramStandard

LINE_BYTES: Final = 128  # a cache line of NVIDIA's L2 (CUDA programming guide): what the mappings keep together
_BANK_FIELDS: Final = ("bank", "group", "stack", "pseudo_channel")  # from the low end of a flat bank number
_BIT_FIELD: Final = np.dtype([(name, np.int64) for name in ("shift", "mask", "place", "row_shift")], align=True)
_NOT_HASHED: Final = 63  # a row number shifted by as much is zero
MAPPINGS: Final = ("bg128", "bg128x", "bg32", "robaco", "mop128")

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where bursts are: pseudo-channel, stack, bank group, bank in the group, row; int64 arrays of one shape."""

    pseudo_channel: IntArray
    stack: IntArray
    group: IntArray
    bank: IntArray
    row: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressMapping:
    """Bit fields of a byte address from the burst offset upward, and whether the row is hashed into the bank."""

    fields: tuple[tuple[str, int], ...]
    burst_bits: int
    row_bits: int
    hashed: bool

    def decode(self, address_bytes: IntArray) -> Location:
        """Locations of byte addresses (any shape); addresses beyond the capacity wrap around."""
        rest = np.asarray(address_bytes, dtype=np.int64) >> self.burst_bits
        part = dict.fromkeys(("pseudo_channel", "stack", "group", "bank", "column"), np.zeros_like(rest))
        filled = dict.fromkeys(part, 0)
        for field, bits in self.fields:
            part[field] = part[field] | ((rest & ((1 << bits) - 1)) << filled[field])
            filled[field] += bits
            rest = rest >> bits
        row = rest & ((1 << self.row_bits) - 1)
        if self.hashed:
            shift = 0
            for field in ("group", "bank", "stack"):
                part[field] = part[field] ^ ((row >> shift) & ((1 << filled[field]) - 1))
                shift += filled[field]
        return Location(pseudo_channel=part["pseudo_channel"], stack=part["stack"], group=part["group"],
                        bank=part["bank"], row=row)

    def bit_table(self) -> NDArray[Any]:
        """The mapping as shifts and masks, for compiled code: the flat bank number and the row of an address.

        Record 0 is (shift, mask) of the row; each further one is one field of the bank number: (shift, mask) in the
        address, its place in the bank number, and the shift of the row that is XORed to it (63: nothing is left).
        """
        width = {field: sum(bits for name, bits in self.fields if name == field) for field in _BANK_FIELDS}
        place = {"bank": 0}
        for lower, field in itertools.pairwise(_BANK_FIELDS):
            place[field] = place[lower] + width[lower]
        hash_shift = {"group": 0, "bank": width["group"], "stack": width["group"] + width["bank"]}
        table = []
        shift = self.burst_bits
        for field, bits in self.fields:
            if field in place and bits:
                hashed = hash_shift.get(field, _NOT_HASHED) if self.hashed else _NOT_HASHED
                table.append((shift, (1 << bits) - 1, place[field], hashed))
            shift += bits
        return np.array([(shift, (1 << self.row_bits) - 1, 0, _NOT_HASHED), *table], dtype=_BIT_FIELD)

    def encode(self, *, stack: IntArray, group: IntArray, bank: IntArray, row: IntArray) -> IntArray:
        """Byte addresses whose *address bits* hold these numbers, column 0; the hash is not undone."""
        part = {"stack": np.asarray(stack, np.int64), "group": np.asarray(group, np.int64),
                "bank": np.asarray(bank, np.int64)}
        address = np.zeros_like(np.asarray(row, np.int64))
        shift = self.burst_bits
        for field, bits in self.fields:  # no field but the column is in two parts
            if field in part:
                address = address | (part[field] << shift)
            shift += bits
        return address | (np.asarray(row, np.int64) << shift)


def _bits(count: int, what: str, standard: DramStandard) -> int:
    if count < 1 or count & (count - 1):
        raise UserError(f"DRAM type {standard.name}: {what} must be a power of two, got {count}")
    return count.bit_length() - 1


def mapping_named(name: str, standard: DramStandard, *, driven_pseudo_channels: int) -> AddressMapping:
    """The mapping of that name for ``standard`` with one or both pseudo-channels driven."""
    if name not in MAPPINGS:
        raise UserError(f"unknown DRAM address mapping '{name}'", hint=did_you_mean(name, MAPPINGS))
    burst = _bits(standard.burst_bytes, "burst_bytes", standard)
    column = _bits(standard.row_bytes // standard.burst_bytes, "bursts per row", standard)
    low = min(max(_bits(LINE_BYTES, "line", standard) - burst, 0), column)
    pseudo = ("pseudo_channel", _bits(driven_pseudo_channels, "driven pseudo-channels", standard))
    group = ("group", _bits(standard.bank_groups, "bank_groups", standard))
    bank = ("bank", _bits(standard.banks_per_group, "banks_per_group", standard))
    stack = ("stack", _bits(standard.stacks, "stacks", standard))
    line, rest = ("column", low), ("column", column - low)
    layouts = {
        "bg128": (line, pseudo, group, rest, bank, stack),
        "bg32": (pseudo, group, ("column", column), bank, stack),
        "robaco": (("column", column), pseudo, group, bank, stack),
        "mop128": (line, pseudo, group, bank, stack, rest),
    }
    return AddressMapping(
        fields=layouts[name.removesuffix("x")],
        burst_bits=burst,
        row_bits=_bits(standard.rows, "rows", standard),
        hashed=name.endswith("x"),
    )
