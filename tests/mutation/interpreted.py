"""The compiled loops as plain Python, so that a mutant of them lives at once and lines can be counted.

With ``NUMBA_DISABLE_JIT=1`` Numba's decorators leave functions as they are. What compiled code takes from Numba alone, pointers
to records, NumPy's record arrays stand in for.
"""

from typing import Any, Final

import numba
import numpy as np

IS_ON: Final = bool(numba.config.DISABLE_JIT)


def prepare() -> None:
    """Done before the tests import the modules that take ``borrowed`` by name."""
    if not IS_ON:
        return
    from simkit.replay.dram import borrow, state, timing

    new_state, as_record = state.new_state, timing.as_record
    borrow.borrowed = _records
    timing.as_record = lambda ticks: _records(as_record(ticks))
    state.new_state = lambda *shape, **queues: state.ChannelState(*map(_records, new_state(*shape, **queues)))


def _records(array: Any) -> Any:
    return array.view(np.recarray) if array.dtype.names else array


prepare()
