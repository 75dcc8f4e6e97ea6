"""Address mappings: bijections, the layouts as documented, and the compiled form of the same bits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from simkit.foundation.errors import UserError
from simkit.replay.dram.interleave import ChannelInterleave
from simkit.replay.dram.mapping import MAPPINGS, mapping_named
from simkit.replay.dram.queues import place_of
from simkit.replay.dram.simulate import DramChannel, DramConfig
from simkit.replay.dram.standards import DramStandard, standard_named

DRAM_TYPES = ["HBM2_2400", "HBM3_6400", "HBM4_8000", "GDDR6_14000", "LPDDR5_6400", "DDR5_4800"]


@njit
def places(table, address):
    bank, row = np.empty_like(address), np.empty_like(address)
    for i in range(address.size):
        bank[i], row[i] = place_of(table, address[i])
    return bank, row


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("dram_type", DRAM_TYPES)
def test_the_compiled_decoding_agrees_with_the_readable_one(dram_type, mapping):
    standard = standard_named(dram_type)
    for driven in range(1, standard.pseudo_channels + 1):
        config = DramConfig(standard=standard, mapping=mapping, driven_pseudo_channels=driven)
        address = np.random.default_rng(2).integers(0, config.capacity_bytes, 2000)
        bank, row = DramChannel(config).bank_and_row(address)
        compiled_bank, compiled_row = places(config.address_mapping().bit_table().view(np.recarray), address)
        assert np.array_equal(bank, compiled_bank)
        assert np.array_equal(row, compiled_row)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("dram_type", DRAM_TYPES)
def test_consecutive_rows_fill_every_bank_equally(dram_type, mapping):
    """A mapping is a bijection: any aligned block of one row a bank touches each (bank, row) row_bytes / burst times."""
    standard = standard_named(dram_type)
    config = DramConfig(standard=standard, mapping=mapping)
    block = standard.banks_per_pseudo_channel * standard.row_bytes
    bursts = np.arange(8 * block, 10 * block, standard.burst_bytes)
    bank, row = DramChannel(config).bank_and_row(bursts)
    _, count = np.unique(bank * standard.rows + row, return_counts=True)
    assert count.size == 2 * standard.banks_per_pseudo_channel
    assert set(count) == {standard.row_bytes // standard.burst_bytes}


@pytest.mark.parametrize("mapping", [name for name in MAPPINGS if not name.endswith("x")])
@pytest.mark.parametrize("dram_type", DRAM_TYPES)
def test_encode_is_the_inverse_of_decode(dram_type, mapping):
    standard = standard_named(dram_type)
    fields = mapping_named(mapping, standard, driven_pseudo_channels=1)
    rng = np.random.default_rng(4)
    numbers = {
        "stack": rng.integers(0, standard.stacks, 500),
        "group": rng.integers(0, standard.bank_groups, 500),
        "bank": rng.integers(0, standard.banks_per_group, 500),
        "row": rng.integers(0, standard.rows, 500),
    }
    where = fields.decode(fields.encode(**numbers))
    for name, expected in numbers.items():
        assert np.array_equal(getattr(where, name), expected)


def test_bg128_puts_each_128_byte_line_into_the_next_bank_group():
    """The layout that the reference runs describe: 4 KB is one row in each of four bank groups."""
    mapping = mapping_named("bg128", standard_named("HBM3_6400"), driven_pseudo_channels=1)
    where = mapping.decode(np.arange(0, 8192, 32))
    line = np.arange(256) // 4
    assert np.array_equal(where.group, line % 4)
    assert np.array_equal(where.bank, line // 32)
    assert np.all(where.row == 0)


def test_robaco_keeps_a_row_together():
    mapping = mapping_named("robaco", standard_named("HBM2_2400"), driven_pseudo_channels=1)
    where = mapping.decode(np.arange(0, 4096, 32))
    assert np.array_equal(where.group, np.arange(128) // 32)
    assert np.all(where.bank == 0)


def test_the_hash_scatters_a_stride_of_rows_over_all_banks():
    standard = standard_named("HBM3_6400")
    stride = standard.banks_per_pseudo_channel * standard.row_bytes
    address = np.arange(standard.banks_per_pseudo_channel) * stride
    banks = {name: DramChannel(DramConfig(standard=standard, mapping=name)).bank_and_row(address)[0]
             for name in ("bg128", "bg128x")}
    assert np.unique(banks["bg128"]).size == 1
    assert np.unique(banks["bg128x"]).size == standard.banks_per_pseudo_channel


HBM3, DDR5 = standard_named("HBM3_6400"), standard_named("DDR5_4800")
LARGE_BURST = replace(HBM3, burst_bytes=256)
SHORT_ROW = replace(HBM3, row_bytes=64)

# The bits of an address from the burst upward: column, group, bank, stack, pseudo-channel; rows follow. HBM3 has bursts of 32 B,
# rows of 32 of them, 4 groups of 4 banks and 2 stacks; DDR5 bursts of 64 B, rows of 64, 8 groups of 4 banks, 1 stack.
LAYOUTS = [
    (HBM3, "bg128", 1, "cc gg ccc bb s"), (HBM3, "bg32", 1, "gg ccccc bb s"), (HBM3, "robaco", 1, "ccccc gg bb s"),
    (HBM3, "mop128", 1, "cc gg bb s ccc"), (HBM3, "bg128", 2, "cc p gg ccc bb s"), (HBM3, "bg32", 2, "p gg ccccc bb s"),
    (HBM3, "robaco", 2, "ccccc p gg bb s"), (HBM3, "mop128", 2, "cc p gg bb s ccc"), (DDR5, "bg128", 1, "c ggg ccccc bb"),
    (DDR5, "mop128", 1, "c ggg bb ccccc"), (LARGE_BURST, "bg128", 1, "gg cc bb s"), (SHORT_ROW, "bg128", 1, "c gg bb s"),
]


def field_bits(standard: DramStandard, layout: str) -> list[tuple[str, int]]:
    """Of each address bit from the burst upward: its field and its weight there."""
    letters = layout.replace(" ", "") + "r" * (standard.rows.bit_length() - 1)
    return [(letter, 1 << letters[:place].count(letter)) for place, letter in enumerate(letters)]


@pytest.mark.parametrize(("standard", "mapping", "driven", "layout"), LAYOUTS)
def test_every_bit_of_an_address_belongs_to_the_field_that_the_layout_says(standard, mapping, driven, layout):
    fields = mapping_named(mapping, standard, driven_pseudo_channels=driven)
    channel = DramChannel(DramConfig(standard=standard, mapping=mapping, driven_pseudo_channels=driven))
    banks = standard.banks_per_group
    weights = {"b": 1, "g": banks, "s": banks * standard.bank_groups, "p": banks * standard.bank_groups * standard.stacks}
    for place, (letter, value) in enumerate(field_bits(standard, layout)):
        address = np.array([standard.burst_bytes << place])
        where = fields.decode(address)
        found = {"p": where.pseudo_channel, "s": where.stack, "g": where.group, "b": where.bank, "r": where.row}
        assert {name: int(number[0]) for name, number in found.items() if number[0]} == (
            {} if letter == "c" else {letter: value})
        bank, row = channel.bank_and_row(address)
        assert (bank[0], row[0]) == (weights.get(letter, 0) * value, value if letter == "r" else 0)


@pytest.mark.parametrize(("standard", "mapping", "driven", "layout"), LAYOUTS)
def test_an_address_is_put_together_from_the_same_bits(standard, mapping, driven, layout):
    fields = mapping_named(mapping, standard, driven_pseudo_channels=driven)
    names = {"s": "stack", "g": "group", "b": "bank", "r": "row"}
    for place, (letter, value) in enumerate(field_bits(standard, layout)):
        if letter in names:
            numbers = {name: np.array([value if name == names[letter] else 0]) for name in names.values()}
            assert fields.encode(**numbers).tolist() == [standard.burst_bytes << place]


def test_the_hash_adds_the_row_s_lowest_bits_to_group_then_bank_then_stack():
    """Row 0b1_10_01 moves group 0 to 1, bank 0 to 2, stack 0 to 1; group 3 with it to 2; higher row bits move nothing."""
    mapping = mapping_named("bg128x", HBM3, driven_pseudo_channels=1)
    row = 1 << 15
    where = mapping.decode(np.array([0b11001 * row, 0b11001 * row + 3 * 128, 0b100000 * row]))
    assert where.group.tolist() == [1, 2, 0]
    assert where.bank.tolist() == [2, 2, 0]
    assert where.stack.tolist() == [1, 1, 0]
    assert where.row.tolist() == [25, 25, 32]


def test_an_address_beyond_the_memory_wraps_around():
    config = DramConfig(standard=HBM3)
    bank, row = DramChannel(config).bank_and_row(np.array([config.capacity_bytes + 128, 5 * config.capacity_bytes]))
    assert (bank.tolist(), row.tolist()) == ([4, 0], [0, 0])
    assert DramChannel(config).submit([0, config.capacity_bytes + 32]).row_hits == 1


@pytest.mark.parametrize(("change", "said"), [
    ({"rows": 3}, "rows must be a power of two, got 3"), ({"bank_groups": 0}, "bank_groups must be a power of two, got 0"),
    ({"burst_bytes": 48}, "burst_bytes must be a power of two, got 48"), ({"stacks": 6}, "stacks must be a power of two, got 6"),
    ({"row_bytes": 96}, "bursts per row must be a power of two, got 3"),
    ({"banks_per_group": 5}, "banks_per_group must be a power of two, got 5"),
])
def test_a_geometry_that_no_bits_can_name_is_refused(change, said):
    with pytest.raises(UserError, match=f"DRAM type HBM3_6400: {said}"):
        mapping_named("bg128", replace(HBM3, **change), driven_pseudo_channels=1)


def test_an_unknown_mapping_names_the_nearest():
    with pytest.raises(UserError, match="unknown DRAM address mapping 'bg12'; did you mean 'bg128'"):
        mapping_named("bg12", standard_named("HBM3_6400"), driven_pseudo_channels=1)


@given(channels=st.integers(1, 200), granularity=st.sampled_from([32, 256, 4096]), hashed=st.booleans())
def test_channel_interleaving_names_each_byte_once_and_spreads_evenly(channels, granularity, hashed):
    interleave = ChannelInterleave(channels=channels, granularity_bytes=granularity, hashed=hashed)
    blocks = 7 * channels
    address = np.arange(blocks) * granularity + 5
    channel, inside = interleave.split(address)
    assert np.array_equal(np.bincount(channel, minlength=channels), np.full(channels, 7))
    assert np.unique(channel * (1 << 40) + inside).size == blocks
    assert np.all(inside % granularity == 5)


def test_a_memory_without_channels_is_refused():
    with pytest.raises(UserError, match="channels must be at least 1, got 0"):
        ChannelInterleave(channels=0)


def test_blocks_go_to_channels_in_turn_and_keep_their_offset():
    """Byte 1000 is byte 232 of block 3: with 3 channels the second block of channel 0; block 4 is the second of channel 1."""
    plain = ChannelInterleave(channels=3, hashed=False)
    channel, inside = plain.split(np.array([0, 255, 256, 1000, 1024]))
    assert channel.tolist() == [0, 0, 1, 0, 1]
    assert inside.tolist() == [0, 255, 0, 256 + 232, 256]


def test_the_channel_hash_folds_higher_bits_of_the_block_in_the_channel_into_its_number():
    """Block 2^17 + 2^5 of a channel: its bits 17 and 5, shifted by 5 to 12 and 0, by 11 to 6, by 17 to 0 again, are 135 264."""
    inside = 2**17 + 2**5
    assert 2**17 + 2**12 + 2**6 + 2**5 == 135_264
    for channels, first in ((2**20, 135_264), (7, 135_264 % 7)):
        interleave = ChannelInterleave(channels=channels, granularity_bytes=64)
        address = (inside * channels + np.array([0, 2])) * 64 + 9
        channel, address_inside = interleave.split(address)
        assert channel.tolist() == [first, (first + 2) % channels]
        assert address_inside.tolist() == [inside * 64 + 9] * 2


def test_one_channel_of_one_byte_blocks_holds_every_byte_where_it_was():
    channel, inside = ChannelInterleave(channels=1, granularity_bytes=1).split(np.arange(5))
    assert (channel.tolist(), inside.tolist()) == ([0] * 5, [0, 1, 2, 3, 4])


def test_blocks_of_no_bytes_are_refused():
    with pytest.raises(UserError, match="granularity_bytes must be at least 1, got 0"):
        ChannelInterleave(channels=1, granularity_bytes=0)
