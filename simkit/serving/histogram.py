"""Quantiles of a stream in constant memory: counts in logarithmic bins, each 0.5 % wide.

A quantile is exact to within its bin (a relative error of at most 0.25 %, the bin's geometric middle). DDSketch
(Masson, Rim, Lee 2019, arXiv 1908.10693) with fixed bounds.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEAST_S: Final = 1e-7
MOST_S: Final = 1e9
BIN_WIDTH_RATIO: Final = 1.005  # an error of a quarter of a per cent at the most, see above
BINS: Final = math.ceil(math.log(MOST_S / LEAST_S) / math.log(BIN_WIDTH_RATIO)) + 1
LOG_WIDTH: Final = math.log(BIN_WIDTH_RATIO)
LOG_LEAST: Final = math.log(LEAST_S)


def quantile_s(counts: NDArray[np.int64], probability: float) -> float:
    """The smallest bin's middle below which ``probability`` of the counted times lie; NaN without any."""
    total = int(counts.sum())
    if total == 0:
        return math.nan
    rank = max(math.ceil(probability * total), 1)
    index = int(np.searchsorted(np.cumsum(counts), rank))
    return 0.0 if index == 0 else LEAST_S * BIN_WIDTH_RATIO ** (index - 0.5)


def distribution(counts: NDArray[np.int64]) -> tuple[Any, Any]:
    """``(upper ends of the bins in seconds, share of all counts at or below)`` of the bins that hold any."""
    held = np.flatnonzero(counts)
    share = np.cumsum(counts)[held] / max(int(counts.sum()), 1)
    return LEAST_S * BIN_WIDTH_RATIO ** held.astype(float), share


def mean_batch(batch_s: NDArray[np.float64]) -> float:
    """Mean index of a histogram of seconds, the first bin (nothing running) left out; NaN when it is all."""
    busy = batch_s[1:]
    return float(np.dot(busy, np.arange(1, batch_s.size)) / busy.sum()) if busy.sum() > 0 else math.nan
