"""Ways of computing many points at once that must not change a figure: stretches, the search for a fit, look-ups."""

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.step.machine import Machine
from simkit.step.placement import place
from simkit.step.sharding import ATTENTION_SHARDINGS, MANY_POINTS, shard_heads
from simkit.study import machine_search, point
from simkit.study.engines import engine_named
from simkit.study.evaluate import Points, evaluate_group
from simkit.study.machine_search import EVERY_POINT, candidates
from simkit.study.scenario import parse_scenario

RUN = 600  # more than MANY_POINTS
BATCH = np.repeat([1.0, 7.0, 64.0], RUN)
KV_LEN = np.tile(np.arange(1, RUN + 1) * 251.0, 3)
Q_LEN = np.where(np.arange(len(KV_LEN)) % 730 < 580, 1.0, 4.0)


@pytest.fixture(autouse=True)
def _runs_are_long_sooner(monkeypatch) -> None:
    monkeypatch.setattr(point, "LONG_RUN", RUN - 50)


def points_of(chip, model, batch=BATCH, kv_len=KV_LEN, q_len=Q_LEN, assume=None):
    return Points(hardware=load_hardware(chip, assume=assume), model=load_model(model), scenario=parse_scenario(), batch=batch,
                  kv_len=kv_len, q_len=q_len, engine=engine_named("roofline"))


@pytest.mark.parametrize("chips", ["fit", "fit-each", 8])
@pytest.mark.parametrize(("chip", "model"), [("h100-sxm", "llama-2-70b"), ("sambanova-sn40l", "gemma-2-9b"),
                                             ("groq-lpu", "deepseek-v2-lite")])
def test_numbers_in_place_of_equal_arrays_give_the_same_bits(chip, model, chips) -> None:
    options = {"rivals": ["mha", "gqa-2", "mqa"], "chips": chips, "baseline": True}
    # Ranges of assumed parameters take most of the time: once for each chip is enough.
    points = points_of(chip, model, assume=None if chips == 8 else "ideal")
    for layout in ("mha", "mqa"):
        whole = evaluate_group(points.hardware, points.model, layout, batch=BATCH, kv_len=KV_LEN, q_len=Q_LEN,
                               **options).columns
        pieces = point.group_columns(points, layout, **options)
        assert list(whole) == list(pieces)
        for name, column in whole.items():
            np.testing.assert_array_equal(pieces[name], column, err_msg=name)


@pytest.mark.parametrize("chips", ["fit", "fit-each", 8])
@pytest.mark.parametrize("chip", ["h100-sxm", "sambanova-sn40l", "groq-lpu", "tpu-v5e"])
def test_a_single_point_is_the_point_of_many(chip, chips) -> None:
    options = {"rivals": ["mha", "gqa-8", "mqa"], "chips": chips, "baseline": True}
    batch, kv_len, q_len = np.array([1.0, 32.0, 500.0]), np.array([100.0, 4096.0, 131072.0]), np.array([1.0, 4.0, 1.0])
    for layout in ("mha", "gqa-8", "mqa"):
        many = point.group_columns(points_of(chip, "llama-2-70b", batch, kv_len, q_len), layout, **options)
        for index in range(3):
            at = slice(index, index + 1)
            one = point.group_columns(points_of(chip, "llama-2-70b", batch[at], kv_len[at], q_len[at]), layout,
                                              **options)
            for name, column in one.items():
                if column.dtype.kind in "Ob":
                    assert column[0] == many[name][index], name
                else:
                    # Which parameters a ratio's range combines is decided by all points that are asked at once.
                    rtol = 1e-3 if "speedup" in name and name.endswith(("_low", "_high")) else 1e-12
                    np.testing.assert_allclose(column[0], many[name][index], rtol=rtol, err_msg=name)


def test_long_runs_are_taken_and_every_point_once(monkeypatch) -> None:
    seen = []
    on_machine = point.on_machine
    monkeypatch.setattr(point, "on_machine", lambda points, *rest, **options: (
        seen.append((np.ndim(points.batch), points.shape[0])), on_machine(points, *rest, **options))[1])
    point.group_columns(points_of("h100-sxm", "llama-2-70b", q_len=np.ones(len(KV_LEN))), "gqa-8",
                                rivals=["gqa-8"], chips=8, baseline=True)
    assert seen == [(0, RUN)] * 3


@pytest.mark.parametrize("chip", ["h100-sxm", "sambanova-sn40l", "groq-lpu", "tpu-v5e"])
@pytest.mark.parametrize("few", [0, 10**9])
def test_fit_takes_the_first_number_of_chips_on_which_every_layout_fits(chip, few, monkeypatch) -> None:
    # By trying every number of chips from the fewest up, which the search must not need.
    random = np.random.default_rng(7)
    batch, kv_len = np.floor(2.0 ** random.uniform(0, 10, 12)), np.floor(2.0 ** random.uniform(4, 17, 12))
    points = points_of(chip, "llama-2-70b", batch, kv_len, np.ones(12))
    hardware, model = points.hardware, points.model
    needs = [points.need(parse_layout(name, model)) for name in ("mqa", "mha", "gqa-8")]
    options = candidates(hardware, model.n_q_heads, model.n_layers)

    def first(point: int, *, overflow: bool) -> int | None:
        def holds(need, **machine) -> bool:
            return any(np.broadcast_to(place(need.demand(Machine(**machine, mapping=mapping), EVERY_POINT), hardware,
                                             overflow=overflow).fits, 12)[point] for mapping in ATTENTION_SHARDINGS)

        return next((chips for chips, tp, pp in options
                     if all(holds(need, chips=chips, tp=tp, pp=pp) for need in needs)), None)

    # A few points try all machines at once, many are parted by the middle one.
    monkeypatch.setattr(machine_search, "FEW", few)
    found = machine_search.fit_chips(hardware, needs, (12,), model.n_q_heads, model.n_layers)
    for number in range(12):
        expected = first(number, overflow=False) or first(number, overflow=True) or options[-1][0]
        assert found.chips[number] == expected


def test_a_look_up_of_widths_gives_what_each_width_gives() -> None:
    ways = np.resize([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], MANY_POINTS + 7)
    for n_kv_heads in (64, 8, 6, 1):
        many = shard_heads(64, n_kv_heads, ways, static=False)
        for index in range(7):
            one = shard_heads(64, n_kv_heads, ways[index], static=False)
            assert (many.q_per_chip[index], many.kv_per_chip[index], many.copies[index]) == (
                one.q_per_chip, one.kv_per_chip, one.copies)
