"""A step's operators on their way through the replay engine: one point at a time, once each, and what merely streams."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.replay import engine
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.operators import AttentionTask, Operator
from simkit.step.placement import Placement
from simkit.study.scenario import parse_scenario
from simkit.timing.single_points import profiles_of_points, scalar_operator, scalar_placement, shape_of
from simkit.timing.step_timing import TimedOperator
from tests.replay.cases import attention_operator, in_home, with_level


def step_of(batch=(4.0, 8.0), kv_len=(1024.0, 2048.0), layout="gqa-8", **scenario):
    model, chip = load_model("llama-2-70b"), load_hardware("h100-sxm")
    return build_step(parse_scenario(**scenario).workload(
        chip, model, parse_layout(layout, model), batch=np.array(batch), kv_len=np.array(kv_len), q_len=np.array([1.0]), machine=Machine(chips=1.0, tp=1.0, pp=1.0)))


def arrays_in(record):
    return [name for name in record.__slots__ if isinstance(getattr(record, name), np.ndarray)]


def test_a_point_of_an_operator_is_the_operator_of_that_point_alone():
    """Every parameter that may be an array, those of the cache's order in memory too."""
    for scenario in ({}, {"eviction": "h2o:64+64"}, {"cache_order": "token-major"}, {"attention_kernel": "per-query-head"}):
        both = step_of(**scenario).attention_operators[0]
        assert arrays_in(both)
        for place, (batch, kv_len) in enumerate(((4.0, 1024.0), (8.0, 2048.0))):
            alone = step_of((batch,), (kv_len,), **scenario).attention_operators[0]
            one, expected = scalar_operator(both, place, (2,)), scalar_operator(alone, 0, (1,))
            assert one == expected
            assert hash(one) == hash(expected)
            assert not arrays_in(one)
            assert not arrays_in(one.attention)


def test_a_point_of_what_has_no_arrays_is_the_same():
    operator = attention_operator("gqa-8", 1, 64)
    assert scalar_operator(operator, 0, (3,)) is operator
    chip = load_hardware("h100-sxm")
    assert all(one is chip for one in profiles_of_points(chip, (2, 3)))
    assert len(profiles_of_points(chip, (2, 3))) == 6


def test_each_point_has_its_own_figures_of_a_varied_profile():
    chip = load_hardware("h100-sxm")
    varied = with_level(chip, "hbm", bandwidth_bytes_per_s=np.array([[1e12], [2e12]]))
    found = profiles_of_points(varied, (2, 3))
    assert [one.level("hbm").bandwidth_bytes_per_s for one in found] == [1e12] * 3 + [2e12] * 3
    assert all(one.compute is chip.compute for one in found)


def test_a_placement_s_shares_are_those_of_the_point():
    both = Placement(weights={"hbm": np.array([1.0, 0.5])}, kv={"hbm": 0.25, "ddr": np.array([0.75, 0.5])}, fits=True, max_batch=0)
    assert scalar_placement(both, 1, (2,)).kv == {"hbm": 0.25, "ddr": 0.5}
    assert scalar_placement(both, 1, (2,)).weights == {"hbm": 0.5}


def test_points_are_as_many_as_all_arrays_make_together():
    step, chip = step_of((4.0, 8.0), ((1024.0,), (2048.0,), (4096.0,))), load_hardware("h100-sxm")
    assert shape_of(step, in_home("hbm"), chip) == (3, 2)
    shares = Placement(weights={"hbm": 1.0}, kv={"hbm": np.ones((5, 1, 1))}, fits=True, max_batch=0)
    assert shape_of(step, shares, chip) == (5, 3, 2)
    varied = with_level(chip, "hbm", bandwidth_bytes_per_s=np.ones((7, 1, 1)))
    assert shape_of(step, in_home("hbm"), varied) == (7, 3, 2)


def test_an_append_is_followed_by_the_attention_that_reads_it():
    """Layers with a window of their own append and read by themselves."""
    step = build_step(parse_scenario().workload(
        load_hardware("h100-sxm"), load_model("gemma-2-9b"), parse_layout("as-trained", load_model("gemma-2-9b")),
        batch=np.array([4.0]), kv_len=np.array([8192.0]), q_len=np.array([1.0]), machine=Machine(chips=1.0, tp=1.0, pp=1.0)))
    appends = [one for one in step.layer_operators if one.name == "kv_append"]
    readers = engine._readers(step)
    assert len(appends) == len(step.attention_operators) == 2
    assert [readers[id(one)] for one in appends] == list(step.attention_operators)
    assert len({id(one) for one in readers.values()}) == 2


# --- what streams


def streamed(operator, chip="h100-sxm", home="hbm"):
    return engine.streamed(operator, in_home(home), load_hardware(chip) if isinstance(chip, str) else chip)


def test_a_stream_takes_its_launch_the_first_latency_and_its_highest_roof():
    """1 GB of weights from HBM at what it reaches, its latency, one launch; two launches are one more."""
    chip = load_hardware("h100-sxm")
    hbm, launch_s = chip.level("hbm"), chip.overheads.kernel_launch_s
    found = streamed(Operator(name="gemm", count=1, weight_bytes=1e9))
    waited = hbm.latency_s + launch_s
    assert found.total_s == pytest.approx(1e9 / hbm.achievable_bytes_per_s + waited, rel=1e-12)
    assert found.cause_s["latency"] == pytest.approx(waited, rel=1e-12)
    assert found.cause_s["hbm"] == pytest.approx(1e9 / hbm.achievable_bytes_per_s, rel=1e-12)
    assert found.level_bytes["hbm"] == 1e9
    twice = streamed(Operator(name="gemm", count=1, weight_bytes=1e9, launches=2))
    assert twice.total_s - found.total_s == pytest.approx(launch_s, rel=1e-9)


def test_a_stream_s_time_has_one_cause_besides_latency_even_where_two_roofs_are_as_high():
    for operator in (Operator(name="gemm", count=1, weight_bytes=1e9, matrix_flops=1e9),
                     Operator(name="gemm", count=1, weight_bytes=1e3, matrix_flops=1e15),
                     Operator(name="softmax", count=1, exponentials=1e12)):
        found = streamed(operator)
        highest = {name: float(seconds) for name, seconds in found.cause_s.items() if name != "latency" and seconds > 0}
        assert len(highest) == 1
        assert float(found.total_s) == pytest.approx(sum(float(seconds) for seconds in found.cause_s.values()), rel=1e-12)
    chip = load_hardware("h100-sxm")
    hbm = chip.level("hbm")
    alike = with_level(chip, "l2", bandwidth_bytes_per_s=hbm.bandwidth_bytes_per_s, achievable_fraction=hbm.achievable_fraction)
    found = streamed(Operator(name="gemm", count=1, weight_bytes=1e9), alike)
    assert found.cause_s["l2"] + found.cause_s["hbm"] == pytest.approx(1e9 / hbm.achievable_bytes_per_s, rel=1e-12)
    nothing = streamed(Operator(name="nothing", count=1))
    assert nothing.total_s == load_hardware("h100-sxm").overheads.kernel_launch_s  # and no byte to wait for


def test_the_latency_is_that_of_the_farthest_level_that_is_read():
    chip = load_hardware("sambanova-sn40l")
    near, far = (streamed(Operator(name="gemm", count=1, weight_bytes=1e6), chip, home) for home in ("hbm", "ddr"))
    launch_s = chip.overheads.kernel_launch_s
    for found, level in ((near, "hbm"), (far, "ddr")):
        assert found.cause_s["latency"] - launch_s == pytest.approx(chip.level(level).latency_s or 0.0, abs=1e-15)
    untold = with_level(chip, "ddr", latency_s=None)
    assert streamed(Operator(name="gemm", count=1, weight_bytes=1e6), untold, "ddr").cause_s["latency"] == launch_s


# --- each point once


def test_equal_points_of_one_profile_are_replayed_once_and_the_oldest_forgotten_first(monkeypatch):
    made = []
    monkeypatch.setattr(engine, "_REPLAYS", engine.OrderedDict())
    monkeypatch.setattr(engine, "MOST_REMEMBERED", 2)
    monkeypatch.setattr(engine, "replay_attention", lambda operator, *_, **how: made.append((operator, how)) or len(made))
    operator, chip = step_of().attention_operators[0], load_hardware("h100-sxm")

    def point(index, hardware=chip, **how):
        return engine.replay_point(operator, in_home("hbm"), hardware, index, (2,), **how)

    assert [point(0), point(1), point(0), point(1)] == [1, 2, 1, 2]
    assert point(0, start="warm") == 3  # forgets point 0, the oldest
    assert point(1) == 2
    assert point(0) == 4
    assert [how for _, how in made] == [{"start": "cold", "exact": False}] * 2 + [{"start": "warm", "exact": False}, {
        "start": "cold", "exact": False}]
    assert point(0, replace(chip)) == 5  # another profile of equal parameters may be varied tomorrow
    assert point(0, exact=True) == 6
    assert len(engine._REPLAYS) == 2


def test_a_store_is_asked_for_every_point_and_told_how_to_replay_it():
    step, chip = step_of(), load_hardware("h100-sxm")
    asked = []

    def store(operator, placement, hardware, how, replayed):
        asked.append((float(operator.attention.tokens), placement.kv, hardware, how))
        assert replayed().total_s > 0
        return TimedOperator(total_s=7.0, cause_s={"latency": 7.0}, level_bytes={"hbm": 1.0})

    engine.evaluate(step, in_home("hbm"), chip, store=store)
    assert [how for *_, how in asked] == [("cold", False)] * 2
    asked.clear()
    found = engine.evaluate(step, in_home("hbm"), chip, start="warm", exact=True, store=store)
    assert asked == [(tokens, {"hbm": 1.0}, chip, ("warm", True)) for tokens in (1024.0, 2048.0)]
    assert found.operator_time_s["attention"] == pytest.approx(np.full(2, 80 * 7.0))


def test_replayed_levels_and_causes_are_arrays_of_all_points():
    step, chip = step_of(), load_hardware("h100-sxm")
    found = engine.evaluate(step, in_home("hbm"), chip)
    alone = [engine.evaluate(step_of((batch,), (kv_len,)), in_home("hbm"), chip) for batch, kv_len in ((4.0, 1024.0), (8.0, 2048.0))]
    for name, seconds in found.operator_time_s.items():
        assert np.broadcast_to(seconds, (2,)) == pytest.approx([float(np.ravel(one.operator_time_s[name])[0]) for one in alone])
    for name, moved in found.level_bytes.items():
        assert np.broadcast_to(moved, (2,)) == pytest.approx([float(np.ravel(one.level_bytes[name])[0]) for one in alone])


def test_a_cause_that_one_point_does_not_have_took_no_time_there():
    """The first point's cache lies in HBM, the second's in DDR behind it."""
    chip, step = load_hardware("sambanova-sn40l"), step_of()
    where = Placement(weights={"hbm": 1.0}, kv={"hbm": np.array([1.0, 0.0]), "ddr": np.array([0.0, 1.0])}, fits=True, max_batch=0)
    attention = step.attention_operators[0]
    found = engine._replayed(attention, where, [chip, chip], (2,), start="cold", exact=False, store=None)
    assert found.cause_s["ddr"][0] == 0.0 < found.cause_s["ddr"][1]
    assert found.level_bytes["ddr"][0] == 0.0 < found.level_bytes["ddr"][1]
    assert sum(found.cause_s.values()) == pytest.approx(found.total_s, rel=1e-12)


def test_only_attention_has_a_task():
    operator = attention_operator("gqa-8", 1, 64)
    assert isinstance(engine.task_of(operator), AttentionTask)
    with pytest.raises(ValueError, match="norm is not an attention operator"):
        engine.task_of(replace(operator, name="norm", attention=None))
