"""Commands in forked processes, and the folders that they are struck in."""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing.synchronize  # noqa: F401 - a user without rights may not read this machine's library: loaded before
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from simkit.commands.main import main as simkit
from tests.faults.cases import Case, contents, lay_out

END_S = 180.0  # a run that takes longer, on a busy machine too, hangs


@dataclass
class Run:
    """A forked command: its process and what it said, without progress, which is wiped with carriage returns."""

    pid: int
    said: int  # the end of a pipe to read: a file would fall under the limits that are tried
    code: int | None = None
    stderr: str = ""

    def ended(self) -> bool:
        """True when it has ended; its exit code, or minus the signal, is then in ``code``."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                os.set_blocking(self.said, False)
                with contextlib.suppress(BlockingIOError):
                    text = os.read(self.said, 2**16).decode(errors="replace")
                    self.stderr = "\n".join(line.rpartition("\r")[2] for line in text.splitlines())
                os.close(self.said)
        return self.code is not None

    def await_program(self) -> None:
        """Wait until the command listens for signals, or has ended: before, a signal would meet this program's child.

        simkit handles SIGTERM for exactly as long as it answers interrupts with a line, and Linux tells who handles what.
        """
        status = Path(f"/proc/{self.pid}/status")
        while status.exists() and not self.ended():
            with contextlib.suppress(OSError):
                caught = int(status.read_text(encoding="ascii").partition("SigCgt:")[2].split()[0], 16)
                if caught >> (signal.SIGTERM - 1) & 1:
                    return
            time.sleep(0.0005)

    def wait(self, timeout_s: float = END_S) -> float:
        """Seconds until it ends. Raises AssertionError when it hangs."""
        begin = time.monotonic()
        while not self.ended():
            if time.monotonic() - begin > timeout_s:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still running {timeout_s:.0f} s later")
            time.sleep(0.002)
        return time.monotonic() - begin


@dataclass
class Workshop:
    """Folders of trials, references of undisturbed runs, and the seconds that those took."""

    root: Path
    references: dict[str, dict[str, str]] = field(default_factory=dict)
    duration_s: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def folder(self) -> Path:
        """A new folder with inputs and bystanders, which anybody may read."""
        self.count += 1
        place = self.root / f"trial {self.count}"
        lay_out(place)
        return place

    def start(self, case: Case, folder: Path, *more: str, prepare: Callable[[], None] | None = None) -> Run:
        """Fork the command; ``prepare`` is called in its process."""
        said, stream = os.pipe()
        os.environ["SIMKIT_CACHE"] = str(folder / "cache")
        pid = os.fork()
        if pid:
            os.close(stream)
            return Run(pid=pid, said=said)
        _child([*case.first, *more], folder, stream, prepare)
        raise AssertionError("unreachable")

    def learn(self, case: Case) -> None:
        """Run the command undisturbed twice: once to load what it needs, once timed, for its reference."""
        os.environ["SIMKIT_CACHE"] = str(self.root / "warm cache")
        warm = self.folder()
        with contextlib.chdir(warm), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            simkit([*case.first, *(["--workers", "1"] if case.workers else [])], standalone_mode=False)
        folder = self.folder()
        run = self.start(case, folder)
        self.duration_s[case.name] = run.wait()
        assert run.code == 0, run.stderr
        self.references[case.name] = contents(folder / case.output)
        assert self.references[case.name] == contents(warm / case.output), "two undisturbed runs differ"


def _child(words: list[str], folder: Path, stream: int, prepare: Callable[[], None] | None) -> None:
    """The forked process: never returns."""
    code = 1
    try:
        os.dup2(stream, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        if prepare is not None:
            prepare()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            simkit(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        threading._shutdown()  # what the interpreter does at its end
        atexit._run_exitfuncs()
        sys.stderr.flush()
    except KeyboardInterrupt:
        # simkit has returned: the interrupt met what ends the process. It dies of it, and its files must be whole.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    finally:
        os._exit(code)
