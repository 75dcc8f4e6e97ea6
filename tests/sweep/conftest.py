"""The unbroken sweep that others are compared with, and parts small enough that there are many."""

import pytest

from simkit.sweep import part_plan
from tests.sweep.sweep_runs import run, write_study


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The unbroken run: the study and its CSV and Parquet files by suffix."""
    folder = tmp_path_factory.mktemp("unbroken")
    study = write_study(folder)
    outputs = {form: folder / f"whole.{form}" for form in ("csv", "parquet")}
    for output in outputs.values():
        code, stdout, stderr = run(study, output)
        assert code == 0, stderr
        assert stdout.strip() == str(output)
    return study, outputs


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setitem(part_plan.PART_POINTS, True, 100)
