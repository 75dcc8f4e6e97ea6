"""Banks of an SRAM: accesses of one cycle that meet in a bank wait, as on the shared memory of every GPU since Fermi."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.hardware.catalog import load_hardware
from simkit.hardware.devices import SramBanks
from simkit.replay.sram_banks import access_cycles, bank_fraction, word_numbers
from tests.replay.cases import replay, with_level

FLAT = load_hardware("generic-sram-asic")
SCRATCHPAD = SramBanks(count=32, width_bytes=4)  # CUDA C++ Programming Guide, shared memory: 32 banks of 32 bits


def fraction(banks=SCRATCHPAD, **layout):
    return bank_fraction(replace(FLAT.main_memory, banks=banks), **layout)


@pytest.mark.parametrize("token_bytes", [64, 128, 256, 512])
def test_contiguous_vectors_meet_no_bank_twice(token_bytes):
    assert fraction(token_bytes=token_bytes, row_bytes=token_bytes) == 1.0


@pytest.mark.parametrize(("word_stride", "ways"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 32)])
def test_a_power_of_two_stride_of_words_is_as_many_ways_of_conflict(word_stride, ways):
    """The guide's rule: stride s words on 32 banks is a gcd(s, 32)-way conflict."""
    assert fraction(token_bytes=4, row_bytes=4 * word_stride) == pytest.approx(1 / ways)


@pytest.mark.parametrize("word_stride", [3, 5, 17, 31, 33, 65])
def test_an_odd_stride_has_the_full_rate(word_stride):
    assert fraction(token_bytes=4, row_bytes=4 * word_stride) == 1.0


def test_a_vector_as_long_as_an_access_may_lie_anywhere():
    """All its words are neighbours: heads of 64 bf16 elements fill 32 banks of 4 bytes however far apart they are."""
    assert fraction(token_bytes=128, row_bytes=8 * 128) == 1.0


def test_vectors_of_half_an_access_meet_in_pairs_unless_rows_are_padded():
    assert fraction(token_bytes=64, row_bytes=8 * 64) == pytest.approx(0.5)
    assert fraction(token_bytes=64, row_bytes=8 * 64 + 64) == 1.0


@pytest.mark.parametrize(("token_bytes", "row_bytes", "stride_tokens", "first_words"), [
    (8, 8, 1.0, [0, 1, 2, 3, 4, 5]),
    (6, 10, 1.0, [0, 1, 2, 3, 5, 6, 7, 8]),  # bytes 0-5, 10-15, 20-25 and 30-35
    (6, 6, 1.0, [0, 1, 2, 3, 4]),  # bytes 4-7 hold the end of one vector and the beginning of the next
    (2, 2, 1.0, [0, 1, 2, 3]),  # two vectors a word
    (4, 8, 1.5, [0, 2, 6, 8, 12]),  # tokens 0, 1, 3, 4, 6
    (5, 16, 1.0, [0, 1, 4, 5, 8, 9]),  # the fifth byte takes a word of its own
])
def test_vectors_lie_in_words_of_four_bytes(token_bytes, row_bytes, stride_tokens, first_words):
    found = word_numbers(token_bytes, row_bytes, stride_tokens, 4).tolist()
    assert found[:len(first_words)] == first_words


def test_every_vector_of_the_sample_is_read():
    assert word_numbers(10, 10, 1.0, 5).tolist() == list(range(2 * 512))
    assert word_numbers(8, 8, 1.25, 8)[-1] == int(511 * 1.25)


@pytest.mark.parametrize(("words", "cycles"), [
    ([0, 1, 2, 3], 1), ([0, 4, 1, 2], 2), ([0, 4, 8, 12], 4), ([0, 4, 1, 2, 3], 2 + 1), ([0, 1, 2, 3, 4, 8], 1 + 2),
    ([7, 3, 3 + 8, 0, 5, 9, 13, 2], 3 + 3)])
def test_an_access_of_four_words_takes_as_long_as_its_fullest_of_four_banks(words, cycles):
    assert access_cycles(np.array(words), SramBanks(count=4, width_bytes=8)) == cycles


def fraction_by_hand(banks, token_bytes, row_bytes, stride_tokens):
    """512 vectors, byte by byte and access by access."""
    words = []
    for token in range(512):
        start = int(token * stride_tokens) * row_bytes
        for byte in range(start, start + token_bytes):
            if not words or words[-1] != byte // banks.width_bytes:
                words.append(byte // banks.width_bytes)
    cycles = 0
    for first in range(0, len(words), banks.count):
        access = [word % banks.count for word in words[first : first + banks.count]]
        cycles += max(access.count(bank) for bank in access)
    return 512 * token_bytes / (banks.count * banks.width_bytes) / cycles


@pytest.mark.parametrize("seed", range(12))
def test_the_fraction_is_that_of_bytes_dealt_out_one_by_one(seed):
    rng = np.random.default_rng(seed)
    banks = SramBanks(count=int(rng.integers(1, 40)), width_bytes=int(rng.choice([1, 4, 8, 16])))
    token_bytes, heads, stride_tokens = int(rng.integers(4, 80)), int(rng.integers(1, 9)), float(rng.choice([1.0, 1.5, 2.75]))
    found = fraction(banks, token_bytes=token_bytes, row_bytes=token_bytes * heads, stride_tokens=stride_tokens)
    assert found == pytest.approx(fraction_by_hand(banks, token_bytes, token_bytes * heads, stride_tokens), rel=1e-12)


def test_tokens_are_neighbours_unless_told_otherwise():
    layout = {"token_bytes": 64, "row_bytes": 64}
    assert fraction(**layout) == fraction(**layout, stride_tokens=1.0) != fraction(**layout, stride_tokens=2.0)


@given(
    count=st.integers(1, 128), width=st.sampled_from([1, 2, 4, 8, 16, 32]), token_bytes=st.integers(4, 2048),
    heads=st.integers(1, 16), stride_tokens=st.floats(1.0, 8.0))
def test_never_faster_than_the_peak_nor_slower_than_one_bank_after_the_other(count, width, token_bytes, heads,
                                                                             stride_tokens):
    found = fraction(SramBanks(count=count, width_bytes=width), token_bytes=token_bytes,
                     row_bytes=token_bytes * heads, stride_tokens=stride_tokens)
    words = np.ceil(token_bytes / width) + 1  # a vector that starts inside a word touches one more
    assert token_bytes / (words * width * count) - 1e-12 <= found <= 1.0


def test_a_scheduled_machine_loses_nothing():
    assert fraction(replace(SCRATCHPAD, scheduled=True), token_bytes=4, row_bytes=128) == 1.0


def banked(**parameters):
    return with_level(FLAT, "sram", banks=SramBanks(**parameters) if parameters else None)


def test_the_replay_pays_for_conflicts_of_the_layout_that_it_reads():
    hardware = banked(count=64, width_bytes=8)  # an access is 512 bytes, a vector of a head 256
    contiguous = replay(hardware, batch=32, kv_len=4096)
    side_by_side = replay(hardware, batch=32, kv_len=4096, cache_order="token-major")
    flat = replay(FLAT, batch=32, kv_len=4096, cache_order="token-major")
    assert contiguous.home_rate_fraction == 1.0
    assert side_by_side.home_rate_fraction == pytest.approx(0.5)
    waits_s = side_by_side.stall_s["sram"] - flat.stall_s["sram"]
    assert side_by_side.total_s - flat.total_s == pytest.approx(waits_s, rel=0.05)
    assert side_by_side.total_s > 1.5 * flat.total_s
    assert side_by_side.level_bytes == flat.level_bytes


@pytest.mark.parametrize("order", ["head-major", "token-major"])
def test_profiles_without_banks_and_scheduled_ones_are_what_they_were(order):
    flat = replay(FLAT, batch=32, kv_len=4096, cache_order=order)
    scheduled = replay(banked(count=64, width_bytes=8, scheduled=True), batch=32, kv_len=4096, cache_order=order)
    assert scheduled.total_s == flat.total_s


def test_a_machine_with_one_compiled_program_loses_nothing():
    groq = load_hardware("groq-lpu")
    plain = replay(groq, home="sram", static=True, cache_order="token-major")
    with_banks = replay(with_level(groq, "sram", banks=SramBanks(count=64, width_bytes=8)), home="sram", static=True,
                        cache_order="token-major")
    assert with_banks.total_s == plain.total_s
