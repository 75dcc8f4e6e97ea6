"""The operators' bytes and flops equal what the dense reference counts while it executes the step: exactly, per chip."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.widths import Mla
from simkit.model.kv_cache import (
    FORMATS,
    ElementFormat,
    KvPolicy,
    parse_cache_formats,
    parse_eviction,
    parse_lengths,
    parse_paging,
)
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.placement import demand
from simkit.step.workload import ATTENTION_KERNELS, DecodeWorkload
from tests.laws.strategies import divisors
from tests.reference.dense_attention import Case, Latent, Ledger, Rule, Vectors, execute
from tests.reference.number_formats import Coding

SAME = 1e-12  # sums of float64 in another order
LATENT = Mla(kv_lora_rank=6, rope_head_dim=2, nope_head_dim=4, v_head_dim=3, q_lora_rank=None)
TOKEN_FORMATS = ["bf16", "fp32", "fp8", "int8", "int8-g3", "fp4-g4", "int4-g4", "int4-g128", "int2-g3"]
CHANNEL_FORMATS = ["int2-g4-channel", "int4-g3-channel", "int8-g128-channel"]


def coding(form: ElementFormat) -> Coding:
    return Coding(name=form.name, bits=int(form.bits), group=form.group, scale_bits=int(form.scale_bytes * 8),
                  zero_bits=int(form.zero_bytes * 8), axis=form.axis)


@st.composite
def workloads(draw: st.DrawFn) -> DecodeWorkload:
    """Every composition that a scenario allows, at sizes that NumPy executes in milliseconds."""
    n_q = draw(st.sampled_from([1, 2, 4, 6, 8, 12]))
    n_kv = draw(st.sampled_from(divisors(n_q)))
    latent = draw(st.sampled_from([None, None, LATENT]))
    eviction = draw(st.sampled_from(["none", "streaming:2+4", "h2o:3+4", "snapkv:5+3", "h2o:0+6", "streaming:0+9"]))
    windows = draw(st.lists(st.sampled_from([None, 3, 8]), min_size=1, max_size=2, unique=True))
    if eviction != "none" and None not in windows:
        windows = [*windows[:1], None]
    groups = tuple(LayerGroup(count=draw(st.integers(1, 2)), window=window, moe=False) for window in windows)
    model = ModelArchitecture(
        name="small", title="small", hidden_size=8, n_q_heads=n_q, n_kv_heads=n_kv, layer_groups=groups, mlp=None, moe=None,
        head_dim=draw(st.sampled_from([2, 5, 8])), mla=latent, vocab_size=4, tied_embeddings=False)
    kind = draw(st.sampled_from(["mla", "mla-expanded"] if latent else ["gqa", "gqa", "gta", "gla", "gqla"]))
    if kind in ("gta", "gla", "gqla"):
        model = replace(model, head_dim=draw(st.sampled_from([2, 4, 8])))
        if n_kv > 1 and eviction.startswith(("h2o", "snapkv")):
            eviction = "streaming:2+4"
    layout = parse_layout(kind if latent else f"{kind}-{n_kv}", model)
    sharding = draw(st.sampled_from(["heads", "batch", "context"]))
    if sharding != "batch" and draw(st.booleans()):  # the fullest chip of a ragged, sharded batch is not its mean
        tokens = draw(st.lists(st.integers(3, 20), min_size=2, max_size=3))
    else:
        tokens = [draw(st.integers(3, 20))] * draw(st.integers(1, 4))
    ragged = len(set(tokens)) > 1
    page, reserve = draw(st.sampled_from([(None, None), (3, None), (4, None), (16, None), (None, 24)]))
    name = st.sampled_from(TOKEN_FORMATS + CHANNEL_FORMATS)
    keys, values = parse_cache_formats(draw(name) if "separate formats" in layout.refuses else f"{draw(name)}/{draw(name)}")
    budgets = draw(st.sampled_from([(1.0,), (0.5, 2.0), (2.0, 1.0, 0.5)]))
    return DecodeWorkload(
        model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=float(len(tokens)), kv_len=float(np.mean(tokens)),
        q_len=float(draw(st.integers(1, 3))), kv_format=keys, value_format=values, weight_format=FORMATS["bf16"],
        policy=KvPolicy(eviction=parse_eviction(eviction, budgets), paging=parse_paging(page, reserve),
                        lengths=parse_lengths(",".join(map(str, tokens)) if ragged else "equal")),
        kernel=draw(st.sampled_from(ATTENTION_KERNELS)),
        machine=Machine.split(tp=float(draw(st.sampled_from(divisors(n_q)))), mapping=sharding))


def what_a_kind_keeps(workload: DecodeWorkload) -> dict[str, Any]:
    """The reference's own words for a layout: widths from the paper of each kind, not from simkit's answers."""
    d = workload.model.head_dim
    mla = Latent(kv_rank=LATENT.kv_lora_rank, rope=LATENT.rope_head_dim, nope=LATENT.nope_head_dim, value=LATENT.v_head_dim,
                 absorbed=workload.layout.name != "mla-expanded")
    return {"gqa": {}, "mla": {"latent": mla}, "gta": {"tied": True}, "gqla": {"rotary": d // 2},
            "gla": {"latent": Latent(kv_rank=2 * d, rope=d // 2, nope=d, value=d, absorbed=True, apart=True)},
            }[workload.layout.name.partition("-")[0]]


def layers_of(workload: DecodeWorkload) -> list[tuple[Rule, Case]]:
    """One case of the reference for every layer, its rule worked out layer by layer and not by groups."""
    eviction, model = workload.policy.eviction, workload.model
    factors = np.asarray(workload.policy.lengths.factors)
    repeated = factors if len(factors) > 1 else np.ones(int(workload.batch))
    lengths = tuple(int(n) for n in np.rint(repeated * workload.kv_len))
    cases, global_layers = [], 0
    for window in (group.window for group in model.layer_groups for _ in range(group.count)):
        rule = Rule()
        if window is not None:
            rule = Rule(kind="window", recent=window)
        elif eviction is not None:
            budget = round((eviction.fixed + eviction.recent)
                           * eviction.layer_budgets[global_layers % len(eviction.layer_budgets)])
            fixed = min(eviction.fixed, budget)
            rule = Rule(kind=eviction.kind, fixed=fixed, recent=budget - fixed)
            global_layers += 1
        paging = workload.policy.paging
        cases.append(Case(
            n_q=model.n_q_heads, n_kv=workload.n_kv_heads, head_dim=model.head_dim, lengths=lengths, **what_a_kind_keeps(workload),
            q_len=int(workload.q_len), keys=coding(workload.kv_format), values=coding(workload.value_format), rule=rule,
            kernel=workload.kernel, sharding=workload.machine.mapping, chips=int(workload.machine.tp), page=paging.page,
            reserve=paging.reserve))
    return cases


@settings(max_examples=2 * settings.default.max_examples)
@given(workloads())
def test_operators_count_what_execution_touches(workload):
    outcomes = [execute(case) for case in layers_of(workload)]
    chips = [sum((outcome.chips[c] for outcome in outcomes), Counter()) for c in range(int(workload.machine.tp))]
    operators = build_step(workload).layer_operators

    # The chip that reads most of the cache, the first of equals: all figures are of this one chip. (Where KV heads do
    # not deal out evenly, a chip with fewer of them reads one more often when it reads by query head.)
    fullest = max(chips, key=lambda chip: chip["cache.read"])

    def busiest(*names: str) -> float:
        return sum(fullest[name] for name in names)

    def modelled(name: str, field: str) -> float:
        return float(sum(op.count * getattr(op, field) for op in operators if op.name == name))

    def agree(name: str, field: str, counted_bits: float) -> None:
        assert modelled(name, field) == pytest.approx(counted_bits / 8, rel=SAME, abs=1e-9), f"{name}.{field}"

    agree("attention", "kv_read_bytes", busiest("cache.read", "table.read"))
    agree("attention", "kv_reread_bytes", busiest("cache.reread"))
    agree("attention", "matrix_flops", 8 * busiest("attention.flops"))
    agree("attention", "activation_bytes", busiest("query.read", "output.write", "passes.read", "passes.write"))
    agree("eviction_scores", "kv_read_bytes", busiest("score.read"))
    agree("eviction_scores", "kv_write_bytes", busiest("score.write"))
    agree("expand_latent", "matrix_flops", 8 * busiest("expand.flops"))
    agree("expand_latent", "activation_bytes", busiest("expanded.read", "expanded.write"))
    if "channel" not in (workload.kv_format.axis, workload.value_format.axis):
        agree("kv_append", "kv_write_bytes", busiest("cache.write"))
    resident = [sum(outcome.resident_bits[c] for outcome in outcomes) for c in range(int(workload.machine.tp))]
    assert demand(workload).kv_bytes == pytest.approx(max(resident) / 8, rel=SAME)


@pytest.mark.parametrize("name", TOKEN_FORMATS + CHANNEL_FORMATS)
@pytest.mark.parametrize("dim", [2, 8, 128])
def test_appending_token_after_token_writes_what_a_token_owes_on_average(name, dim):
    # Twice the group's tokens: along a channel a group's scales are written once, whatever token does it.
    (form, _), tokens, ledger = parse_cache_formats(name), 256, Ledger()
    stored = Vectors(np.random.default_rng(0).normal(size=(tokens, dim)), coding(form), np.arange(tokens), tokens, ledger)
    whole = tokens - tokens % form.group if form.axis == "channel" else tokens
    for place in range(whole):
        stored.append(place)
    assert form.appended_bytes(dim) * whole == pytest.approx(ledger.bytes("cache.write"), rel=SAME)
