"""The dense reference proves itself: whatever the layout, its outputs are those of plain softmax attention."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.dense_attention import (
    Case,
    Data,
    Latent,
    Ledger,
    Rule,
    Vectors,
    execute,
    softmax,
)
from tests.reference.number_formats import Coding

EXACT = {"rtol": 1e-9, "atol": 1e-11}  # sums of float64 in another order
BASE = Case(n_q=4, n_kv=2, head_dim=4, lengths=(9, 14), q_len=2)
LATENT = Latent(kv_rank=6, rope=2, nope=4, value=3, absorbed=True)
MLA = Case(n_q=4, n_kv=1, head_dim=4, lengths=(9, 14), q_len=2, latent=LATENT)
TIED = replace(BASE, tied=True)
GROUPED_LATENT = replace(BASE, latent=replace(LATENT, apart=True))
RULES = [Rule(), Rule(kind="window", recent=5), Rule(kind="streaming", fixed=2, recent=4),
         Rule(kind="h2o", fixed=3, recent=3), Rule(kind="snapkv", fixed=4, recent=3)]
ASYMMETRIC = {"scale_bits": 16, "zero_bits": 16}
CODINGS = [Coding(name="fp8", bits=8), Coding(name="int8", bits=8, group=3, scale_bits=16),
           Coding(name="fp4", bits=4, group=2, scale_bits=8), Coding(name="int4", bits=4, group=4, **ASYMMETRIC),
           Coding(name="int2", bits=2, group=3, **ASYMMETRIC),
           Coding(name="int2-channel", bits=2, group=5, axis="channel", **ASYMMETRIC)]


def plain_attention(case: Case) -> np.ndarray:
    """Softmax attention over the kept tokens, head by head, with no cache, kernel or chips in between."""
    data, kept = Data(case), execute(case).kept_positions
    heads = []
    for s, n in enumerate(case.lengths):
        for h in range(case.n_q):
            k = h * case.n_kv // case.n_q
            positions, now = kept[s, k], n - case.q_len + np.arange(case.q_len)
            if case.latent:
                latents = data.keys[s, k, positions]
                compressed, rotary = latents[:, : case.latent.kv_rank], latents[:, case.latent.kv_rank :]
                keys = np.concatenate([compressed @ data.key_up[h].T, rotary], axis=1)
                values, queries = compressed @ data.value_up[h], data.plain_queries[s, h, now]
            else:
                keys, values, queries = data.keys[s, k, positions], data.values[s, k, positions], data.queries[s, h, now]
            hidden = np.where(positions <= now[:, None], 0.0, -np.inf)
            heads.append(softmax(queries @ keys.T * data.scale + hidden) @ values)
    return np.array(heads).reshape(len(case.lengths), case.n_q, case.q_len, -1).swapaxes(1, 2)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
@pytest.mark.parametrize("case", [BASE, MLA, replace(MLA, latent=replace(LATENT, absorbed=False)), TIED, GROUPED_LATENT],
                         ids=["heads", "absorbed", "expanded", "tied", "grouped-latent"])
def test_outputs_are_plain_softmax_attention_over_the_kept_tokens(case, rule):
    case = replace(case, rule=rule)
    if case in (replace(TIED, rule=rule), replace(GROUPED_LATENT, rule=rule)) and rule.kind in ("h2o", "snapkv"):
        case = replace(case, n_kv=1)  # heads that choose tokens of their own cannot share the rotary keys of them
    np.testing.assert_allclose(execute(case).outputs, plain_attention(case), **EXACT)


@settings(max_examples=60)
@given(st.sampled_from([BASE, MLA, replace(MLA, latent=replace(LATENT, absorbed=False)), TIED, GROUPED_LATENT]),
       st.sampled_from(RULES),
       st.sampled_from(["grouped", "per-query-head", "unfused"]), st.sampled_from(["heads", "batch", "context"]),
       st.sampled_from([1, 2, 4]), st.sampled_from([1, 3, 4]), st.integers(0, 99))
def test_kernels_pages_and_chips_do_not_change_the_outputs(case, rule, kernel, sharding, chips, page, seed):
    plain = replace(case, rule=rule, seed=seed)
    if case in (TIED, GROUPED_LATENT) and rule.kind in ("h2o", "snapkv"):
        plain = replace(plain, n_kv=1)
    dealt = replace(plain, kernel=kernel, sharding=sharding, chips=chips, page=page)
    np.testing.assert_allclose(execute(dealt).outputs, execute(plain).outputs, **EXACT)


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding.name)
@pytest.mark.parametrize("sharding", ["heads", "batch"])
def test_chips_and_pages_do_not_change_a_quantised_cache_either(coding, sharding):
    # Context sharding is left out: the groups of a channel then begin at other tokens.
    whole = replace(BASE, keys=coding, values=CODINGS[3])
    dealt = replace(whole, chips=4, sharding=sharding, page=4)
    np.testing.assert_allclose(execute(dealt).outputs, execute(whole).outputs, **EXACT)


def test_as_many_kv_heads_as_query_heads_is_multi_head_attention():
    # A grouped cache whose heads are repeated for every query head is an MHA cache with the same outputs.
    grouped, mha = Data(BASE), Data(replace(BASE, n_kv=4))
    assert mha.keys.shape[1] == BASE.n_q
    repeated_keys, repeated_values = (np.repeat(x, 2, axis=1) for x in (grouped.keys, grouped.values))
    outputs = execute(BASE).outputs
    for s, n in enumerate(BASE.lengths):
        now = n - BASE.q_len + np.arange(BASE.q_len)
        for h in range(BASE.n_q):
            scores = grouped.queries[s, h, now] @ repeated_keys[s, h, :n].T * grouped.scale
            weights = softmax(np.where(np.arange(n) <= now[:, None], scores, -np.inf))
            np.testing.assert_allclose(outputs[s, :, h], weights @ repeated_values[s, h, :n], **EXACT)


def test_one_grouped_latent_is_multi_head_latent_attention_with_its_rotary_part_apart():
    apart = replace(MLA, latent=replace(LATENT, apart=True))
    np.testing.assert_allclose(execute(apart).outputs, execute(MLA).outputs, **EXACT)
    assert execute(apart).resident_bits == execute(MLA).resident_bits


def test_tied_states_are_ordinary_heads_whose_keys_and_values_overlap():
    data = Data(TIED)
    assert np.array_equal(data.keys[..., :2], data.values[..., :2])
    assert np.array_equal(data.keys[:, 0, :, 2:], data.keys[:, 1, :, 2:])
    # 2 heads of 4 elements and a shared half key of 2, where ordinary heads keep 2 keys and 2 values of 4.
    assert [bits * 16 for bits in execute(TIED).resident_bits] == [bits * 10 for bits in execute(BASE).resident_bits]


def test_absorbed_and_expanded_latent_attention_agree():
    expanded = replace(MLA, latent=replace(LATENT, absorbed=False))
    np.testing.assert_allclose(execute(MLA).outputs, execute(expanded).outputs, **EXACT)


@given(st.sampled_from(CODINGS), st.integers(1, 12), st.integers(1, 7), st.integers(0, 99))
def test_a_quantised_vector_is_within_half_a_step(coding, tokens, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(tokens, dim))
    slots = np.random.default_rng(seed).permutation(tokens + 3)[:tokens]
    ledger = Ledger()
    stored = Vectors(vectors, coding, slots, tokens + 3, ledger)
    error = np.abs(stored.read() - vectors)
    if coding.group and not coding.name.startswith("fp"):
        scale = coding.encode(vectors)[1]
        assert np.all(error <= coding.spread(scale, vectors.shape) * 0.5 * (1 + 1e-9))
    elif coding.name == "fp8":  # 3 mantissa bits: half a step is 1/16 of the number, subnormals are absolute
        smallest = 2.0**-9 * np.max(np.abs(vectors)) / 448
        assert np.all(error <= np.maximum(np.abs(vectors) / 16, smallest) * (1 + 1e-9))
    else:  # e2m1: the widest gap, 4 to 6, is a third of the largest number
        assert np.all(error <= np.max(np.abs(vectors)) / 6 * (1 + 1e-9))


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding.name)
def test_attention_over_a_quantised_cache_is_attention_over_what_it_decodes_to(coding):
    case = replace(BASE, lengths=(11,), q_len=1, keys=coding, values=coding)
    data, outputs = Data(case), execute(case).outputs
    for h in range(4):
        keys, values = (coding.decode(*coding.encode(x[0, h // 2, :11])) for x in (data.keys, data.values))
        weights = softmax(data.queries[0, h, 10:11] @ keys.T * data.scale)
        np.testing.assert_allclose(outputs[0, :, h], weights @ values, **EXACT)
    exact = execute(replace(case, keys=BASE.keys, values=BASE.values)).outputs
    assert 0 < np.max(np.abs(outputs - exact)) < {8: 0.2, 4: 1.0, 2: 3.0}[coding.bits]


def test_h2o_keeps_what_was_attended_to_and_the_newest():
    # One key that every query points at, among keys that none does.
    keys = np.tile([-1.0, 0.0], (20, 1))
    keys[4] = [9.0, 0.0]
    queries = np.tile([1.0, 0.0], (1, 20, 1))
    kept, score = Rule(kind="h2o", fixed=1, recent=3).kept(keys, queries, 1.0)
    assert kept.tolist() == [4, 17, 18, 19]
    assert np.argmax(score) == 0


def test_streaming_keeps_the_sinks_and_the_window_and_snapkv_the_generated_tokens():
    keys = np.random.default_rng(0).normal(size=(12, 2))
    queries = np.random.default_rng(1).normal(size=(1, 12, 2))
    assert Rule(kind="streaming", fixed=2, recent=3).kept(keys, queries, 1.0)[0].tolist() == [0, 1, 9, 10, 11]
    kept, _ = Rule(kind="snapkv", fixed=3, recent=4).kept(keys, queries, 1.0)
    assert kept[3:].tolist() == [8, 9, 10, 11]
    assert len(kept) == 7
