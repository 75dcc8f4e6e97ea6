"""What pooling refuses, in words that say what to do, and with nothing left behind."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.model.convert import convert_checkpoint
from tests.conftest import RUN_TIMEOUT_S
from tests.model.checkpoints import weights


def fault(source: Path, output: Path, n_kv: int = 2, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        convert_checkpoint(source, output, n_kv, **options)
    left = [path.name for path in output.parent.iterdir() if "partial" in path.name]
    assert not left, "a failed conversion leaves nothing behind"
    return str(caught.value)


def test_head_counts_that_do_not_divide_are_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(4)
    for n_kv in (3, 8, 0, -1):
        assert "expected one of 1, 2, 4" in fault(source, tmp_path / "out", n_kv)
    assert not (tmp_path / "out").exists()


def test_unknown_methods_and_seeds_are_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(4)
    assert "did you mean 'mean'?" in fault(source, tmp_path / "out", method="meen")
    assert "seed -1: expected 0 or more" in fault(source, tmp_path / "out", seed=-1)


def test_an_existing_output_is_replaced_only_with_force_and_only_when_it_is_a_checkpoint(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint(8)
    convert_checkpoint(source, tmp_path / "out", 4)
    assert "exists already; --force replaces it" in fault(source, tmp_path / "out")
    convert_checkpoint(source, tmp_path / "out", 2, force=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["num_key_value_heads"] == 2
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x")
    assert "not a checkpoint folder" in fault(source, tmp_path / "photos", force=True)
    assert (tmp_path / "photos" / "one.jpg").exists()
    for folder in (source, source / ".." / "source", tmp_path):
        assert "would replace the source" in fault(source, folder, force=True)


def test_a_source_that_is_no_checkpoint_is_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    assert "absent/config.json: no such file" in fault(tmp_path / "absent", tmp_path / "out")
    source = checkpoint(8)
    (source / "model.safetensors").unlink()
    assert "no model.safetensors and no model.safetensors.index.json" in fault(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "deepseek_v3"}, "'deepseek_v3' cannot be pooled: expected llama"),
        ({"num_hidden_layers": 4}, "no layers.3.self_attn.q_proj.weight, in one of the 4 layers"),
        ({"num_attention_heads": 12}, "num_key_value_heads: 8 KV heads do not divide the 12"),
        ({"num_key_value_heads": 4}, "shape [64, 32]: expected [32, 32] from config.json"),
        ({"head_dim": 16}, "from config.json"),
        ({"rms_norm_eps": "x"}, "'x' is not a number above 0"),
        ({"rms_norm_eps": 0}, "0 is not a number above 0"),
    ],
)
def test_a_config_that_does_not_fit_the_tensors_is_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    assert expected in fault(checkpoint(8, tensors=weights(8), **changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("self_attn.qkv_proj.weight", np.zeros((4, 4), np.float32), "keys and values in one tensor"),
        ("self_attn.k_proj.weight", np.zeros((64, 32), np.int8), "stored as I8: expected unquantised"),
        ("self_attn.k_proj.weight_scale_inv", np.zeros((1, 1), np.float32), "expected unquantised"),
        ("self_attn.k_norm.weight", np.zeros(64, np.float32), "shape [64]: expected [8]"),
        ("self_attn.k_proj.bias", np.zeros(63, np.float32), "shape [63]: expected [64]"),
    ],
)
def test_tensors_that_cannot_be_pooled_are_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str, tensor: np.ndarray[Any, Any], expected: str
) -> None:
    source = checkpoint(8, tensors=weights(8) | {f"model.layers.1.{name}": tensor})
    assert expected in fault(source, tmp_path / "out")


def test_a_truncated_file_is_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(8)
    raw = (source / "model.safetensors").read_bytes()
    for length in (0, 4, 100, len(raw) - 1):
        (source / "model.safetensors").write_bytes(raw[:length])
        assert "not a whole safetensors file" in fault(source, tmp_path / "out")


@pytest.mark.parametrize("file", ["../model.safetensors", "a/b.safetensors", "..\\x.safetensors", "config.json", 7])
def test_an_index_that_leaves_its_folder_is_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, file: object
) -> None:
    source = checkpoint(8)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": file}}), encoding="utf-8")
    assert "is not the name of a .safetensors file beside the index" in fault(source, tmp_path / "out")


def test_an_index_that_disagrees_with_its_shards_is_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(8, shards=2)
    index = source / "model.safetensors.index.json"
    data = json.loads(index.read_text(encoding="utf-8"))
    data["weight_map"].pop("lm_head.weight")
    index.write_text(json.dumps(data), encoding="utf-8")
    assert "'lm_head.weight' is in only one of the index and" in fault(source, tmp_path / "out")
    index.write_text("{}", encoding="utf-8")
    assert "no weight_map" in fault(source, tmp_path / "out")


def test_an_unwritable_place_is_reported(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot read or write"):
        convert_checkpoint(checkpoint(8), tmp_path / "file" / "out", 2)


def test_without_the_extra_the_message_says_how_to_install_it(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['safetensors'] = None\n"
        "from simkit.foundation.errors import UserError\n"
        "from simkit.model.convert import convert_checkpoint\n"
        "try: convert_checkpoint(sys.argv[1], sys.argv[2], 2)\n"
        "except UserError as error: print(error)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, checkpoint(8), tmp_path / "out"], check=True,
                             capture_output=True, encoding="utf-8", timeout=RUN_TIMEOUT_S)
    assert "pip install 'simkit[checkpoints]'" in process.stdout
