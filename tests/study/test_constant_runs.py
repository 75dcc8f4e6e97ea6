"""Ways of computing many points at once that must not change a figure: stretches, the search for a fit, look-ups."""

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.step.placement import place
from simkit.step.sharding import MANY_POINTS, shard_heads
from simkit.study import constant_runs
from simkit.study.evaluate import Question, engine_named, evaluate_group
from simkit.study.fit import candidates, fit_chips
from simkit.study.scenario import parse_scenario

BATCH = np.repeat([1.0, 7.0, 64.0], 4096)
KV_LEN = np.tile(np.arange(1, 4097) * 37.0, 3)
Q_LEN = np.where(np.arange(len(KV_LEN)) % 5000 < 4000, 1.0, 4.0)


@pytest.mark.parametrize("chips", ["fit", "fit-each", 8])
@pytest.mark.parametrize(("chip", "model"), [("h100-sxm", "llama-2-70b"), ("sambanova-sn40l", "gemma-2-9b"),
                                             ("groq-lpu", "deepseek-v2-lite"), ("dmatrix-corsair", "llama-2-70b")])
def test_numbers_in_place_of_equal_arrays_give_the_same_bits(chip, model, chips) -> None:
    options = {"rivals": ["mha", "gqa-2", "mqa"], "batch": BATCH, "kv_len": KV_LEN, "q_len": Q_LEN, "chips": chips,
               "tp": None, "pp": None, "engine": "roofline", "baseline": True, "scenario": parse_scenario()}
    hardware, shape = load_hardware(chip), load_model(model)
    for layout in ("mha", "mqa"):
        whole = evaluate_group(hardware, shape, layout, **options).columns
        pieces = constant_runs.group_columns(hardware, shape, layout, **options)
        assert list(whole) == list(pieces)
        for name, column in whole.items():
            np.testing.assert_array_equal(pieces[name], column, err_msg=name)


def test_long_stretches_are_taken_and_every_point_once(monkeypatch) -> None:
    seen = []
    answered = constant_runs.answered
    monkeypatch.setattr(constant_runs, "answered", lambda question, *rest, **options: (
        seen.append((np.ndim(question.batch), question.shape[0])), answered(question, *rest, **options))[1])
    constant_runs.group_columns(load_hardware("h100-sxm"), load_model("llama-2-70b"), "gqa-8", rivals=["gqa-8"], batch=BATCH,
                            kv_len=KV_LEN, q_len=np.ones(len(KV_LEN)), chips=8, tp=None, pp=None, engine="roofline",
                            baseline=True, scenario=parse_scenario())
    assert seen == [(0, 4096)] * 3


@pytest.mark.parametrize("chip", ["h100-sxm", "sambanova-sn40l", "groq-lpu", "tpu-v5e"])
def test_fit_takes_the_first_number_of_chips_on_which_every_layout_fits(chip) -> None:
    # By trying every number of chips from the fewest up, which the search must not need.
    hardware, model = load_hardware(chip), load_model("llama-2-70b")
    random = np.random.default_rng(7)
    batch, kv_len = np.floor(2.0 ** random.uniform(0, 10, 60)), np.floor(2.0 ** random.uniform(4, 17, 60))
    question = Question(hardware=hardware, model=model, scenario=parse_scenario(), batch=batch, kv_len=kv_len,
                        q_len=np.ones(60), engine=engine_named("roofline"))
    needs = [question.need(parse_layout(name, model)) for name in ("mqa", "mha", "gqa-8")]
    options = candidates(hardware, model.n_q_heads, model.n_layers)

    def first(point: int, *, overflow: bool) -> int | None:
        return next((chips for chips, tp, pp in options if all(
            np.broadcast_to(place(need(tp, pp), hardware, overflow=overflow).fits, 60)[point] for need in needs)), None)

    found = fit_chips(hardware, needs, (60,), model.n_q_heads, model.n_layers)
    for point in range(60):
        expected = first(point, overflow=False) or first(point, overflow=True) or options[-1][0]
        assert found.chips[point] == expected


def test_a_look_up_of_widths_gives_what_each_width_gives() -> None:
    ways = np.resize([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], MANY_POINTS + 7)
    for n_kv_heads in (64, 8, 6, 1):
        many = shard_heads(64, n_kv_heads, ways, static=False)
        for index in range(7):
            one = shard_heads(64, n_kv_heads, ways[index], static=False)
            assert (many.q_per_chip[index], many.kv_per_chip[index], many.copies[index]) == (
                one.q_per_chip, one.kv_per_chip, one.copies)
