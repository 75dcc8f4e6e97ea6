"""The trace that simkit writes is what Perfetto and chrome://tracing read: Google's Trace Event Format, array form."""

import json
from collections import defaultdict
from itertools import pairwise

import pytest

from simkit.study.step_timeline import KERNEL_PROCESS, MOST_TRACKS, STEP_PROCESS

# Required members by phase, from the "Trace Event Format" document: complete events, counters, metadata.
MEMBERS = {"X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}, "C": {"name", "ph", "ts", "pid", "tid", "args"},
           "M": {"name", "ph", "pid", "tid", "args"}}


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    from click.testing import CliRunner

    from simkit.commands.main import main

    path = tmp_path_factory.mktemp("trace") / "trace.json"
    found = CliRunner().invoke(main, ["trace", "-H", "h100-sxm", "-A", "gqa-8", "--batch", "16", "--kv-len", "2k",
                                      "--lengths", "lognormal:0.8", "-o", str(path)], catch_exceptions=False)
    assert found.exit_code == 0
    assert "ui.perfetto.dev" in found.output
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def events(trace, phase, process=None):
    return [event for event in trace["traceEvents"] if event["ph"] == phase and process in (None, event["pid"])]


def test_every_event_has_the_members_of_its_phase_and_no_others(trace):
    for event in trace["traceEvents"]:
        assert set(event) == MEMBERS[event["ph"]]
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)


def test_times_are_microseconds_from_zero_in_order(trace):
    timed = [event for event in trace["traceEvents"] if event["ph"] != "M"]
    assert all(event["ts"] >= 0 for event in timed)
    assert all(event["dur"] >= 0 for event in events(trace, "X"))
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    names = [place for place, event in enumerate(trace["traceEvents"]) if event["ph"] == "M"]
    assert names == list(range(len(names)))


@pytest.mark.parametrize("nanoseconds", [lambda us: int(us * 1000), lambda us: round(us * 1000)])
def test_slices_of_a_track_never_overlap_in_whole_nanoseconds_where_perfetto_drops_them(trace, nanoseconds):
    """Its trace processor counts in nanoseconds and dropped a slice that began within the last one of its neighbour."""
    tracks = defaultdict(list)
    for event in events(trace, "X"):
        start = nanoseconds(event["ts"])
        tracks[event["pid"], event["tid"]].append((start, start + nanoseconds(event["dur"])))
    for slices in tracks.values():
        slices.sort()
        for (_, end), (start, _) in pairwise(slices):
            assert start >= end


def test_every_track_is_named_and_their_number_is_bounded_and_told(trace):
    used = {event["tid"] for event in events(trace, "X", KERNEL_PROCESS)}
    named = {event["tid"]: event["args"]["name"] for event in events(trace, "M", KERNEL_PROCESS)
             if event["name"] == "thread_name"}
    assert used <= set(named)
    assert 0 < len(used) <= MOST_TRACKS
    assert trace["otherData"]["tracks_left_out"] > 0
    title = next(e["args"]["name"] for e in events(trace, "M", KERNEL_PROCESS) if e["name"] == "process_name")
    assert "of 132 SM" in title
    assert named[1] == "SM 0, slot 0"


def test_counters_integrate_to_the_bytes_that_the_kernel_reads(trace):
    levels = defaultdict(list)
    for event in events(trace, "C"):
        (rate,) = event["args"].values()
        levels[event["name"]].append((event["ts"], rate))
    assert set(levels) == {"smem [GB/s]", "l2 [GB/s]", "hbm [GB/s]"}
    series = levels["hbm [GB/s]"]
    moved = sum(rate * 1e9 * (after - at) * 1e-6 for (at, rate), (after, _) in pairwise(series))
    reads = next(e for e in events(trace, "X", STEP_PROCESS) if e["name"] == "attention")["args"]["kv_read_bytes"]
    assert moved == pytest.approx(reads, rel=1e-6)


def test_work_items_lie_inside_the_attention_operator_and_hold_all_tokens(trace):
    attention = next(e for e in events(trace, "X", STEP_PROCESS) if e["name"] == "attention")
    items = events(trace, "X", KERNEL_PROCESS)
    assert min(e["ts"] for e in items) >= attention["ts"]  # a nanosecond is what a time is rounded to
    assert max(e["ts"] + e["dur"] for e in items) <= attention["ts"] + attention["dur"] + 1e-3
    assert trace["otherData"]["work_items"] >= trace["otherData"]["work_items_recorded"] > len(items) > 0
    assert all(e["args"]["tokens"] > 0 for e in items)


def test_a_trace_shows_one_point(cli):
    found = cli("trace", "-A", "mha,mqa", "-o", "trace.json")
    assert found.exit_code == 2
    assert "a timeline shows one point" in found.output


def test_on_tiles_the_phases_of_attention_fill_its_time_and_the_step_is_the_replay_s():
    from simkit.hardware.catalog import load_hardware
    from simkit.model.catalog import load_model
    from simkit.study.evaluate import evaluate_group
    from simkit.study.step_timeline import trace_step

    found = evaluate_group(load_hardware("graphcore-mk2"), load_model("llama-3-8b"), "gqa-8", rivals=["gqa-8"], batch=[1],
                           kv_len=[4096], q_len=[1], baseline=False, engine="replay")
    made = trace_step(found)
    assert made["otherData"]["step_time_s"] == pytest.approx(float(found.timing.step_time_s[0]), rel=1e-12)
    attention = next(event for event in made["traceEvents"] if event["name"] == "attention")
    phases = events(made, "X", KERNEL_PROCESS)
    assert {"maximum and sum", "outputs summed"} < {phase["name"] for phase in phases}
    assert sum(phase["dur"] for phase in phases) == pytest.approx(attention["dur"], abs=0.01)
    assert phases[0]["ts"] == pytest.approx(attention["ts"])
