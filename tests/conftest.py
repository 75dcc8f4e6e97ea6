"""What every test may use: the command line as a process and in-process, and reproducible hypothesis runs."""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings

from simkit.report.drawing import export, style

# No deadline: on a shared two-core machine a slow example says nothing about the code. Few examples, in a run that is
# to end in minutes; HYPOTHESIS_PROFILE=many, which python tools/check.py slow sets, looks five times as long.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
settings.register_profile("many", parent=settings.get_profile("dev"), max_examples=200)
# The same examples on every run, and no example database: a failure in CI is the failure of the commit.
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# Needs cosmic-ray and coverage, which no test does: python tools/check.py mutants.
collect_ignore = ["mutation"]



# A file's tests share a worker and its fixtures; these files share what takes long to make, and begin first.
SHARED = {"report": ("tests/report/test_build.py", "tests/report/test_figures.py", "tests/report/test_consistency.py",
                     "tests/report/test_measured_figures.py", "tests/report/test_page_browser.py", "tests/report/test_answer.py"),
          "evidence": ("tests/evidence/test_silicon.py", "tests/evidence/test_accelerators.py", "tests/evidence/test_layers.py",
                       "tests/docs/test_evidence_page.py", "tests/docs/test_pages.py", "tests/docs/test_records.py",
                       "tests/published/test_published.py"),
          "sweep": ("tests/sweep/",), "strikes": ("tests/faults/",)}


def _group(test: str) -> str:
    """Whose worker runs the test of that name."""
    file = test.partition("::")[0]
    return next((name for name, files in SHARED.items() if file.startswith(files)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``: whole files, and the files that share something together."""
    from xdist.scheduler import LoadFileScheduling

    class BySharedWork(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False  # the order is the collection's
    return BySharedWork(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left alone with it."""
    first = list(SHARED)
    items.sort(key=lambda item: first.index(group) if (group := _group(item.nodeid)) in SHARED else len(first))


def pytest_collection_finish() -> None:
    """Nine thousand collected tests stay: no collection of garbage looks at them again."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str | None:
    """What is left out because this machine lacks it."""
    from tests.report.browser import CHROMIUM

    return None if CHROMIUM else ("no browser: tests/report/test_page_browser.py is left out "
                                  "(apt-get install chromium, or name one in SIMKIT_CHROMIUM)")


# Figures are files; a test never needs a window, also where DISPLAY is set.
os.environ["MPLBACKEND"] = "Agg"
# Drawn small, and without the subset of a TrueType font that a PDF holds, which takes longer to make than the drawing:
# tests of a figure look at what it says. tests/cli/test_roofline.py draws one as users get it.
export.PNG_DOTS_PER_INCH = 30
style.RC["pdf.fonttype"] = 3

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
