"""The explanation says what binds and what would move it, and its numbers are the engine's own."""

import re
from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.evaluate import evaluate_group
from simkit.study.explain import explain, explain_grid, movements
from simkit.study.grid import Grid
from simkit.study.scenario import parse_scenario
from tests.replay.cases import with_level

# A chip whose profile states a measured layer is replayed as one stream, not as its tiles.
AS_A_STREAM = {"overheads.layer_latency": "38 us"}


def point(chip, layout, batch=32, kv_len=4096, **scenario):
    return evaluate_group(
        chip, load_model("llama-2-70b"), layout, rivals=[layout], batch=np.array([float(batch)]),
        kv_len=np.array([float(kv_len)]), q_len=np.array([1.0]), chips=8, engine="replay", baseline=False,
        scenario=parse_scenario(**scenario))


def test_memory_binds_mha_on_a_gpu_and_its_bandwidth_is_what_would_move_it():
    text = explain(point(load_hardware("h100-sxm"), "mha"))
    assert "hbm bandwidth binds" in text[1]
    assert "Row hits" in text[2]
    assert text[3].strip().startswith("With twice hbm's bandwidth and load paths tuned for it: attention ")


def test_arithmetic_binds_mqa_in_fast_sram():
    """64 query heads on one KV head are 64 flop/byte, far right of GroqChip's knee."""
    found = evaluate_group(
        load_hardware("groq-lpu", overrides=AS_A_STREAM), load_model("llama-2-70b"), "mqa", rivals=["mqa"], batch=np.array([8.0]),
        kv_len=np.array([4096.0]), q_len=np.array([1.0]), engine="replay", baseline=False)
    text = explain(found)
    assert "arithmetic binds" in text[1]
    assert text[2].strip().startswith("With twice the arithmetic: attention 2.00 times as fast")


def test_a_movement_is_what_the_engine_says_of_the_changed_profile():
    chip = load_hardware("h100-sxm")
    before = point(chip, "mha")
    faster = point(with_level(chip, "hbm", bandwidth_bytes_per_s=2 * chip.level("hbm").bandwidth_bytes_per_s), "mha")
    (told,) = [movement for movement in movements(before) if movement.what.startswith("twice hbm")]
    assert told.attention_ratio == pytest.approx(float((before.timing.attention_time_s / faster.timing.attention_time_s)[0]))
    assert told.step_ratio == pytest.approx(float((before.timing.step_time_s / faster.timing.step_time_s)[0]))


def test_a_giant_sequence_is_told_as_imbalance_with_its_cure():
    found = point(load_hardware("h100-sxm"), "gqa-8", batch=32, attention_kernel="grouped-unsplit",
                  lengths=",".join(["64"] + ["1"] * 31))
    text = "\n".join(explain(found))
    assert "imbalance" in text
    assert "With the grouped kernel, which cuts long sequences" in text


def test_without_launches_no_launch_is_no_change():
    chip = load_hardware("h100-sxm")
    quiet = replace(chip, overheads=replace(chip.overheads, kernel_launch_s=0.0))
    assert "no launch time" not in {movement.what for movement in movements(point(quiet, "mha"))}


def test_the_command_explains_replays_and_nothing_else(cli):
    found = cli("simulate", "-H", "h100-sxm", "-A", "mqa", "--batch", "8", "--engine", "replay", "--explain")
    assert found.exit_code == 0
    assert "binds" in found.output
    refused = cli("simulate", "-A", "mqa", "--explain")
    assert refused.exit_code == 2
    assert "--engine replay" in refused.output


def test_tiles_are_explained_by_their_own_account():
    """Shares add up to attention, the mapping is the record's, and a halved hop is faster by what is said."""
    grid = Grid(hardware=[load_hardware("cerebras-wse2")], model=[load_model("llama-3-8b")], kv_dtype=["bf16"],
                attention=["gqa-8"], batch=[1], kv_len=[4096], q_len=[1], engine="spatial")
    words = "\n".join(explain_grid(grid))
    shares = re.findall(r"(\d+)%", words.partition("Time: ")[2].partition(". Of its")[0])
    assert sum(map(int, shares)) in range(98, 103)
    record = grid.columns()
    assert str(record["tile_mapping"][0]) in words
    assert "Unexplained: by the layers measured on its class (assumed)" in words
    told = re.search(r"With half the cycles a hop: attention [\d.]+ times as fast, the step ([\d.]+) times", words)
    half = load_hardware("cerebras-wse2", overrides={"fabric.link.hop_cycles": "0.5"})
    faster = replace(grid, hardware=[half]).columns()["step_time_s"][0]
    assert float(told[1]) == pytest.approx(float(record["step_time_s"][0] / faster), abs=0.006)
