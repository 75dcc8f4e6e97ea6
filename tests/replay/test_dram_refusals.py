"""Settings and requests that a channel refuses, and the last ones that it takes."""

import dataclasses

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.replay.dram.simulate import DramChannel, DramConfig, replay_requests
from simkit.replay.dram.standards import standard_named
from tests.replay.cases import dram_config


@pytest.mark.parametrize(("change", "said"), [
    ({"scheduler": "fcfs"}, "unknown DRAM scheduler 'fcfs'; did you mean 'frfcfs'?"),
    ({"refresh": "all"}, "unknown DRAM refresh 'all'"),
    ({"read_queue": 0}, "read_queue must be at least 1, got 0"),
    ({"write_queue": 0}, "write_queue must be at least 1, got 0"),
    ({"accept_per_tick": -1}, "accept_per_tick must be at least 1, got -1"),
    ({"driven_pseudo_channels": 3}, "HBM3_6400 has 2 pseudo-channel(s), cannot drive 3"),
    ({"driven_pseudo_channels": 0}, "HBM3_6400 has 2 pseudo-channel(s), cannot drive 0"),
    ({"write_low_mark": 0.9}, "write marks must satisfy 0 <= low <= high <= 1, got 0.9 and 0.8"),
    ({"write_low_mark": -0.1}, "write marks must satisfy 0 <= low <= high <= 1, got -0.1 and 0.8"),
    ({"write_high_mark": 1.1}, "write marks must satisfy 0 <= low <= high <= 1, got 0.2 and 1.1"),
])
def test_a_wrong_setting_is_refused_with_what_would_be_right(change, said):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(dram_config("HBM3_6400"), **change)
    assert str(caught.value).startswith(said)


def test_the_least_and_the_largest_settings_are_taken():
    least = dram_config("HBM3_6400", read_queue=1, write_queue=1, accept_per_tick=1, write_low_mark=0.0, write_high_mark=0.0)
    most = dram_config("HBM3_6400", driven_pseudo_channels=2, write_low_mark=1.0, write_high_mark=1.0)
    for config in (least, most):
        assert replay_requests(config, np.arange(40) * 32, is_write=np.arange(40) % 2).requests == 40


def test_both_pseudo_channels_have_twice_the_peak_and_the_memory_of_one():
    one, two = dram_config("HBM3_6400"), dram_config("HBM3_6400", driven_pseudo_channels=2)
    assert two.peak_bandwidth_bytes_per_s == 2 * one.peak_bandwidth_bytes_per_s == pytest.approx(51.2e9)
    assert two.capacity_bytes == 2 * one.capacity_bytes == 2 * 32 * 16_384 * 1024


def test_per_bank_refresh_without_its_interval_is_refused():
    with pytest.raises(UserError, match="DDR5_4800 has no per-bank refresh interval"):
        dram_config("DDR5_4800", refresh="pb")


@pytest.mark.parametrize("delay", ["rfc_cycles", "rfc_per_bank_cycles", "rc_cycles", "rp_cycles"])
def test_a_clock_too_fast_for_the_delays_is_refused(delay):
    """Half clocks of a wait are held in 21 bits, and twice the longest delay must fit: 2^21 / 4 clocks of HBM3 do not."""
    standard = standard_named("HBM3_6400")
    other = standard.rp_cycles if delay == "rc_cycles" else standard.rc_cycles if delay == "rp_cycles" else 0
    DramChannel(DramConfig(standard=dataclasses.replace(standard, **{delay: 2**19 - other - 1}), refresh="none"))
    far_too_fast = dataclasses.replace(standard, **{delay: 2**19 - other})
    with pytest.raises(UserError, match="HBM3_6400: its delays are too many clocks"):
        DramChannel(DramConfig(standard=far_too_fast, refresh="none"))


def test_more_than_256_banks_behind_one_channel_are_refused():
    standard = dataclasses.replace(standard_named("HBM3_6400"), banks_per_group=16)
    DramChannel(DramConfig(standard=standard))
    with pytest.raises(UserError, match="HBM3_6400: more than 256 banks behind one channel"):
        DramChannel(DramConfig(standard=dataclasses.replace(standard, banks_per_group=32)))


def test_a_channel_takes_fewer_requests_than_it_can_number():
    """Ages have 33 bits: no test can send as many, so the count of those sent is set."""
    channel = DramChannel(dram_config("HBM3_6400"))
    channel._sent = 2**33 - 3
    assert channel.submit([0, 32]).request.tolist() == [2**33 - 3, 2**33 - 2]
    with pytest.raises(UserError, match="fewer than 8,589,934,592 requests, start a new one"):
        channel.submit([64])


def test_wrong_request_arrays_are_refused():
    channel = DramChannel(dram_config("HBM3_6400"))
    with pytest.raises(UserError, match=r"is_write must have one entry per address \(4\), got 3"):
        channel.submit(np.arange(4) * 32, is_write=[0, 1, 0])
    with pytest.raises(UserError, match="arrival_s must ascend"):
        channel.submit(np.arange(3) * 32, arrival_s=[0.0, 2e-9, 1e-9])
    with pytest.raises(UserError, match="must not be negative"):
        channel.submit([0, -1])
    with pytest.raises(UserError, match="max_outstanding_reads must be at least 1"):
        channel.submit([0], max_outstanding_reads=0)


def test_a_memory_that_would_only_refresh_is_refused():
    standard = standard_named("HBM3_6400")
    endless = dataclasses.replace(standard, refi_cycles=standard.rfc_cycles)
    with pytest.raises(UserError, match=f"HBM3_6400: a refresh takes {standard.rfc_cycles} clocks and is due every"):
        DramConfig(standard=endless)
    assert DramConfig(standard=endless, refresh="none").refresh == "none"
