"""Attention kinds: none can be made with an answer missing or with answers that disagree, and nobody asks which one it is."""

from dataclasses import replace

import pytest

from simkit.foundation.errors import UserError
from simkit.model.architecture import count_parameters, group_layout
from simkit.model.attention import parse_layout
from simkit.model.catalog import list_models, load_model
from simkit.model.kinds.base import AttentionLayout, Read, StoredArray, every_token
from simkit.model.kinds.catalogue import KINDS
from simkit.model.kinds.heads import Heads
from simkit.study.point import decode_step
from tools.docs.import_graph import internal_imports

MODELS = [model for model in list_models() if model.head_dim % 2 == 0]
ANSWERS = sorted(AttentionLayout.__abstractmethods__)
LLAMA = load_model("llama-2-70b")


def layouts_on(model):
    """Every layout that the model takes, two numbers of heads for each kind that has one."""
    named = [form.replace("-K", f"-{k}") for kind in KINDS for form in kind.forms for k in (1, model.n_q_heads)]
    found = []
    for name in dict.fromkeys(named):
        try:
            found.append(parse_layout(name, model))
        except UserError:
            assert model.cross_attention or (name == "mla" and model.mla is None), name
    return found


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_kind_that_leaves_an_answer_out_cannot_be_made(answer):
    complete = {name: getattr(Heads, name) for name in ANSWERS}
    del complete[answer]
    silent = type("Silent", (AttentionLayout,), complete)
    with pytest.raises(TypeError, match=f"abstract method.* '?{answer}"):
        silent(name="silent", hidden_size=8, n_q_heads=2, n_kv_heads=1)


def test_a_kind_must_answer_what_the_issue_lists():
    assert {"arrays", "reads", "projections", "core", "prefill_core", "writes", "refuses"} <= set(ANSWERS)


def contradicting(**answers):
    kind = type("Contradicting", (Heads,), {name: property(lambda _, value=value: value) for name, value in answers.items()})
    return kind(name="mqa", hidden_size=8, n_q_heads=2, n_kv_heads=1, head_dim=4)


HONEST = parse_layout("mqa", replace(LLAMA, hidden_size=8, n_q_heads=2, n_kv_heads=1, head_dim=4))
WIDER = StoredArray(name="key", elements=5, role="key", shared=False, stored_tokens=every_token)


@pytest.mark.parametrize(("answers", "complaint"), [
    ({"arrays": ()}, "keeps"),
    ({"arrays": (WIDER, WIDER)}, "different names"),
    ({"reads": HONEST.reads[:1]}, "stores .* and reads"),
    ({"reads": tuple(Read(array=array, tokens=every_token, pattern="at random") for array in HONEST.arrays)}, "no engine knows"),
    ({"arrays": (WIDER, HONEST.arrays[1])}, "stores 5 elements of key, and projects"),
    ({"projections": HONEST.projections[:2] + HONEST.projections[3:]}, "stores 4 elements of value, and projects"),
    ({"projections": HONEST.projections[:3]}, "no output projection"),
    ({"refuses": {"rain": "falls"}}, "refuses what is not in"),
])
def test_a_kind_whose_answers_disagree_cannot_be_made(answers, complaint):
    with pytest.raises(TypeError, match=complaint):
        contradicting(**answers)


def test_nobody_but_the_catalogue_knows_a_kind():
    kinds = {kind.__module__ for kind in KINDS}
    asking = [str(item) for item in internal_imports() if item.target in kinds
              and not item.importer.startswith("simkit.model.kinds.")]
    assert not asking, "\n".join(asking)


@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.name)
def test_exactly_one_kind_is_the_one_that_a_model_was_trained_with(model):
    assert sum(kind.as_trained("as-trained", model.shape) is not None for kind in KINDS) == 1


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_layout_can_be_asked_for_by_its_label_and_no_two_kinds_spell_a_name(model):
    for layout in layouts_on(model):
        assert parse_layout(layout.label, model) == replace(layout, name=layout.label)
        assert sum(kind.spells(layout.label) for kind in KINDS) == 1


def test_a_tied_state_and_half_a_key_are_little_more_than_half_of_ordinary_heads():
    """arXiv 2505.21487: GTA roughly halves the cache of GQA with as many groups; d_h/2 of it is the rotary half."""
    tied, grouped = parse_layout("gta-8", LLAMA), parse_layout("gqa-8", LLAMA)
    assert tied.elements_per_token == 8 * 128 + 64
    assert grouped.elements_per_token == 2 * 8 * 128
    assert tied.core == grouped.core


def test_two_grouped_latents_are_the_latent_of_mla_divided():
    """GLA-2 (arXiv 2505.21487, and its kernels' example): 2 latents of 256 and a rotary key of 64 for MLA's 512 + 64."""
    model = load_model("deepseek-v2")
    two, one = parse_layout("gla-2", model), parse_layout("mla", model)
    assert two.elements_per_token == one.elements_per_token == 576
    assert (two.core.key_dim, two.core.value_dim) == (256 + 64, 256)
    # Each query head's up-projections are half as long, and nothing else changes.
    difference = count_parameters(model, one).total - count_parameters(model, two).total
    assert difference == model.n_layers * model.n_q_heads * 256 * (128 + 128)


def test_a_group_s_keys_and_values_of_gqla_are_made_of_one_latent_and_kept_apart():
    """arXiv 2605.15250: 512 + 64 of a token on the other path are 28.125 % of GQA-8's 2048; here 8 groups keep what GQA keeps."""
    kept, model = parse_layout("gqla-8", LLAMA), load_model("llama-3-8b")
    assert kept.elements_per_token == 2 * 8 * 128 + 64
    assert (512 + 64) / parse_layout("gqa-8", model).elements_per_token == 0.28125
    made = {p.makes: p.rows * p.columns for p in kept.projections if p.makes}
    assert made == {"key": 512 * 128, "value": 512 * 128, "rotary": 8192 * 64}
    assert (kept.core.key_dim, kept.core.value_dim) == (128 + 64, 128)


def test_projections_are_those_of_the_authors_models():
    """modeling_llama_GTA.py: q n·d, kv K·d, rope d/2, o. modeling_llama_GLA.py: dQ 8d, uQ n·1.5d, dKV 4d + d/2, ukv 2 x 2d·n·d, o."""
    wide, n, d = 8192, 64, 128

    def count(name):
        return sum(p.rows * p.columns * {"query": n, "kv": parse_layout(name, LLAMA).n_kv_heads, "one": 1}[p.heads]
                   for p in parse_layout(name, LLAMA).projections)

    assert count("gta-8") == wide * n * d + wide * 8 * d + wide * d // 2 + n * d * wide
    assert count("gla-2") == (wide * 8 * d + 8 * d * n * (d + d // 2) + wide * (4 * d + d // 2)
                              + 2 * (2 * d) * (n * d) + n * d * wide)


@pytest.mark.parametrize(("name", "changes", "complaint"), [
    ("gta-8", {"kv_dtype": "int8/int4"}, "caches one state that is both key and value"),
    ("gla-2", {"kv_dtype": "int8/int4"}, "caches latents that are both key and value"),
    ("gta-8", {"eviction": "h2o:512+512"}, "shares a rotary key among KV heads"),
    ("gla-2", {"eviction": "snapkv:512+512"}, "shares a rotary key among latent heads"),
    ("gqla-2", {"eviction": "h2o:512+512"}, "shares a rotary key among groups"),
    ("gta-7", {}, "7 KV heads do not divide the 64 query heads"),
    ("gta", {}, "unknown attention layout 'gta'"),
])
def test_what_does_not_compose_is_refused_with_its_reason(name, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        decode_step("h100-sxm", "llama-2-70b", attention=name, batch=1, kv_len=4096, chips=8, **changes)


def test_one_group_has_no_other_head_to_disagree_with():
    found = decode_step("h100-sxm", "llama-2-70b", attention="gta-1", batch=1, kv_len=4096, chips=8, eviction="h2o:512+512")
    assert found["kv_cache_bytes"] == 80 * 1024 * (128 + 64) * 2


def test_an_encoder_decoder_and_an_odd_head_have_no_rotary_half():
    with pytest.raises(UserError, match="has cross-attention"):
        parse_layout("gta-8", load_model("t5-v1.1-xxl"))
    with pytest.raises(UserError, match="heads of 5 elements"):
        parse_layout("gla-1", replace(LLAMA, head_dim=5))


def test_a_projection_belongs_to_a_product_or_to_an_expansion():
    for model in MODELS:
        for layout in layouts_on(model):
            lone = [p for p in layout.projections if not p.product]
            assert bool(lone) == (layout.core.expansion is not None)
            if lone:
                assert sum(p.rows * p.columns for p in lone) == layout.core.expansion.rank * layout.core.expansion.columns


def test_layers_with_other_query_heads_are_grouped_as_closely_as_the_rest():
    """Step-3.7-Flash: 64 query heads in global layers, 96 in those with a window."""
    model = load_model("step-3.7-flash")
    for name, heads in (("gqa-8", {(64, 8), (96, 8)}), ("gqa-64", {(64, 64), (96, 96)}), ("mha", {(64, 64), (96, 96)}), ("mqa", {(64, 1), (96, 1)})):
        found = [group_layout(model, parse_layout(name, model), group) for group in model.attending_groups]
        assert {(one.n_q_heads, one.n_kv_heads) for one in found} == heads
