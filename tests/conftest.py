"""What every test may use: the command line as a process and in-process, and reproducible hypothesis runs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings

# No deadline: on a shared two-core machine a slow example says nothing about the code.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples on every run, and no example database: a failure in CI is the failure of the commit.
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# Needs cosmic-ray and coverage, which no test does: python tools/check.py mutants.
collect_ignore = ["mutation"]



def pytest_report_header() -> str | None:
    """What is left out because this machine lacks it."""
    from tests.report.browser import CHROMIUM

    return None if CHROMIUM else ("no browser: tests/report/test_page_browser.py is left out "
                                  "(apt-get install chromium, or name one in SIMKIT_CHROMIUM)")


# Figures are files; a test never needs a window, also where DISPLAY is set.
os.environ["MPLBACKEND"] = "Agg"

# Replayed points are kept for the length of one test run, and never among the user's own.
_CACHE = tempfile.TemporaryDirectory(prefix="simkit-tests-")
os.environ["SIMKIT_CACHE"] = _CACHE.name

RUN_TIMEOUT_S = 600.0  # whoever takes longer, on a busy machine too, hangs


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a finished simkit process left behind."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., Run]:
    """``run_cli("simulate", "-H", "h100-sxm", ...)``: simkit as its own process, in an empty folder.

    Keywords: ``cwd`` for another folder, ``env`` for variables on top of the present ones, ``stdin`` for text.
    """

    def run(
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Run:
        process = subprocess.run(
            [sys.executable, "-m", "simkit", *map(str, args)],
            cwd=cwd or tmp_path,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )
        return Run(exit_code=process.returncode, stdout=process.stdout, stderr=process.stderr)

    return run


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``cli("simulate", "-H", "h100-sxm", ...)``: the same program in this process, in an empty folder.

    Much faster than ``run_cli``. A bug raises in the test instead of becoming exit code 1.
    """
    from simkit.commands.main import main

    monkeypatch.chdir(tmp_path)

    def invoke(*args: str | Path, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], input=stdin, catch_exceptions=False)

    return invoke
