"""Experts: distinct ones, the busiest group and its bytes, against simulated routing."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.architecture import Moe, count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS
from simkit.step.build import build_step, step_totals
from simkit.step.expert_load import ExpertLoad, busiest_group, parse_expert_load
from simkit.step.machine import Machine
from simkit.step.mixture import distinct_experts
from simkit.step.placement import demand
from simkit.step.sharding import busiest_distinct_experts, busiest_expert_share
from simkit.step.workload import DecodeWorkload
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario
from tests.step.machine_words import machine_words

# experts, top k, rows, groups of experts: Mixtral, gpt-oss, Qwen3-MoE, DeepSeek-V2 and V3, and a switch of top 1.
ROUTINGS = [(8, 2, 1, 2), (8, 2, 4, 8), (8, 2, 64, 8), (8, 2, 256, 4), (32, 4, 1, 4), (32, 4, 16, 8), (128, 8, 1, 8),
            (128, 8, 32, 16), (256, 8, 1, 8), (256, 8, 8, 32), (256, 8, 64, 8), (64, 1, 4, 8)]


def routed(experts: int, top_k: int, rows: int) -> np.ndarray:
    """Choices of [trials, rows x top_k]: every row's experts differ and are equally likely."""
    trials = max(100, min(600, int(1e6 / (rows * experts))))
    lottery = np.random.default_rng(experts + rows).random((trials, rows, experts))
    return np.argpartition(lottery, top_k - 1, axis=-1)[..., :top_k].reshape(trials, -1)


@pytest.mark.parametrize(("experts", "top_k", "rows", "groups"), ROUTINGS)
def test_experts_read_and_the_busiest_group_are_those_of_simulated_routing(experts, top_k, rows, groups):
    choices = routed(experts, top_k, rows)
    distinct = [np.unique(trial) for trial in choices]
    # Exact expectation; 1 % is the sampling error of a hundred trials.
    assert distinct_experts(experts, top_k, rows) == pytest.approx(np.mean([len(d) for d in distinct]), rel=0.01)
    held = experts // groups
    busiest_rows = np.mean([np.bincount(trial // held, minlength=groups).max() for trial in choices])
    busiest_read = np.mean([np.bincount(d // held, minlength=groups).max() for d in distinct])
    # Counts are taken as normal: 10 % down to half a row a group. (Below, 8 rows on 32 groups, it is 21 % low.)
    share = busiest_expert_share(rows, top_k, groups, experts)
    assert share * rows * top_k / groups == pytest.approx(busiest_rows, rel=0.1)
    assert busiest_distinct_experts(rows, top_k, experts, groups) == pytest.approx(busiest_read, rel=0.1)


def test_fewer_choices_than_groups_leave_groups_idle():
    choices = routed(256, 8, 1)
    busiest = np.mean([np.bincount(trial // 8, minlength=32).max() for trial in choices])
    assert busiest_distinct_experts(1, 8, 256, 32) == pytest.approx(busiest, rel=0.25)
    assert 1 <= busiest_distinct_experts(1, 2, 8, 8) <= 2


def test_one_group_has_all_rows_and_all_distinct_experts():
    for rows in (1, 7, 1000):
        assert busiest_expert_share(rows, 8, 1, 256) == 1
        assert busiest_distinct_experts(rows, 8, 256, 1) == pytest.approx(float(distinct_experts(256, 8, rows)))


def test_groups_are_evenly_busy_when_rows_are_many():
    assert busiest_expert_share(1e9, 8, 64, 256) == pytest.approx(1, rel=1e-3)
    assert busiest_distinct_experts(1e9, 8, 256, 64) == 4


def mixture(name: str = "mixtral-8x7b", batch: float = 16.0, **split: float) -> DecodeWorkload:
    model = load_model(name)
    layout = parse_layout("as-trained", model)
    return DecodeWorkload(model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=batch, kv_len=512.0, q_len=1.0,
                          kv_format=FORMATS["bf16"], weight_format=FORMATS["bf16"], **machine_words(split))


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "qwen3-235b-a22b", "gpt-oss-120b"])
@pytest.mark.parametrize("batch", [1.0, 64.0])
def test_dealing_experts_to_chips_changes_neither_the_machine_s_work_nor_its_weights(name, batch):
    cut, dealt = (mixture(name, batch, tp=8.0, ep=ep) for ep in (1, 8))
    one, other = step_totals(build_step(cut)), step_totals(build_step(dealt))
    assert other == one
    assert demand(dealt) == demand(cut)


@pytest.mark.parametrize("ep", [2, 4, 8])
def test_the_busiest_chip_of_dealt_experts_works_more_than_the_mean(ep):
    def of(workload: DecodeWorkload, field: str) -> float:
        return float(sum(op.count * getattr(op, field) for op in build_step(workload).operators if "experts" in op.name))

    even, dealt = mixture(tp=8.0), mixture(tp=8.0, ep=ep)
    assert 1 < of(dealt, "matrix_flops") / of(even, "matrix_flops") <= ep
    assert 1 <= of(dealt, "weight_bytes") / of(even, "weight_bytes") <= ep


def test_an_exchange_goes_to_every_chip_that_shares_an_expert():
    # 8 chips, rows x D x 2 bytes each eighth's, k = 2 copies; with experts cut over 8/ep chips, each needs the row. The
    # busiest chip sets the pace, and gets a row once where both of its choices meet there.
    hidden = 16 * 4096 * 2
    for ep, sent in ((8, hidden / 8 * 2), (4, hidden / 8 * 2 * 2), (2, hidden / 8 * 2 * 4)):
        exchanges = [c for c in build_step(mixture(tp=8.0, ep=ep, sharding="data")).collectives if c.kind in ("dispatch", "combine")]
        assert [one.count for one in exchanges] == [32, 32]
        for one in exchanges:
            assert one.bytes == pytest.approx(sent * busiest_expert_share(16, 2, ep, 8))
            assert one.bytes / 2 <= one.merged_bytes <= min(one.bytes, hidden)


def test_experts_of_one_step_grow_with_the_draft_tokens_it_verifies():
    def read(q_len: float) -> float:
        return float(step_totals(build_step(replace(mixture(batch=1.0), q_len=q_len))).weight_bytes)

    # 2 of 8 experts for one row; five rows choose 8 (1 - .75^5) = 6.1 of them.
    experts = 3 * 4096 * 14336 * 32 * 2
    assert (read(5.0) - read(1.0)) / experts == pytest.approx(8 * (1 - 0.75**5) - 2, rel=1e-3)


def test_the_busiest_group_of_four_by_the_formula():
    """100 rows choose 2 of 8 experts: 50 a group, 6/7 of a binomial's variance, the mean maximum of four (Blom 1958)."""
    largest = NormalDist().inv_cdf((4 - 3 / 8) / (4 + 1 / 4))
    assert busiest_expert_share(100, 2, 4, 8) == pytest.approx(1 + largest * np.sqrt(6 / 7 / 50), rel=1e-12)
    chosen = 1 - 0.75**10
    mean = 8 * chosen / 4
    assert busiest_distinct_experts(10, 2, 8, 4) == pytest.approx(min(mean + largest * np.sqrt(mean * (1 - chosen)), 2.0), rel=1e-12)


def test_totals_of_points_with_and_without_dealt_experts_are_those_of_each_alone():
    both = workload_of_experts(ep=np.array([1.0, 2.0]))
    for place, ep in enumerate((1.0, 2.0)):
        alone, together = step_totals(build_step(workload_of_experts(ep=ep))), step_totals(build_step(both))
        assert np.broadcast_to(together.matrix_flops, 2)[place] == pytest.approx(float(alone.matrix_flops), rel=1e-12)
        assert np.broadcast_to(together.weight_bytes, 2)[place] == pytest.approx(float(alone.weight_bytes), rel=1e-12)


def workload_of_experts(ep):
    model = load_model("mixtral-8x7b")
    layout = parse_layout("as-trained", model)
    return DecodeWorkload(model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=5.0, kv_len=100.0, q_len=1.0,
                          kv_format=FORMATS["bf16"], weight_format=FORMATS["bf16"], machine=Machine.split(tp=4.0), ep=ep)


def test_weights_published_in_two_formats_are_read_and_kept_in_them():
    """gpt-oss-120b: experts in MXFP4 of 4.25 bits, the rest in 16 (its model card, section 2)."""
    model = load_model("gpt-oss-120b")
    assert model.weight_dtype == "bf16/mxfp4"
    words = {"attention": "as-trained", "batch": 1, "kv_len": 1024, "chips": 1}
    both, narrow, wide = (decode_step("h200-sxm", model, weight_dtype=name, **words)
                          for name in ("as-published", "mxfp4", "fp8"))
    experts = 36 * 128 * 3 * 2880 * 2880
    rest = count_parameters(model, parse_layout("as-trained", model)).total - experts
    assert narrow["weight_read_bytes"] < both["weight_read_bytes"] < wide["weight_read_bytes"]
    held = float(demand(parse_scenario(weight_dtype="as-published").workload(
        load_hardware("h200-sxm"), model, parse_layout("as-trained", model), batch=1.0, kv_len=1024.0, q_len=1.0,
        machine=Machine.split())).weight_bytes)
    assert held == pytest.approx(experts * 4.25 / 8 + rest * 2, rel=1e-9)
    assert {name: FORMATS[name].native for name in ("nvfp4", "mxfp4", "fp8-block")} == {
        "nvfp4": "fp4", "mxfp4": "fp4", "fp8-block": "fp8"}


def choices_of(load: ExpertLoad, moe, rows: int) -> np.ndarray:
    """Rows that choose systematically by the chances: exactly top_k experts each, with each expert's own chance."""
    chances = load.chances(moe)
    rng = np.random.default_rng(rows)
    found = []
    for _ in range(400 * rows):  # Madow's systematic sampling on a shuffled list
        order = rng.permutation(moe.experts)
        edges = np.cumsum(chances[order])
        found.append(order[np.searchsorted(edges, rng.random() + np.arange(moe.top_k))])
    return np.array(found).reshape(400, rows * moe.top_k)


@pytest.mark.parametrize("text", ["zipf:0", "zipf:0.7", "zipf:1.2"])
@pytest.mark.parametrize(("rows", "groups"), [(4, 8), (32, 8), (128, 4)])
def test_a_stated_load_is_that_of_simulated_rows(text, rows, groups):
    moe, load = Moe(experts=64, top_k=4, expert_size=1, shared_size=0, gated=True), parse_expert_load(text)
    assert load.chances(moe).sum() == pytest.approx(4)
    drawn = choices_of(load, moe, rows)
    group = np.arange(64) % groups  # ranks are dealt to the chips in turn
    distinct = [np.unique(trial) for trial in drawn]
    busiest, read, every = busiest_group(load, moe, rows, groups)
    assert every == pytest.approx(np.mean([len(d) for d in distinct]), rel=0.02)
    assert busiest == pytest.approx(np.mean([np.bincount(group[t], minlength=groups).max() for t in drawn]), rel=0.1)
    assert read == pytest.approx(np.mean([np.bincount(group[d], minlength=groups).max() for d in distinct]), rel=0.1)


@pytest.mark.parametrize(("experts", "top_k", "rows", "groups"), ROUTINGS)
def test_equal_weights_are_the_uniform_load(experts, top_k, rows, groups):
    moe = Moe(experts=experts, top_k=top_k, expert_size=1, shared_size=0, gated=True)
    for load in (ExpertLoad(zipf_exponent=0.0), ExpertLoad(weights=(3.0,) * experts)):
        choices, distinct, every = busiest_group(load, moe, rows, groups)
        share = busiest_expert_share(rows, top_k, groups, experts)
        assert choices == pytest.approx(rows * top_k * share / groups, rel=1e-9)
        assert distinct == pytest.approx(busiest_distinct_experts(rows, top_k, experts, groups), rel=1e-9)
        assert every == pytest.approx(distinct_experts(experts, top_k, rows), rel=1e-12)


def test_all_mass_on_k_experts_is_k_experts_and_one_chip_may_do_it_all():
    moe = Moe(experts=16, top_k=4, expert_size=1, shared_size=0, gated=True)
    together = busiest_group(ExpertLoad(weights=(5.0, 1.0, 2.0, 1.0, *[0.0] * 12)), moe, 100, 4)
    assert together == pytest.approx((400.0, 4.0, 4.0))  # the first chip of four has them all
    apart = busiest_group(ExpertLoad(weights=(1.0, 0.0, 0.0, 0.0) * 4), moe, np.array([1.0, 100.0]), 4)
    np.testing.assert_allclose(apart, [[1.0, 100.0], [1.0, 1.0], [4.0, 4.0]])


def test_the_more_uneven_the_load_the_longer_the_busiest_chip_works_and_the_fewer_experts_are_read():
    words = {"attention": "as-trained", "batch": 64, "kv_len": 1024, "chips": 8, "tp": 8, "baseline": False, "weight_dtype": "fp8"}
    dealt, cut = ([decode_step("h200-sxm", "deepseek-v3", ep=ep, expert_load=text, **words)
                   for text in ("uniform", "zipf:0", "zipf:0.8", "zipf:1.5")] for ep in (8, 1))
    assert dealt[0]["step_time_s"] == pytest.approx(dealt[1]["step_time_s"], rel=1e-9)
    read = [float(one["weight_read_bytes"]) for one in cut]
    assert read[0] == pytest.approx(read[1], rel=1e-9)
    assert read[1] > read[2] > read[3]
    assert cut[3]["step_time_s"] < cut[0]["step_time_s"]
    # What all chips read together is the same whether experts are cut or dealt.
    assert [float(one["weight_read_bytes"]) for one in dealt] == pytest.approx(read)
    waits = [float(one["step_time_s"]) / float(other["step_time_s"]) for one, other in zip(dealt, cut, strict=True)]
    assert waits[0] < waits[2] < waits[3]


def test_a_load_that_makes_no_sense_is_refused_in_words(tmp_path):
    for text in ("zipf:-1", "zipf:x", "zipf", "zipf:11"):
        with pytest.raises(UserError, match="expected zipf:S with S from 0 to 10"):
            parse_expert_load(text)
    file = tmp_path / "load.yaml"
    file.write_text("schema_version: 1\nsource: a test\nchosen: [1, 2, 3]\n")
    with pytest.raises(UserError, match="the file counts 3 experts, and the model has 8"):
        build_step(replace(mixture(), expert_load=parse_expert_load(str(file))))
    with pytest.raises(UserError, match="only 1 experts are ever chosen, and a row chooses 2"):
        build_step(replace(mixture(), expert_load=ExpertLoad(weights=(1.0, *[0.0] * 7))))
    assert parse_expert_load("uniform") is None
