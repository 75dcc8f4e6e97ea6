"""A bound on work that no clock has a part in: calls of functions, Python's and C's, counted as they happen."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def work_below(calls: int) -> Iterator[None]:
    """Fail as soon as the block has called that many functions, so that what would never end ends."""
    left = calls
    former = sys.getprofile()

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal left
        if event in {"call", "c_call"}:
            left -= 1
            if left < 0:
                sys.setprofile(former)
                raise AssertionError(f"more than {calls:,} calls")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(former)
