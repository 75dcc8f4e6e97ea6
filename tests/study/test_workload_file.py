"""Workload files: the words of the command line in YAML, read once, wrong at their line."""

import json

import pytest

from simkit.foundation.errors import UserError
from simkit.foundation.resources import shipped_folder
from simkit.study.workload_file import load_workload

SHIPPED = sorted(path.stem for path in shipped_folder("workloads").glob("*.yaml"))
HEAD = "schema_version: 1\nname: mine\n"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_workload_reads_and_runs(name, cli):
    result = cli("simulate", "-W", name, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert all(record["fits"] for record in json.loads(result.stdout))


def test_a_file_says_the_same_as_the_options_it_names(cli, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "model: llama-3-8b\nattention: [mha, gqa-8]\nbatch: [1, 4]\nkv_len: 8k\nkv_dtype: int4\n"
                    "eviction: h2o:512+512\npage: 16\nlengths: uniform:0.5\nattention_sharding: context\n", encoding="utf-8")
    by_file = cli("simulate", "-W", path, "--format", "json")
    by_words = cli("simulate", "-M", "llama-3-8b", "-A", "mha,gqa-8", "--batch", "1,4", "--kv-len", "8k", "--kv-dtype",
                   "int4", "--eviction", "h2o:512+512", "--page", "16", "--lengths", "uniform:0.5",
                   "--attention-sharding", "context", "--format", "json")
    assert by_file.exit_code == by_words.exit_code == 0, by_file.stderr + by_words.stderr
    assert json.loads(by_file.stdout) == json.loads(by_words.stdout)


def test_the_command_line_wins_over_the_file(cli):
    result = cli("simulate", "-W", "long-chat-int4", "--batch", "2", "-A", "mqa", "--format", "json")
    (record,) = json.loads(result.stdout)
    assert (record["batch"], record["attention"], record["kv_dtype"]) == (2, "mqa", "int4-g64")


@pytest.mark.parametrize(("line", "expected"), [
    ("evicton: h2o:1+1", ["3:1", "did you mean 'eviction'"]),
    ("eviction: h2o:1-1", ["3:1", "h2o:HEAVY+RECENT"]),
    ("kv_len: 4q", ["3:1", "not a number"]),
    ("model: llama-2-70bb", ["3:1", "did you mean 'llama-2-70b'"]),
    ("attention: [mha, gqa7]", ["3:1", "gqa-K"]),
    ("page: 0", ["3:1", "out of range"]),
    ("batch: true", ["3:1", "not text, a number or a list"]),
    ("speculation: draft=nothing,gamma=4,acceptance=0.5", ["3:1", "unknown model"]),
    ("attention_sharding: tokens", ["3:1", "heads, batch, context or data"]),
])
def test_a_slip_is_found_at_its_line(line, expected, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_workload(path)
    assert all(part in str(caught.value) for part in [str(path), *expected])


def test_layer_budgets_scale_the_kept_tokens_layer_by_layer(cli):
    def cache(*words: str) -> int:
        result = cli("simulate", "-M", "llama-2-7b", "-A", "mha", "--kv-len", "32k", "--eviction", "streaming:0+1024",
                     *words, "--format", "json")
        (record,) = json.loads(result.stdout)
        return record["kv_cache_bytes"]

    # Half of the 32 layers keep 1.5 x 1024 tokens and half 0.5 x 1024: the same bytes in all.
    assert cache("--layer-budgets", "1.5,0.5") == cache() == 32 * 32 * 128 * 2 * 2 * 1024
    assert cache("--layer-budgets", "0.5") == cache() // 2


def test_tokens_of_the_encoder_are_cached_as_those_of_the_decoder_are(cli, tmp_path):
    """T5 1.1 XXL: 24 decoder layers, 64 heads of 64, keys and values in bf16, both kinds of attention (arXiv 1910.10683)."""
    a_token = 24 * 64 * 64 * 2 * 2
    words = ("simulate", "-M", "t5-v1.1-xxl", "-A", "mha", "--batch", "8", "--kv-len", "128", "--format", "json")
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "encoder_len: 512\n", encoding="utf-8")
    for asked, tokens in (((), 128), (("--encoder-len", "512"), 128 + 512), (("-W", path), 128 + 512)):
        (record,) = json.loads(cli(*words, *asked).stdout)
        assert record["kv_cache_bytes"] == 8 * tokens * a_token


def test_encoder_tokens_without_cross_attention_are_refused(cli):
    result = cli("simulate", "-M", "llama-2-7b", "--encoder-len", "512")
    assert result.exit_code == 2
    assert "llama-2-7b has no cross-attention" in result.stderr
