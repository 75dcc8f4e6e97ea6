"""What the event loop obeys, changes and reads: plain arrays, so that compiled code can hold them."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Columns of a sequence.
(ID, ARRIVAL, PROMPT, OUTPUT, TARGET, FILLED, LEFT, ADMITTED, FIRST, HELD, SWAPPED, SHARED, LEAF, BEGAN, READY,
 SENDER, LATE) = range(17)
COLUMNS: Final = 17  # as many as are named above
# Columns of a cached block of a prompt, of a list of them, and of a handed cache on its way.
KEY, TIER, PINS, OLDER, NEWER, PARENT, READY_TO_SHARE, PLACE, SCRATCH = range(9)
ENTRY_COLUMNS: Final = 9  # as many as are named above
CAPACITY, BLOCK_S, LATENCY_S, MOST_BEHIND_S = range(4)  # of a tier below memory
OLDEST, NEWEST, MEMBERS = range(3)  # the first two count from 1; 0: none
AT, FROM, FREES, ITS_LEAF = range(4)
# Clocks, in seconds unless they say otherwise.
(NOW, IDLE, DECODE, ATTENTION, PREFILL, HOST, SWAP, OWED_SWAP, JOULES, BLOCK_SECONDS, BUCKET, START, PORT,
 EMITTED, WAKE, FULL, HANDOVER) = range(17)
CLOCKS: Final = 17  # as many as are named above
# Counts.
(RUNNING, PARKED, USED, NEXT, TAKEN, DONE, FINISHED, REFUSED, PREEMPTED, SWAPPED_OUT, HOST_BLOCKS, TOKENS_OUT,
 PROMPT_TOKENS, GOOD, GOOD_TOKENS, ITERATIONS, MOST_USED, MOST_BATCH, ALLOCATED, FREED, EVENTS, SPANS,
 FIRST_REFUSED, REFUSED_TOKENS, JUMPS, MOVING, IDLE_BLOCKS, HIT_TOKENS, LOADED, DEMOTED, HANDED, OWED, SENT,
 INBOX_FIRST, INBOX_END, FREES_FIRST, FREES_END, MOVED_BLOCKS, LOOSE, LOST) = range(40)
COUNTS: Final = 40  # as many as are named above
# Rows of the histograms.
TTFT, TPOT, LATENCY, WAIT = range(4)
SERIES_BUCKETS: Final = 1024  # of the time series, however long the run
EVENT_COLUMNS: Final = 6  # start, duration, iterations, decoding, prompt tokens, used blocks
SPAN_COLUMNS: Final = 5  # id, arrival, admitted, first token, end
FINISHED_ALL: Final = 0
WANTS_REQUESTS: Final = 1
WAITS: Final = 2  # for what another pool does
IS_LOST: Final = 3  # with all that it holds
GOES_ON: Final = 4
BOTH, PREFILL_ONLY, DECODE_ONLY = range(3)  # what a replica does of a request
NEVER: Final = 2**62  # as many requests never come
ROUNDING: Final = 1e-9  # seconds: times are sums of float64


class Rules(NamedTuple):
    """What the scheduler obeys.

    page, kind_counts, kind_limit_tokens: a block's tokens; layers and most tokens of each kind of layer.
    blocks, watermark: blocks in all, and those that admission leaves free while others run.
    most_running, chunk: most sequences and most tokens of an iteration.
    stages: of its pipeline; the parts of an iteration's prompts go through them one after another.
    verified, tokens_per_step: query tokens and expected new tokens of a decoding sequence.
    swap_s_per_block, host_blocks: time to move a block and room for them; 0 blocks: preempted caches are recomputed.
    host_step_s, host_sequence_s, prefill_fraction, request_s: see Runtime.
    slo_ttft_s, slo_tpot_s: bounds that a good request meets.
    clients: requests in flight of a closed loop; 0: requests arrive at their own times.
    most_missed: requests that may miss a bound, or be refused, before the rest is not played.
    role, most_blocks: what it does of a request; blocks of the pool that holds a whole one.
    prefix_tokens, prefix_blocks, prefix_growing: tokens of a cached block of a prompt, the blocks that it takes, and
        those of them that a sequence which shares it need not have of its own.
    tiers: [tiers below memory, 4]: cached blocks that each holds, seconds of one on the way, latency, and how far the
        way down may be behind.
    kv_s_per_block, kv_last_share, kv_latency_s: time of a block from pool to pool, the share of a prompt's cache that
        exists only at its end (1: it is moved whole), and the latency.
    lost_s: when the replica is lost.
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
    stages: int = 1
    request_s: float = 0.0
    most_missed: int = NEVER
    role: int = BOTH
    most_blocks: int = NEVER
    prefix_tokens: int = 0
    prefix_blocks: int = 0
    prefix_growing: int = 0
    tiers: NDArray[np.float64] = np.zeros((0, 4))  # none below memory
    kv_s_per_block: float = 0.0
    kv_last_share: float = 1.0
    kv_latency_s: float = 0.0
    lost_s: float = np.inf

    @property
    def cached_blocks(self) -> int:
        """Blocks of prompts that memory, as many again that make room for them, and all tiers hold at most."""
        if not self.prefix_blocks:
            return 0
        return 2 * (self.blocks // self.prefix_blocks + 1) + int(self.tiers[:, CAPACITY].sum()) + self.most_running


class Prefixes(NamedTuple):
    """Cached blocks of prompts: ``entries`` [blocks, ENTRY_COLUMNS], found by key through ``slots``.

    ``lists`` [tiers + 1, 3]: those that none holds in memory and below it, and unused entries last; ``free_s`` [tiers,
    2]: when the way up and down of each tier is free.
    """

    entries: NDArray[np.int64]
    slots: NDArray[np.int64]
    lists: NDArray[np.int64]
    free_s: NDArray[np.float64]


class State(NamedTuple):
    """Everything that changes. The sequences are [most_running, COLUMNS]; columns go by the names above.

    moving: admitted, but their cache is on its way from a tier or another pool. Of two pools, handed: prompts that have
    ended here and go on in the other, there a ring of those that came. sent: caches on their way here, there a ring of
    the blocks that are then free. ports_s: when the ports of the senders are free.
    """

    running_sequences: NDArray[np.float64]
    parked_sequences: NDArray[np.float64]
    moving_sequences: NDArray[np.float64]
    handed: NDArray[np.float64]
    sent: NDArray[np.float64]
    ports_s: NDArray[np.float64]
    prefixes: Prefixes
    clock_s: NDArray[np.float64]
    tally: NDArray[np.int64]
    histograms: NDArray[np.int64]
    batch_s: NDArray[np.float64]
    series: NDArray[np.float64]
    releases_s: NDArray[np.float64]
    events: NDArray[np.float64]
    spans: NDArray[np.float64]


class Buffer(NamedTuple):
    """The next requests of the stream, in order of arrival; ``numbers[first:first + blocks]``: blocks of the prompt."""

    arrival_s: NDArray[np.float64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    numbers: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    first: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    blocks: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
