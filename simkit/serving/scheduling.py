"""Admission, preemption and blocks: which sequences run, and what they hold. Compiled; part of the event loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.jit_cache import compiled, stamp_module
from simkit.serving import state as at
from simkit.serving.histogram import BINS, LOG_LEAST, LOG_WIDTH
from simkit.serving.state import Buffer, Rules, State


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
    return float(running_sequence[at.PROMPT] + running_sequence[at.OUTPUT] - running_sequence[at.LEFT] - 1.0)


@compiled()
def record_time(state: State, row: int, time_s: float) -> None:
    """Count a time in its bin of a histogram."""
    place = 0 if time_s <= 0.0 else int((np.log(time_s) - LOG_LEAST) / LOG_WIDTH) + 1
    state.histograms[row, min(max(place, 0), BINS - 1)] += 1


@compiled()
def let_pass(state: State, duration_s: float) -> None:
    """Move the clock, and keep the time series: used blocks and running sequences in buckets that widen as needed."""
    clock, count, series = state.clock_s, state.tally, state.series
    start, end = clock[at.NOW] - clock[at.START], clock[at.NOW] + duration_s - clock[at.START]
    used, running = count[at.USED], count[at.RUNNING]
    while end >= clock[at.BUCKET] * at.SERIES_BUCKETS:
        for bucket in range(at.SERIES_BUCKETS // 2):
            for column in range(3):
                series[bucket, column] = series[2 * bucket, column] + series[2 * bucket + 1, column]
        series[at.SERIES_BUCKETS // 2:] = 0.0
        clock[at.BUCKET] *= 2.0
    bucket = int(start / clock[at.BUCKET])
    while start < end and bucket < at.SERIES_BUCKETS:
        part = min(end, (bucket + 1) * clock[at.BUCKET]) - start
        if part > 0.0:
            series[bucket, 0] += part
            series[bucket, 1] += part * used
            series[bucket, 2] += part * running
            start += part
        bucket += 1
    clock[at.BLOCK_SECONDS] += duration_s * used
    clock[at.NOW] += duration_s
    state.batch_s[running] += duration_s


@compiled()
def missed(count: NDArray[np.int64]) -> int:
    """Requests that ended outside their bounds, or were refused."""
    return int(count[at.FINISHED] - count[at.GOOD] + count[at.REFUSED])


@compiled()
def release(state: State, rules: Rules) -> None:
    """A request has left: in a closed loop its client sends the next one now."""
    if rules.clients > 0:
        state.releases_s[state.tally[at.DONE] % rules.clients] = state.clock_s[at.NOW]
    state.tally[at.DONE] += 1


@compiled()
def next_arrival_s(state: State, rules: Rules, buffer: Buffer) -> float:
    """When the next request arrives; infinite when its client still waits for another."""
    count = state.tally
    if rules.clients == 0:
        return float(buffer.arrival_s[count[at.NEXT]])
    if count[at.TAKEN] >= rules.clients + count[at.DONE]:
        return np.inf
    return float(state.releases_s[count[at.TAKEN] % rules.clients])


@compiled()
def _room(state: State, rules: Rules, need: float) -> bool:
    reserve = rules.watermark if state.tally[at.RUNNING] > 0 else 0
    return bool(state.tally[at.USED] + need + reserve <= rules.blocks)


@compiled()
def _enter(state: State, need: int) -> None:
    """Count the last row of ``running`` as running with ``need`` blocks."""
    count = state.tally
    state.running_sequences[count[at.RUNNING], at.HELD] = need
    count[at.RUNNING] += 1
    count[at.USED] += need
    count[at.ALLOCATED] += need
    count[at.MOST_USED] = max(count[at.MOST_USED], count[at.USED])
    count[at.MOST_BATCH] = max(count[at.MOST_BATCH], count[at.RUNNING])


@compiled()
def _return_parked(state: State, rules: Rules) -> bool:
    """Bring back the oldest preempted sequence when its blocks are free."""
    count, clock = state.tally, state.clock_s
    row = state.parked_sequences[count[at.PARKED] - 1]
    need = int(row[at.HELD]) if row[at.SWAPPED] > 0.0 else blocks_of(row[at.TARGET], rules)
    if not _room(state, rules, need):
        return False
    state.running_sequences[count[at.RUNNING]] = row
    if row[at.SWAPPED] > 0.0:
        state.running_sequences[count[at.RUNNING], at.SWAPPED] = 0.0
        count[at.HOST_BLOCKS] -= need
        clock[at.OWED_SWAP] += need * rules.swap_s_per_block
    count[at.PARKED] -= 1
    _enter(state, need)
    return True


@compiled()
def _refuse_or_take(state: State, rules: Rules, buffer: Buffer, arrival_s: float) -> bool:
    """Start the next request when its prompt's blocks are free; refuse one that could never end. True: look again."""
    count, clock = state.tally, state.clock_s
    prompt, output = buffer.prompt[count[at.NEXT]], buffer.output[count[at.NEXT]]
    # The last step reads all but the last token and writes every token that it verifies.
    most = float(max(prompt, prompt + output - 2 + rules.verified))
    if blocks_of(most, rules) > rules.blocks:
        if count[at.REFUSED] == 0:
            count[at.FIRST_REFUSED], count[at.REFUSED_TOKENS] = count[at.TAKEN], prompt + output
        count[at.REFUSED] += 1
        count[at.NEXT] += 1
        count[at.TAKEN] += 1
        release(state, rules)
        return True
    need = blocks_of(float(prompt), rules)
    if not _room(state, rules, need):
        return False
    row = state.running_sequences[count[at.RUNNING]]
    row[at.ID], row[at.ARRIVAL], row[at.PROMPT], row[at.OUTPUT] = count[at.TAKEN], arrival_s, prompt, output
    row[at.TARGET], row[at.FILLED], row[at.LEFT] = prompt, 0.0, output
    row[at.ADMITTED], row[at.FIRST], row[at.SWAPPED] = clock[at.NOW], -1.0, 0.0
    record_time(state, at.WAIT, clock[at.NOW] - arrival_s)
    count[at.NEXT] += 1
    count[at.TAKEN] += 1
    count[at.PROMPT_TOKENS] += prompt
    _enter(state, need)
    return True


@compiled()
def admit(state: State, rules: Rules, buffer: Buffer, more: bool) -> int:  # noqa: FBT001 - compiled
    """Let in what fits. Returns WANTS_REQUESTS when the buffer is empty and the stream is not."""
    count, clock = state.tally, state.clock_s
    while count[at.RUNNING] < rules.most_running:
        if count[at.PARKED] > 0:
            if not _return_parked(state, rules):
                break
            continue
        if count[at.NEXT] >= buffer.prompt.size:
            return at.WANTS_REQUESTS if more else at.FINISHED_ALL
        arrival_s = next_arrival_s(state, rules, buffer)
        if arrival_s > clock[at.NOW]:
            if count[at.RUNNING] > 0:
                break
            if clock[at.START] < 0.0:
                clock[at.NOW] = clock[at.START] = arrival_s
            else:
                clock[at.IDLE] += arrival_s - clock[at.NOW]
                let_pass(state, arrival_s - clock[at.NOW])
                clock[at.NOW] = arrival_s
        if clock[at.START] < 0.0:
            clock[at.START] = clock[at.NOW] = arrival_s
        if not _refuse_or_take(state, rules, buffer, arrival_s):
            break
    return at.FINISHED_ALL


@compiled()
def preempt_youngest(state: State, rules: Rules) -> None:
    """Take the blocks of the youngest sequence; its cache goes to the host, or is computed again later."""
    count, clock = state.tally, state.clock_s
    count[at.RUNNING] -= 1
    row = state.running_sequences[count[at.RUNNING]]
    held = int(row[at.HELD])
    count[at.USED] -= held
    count[at.FREED] += held
    count[at.PREEMPTED] += 1
    if count[at.HOST_BLOCKS] + held <= rules.host_blocks and row[at.FILLED] > 0.0:
        row[at.SWAPPED] = 1.0
        count[at.HOST_BLOCKS] += held
        count[at.SWAPPED_OUT] += 1
        clock[at.OWED_SWAP] += held * rules.swap_s_per_block
    else:
        row[at.TARGET] = np.ceil(row[at.PROMPT] + row[at.OUTPUT] - row[at.LEFT] - at.ROUNDING)
        row[at.FILLED] = 0.0
        row[at.HELD] = 0.0
    state.parked_sequences[count[at.PARKED]] = row
    count[at.PARKED] += 1


@compiled()
def _blocks_more(row: NDArray[np.float64], rules: Rules, iterations: int) -> int:
    """Blocks beyond those held that ``iterations`` decoding steps of a sequence write to."""
    if row[at.FILLED] < row[at.TARGET]:
        return 0
    last = np.floor(cached_tokens(row) + rules.tokens_per_step * (iterations - 1) + at.ROUNDING) + rules.verified
    # Proposals beyond the last token are not written.
    last = min(last, row[at.PROMPT] + row[at.OUTPUT] - 2.0 + rules.verified)
    return max(blocks_of(last, rules) - int(row[at.HELD]), 0)


@compiled()
def wanted_blocks(state: State, rules: Rules, iterations: int) -> int:
    """Blocks beyond those held that ``iterations`` decoding steps of all sequences write to."""
    wanted = 0
    for index in range(state.tally[at.RUNNING]):
        wanted += _blocks_more(state.running_sequences[index], rules, iterations)
    return wanted


@compiled()
def take_blocks(state: State, rules: Rules, iterations: int) -> None:
    """Give decoding sequences the blocks that ``wanted_blocks`` counts."""
    count = state.tally
    for index in range(count[at.RUNNING]):
        row = state.running_sequences[index]
        more = _blocks_more(row, rules, iterations)
        row[at.HELD] += more
        count[at.USED] += more
        count[at.ALLOCATED] += more
    count[at.MOST_USED] = max(count[at.MOST_USED], count[at.USED])

stamp_module(globals())
