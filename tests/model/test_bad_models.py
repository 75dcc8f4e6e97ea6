"""Wrong model files: every one of tests/bad_models is told at its line, and no other one brings a traceback."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.model.catalog import list_models, load_model
from simkit.model.schema import model_from_yaml
from tests.bad_files import JARGON, assert_tells_every_fault, bad_files

FULL = """\
schema_version: 1
name: full
title: Every key in use
layers: 6
hidden_size: 512
vocab_size: 32000
tied_embeddings: true
attention:
  n_q_heads: 8
  n_kv_heads: 2
  head_dim: 64
  sliding_window: 1024
  pattern: [local, global]
  mla: {kv_lora_rank: 512, rope_head_dim: 64, nope_head_dim: 128, v_head_dim: 128, q_lora_rank: 1536}
mlp: {size: 1024, gated: true}
moe: {experts: 8, top_k: 2, expert_size: 64, shared_size: 64, gated: true, first_dense_layers: 1}
parallel_block: false
learned_positions: 2048
max_context: 4096
params_published: 7e9
pretraining_tokens: 2e12
source: a paper
notes: [one, two]
"""


@pytest.mark.parametrize("path", bad_files("bad_models"), ids=lambda path: path.stem)
def test_a_wrong_model_is_refused_at_its_line_and_key_with_what_was_expected(path):
    assert_tells_every_fault(path, load_model)


def test_the_bad_models_are_found():
    assert len(bad_files("bad_models")) >= 30


@pytest.mark.parametrize(("name", "message"), [
    ("llama-2-70B", "unknown model 'llama-2-70B'; did you mean 'llama-2-70b'"),
    ("llama2-70b", "unknown model 'llama2-70b'; did you mean 'llama-2-70b'"),
    ("405b", "unknown model '405b'; did you mean 'llama-3.1-405b'?"),
    ("llama-2-70b.yaml", "no such model file 'llama-2-70b.yaml'; did you mean 'llama-2-70b'"),
    ("", "model: a name or a path is missing"), ("meta-llama/Llama-2-70b-hf", "no such model file 'meta-llama/Llama-2-70b-hf'"),
    ("x" * 300 + ".yaml", "no such model file 'xxx"),
])
def test_an_unknown_model_is_one_line_with_the_nearest_known_name(name, message):
    with pytest.raises(UserError) as caught:
        load_model(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_folder_of_models_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        load_model("llama-2-70b", models=tmp_path / "gone")


def test_a_model_of_the_users_folder_wins(tmp_path, monkeypatch):
    (tmp_path / "llama-2-70b.yaml").write_text(FULL, encoding="utf-8")
    assert load_model("llama-2-70b", models=tmp_path).name == "full"
    monkeypatch.setenv("SIMKIT_MODELS", str(tmp_path))
    assert load_model("llama-2-70b").name == "full"
    assert "full" in {model.name for model in list_models()}


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.lists(st.integers(), max_size=2),
    st.sampled_from([0, -1, 10**18, 10**40, 1e308, "nan", "1e999", "8.0", 8.0, "yes", "x" * 5000, "\ud800", {"value": 3}, {}]))


def every_path(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = node.items() if isinstance(node, dict) else ()
    return [path] * bool(path) + [deeper for key, value in inner for deeper in every_path(value, (*path, key))]


PATHS = every_path(yaml.safe_load(FULL))


@given(st.lists(st.tuples(st.sampled_from(PATHS), st.none() | VALUES | st.just("delete") | st.just("rename")), min_size=1, max_size=3))
def test_a_valid_model_with_slips_loads_or_is_a_users_error_with_file_and_line(slips):
    document = yaml.safe_load(FULL)
    for path, slip in slips:
        node = document
        for part in path[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            continue
        if slip == "delete":
            node.pop(path[-1], None)
        elif slip == "rename":
            node[path[-1] + "_"] = node.pop(path[-1], None)
        else:
            node[path[-1]] = slip
    try:
        model = model_from_yaml(parse_yaml(yaml.safe_dump(document, allow_unicode=True), file="m.yaml"))
    except UserError as error:
        for line in str(error).splitlines():
            assert line.startswith("m.yaml:")
            ours = line.split(": ", 2)[-1].split("'")[::2]
            assert line.isprintable()
            assert not JARGON.search(" ".join(ours)), line
        return
    assert model.n_layers >= 1


@given(st.text())
def test_any_text_in_place_of_a_model_is_a_users_error(text):
    with pytest.raises(UserError):
        model_from_yaml(parse_yaml(text, file="m.yaml"))
