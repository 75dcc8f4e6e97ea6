"""What a reader must not do while it reads: run programs, load pickles, reach a network, or write outside its folder."""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What runs away (squares, powers) takes hours; no input of a few kilobytes takes a fiftieth of this processor time on a
# quiet core, and a busy one stretches it several times at most.
SECONDS = 20.0
MEMORY_BYTES = 200_000_000
_RUNS_CODE = frozenset({"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
                        "pickle.find_class", "socket.connect", "socket.bind", "webbrowser.open", "code.__new__",
                        "os.startfile", "ctypes.dlopen"})
_CHANGES = frozenset({"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
                      "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TrespassError(BaseException):
    """Raised inside the reader; not an Exception, so that nothing in it can hide the act."""


class _Guard:
    """The audit hook, which Python never takes back: it acts only while a folder is set."""

    def __init__(self) -> None:
        self.folder: str | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _RUNS_CODE:
            self._refuse(event, given)
        elif event == "open" and isinstance(given[0], str | bytes | os.PathLike):
            writes = isinstance(given[2], int) and given[2] & _WRITING
            if writes and not self._inside(given[0]):
                self._refuse(event, given)
        elif event == "exec":
            if getattr(given[0], "co_filename", "") == "<string>" and not _importing():
                self._refuse(event, given)
        elif event in _CHANGES and not self._inside(given[0]):
            self._refuse(event, given)

    def _inside(self, path: Any) -> bool:
        place = os.path.realpath(os.fsdecode(path))
        # Compiled bytecode and caches are Python's and numba's own, and hold nothing of the input.
        return place.startswith(self.folder or "") or "__pycache__" in place

    def _refuse(self, event: str, given: tuple[Any, ...]) -> None:
        self.folder = None
        raise TrespassError(f"{event} {given!r}"[:300])


def _importing() -> bool:
    """Whether some module is being imported just now: named tuples and dataclasses are made by exec."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


_GUARD = _Guard()


class Watch:
    """Runs calls that may write into ``folder`` only, in bounded time and memory."""

    def __init__(self, folder: Path, *, seconds: float = SECONDS) -> None:
        self._folder, self._seconds = str(folder.resolve()), seconds

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Fail when ``call`` trespasses, takes more processor time than allowed, or 200 MB more memory."""
        with contextlib.suppress(OSError):  # Linux: the peak is counted from now on, not from what went before
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before_bytes, began_s = _peak_bytes(), time.process_time()
        _GUARD.folder = self._folder
        try:
            result = call()
        finally:
            _GUARD.folder = None
        taken_s, grown_bytes = time.process_time() - began_s, _peak_bytes() - before_bytes
        assert taken_s < self._seconds, f"{taken_s:.2f} s of processor time"
        assert grown_bytes < MEMORY_BYTES, f"{grown_bytes / 1e6:.0f} MB more"
        return result


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
