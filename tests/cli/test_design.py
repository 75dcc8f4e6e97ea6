"""``simkit design``: tables, records, figures, files of every design that are resumed, and what it refuses."""

import csv
import json

import pytest

RANGE = ("--set", "memory.hbm.bandwidth=1TB/s..8TB/s*2")
ASK = ("design", "-H", "h100-sxm", "-M", "llama-3-8b", "-A", "mha,gqa-8", "--chips", "1", "--batch", "8", *RANGE)


def test_the_best_design_is_what_simulate_says_of_that_chip(cli):
    told = cli(*ASK, "--budget-mm2", "830", "--format", "json")
    assert told.exit_code == 0, told.stderr
    records = json.loads(told.stdout)
    assert {one["attention"] for one in records} == {"mha", "gqa-8"}
    for one in records:
        assert one["mm2"] <= 830
        (alone,) = json.loads(cli("simulate", "-H", "h100-sxm", "-M", "llama-3-8b", "-A", one["attention"], "--chips", "1",
                                  "--batch", "8", "--set", f"memory.hbm.bandwidth={one['memory.hbm.bandwidth']!r} B/s",
                                  "--format", "json").stdout)
        assert one["step_time_s"] == pytest.approx(alone["step_time_s"], rel=1e-12)


def test_the_table_says_what_silicon_and_prices_rest_on(cli):
    told = cli("design", "-H", "a100-sxm-80gb", "-M", "llama-3-8b", "-A", "gqa-8", *RANGE)
    assert told.exit_code == 0, told.stderr
    assert "silicon of its published 826 mm2" in told.stdout
    assert "no price, ranked by silicon and watts" in told.stdout


@pytest.mark.parametrize(("more", "said"), [
    (("--budget-mm2", "300"), "763 mm2 at least, 2.54 times the 300 allowed"),
    (("-H", "h100-sxm,groq-lpu"), "groq-lpu has no such parameter"),
    (("--set", "overheads.kernel_launch=1us..2us"), "a range without a step"),
    (("--node", "5nm"), "expected one of n16"),
    (("--every", "designs.csv", "--resume", "--force"), "--resume and --force"),
])
def test_what_cannot_be_answered_is_one_line(cli, more, said):
    told = cli(*ASK, *more)
    assert told.exit_code == 2
    assert said in told.stderr


def test_every_design_goes_into_a_file_once_and_a_killed_run_goes_on(cli, tmp_path, monkeypatch):
    from simkit.sweep import part_plan, sweep_run

    monkeypatch.setitem(part_plan.PART_POINTS, True, 64)
    ask = (*ASK[:-2], "--set", "memory.hbm.bandwidth=1TB/s..8TB/s", "--sample", "300")
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    assert cli(*ask, "--every", str(whole)).exit_code == 0
    write, left = sweep_run._write_whole, [4]

    def killed(path, content):
        if path.name.startswith("part-"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(sweep_run, "_write_whole", killed)
    assert cli(*ask, "--every", str(part)).exit_code != 0
    monkeypatch.setattr(sweep_run, "_write_whole", write)
    assert cli(*ask, "--every", str(part), "--resume").exit_code == 0
    assert part.read_bytes() == whole.read_bytes()
    assert len(list(csv.DictReader(whole.read_text(encoding="utf-8").splitlines()))) == 2 * 300
    other = cli(*ask[:-1], "299", "--every", str(part), "--resume")
    assert other.exit_code == 2
    assert "has changed" in other.stderr


@pytest.mark.parametrize("more", [("--set", "memory.hbm.latency=100ns..1us"), ("--front",)])
def test_figures_are_drawn(cli, tmp_path, more):
    told = cli(*ASK, *more, "-o", str(tmp_path / "figure.svg"))
    assert told.exit_code == 0, told.stderr
    assert "<svg" in (tmp_path / "figure.svg").read_text(encoding="utf-8")


def test_lines_of_equal_advantage_need_two_figures(cli, tmp_path):
    told = cli(*ASK, "-o", str(tmp_path / "figure.svg"))
    assert told.exit_code == 2
    assert "over two parameters, and 1 are given" in told.stderr


def test_the_model_stands_beside_published_dies(cli):
    told = cli("design", "--check-model")
    assert told.exit_code == 0
    assert "in the geometric mean" in told.stdout
    assert "h100-sxm" in told.stdout
