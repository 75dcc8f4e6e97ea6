"""The script that times kernels on a user's GPU: tried without one, on recorded times and on times that are known."""

import json

import numpy as np
import pytest

from simkit.evidence.silicon.calibrate import FitRows, calibrate
from simkit.evidence.silicon.compare import SHIPPED_SPREAD
from simkit.evidence.silicon.tables import read_table, shipped_table
from simkit.hardware.catalog import load_hardware
from tools import measure_gpu

GPU_BYTES = 80e9


def logged(path, entries) -> None:
    path.write_text("".join(json.dumps({"shape": shape, "library": library, "samples_us": samples}) + "\n"
                            for shape, library, samples in entries), encoding="utf-8")


def test_the_tables_of_a_recorded_run_say_what_was_recorded(tmp_path, monkeypatch):
    """The times of SGLang's and vLLM's kernels on H100 (ai-dynamo/aiconfigurator, Apache-2.0) as the script would log them."""
    monkeypatch.chdir(tmp_path)
    by_library = {library: shipped_table(SHIPPED_SPREAD, column.removeprefix("latency_us_")).of_system("h100_sxm")
                  for library, column in (("flashinfer", "latency_us_sglang"), ("vllm", "latency_us_vllm"))}
    entries = []
    for library, rows in by_library.items():
        for row, time_s in enumerate(rows.time_s):
            shape = {key: rows.columns[key][row].item() for key in measure_gpu.ATTENTION}
            entries.append((shape | {key: int(value) for key, value in shape.items() if isinstance(value, float)}, library,
                            [time_s * 1e6 * share for share in (1.0, 1.3, 0.99)]))  # an outlier moves no median
    logged(tmp_path / "h100_sxm.log.jsonl", entries)
    assert measure_gpu.main(["--system", "h100_sxm"]) == 0
    table = tmp_path / "h100_sxm.attention.csv"
    for library, rows in by_library.items():
        read = read_table(table, measure_gpu.LIBRARIES[library].removeprefix("latency_us_"))
        assert len(read) == len(rows)
        assert sorted(read.time_s) == pytest.approx(sorted(rows.time_s), rel=1e-3)
    assert not (tmp_path / "h100_sxm.products.csv").exists()


def test_its_shapes_let_a_calibration_find_what_made_their_times(tmp_path):
    """Times of the H100's own kernels on the script's shapes: nearly all figures are identified, and are found again."""
    chip = load_hardware("h100-sxm")
    log = tmp_path / "log.jsonl"
    shapes = list(measure_gpu.shapes("h100_sxm"))
    logged(log, [(shape, library, [1.0]) for shape in shapes for library in measure_gpu.libraries_of(shape, ["flashinfer"])
                 if measure_gpu.operand_bytes(shape) < measure_gpu.MEMORY_SHARE * GPU_BYTES])
    attention, products = (read_table(path) for path in measure_gpu.write_tables(log, "mine"))
    assert {attention.kind, products.kind} == {"decode_attention", "decode_gemm"}
    for rows, least in ((attention, 5), (products, 3)):
        made = FitRows(rows=rows, hardware=chip).times_s(chip.kernel)
        found = calibrate(type(rows)(**{name: getattr(rows, name) for name in rows.__slots__} | {"time_s": made}), chip)
        assert len(found.parameters) >= least, found.unidentified
        for parameter in found.parameters:
            assert parameter.value == pytest.approx(parameter.start, rel=0.05), parameter.name


def test_a_run_that_was_cut_off_goes_on_and_a_kernel_that_fails_is_left_out(tmp_path, capsys):
    log, asked = tmp_path / "log.jsonl", []

    def timer(shape, library):
        asked.append((json.dumps(shape), library))
        if library == "vllm":
            raise RuntimeError("no kernel image is available")
        return [10.0, 11.0, 12.0]

    wanted = list(measure_gpu.shapes("mine"))[:6]
    measure_gpu.measure(wanted[:4], log, timer, ["flashinfer", "vllm"], GPU_BYTES)
    assert "no kernel image" in capsys.readouterr().err
    text = log.read_text(encoding="utf-8")
    log.write_text(text[:-25], encoding="utf-8")  # struck while it wrote
    measure_gpu.measure(wanted, log, timer, ["flashinfer", "vllm"], GPU_BYTES)
    assert len(asked) == 2 * 6 + 1  # nothing but the last line was measured twice
    (path,) = measure_gpu.write_tables(log, "mine")
    rows = read_table(path)
    assert len(rows) == 6
    assert np.all(rows.time_s == 11e-6)


def test_operands_beyond_the_memory_are_not_tried(tmp_path):
    def timer(shape, _library):
        assert measure_gpu.operand_bytes(shape) <= measure_gpu.MEMORY_SHARE * 1e9
        return [1.0]

    measure_gpu.measure(measure_gpu.shapes("small"), tmp_path / "log.jsonl", timer, ["torch"], 1e9)


def test_without_a_gpu_and_a_log_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert measure_gpu.main(["--system", "mine"]) == 2
    assert "there is no log mine.log.jsonl" in capsys.readouterr().err
