"""Fits that must find what is known, and refusals of rows that cannot know it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from simkit.evidence.silicon.calibrate import FitRows, _half_widths, calibrate, with_parameters
from simkit.evidence.silicon.calibrated_profile import _KERNEL_SECTION, calibrated_text, rows_of_profile
from simkit.evidence.silicon.compare import SHIPPED_LADDERS, SHIPPED_SPREAD
from simkit.evidence.silicon.tables import MeasuredTimes, shipped_table
from simkit.evidence.silicon.transfer import carried_over, copies_in_bulk
from simkit.foundation.errors import UserError
from simkit.hardware.authoring import copy_profile
from simkit.hardware.catalog import load_hardware

H100 = load_hardware("h100-sxm")
UNSEEN = ["matrix_efficiency"]  # in the few shipped rows of H100 loads bind, hardly ever the matrix unit


def rows_of(system: str, table: str = SHIPPED_SPREAD) -> MeasuredTimes:
    return shipped_table(table).of_system(system)


def test_figures_that_made_the_times_are_found_again():
    """Times computed with moved parameters, exactly: the fit must return those parameters within their intervals' reach."""
    rows = rows_of("h100_sxm")
    truth = {"item_setup_cycles": 4200.0, "load_bytes_per_cycle_per_unit": 14.0, "dram_achieved_fraction": 0.85}
    made = FitRows(rows=rows, hardware=H100).times_s(with_parameters(H100.kernel, truth))
    found = calibrate(replace(rows, time_s=made), H100, keep=UNSEEN)
    values = {parameter.name: parameter.value for parameter in found.parameters}
    for name, expected in truth.items():
        assert values[name] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("table", "truth", "keep"), [
    ("silicon_decode_gemm.csv", {"gemm.dram_achieved_fraction": 0.8, "gemm.load_bytes_per_cycle_per_unit": 34.0},
     ["gemm.matrix_efficiency", "gemm.tile_setup_cycles"]),
    ("silicon_decode_moe.csv", {"moe.dram_achieved_fraction": 0.75, "moe.launch_cycles": 15e3, "moe.routing_passes": 4.0}, [])])
def test_products_and_mixtures_give_their_figures_back(table, truth, keep):
    rows = rows_of("h100_sxm", table)
    made = FitRows(rows=rows, hardware=H100).times_s(with_parameters(H100.kernel, truth))
    found = calibrate(replace(rows, time_s=made), H100, keep=keep)
    values = {parameter.name: parameter.value for parameter in found.parameters}
    for name, expected in truth.items():
        assert values[name] == pytest.approx(expected, rel=0.03)


def test_measured_rows_are_fitted_no_worse_than_before_and_with_intervals():
    found = calibrate(rows_of("h100_sxm"), H100, keep=UNSEEN)
    before, after = (np.median(np.abs(np.log(time / found.rows.time_s))) for time in (found.before_s, found.after_s))
    assert after <= before * 1.05
    for parameter in found.parameters:
        assert parameter.interval is not None
        assert parameter.interval[0] < parameter.value < parameter.interval[1]


def test_figures_that_rows_cannot_identify_stay_and_are_named():
    """Short caches: launches and set-up bind, the DRAM does not."""
    rows = rows_of("h100_sxm")
    found = calibrate(rows.take((rows.columns["kv_len"] <= 64) & (rows.columns["kv_dtype"] == "bf16")), H100)
    assert "dram_achieved_fraction" in found.unidentified
    assert found.hardware.kernel.dram_achieved_fraction == H100.kernel.dram_achieved_fraction
    assert all(parameter.identified for parameter in found.parameters)
    assert not {parameter.name for parameter in found.parameters} & set(found.unidentified)


def test_two_figures_that_move_rows_alike_are_each_other_s_twins():
    moves = np.random.default_rng(1).standard_normal((200, 3))
    moves[:, 1] = -2.0 * moves[:, 0] + 0.01 * moves[:, 1]
    half, twins = _half_widths(np.full(200, 0.02), moves)
    assert twins == [1, 0, None]
    assert min(half[:2]) > 10 * half[2]


def test_kept_figures_stay_as_they_are():
    found = calibrate(rows_of("h100_sxm"), H100, keep=[*UNSEEN, "item_setup_cycles"])
    assert "item_setup_cycles" not in [parameter.name for parameter in found.parameters]
    assert found.hardware.kernel.item_setup_cycles == H100.kernel.item_setup_cycles
    with pytest.raises(UserError, match=r"--keep item_setup_cycle: not a parameter.*did you mean 'item_setup_cycles'"):
        calibrate(rows_of("h100_sxm"), H100, keep=["item_setup_cycle"])


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="5 rows are too few for"):
        calibrate(rows_of("h100_sxm").take(np.arange(5)), H100)


def test_a_chip_without_a_kernel_section_starts_from_what_is_alike_everywhere(tmp_path):
    """The H100 as if nobody had measured it: half of its rows fit it better than what is alike everywhere."""
    bare = tmp_path / "bare.yaml"
    bare.write_text(calibrated_text_without_kernel(), encoding="utf-8")
    bare_h100 = load_hardware(bare)
    assert bare_h100.kernel is None
    found = calibrate(rows_of("h100_sxm").take(slice(None, None, 2)), bare_h100)
    before, after = (np.median(np.abs(np.log(time / found.rows.time_s))) for time in (found.before_s, found.after_s))
    assert after < 0.9 * before


def calibrated_text_without_kernel() -> str:
    return re.sub(_KERNEL_SECTION, "", copy_profile("bare", "h100-sxm"), count=1, flags=re.MULTILINE)


def test_the_written_profile_reads_back_with_the_fitted_figures(tmp_path):
    found = calibrate(rows_of("h100_sxm"), H100, keep=UNSEEN)
    path = tmp_path / "mine.yaml"
    path.write_text(calibrated_text(found, "mine", "kernels.csv"), encoding="utf-8")
    mine = load_hardware(path)
    for parameter in found.parameters:
        assert mine.kernel_parameters[parameter.name] == pytest.approx(parameter.value, rel=1e-3)
    assert mine.kernel.latent.keys() == H100.kernel.latent.keys()
    assert "interval" in mine.provenance["kernel.item_setup_cycles"].note


def test_a_table_of_other_chips_is_refused():
    table = shipped_table(SHIPPED_SPREAD)
    with pytest.raises(UserError, match="no row is of groq-lpu"):
        rows_of_profile(table, load_hardware("groq-lpu"))


def test_a_chip_is_carried_over_from_three_others_better_than_the_roofline():
    """Issue 5: leave one chip out. H100 from the A100, B200 and L40S: serving within 16 %, its reach being 12 %."""
    others = [FitRows(rows=rows_of(system).take(np.arange(0, 250, 2)), hardware=load_hardware(system))
              for system in ("a100_sxm", "b200_sxm", "l40s")]
    kernel = carried_over(others, H100)
    rows = rows_of("h100_sxm", SHIPPED_LADDERS)
    error = np.abs(FitRows(rows=rows, hardware=H100).times_s(kernel) / rows.time_s - 1.0)
    serving = (rows.columns["kv_len"] >= 512) & (rows.columns["batch"] >= 4)
    assert error[serving].mean() <= 0.13


def test_how_a_chip_copies_decides_whether_its_loads_keep_up_with_its_dram():
    """Compute capability 9.0 brought bulk copies (CUDA C++ Programming Guide); a chip that states none is a new one."""
    assert [copies_in_bulk(load_hardware(name)) for name in ("a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "groq-lpu")] == [
        False, False, True, True, True]
