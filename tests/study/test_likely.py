"""Where measurements would lie: bounds hold their estimate, follow the residuals' file, and MHA beside itself is 1."""

import numpy as np
import pytest

from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.catalog import load_hardware
from simkit.study.likely import LIKELY_FIELDS, factors
from simkit.study.point import decode_step

NAMES = ["step_time_s", "speedup_vs_mha", *LIKELY_FIELDS]


@pytest.fixture(scope="module")
def columns():
    return decode_step(np.array(["h100-sxm", "gaudi2", "microsoft-maia100"], dtype=object)[:, None], "llama-3-8b",
                       attention=np.array(["mha", "gqa-8"], dtype=object), batch=16, chips=1, fields=[
                           *NAMES, "step_time_s_low", "step_time_s_high"])


@pytest.mark.parametrize("name", ["step_time_s", "speedup_vs_mha"])
def test_half_lies_within_nine_of_ten(columns, name):
    low, half_low, likely, half_high, high = (columns[f"{name}_{end}"] for end in (
        "low_90", "low_50", "likely", "high_50", "high_90"))
    assert np.all(low <= half_low)
    assert np.all(half_low <= half_high)
    assert np.all(half_high <= high)
    assert np.all((low <= likely) & (likely <= high))


def test_bounds_hold_the_range_by_what_is_assumed(columns):
    known = np.isfinite(columns["step_time_s_low"])
    assert known.any()
    assert np.all(columns["step_time_s_low_50"][known] <= columns["step_time_s_low"][known])
    assert np.all(columns["step_time_s_high_90"][known] >= columns["step_time_s_high"][known])


def test_mha_beside_itself_is_certain(columns):
    assert np.all(columns["speedup_vs_mha_low_90"][:, 0] == 1.0)
    assert np.all(columns["speedup_vs_mha_likely"][:, 0] == 1.0)


def test_a_chip_takes_the_factors_of_those_known_as_well_or_of_all():
    stated = load_yaml(shipped_folder("hardware_profiles") / "priors" / "residuals.yaml").data["residuals"]["step_time_s"]
    for name in ("gaudi2", "mi300x", "h200-sxm", "h100-sxm"):
        chip = load_hardware(name)
        assert factors(chip, "step_time_s") == stated.get(chip.known_by, stated["any chip"])
    assert all(one["chips"] >= 2 and one["within_90"][0] <= one["likely"] <= one["within_90"][1] for one in stated.values())
