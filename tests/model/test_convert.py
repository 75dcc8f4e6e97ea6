"""Pooling KV heads of small checkpoints that the tests write, against arithmetic done here and NumPy attention."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from simkit.model.architecture import count_parameters
from simkit.model.attention import parse_layout
from simkit.model.convert import convert_checkpoint
from simkit.model.convert_check import attention
from simkit.model.import_config import import_config
from simkit.model.tensor_files import NewTensor, decode, encode, read_entries, write_tensors
from tests.model.checkpoints import HEAD_DIM, HIDDEN, LAYERS, Tensors, config, weights


def test_mean_pooling_is_the_average_of_each_group_of_consecutive_heads(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint(8)
    convert_checkpoint(source, tmp_path / "out", 2)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for part in ("k", "v"):
        name = f"model.layers.1.self_attn.{part}_proj.weight"
        old, new = before[name].astype(np.float64), after[name]
        assert new.shape == (2 * HEAD_DIM, HIDDEN)
        # Row r of a new head is the mean of row r of heads 0-3, then of heads 4-7; float32 holds 24 bits.
        for head in range(2):
            rows = [old[(4 * head + member) * HEAD_DIM : (4 * head + member + 1) * HEAD_DIM] for member in range(4)]
            np.testing.assert_allclose(new[head * HEAD_DIM : (head + 1) * HEAD_DIM], sum(rows) / 4, rtol=2**-23)


def test_first_keeps_the_first_head_of_each_group(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(8)
    convert_checkpoint(source, tmp_path / "out", 4, method="first")
    name = "model.layers.0.self_attn.k_proj.weight"
    old, new = load_file(source / "model.safetensors")[name], load_file(tmp_path / "out" / "model.safetensors")[name]
    expected = old.reshape(4, 2, HEAD_DIM, HIDDEN)[:, 0].reshape(4 * HEAD_DIM, HIDDEN)
    np.testing.assert_array_equal(new, expected)


def test_random_heads_have_the_config_s_initial_spread_and_follow_the_seed(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint(8, initializer_range=0.5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert_checkpoint(source, tmp_path / name, 4, method="random", seed=seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    key = "model.layers.0.self_attn.v_proj.weight"
    np.testing.assert_array_equal(a[key], b[key])
    assert not np.array_equal(a[key], c[key])
    assert not np.array_equal(a[key], a[key.replace("v_proj", "k_proj")])
    # 1024 draws: the standard deviation's own is 0.5 / sqrt(2 x 1024) = 0.011; four of those.
    assert a[key].std() == pytest.approx(0.5, abs=0.044)


@pytest.mark.parametrize("method", ["mean", "first", "random"])
def test_only_keys_and_values_change_and_the_config_says_so(
    checkpoint: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    source = checkpoint(8, tensors=weights(8, biases=True, head_norms=True), model_type="qwen3",
                        architectures=["Qwen3ForCausalLM"])
    report = convert_checkpoint(source, tmp_path / "out", 2, method=method)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "k_proj" in name or "v_proj" in name:
            assert after[name].shape == (2 * HEAD_DIM, *tensor.shape[1:])
        else:
            np.testing.assert_array_equal(after[name], tensor)
    written = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    original = json.loads((source / "config.json").read_text(encoding="utf-8"))
    assert written == original | {"num_key_value_heads": 2}
    assert report.tensors_pooled == LAYERS * 4
    assert report.tensor_bytes_before - report.tensor_bytes == LAYERS * 2 * 6 * HEAD_DIM * (HIDDEN + 1) * 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json"]
    with safe_open(tmp_path / "out" / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_converted_config_imports_as_a_model_with_fewer_heads_and_parameters(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint(8)
    report = convert_checkpoint(source, tmp_path / "out", 2)
    before, after = (import_config(folder / "config.json", name="m").model for folder in (source, tmp_path / "out"))
    assert after.n_kv_heads == 2
    counts = [count_parameters(model, parse_layout("as-trained", model)).total for model in (before, after)]
    assert (counts[0] - counts[1]) * 4 == report.tensor_bytes_before - report.tensor_bytes


@pytest.mark.parametrize("n_kv", [8, 4, 2])
def test_as_many_heads_as_before_is_the_identity_byte_for_byte_and_in_attention(
    checkpoint: Callable[..., Path], tmp_path: Path, n_kv: int
) -> None:
    source = checkpoint(n_kv)
    report = convert_checkpoint(source, tmp_path / "out", n_kv)
    assert (tmp_path / "out" / "model.safetensors").read_bytes()[-1000:] == (
        source / "model.safetensors").read_bytes()[-1000:]
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert [check.layer for check in report.checks] == [0, 1, 2]
    for check in report.checks:
        assert check.identity_max_error == 0
        assert check.output_relative_error == 0


@pytest.mark.parametrize("extras", [{}, {"biases": True}, {"head_norms": True}])
def test_heads_that_are_alike_pool_without_changing_attention(
    checkpoint: Callable[..., Path], tmp_path: Path, extras: dict[str, bool]
) -> None:
    """A GQA-2 model written out as MHA pools back into itself: the order of heads is right, biases included."""
    grouped = weights(2, **extras)
    spread = {
        name: np.repeat(tensor.reshape(2, HEAD_DIM, *tensor.shape[1:]), 4, axis=0).reshape(-1, *tensor.shape[1:])
        if ".k_proj" in name or ".v_proj" in name else tensor
        for name, tensor in grouped.items()
    }
    source = checkpoint(8, tensors=spread)
    report = convert_checkpoint(source, tmp_path / "out", 2)
    after = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in grouped.items():
        np.testing.assert_array_equal(after[name], tensor)
    for check in report.checks:
        assert check.output_relative_error < 1e-14


def test_pooling_changes_attention_less_the_more_heads_are_kept(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint(8)
    changes = [
        convert_checkpoint(source, tmp_path / f"out{k}", k).checks[0].output_relative_error for k in (8, 4, 2, 1)
    ]
    assert changes == sorted(changes)
    assert changes[0] == 0
    assert changes[1] > 0.1  # independent random heads share nothing


def test_a_gqa_checkpoint_pools_further_as_its_mha_original_would(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint(8)
    convert_checkpoint(source, tmp_path / "four", 4)
    convert_checkpoint(tmp_path / "four", tmp_path / "four_two", 2)
    convert_checkpoint(source, tmp_path / "two", 2)
    stepwise, direct = (load_file(tmp_path / name / "model.safetensors") for name in ("four_two", "two"))
    for name, tensor in direct.items():
        # Means below 0.5 in float32 are rounded once more on the way, by at most half of 2^-24.
        np.testing.assert_allclose(stepwise[name], tensor, rtol=2**-23, atol=2**-25)


def test_shards_keep_their_files_and_the_index_its_total(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(8, shards=3)
    report = convert_checkpoint(source, tmp_path / "out", 1)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    before = json.loads((source / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"] == before["weight_map"]
    tensors: Tensors = {}
    for file in set(index["weight_map"].values()):
        tensors |= load_file(tmp_path / "out" / file)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values()) == report.tensor_bytes


@pytest.mark.parametrize("method", ["mean", "random"])
def test_sharding_does_not_change_the_result(checkpoint: Callable[..., Path], tmp_path: Path, method: str) -> None:
    source = checkpoint(8, shards=3)
    convert_checkpoint(source, tmp_path / "sharded", 2, method=method)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file({name: tensor for file in sorted(source.glob("*.safetensors")) for name, tensor in load_file(file).items()},
              whole / "model.safetensors")
    convert_checkpoint(whole, tmp_path / "single", 2, method=method)
    single = load_file(tmp_path / "single" / "model.safetensors")
    for file in (tmp_path / "sharded").glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            np.testing.assert_array_equal(tensor, single[name])


def as_bf16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The upper halves of float32, cut off: values that bfloat16 holds exactly."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_is_pooled_without_torch(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config(8)), encoding="utf-8")
    halves = {name: as_bf16(tensor) for name, tensor in weights(8).items()}
    write_tensors(source / "model.safetensors", [
        NewTensor(name=name, dtype="BF16", shape=half.shape, length_bytes=half.nbytes, pieces=[half.tobytes()])
        for name, half in halves.items()], {})
    report = convert_checkpoint(source, tmp_path / "out", 4)
    entries = {entry.name: entry for entry in read_entries(tmp_path / "out" / "model.safetensors")[0]}
    name = "model.layers.2.self_attn.v_proj.weight"
    assert entries[name].dtype == "BF16"
    old = decode(halves[name].tobytes(), "BF16").reshape(4, 2, HEAD_DIM, HIDDEN)
    # bfloat16 has 8 bits of significand: half a unit in the last place is 2^-9 of the value.
    np.testing.assert_allclose(entries[name].rows(0, 4 * HEAD_DIM).reshape(4, HEAD_DIM, HIDDEN), old.mean(axis=1),
                               rtol=2**-8, atol=0)
    assert report.checks[0].identity_max_error == 0


@given(st.floats(width=32, allow_nan=False))
def test_bfloat16_rounds_to_the_nearest_even(value: float) -> None:
    """Against exact rational arithmetic on the two neighbours in bfloat16."""
    got = float(decode(encode(np.array([value]), "BF16"), "BF16")[0])
    bits = int(np.float32(value).view(np.uint32))
    if np.isinf(value):
        assert got == value
        return
    below = np.array([bits & 0xFFFF0000], dtype=np.uint32).view(np.float32)[0]
    with np.errstate(over="ignore"):
        above = np.array([(bits & 0xFFFF0000) + 0x10000], dtype=np.uint32).view(np.float32)[0]
    low, high = bits & 0xFFFF, 0x10000 - (bits & 0xFFFF)
    even = below if not (bits >> 16) & 1 else above
    expected = below if low < high else above if high < low else even
    assert got == expected


def test_bfloat16_rounds_a_double_once() -> None:
    """1 + 2^-8 is half way between two bfloat16 numbers; the least bit of a double above it must round up."""
    assert decode(encode(np.array([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40)]), "BF16"), "BF16").tolist() == [
        1.0078125, -1.0078125]
    assert decode(encode(np.array([1 + 2**-8, 1 + 3 * 2**-8]), "BF16"), "BF16").tolist() == [1.0, 1.015625]


def test_float16_is_pooled(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(8, tensors={name: tensor.astype(np.float16) for name, tensor in weights(8).items()})
    convert_checkpoint(source, tmp_path / "out", 4)
    tensor = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
    assert tensor.dtype == np.float16
    assert tensor.shape == (4 * HEAD_DIM, HIDDEN)


def test_attention_is_what_a_loop_over_tokens_computes() -> None:
    random = np.random.default_rng(3)
    queries, keys, values = random.normal(size=(4, 5, 6)), random.normal(size=(2, 5, 6)), random.normal(size=(2, 5, 6))
    result = attention(queries, keys, values)
    for token in range(5):
        for head in range(4):
            kv = head // 2
            weight = np.exp([queries[head, token] @ keys[kv, past] / 6**0.5 for past in range(token + 1)])
            expected = sum(w * values[kv, past] for past, w in enumerate(weight)) / weight.sum()
            np.testing.assert_allclose(result[token, head * 6 : head * 6 + 6], expected, rtol=1e-12)


def test_memory_stays_far_below_the_checkpoint(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config(8, vocab_size=400_000)), encoding="utf-8")
    tensors = weights(8) | {name: np.zeros((400_000, HIDDEN), np.float32)
                            for name in ("lm_head.weight", "model.embed_tokens.weight")}
    save_file(tensors, source / "model.safetensors")
    del tensors
    tracemalloc.start()
    convert_checkpoint(source, tmp_path / "out", 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest_tensor_bytes = 400_000 * HIDDEN * 4
    assert peak < largest_tensor_bytes / 2
