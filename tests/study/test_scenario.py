"""Scenarios: words to workloads, and the words that are refused."""

import inspect

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.step.machine import Machine
from simkit.study.point import decode_step
from simkit.study.scenario import Scenario, parse_scenario

MIXTRAL = load_model("mixtral-8x7b")


def workload_of(scenario: Scenario, model=MIXTRAL, chip: str = "h100-sxm", tp: float = 8.0):
    hardware = load_hardware(chip)
    machine = Machine(chips=tp, tp=tp, pp=1.0, mapping=scenario.mapping(hardware) or "heads")
    return scenario.workload(hardware, model, parse_layout("as-trained", model), batch=np.array([4.0]),
                             kv_len=np.array([100.0]), q_len=np.array([2.0]), machine=machine)


def test_the_plain_scenario_is_bf16_and_keeps_everything():
    workload = workload_of(parse_scenario())
    assert parse_scenario() == Scenario()
    assert (workload.kv_format.name, workload.kernel, workload.machine.mapping, workload.ep) == ("bf16", "grouped", "heads", 1)
    assert workload.policy.eviction is None
    assert workload.q_len == 2


def test_words_become_parts_of_the_workload():
    workload = workload_of(parse_scenario(kv_dtype="INT2-channel/int2", weight_dtype="fp8", eviction="h2o:64+36", page=16,
                                          lengths="lognormal:0.5", attention_kernel="unfused", attention_sharding="context", ep=4))
    assert (workload.kv_format.axis, workload.value_format.axis) == ("channel", "token")
    assert workload.weight_format.name == "fp8"
    assert workload.policy.eviction.budget == 100
    assert (workload.policy.paging.page, workload.policy.lengths.name) == (16, "lognormal:0.5")
    assert (workload.kernel, workload.machine.mapping, workload.ep) == ("unfused", "context", 4)


def test_verifying_a_draft_sets_the_query_tokens():
    assert workload_of(parse_scenario(speculation="medusa=4,acceptance=0.6")).q_len == 5


@pytest.mark.parametrize(("asked", "tp", "experts", "given"), [(8, 8, 8, 8), (8, 4, 8, 4), (64, 64, 8, 8), (6, 8, 8, 2), (3, 8, 8, 1)])
def test_experts_are_dealt_as_far_as_chips_and_experts_allow(asked, tp, experts, given):
    assert MIXTRAL.moe.experts == experts
    assert workload_of(parse_scenario(ep=asked), tp=float(tp)).ep == given


def test_a_dense_model_has_no_experts_to_deal():
    assert workload_of(parse_scenario(ep=8), model=load_model("llama-2-70b")).ep == 1


def test_the_machine_says_how_it_shards_attention_unless_the_scenario_does():
    assert parse_scenario().mapping(load_hardware("h100-sxm")) is None  # the fastest
    assert workload_of(parse_scenario(attention_sharding="batch")).machine.mapping == "batch"
    assert workload_of(parse_scenario(), chip="groq-lpu").static


@pytest.mark.parametrize(("words", "says"), [
    ({"kv_dtype": "int5"}, "unknown KV dtype 'int5'"), ({"weight_dtype": "int5"}, "unknown weight dtype 'int5'"),
    ({"kv_dtype": "int4-g0"}, "a group has at least 1 element"), ({"kv_dtype": "bf16/"}, "unknown KV dtype ''"),
    ({"eviction": "h20:4+4"}, "expected streaming:SINKS"), ({"eviction": "streaming:4"}, "expected streaming:SINKS"),
    ({"page": 0}, "page 0: expected a whole number"), ({"reserve": -5}, "reserve -5: expected a whole number"),
    ({"ep": 0}, "ep 0: expected a whole number"), ({"page": 16, "reserve": 16}, "exclude each other"),
    ({"lengths": "normal:1"}, "expected equal, lognormal"), ({"lengths": "5"}, "expected equal, lognormal"),
    ({"lengths": "1,-1"}, "expected equal, lognormal"), ({"lengths": "uniform:1.5"}, "expected equal, lognormal"),
    ({"attention_kernel": "fast"}, "unknown attention kernel 'fast'"), ({"attention_sharding": "rows"}, "unknown attention sharding"),
    ({"cache_order": "row-major"}, "unknown order of the cache"), ({"speculation": "yes"}, "expected none, draft=MODEL"),
])
def test_words_that_make_no_sense_are_refused(words, says):
    with pytest.raises(UserError, match=says):
        parse_scenario(**words)


def test_every_word_of_a_scenario_is_documented_and_taken_by_decode_step():
    described = inspect.getdoc(parse_scenario) or ""
    for name in inspect.signature(parse_scenario).parameters:
        assert f"{name}:" in described or f"{name}," in described, name
    defaults = {name: parameter.default for name, parameter in inspect.signature(parse_scenario).parameters.items()
                if name not in ("kv_dtype", "weight_dtype", "unknown")}
    plain, spelled = (decode_step("h100-sxm", "llama-2-7b", **words) for words in ({}, defaults))
    assert float(plain["step_time_s"]) == float(spelled["step_time_s"])
