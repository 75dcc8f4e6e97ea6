"""``simkit model``: what it lists, shows and imports."""

import json

import pytest

from tests.reference_data import REPOSITORY

MODELS = sorted((REPOSITORY / "workloads" / "models").glob("*.yaml"), key=lambda path: path.stem)
# config.json of meta-llama/Llama-2-7b-hf, the fields that give its shape.
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "hidden_act": "silu", "rms_norm_eps": 1e-05, "tie_word_embeddings": False,
    "torch_dtype": "float16",
}


def records_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_list_names_every_file_of_the_catalogue(cli):
    names = [record["name"] for record in records_of(cli("model", "list", "--format", "json"))]
    assert names == [path.stem for path in MODELS]


def test_list_gives_a_token_s_cache_as_trained(cli):
    """Llama-2-70B: 80 layers x 8 heads x 128 x 2 x 2 bytes; DeepSeek-V3: 61 layers x (512 + 64) x 2 bytes."""
    found = {record["name"]: record for record in records_of(cli("model", "list", "--format", "json"))}
    assert found["llama-2-70b"]["kv_bytes_per_token"] == 80 * 8 * 128 * 2 * 2
    assert found["deepseek-v3"]["kv_bytes_per_token"] == 61 * (512 + 64) * 2
    assert found["falcon-7b"]["attention"] == "mqa"
    assert found["deepseek-v3"]["attention"] == "mla"


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_can_be_shown(cli, path):
    text = cli("model", "show", path.stem).stdout
    assert text.startswith(f"{path.stem}: ")
    assert "kv_bytes_per_token" in text


def test_an_imported_config_gives_the_catalogue_s_shape_and_runs(cli, tmp_path):
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_2_7B), encoding="utf-8")
    result = cli("model", "import", folder / "config.json", "--name", "mine", "-o", "mine.yaml")
    assert result.exit_code == 0, result.stderr
    imported, shipped = (records_of(cli("simulate", "-M", name, "-A", "mha,mqa", "--format", "json"))
                         for name in ("mine.yaml", "llama-2-7b"))
    assert [record["step_time_s"] for record in imported] == [record["step_time_s"] for record in shipped]


def test_an_unknown_field_of_a_config_is_named_and_not_guessed(cli, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B | {"quantum_heads": 3}), encoding="utf-8")
    result = cli("model", "import", "config.json", "--name", "mine")
    assert result.exit_code == 2  # heads of any kind are felt by a step
    assert "quantum_heads" in result.stderr
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B | {"favourite_colour": 3}), encoding="utf-8")
    result = cli("model", "import", "config.json", "--name", "mine")
    assert result.exit_code == 0
    assert "favourite_colour" in result.stderr
    assert "favourite_colour" not in result.stdout


def test_a_config_of_an_unknown_family_is_refused(cli, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv"}), encoding="utf-8")
    result = cli("model", "import", "config.json", "-o", "x.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: config.json")
    assert not (tmp_path / "x.yaml").exists()


def test_convert_refuses_a_folder_that_holds_no_checkpoint(cli, tmp_path):
    result = cli("model", "convert", tmp_path / "nothing", "--n-kv-heads", "8", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_uptraining_is_priced_on_a_profile(cli):
    # 0.05 x 6 x P x D flops (Ainslie et al. 2023); Llama-2-7B with 8 KV heads keeps 5.93 billion of 6.74 billion
    # parameters; 2e12 tokens; chip time over 0.4 of 989 TFLOP/s.
    result = cli("model", "uptrain", "llama-2-7b", "-A", "gqa-8", "-H", "h100-sxm", "--format", "json")
    (record,) = json.loads(result.output)
    flops = 0.05 * 6 * 5.93e9 * 2e12
    assert record["uptraining_flops"] == pytest.approx(flops, rel=0.01)
    assert record["chip_hours"] == pytest.approx(flops / (0.4 * 989e12) / 3600, rel=0.01)
    assert record["cost_usd"] == pytest.approx(record["chip_hours"] * 1.9, rel=0.01)
