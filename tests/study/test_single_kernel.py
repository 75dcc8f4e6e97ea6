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


def test_a_kernel_has_bounds_that_widen_with_what_is_unknown(cli):
    """Calibrated kernels are known better than a neighbour's or a data sheet's; MHA beside itself is certain."""
    run = cli("attention", "-H", "h100-sxm,h200-sxm,apple-m5-max", "--n-kv-heads", "64,8", "--batch", "32", "--format", "json")
    records = json.loads(run.stdout)
    assert all(one["time_s_low_90"] <= one["time_s_low_50"] <= one["time_s_high_50"] <= one["time_s_high_90"] for one in records)
    widths = [one["time_s_high_90"] / one["time_s_low_90"] for one in records[1::2]]
    assert widths[0] < min(widths[1:])
    assert all(one["speedup_vs_mha_low_90"] == 1.0 == one["speedup_vs_mha_likely"] for one in records[::2])
