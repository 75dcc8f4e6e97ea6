"""One replayed attention kernel, cold and warm, through the command that people use."""

import json

import pytest


def times(cli, *options):
    found = cli("attention", "-H", "l40s", "--n-kv-heads", "8", "--format", "json", "--engine", "replay", *options)
    assert found.exit_code == 0, found.output
    return [record["time_s"] for record in json.loads(found.output)]


def test_a_cache_larger_than_the_reads_serves_a_warm_kernel(cli):
    """L40S: 96 MB of L2 before 864 GB/s of GDDR6; 4 sequences x 1024 tokens of GQA-8 are 17 MB."""
    case = ("--batch", "4", "--kv-len", "1k")
    (cold,), (warm,) = times(cli, *case), times(cli, *case, "--cache", "warm")
    assert warm < 0.7 * cold


def test_reads_of_many_times_the_cache_are_the_same_warm_and_cold(cli):
    case = ("--batch", "64", "--kv-len", "4k")
    assert times(cli, *case, "--cache", "warm") == pytest.approx(times(cli, *case), rel=1e-6)


def test_what_cannot_start_warm_is_told(cli):
    found = cli("attention", "--cache", "warm")
    assert found.exit_code == 2
    assert "--engine replay" in found.output
    found = cli("attention", "--engine", "replay", "--cache", "lukewarm")
    assert found.exit_code == 2
    assert "expected cold or warm" in found.output
