"""The event loop of one replica: admission, chunked prefill, decoding, preemption, compiled.

Iterations in which nothing changes but the contexts are taken together: until the next sequence ends, the next request
arrives (when there is room for one), blocks run out or the context leaves its cell of the grid. Their times add up in
closed form, since a step's time is linear in the context within a cell. Requests are taken first come, first served,
from a buffer that the caller refills: a queue, however long, needs no memory. Sequences stand in the order of
admission; blocks are taken back from the youngest, and preempted sequences return before anything new starts.
"""

from __future__ import annotations

import numpy as np

from simkit.foundation.jit_cache import compiled, stamp_module
from simkit.serving.iteration import (
    Tables,
    along_context,
    at_context,
    cell,
    chunk_attention,
    prompt_rows_s,
)
from simkit.serving.scheduling import (
    admit,
    cached_tokens,
    let_pass,
    next_arrival_s,
    preempt_youngest,
    record_time,
    release,
    take_blocks,
    wanted_blocks,
)
from simkit.serving.state import (
    ADMITTED,
    ARRIVAL,
    ATTENTION,
    DECODE,
    EMITTED,
    EVENTS,
    FILLED,
    FINISHED,
    FINISHED_ALL,
    FIRST,
    FREED,
    GOOD,
    GOOD_TOKENS,
    HELD,
    HOST,
    ID,
    ITERATIONS,
    JOULES,
    JUMPS,
    LATENCY,
    LEFT,
    NEXT,
    NOW,
    OUTPUT,
    OWED_SWAP,
    PARKED,
    PREFILL,
    ROUNDING,
    RUNNING,
    SPANS,
    SWAP,
    SWAPPED,
    TARGET,
    TOKENS_OUT,
    TPOT,
    TTFT,
    USED,
    WANTS_REQUESTS,
    Buffer,
    Rules,
    State,
)


@compiled()
def _elapsed(first_s: float, more_s: float, iterations: int) -> float:
    """Time of iterations that each take ``more_s`` longer than the one before."""
    return iterations * first_s + more_s * (0.5 * iterations * (iterations - 1))


@compiled()
def _leave(state: State, rules: Rules) -> None:
    """Sequences that have all their tokens free their blocks and go; the others close up in order."""
    count, clock, kept = state.tally, state.clock_s, 0
    for index in range(count[RUNNING]):
        row = state.running_sequences[index]
        if row[FILLED] >= row[TARGET] and row[LEFT] <= ROUNDING:
            held = int(row[HELD])
            count[USED] -= held
            count[FREED] += held
            count[FINISHED] += 1
            count[TOKENS_OUT] += int(row[OUTPUT])
            first_s, whole_s = row[FIRST] - row[ARRIVAL], clock[NOW] - row[ARRIVAL]
            record_time(state, LATENCY, whole_s)
            good = first_s <= rules.slo_ttft_s
            if row[OUTPUT] > 1.0:
                per_token_s = (clock[NOW] - row[FIRST]) / (row[OUTPUT] - 1.0)
                record_time(state, TPOT, per_token_s)
                good = good and per_token_s <= rules.slo_tpot_s
            if good:
                count[GOOD] += 1
                count[GOOD_TOKENS] += int(row[OUTPUT])
            if count[SPANS] < state.spans.shape[0]:
                span = state.spans[count[SPANS]]
                span[0], span[1], span[2], span[3] = row[ID], row[ARRIVAL], row[ADMITTED], row[FIRST]
                span[4] = clock[NOW]
                count[SPANS] += 1
            release(state, rules)
        else:
            if kept != index:
                state.running_sequences[kept] = row
            kept += 1
    count[RUNNING] = kept


@compiled()
def _prompts(state: State, rules: Rules, tables: Tables, decoding: int) -> tuple[int, int, float, float]:
    """Deal the iteration's tokens to prompts, oldest first: ``(rows, prompts that end, attention s, attention J)``."""
    rows, ending, attention_s, joules = 0, 0, 0.0, 0.0
    budget = max(rules.chunk - decoding * rules.verified, rules.page)
    for index in range(state.tally[RUNNING]):
        row = state.running_sequences[index]
        if row[FILLED] < row[TARGET] and budget > 0:
            part = min(row[TARGET] - row[FILLED], budget)
            row[FILLED] += part
            budget -= int(part)
            rows += int(part)
            attention_s += chunk_attention(tables.prefill_s, tables, part, row[FILLED])
            joules += chunk_attention(tables.prefill_j, tables, part, row[FILLED])
            if row[FILLED] >= row[TARGET]:
                ending += 1
                row[SWAPPED] = -1.0  # ends its prompt in this iteration
    return rows, ending, attention_s, joules


@compiled()
def _note(state: State, start_s: float, iterations: int, decoding: int, rows: int) -> None:
    count = state.tally
    count[ITERATIONS] += iterations
    count[JUMPS] += 1
    if count[EVENTS] < state.events.shape[0]:
        event = state.events[count[EVENTS]]
        event[0], event[1], event[2] = start_s, state.clock_s[NOW] - start_s, iterations
        event[3], event[4], event[5] = decoding, rows, count[USED]
        count[EVENTS] += 1


@compiled()
def _iterate_with_prompts(state: State, rules: Rules, tables: Tables, decoding: int, context: float) -> None:
    """One iteration of decoding sequences and prompt chunks together."""
    clock, count = state.clock_s, state.tally
    start_s, verified_rows = clock[NOW], decoding * rules.verified
    step_s, attention_s, joules = tables.fixed_s, 0.0, 0.0
    if decoding > 0:
        step_s = at_context(tables.step_s, tables, decoding, context)
        attention_s = at_context(tables.attention_s, tables, decoding, context)
        joules = at_context(tables.step_j, tables, decoding, context)
    # Decided before the prompts move on: a sequence decodes if its prompt had ended before.
    for index in range(count[RUNNING]):
        row = state.running_sequences[index]
        if row[FILLED] >= row[TARGET]:
            gained = min(rules.tokens_per_step, row[LEFT])
            row[LEFT] -= gained
            clock[EMITTED] += gained
    rows, ending, prompt_attention_s, prompt_j = _prompts(state, rules, tables, decoding)
    prompt_s = (prompt_rows_s(tables, verified_rows, rows, ending) + prompt_attention_s) / rules.prefill_fraction
    joules += tables.row_j[verified_rows + rows] - tables.row_j[verified_rows] + prompt_j
    host_s = rules.host_step_s + rules.host_sequence_s * count[RUNNING]
    swap_s, clock[OWED_SWAP] = clock[OWED_SWAP], 0.0
    clock[DECODE] += step_s
    clock[ATTENTION] += attention_s
    clock[PREFILL] += prompt_s
    clock[HOST] += host_s
    clock[SWAP] += swap_s
    clock[JOULES] += joules
    let_pass(state, step_s + prompt_s + host_s + swap_s)
    for index in range(count[RUNNING]):
        row = state.running_sequences[index]
        if row[SWAPPED] < 0.0:
            row[SWAPPED] = 0.0
            gained = min(1.0, row[LEFT])
            row[LEFT] -= gained
            clock[EMITTED] += gained
            if row[FIRST] < 0.0:
                row[FIRST] = clock[NOW]
                record_time(state, TTFT, clock[NOW] - row[ARRIVAL])
    _note(state, start_s, 1, decoding, rows)


@compiled()
def _steps_until(first_s: float, more_s: float, wait_s: float, most: int) -> int:
    """Fewest iterations that take at least ``wait_s``, at most ``most``."""
    if _elapsed(first_s, more_s, most) < wait_s:
        return most
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if _elapsed(first_s, more_s, middle) >= wait_s:
            high = middle
        else:
            low = middle + 1
    return low


@compiled()
def _steps_in_blocks(state: State, rules: Rules, most: int) -> int:
    """Most iterations that free blocks suffice for; 0: not one."""
    free = rules.blocks - state.tally[USED]
    if wanted_blocks(state, rules, most) <= free:
        return most
    low, high = 0, most - 1
    while low < high:
        middle = (low + high + 1) // 2
        if wanted_blocks(state, rules, middle) <= free:
            low = middle
        else:
            high = middle - 1
    return low


@compiled()
def _jump(state: State, rules: Rules, tables: Tables, arrival_s: float, context: float, longest: int) -> None:
    """Iterations of decoding alone, as many as change nothing but contexts, at most ``longest``."""
    clock, count = state.clock_s, state.tally
    decoding, gain = count[RUNNING], rules.tokens_per_step
    least_left = np.inf
    for index in range(decoding):
        least_left = min(least_left, state.running_sequences[index, LEFT])
    most = min(max(int(np.ceil(least_left / gain - ROUNDING)), 1), longest)
    place = cell(tables.kv_len, context)
    if place + 2 < tables.kv_len.size:  # the last cell extrapolates
        most = min(most, int((tables.kv_len[place + 1] - context) / gain) + 1)
    value, slope = along_context(tables.step_s, tables, decoding, place)
    host_s = rules.host_step_s + rules.host_sequence_s * decoding
    at_knot = context - tables.kv_len[place]
    first_s, more_s = value + slope * at_knot + host_s, slope * gain
    if count[PARKED] == 0 and count[RUNNING] < rules.most_running and clock[NOW] < arrival_s < np.inf:
        most = _steps_until(first_s, more_s, arrival_s - clock[NOW] - clock[OWED_SWAP], most)
    iterations = _steps_in_blocks(state, rules, most)
    take_blocks(state, rules, iterations)
    for index in range(decoding):
        row = state.running_sequences[index]
        gained = min(gain * iterations, row[LEFT])
        row[LEFT] -= gained
        clock[EMITTED] += gained
    start_s, swap_s = clock[NOW], clock[OWED_SWAP]
    clock[OWED_SWAP] = 0.0
    whole_s = _elapsed(first_s, more_s, iterations)
    value, slope = along_context(tables.attention_s, tables, decoding, place)
    clock[ATTENTION] += _elapsed(value + slope * at_knot, slope * gain, iterations)
    value, slope = along_context(tables.step_j, tables, decoding, place)
    clock[JOULES] += _elapsed(value + slope * at_knot, slope * gain, iterations)
    clock[DECODE] += whole_s - iterations * host_s
    clock[HOST] += iterations * host_s
    clock[SWAP] += swap_s
    let_pass(state, whole_s + swap_s)
    _note(state, start_s, iterations, decoding, 0)


@compiled()
def _decoding(state: State) -> tuple[int, float]:
    """Decoding sequences and the mean context that their next step reads, its own token included."""
    decoding, tokens = 0, 0.0
    for index in range(state.tally[RUNNING]):
        row = state.running_sequences[index]
        if row[FILLED] >= row[TARGET]:
            decoding += 1
            tokens += cached_tokens(row) + 1.0
    return decoding, tokens / max(decoding, 1)


@compiled()
def advance(state: State, rules: Rules, tables: Tables, buffer: Buffer, more: bool) -> int:  # noqa: FBT001 - compiled
    """Run until the stream is served (FINISHED_ALL) or the buffer must be filled again (WANTS_REQUESTS).

    Parameters
    ----------
    state, rules, tables: what changes, what is obeyed, what things take.
    buffer: the next requests; ``state.tally[NEXT]`` is the first that is not taken.
    more: the stream goes on after the buffer.
    """
    count = state.tally
    while True:
        if admit(state, rules, buffer, more) == WANTS_REQUESTS:
            return WANTS_REQUESTS
        if count[RUNNING] == 0:
            if count[PARKED] == 0 and count[NEXT] >= buffer.prompt.size:
                return WANTS_REQUESTS if more else FINISHED_ALL
            continue
        longest = np.iinfo(np.int64).max
        while wanted_blocks(state, rules, 1) > rules.blocks - count[USED]:
            preempt_youngest(state, rules)
            longest = 1  # what it gave back may be more than was wanted: look again after this iteration
        decoding, context = _decoding(state)
        if decoding == count[RUNNING]:
            arrival_s = next_arrival_s(state, rules, buffer) if count[NEXT] < buffer.prompt.size else np.inf
            _jump(state, rules, tables, arrival_s, context, longest)
        else:
            take_blocks(state, rules, 1)
            _iterate_with_prompts(state, rules, tables, decoding, context)
        _leave(state, rules)

stamp_module(globals())
