"""Which of the ways to run one attention kernel is kept, and the mean of layers whose caches lie in several levels."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.replay import attention, timeline
from simkit.replay.attention import AttentionReplay
from simkit.replay.engine import task_of
from simkit.replay.kernel_plan import plan_kernels
from simkit.replay.target import target_of
from tests.replay.cases import attention_operator, in_home


def result(total_s=1.0, bound_s=0.0, **fields):
    """A replay of nothing but its time."""
    found = AttentionReplay(
        total_s=total_s, stall_s={"latency": total_s}, level_bytes={}, utilisation={}, row_hit_fraction=None,
        home_rate_fraction=1.0, cycles=None, items=1, units=1, splits=1.0, replayed_fraction=1.0,
        extrapolation_bound_s=bound_s, path=(), replayed_s=total_s, binned_bytes=np.zeros((0, 0)),
        events=np.zeros((0, timeline.EVENT_COLUMNS)), event_tokens=np.zeros(0, dtype=np.int64))
    return replace(found, **fields)


def searched(monkeypatch, times, *, chip="mi300x", start="cold", outstanding=32768.0):
    """The search with runs that take ``times(start, fraction of the buffers)``; None is nothing new. And what was asked."""
    hardware = load_hardware(chip)
    target = replace(target_of(hardware, hardware.main_memory.name), outstanding_bytes_per_slot=outstanding)
    operator = attention_operator("gqa-8", 2, 1024)
    asked_for = []

    def runs(buffered, *_, start, **__):
        asked_for.append((start, buffered.load_fraction, buffered.outstanding_bytes_per_slot))
        seconds = times(start, buffered.load_fraction)
        return [] if seconds is None else [result(seconds)]

    monkeypatch.setattr(attention, "_replays_in", runs)
    found = attention._best_of(target, operator, task_of(operator), in_home("hbm"), start, {})
    return found, asked_for


def test_buffers_are_halved_until_a_slot_waits_for_every_load_and_nothing_new_is_found(monkeypatch):
    """32 768 bytes in flight; four tokens of 512 bytes are 2048: 32 768, .. 2048, and below it 1024."""
    found, asked_for = searched(monkeypatch, lambda _start, share: 1.0 if share == 0.25 else 2.0 if share > 0.04 else None)
    assert asked_for == [("cold", 0.5**i, 32768 * 0.5**i) for i in range(6)]
    assert found.total_s == 1.0
    # While shorter buffers still lead to other runs, they are tried.
    _, asked_for = searched(monkeypatch, lambda _start, share: 1.0 if share > 0.01 else None)
    assert [share for _, share, _ in asked_for] == [0.5**i for i in range(8)]


def test_a_warm_kernel_may_run_as_if_it_were_cold(monkeypatch):
    found, asked_for = searched(monkeypatch, lambda start, share: (3.0 if start == "warm" else 2.0) if share == 1 else None,
                                start="warm")
    assert [start for start, _, _ in asked_for[:4]] == ["warm", "cold", "warm", "cold"]
    assert found.total_s == 2.0


def test_a_machine_with_unbounded_buffers_runs_once(monkeypatch):
    _, asked_for = searched(monkeypatch, lambda _start, _share: 1.0, chip="groq-lpu", outstanding=np.inf)
    assert len(asked_for) == 1


def test_the_bound_of_the_fastest_covers_what_another_may_truly_take():
    """2.0 +- 0.1 against 2.2 +- 0.5: the other may take 1.7."""
    found = attention._fastest([result(2.2, 0.5), result(2.0, 0.1), result(3.0, 0.2)])
    assert (found.total_s, found.extrapolation_bound_s) == (2.0, pytest.approx(0.3))
    assert attention._fastest([result(2.2, 0.1), result(2.0, 0.15)]).extrapolation_bound_s == 0.15


def ways(monkeypatch, *, tried=None, replays=(), start="cold", chip="h100-sxm", plans=2, took=(1.0, 1.0), **scenario):
    """Ways to run a kernel with plans of given times: (found, limits that each was given, what plans were asked with)."""
    hardware = load_hardware(chip)
    target = target_of(hardware, hardware.main_memory.name)
    operator = attention_operator("gqa-8", 2, 1024, **scenario)
    some = plan_kernels(operator, task_of(operator), target, parameters=None, hit_share=0.0, alone=False)[0]
    several = [replace(some, granules_in_flight=count + 1) for count in range(plans)]
    limits, how = [], []

    def planned(*_, **given):
        how.append(given)
        return several

    def run(_machine, plan, *_, could_win_s, **__):
        limits.append(could_win_s)
        seconds = took[plan.granules_in_flight - 1]
        return None if seconds is None else result(seconds)

    monkeypatch.setattr(attention, "plan_kernels", planned)
    monkeypatch.setattr(attention, "_replay_plan", run)
    found = attention._replays_in(
        target, operator, task_of(operator), in_home(target.home.name), start=start, replays=list(replays),
        tried=set() if tried is None else tried, alone=False, exact=False, most_events=1, most_recorded_items=0, bins=0)
    return [one.total_s for one in found], limits, how[0]


def test_the_first_choice_runs_unless_clearly_slower_and_the_second_only_to_win_three_percent(monkeypatch):
    found, limits, _ = ways(monkeypatch, took=(2.0, 1.0))
    assert found == [2.0, 1.0]
    assert limits == [float("inf"), pytest.approx(2.0 / 1.03)]
    _, limits, _ = ways(monkeypatch, replays=[result(1.5), result(1.0)], took=(2.0, 1.0))
    assert limits == [pytest.approx(1.02), pytest.approx(1 / 1.03)]
    found, _, _ = ways(monkeypatch, took=(None, 1.0))
    assert found == [1.0]


def test_what_was_tried_is_not_run_again_and_the_rest_is(monkeypatch):
    tried = set()
    ways(monkeypatch, tried=tried, plans=1)
    found, limits, _ = ways(monkeypatch, tried=tried, took=(1.0, 5.0))
    assert (found, len(limits)) == ([5.0], 1)
    found, _, _ = ways(monkeypatch, tried=tried, start="warm", took=(1.0, 5.0))
    assert found == [1.0, 5.0]  # a warm one is another


def test_a_warm_kernel_hits_what_the_effective_part_of_the_cache_holds(monkeypatch):
    """Two sequences of 1024 tokens are 8 MB: all of H100's 50 MB L2 hits, of a hundredth of it nothing."""
    assert ways(monkeypatch)[2]["hit_share"] == 0.0
    assert ways(monkeypatch, start="warm")[2]["hit_share"] == pytest.approx(1.0, abs=1e-5)
    assert ways(monkeypatch, start="warm", chip="mi300x")[2]["parameters"] is None
    seen = []
    monkeypatch.setattr(attention, "cyclic_hit_share", lambda *of: seen.append(of) or 0.5)
    operator = attention_operator("gqa-8", 2, 1024)
    assert ways(monkeypatch, start="warm")[2]["hit_share"] == 0.5
    chip = load_hardware("h100-sxm")
    assert seen[0] == (operator.kv_read_bytes, chip.level("l2"), chip.kernel)
    ways(monkeypatch, start="warm", chip="mi300x")
    assert seen[1][2] is None


def test_the_mean_layer_weighs_times_bytes_and_cycles_and_shows_the_slowest():
    fast = result(1.0, 0.1, stall_s={"latency": 1.0}, level_bytes={"a": 4.0}, utilisation={"a": 0.5}, cycles=10.0, items=3)
    slow = result(3.0, 0.3, stall_s={"latency": 2.0, "b": 1.0}, level_bytes={"b": 8.0}, utilisation={"b": 0.9}, cycles=30.0, items=7)
    found = attention._layer_mean([(0.25, fast), (0.75, slow)])
    assert found.total_s == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert found.stall_s == {"latency": pytest.approx(1.75), "b": pytest.approx(0.75)}
    assert found.level_bytes == {"a": pytest.approx(1.0), "b": pytest.approx(6.0)}
    # Level a is busy for half of 1 s in a quarter of the layers, b for 0.9 of 3 s in the others.
    assert found.utilisation == {"a": pytest.approx(0.25 * 0.5 / 2.5), "b": pytest.approx(0.75 * 2.7 / 2.5)}
    assert found.cycles == pytest.approx(25.0)
    assert found.extrapolation_bound_s == pytest.approx(0.25)
    assert found.items == 7
    assert attention._layer_mean([(0.5, replace(fast, cycles=None)), (0.5, replace(slow, cycles=None))]).cycles is None
