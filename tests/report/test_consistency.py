"""Tables, JSON, CSV and figures' data tell the same numbers, and the exact ones are those of the papers."""

import csv
import json
import math
from pathlib import Path

import pytest

from simkit import decode_step


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def records(report) -> list[dict]:
    return json.loads((report / "data" / "records.json").read_text(encoding="utf-8"))


def point_of(records: list[dict], row: dict[str, str]) -> dict:
    found = [record for record in records if record["hardware"] == row["hardware"]
             and record["attention"] == row["attention"]
             and record["batch"] == int(row["batch"]) and record["kv_len"] == int(row["kv_len"])]
    assert len(found) == 1
    return found[0]


def test_csv_and_json_hold_the_same_records(report, records) -> None:
    table = rows_of(report / "data" / "records.csv")
    assert len(table) == len(records) == 4 * 3 * 2 * 3
    for row, record in zip(table, records, strict=True):
        for name, value in record.items():
            assert row[name] == ("" if value is None else str(value).lower() if isinstance(value, bool) else str(value))


def test_records_are_what_python_gives(records) -> None:
    ours = decode_step("h100-sxm", "llama-2-70b", attention=["mha", "gqa-8", "mqa"], batch=32, kv_len=4096)
    for index, layout in enumerate(("mha", "gqa-8", "mqa")):
        record = point_of(records, {"hardware": "h100-sxm", "attention": layout, "batch": "32", "kv_len": "4096"})
        assert record["step_time_s"] == ours["step_time_s"][index]
        assert record["chips"] == ours["chips"][index]


@pytest.mark.parametrize("figure", ["separate_causes", "step_breakdown", "grouping_law"])
def test_a_figure_s_data_repeat_the_records(report, records, figure) -> None:
    shared = ("step_time_s", "speedup_vs_mha", "chips")
    compared = 0
    for row in rows_of(report / "figures" / f"{figure}.csv"):
        if row.get("from") in ("measured", "replay"):  # tiles are drawn by their replay, records are of the study's engine
            continue
        record = point_of(records, row)
        for name in shared:
            if row.get(name):
                assert float(row[name]) == pytest.approx(record[name], rel=1e-12)  # sums in another order
                compared += 1
    assert compared > 3


def test_the_heat_map_s_data_repeat_the_records(report, records) -> None:
    grid = {(r["hardware"], r["attention"], r["batch"], r["kv_len"]): r for r in records}
    compared = 0
    for row in rows_of(report / "figures" / "advantage_heatmap.csv"):
        record = grid.get((row["hardware"], row["attention"], int(row["batch"]), int(row["kv_len"])))
        if record is not None:
            assert row["speedup_vs_mha"] == ("" if record["speedup_vs_mha"] is None else str(record["speedup_vs_mha"]))
            compared += 1
    assert compared == 6  # batch 1 at three contexts on two chips is in both


def test_the_breakdown_s_parts_add_up_to_the_step(report) -> None:
    for row in rows_of(report / "figures" / "step_breakdown.csv"):
        parts = [float(row[f"{part}_time_s"]) for part in ("cache", "load_path", "compute", "weights", "links", "latency")]
        assert math.fsum(parts) == pytest.approx(float(row["step_time_s"]), rel=1e-9)


def test_the_capacity_figure_shows_the_exact_caches_of_llama_2_70b(report) -> None:
    # 2 x 80 layers x heads x 128 x 4096 tokens x 2 bytes, with 64, 8 and 1 KV heads.
    sizes = {row["attention"]: int(row["kv_cache_bytes"]) for row in rows_of(report / "figures" / "capacity.csv")
             if row["kv_len"] == "4096"}
    assert sizes == {"mha": 10_737_418_240, "gqa-8": 1_342_177_280, "mqa": 167_772_160}


def test_attention_stands_at_1_8_and_64_flops_a_byte(report) -> None:
    intensities = {row["attention"]: float(row["arithmetic_intensity"])
                   for row in rows_of(report / "figures" / "roofline.csv")}
    assert intensities == {"mha": 1.0, "gqa-8": 8.0, "mqa": 64.0}


def test_no_chip_is_above_the_law_of_grouping(report) -> None:
    # S(g) <= R b/2: grouping removes bytes and no flops. Kernels may only lose against it.
    # What was measured may: a slow MHA kernel is no law.
    rows = [row for row in rows_of(report / "figures" / "grouping_law.csv") if row["from"] == "roofline"]
    assert len(rows) >= 8
    for row in rows:
        assert float(row["kernel_speedup_vs_mha"]) <= float(row["group_size"]) * (1 + 1e-9)


def test_a_cause_alone_never_leaves_less_than_all_causes_together_by_more_than_the_smaller_weights(report) -> None:
    # Fewer KV heads also shrink the K and V projections, so that the whole may gain a little over one cause.
    for row in rows_of(report / "figures" / "separate_causes.csv"):
        alone = [float(value) for name, value in row.items() if name.endswith("_alone")]
        assert max(alone) <= float(row["bytes_reduction"]) * (1 + 1e-9)
        assert float(row["speedup_vs_mha"]) <= min(alone) * 1.1


def test_the_page_s_table_shows_the_records(report, records) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    record = point_of(records, {"hardware": "h100-sxm", "attention": "gqa-8", "batch": "32", "kv_len": "4096"})
    for name in ("step_time_s", "tokens_per_s", "speedup_vs_mha"):
        assert f'data-value="{record[name]}"' in page


def test_a_point_s_answer_does_not_depend_on_the_points_beside_it(records) -> None:
    # SN40L opens its DDR to caches that fit nowhere else; the points that do fit must not count that room.
    for layout in ("mha", "gqa-8", "mqa"):
        record = point_of(records, {"hardware": "sambanova-sn40l", "attention": layout, "batch": "32", "kv_len": "4096"})
        alone = decode_step("sambanova-sn40l", "llama-2-70b", attention=["mha", "gqa-8", "mqa"], batch=32, kv_len=4096)
        place = ("mha", "gqa-8", "mqa").index(layout)
        assert record["chips"] == alone["chips"][place]
        assert record["max_batch"] == alone["max_batch"][place]
        # 16 sockets of 64 GB hold no more than this many caches even without weights.
        assert record["max_batch"] * record["kv_cache_bytes"] / 32 < 16 * 64e9 * record["kv_copies"]
