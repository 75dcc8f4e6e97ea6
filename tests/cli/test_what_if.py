"""A what-if is ``--set`` or a file of three lines, and every command that asks about a chip takes either."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from simkit.commands.main import main
from tests.reference_data import REPOSITORY

THREE_LINES = "schema_version: 1\nname: what-if\nextends: h100-sxm\nmemory: {hbm: {bandwidth: 6.7 TB/s}}\n"
TWICE = ("--set", "memory.hbm.bandwidth=6.7TB/s")  # H100's 3.35 TB/s twice
KERNELS = ("system,kv_dtype,head_dim,n_q_heads,n_kv_heads,batch,kv_len,latency_us_trtllm\n"
           "h100_sxm,bfloat16,128,64,8,32,2048,106.6\nh100_sxm,bfloat16,128,64,64,32,2048,696.7\n")
STUDY = """schema_version: 1
name: s
title: T
question: Q?
hardware: [CHIP]
labels: {CHIP: Mine}
models: [llama-3-8b]
layouts: [mha, gqa-8]
batch: 8
kv_len: 4k
focus: {batch: 8, kv_len: 4k}
figures: [{kind: kv_capacity}]
"""
ONE_STEP = ("-M", "llama-3-8b", "-A", "mha,gqa-8", "--batch", "8", "--kv-len", "4k")
JSON = ("--format", "json")
# A run of each command whose answer is about the chip that is written CHIP.
RUNS: dict[str, tuple[str, ...]] = {
    "report": ("study.yaml", "-o", "page"),
    "simulate": ("-H", "CHIP", *ONE_STEP, *JSON),
    "split": ("-H", "CHIP:1", "--ffn", "h100-sxm:1", "--between", "free", *ONE_STEP, *JSON),
    "attention": ("-H", "CHIP", "--n-q-heads", "32", "--n-kv-heads", "8", "--head-dim", "128", *JSON),
    "roofline": ("-H", "CHIP", *ONE_STEP, *JSON),
    "sweep": ("study.yaml", "-o", "points.csv"),
    "crossover": ("-H", "CHIP", "-M", "llama-3-8b", "-A", "gqa-8", "--below", "1.2", "--vary", "batch", *JSON),
    "capacity": ("-H", "CHIP", "-M", "llama-3-8b", "-A", "mha", "--kv-len", "4k", *JSON),
    "stack": ("mha", "gqa-8", "-H", "CHIP", "-M", "llama-3-8b", "--batch", "8", "--kv-len", "4k", *JSON),
    "serve": ("-H", "CHIP", "-M", "llama-3-8b", "--rate", "1", "--requests", "5", *JSON),
    "plan": ("-H", "CHIP", "-M", "llama-3-8b", "--rate", "1", "--requests", "5", "--slo-tpot", "1", "--tp", "1", *JSON),
    "design": ("-H", "CHIP", *ONE_STEP, "--elasticities", "--node", "n5", *JSON),
    "timeline": ("-H", "CHIP", "-M", "llama-3-8b", "-A", "gqa-8", "--batch", "1", "--kv-len", "256", "-o", "t.json"),
    "claims": ("--only", "speed-in-proportion", "-H", "CHIP", *JSON),
    "profile show": ("CHIP", *JSON),
    "profile check": ("CHIP",),
    "profile diff": ("h100-sxm", "CHIP", *JSON),
    "profile new": ("mine", "--like", "CHIP", "-o", "mine.yaml"),
    "model uptrain": ("llama-3-8b", "-A", "gqa-4", "-H", "CHIP", *JSON),
    "evidence silicon": ("-H", "CHIP", "--data", "kernels.csv", *JSON),
}
# These ask about no chip, name theirs in a table that they are given, or are run by tests of their own for their length.
OTHERS = {
    "profile list", "profile schema", "model list", "model show", "model import", "model convert", "calibrate host",
    "evidence published", "evidence host", "evidence serving", "evidence transfer", "evidence dram",
    "evidence accelerators", "evidence forecasts"}


def commands(group: click.Group = main, *path: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name))


@pytest.fixture
def asked(cli: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """``asked("simulate", chip)``: the command's run above in a folder with the files that it names."""
    (tmp_path / "kernels.csv").write_text(KERNELS, encoding="utf-8")
    folder = tmp_path / "my chips"
    folder.mkdir()
    (folder / "what if.yaml").write_text(THREE_LINES, encoding="utf-8")

    def ask(command: str, chip: str, *options: str) -> Result:
        (tmp_path / "study.yaml").write_text(STUDY.replace("CHIP", chip), encoding="utf-8")
        return cli(*command.split(), *(word.replace("CHIP", chip) for word in RUNS[command]), *options)

    return ask


def test_every_command_is_either_asked_here_or_asks_about_no_chip():
    assert set(commands()) == set(RUNS) | OTHERS


@pytest.mark.parametrize("command", RUNS)
def test_a_command_takes_a_profile_by_path(command, asked):
    answer = asked(command, "my chips/what if.yaml")
    if command == "profile check":  # H100's pins do not carry that
        assert answer.exit_code == 2
        assert "my chips/what if.yaml:4:16: memory.hbm.bandwidth: error: 6.7 TB/s" in answer.output
    else:
        assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize("command", sorted(set(RUNS) - {"profile check", "profile new"}))
def test_a_command_takes_a_figure_by_set(command, asked):
    assert asked(command, "h100-sxm", *TWICE).exit_code == 0
    wrong = asked(command, "h100-sxm", "--set", "memory.hbm.bandwith=1TB/s", *(
        ("--force",) if command in ("report", "sweep", "timeline") else ()))
    assert wrong.exit_code == 2
    assert "did you mean 'bandwidth'?" in wrong.output


@pytest.mark.parametrize("command", ["simulate", "attention", "crossover", "stack", "claims", "evidence silicon"])
def test_a_file_of_three_lines_and_set_give_the_same_answer(command, asked):
    def figures(answer: Result) -> list[dict[str, object]]:
        assert answer.exit_code == 0, answer.output
        named = {"hardware", "profile", "figure"}  # where the chip's name stands
        return [{key: value for key, value in record.items() if key not in named}
                for record in json.loads(answer.stdout)]

    by_set = figures(asked(command, "h100-sxm", *TWICE))
    assert figures(asked(command, "my chips/what if.yaml")) == by_set
    assert figures(asked(command, "h100-sxm")) != by_set


def test_a_list_after_set_is_its_values_side_by_side(cli):
    key, ask = "memory.hbm.bandwidth", ("-H", "h100-sxm,a100-sxm-80gb", *ONE_STEP, *JSON)
    found = json.loads(cli("simulate", *ask, "--set", f"{key}=500GB/s,1TB/s..4TB/s*4", "--chips", "1,2").stdout)
    assert [row["hardware"] for row in found[::2]] == 2 * [
        f"{chip}:{key}={value}" for chip in ("h100-sxm", "a100-sxm-80gb") for value in ("500GB/s", "1TB/s", "4TB/s")]
    for value in ("1TB/s", "4TB/s"):
        alone = json.loads(cli("simulate", *ask, "--set", f"{key}={value}", "--chips", "2").stdout)
        assert [{**row, "hardware": f"{row['hardware']}:{key}={value}"} for row in alone] == [
            row for row in found if row["hardware"].endswith(f"={value}") and row["chips"] == 2]


@pytest.mark.parametrize(("words", "message"), [
    (("stack", "mha", "--set", "memory.hbm.bandwidth=1TB/s,2TB/s"), "--set: one value of each key here"),
    (("simulate", "--set", "memory.hbm.bandwidth=1TB/s..2GB*2"), "'GB' and 'TB/s' do not measure the same"),
    (("simulate", "--set", "memory.hbm.bandwidth=4TB/s..1TB/s*2"), "needs stop >= start"),
    (("simulate", "-H", "h100-sxm,groq-lpu", "--set", "memory.hbm.bandwidth=1TB/s,2TB/s"), "(in groq-lpu)"),
    (("sweep", "study.yaml", "-o", "o.csv", "--set", "memory.hbm.bandwidth=1TB/s,2TB/s"), "(in groq-lpu)"),
    (("split", "-H", "h100-sxm:1", "--ffn", "groq-lpu:9", "--between", "free", "--set", "memory.hbm.bandwidth=1TB/s"),
     "(in groq-lpu)"),
    (("model", "uptrain", "llama-3-8b", "-A", "gqa-4", "-H", "h100-sxm", "--tokens", "15Q"), "15Q"),
    (("report", "study.yaml"), "no figures: this study can only be swept"),
])
def test_a_list_where_none_can_be_is_refused(words, message, cli, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("[CHIP]", "[CHIP, groq-lpu]").replace(
        "CHIP", "h100-sxm").partition("focus:")[0], encoding="utf-8")
    result = cli(*words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_folder_of_profiles_stands_before_the_catalogue_also_for_claims(cli, tmp_path):
    # TPU v3's 123 TFLOP/s twice: half the chip-days for the same share of pre-training.
    (tmp_path / "mine").mkdir()
    shipped = REPOSITORY / "hardware_profiles" / "tpu-v3.yaml"
    (tmp_path / "mine" / "tpu-v3.yaml").write_text(
        f'schema_version: 1\nname: tpu-v3\nextends: "{shipped}"\ncompute: {{matrix: {{peak: {{bf16: 246 TFLOP/s}}}}}}\n',
        encoding="utf-8")

    def days(*options: str) -> float:
        (record,) = json.loads(cli("claims", "--only", "uptraining-5", *JSON, *options).stdout)
        return record["found"]

    assert days("--profiles", "mine") == pytest.approx(days() / 2)
    assert days("--set", "compute.matrix.peak.bf16=246TFLOP/s") == pytest.approx(days() / 2)


def test_a_claim_about_one_machine_takes_one(cli):
    refused = cli("claims", "-H", "h100-sxm,groq-lpu")
    assert refused.exit_code == 2
    assert "reads-in-proportion is about one machine" in refused.output


def test_kernels_of_no_chip_that_was_named_are_refused_with_the_names_they_have(asked, cli, tmp_path):
    asked("evidence silicon", "h100-sxm")
    both = KERNELS + "a100_sxm,bfloat16,128,64,8,32,2048,206.6\n"
    (tmp_path / "both.csv").write_text(both, encoding="utf-8")
    refused = cli("evidence", "silicon", "--data", "both.csv", "-H", "my chips/what if.yaml")
    assert refused.exit_code == 2
    assert "the table has" in refused.output
    assert "h100_sxm" in refused.output
    (record, *_) = json.loads(cli("evidence", "silicon", "--data", "both.csv", "-H", "a100_sxm", *JSON).stdout)
    assert record["system"] == "a100_sxm"
