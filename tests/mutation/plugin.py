"""Mutation testing inside one pytest process: the tests are collected once, each mutant lives in a forked copy of it.

::

    pytest -p tests.mutation.plugin --mutate simkit/timing/roofs.py --mutate simkit/roofline TESTS

A first pass runs all collected tests under coverage.py: which of them reach which line, and how long each takes. Then every
mutant's compiled functions take the place of the living ones in a fork, and the tests that reach its line run, those first
that have killed before, until one fails. A mutant outside any function (a constant, a default) is made in a fresh process
that imports the changed file. Results are lines of JSON in ``--mutants-out``.

So are mutants of files whose functions Numba compiles, unless ``NUMBA_DISABLE_JIT=1`` says to interpret them: then they are
functions like all others, a few hundred times slower (:mod:`tests.mutation.interpreted`).
"""

from __future__ import annotations

import difflib
import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import coverage
import pytest

from tests.mutation import interpreted
from tests.mutation.mutants import Mutant, mutants

_ROOT: Final = Path(__file__).parents[2]
_KILLED, _SURVIVED, _STALE = 1, 0, 3
_QUICK_S: Final = 0.3
_FRESH_TESTS: Final = 1500
_SLOWEST_KILL_S: Final = 20.0  # a test that took a second and now takes this long more has noticed


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mutation")
    group.addoption("--mutate", action="append", type=Path, default=[], help="a file or folder whose mutants to make")
    group.addoption("--mutants-out", type=Path, default=Path("out/mutants/results.jsonl"), help="lines of JSON, added to")
    group.addoption("--mutants-sample", type=int, default=0, help="only so many, drawn by --mutants-seed; 0: all")
    group.addoption("--mutants-seed", type=int, default=1)
    group.addoption("--mutants-shard", default="0/1", help="this process's share, 1/2 for the second of two")
    group.addoption("--mutants-seconds", type=float, default=60.0, help="time that the tests of one mutant may take")
    group.addoption("--mutants-map", type=Path, default=Path("out/mutants/reach.json"),
                    help="which tests reach which lines; made when it is not there")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    config = session.config
    if not config.getoption("--mutate"):
        return None
    where: Path = config.getoption("--mutants-map")
    if not where.is_file():
        _measure(session, where)
        # What the tests left in this process's caches (functools) would stand in for what a mutant computes.
        os.execv(sys.executable, sys.orig_argv)
    _Strikes(session, json.loads(where.read_text(encoding="utf-8"))).run()
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How many mutants no test noticed, and which."""
    out: Path = config.getoption("--mutants-out")
    if not (config.getoption("--mutate") and out.is_file()):
        return
    struck = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    living = [one for one in struck if one["outcome"] in ("survived", "unreached")]
    changed = [one for one in struck if one["outcome"] not in ("same program", "no program")]
    for one in living:
        terminalreporter.write_line(f"{one['mutant'][0]}:{one['line']}: {one['outcome']}\n{one['change']}")
    terminalreporter.write_line(f"{len(changed)} mutants, {len(living)} unnoticed ({len(living) / max(len(changed), 1):.1%})")


class StaleError(Exception):
    """The file was changed after this process had read it."""


class _Watcher:
    """Notes what a run of tests says: the first failure, and how long each may take.

    Fixtures that a file's tests share are made anew whenever tests of another file ran between: each may have to wait.
    """

    def __init__(self) -> None:
        self.failed: str | None = None
        self.own_s: dict[str, float] = defaultdict(float)
        self.longest_setup_s: dict[str, float] = defaultdict(float)

    @property
    def seconds(self) -> dict[str, float]:
        return {name: own_s + self.longest_setup_s[name.partition("::")[0]] for name, own_s in self.own_s.items()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            file = report.nodeid.partition("::")[0]
            self.longest_setup_s[file] = max(self.longest_setup_s[file], report.duration)
        else:
            self.own_s[report.nodeid] += report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def _run(items: list[pytest.Item], watcher: _Watcher, most_s: float) -> None:
    """Run tests until one fails or the time is up."""
    end = time.monotonic() + most_s
    for item, after in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if watcher.failed is not None or time.monotonic() > end:
            return


def _measure(session: pytest.Session, where: Path) -> None:
    """Run every collected test once and keep which lines each reaches and how long it takes."""
    targets = [str(path) for path in _files(session.config.getoption("--mutate"))]
    cover = coverage.Coverage(include=targets, data_file=None, branch=False)
    watcher = _Watcher()
    session.config.pluginmanager.register(watcher)
    cover.start()
    for item, after in zip(session.items, [*session.items[1:], None], strict=True):
        cover.switch_context(item.nodeid)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if watcher.failed:
            pytest.exit(f"{watcher.failed} fails before anything is changed: it would notice every mutant", returncode=1)
    cover.stop()
    session.config.pluginmanager.unregister(watcher)
    data = cover.get_data()
    reach = {str(Path(name).relative_to(_ROOT)): {str(line): [one for one in contexts if one]
                                                   for line, contexts in data.contexts_by_lineno(name).items()}
             for name in data.measured_files()}
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps({"reach": reach, "seconds": watcher.seconds}), encoding="utf-8")


def _files(paths: list[Path]) -> list[Path]:
    return [file.resolve() for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


class _Strikes:
    """All mutants of this process's share, one after the other."""

    def __init__(self, session: pytest.Session, known: dict[str, Any]) -> None:
        config = session.config
        self.items = {item.nodeid: item for item in session.items}
        self.reach, self.seconds = known["reach"], known["seconds"]
        self.kills: dict[str, int] = defaultdict(int)
        self.lines: dict[str, int] = defaultdict(int)
        for lines in self.reach.values():
            for tests in lines.values():
                for one in tests:
                    self.lines[one] += 1
        self.config = config
        self.most_s: float = config.getoption("--mutants-seconds")
        self.out: Path = config.getoption("--mutants-out")
        self.out.parent.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        done = {tuple(json.loads(line)["mutant"]) for line in self.out.read_text(encoding="utf-8").splitlines()
                } if self.out.is_file() else set()
        for mutant in self._chosen():
            name = str(mutant.path.relative_to(_ROOT))
            if (name, mutant.operator, mutant.occurrence) in done:
                continue
            began = time.monotonic()
            outcome, by, change = self._strike(mutant, name)
            line = json.dumps({"mutant": [name, mutant.operator, mutant.occurrence], "line": mutant.line, "outcome": outcome,
                               "by": by, "seconds": round(time.monotonic() - began, 2), "change": change})
            with self.out.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def _chosen(self) -> list[Mutant]:
        every = [mutant for path in _files(self.config.getoption("--mutate")) for mutant in mutants(path)]
        seed = self.config.getoption("--mutants-seed")

        def drawn(mutant: Mutant) -> str:
            """A change of one file leaves the draw of the others as it was."""
            place = f"{seed} {mutant.path.relative_to(_ROOT)} {mutant.operator} {mutant.occurrence}"
            return hashlib.sha256(place.encode()).hexdigest()

        share, of = (int(part) for part in self.config.getoption("--mutants-shard").split("/"))
        return sorted(every, key=drawn)[: self.config.getoption("--mutants-sample") or None][share::of]

    def _strike(self, mutant: Mutant, name: str) -> tuple[str, str | None, str]:
        before, after = mutant.path.read_text(encoding="utf-8"), mutant.source()
        change = "\n".join(line for line in difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
                           if line[:1] in "+-" and line[:3] not in ("+++", "---"))
        try:
            new = compile(after, str(mutant.path), "exec")
        except SyntaxError:
            return "no program", None, change
        old = compile(before, str(mutant.path), "exec")
        if new == old:
            return "same program", None, change  # an annotation or a docstring
        tests = self._tests(name, mutant.line)
        swaps = list(_swaps(old, new))
        compiled = "from simkit.foundation.jit_cache import" in before or "from numba import" in before
        if not swaps or (compiled and not interpreted.IS_ON):
            return (*self._afresh(mutant, after), change)
        if not tests:
            return "unreached", None, change
        return (*self._forked(tests, swaps), change)

    def _tests(self, name: str, line: int) -> list[pytest.Item]:
        """The tests that reach a line, the likeliest to notice first.

        A line inside a longer statement is counted by the statement's first: so the nearest above that any test reached.
        """
        lines = self.reach.get(name, {})
        at = max((int(one) for one, tests in lines.items() if int(one) <= line and tests), default=0)
        names = [one for one in lines.get(str(at), []) if one in self.items]
        return [self.items[one] for one in sorted(names, key=self._cost)]

    def _cost(self, name: str) -> float:
        """Quick tests of few lines come first, and of these the ones that have killed before."""
        seconds = self.seconds.get(name, 1.0) + 0.01
        credit = self.kills[name] if seconds < _QUICK_S else 0
        return seconds * float(self.lines[name]) ** 0.5 / (1 + credit)

    def _forked(self, tests: list[pytest.Item], swaps: list[tuple[CodeType, CodeType]]) -> tuple[str, str | None]:
        reader, writer = os.pipe()
        caches = tempfile.mkdtemp(prefix="simkit-mutant-")
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                _live_in(swaps)
                watcher = _Watcher()
                self.config.pluginmanager.register(watcher)
                self.config.pluginmanager.unregister(name="terminalreporter")
                # Replayed points are kept by the text of the source, which stays: each mutant has a cache of its own.
                os.environ["SIMKIT_CACHE"] = caches
                _silence()
                _run(tests, watcher, self.most_s)
                os.write(writer, (watcher.failed or "").encode())
                os._exit(_KILLED if watcher.failed else _SURVIVED)
            except StaleError:
                os._exit(_STALE)
            except BaseException as error:  # noqa: BLE001 - whatever breaks has noticed the mutant
                os.write(writer, f"{type(error).__name__}".encode())
                os._exit(_KILLED)
        os.close(writer)
        status = _waited(child, self.most_s + _SLOWEST_KILL_S)
        shutil.rmtree(caches, ignore_errors=True)
        with os.fdopen(reader, "rb") as stream:
            by = stream.read().decode() or None
        if by in self.kills or by in self.items:
            self.kills[str(by)] += 1
        if status == _STALE:
            raise StaleError("a file changed while its mutants were struck: run from a copy of the tree")
        if status is None:
            return "slow", None
        return ("killed" if status else "survived"), by

    def _afresh(self, mutant: Mutant, after: str) -> tuple[str, str | None]:
        """A new process in a copy of the tree with the file changed, and the tests that read from the file's module."""
        lines = self.reach.get(str(mutant.path.relative_to(_ROOT)), {})
        names = {one for tests in lines.values() for one in tests if one in self.items}
        quick = sorted(names, key=self._cost)[:_FRESH_TESTS]
        if not quick:
            return "unreached", None
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / "tree"
            subprocess.run(["cp", "-r", "--reflink=auto", *(str(_ROOT / part) for part in (
                "simkit", "tests", "hardware_profiles", "workloads", "docs", "cli.py", "pyproject.toml", "README.md")),
                _made(tree)], check=True)
            (tree / mutant.path.relative_to(_ROOT)).write_text(after, encoding="utf-8")
            (tree / "names").write_text("\n".join(quick), encoding="utf-8")
            try:
                ended = subprocess.run(
                    [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider",
                     "-p", interpreted.__name__, "@names"],
                    cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True,
                    timeout=self.most_s * 3, check=False)
            except subprocess.TimeoutExpired:
                return "slow", None
        failed = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return ("killed", failed[0] if failed else "import") if ended.returncode else ("survived", None)


def _made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def _swaps(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The outermost functions that differ; nothing when what differs is outside any function."""
    mine, theirs = ([one for one in code.co_consts if isinstance(one, CodeType)] for code in (old, new))
    if len(mine) != len(theirs) or _own(old) != _own(new):
        return
    for before, after in zip(mine, theirs, strict=True):
        if before == after:
            continue
        if before.co_flags & 0x2:  # CO_NEWLOCALS: a function; a class body or module has none
            yield before, after
        else:
            yield from _swaps(before, after)


def _own(code: CodeType) -> Any:
    """What a module or class body does by itself, its functions left out."""
    return code.co_code, code.co_names, tuple(one for one in code.co_consts if not isinstance(one, CodeType))


def _live_in(swaps: list[tuple[CodeType, CodeType]]) -> None:
    living = [one for one in gc.get_objects() if isinstance(one, FunctionType)]
    for before, after in swaps:
        hit = [one for one in living if one.__code__ == before and one.__code__.co_filename == before.co_filename]
        if not hit:
            raise StaleError(before.co_qualname)
        for one in hit:
            one.__code__ = after


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _waited(child: int, most_s: float) -> int | None:
    """The exit status of a child, or None when it took too long and was ended."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
