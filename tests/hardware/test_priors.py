"""Class priors: the ranges are ordered and possible, every profile has a class, every figure a source."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.reference_data import REPOSITORY, reference_path

PRIORS = yaml.safe_load((REPOSITORY / "hardware_profiles" / "priors" / "priors.yaml").read_text(encoding="utf-8"))
RANGES = [pytest.param(name, key, found, id=f"{name} {key}") for name, one in PRIORS["classes"].items()
          for key, found in one["parameters"].items()]


@pytest.mark.parametrize(("name", "key", "found"), RANGES)
def test_a_range_is_ordered_and_a_fraction_stays_below_one(name, key, found):
    assert 0 <= found["low"] <= found["central"] <= found["high"], (name, key)
    if PRIORS["parameters"][key]["transform"] == "fraction":
        assert found["high"] < 1, "a peak that is reached in full is not known of any machine"


@pytest.mark.parametrize(("name", "key", "found"), RANGES)
def test_every_range_says_how_it_follows_and_every_machine_where_it_stands(name, key, found):
    assert found["how"], (name, key)
    assert found["machines"] == len(found["measured"])
    assert all(one["source"] and one["value"] > 0 for one in found["measured"])


def test_every_shipped_profile_has_exactly_one_class():
    shipped = sorted(path.stem for path in (REPOSITORY / "hardware_profiles").glob("*.yaml"))
    classed = sorted(chip for one in PRIORS["classes"].values() for chip in one["profiles"])
    assert classed == shipped
    assert sorted(PRIORS["stated_by_profiles"]) == shipped


def test_fewer_machines_make_a_wider_range():
    """A class with no machine of its own never knows better than the class that it borrows from."""
    for one in PRIORS["classes"].values():
        for key, found in one["parameters"].items():
            if found["from"].startswith("lent by ") and found["low"] > 0:
                lender = PRIORS["classes"][found["from"].removeprefix("lent by ")]["parameters"][key]
                assert found["low"] <= lender["low"] * 1.001
                assert found["high"] >= lender["high"] * 0.999


def test_the_file_is_what_the_tables_give():
    folder = reference_path("accelerators").parent
    done = subprocess.run([sys.executable, "tools/derive_priors.py", "--check"], cwd=REPOSITORY, check=False,
                          capture_output=True, text=True, env=os.environ | {"SIMKIT_REFERENCE": str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
