"""Cache reducers compose: bytes are products in any order where reducers are independent, and refusals where not."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.architecture import LayerGroup
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import (
    FORMATS,
    KvPolicy,
    parse_cache_formats,
    parse_eviction,
    parse_format,
    parse_lengths,
    parse_paging,
)
from simkit.step.build import build_step
from simkit.step.placement import allocated_bytes_per_sequence, cached_bytes_per_sequence
from simkit.step.workload import DecodeWorkload
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario
from tests.laws import strategies as draw
from tests.step.machine_words import machine_words

H100 = load_hardware("h100-sxm")


def workload(model: str = "llama-2-70b", layout: str = "mha", kv_len: float = 8192.0, **fields) -> DecodeWorkload:
    shape = load_model(model)
    chosen = parse_layout(layout, shape)
    return DecodeWorkload(model=shape, layout=chosen, n_kv_heads=chosen.n_kv_heads, batch=1.0, kv_len=kv_len, q_len=1.0,
                          kv_format=FORMATS["bf16"], weight_format=FORMATS["bf16"], **machine_words(fields))


def with_layout(base: DecodeWorkload, name: str) -> DecodeWorkload:
    layout = parse_layout(name, base.model)
    return replace(base, layout=layout, n_kv_heads=layout.n_kv_heads)


def with_policy(base: DecodeWorkload, **parts) -> DecodeWorkload:
    return replace(base, policy=replace(base.policy, **parts))


def with_windows(base: DecodeWorkload, window: int) -> DecodeWorkload:
    groups = tuple(replace(group, window=window) for group in base.model.layer_groups)
    return replace(base, model=replace(base.model, layer_groups=groups))


# Each with the factor by which it shrinks a bf16 MHA cache of 64 heads and 8192 tokens.
REDUCERS = {
    "gqa-8": (lambda w: with_layout(w, "gqa-8"), 8),
    "fp8": (lambda w: replace(w, kv_format=FORMATS["fp8"]), 2),
    "int4": (lambda w: replace(w, kv_format=FORMATS["int4"]), 16 / 4.5),
    "channel": (lambda w: replace(w, kv_format=parse_format("int2-channel")), 16 / 3),
    "streaming": (lambda w: with_policy(w, eviction=parse_eviction("streaming:4+1020")), 8),
    "h2o": (lambda w: with_policy(w, eviction=parse_eviction("h2o:1024+1024")), 4),
    "window": (lambda w: with_windows(w, 4096), 2),
    "pages": (lambda w: with_policy(w, paging=parse_paging(16, None)), 1),
}
INDEPENDENT = [("gqa-8", "int4", "streaming"), ("gqa-8", "fp8", "window"), ("channel", "h2o", "gqa-8"),
               ("pages", "int4", "gqa-8"), ("pages", "streaming", "fp8"), ("window", "pages", "channel")]


@pytest.mark.parametrize("names", INDEPENDENT, ids="+".join)
def test_any_order_of_independent_reducers_gives_the_product_of_their_factors(names):
    factor = np.prod([REDUCERS[name][1] for name in names])
    whole = cached_bytes_per_sequence(workload())
    for order in permutations(names):
        reduced = workload()
        for name in order:
            reduced = REDUCERS[name][0](reduced)
        assert cached_bytes_per_sequence(reduced) == pytest.approx(whole / factor, rel=1e-12)


def test_mla_windows_formats_eviction_and_pages_multiply_on_a_latent_model():
    # DeepSeek-V2: 60 layers x 576 elements, nine whole groups of 64.
    base = workload("deepseek-v2", "mla")
    per_token = 60 * 576
    assert cached_bytes_per_sequence(base) == per_token * 2 * 8192
    assert cached_bytes_per_sequence(replace(base, kv_format=FORMATS["int4"])) == per_token * 4.5 / 8 * 8192
    evicted = with_policy(base, eviction=parse_eviction("streaming:4+1020"))
    assert cached_bytes_per_sequence(replace(evicted, kv_format=FORMATS["fp8"])) == per_token * 1024
    assert cached_bytes_per_sequence(replace(with_windows(base, 100), kv_format=FORMATS["fp8"])) == per_token * 100
    paged = with_policy(with_windows(base, 100), paging=parse_paging(16, None))
    assert allocated_bytes_per_sequence(replace(paged, kv_format=FORMATS["fp8"])) == per_token * 112


def test_begun_groups_are_whole_when_they_do_not_divide():
    # int8 keeps a 2-byte scale for each of 128 elements: a latent of 576 begins 5 groups, a head of 64 one.
    assert cached_bytes_per_sequence(replace(workload("deepseek-v2", "mla", 1.0), kv_format=FORMATS["int8"])) == 60 * (576 + 10)
    small = workload("llama-3.2-1b", "as-trained", 1.0)
    assert small.model.head_dim == 64
    assert cached_bytes_per_sequence(replace(small, kv_format=FORMATS["int8"])) == 16 * 8 * 2 * (64 + 2)


@given(draw.head_models, st.integers(1, 200_000), st.sampled_from(["streaming:4+1020", "h2o:512+512", "snapkv:1024+256"]),
       st.sampled_from(["fp8", "int8", "int4", "int2"]), st.sampled_from([1, 16, 256]))
def test_a_reducer_never_adds_bytes_and_pages_add_less_than_one_page_a_layer(model, kv_len, rule, form, page):
    if all(group.window for group in model.layer_groups):
        return
    base = workload(model.name, "as-trained", float(kv_len))
    evicted = with_policy(base, eviction=parse_eviction(rule), paging=parse_paging(page, None))
    reduced = replace(evicted, kv_format=FORMATS[form])
    assert cached_bytes_per_sequence(evicted) <= cached_bytes_per_sequence(base)
    assert cached_bytes_per_sequence(reduced) <= cached_bytes_per_sequence(evicted)
    kinds = [(reduced.of(group), group) for group in reduced.layer_groups if group.attends]
    scores = 0 if not reduced.policy.eviction.keeps_scores else sum(
        group.count * float(own.score_bytes(group)) for own, group in kinds)
    room, stored = allocated_bytes_per_sequence(reduced) - scores, cached_bytes_per_sequence(reduced)
    # A page of every array: the entries of a compressed cache fill pages of their own beside its newest tokens.
    one_page = sum(group.count * float(own.stored_bytes(page * max(a.tokens_per_entry for a in own.layout.arrays)))
                   for own, group in kinds)
    assert stored <= room * (1 + 1e-12)
    assert room - stored < one_page * (1 + 1e-9)


def test_streaming_is_flat_in_context_and_a_full_cache_is_not():
    def read(kv_len: float, rule: str) -> float:
        step = build_step(with_policy(workload(kv_len=kv_len), eviction=parse_eviction(rule)))
        return float(sum(op.count * op.kv_read_bytes for op in step.operators))

    assert len({read(n, "streaming:4+1020") for n in (1024.0, 4096.0, 4e6)}) == 1
    assert read(8192.0, "none") == 8 * read(8192.0, "streaming:4+1020")
    assert read(100.0, "streaming:4+1020") == read(100.0, "none")


def test_evicting_layers_have_budgets_of_their_own_and_window_layers_none():
    model = replace(load_model("llama-2-70b"), layer_groups=(
        LayerGroup(count=2, window=None, moe=False), LayerGroup(count=3, window=50, moe=False),
        LayerGroup(count=3, window=None, moe=False)))
    policy = KvPolicy(eviction=parse_eviction("streaming:4+96", (2.0, 0.5)))
    groups = policy.groups(model)
    # Global layers 1-5 take 2, .5 | 2, .5, 2 of a budget of 100 tokens.
    kept = [float(policy.kept(10_000.0, group)) for group in groups for _ in range(group.count)]
    assert sorted(kept) == [50, 50, 50, 50, 50, 200, 200, 200]
    assert sum(group.count for group in groups) == 8


@pytest.mark.parametrize(("model", "words", "says"), [
    ("deepseek-v2", {"attention": "mla+gqa-8"}, "one latent for all heads"),
    ("deepseek-v2", {"attention": "gqa-8:mla"}, "one latent for all heads"),
    ("llama-2-70b", {"attention": "mla"}, "not trained with multi-head latent attention"),
    ("deepseek-v2", {"kv_dtype": "int2-channel/int2"}, "one latent that is both key and value"),
    ("mistral-7b", {"eviction": "h2o:512+512"}, "every layer is a sliding window"),
    ("mistral-7b", {"eviction": "streaming:4+1020"}, "every layer is a sliding window"),
    ("llama-2-70b", {"page": 16, "reserve": 4096}, "exclude each other"),
    ("llama-2-70b", {"kv_dtype": "fp8-g64"}, "shares no scale in groups"),
    ("llama-2-70b", {"eviction": "streaming:0+0"}, "keeps no token"),
    ("llama-2-70b", {"eviction": "h2o:8+8", "layer_budgets": (1.0, -1.0)}, "numbers above 0"),
])
def test_reducers_that_exclude_each_other_are_refused_in_words(model, words, says):
    with pytest.raises(UserError, match=says):
        decode_step(H100, model, batch=1, kv_len=4096, **words)


def test_an_mla_model_may_be_asked_what_ordinary_heads_would_cost():
    # The paper's own comparison: MLA's cache equals GQA with 2.25 groups (DeepSeek-V2, table 1), 4.5 d a token and layer.
    latent, grouped = workload("deepseek-v2", "mla"), workload("deepseek-v2", "gqa-1")
    ratio = cached_bytes_per_sequence(latent) / cached_bytes_per_sequence(grouped)
    assert ratio == pytest.approx(2.25)


@given(draw.any_model, st.integers(1, 100_000), st.sampled_from(["lognormal:0.5", "lognormal:2", "uniform:0.9", "8,1,1,1", "3,5"]))
def test_ragged_lengths_keep_the_mean_where_nothing_is_cut_off(model, kv_len, lengths):
    spread = parse_lengths(lengths)
    mean = spread.mean_of(lambda n: n, float(kv_len))
    # Whole tokens: rounding moves the mean by at most half a token (and a length is at least 1).
    assert mean == pytest.approx(kv_len, abs=1.0)


@given(draw.any_model, st.integers(100, 100_000), st.sampled_from(["lognormal:0.5", "lognormal:2", "uniform:0.9", "8,1,1,1"]))
def test_windows_and_eviction_gain_from_ragged_lengths(model, kv_len, lengths):
    # min(N, W) is concave: by Jensen a ragged batch keeps no more than an even one of the same mean, and no layer gains
    # what it does not cut.
    even = workload(model.name, "as-trained", float(kv_len))
    ragged = with_policy(even, lengths=parse_lengths(lengths))
    kinds = [(even.of(group), group.count) for group in model.attending_groups]
    # Whole tokens, see above, and whole entries of a compressed cache.
    slack = sum(count * float(own.stored_bytes(max(a.tokens_per_entry for a in own.layout.arrays))) for own, count in kinds)
    assert cached_bytes_per_sequence(ragged) <= cached_bytes_per_sequence(even) + slack
    for group in model.layer_groups:
        if group.window is None and group.shape is None:
            assert float(ragged.tokens_read(group)) == pytest.approx(kv_len, abs=1.0)


@given(st.integers(1, 100_000), st.sampled_from(["lognormal:0.5", "uniform:0.9", "8,1,1,1"]), st.sampled_from([16, 64, 256]))
def test_pages_of_ragged_lengths_waste_about_half_a_page_a_sequence(kv_len, lengths, page):
    paging, spread = parse_paging(page, None), parse_lengths(lengths)
    waste = spread.mean_of(paging.allocated, float(kv_len)) - spread.mean_of(lambda n: n, float(kv_len))
    assert 0 <= waste < page


@pytest.mark.parametrize(("model", "words"), [
    ("mixtral-8x7b", {"kv_dtype": "int4"}), ("mixtral-8x7b", {"eviction": "h2o:512+512"}), ("mixtral-8x7b", {"page": 16}),
    ("gpt-oss-120b", {"lengths": "lognormal:1"}), ("qwen3-235b-a22b", {"attention_sharding": "batch"}),
    ("mixtral-8x7b", {"attention_kernel": "unfused"}), ("mixtral-8x7b", {"ep": 8})])
def test_every_word_of_a_scenario_reaches_the_point(model, words):
    plain, changed = (decode_step(H100, model, batch=8, kv_len=8191, chips=16, tp=8, pp=2, **w) for w in ({}, words))
    names = ("step_time_s", "kv_cache_bytes", "kv_allocated_bytes", "kv_read_bytes")
    assert any(float(plain[name]) != float(changed[name]) for name in names)
    assert parse_scenario(**words) != parse_scenario()


def test_formats_of_keys_and_values_add_up():
    keys, values = parse_cache_formats("int2-channel/bf16")
    mixed = replace(workload(kv_len=64.0), kv_format=keys, value_format=values)
    # 80 layers x 64 heads x 64 tokens x 128 x (3 + 16) bits.
    assert cached_bytes_per_sequence(mixed) == 80 * 64 * 64 * 128 * 19 / 8
