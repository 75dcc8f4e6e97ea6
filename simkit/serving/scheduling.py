"""Admission, preemption and blocks: which sequences run, and what they hold. Compiled; part of the event loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.jit_cache import compiled, inner, leaf, stamp_module
from simkit.serving import state as at
from simkit.serving.histogram import BINS, LOG_LEAST, LOG_WIDTH
from simkit.serving.iteration import Tables
from simkit.serving.prefixes import look_up, share
from simkit.serving.state import Buffer, Rules, State


@leaf
def blocks_of(tokens: float, rules: Rules) -> int:
    """Blocks of a sequence of ``tokens`` cached tokens."""
    blocks = 0
    for kind in range(rules.kind_counts.size):
        kept = min(tokens, rules.kind_limit_tokens[kind])
        blocks += rules.kind_counts[kind] * int(np.ceil(kept / rules.page))
    return blocks


@leaf
def put(sequences: NDArray[np.float64], place: int, running_sequence: NDArray[np.float64]) -> None:
    """Copy a row; NumPy's own assignment takes ten seconds to compile."""
    for column in range(sequences.shape[1]):
        sequences[place, column] = running_sequence[column]


@leaf
def cached_tokens(running_sequence: NDArray[np.float64]) -> float:
    """Cached tokens of a decoding sequence: prompt and output so far, less the last token, not read yet."""
    return float(running_sequence[at.PROMPT] + running_sequence[at.OUTPUT] - running_sequence[at.LEFT] - 1.0)


@inner
def record_time(state: State, row: int, time_s: float) -> None:
    """Count a time in its bin of a histogram."""
    place = 0 if time_s <= 0.0 else int((np.log(time_s) - LOG_LEAST) / LOG_WIDTH) + 1
    state.histograms[row, min(max(place, 0), BINS - 1)] += 1


@inner
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
    """Requests that ended outside their bounds, were refused, or were lost."""
    return int(count[at.FINISHED] - count[at.GOOD] + count[at.REFUSED] + count[at.LOST])


@inner
def release(state: State, rules: Rules) -> None:
    """A request has left: in a closed loop its client sends the next one now."""
    if rules.clients > 0:
        state.releases_s[state.tally[at.DONE] % rules.clients] = state.clock_s[at.NOW]
    state.tally[at.DONE] += 1


@inner
def next_arrival_s(state: State, rules: Rules, buffer: Buffer) -> float:
    """When the next request arrives; infinite when none is left, or its client still waits for another."""
    count = state.tally
    if rules.role == at.DECODE_ONLY:
        if count[at.INBOX_FIRST] == count[at.INBOX_END]:
            return np.inf
        return float(state.handed[count[at.INBOX_FIRST] % state.handed.shape[0], at.READY])
    if count[at.NEXT] >= buffer.prompt.size:
        return np.inf
    if rules.clients == 0:
        return float(buffer.arrival_s[count[at.NEXT]])
    if count[at.TAKEN] >= rules.clients + count[at.DONE]:
        return np.inf
    return float(state.releases_s[count[at.TAKEN] % rules.clients])


@inner
def more_may_run(state: State, rules: Rules) -> bool:
    """Whether one more sequence may be let in, as far as their number goes."""
    count = state.tally
    return bool(count[at.RUNNING] + count[at.MOVING] + count[at.OWED] < rules.most_running)


@inner
def claim(state: State, blocks: int) -> None:
    """Take blocks into use."""
    count = state.tally
    count[at.USED] += blocks
    count[at.ALLOCATED] += blocks
    count[at.MOST_USED] = max(count[at.MOST_USED], count[at.USED])


@inner
def give_back(state: State, held: int, leaf: int) -> None:
    """Free a sequence's own blocks, and let go of the shared ones up from ``leaf`` when :func:`let_go` comes to it."""
    count = state.tally
    count[at.USED] -= held
    count[at.FREED] += held
    if leaf >= 0:
        state.prefixes.entries[count[at.LOOSE], at.SCRATCH] = leaf
        count[at.LOOSE] += 1


@inner
def _room(state: State, rules: Rules, need: float) -> bool:
    reserve = rules.watermark if state.tally[at.RUNNING] > 0 else 0
    return bool(state.tally[at.USED] + need + reserve <= rules.blocks)


@inner
def _enter(state: State) -> None:
    """Count the last row of ``running`` as running, or as moving until its cache is there."""
    count = state.tally
    row = state.running_sequences[count[at.RUNNING]]
    if row[at.READY] > state.clock_s[at.NOW]:
        put(state.moving_sequences, count[at.MOVING], row)
        count[at.MOVING] += 1
    else:
        count[at.RUNNING] += 1
        count[at.MOST_BATCH] = max(count[at.MOST_BATCH], count[at.RUNNING])


@inner
def arrive(state: State) -> None:
    """Sequences whose caches have come run; blocks of caches that have gone to another pool are free."""
    count, kept = state.tally, 0
    for index in range(count[at.MOVING]):
        row = state.moving_sequences[index]
        if row[at.READY] <= state.clock_s[at.NOW]:
            put(state.running_sequences, count[at.RUNNING], row)
            _enter(state)
        else:
            put(state.moving_sequences, kept, row)
            kept += 1
    count[at.MOVING] = kept
    while count[at.FREES_FIRST] < count[at.FREES_END]:
        gone = state.sent[count[at.FREES_FIRST] % state.sent.shape[0]]
        if gone[at.AT] > state.clock_s[at.NOW]:
            break
        give_back(state, int(gone[at.FREES]), int(gone[at.ITS_LEAF]))
        count[at.FREES_FIRST] += 1
        count[at.OWED] -= 1


@inner
def wakes_s(state: State, rules: Rules, buffer: Buffer) -> float:
    """When something happens to a replica in which nothing runs; infinite: nothing that it knows of."""
    count = state.tally
    wake_s = next_landing_s(state)
    if count[at.FREES_FIRST] < count[at.FREES_END]:
        wake_s = min(wake_s, state.sent[count[at.FREES_FIRST] % state.sent.shape[0], at.AT])
    arrival_s = next_arrival_s(state, rules, buffer)
    if arrival_s > state.clock_s[at.NOW] and more_may_run(state, rules):
        wake_s = min(wake_s, arrival_s)
    return float(wake_s)


@inner
def next_landing_s(state: State) -> float:
    """When the next cache on its way arrives."""
    landing_s = np.inf
    for index in range(state.tally[at.MOVING]):
        landing_s = min(landing_s, state.moving_sequences[index, at.READY])
    return landing_s


@inner
def _prompts_left(state: State) -> float:
    """Tokens of prompts that are let in and not computed."""
    left = 0.0
    for index in range(state.tally[at.RUNNING]):
        left += state.running_sequences[index, at.TARGET] - state.running_sequences[index, at.FILLED]
    return left


@inner
def _return_parked(state: State, rules: Rules) -> bool:
    """Bring back the oldest preempted sequence when its blocks are free."""
    count, clock = state.tally, state.clock_s
    row = state.parked_sequences[count[at.PARKED] - 1]
    need = int(row[at.HELD]) if row[at.SWAPPED] > 0.0 else blocks_of(row[at.TARGET], rules)
    if not _room(state, rules, need):
        return False
    if row[at.SWAPPED] > 0.0:
        row[at.SWAPPED] = 0.0
        count[at.HOST_BLOCKS] -= need
        clock[at.OWED_SWAP] += need * rules.swap_s_per_block
    row[at.HELD] = need
    put(state.running_sequences, count[at.RUNNING], row)
    count[at.PARKED] -= 1
    claim(state, need)
    _enter(state)
    return True


@inner
def _take_handed(state: State, rules: Rules) -> bool:
    """Take the next prompt that another pool has computed, when its blocks are free: its cache sets out."""
    count, clock = state.tally, state.clock_s
    came = state.handed[count[at.INBOX_FIRST] % state.handed.shape[0]]
    need, ended_s, sender = blocks_of(came[at.PROMPT], rules), came[at.READY], int(came[at.SENDER])
    if not _room(state, rules, need):
        clock[at.FULL] = clock[at.NOW]
        return False
    # Layer by layer a cache follows its prompt as it is computed, into room that was free all the while.
    began_s = ended_s = max(ended_s, clock[at.FULL])
    if rules.kv_last_share < 1.0:
        began_s = max(came[at.BEGAN], clock[at.FULL])
    else:
        began_s = ended_s = clock[at.NOW]
    took_s = need * rules.kv_s_per_block
    gone_s = max(max(began_s, state.ports_s[sender], clock[at.PORT]) + took_s,
                 ended_s + took_s * rules.kv_last_share)
    state.ports_s[sender] = clock[at.PORT] = gone_s
    sent = state.sent[count[at.SENT]]
    sent[at.AT], sent[at.FROM], sent[at.FREES], sent[at.ITS_LEAF] = gone_s, sender, came[at.HELD], came[at.LEAF]
    count[at.SENT] += 1
    count[at.INBOX_FIRST] += 1
    count[at.MOVED_BLOCKS] += need
    put(state.running_sequences, count[at.RUNNING], came)
    row = state.running_sequences[count[at.RUNNING]]
    row[at.HELD], row[at.SHARED], row[at.LEAF], row[at.LATE] = need, 0.0, -1.0, 0.0
    row[at.READY] = gone_s + rules.kv_latency_s
    clock[at.HANDOVER] += max(row[at.READY], clock[at.NOW]) - came[at.READY]
    claim(state, need)
    _enter(state)
    return True


@inner
def _refuse_or_take(state: State, rules: Rules, tables: Tables, buffer: Buffer, arrival_s: float) -> bool:
    """Start the next request when its prompt's blocks are free; refuse one that could never end. True: look again."""
    if rules.role == at.DECODE_ONLY:
        return _take_handed(state, rules)
    count, clock, place = state.tally, state.clock_s, state.tally[at.NEXT]
    prompt, output = buffer.prompt[place], buffer.output[place]
    # The last step reads all but the last token and writes every token that it verifies.
    most = blocks_of(float(max(prompt, prompt + output - 2 + rules.verified)), rules)
    here = most if rules.role == at.BOTH else blocks_of(float(prompt), rules)
    if here > rules.blocks or most > rules.most_blocks:
        if count[at.REFUSED] == 0:
            count[at.FIRST_REFUSED], count[at.REFUSED_TOKENS] = count[at.TAKEN], prompt + output
        count[at.REFUSED] += 1
        count[at.NEXT] += 1
        count[at.TAKEN] += 1
        release(state, rules)
        return True
    own, ready_s, hits, added, cached = blocks_of(float(prompt), rules), clock[at.NOW], 0, 0, 0
    numbers = buffer.numbers[:0]
    if rules.prefix_blocks > 0 and buffer.first.size > 0:
        if _prompts_left(state) >= rules.chunk:
            return False  # looked up when its turn comes, by when more is computed
        numbers = buffer.numbers[buffer.first[place]:buffer.first[place] + buffer.blocks[place]]
        hits, added, cached, ready_s = look_up(state, rules, tables, numbers, prompt)
        if state.tally[at.USED] == 0 and own - (hits + added) * rules.prefix_growing + cached > rules.blocks:
            hits, added, cached, ready_s = 0, 0, 0, clock[at.NOW]  # what shares nothing fits
    shared = (hits + added) * rules.prefix_growing
    if not _room(state, rules, own - shared + cached):
        return False
    leaf = share(state, rules, numbers, hits, added, own - shared + cached)
    hit_tokens = min(hits * rules.prefix_tokens, prompt - 1)
    row = state.running_sequences[count[at.RUNNING]]
    row[at.ID], row[at.ARRIVAL], row[at.PROMPT], row[at.OUTPUT] = count[at.TAKEN], arrival_s, prompt, output
    row[at.TARGET], row[at.FILLED], row[at.LEFT] = prompt, hit_tokens, output
    row[at.ADMITTED], row[at.FIRST], row[at.SWAPPED], row[at.LATE] = clock[at.NOW], -1.0, 0.0, 0.0
    row[at.HELD], row[at.SHARED], row[at.LEAF], row[at.BEGAN], row[at.READY] = own - shared, shared, leaf, -1.0, ready_s
    record_time(state, at.WAIT, clock[at.NOW] - arrival_s)
    count[at.NEXT] += 1
    count[at.TAKEN] += 1
    count[at.PROMPT_TOKENS] += prompt
    count[at.HIT_TOKENS] += hit_tokens
    _enter(state)
    return True


@inner
def admit(state: State, rules: Rules, tables: Tables, buffer: Buffer, more: bool) -> int:  # noqa: FBT001 - compiled
    """Let in what fits. Returns WANTS_REQUESTS when the buffer is empty and the stream is not."""
    count, clock = state.tally, state.clock_s
    while more_may_run(state, rules):
        if count[at.PARKED] > 0:
            if not _return_parked(state, rules):
                break
            continue
        if rules.role != at.DECODE_ONLY and count[at.NEXT] >= buffer.prompt.size:
            return at.WANTS_REQUESTS if more else at.FINISHED_ALL
        arrival_s = next_arrival_s(state, rules, buffer)
        if arrival_s > clock[at.NOW]:
            break
        if clock[at.START] < 0.0:
            clock[at.START] = clock[at.NOW] = arrival_s
        if not _refuse_or_take(state, rules, tables, buffer, arrival_s):
            break
    return at.FINISHED_ALL


@inner
def preempt_youngest(state: State, rules: Rules) -> None:
    """Take the blocks of the youngest sequence; its cache goes to the host, or is computed again later."""
    count, clock = state.tally, state.clock_s
    count[at.RUNNING] -= 1
    row = state.running_sequences[count[at.RUNNING]]
    give_back(state, int(row[at.HELD]), int(row[at.LEAF]))
    row[at.HELD], row[at.SHARED], row[at.LEAF] = row[at.HELD] + row[at.SHARED], 0.0, -1.0
    held = int(row[at.HELD])
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
    put(state.parked_sequences, count[at.PARKED], row)
    count[at.PARKED] += 1


@leaf
def _blocks_more(row: NDArray[np.float64], rules: Rules, iterations: int) -> int:
    """Blocks beyond those held that ``iterations`` decoding steps of a sequence write to."""
    if row[at.FILLED] < row[at.TARGET]:
        return 0
    last = np.floor(cached_tokens(row) + rules.tokens_per_step * (iterations - 1) + at.ROUNDING) + rules.verified
    # Proposals beyond the last token are not written.
    last = min(last, row[at.PROMPT] + row[at.OUTPUT] - 2.0 + rules.verified)
    return max(blocks_of(last, rules) - int(row[at.HELD] + row[at.SHARED]), 0)


@inner
def wanted_blocks(state: State, rules: Rules, iterations: int) -> int:
    """Blocks beyond those held that ``iterations`` decoding steps of all sequences write to."""
    wanted = 0
    for index in range(state.tally[at.RUNNING]):
        wanted += _blocks_more(state.running_sequences[index], rules, iterations)
    return wanted


@inner
def take_blocks(state: State, rules: Rules, iterations: int) -> None:
    """Give decoding sequences the blocks that ``wanted_blocks`` counts."""
    taken = 0
    for index in range(state.tally[at.RUNNING]):
        row = state.running_sequences[index]
        more = _blocks_more(row, rules, iterations)
        row[at.HELD] += more
        taken += more
    claim(state, taken)

stamp_module(globals())
