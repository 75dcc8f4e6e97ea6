"""Where the parts of a sweep are computed: here, in processes of this machine, or on a Dask cluster.

All are executors of ``concurrent.futures``; a sweep does not know which one it was given.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from simkit.foundation.errors import UserError

CONNECT_S: Final = 20.0
# Parts under way for each worker: one at work, one waiting, so that no worker waits for this process.
PARTS_EACH: Final = 2
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """An executor, and how many parts it is given at a time: the bound on what waits in memory."""

    executor: Executor
    in_flight: int


class HereExecutor(Executor):
    """Computes each call at once, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` now; an interrupt of the user passes through."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future holds whatever its call raised
            future.set_exception(error)
        return future


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def here() -> Iterator[Workers]:
    """No other process at all."""
    with HereExecutor() as executor:
        yield Workers(executor=executor, in_flight=1)


@contextmanager
def processes(count: int) -> Iterator[Workers]:
    """``count`` processes of this machine. They end with this one, however it ends."""
    # Spawned, not forked: the same on every system, and no lock of this process is inherited held.
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield Workers(executor=pool, in_flight=PARTS_EACH * count)
    except BaseException as error:
        if not isinstance(error, Exception):  # the user does not wait for parts that nobody will write
            for worker in multiprocessing.active_children():
                worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: go when the parent has gone (it may have been killed), and quietly when the user interrupts."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            multiprocessing.connection.wait([sentinel])
            os._exit(INTERRUPTED)

        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """The workers of the Dask scheduler at ``address`` (``tcp://host:8786``).

    Raises :class:`UserError` when the extra is missing, nothing answers there, or it has no workers.
    """
    if find_spec("distributed") is None:
        raise UserError("--cluster needs Dask: pip install 'simkit[cluster]'", hint="or use --workers on this machine")
    distributed: Any = import_module("distributed")
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--cluster {address[:200]}: no Dask scheduler answers there ({_first_line(error)})",
                        hint="expected such as tcp://host:8786") from None
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"--cluster {address[:200]}: the scheduler has no workers")
        # A part is never the same call as another's of an earlier run: results stay with us, not on the cluster.
        yield Workers(executor=client.get_executor(pure=False), in_flight=PARTS_EACH * threads)
    finally:
        client.close()


def is_loss(error: BaseException) -> bool:
    """True when a worker, or the way to it, was lost: not the fault of the part that it computed."""
    return isinstance(error, BrokenExecutor) or type(error).__module__.split(".")[0] == "distributed"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
