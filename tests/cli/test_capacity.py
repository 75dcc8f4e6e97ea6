"""``simkit capacity`` and ``simkit stack``: what fits, and what reducers save."""

import json

import pytest


def records_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_largest_batch_fits_and_one_more_does_not(cli):
    for layout in ("mha", "gqa-8"):
        most = records_of(cli("capacity", "-A", layout, "--chips", "8", "--kv-len", "8k", "--format", "json"))[0]["max_batch"]
        points = json.loads(cli("simulate", "-A", layout, "--chips", "8", "--kv-len", "8k", "--batch", f"{most},{most + 1}",
                                "--format", "json").stdout)
        assert [point["fits"] for point in points] == [True, False]


def test_the_longest_context_fits_and_one_token_more_does_not(cli):
    longest = records_of(cli("capacity", "-A", "gqa-8", "--chips", "8", "--batch", "4", "--format", "json"))[0]["max_kv_len"]
    points = json.loads(cli("simulate", "-A", "gqa-8", "--chips", "8", "--batch", "4", "--kv-len", f"{longest},{longest + 1}",
                            "--format", "json").stdout)
    assert [point["fits"] for point in points] == [True, False]


def test_the_longest_context_stops_where_the_model_does_and_a_point_beyond_says_so(cli):
    record = records_of(cli("capacity", "-A", "gqa-8", "--chips", "8", "--batch", "4", "--format", "json"))[0]
    assert record["usable_kv_len"] == 4096 < record["max_kv_len"]
    points = json.loads(cli("simulate", "-A", "gqa-8", "--chips", "8", "--kv-len", "4096,4097", "--format", "json").stdout)
    assert [point["beyond_max_context"] for point in points] == [False, True]
    assert "was made for" in cli("simulate", "-A", "gqa-8", "--chips", "8", "--kv-len", "8k").stdout


def test_mqa_holds_no_more_than_gqa_8_on_eight_chips(cli):
    """Past one chip a KV head the head is replicated (model.md section 2): eight copies of MQA's one head."""
    gqa, mqa = records_of(cli("capacity", "-A", "gqa-8,mqa", "--chips", "8", "--tp", "8", "--attention-sharding", "heads",
                              "--format", "json"))
    assert mqa["kv_copies"] == 8
    assert mqa["max_batch"] == pytest.approx(gqa["max_batch"], abs=1)


def test_a_cache_that_stops_growing_has_no_longest_context(cli):
    record = records_of(cli("capacity", "-A", "mha", "--chips", "8", "--eviction", "streaming:4+1020", "--format", "json"))[0]
    assert record["unlimited_context"] is True
    assert record["max_kv_len"] is None
    assert "unlimited" in cli("capacity", "-A", "mha", "--chips", "8", "--eviction", "streaming:4+1020").stdout


def test_a_chip_that_cannot_hold_the_weights_is_a_warning_beside_one_that_can(cli):
    result = cli("capacity", "-H", "h100-sxm,groq-lpu", "-A", "mqa", "--chips", "8", "--format", "json")
    assert {record["hardware"] for record in records_of(result)} == {"h100-sxm"}
    assert "groq-lpu" in result.stderr
    assert cli("capacity", "-H", "groq-lpu", "--chips", "8").exit_code == 2


def test_reducers_multiply_in_bytes_as_their_formats_say(cli):
    """Bits of an element: 16, 8 and 4.5 (int4, fp16 scale and zero point for 64 elements); 64 heads to 8."""
    saved = [record["cache_saved"] for record in records_of(
        cli("stack", "mha", "gqa-8", "kv=fp8", "kv=int4", "--kv-len", "4k", "--format", "json"))]
    assert saved == pytest.approx([1, 8, 16, 8 * 16 / 4.5])


def test_every_rung_runs_on_the_same_chips_and_no_step_gains_more_than_its_bytes(cli):
    records = records_of(cli("stack", "mha", "gqa-8", "kv=fp8", "--kv-len", "4k", "--format", "json"))
    assert len({record["chips"] for record in records}) == 1
    for record in records:
        assert record["step_speedup"] <= record["cache_saved"] * (1 + 1e-9)


def test_an_unknown_reducer_is_refused_with_the_known_ones(cli):
    result = cli("stack", "mha", "kb=fp8")
    assert result.exit_code == 2
    assert "unknown reducer 'kb=fp8'" in result.stderr
    assert "kv" in result.stderr


def test_simulate_takes_the_same_scenario(cli):
    """StreamingLLM keeps sinks and a window: beyond it the cache does not grow (arXiv 2309.17453)."""
    records = records_of(cli("simulate", "-A", "mha", "--kv-len", "4k,64k", "--eviction", "streaming:4+1020", "--format", "json"))
    assert records[0]["kv_cache_bytes"] == records[1]["kv_cache_bytes"] == 10737418240 // 4


@pytest.mark.parametrize(("arguments", "message"), [
    (["--eviction", "streaming"], "eviction"), (["--page", "0"], "--page"), (["--lengths", "weird"], "length"),
    (["--attention-kernel", "grupped"], "grouped"), (["--speculation", "draft=gone"], ""),
    (["--page", "16", "--reserve", "4096"], "reserve"),
])
def test_a_wrong_scenario_is_told_in_one_or_two_lines(cli, arguments, message):
    result = cli("simulate", *arguments)
    assert result.exit_code == 2
    assert 1 <= len(result.stderr.splitlines()) <= 2
    assert message in result.stderr
