"""Admission, preemption and blocks: which sequences run, and what they hold. Compiled; part of the event loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.jit_cache import compiled, stamp_module
from simkit.serving.histogram import BINS, LOG_LEAST, LOG_WIDTH
from simkit.serving.state import (
    ADMITTED,
    ALLOCATED,
    ARRIVAL,
    BLOCK_SECONDS,
    BUCKET,
    DONE,
    FILLED,
    FINISHED_ALL,
    FIRST,
    FIRST_REFUSED,
    FREED,
    HELD,
    HOST_BLOCKS,
    ID,
    IDLE,
    LEFT,
    MOST_BATCH,
    MOST_USED,
    NEXT,
    NOW,
    OUTPUT,
    OWED_SWAP,
    PARKED,
    PREEMPTED,
    PROMPT,
    PROMPT_TOKENS,
    REFUSED,
    REFUSED_TOKENS,
    ROUNDING,
    RUNNING,
    SERIES_BUCKETS,
    START,
    SWAPPED,
    SWAPPED_OUT,
    TAKEN,
    TARGET,
    USED,
    WAIT,
    WANTS_REQUESTS,
    Buffer,
    Rules,
    State,
)


@compiled()
def blocks_of(tokens: float, rules: Rules) -> int:
    """Blocks of a sequence of ``tokens`` cached tokens."""
    blocks = 0
    for kind in range(rules.kind_counts.size):
        kept = min(tokens, rules.kind_limit_tokens[kind])
        blocks += rules.kind_counts[kind] * int(np.ceil(kept / rules.page))
    return blocks


@compiled()
def cached_tokens(running_sequence: NDArray[np.float64]) -> float:
    """Cached tokens of a decoding sequence: prompt and output so far, less the last token, not read yet."""
    return float(running_sequence[PROMPT] + running_sequence[OUTPUT] - running_sequence[LEFT] - 1.0)


@compiled()
def record_time(state: State, row: int, time_s: float) -> None:
    """Count a time in its bin of a histogram."""
    place = 0 if time_s <= 0.0 else int((np.log(time_s) - LOG_LEAST) / LOG_WIDTH) + 1
    state.histograms[row, min(max(place, 0), BINS - 1)] += 1


@compiled()
def let_pass(state: State, duration_s: float) -> None:
    """Move the clock, and keep the time series: used blocks and running sequences in buckets that widen as needed."""
    clock, count, series = state.clock_s, state.tally, state.series
    start, end = clock[NOW] - clock[START], clock[NOW] + duration_s - clock[START]
    used, running = count[USED], count[RUNNING]
    while end >= clock[BUCKET] * SERIES_BUCKETS:
        for bucket in range(SERIES_BUCKETS // 2):
            for column in range(3):
                series[bucket, column] = series[2 * bucket, column] + series[2 * bucket + 1, column]
        series[SERIES_BUCKETS // 2:] = 0.0
        clock[BUCKET] *= 2.0
    bucket = int(start / clock[BUCKET])
    while start < end and bucket < SERIES_BUCKETS:
        part = min(end, (bucket + 1) * clock[BUCKET]) - start
        if part > 0.0:
            series[bucket, 0] += part
            series[bucket, 1] += part * used
            series[bucket, 2] += part * running
            start += part
        bucket += 1
    clock[BLOCK_SECONDS] += duration_s * used
    clock[NOW] += duration_s
    state.batch_s[running] += duration_s


@compiled()
def release(state: State, rules: Rules) -> None:
    """A request has left: in a closed loop its client sends the next one now."""
    if rules.clients > 0:
        state.releases_s[state.tally[DONE] % rules.clients] = state.clock_s[NOW]
    state.tally[DONE] += 1


@compiled()
def next_arrival_s(state: State, rules: Rules, buffer: Buffer) -> float:
    """When the next request arrives; infinite when its client still waits for another."""
    count = state.tally
    if rules.clients == 0:
        return float(buffer.arrival_s[count[NEXT]])
    if count[TAKEN] >= rules.clients + count[DONE]:
        return np.inf
    return float(state.releases_s[count[TAKEN] % rules.clients])


@compiled()
def _room(state: State, rules: Rules, need: float) -> bool:
    reserve = rules.watermark if state.tally[RUNNING] > 0 else 0
    return bool(state.tally[USED] + need + reserve <= rules.blocks)


@compiled()
def _enter(state: State, need: int) -> None:
    """Count the last row of ``running`` as running with ``need`` blocks."""
    count = state.tally
    state.running_sequences[count[RUNNING], HELD] = need
    count[RUNNING] += 1
    count[USED] += need
    count[ALLOCATED] += need
    count[MOST_USED] = max(count[MOST_USED], count[USED])
    count[MOST_BATCH] = max(count[MOST_BATCH], count[RUNNING])


@compiled()
def _return_parked(state: State, rules: Rules) -> bool:
    """Bring back the oldest preempted sequence when its blocks are free."""
    count, clock = state.tally, state.clock_s
    row = state.parked_sequences[count[PARKED] - 1]
    need = int(row[HELD]) if row[SWAPPED] > 0.0 else blocks_of(row[TARGET], rules)
    if not _room(state, rules, need):
        return False
    state.running_sequences[count[RUNNING]] = row
    if row[SWAPPED] > 0.0:
        state.running_sequences[count[RUNNING], SWAPPED] = 0.0
        count[HOST_BLOCKS] -= need
        clock[OWED_SWAP] += need * rules.swap_s_per_block
    count[PARKED] -= 1
    _enter(state, need)
    return True


@compiled()
def _refuse_or_take(state: State, rules: Rules, buffer: Buffer, arrival_s: float) -> bool:
    """Start the next request when its prompt's blocks are free; refuse one that could never end. True: look again."""
    count, clock = state.tally, state.clock_s
    prompt, output = buffer.prompt[count[NEXT]], buffer.output[count[NEXT]]
    # The last step reads all but the last token and writes every token that it verifies.
    most = float(max(prompt, prompt + output - 2 + rules.verified))
    if blocks_of(most, rules) > rules.blocks:
        if count[REFUSED] == 0:
            count[FIRST_REFUSED], count[REFUSED_TOKENS] = count[TAKEN], prompt + output
        count[REFUSED] += 1
        count[NEXT] += 1
        count[TAKEN] += 1
        release(state, rules)
        return True
    need = blocks_of(float(prompt), rules)
    if not _room(state, rules, need):
        return False
    row = state.running_sequences[count[RUNNING]]
    row[ID], row[ARRIVAL], row[PROMPT], row[OUTPUT] = count[TAKEN], arrival_s, prompt, output
    row[TARGET], row[FILLED], row[LEFT] = prompt, 0.0, output
    row[ADMITTED], row[FIRST], row[SWAPPED] = clock[NOW], -1.0, 0.0
    record_time(state, WAIT, clock[NOW] - arrival_s)
    count[NEXT] += 1
    count[TAKEN] += 1
    count[PROMPT_TOKENS] += prompt
    _enter(state, need)
    return True


@compiled()
def admit(state: State, rules: Rules, buffer: Buffer, more: bool) -> int:  # noqa: FBT001 - compiled
    """Let in what fits. Returns WANTS_REQUESTS when the buffer is empty and the stream is not."""
    count, clock = state.tally, state.clock_s
    while count[RUNNING] < rules.most_running:
        if count[PARKED] > 0:
            if not _return_parked(state, rules):
                break
            continue
        if count[NEXT] >= buffer.prompt.size:
            return WANTS_REQUESTS if more else FINISHED_ALL
        arrival_s = next_arrival_s(state, rules, buffer)
        if arrival_s > clock[NOW]:
            if count[RUNNING] > 0:
                break
            if clock[START] < 0.0:
                clock[NOW] = clock[START] = arrival_s
            else:
                clock[IDLE] += arrival_s - clock[NOW]
                let_pass(state, arrival_s - clock[NOW])
                clock[NOW] = arrival_s
        if clock[START] < 0.0:
            clock[START] = clock[NOW] = arrival_s
        if not _refuse_or_take(state, rules, buffer, arrival_s):
            break
    return FINISHED_ALL


@compiled()
def preempt_youngest(state: State, rules: Rules) -> None:
    """Take the blocks of the youngest sequence; its cache goes to the host, or is computed again later."""
    count, clock = state.tally, state.clock_s
    count[RUNNING] -= 1
    row = state.running_sequences[count[RUNNING]]
    held = int(row[HELD])
    count[USED] -= held
    count[FREED] += held
    count[PREEMPTED] += 1
    if count[HOST_BLOCKS] + held <= rules.host_blocks and row[FILLED] > 0.0:
        row[SWAPPED] = 1.0
        count[HOST_BLOCKS] += held
        count[SWAPPED_OUT] += 1
        clock[OWED_SWAP] += held * rules.swap_s_per_block
    else:
        row[TARGET] = np.ceil(row[PROMPT] + row[OUTPUT] - row[LEFT] - ROUNDING)
        row[FILLED] = 0.0
        row[HELD] = 0.0
    state.parked_sequences[count[PARKED]] = row
    count[PARKED] += 1


@compiled()
def wanted_blocks(state: State, rules: Rules, iterations: int) -> int:
    """Blocks beyond those held that ``iterations`` decoding steps of all sequences write to."""
    wanted = 0
    for index in range(state.tally[RUNNING]):
        row = state.running_sequences[index]
        if row[FILLED] >= row[TARGET]:
            last = np.floor(cached_tokens(row) + rules.tokens_per_step * (iterations - 1) + ROUNDING) + rules.verified
            # Proposals beyond the last token are not written.
            last = min(last, row[PROMPT] + row[OUTPUT] - 2.0 + rules.verified)
            wanted += max(blocks_of(last, rules) - int(row[HELD]), 0)
    return wanted


@compiled()
def take_blocks(state: State, rules: Rules, iterations: int) -> None:
    """Give decoding sequences the blocks that ``wanted_blocks`` counts."""
    count = state.tally
    for index in range(count[RUNNING]):
        row = state.running_sequences[index]
        if row[FILLED] >= row[TARGET]:
            last = np.floor(cached_tokens(row) + rules.tokens_per_step * (iterations - 1) + ROUNDING) + rules.verified
            last = min(last, row[PROMPT] + row[OUTPUT] - 2.0 + rules.verified)
            more = max(blocks_of(last, rules) - int(row[HELD]), 0)
            row[HELD] += more
            count[USED] += more
            count[ALLOCATED] += more
    count[MOST_USED] = max(count[MOST_USED], count[USED])

stamp_module(globals())
