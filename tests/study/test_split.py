"""The solver of two pools: its answer is that of brute force, and physics says where attention goes."""

import csv
import json
from itertools import product

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.report.drawing.study_points import evaluate, grid_records, scalar
from simkit.step.workload import PARTS
from simkit.study.point import decode_step
from simkit.study.split import split_records
from simkit.study.study_file import load_study

H100, LPU, LLAMA = load_hardware("h100-sxm"), load_hardware("groq-3-lpu"), load_model("llama-2-70b")


def solved(layout="gqa-8", *, batch=(16,), kv_len=(4096,), between="400GB/s,2us", chips=(8, 256), **asked):
    """The best assignment of every point on H100s and LPUs."""
    return split_records(H100, LPU, chips, LLAMA, [layout], batch=batch, kv_len=kv_len, between=between,
                         weight_dtype="fp8", **asked)


def test_the_fastest_assignment_is_that_of_brute_force_over_parts_pools_and_micro_batches():
    (found,) = solved("mqa", batch=(6,), kv_len=(200_000,), chips=(8, 160))
    steps = {}
    for on in product((0, 1), repeat=4):
        first, second = ((H100, 8), (LPU, 160)) if on[0] == 0 else ((LPU, 160), (H100, 8))
        same = {"attention": "mqa", "batch": 6, "kv_len": 200_000, "weight_dtype": "fp8", "chips": first[1],
                "baseline": False, "fields": ("step_time_s",)}
        kept = [part for part, pool in zip(PARTS, on, strict=True) if pool == on[0]]
        if len(kept) == len(PARTS):
            steps[on, 1] = decode_step(first[0], LLAMA, **same)["step_time_s"].item()
            continue
        for count in range(1, 7):
            steps[on, count] = decode_step(
                first[0], LLAMA, **same, ffn=second, between="400GB/s,2us", micro_batches=count,
                with_attention=",".join(kept[1:]) or "none")["step_time_s"].item()
    (on, count), step_s = min(((key, s) for key, s in steps.items() if not np.isnan(s)), key=lambda item: item[1])
    assert found["step_time_s"] == pytest.approx(step_s, rel=1e-9)
    names = tuple(("h100-sxm", "groq-3-lpu")[pool] for pool in on)
    assert tuple(found[f"{part}_on"] for part in PARTS) == names
    assert found["micro_batches"] == count


def test_attention_leaves_the_lpu_when_its_memory_is_full_and_fewer_heads_keep_it_there_longer():
    contexts = (2048, 8192, 32768, 131072)
    stays = {layout: [one["kv_len"] for one in solved(layout, kv_len=contexts) if one["attention_on"] == "groq-3-lpu"]
             for layout in ("mha", "gqa-8", "mqa")}
    assert stays == {"mha": [], "gqa-8": [2048, 8192], "mqa": list(contexts[:3])}
    left = solved("gqa-8", kv_len=(32768,))[0]
    assert (left["attention_on"], left["ffn_on"]) == ("h100-sxm", "groq-3-lpu")
    assert left["second_alone_step_time_s"] is None
    assert left["step_time_s"] < left["first_alone_step_time_s"]


def test_a_slow_link_leaves_all_of_a_step_on_one_pool():
    (found,) = solved(kv_len=(32768,), between="1GB/s,1ms")
    assert {found[f"{part}_on"] for part in PARTS} == {"h100-sxm"}
    assert found["step_time_s"] == found["first_alone_step_time_s"]


def test_commands_tell_the_pools_and_refuse_what_they_cannot_answer(cli, tmp_path):
    pools = ("-H", "h100-sxm:8", "--ffn", "groq-3-lpu:256", "--weight-dtype", "fp8", "-A", "gqa-8")
    said = cli("split", *pools, "--kv-len", "4k,32k").stdout
    assert "attention is best on groq-3-lpu up to 4096 tokens, on h100-sxm from 32768" in said
    (row,) = json.loads(cli("simulate", *pools, "--between", "400GB/s,2us", "--format", "json").stdout)
    assert (row["hardware"], row["chips"], row["ffn_hardware"], row["ffn_chips"]) == ("h100-sxm", 8, "groq-3-lpu", 256)
    (tmp_path / "two.yaml").write_text('schema_version: 1\nname: two\nffn: "groq-3-lpu:256"\nbetween: 400GB/s,2us\n'
                                       "weight_dtype: fp8\nattention: gqa-8\n")
    (same,) = json.loads(cli("simulate", "-H", "h100-sxm:8", "-W", str(tmp_path / "two.yaml"), "--format", "json").stdout)
    assert same == row
    study = ("schema_version: 1\nname: two\ntitle: t\nquestion: q\nhardware: [h100-sxm]\nmodels: [llama-2-70b]\n"
             "layouts: [mha, gqa-8]\nbatch: [1, 16]\nkv_len: 4k\nweight_dtype: fp8\nchips: 8\nffn: groq-3-lpu:256\n"
             "between: 400GB/s,2us\nfocus: {batch: 16, kv_len: 4k}\nfigures: [{kind: advantage_heatmap}]\n")
    (tmp_path / "study.yaml").write_text(study)
    assert not cli("sweep", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "swept.csv")).exit_code
    with (tmp_path / "swept.csv").open() as file:
        swept = [one for one in csv.DictReader(file) if (one["attention"], one["batch"]) == ("gqa-8", "1")]
    for name in ("step_time_s", "micro_batches", "exchange_bytes", "ffn_chips", "tokens_per_s_low"):
        assert [float(one[name]) for one in swept] == [row[name]], name
    loaded = load_study(tmp_path / "study.yaml")
    assert {(one["attention"], one["batch"]): one["step_time_s"] for one in grid_records(loaded)[0]}["gqa-8", 1] == (
        row["step_time_s"])
    point = evaluate(loaded.figures[0], H100, "gqa-8", batch=1)
    assert (scalar(point, "step_time_s"), scalar(point, "micro_batches")) == (row["step_time_s"], row["micro_batches"])
    for old, new, wrong in (
            ("groq-3-lpu:256", "groq-3-lpi:256", "study.yaml:12:1: ffn: unknown hardware profile 'groq-3-lpi'; did you mean"),
            ("between: 400GB/s,2us\n", "", "study.yaml:12:1: ffn: ffn without between: what joins"),
            ("ffn: groq-3-lpu:256\n", "", "study.yaml:12:1: between: between goes with ffn"),
            ("400GB/s,2us", "400GB/s", "study.yaml:13:1: between: between '400GB/s': expected bandwidth and latency"),
            ("between:", "with_attention: ffm\nbetween:", "did you mean 'ffn'"),
            ("advantage_heatmap", "step_breakdown", "the figure step_breakdown is asked of one machine")):
        (tmp_path / "study.yaml").write_text(study.replace(old, new))
        failed = cli("report", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out"))
        assert failed.exit_code == 2
        assert wrong in failed.stderr, failed.stderr
    for asked, wrong in (
            (("capacity", "-W", str(tmp_path / "two.yaml")), "simkit capacity takes one machine"),
            (("simulate", *pools), "what joins the two pools is not stated"),
            (("simulate", *pools, "--between", "free", "--causes"), "asked of one machine"),
            (("simulate", *pools, "--between", "free", "--chips", "4"), "beside --chips 4"),
            (("split", "-H", "h100-sxm", "--ffn", "groq-3-lpu:256"), "-H: expected pools with their numbers of chips"),
            (("split", "-H", "h100-sxm:1", "--ffn", "groq-3-lpu:8"), "no assignment of any point fits")):
        failed = cli(*asked)
        assert failed.exit_code == 2
        assert wrong in failed.stderr
