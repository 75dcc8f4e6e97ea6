"""Request patterns: what the reference's description says of each, and the same trace from the same seed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.replay.dram.patterns import PATTERNS, Trace, bursts_of_chunks, generate
from simkit.replay.dram.simulate import DramChannel, DramConfig
from simkit.replay.dram.standards import standard_named

CONFIG = DramConfig(standard=standard_named("HBM3_6400"))
PARAMETER = {"evict_gather_row64": 0.1, "evict_gather_row256": 0.1, "mixed_seq": 16.0, "mixed_rand256": 16.0,
             "streams_conflict_gtx": 8.0}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_seed_gives_the_same_trace_of_about_the_asked_length(pattern):
    parameter = PARAMETER.get(pattern, 64.0)
    first, second = (generate(pattern, CONFIG, requests=20_000, parameter=parameter, seed=9) for _ in range(2))
    assert np.array_equal(first.address_bytes, second.address_bytes)
    assert first.address_bytes.size == pytest.approx(20_000, rel=0.05)
    assert first.address_bytes.min() >= 0
    assert first.address_bytes.max() < CONFIG.capacity_bytes
    assert np.all(first.address_bytes % CONFIG.standard.burst_bytes == 0)
    assert first.useful_bytes <= first.address_bytes.size * CONFIG.standard.burst_bytes


def test_an_unaligned_chunk_touches_one_burst_more():
    assert bursts_of_chunks(np.array([16, 64]), 64, 32).tolist() == [0, 32, 64, 64, 96]
    assert bursts_of_chunks(np.array([16, 16 + 64]), 16, 32).tolist() == [0, 64]
    assert bursts_of_chunks(np.array([16, 16 + 64]), 17, 32).tolist() == [0, 32, 64, 96]


def test_chunks_smaller_than_a_burst_count_only_their_own_bytes():
    config = DramConfig(standard=standard_named("DDR5_4800"))
    trace = generate("chunk_aligned", config, requests=1000, parameter=32.0, seed=1)
    assert trace.useful_bytes == 1000 * 32
    assert trace.address_bytes.size == 1000


def test_conflict_streams_start_in_one_bank_and_different_rows():
    trace = generate("streams_conflict_gtx", CONFIG, requests=6400, parameter=16.0, seed=1)
    bank, row = DramChannel(CONFIG).bank_and_row(trace.address_bytes[:16])
    assert np.unique(bank).size == 1
    assert np.array_equal(np.sort(row), np.arange(16))


def test_spread_streams_start_in_different_banks():
    trace = generate("streams_spread_gtx", CONFIG, requests=6400, parameter=32.0, seed=1)
    bank, _ = DramChannel(CONFIG).bank_and_row(trace.address_bytes[:32])
    assert np.unique(bank).size == 32


def test_one_write_follows_n_reads_in_the_other_half_of_the_memory():
    trace = generate("mixed_rand256", CONFIG, requests=13_600, parameter=16.0, seed=1)
    assert trace.is_write is not None
    assert trace.is_write.mean() == pytest.approx(1 / 17)
    half = CONFIG.capacity_bytes // 2
    assert np.array_equal(trace.address_bytes >= half, trace.is_write == 1)


class LoadedDice:
    """Stands in for the random numbers: always the lowest or always the highest place, and the tokens that are kept."""

    def __init__(self, *, highest: bool = False, kept: tuple[int, ...] = ()) -> None:
        self.highest, self.kept = highest, kept

    def integers(self, low: int, high: int, size: int | tuple[int, ...]) -> np.ndarray:
        return np.full(size, high - 1 if self.highest else low, np.int64)

    def random(self, size: int) -> np.ndarray:
        """Exactly the share asked for is not kept: a share of none keeps none."""
        drawn = np.full(size, 0.25)
        drawn[list(self.kept)] = 0.24
        return drawn


def thrown(pattern: str, requests: int, parameter: float, *, config: DramConfig = CONFIG, highest: bool = False,
           kept: tuple[int, ...] = ()) -> Trace:
    return PATTERNS[pattern](config, requests, parameter, LoadedDice(highest=highest, kept=kept))


MEMORY = 32 * 16_384 * 1024  # HBM3: 32 banks of 16 384 rows of 1 KB behind one data bus


@pytest.mark.parametrize("pattern", ["sequential", "mlp_sequential"])
def test_a_sequential_pattern_reads_burst_after_burst(pattern):
    trace = generate(pattern, CONFIG, requests=4, parameter=0.0, seed=1)
    assert trace.address_bytes.tolist() == [0, 32, 64, 96]
    assert trace.is_write is None
    assert trace.useful_bytes == 128


@pytest.mark.parametrize(("pattern", "chunk", "alignment", "bursts"), [
    ("chunk_aligned", 64, 64, 2), ("random_gather", 128, 128, 4), ("chunk_aligned", 32, 32, 1),
    ("chunk_rowaligned", 64, 1024, 2), ("chunk_rowaligned", 2048, 2048, 64), ("mlp_random_tx", 32, 32, 1),
    ("mlp_chunk256", 256, 256, 8),
])
def test_chunks_lie_anywhere_on_their_grid_up_to_the_end_of_the_memory(pattern, chunk, alignment, bursts):
    """The highest place is the last multiple of the alignment whose chunk is still inside."""
    first = thrown(pattern, 2 * bursts, chunk)
    assert first.address_bytes.tolist() == list(range(0, chunk, 32)) * 2
    assert first.useful_bytes == 2 * chunk
    last = thrown(pattern, bursts, chunk, highest=True).address_bytes
    assert last.tolist() == list(range(MEMORY - alignment, MEMORY - alignment + chunk, 32))


def test_unaligned_chunks_start_on_16_bytes_and_touch_half_a_burst_more_on_average():
    """64 B from an even or odd multiple of 16 touch 2 or 3 bursts: 10 bursts are 4 chunks."""
    trace = thrown("chunk_unaligned", 10, 64)
    assert trace.address_bytes.tolist() == [0, 32] * 4
    assert trace.useful_bytes == 4 * 64
    assert thrown("chunk_unaligned", 2, 48, highest=True).address_bytes.tolist() == [MEMORY - 64, MEMORY - 32]


def test_a_chunk_of_part_of_a_burst_costs_a_burst():
    """DDR5: 16 B on rows of 4 KB, or unaligned in HBM3: 10 bursts are 10 chunks, and one request is at least one chunk."""
    ddr5 = DramConfig(standard=standard_named("DDR5_4800"))
    assert thrown("chunk_rowaligned", 10, 16, config=ddr5).useful_bytes == 160
    assert thrown("chunk_unaligned", 10, 8).useful_bytes == 80
    assert thrown("chunk_aligned", 1, 4096).useful_bytes == 4096
    assert thrown("mlp_random_tx", 3, 0, config=ddr5).useful_bytes == 3 * 64


def test_streams_take_turns_of_one_burst_each_going_on_where_it_was():
    """bg128: stream s starts in bank group s % 4 (address bit 7) and row s (bit 15)."""
    start = [0, 0x8080, 0x1_0100]
    trace = thrown("streams_spread_gtx", 9, 3)
    assert trace.address_bytes.tolist() == [base + turn * 32 for turn in range(3) for base in start]
    assert trace.useful_bytes == 9 * 32
    assert trace.is_write is None


def test_streams_of_256_byte_turns_read_eight_bursts_at_a_time():
    """48 bursts are two turns of 256 B for three streams; a stream in row s of one bank begins at s x 32 KB."""
    start = [0, 1 << 15, 2 << 15]
    trace = thrown("streams_conflict_g256", 55, 3)
    assert trace.address_bytes.tolist() == [base + turn * 256 + burst * 32 for turn in range(2) for base in start
                                            for burst in range(8)]


def test_spread_streams_go_through_groups_then_banks_then_stacks_and_begin_again():
    """Stream s: group s % 4, bank s // 4 % 4 (address bit 12), stack s // 16 (bit 14), row s; 33 is again in group 1, bank 0."""
    trace = thrown("streams_spread_gtx", 34, 34)
    stream = {number: int(trace.address_bytes[number]) for number in (1, 4, 7, 16, 31, 33)}
    row = 1 << 15
    assert stream == {1: row + 128, 4: 4 * row + 4096, 7: 7 * row + 4096 + 3 * 128, 16: 16 * row + 16_384,
                      31: 31 * row + 16_384 + 3 * 4096 + 3 * 128, 33: 33 * row + 128}


@pytest.mark.parametrize("bases", ["conflict", "spread"])
def test_more_streams_than_rows_share_rows(bases):
    """A memory of 4 rows a bank: stream 5 starts in row 1, of bank 0 or of the second bank of group 1."""
    small = DramConfig(standard=replace(CONFIG.standard, rows=4))
    trace = thrown(f"streams_{bases}_gtx", 6, 6, config=small)
    assert trace.address_bytes[5] == (1 << 15) + (0 if bases == "conflict" else 4096 + 128)


def test_random_streams_start_on_4_kb_and_wrap_at_the_end_of_the_memory():
    low, high = (thrown("streams_random_g256", 17 * 8, 1, highest=highest).address_bytes for highest in (False, True))
    assert low.tolist() == list(range(0, 17 * 256, 32))
    assert high.tolist() == list(range(MEMORY - 4096, MEMORY, 32)) + list(range(0, 256, 32))


def test_more_streams_than_requests_read_one_turn_each():
    assert thrown("streams_conflict_gtx", 2, 5).address_bytes.size == 5


@pytest.mark.parametrize(("pattern", "reads"), [("mixed_seq", [0, 256, 512, 768]), ("mixed_rand256", [0, 0, 0, 0])])
def test_mixed_traffic_writes_256_bytes_of_the_upper_half_after_so_many_reads(pattern, reads):
    """Two reads a write in bursts of 32 B: 24 bursts a group, so 50 requests are two groups."""
    trace = thrown(pattern, 50, 2)
    half = MEMORY // 2
    chunks = [reads[0], reads[1], half, reads[2], reads[3], half]
    assert trace.address_bytes.tolist() == [base + burst * 32 for base in chunks for burst in range(8)]
    assert trace.is_write is not None
    assert trace.is_write.tolist() == ([0] * 16 + [1] * 8) * 2
    assert trace.useful_bytes == 48 * 32


def test_mixed_traffic_reaches_the_end_of_either_half():
    trace = thrown("mixed_rand256", 1, 1, highest=True)
    half = MEMORY // 2
    assert trace.address_bytes.tolist() == [*range(half - 256, half, 32), *range(MEMORY - 256, MEMORY, 32)]


def test_mixed_sequential_reads_begin_again_at_the_end_of_their_half():
    """One row a bank: 32 KB, of which reads have 16 KB or 64 chunks; the 65th is the first again."""
    small = DramConfig(standard=replace(CONFIG.standard, rows=1))
    reads = thrown("mixed_seq", 1, 65, config=small).address_bytes[: 65 * 8]
    assert reads[-16:].tolist() == [*range(16_384 - 256, 16_384, 32), *range(0, 256, 32)]


@pytest.mark.parametrize(("pattern", "token"), [("evict_gather_row64", 64), ("evict_gather_row256", 256)])
def test_what_eviction_kept_is_read_in_order_region_after_region(pattern, token):
    """A quarter of 4096 tokens is 1024 of them, token / 32 bursts each: the requests of two regions and a bit."""
    requests = 1024 * token // 32 * 2 + 9
    region = 4096 * token
    for highest, base in ((False, 0), (True, MEMORY - region)):
        trace = thrown(pattern, requests, 0.25, highest=highest, kept=(0, 5, 4095))
        of_a_region = [base + kept * token + burst for kept in (0, 5, 4095) for burst in range(0, token, 32)]
        assert trace.address_bytes.tolist() == of_a_region * 2
        assert trace.useful_bytes == 6 * token


def test_a_token_smaller_than_a_burst_costs_a_burst_and_the_least_is_one_region():
    """Bursts of 128 B: 1024 tokens kept of 64 B are 1024 bursts; one request still reads a region."""
    wide = DramConfig(standard=replace(CONFIG.standard, burst_bytes=128))
    assert thrown("evict_gather_row64", 3 * 1024, 0.25, config=wide, kept=(7,)).useful_bytes == 3 * 64
    assert thrown("evict_gather_row64", 1, 0.25, kept=(7,)).useful_bytes == 64


@pytest.mark.parametrize(("pattern", "least", "most"), [
    ("chunk_aligned", 1.0, 1e8), ("random_gather", 1.0, 1e8), ("streams_spread_gtx", 1.0, 65_536.0),
    ("mixed_seq", 1.0, 65_536.0), ("evict_gather_row256", 0.001, 1.0), ("sequential", 0.0, math.inf),
])
def test_a_parameter_beyond_what_its_pattern_can_mean_is_refused(pattern, least, most):
    for parameter in (least, min(most, 1e4)):
        generate(pattern, CONFIG, requests=1, parameter=parameter, seed=1)
    for parameter in (least / 2 - 1e-9, most * 1.001):
        if not math.isinf(parameter):
            with pytest.raises(UserError, match=f"of {pattern}: expected {least:g} to {most:,.0f}"):
                generate(pattern, CONFIG, requests=1, parameter=parameter, seed=1)


def test_an_unknown_pattern_names_the_nearest():
    with pytest.raises(UserError, match="unknown request pattern 'sequentiel'; did you mean 'sequential'"):
        generate("sequentiel", CONFIG, requests=10, parameter=0.0, seed=1)


def test_a_region_of_which_no_token_is_kept_is_not_read():
    found = generate("evict_gather_row64", CONFIG, requests=8, parameter=0.001, seed=27)
    assert (found.address_bytes.size, found.useful_bytes) == (0, 0)
