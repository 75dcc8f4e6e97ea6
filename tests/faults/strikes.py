"""Strike running commands at random moments, and look at what they leave: ``python tools/check.py faults N``.

Each trial runs one command in a forked process (what it needs is loaded already, so that moments fall into its work),
strikes it, and then asks: is anything that stood there before damaged, is anything half-written under a final name,
did it end as it should and say so in a line, and does running it again give the bytes of an undisturbed run?
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from simkit.report.drawing import export, style
from simkit.sweep import part_plan
from tests.faults.cases import BYSTANDERS, CASES, EARLIER, LATER_DATE_S, Case, contents, scratch
from tests.faults.workshop import END_S, Run, Workshop

if __name__ in {"__main__", "__mp_main__"}:  # the program and its workers, not the tests beside which it is collected
    export.PNG_DOTS_PER_INCH = 30  # type: ignore[misc]  # quick figures, as those of tests/conftest.py
    style.RC["pdf.fonttype"] = 3
    part_plan.PART_POINTS[True] = 50  # 48 parts: many moments between them; workers read this file too

NOBODY = 65534
LAST_WORDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def _earlier(case: Case, workshop: Workshop, chance: random.Random) -> tuple[Path, tuple[str, ...], dict[str, str] | None]:
    """A folder, in half of the trials with an earlier result that the run replaces, and the words for that."""
    folder = workshop.folder()
    if chance.random() < 0.5:
        return folder, (), None
    if case.name == "report":
        run = workshop.start(CASES_BY_NAME["report"], folder)
        run.wait()
        earlier = workshop.start(Case(name="", first=("report", "earlier.yaml", "-o", "out"), output="out"), folder)
        earlier.wait()
        assert earlier.code == 0, earlier.stderr
        return folder, (), contents(folder / case.output)
    if not case.replaces:
        return folder, (), None
    (folder / case.output).write_bytes(EARLIER)
    return folder, ("--force",), contents(folder / case.output)


CASES_BY_NAME = {case.name: case for case in CASES}


def _moment(workshop: Workshop, case: Case, chance: random.Random) -> None:
    time.sleep(chance.uniform(0.0, 1.05) * workshop.duration_s[case.name])


def _look(case: Case, workshop: Workshop, folder: Path, earlier: dict[str, str] | None) -> None:
    """Nothing that stood there is damaged, and nothing under the final name is but half there."""
    for name, content in BYSTANDERS.items():
        assert (folder / name).read_bytes() == content, f"{name} is damaged"
    wanted = workshop.references[case.name]
    for name, digest in contents(folder / case.output).items() if (folder / case.output).exists() else ():
        allowed = {wanted.get(name), (earlier or {}).get(name)}
        if case.name == "report" and name == "manifest.json":
            continue  # says of both reports which files are whose, while one replaces the other
        assert digest in allowed, f"{case.output}/{name} is neither the earlier nor the new one"
    if earlier is not None:
        assert set(earlier) <= {*contents(folder / case.output), *set(earlier) - set(wanted)}, "an earlier file is gone"


def _again(case: Case, workshop: Workshop, folder: Path, earlier: dict[str, str] | None) -> None:
    """Run again, as the user would; the result is that of an undisturbed run, and no scratch is left."""
    resumed = _words_again(case, folder, earlier)
    run = workshop.start(case, folder, *resumed)
    run.wait(END_S * 2)
    assert run.code == 0, f"run again: exit {run.code}: {run.stderr}"
    assert contents(folder / case.output) == workshop.references[case.name], "run again, the result differs"
    assert scratch(folder) == [], f"left behind: {scratch(folder)}"


def _words_again(case: Case, folder: Path, earlier: dict[str, str] | None) -> tuple[str, ...]:
    """What a user says to finish what was struck."""
    output = folder / case.output
    if case.name.startswith("sweep"):
        began = (folder / f"{case.output}.parts" / "manifest.json").is_file()
        untouched = earlier is not None and contents(output) == earlier
        return ("--force",) if untouched and not began else ("--resume",)
    return () if case.name == "serve" and not output.exists() else case.resumed


def _says_one_line(run: Run, begins: str) -> None:
    said = [line for line in run.stderr.splitlines() if line.strip()]
    assert "Traceback" not in run.stderr, run.stderr
    assert any(line.startswith(begins) for line in said), f"said {said}"


def signalled(case: Case, workshop: Workshop, chance: random.Random, number: signal.Signals, found: Counter[str]) -> None:
    """A signal at a random moment."""
    folder, words, earlier = _earlier(case, workshop, chance)
    run = workshop.start(case, folder, *words)
    if number in LAST_WORDS:
        run.await_program()
    _moment(workshop, case, chance)
    struck = not run.ended()
    if struck:
        os.kill(run.pid, number)
    ended_s = run.wait()
    found["struck"] += struck
    if number != signal.SIGKILL and run.code != 0:
        code, word = LAST_WORDS[number]
        if run.code == -number:  # the program was done, and about to leave
            assert contents(folder / case.output) == workshop.references[case.name], "unfinished, and nothing said"
        else:
            assert run.code == code, f"exit {run.code}: {run.stderr}"
            _says_one_line(run, word)
        assert scratch(folder) == [] or case.name.startswith("sweep"), f"left behind: {scratch(folder)}"
        ENDED_S.append(ended_s)
    _look(case, workshop, folder, earlier)
    _again(case, workshop, folder, earlier)


ENDED_S: list[float] = []


def killed(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """SIGKILL."""
    signalled(case, workshop, chance, signal.SIGKILL, found)


def interrupted(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """SIGINT, as Ctrl-C sends it: exit 130 and one line."""
    signalled(case, workshop, chance, signal.SIGINT, found)


def terminated(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """SIGTERM, as service managers and batch systems send it: exit 143 and one line."""
    signalled(case, workshop, chance, signal.SIGTERM, found)


def too_large(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """No file may grow beyond a random size (RLIMIT_FSIZE), as on a disk that is full or a quota that is spent."""
    folder, words, earlier = _earlier(case, workshop, chance)
    limit = int(2 ** chance.uniform(0, 22))
    run = workshop.start(case, folder, *words,
                         prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    run.wait()
    _refused(run, found)
    _look(case, workshop, folder, earlier)
    _again(case, workshop, folder, earlier)


def _refused(run: Run, found: Counter[str]) -> None:
    found["struck"] += run.code != 0
    if run.code != 0 and run.stderr:  # nothing can be said when not even that much fits
        assert run.code in {1, 2}, f"exit {run.code}: {run.stderr}"
        _says_one_line(run, "error: ")


def disk_full(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """A disk of its own with room for a random part of what the run writes."""
    inputs = workshop.folder()
    folder = workshop.folder()
    pages = sum(-(-one.stat().st_size // 4096) for one in inputs.rglob("*") if one.is_file())
    size = 4096 * pages + int(2 ** chance.uniform(12, 20))
    with _small_disk(folder, size) as mounted:
        if not mounted:
            found["no right to mount"] += 1
            return
        shutil.copytree(inputs, folder, dirs_exist_ok=True)
        run = workshop.start(case, folder)
        run.wait()
        _refused(run, found)
        _look(case, workshop, folder, None)
        subprocess.run(["mount", "-o", f"remount,size={2**28}", str(folder)], check=True)
        _again(case, workshop, folder, None)


@contextlib.contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[bool]:
    options = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(options, capture_output=True, check=False)
    if done.returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """The folder may be read but not written; a user without special rights runs the command."""
    folder, words, earlier = _earlier(case, workshop, chance)
    before = contents(folder)
    folder.chmod(0o555)
    out = folder / case.output
    if out.is_dir():
        for one in (out, *(path for path in out.rglob("*") if path.is_dir())):
            one.chmod(0o555)

    def humble() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    run = workshop.start(case, folder, *words, prepare=humble)
    run.wait()
    for one in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        one.chmod(0o755)
    assert run.code in {1, 2}, f"exit {run.code}: {run.stderr}"
    found["struck"] += 1
    _says_one_line(run, "error: ")
    assert contents(folder) == before
    _look(case, workshop, folder, earlier)
    _again(case, workshop, folder, earlier)


def clock_set_back(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """The clock jumps back while it runs, and what earlier runs left is from the future."""
    folder, words, earlier = _earlier(case, workshop, chance)
    run = workshop.start(case, folder, *words)
    _moment(workshop, case, chance)
    if not run.ended():
        os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _look(case, workshop, folder, earlier)
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (LATER_DATE_S, LATER_DATE_S))

    def back() -> None:
        start = time.time()
        ticks = iter(range(10**9))
        time.time = lambda: start - 1000.0 * next(ticks)  # type: ignore[assignment]
        time.time_ns = lambda: int(time.time() * 1e9)  # type: ignore[assignment]

    again = workshop.start(case, folder, *_words_again(case, folder, earlier), prepare=back)
    again.wait()
    found["struck"] += 1
    assert again.code == 0, again.stderr
    assert contents(folder / case.output) == workshop.references[case.name]


def two_at_once(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """The same command twice into the same place: one may be refused, the result is whole."""
    folder, words, earlier = _earlier(case, workshop, chance)
    first = workshop.start(case, folder, *words)
    time.sleep(chance.choice([0.0, chance.uniform(0.0, 1.0) * workshop.duration_s[case.name]]))
    second = workshop.start(case, folder, *words)
    first.wait()
    second.wait()
    found["struck"] += 1
    for run in (first, second):
        assert run.code in {0, 2}, f"exit {run.code}: {run.stderr}"
        if run.code:
            _says_one_line(run, "error: ")
    assert 0 in {first.code, second.code}, f"both were refused: {first.stderr}, {second.stderr}"
    _look(case, workshop, folder, earlier)
    assert contents(folder / case.output) == workshop.references[case.name], "two at once: not the whole result"
    assert scratch(folder) == []


def worker_lost(case: Case, workshop: Workshop, chance: random.Random, found: Counter[str]) -> None:
    """One of the worker processes is killed."""
    folder, words, earlier = _earlier(case, workshop, chance)
    run = workshop.start(case, folder, *words)
    _moment(workshop, case, chance)
    workers = _children(run.pid)
    if workers and not run.ended():
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
            found["struck"] += 1
    run.wait()
    assert run.code in {0, 1}, f"exit {run.code}: {run.stderr}"
    if run.code:
        _says_one_line(run, "error: a worker was lost")
    _look(case, workshop, folder, earlier)
    _again(case, workshop, folder, earlier)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread or a worker may end meanwhile
            found += [int(child) for child in task.read_text().split()
                      if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")]
    return found


FAULTS: dict[str, Callable[[Case, Workshop, random.Random, Counter[str]], None]] = {
    "SIGKILL": killed, "SIGINT": interrupted, "SIGTERM": terminated, "file too large": too_large,
    "disk full": disk_full, "read-only": read_only, "clock set back": clock_set_back, "two at once": two_at_once,
    "worker lost": worker_lost,
}


def main() -> int:
    """Strike N times, spread over faults and commands; print the table, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", type=int, nargs="?", default=400)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help="a part of a fault's or a case's name")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    chance = random.Random(seed)
    pairs = [(fault, case) for fault in FAULTS for case in CASES
             if (fault != "worker lost" or case.workers) and given.only in f"{fault} / {case.name}"]
    counts: dict[str, Counter[str]] = {fault: Counter() for fault in FAULTS}
    failures = []
    root = Path(tempfile.mkdtemp(prefix="simkit faults "))  # no TemporaryDirectory: a child's end would remove it
    try:
        root.chmod(0o755)
        workshop = Workshop(root=root)
        for case in dict.fromkeys(case for _, case in pairs):
            workshop.learn(case)
        for trial in range(given.trials):
            fault, case = pairs[trial % len(pairs)]
            counts[fault]["trials"] += 1
            try:
                FAULTS[fault](case, workshop, chance, counts[fault])
            except AssertionError as error:
                failures.append(f"{fault} / {case.name}: {error}")
                counts[fault]["failed"] += 1
                print(failures[-1], file=sys.stderr, flush=True)
            for used in root.glob("trial *"):
                shutil.rmtree(used, ignore_errors=True)
    except KeyboardInterrupt:
        print("interrupted: what was tried so far", file=sys.stderr)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"seed {seed}\n| fault | trials | struck | failed |\n|---|---|---|---|")
    for fault, count in counts.items():
        if count["trials"]:
            print(f"| {fault} | {count['trials']} | {count['struck']} | {count['failed']} |")
    if ENDED_S:
        ENDED_S.sort()
        print(f"after SIGINT or SIGTERM it ended within {ENDED_S[len(ENDED_S) // 2]:.2f} s (median), "
              f"{ENDED_S[-1]:.2f} s (longest)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
