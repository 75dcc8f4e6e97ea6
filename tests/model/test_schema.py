"""Model architectures from YAML, attention layouts and cache formats: what they become, and what is refused."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.model.architecture import LayerGroup
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS, parse_format
from simkit.model.schema import model_from_yaml

TINY = """\
schema_version: 1
name: tiny
title: A tiny model
layers: 6
hidden_size: 512
vocab_size: 32000
attention: {n_q_heads: 8, n_kv_heads: 2, head_dim: 64}
mlp: {size: 1024, gated: true}
"""


def model(text: str = TINY, **sections: str) -> Any:
    return model_from_yaml(parse_yaml(text + "".join(f"{key}: {value}\n" for key, value in sections.items()), file="m.yaml"))


def with_attention(extra: str) -> str:
    return TINY.replace("head_dim: 64", f"head_dim: 64, {extra}")


def test_a_model_becomes_its_dimensions():
    tiny = model()
    assert (tiny.n_layers, tiny.hidden_size, tiny.n_q_heads, tiny.n_kv_heads, tiny.head_dim) == (6, 512, 8, 2, 64)
    assert tiny.vocab_size == 32000
    assert tiny.mlp is not None
    assert (tiny.mlp.size, tiny.mlp.gated, tiny.mlp.matrices) == (1024, True, 3)
    assert tiny.moe is tiny.mla is tiny.max_context is None
    assert not tiny.tied_embeddings
    assert tiny.layer_groups == (LayerGroup(count=6, window=None, moe=False),)


def test_without_a_pattern_a_window_holds_in_every_layer():
    assert model(with_attention("sliding_window: 4096")).layer_groups == (LayerGroup(count=6, window=4096, moe=False),)


def test_a_pattern_repeats_over_the_layers():
    # Gemma 3 (arXiv 2503.19786, section 2): five local layers, then a global one.
    groups = model(with_attention("sliding_window: 1024, pattern: [local, local, local, local, local, global]")).layer_groups
    assert {(group.window, group.count) for group in groups} == {(1024, 5), (None, 1)}


def test_a_pattern_may_end_in_the_middle():
    groups = model(with_attention("sliding_window: 64, pattern: [local, local, local, global]")).layer_groups
    assert {(group.window, group.count) for group in groups} == {(64, 5), (None, 1)}  # l l l g l l


def test_the_first_layers_of_a_mixture_may_be_dense():
    groups = model(moe="{experts: 8, top_k: 2, expert_size: 64, first_dense_layers: 1}").layer_groups
    assert {(group.moe, group.count) for group in groups} == {(False, 1), (True, 5)}


@given(st.integers(1, 200), st.lists(st.sampled_from(["local", "global"]), min_size=1, max_size=12), st.integers(0, 199))
def test_every_layer_is_in_exactly_one_group(layers, pattern, dense):
    text = with_attention(f"sliding_window: 4096, pattern: [{', '.join(pattern)}]").replace("layers: 6", f"layers: {layers}")
    groups = model(text, moe=f"{{experts: 8, top_k: 2, expert_size: 64, first_dense_layers: {min(dense, layers - 1)}}}").layer_groups
    local = sum(pattern[index % len(pattern)] == "local" for index in range(layers))
    assert sum(group.count for group in groups) == layers
    assert sum(group.count for group in groups if group.window) == local
    assert sum(group.count for group in groups if not group.moe) == min(dense, layers - 1)
    assert len({(group.window, group.moe) for group in groups}) == len(groups)


# --- layouts ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "kv_heads"), [
    ("mha", 8), ("MHA", 8), (" mqa ", 1), ("gqa-1", 1), ("gqa-2", 2), ("gqa-4", 4), ("gqa-8", 8), ("GQA-4", 4), ("as-trained", 2),
])
def test_a_layout_names_its_number_of_kv_heads(text, kv_heads):
    assert parse_layout(text, model()).n_kv_heads == kv_heads


@pytest.mark.parametrize(("text", "message"), [
    ("gqa-3", "gqa-3: 3 KV heads do not divide the 8 query heads of tiny; K may be 1, 2, 4, 8"),
    ("gqa-16", "gqa-16: 16 KV heads do not divide the 8 query heads of tiny; K may be 1, 2, 4, 8"),
    ("gqa-0", "gqa-0: 0 KV heads do not divide the 8 query heads of tiny"),
    ("gqa", "unknown attention layout 'gqa': expected as-trained, mha, gqa-K, mqa, mla, gta-K, gla-K or gqla-K; did you mean"),
    ("gqa8", "unknown attention layout 'gqa8': expected as-trained, mha, gqa-K, mqa, mla, gta-K, gla-K or gqla-K; did you mean 'gqa-8'?"),
    ("gqa--8", "unknown attention layout"), ("gqa-1.5", "unknown attention layout"), ("gqa-\u0663", "unknown attention layout"),
    ("gqa-99999999999999999999", "unknown attention layout"), ("as_trained", "unknown attention layout 'as_trained'"),
    ("mla", "tiny was not trained with multi-head latent attention; expected as-trained, mha, gqa-K or mqa"),
    ("", "unknown attention layout ''"), ("x" * 10_000, "unknown attention layout 'xxx"),
])
def test_a_layout_that_the_model_cannot_have_is_refused_with_those_it_can(text, message):
    with pytest.raises(UserError) as caught:
        parse_layout(text, model())
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


@given(st.text() | st.integers(-5, 200).map("gqa-{}".format))
def test_any_layout_divides_the_query_heads_or_is_a_users_error(text):
    llama = load_model("llama-2-70b")
    try:
        layout = parse_layout(text, llama)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        return
    assert llama.n_q_heads % layout.n_kv_heads == 0


# --- cache formats ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "bits"), [
    ("bf16", 16), ("BF16", 16), ("fp8", 8), ("fp32", 32),
    ("int8", 8 + 16 / 128),            # an fp16 scale every 128 elements
    ("int4", 4 + 32 / 64),             # an fp16 scale and zero point every 64
    ("int2", 2 + 32 / 32),             # KIVI, arXiv 2402.02750: groups of 32
    ("int4-g128", 4 + 32 / 128), ("INT4-G32", 4 + 32 / 32), ("fp4", 4 + 8 / 16),  # NVFP4: an fp8 scale every 16
])
def test_an_element_costs_its_bits_and_its_share_of_the_scales(text, bits):
    assert parse_format(text).bytes_per_element * 8 == pytest.approx(bits, rel=1e-15)


@pytest.mark.parametrize("text", ["", "int3", "fp-8", "float16", "int4-g0", "int4-g", "int4-g1000000", "bf16-g64", "int4-g-1",
                                  "int4 -g64", "x" * 10_000, "int4-g\u0663"])
def test_an_unknown_format_is_refused_with_those_known(text):
    with pytest.raises(UserError) as caught:
        parse_format(text)
    assert "KV dtype '" in str(caught.value)
    assert "int4" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("text", "message"), [
    ("int4-g0", "KV dtype 'int4-g0': a group has at least 1 element"),
    ("bf16-g64", "KV dtype 'bf16-g64': bf16 shares no scale in groups"),
])
def test_a_wrong_group_is_refused_for_its_own_reason(text, message):
    with pytest.raises(UserError) as caught:
        parse_format(text)
    assert caught.value.message == message


@given(st.text() | st.tuples(st.sampled_from(sorted(FORMATS)), st.integers(0, 10**6)).map(lambda pair: f"{pair[0]}-g{pair[1]}"))
def test_any_format_costs_something_finite_or_is_a_users_error(text):
    try:
        cost_bytes = parse_format(text).bytes_per_element
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        return
    assert 0 < cost_bytes < math.inf


def test_a_model_file_may_be_any_yaml_that_has_its_meaning():
    block = yaml.safe_dump(yaml.safe_load(TINY), default_flow_style=False)
    assert model(block) == model()
