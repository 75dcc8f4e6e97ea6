"""The figure of faster memory and ``simkit crossover --vary memory`` ask one and the same question."""

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.style import chip_styles, house_style
from simkit.report.figures.bandwidth_scaling import draw
from simkit.study.crossover import crossover
from simkit.study.study_file import FigureRequest


@pytest.mark.parametrize(("chip", "below"), [("h100-sxm", 1.5), ("tpu-v6e", 1.2), ("mi300x", 1.5), ("h100-sxm", 1.1)])
def test_the_figure_s_line_crosses_where_crossover_says(chip, below):
    model = load_model("llama-2-70b")
    request = FigureRequest(
        kind="bandwidth_scaling", name="faster", title=None, note=None, hardware=(load_hardware(chip),), model=model,
        layouts=("mha", "gqa-8"), batch=(32,), kv_len=(4096,), focus_batch=32, focus_kv_len=4096, kv_dtype="bf16",
        weight_dtype="bf16", chips="fit", engine="roofline")
    with house_style():
        drawn = draw(FigureContext(request=request, styles=chip_styles(request.hardware, {})))
    factors, speedups = (np.array([row[name] for row in drawn.rows]) for name in ("bandwidth_factor", "speedup_vs_mha"))
    record = crossover(chip, model, attention="gqa-8", below=below, vary="memory", start=1.0, stop=100.0, batch=32)[0]
    if record["value"] is None:
        assert (speedups < below).all() == (record["finding"] == "below throughout")
        return
    first = int(np.flatnonzero(speedups < below)[0])
    near = slice(first - 1, first + 1)
    drawn_at = np.exp(np.interp(-below, -speedups[near], np.log(factors[near])))
    assert drawn_at == pytest.approx(record["value"], rel=0.01)
