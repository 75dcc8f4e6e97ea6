"""Access patterns as one DRAM channel sees them: addresses by hand and by plain loops, and the rate of known patterns."""

from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.hardware.devices import DramGeometry
from simkit.replay.dram.interleave import ChannelInterleave
from simkit.replay.dram.simulate import DramConfig, replay_requests
from simkit.replay.dram.standards import standard_named
from simkit.replay.dram_pattern import (
    Pattern,
    PatternRate,
    channel_requests,
    pattern_rate,
    standard_of,
    tile_pattern,
)

GIB = 1 << 30
A100, H100, L40S, SN40L, EPYC = (
    load_hardware(name).main_memory for name in ("a100-sxm-40gb", "h100-sxm", "l40s", "sambanova-sn40l", "epyc-9654-2s"))


def test_channels_that_a_profile_names_share_its_peak():
    """3.352 TB/s on 160 pseudo-channels, to the picosecond: 32 bytes of HBM3 take 1527 ps."""
    standard, channels = standard_of(H100)
    assert channels == 160
    burst_ps = standard.burst_cycles * standard.clock_period_ps
    assert burst_ps == pytest.approx(32 / (3.352e12 / 160) * 1e12, abs=standard.burst_cycles / 2)
    assert standard.name == f"HBM3 at {standard.clock_period_ps} ps"


def test_a_profile_without_channels_has_as_many_as_its_family_needs_for_the_peak():
    """SN40L: 1.6 TB/s of HBM3 at 25.6 GB/s a pseudo-channel are 62.5, of which 62 are a little faster each."""
    standard, channels = standard_of(SN40L)
    assert channels == 62
    assert channels * standard.peak_bandwidth_bytes_per_s == pytest.approx(1.6e12, rel=0.002)
    slow, one = standard_of(replace(SN40L, bandwidth_bytes_per_s=1e9))
    assert (one, slow.peak_bandwidth_bytes_per_s) == (1, pytest.approx(1e9, rel=1e-4))


def test_a_family_keeps_its_nanoseconds_at_a_profiles_clock():
    standard, _ = standard_of(H100)
    base = standard_named("HBM3_6400")
    for name in ("rcd_read_cycles", "rp_cycles", "faw_cycles", "rfc_cycles"):
        delay_ps = getattr(standard, name) * standard.clock_period_ps
        least_ps = getattr(base, name) * base.clock_period_ps
        assert least_ps <= delay_ps + 1e-6 < least_ps + standard.clock_period_ps + 1e-3


@pytest.mark.parametrize("level", [load_hardware("groq-lpu").main_memory, replace(H100, dram=None),
                                   replace(H100, bandwidth_bytes_per_s=None)])
def test_a_level_that_names_no_dram_or_no_peak_loses_nothing(level):
    assert standard_of(level) is None
    scattered = Pattern(streams=64, run_bytes=32, stride_bytes=8192, footprint_bytes=GIB)
    assert pattern_rate(level, scattered) == PatternRate(fraction=1.0, row_hit_fraction=1.0)


def requests_by_hand(pattern, channels, burst_bytes, channel_bytes):
    """Bursts without end: turn by turn, reader by reader, block by block, those of the first one's channel."""
    golden = (5**0.5 - 1) / 2
    interleave = ChannelInterleave(channels=channels, granularity_bytes=1024)
    wanted = None
    for turn in count():
        for reader in range(pattern.streams):
            group, neighbour = divmod(reader, pattern.neighbours)
            start = int((group * golden) % 1.0 * pattern.footprint_bytes)
            start = start - start % 1024 + neighbour * pattern.run_bytes + turn * pattern.stride_bytes
            for block in range(0, max(pattern.run_bytes - 1023, 1), 1024):
                channel, within = (int(value) for value in interleave.split(np.array(start + block)))
                wanted = channel if wanted is None else wanted
                if channel == wanted:
                    for burst in range(0, min(1024, max(pattern.run_bytes, 1)), burst_bytes):
                        yield ((within - within % burst_bytes) + burst) % channel_bytes


@pytest.mark.parametrize(("channels", "burst_bytes", "pattern"), [
    (1, 32, Pattern(streams=3, run_bytes=2048, stride_bytes=4096, footprint_bytes=1 << 20)),
    (5, 32, Pattern(streams=8, run_bytes=4096, stride_bytes=4096, footprint_bytes=1 << 22)),
    (4, 64, Pattern(streams=7, run_bytes=1024, stride_bytes=8192, footprint_bytes=1 << 24, neighbours=4)),
    (8, 64, Pattern(streams=16, run_bytes=256, stride_bytes=2048, footprint_bytes=1 << 22, neighbours=8)),
    (3, 64, Pattern(streams=4, run_bytes=32, stride_bytes=96, footprint_bytes=1 << 16)),
    (2, 32, Pattern(streams=2, run_bytes=512, stride_bytes=512, footprint_bytes=1 << 20, neighbours=2)),
])
def test_a_channel_gets_the_bursts_that_plain_loops_send_there(channels, burst_bytes, pattern):
    channel_bytes = 1 << 21  # small, so that addresses wrap
    found = channel_requests(pattern, channels, burst_bytes, channel_bytes).tolist()
    assert found == list(islice(requests_by_hand(pattern, channels, burst_bytes, channel_bytes), len(found)))


def test_the_runs_of_two_readers_alternate():
    """One channel, runs of two 64-byte bursts, 256 bytes apart; the second reader starts at 0.618 of 1 MiB: block 632."""
    pattern = Pattern(streams=2, run_bytes=128, stride_bytes=256, footprint_bytes=1 << 20)
    found = channel_requests(pattern, 1, 64, GIB)[:8].tolist()
    other = 632 * 1024
    assert found == [0, 64, other, other + 64, 256, 320, other + 256, other + 320]


def test_neighbours_start_side_by_side():
    pattern = Pattern(streams=3, run_bytes=64, stride_bytes=4096, footprint_bytes=1 << 20, neighbours=2)
    assert channel_requests(pattern, 1, 64, GIB)[:5].tolist() == [0, 64, 632 * 1024, 4096, 4160]


@pytest.mark.parametrize(("channels", "streams", "run_bytes"), [
    (1, 5, 1024), (4, 6, 4096), (16, 100, 16384), (16, 1, 2048), (1, 7, 256), (4, 300, 32)])
def test_a_channel_is_replayed_for_about_as_many_bursts_as_asked_for(channels, streams, run_bytes):
    """Whole turns of all readers; hashing deals their blocks to channels nearly evenly."""
    pattern = Pattern(streams=streams, run_bytes=run_bytes, stride_bytes=run_bytes, footprint_bytes=GIB)
    turn = streams * run_bytes / 32 / channels
    found = len(channel_requests(pattern, channels, 32, GIB, about=6000))
    assert 6000 * 0.93 <= found <= (6000 + turn) * 1.07
    if channels == 1:
        assert 6000 <= found < 6000 + turn


def test_no_more_than_twice_the_sample_is_replayed():
    """All of 2048 readers' runs of 32 KiB are one turn: 2 million bursts."""
    pattern = Pattern(streams=2048, run_bytes=32768, stride_bytes=32768, footprint_bytes=GIB)
    assert len(channel_requests(pattern, 1, 32, GIB, about=6000)) == 12000


def rate_by_hand(level, pattern, about=24_000):
    standard, channels = standard_of(level)
    config = DramConfig(standard=standard, mapping="bg128x")
    requests = channel_requests(pattern, channels, standard.burst_bytes, config.capacity_bytes, about=about)
    scattered = replay_requests(config, requests)
    stream = replay_requests(config, np.arange(0, len(requests) * standard.burst_bytes, standard.burst_bytes))
    return scattered.bandwidth_bytes_per_s / stream.bandwidth_bytes_per_s, scattered.row_hits / len(requests)


@pytest.mark.parametrize(("level", "pattern"), [
    (L40S, Pattern(streams=64, run_bytes=256, stride_bytes=4096, footprint_bytes=GIB)),
    (SN40L, Pattern(streams=128, run_bytes=16384, stride_bytes=16384, footprint_bytes=GIB)),
    (EPYC, Pattern(streams=8, run_bytes=32, stride_bytes=4096, footprint_bytes=GIB)),  # half a burst
])
def test_a_rate_is_that_of_the_channel_over_that_of_one_long_stream(level, pattern):
    found = pattern_rate(level, pattern)
    fraction, hits = rate_by_hand(level, pattern)
    assert found.fraction == pytest.approx(min(fraction, 1), rel=1e-12)
    assert found.row_hit_fraction == pytest.approx(hits, rel=1e-12)


@pytest.mark.parametrize("level", [A100, L40S, SN40L], ids=["HBM2e", "GDDR6", "HBM3"])
@pytest.mark.parametrize("pattern", [
    Pattern(streams=256, run_bytes=128, stride_bytes=8192, footprint_bytes=GIB, neighbours=64),  # 64 heads of a token
    Pattern(streams=32, run_bytes=1024, stride_bytes=8192, footprint_bytes=GIB, neighbours=8),
    Pattern(streams=256, run_bytes=4096, stride_bytes=4096, footprint_bytes=GIB),
    Pattern(streams=16, run_bytes=16384, stride_bytes=16384, footprint_bytes=GIB),
])
def test_a_sample_four_times_as_long_would_say_the_same_within_four_percent(level, pattern):
    """GDDR6 loses rows for longer than any other before its readers have fallen into step: 15 % after 6000 bursts."""
    assert pattern_rate(level, pattern).fraction == pytest.approx(min(rate_by_hand(level, pattern, 96_000)[0], 1), rel=0.04)


def test_a_long_stream_loses_nothing_and_scattered_bursts_most():
    stream = pattern_rate(L40S, Pattern(streams=1, run_bytes=1 << 20, stride_bytes=1 << 20, footprint_bytes=GIB))
    tiles = pattern_rate(L40S, Pattern(streams=256, run_bytes=16384, stride_bytes=16384, footprint_bytes=GIB))
    bursts = pattern_rate(L40S, Pattern(streams=1 << 17, run_bytes=32, stride_bytes=8192, footprint_bytes=16 * GIB))
    assert 0.99 <= stream.fraction <= 1.0
    assert stream.row_hit_fraction > 0.95
    assert 0.8 < tiles.fraction < stream.fraction
    assert bursts.fraction < 0.5
    assert bursts.row_hit_fraction < 0.1


def test_no_pattern_is_faster_than_a_stream():
    """Whose refreshes and turns of the bus may fall better for a pattern: the fraction is then one."""
    rates = [pattern_rate(A100, Pattern(streams=streams, run_bytes=run, stride_bytes=stride, footprint_bytes=GIB)).fraction
             for streams, run, stride in ((1, 1024, 1024), (64, 64, 64), (3, 64, 512), (3, 256, 2048))]
    assert max(rates) == 1.0


def tiles(**changed):
    """64 heads of 128 bf16 elements, keys and values apart: 256 bytes a token and part."""
    parameters = {"streams": 64, "bytes_per_token": 512.0, "parts": 2, "tile_tokens": 64, "page_tokens": 1, "neighbours": 1,
               "stride_tokens": 1.0, "footprint_bytes": 3.0 * GIB}
    return tile_pattern(**parameters | changed)


def test_a_contiguous_cache_is_read_in_runs_of_a_tile():
    """64 tokens of 256 bytes; the footprint counts as its power of two."""
    assert tiles() == Pattern(streams=128, run_bytes=16384, stride_bytes=16384, footprint_bytes=2 * GIB)


@pytest.mark.parametrize(("page_tokens", "run_bytes"), [(16, 4096), (64, 16384), (256, 16384), (2, 512)])
def test_a_run_ends_with_its_page(page_tokens, run_bytes):
    assert tiles(page_tokens=page_tokens) == tiles(tile_tokens=run_bytes // 256)


def test_heads_that_lie_side_by_side_are_read_a_token_at_a_time():
    """The next token of a head is as far away as all its neighbours are long."""
    assert tiles(neighbours=8) == Pattern(
        streams=128, run_bytes=256, stride_bytes=2048, footprint_bytes=2 * GIB, neighbours=8)
    assert tiles(neighbours=8, stride_tokens=3.6).stride_bytes == 4 * 8 * 256


def test_there_are_no_more_neighbours_than_readers():
    assert tiles(streams=4, neighbours=32).neighbours == 8


@pytest.mark.parametrize(("stride_tokens", "run_bytes", "stride_bytes"), [
    (1.0, 16384, 16384), (1.9, 16384, 16384), (2.0, 256, 512), (7.4, 256, 7 * 256)])
def test_kept_tokens_lie_alone_from_every_other_one_on(stride_tokens, run_bytes, stride_bytes):
    """Nearer ones leave gaps that a run reads over."""
    found = tiles(stride_tokens=stride_tokens)
    assert (found.run_bytes, found.stride_bytes) == (run_bytes, stride_bytes)


def test_latents_are_one_array_and_their_runs_powers_of_two():
    """64 tokens of 576 bf16 elements, 73 728 bytes, count as 65 536."""
    found = tiles(bytes_per_token=1152.0, parts=1)
    assert (found.streams, found.run_bytes) == (64, 65536)


def test_no_run_is_shorter_than_the_shortest_burst_and_no_footprint_than_a_run():
    found = tiles(bytes_per_token=20.0, tile_tokens=1, footprint_bytes=1.0)
    assert (found.run_bytes, found.stride_bytes, found.footprint_bytes) == (32, 32, 32)
    assert tiles(bytes_per_token=94.0, tile_tokens=1).run_bytes == 32  # 47 bytes
    assert tiles(stride_tokens=0.2, neighbours=2).stride_bytes == 512


def test_a_dram_type_without_a_timing_set_of_its_own_borrows_its_familys():
    level = replace(L40S, dram=DramGeometry(type="GDDR7", channels=24))
    assert standard_of(level)[0].family == standard_named("GDDR6_14000").family
