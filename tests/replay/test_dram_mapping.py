"""Address mappings: bijections, the layouts as documented, and the compiled form of the same bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from simkit.errors import UserError
from simkit.replay.dram.interleave import ChannelInterleave
from simkit.replay.dram.mapping import MAPPINGS, mapping_named
from simkit.replay.dram.queues import place_of
from simkit.replay.dram.simulate import DramChannel, DramConfig
from simkit.replay.dram.standards import standard_named

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
