"""What the event loop obeys, changes and reads: plain arrays, so that compiled code can hold them."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Columns of a sequence.
ID, ARRIVAL, PROMPT, OUTPUT, TARGET, FILLED, LEFT, ADMITTED, FIRST, HELD, SWAPPED = range(11)
COLUMNS: Final = 11  # as many as are named above
# Clocks, in seconds unless they say otherwise.
(NOW, IDLE, DECODE, ATTENTION, PREFILL, HOST, SWAP, OWED_SWAP, JOULES, BLOCK_SECONDS, BUCKET, START, BUSY_SEQUENCES,
 EMITTED) = range(14)
CLOCKS: Final = 14  # as many as are named above
# Counts.
(RUNNING, PARKED, USED, NEXT, TAKEN, DONE, FINISHED, REFUSED, PREEMPTED, SWAPPED_OUT, HOST_BLOCKS, TOKENS_OUT,
 PROMPT_TOKENS, GOOD, GOOD_TOKENS, ITERATIONS, MOST_USED, MOST_BATCH, ALLOCATED, FREED, EVENTS, SPANS,
 FIRST_REFUSED, REFUSED_TOKENS, JUMPS) = range(25)
COUNTS: Final = 25  # as many as are named above
# Rows of the histograms.
TTFT, TPOT, LATENCY, WAIT = range(4)
SERIES_BUCKETS: Final = 1024  # of the time series, however long the run
EVENT_COLUMNS: Final = 6  # start, duration, iterations, decoding, prompt tokens, used blocks
SPAN_COLUMNS: Final = 5  # id, arrival, admitted, first token, end
FINISHED_ALL: Final = 0
WANTS_REQUESTS: Final = 1
NEVER: Final = 2**62  # as many requests never come
ROUNDING: Final = 1e-9  # seconds: times are sums of float64


class Rules(NamedTuple):
    """What the scheduler obeys.

    page, kind_counts, kind_limit_tokens: a block's tokens; layers and most tokens of each kind of layer.
    blocks, watermark: blocks in all, and those that admission leaves free while others run.
    most_running, chunk: most sequences and most tokens of an iteration.
    verified, tokens_per_step: query tokens and expected new tokens of a decoding sequence.
    swap_s_per_block, host_blocks: time to move a block and room for them; 0 blocks: preempted caches are recomputed.
    host_step_s, host_sequence_s, prefill_fraction: see Runtime.
    slo_ttft_s, slo_tpot_s: bounds that a good request meets.
    clients: requests in flight of a closed loop; 0: requests arrive at their own times.
    most_missed: requests that may miss a bound, or be refused, before the rest is not played.
    """

    page: int
    kind_counts: NDArray[np.int64]
    kind_limit_tokens: NDArray[np.float64]
    blocks: int
    watermark: int
    most_running: int
    chunk: int
    verified: int
    tokens_per_step: float
    swap_s_per_block: float
    host_blocks: int
    host_step_s: float
    host_sequence_s: float
    prefill_fraction: float
    slo_ttft_s: float
    slo_tpot_s: float
    clients: int
    most_missed: int = NEVER


class State(NamedTuple):
    """Everything that changes. The sequences are [most_running, COLUMNS]; columns go by the names above."""

    running_sequences: NDArray[np.float64]
    parked_sequences: NDArray[np.float64]
    clock_s: NDArray[np.float64]
    tally: NDArray[np.int64]
    histograms: NDArray[np.int64]
    batch_s: NDArray[np.float64]
    series: NDArray[np.float64]
    releases_s: NDArray[np.float64]
    events: NDArray[np.float64]
    spans: NDArray[np.float64]


class Buffer(NamedTuple):
    """The next requests of the stream, in order of arrival."""

    arrival_s: NDArray[np.float64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
