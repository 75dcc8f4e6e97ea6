"""A plan is the cheapest of everything that could be played, and what it recommends is what serving shows."""

import itertools
import json
import math
import shlex
from dataclasses import replace
from functools import partial

import pytest
from matplotlib.text import Text

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.report.drawing.style import house_style
from simkit.report.figures.plan_front import draw_front
from simkit.serving import state as at
from simkit.serving.apart import serve_apart
from simkit.serving.ask import Load, PrefillPool
from simkit.serving.fewest import fewest_replicas
from simkit.serving.front import front
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.plan import Question, plan, replicas_of, ways_of
from simkit.serving.plan_apart import plan_apart
from simkit.serving.plan_record import plan_records
from simkit.serving.serve import Policy, build_server, serve
from simkit.serving.steady import Lengths, steady


def question(rate=20.0, lengths="512/100", ttft=0.5, tpot=0.02, share=0.9, requests=600, clients=0, **words):
    def more(count):
        return generate(parse_lengths(lengths), requests_per_s=rate, gap_cv=1.0, requests=count, seed=0)

    return Question(
        model=load_model("llama-3.1-8b"), load=Load(stream=more(requests), own_requests_per_s=rate, more=more),
        policy=Policy(slo_ttft_s=ttft, slo_tpot_s=tpot, most_running=256, clients=clients), page_tokens=16,
        requests_per_s=rate, attainment_fraction=share, requests=requests, **{"chips": (1, 2, 4), **words})


def answer(asked, chip="l40s", layout="gqa-8"):
    (found,) = plan(asked, [load_hardware(chip)], [layout], ["bf16"])
    return found


@pytest.mark.parametrize(("chip", "layout", "words"), [
    ("l40s", "gqa-8", {"chips": (2, 3, 4)}),
    ("l40s", "mha", {"rate": 8.0, "lengths": "lognormal:800:1/120", "tpot": 0.03, "share": 0.95}),
    ("gaudi2", "mqa", {"rate": 90.0, "ttft": 0.2, "share": 0.6, "lengths": "lognormal:512:1/100", "chips": (1, 3, 6)}),
])
def test_a_plan_is_what_playing_everything_finds(chip, layout, words):
    asked = question(**words)
    cheapest = math.inf
    for replica in replicas_of(asked, load_hardware(chip), layout, "bf16"):
        try:
            server = build_server(replica, asked.policy)
        except UserError:
            continue  # no room
        chips = int(replica.machine.chips)
        for count in range(1, 40 // chips + 1):
            if serve(server, asked.stream, replicas=count).record["slo_attainment"] >= asked.attainment_fraction:
                cheapest = min(cheapest, count * chips)
                break
    assert answer(asked, chip, layout).chips == cheapest < 40


def test_a_pair_of_pools_is_the_cheapest_of_all_pairs_that_could_be_played():
    asked = question(rate=12.0, lengths="2048/60", ttft=0.6, tpot=0.035, share=0.95, chips=(1,), requests=100)
    chip, other = load_hardware("l40s"), load_hardware("gaudi2")
    pool = PrefillPool(hardware=other, chips=1, replicas=None, link="50GB/s,5us")
    (found,) = plan(asked, [chip], ["mha"], ["bf16"], apart=[partial(plan_apart, pool=pool)])[1:]
    (way,), _ = ways_of(asked, chip, "mha", "bf16", at.DECODE_ONLY)
    apart = pool.beside(way.replica, asked.policy)
    met = [decode * chip.power.tdp_w + prompts * other.power.tdp_w for decode, prompts in itertools.product((3, 4, 5, 6), (1, 2))
           if serve_apart(replace(apart, replicas=prompts), way.server, asked.stream,
                          replicas=decode).record["slo_attainment"] >= asked.attainment_fraction]
    record = plan_records(asked, [found])[0]
    assert record["power_limit_w"] == min(met)
    assert record["slo_attainment"] >= asked.attainment_fraction
    assert record["chips"] > record["prefill_chips"]


def test_no_stream_beats_the_steady_state_that_its_mean_rate_asks_for():
    asked = question()
    for replica in itertools.islice(replicas_of(asked, load_hardware("l40s"), "gqa-8", "bf16"), 3):
        state = steady(replica, asked.policy, asked.lengths)
        served = serve(build_server(replica, replace(asked.policy)), asked.load.at(float(state.requests_per_s[-8])))
        # A median request at the steady state's rate is as fast as it says, within what arrives unevenly.
        assert served.record["tpot_p50_s"] == pytest.approx(float(state.tpot_s[-8]), rel=0.25)
        assert served.record["ttft_p50_s"] > 0.95 * float(state.ttft_s[0])
    assert Lengths.of(asked.stream, 0.9).context_tokens == pytest.approx(562)


def test_a_looser_objective_never_costs_more_and_more_load_never_takes_fewer_chips():
    by_pace = [answer(question(tpot=tpot)).chips for tpot in (0.015, 0.02, 0.03, 0.08)]
    assert by_pace == sorted(by_pace, reverse=True)
    assert len(set(by_pace)) > 1
    by_rate = [answer(question(rate=rate)).chips for rate in (5.0, 20.0, 60.0)]
    assert by_rate == sorted(by_rate)
    assert by_rate[0] < by_rate[-1]


def test_one_replica_fewer_misses_and_users_share_replicas_evenly():
    found = answer(question(clients=60, tpot=0.02))
    again = fewest_replicas(found.way.server, question(clients=60).stream, attainment_fraction=0.9)
    assert again.replicas == found.found.replicas > 1
    assert found.found.missed.lost
    assert found.found.served.record["max_batch"] <= -(-60 // found.found.replicas)


def test_what_nothing_meets_says_which_bound_and_by_how_much():
    found = answer(question(tpot=0.0001))
    assert found.chips is None
    fastest = min(float(way.state.tpot_s[0]) for way in found.ways)
    assert f"TPOT of one request alone is {fastest / 0.0001:.3g} times its bound" in found.fails
    assert "no room for a KV cache" in answer(question(chips=(1,)), "groq-lpu").fails


def test_a_front_trades_the_pace_of_a_user_for_the_tokens_of_a_chip():
    asked = question(ttft=math.inf, tpot=0.05)
    points = front(asked, answer(asked))
    user, chip = ([point[name] for point in points] for name in ("tokens_per_s_per_user", "tokens_per_s_per_chip"))
    assert len(points) > 2
    assert user == sorted(user, reverse=True)
    assert chip == sorted(chip)


PLAN = ("plan", "-H", "l40s,gaudi2", "-M", "llama-3.1-8b", "-A", "gqa-8", "--rate", "20", "--lengths", "512/100", "--chips",
        "1,2", "--slo-ttft", "500ms", "--slo-tpot", "0.02", "--requests", "400")


def test_the_command_that_a_plan_prints_serves_as_it_says(cli):
    rows = json.loads(cli(*PLAN, "--against", "mha", "--format", "json").stdout)
    assert len(rows) == 4
    shown = [line.split()[1:] for line in cli(*PLAN).stdout.splitlines() if line.startswith("simkit serve")]
    assert len(shown) == 2
    assert [shlex.split(row["command"])[1:] for row in rows if row["attention"] == "gqa-8"] == shown
    for words in shown:
        (served,) = json.loads(cli(*words, "--format", "json").stdout)
        (row,) = [one for one in rows if one["hardware"] == served["hardware"] and one["attention"] == "gqa-8"]
        assert served["slo_attainment"] == row["slo_attainment"] >= 0.9
        assert (served["tp"], served["pp"], served["tpot_p99_s"]) == (row["tp"], row["pp"], row["tpot_p99_s"])
        assert row["chips_saved_ratio"] == row["chips_against"] / row["chips"] >= 1
    gaudi = next(row for row in rows if row["hardware"] == "gaudi2")
    assert gaudi["cost_usd_per_mtok"] is None
    assert gaudi["power_limit_w"] > 0
    assert "no rental price, planned by chips and power: gaudi2" in cli(*PLAN).stdout
    fit = json.loads(cli(*shown[0][:shown[0].index("--replicas")], "--replicas", "fit",
                         *shown[0][shown[0].index("--replicas") + 2:], "--format", "json").stdout)
    assert fit[0]["replicas"] == next(row["replicas"] for row in rows if row["hardware"] == fit[0]["hardware"])


@pytest.mark.parametrize(("words", "message"), [
    (("--slo-ttft", "1 parsec"), "--slo-ttft: unknown unit 'parsec'"),
    (("--rate", "1,2"), "--rate: a plan is for one rate"),
    (("--tp", "3"), "--tp 3 does not divide"),
    (("--budget-chips", "1", "--rate", "200"), "times the budget of 1"),
    (("--budget-rent", "1 USD/h", "-H", "gaudi2"), "$/h is unknown: no budget can be held"),
])
def test_a_refusal_says_what_and_by_how_much(words, message, cli):
    result = cli(*PLAN, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_plan_needs_an_objective_and_requests(cli):
    assert "a plan needs an objective" in cli("plan", "-M", "llama-3.1-8b", "--rate", "1").stderr
    assert "give --trace FILE, --rate R or --users N" in cli("plan", "-M", "llama-3.1-8b", "--slo-tpot", "1s").stderr


def test_the_figure_of_a_front_is_drawn_and_no_text_leaves_it(cli, tmp_path):
    assert cli(*PLAN, "-o", "front.png").exit_code == 0
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    # Its axis once ran out of the page; three chips under two layouts have the longest labels.
    points = [{"hardware": chip, "ffn_hardware": "groq-3-lpu" if chip == "h100-sxm" else None, "attention": layout,
               "kv_dtype": "bf16", "assumed": "", "tokens_per_s_per_user": 10.0 * step,
               "tokens_per_s_per_chip": 900.0 / step * (1 + place), "cost_usd_per_mtok": 0.2 * step * (1 + place)}
              for place, chip in enumerate(("sambanova-sn40l", "h100-sxm", "mi300x")) for layout in ("gqa-8", "mha")
              for step in (1, 2, 5, 9)]
    with house_style():
        figure = draw_front(question(), points)
        figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for text in figure.findobj(Text):
        box = text.get_window_extent(renderer)
        if text.get_visible() and text.get_text().strip() and box.width:
            assert box.x0 > -2, text
            assert box.x1 < figure.bbox.x1 + 2, text
