"""The event loop of one replica: admission, chunked prefill, decoding, preemption, compiled.

Iterations in which nothing changes but the contexts are taken together: until the next sequence ends, the next request
arrives (when there is room for one), blocks run out or the context leaves its cell of the grid. Their times add up in
closed form, since a step's time is linear in the context within a cell. Requests are taken first come, first served,
from a buffer that the caller refills: a queue, however long, needs no memory. Sequences stand in the order of
admission; blocks are taken back from the youngest, and preempted sequences return before anything new starts.
"""

from __future__ import annotations

import numpy as np

from simkit.foundation.jit_cache import compiled, inner, stamp_module
from simkit.serving import state as at
from simkit.serving.iteration import (
    Tables,
    along_context,
    at_context,
    cell,
    chunk_attention,
    prompt_rows_s,
)
from simkit.serving.prefixes import evict, let_go, mark_computed
from simkit.serving.scheduling import (
    admit,
    arrive,
    cached_tokens,
    give_back,
    let_pass,
    missed,
    more_may_run,
    next_arrival_s,
    next_landing_s,
    preempt_youngest,
    put,
    record_time,
    release,
    take_blocks,
    wakes_s,
    wanted_blocks,
)
from simkit.serving.state import Buffer, Rules, State


@inner
def _elapsed(first_s: float, more_s: float, iterations: int) -> float:
    """Time of iterations that each take ``more_s`` longer than the one before."""
    return iterations * first_s + more_s * (0.5 * iterations * (iterations - 1))


@inner
def _leave(state: State, rules: Rules) -> None:
    """Sequences that have all their tokens free their blocks and go; the others close up in order.

    Where prompts only are computed, those that end are handed on, and keep their blocks until their caches are gone.
    """
    count, clock, kept = state.tally, state.clock_s, 0
    for index in range(count[at.RUNNING]):
        row = state.running_sequences[index]
        if row[at.FILLED] >= row[at.TARGET] and row[at.LEFT] <= at.ROUNDING:
            give_back(state, int(row[at.HELD]), int(row[at.LEAF]))
            count[at.FINISHED] += 1
            count[at.TOKENS_OUT] += int(row[at.OUTPUT])
            first_s, end_s = row[at.FIRST] - row[at.ARRIVAL] + rules.request_s, clock[at.NOW] + row[at.LATE]
            record_time(state, at.LATENCY, end_s - row[at.ARRIVAL] + rules.request_s)
            good = first_s <= rules.slo_ttft_s
            if row[at.OUTPUT] > 1.0:
                per_token_s = (end_s - row[at.FIRST]) / (row[at.OUTPUT] - 1.0)
                record_time(state, at.TPOT, per_token_s)
                good = good and per_token_s <= rules.slo_tpot_s
            if good:
                count[at.GOOD] += 1
                count[at.GOOD_TOKENS] += int(row[at.OUTPUT])
            if count[at.SPANS] < state.spans.shape[0]:
                span = state.spans[count[at.SPANS]]
                span[0], span[1], span[2], span[3] = row[at.ID], row[at.ARRIVAL], row[at.ADMITTED], row[at.FIRST]
                span[4] = end_s
                count[at.SPANS] += 1
            release(state, rules)
        elif rules.role == at.PREFILL_ONLY and row[at.FILLED] >= row[at.TARGET]:
            row[at.READY] = clock[at.NOW] + row[at.LATE]
            put(state.handed, count[at.HANDED], row)
            count[at.HANDED] += 1
            count[at.OWED] += 1
        else:
            if kept != index:
                put(state.running_sequences, kept, row)
            kept += 1
    count[at.RUNNING] = kept


@inner
def _prompts(state: State, rules: Rules, tables: Tables, decoding: int) -> tuple[int, int, float, float]:
    """Deal the iteration's tokens to prompts, oldest first: ``(rows, prompts that end, attention s, attention J)``."""
    rows, ending, attention_s, joules = 0, 0, 0.0, 0.0
    budget = max(rules.chunk - decoding * rules.verified, rules.page)
    for index in range(state.tally[at.RUNNING]):
        row = state.running_sequences[index]
        if row[at.FILLED] < row[at.TARGET] and budget > 0:
            part = min(row[at.TARGET] - row[at.FILLED], budget)
            if row[at.BEGAN] < 0.0:
                row[at.BEGAN] = state.clock_s[at.NOW]
            row[at.FILLED] += part
            mark_computed(state, rules, int(row[at.LEAF]), row[at.FILLED])
            budget -= int(part)
            rows += int(part)
            attention_s += chunk_attention(tables.prefill_s, tables, part, row[at.FILLED])
            joules += chunk_attention(tables.prefill_j, tables, part, row[at.FILLED])
            if row[at.FILLED] >= row[at.TARGET]:
                ending += 1
                row[at.SWAPPED], row[at.LATE] = -1.0, rows  # ends its prompt in this iteration, behind so many rows
    return rows, ending, attention_s, joules


@inner
def _note(state: State, start_s: float, iterations: int, decoding: int, rows: int) -> None:
    count = state.tally
    count[at.ITERATIONS] += iterations
    count[at.JUMPS] += 1
    if count[at.EVENTS] < state.events.shape[0]:
        event = state.events[count[at.EVENTS]]
        event[0], event[1], event[2] = start_s, state.clock_s[at.NOW] - start_s, iterations
        event[3], event[4], event[5] = decoding, rows, count[at.USED]
        count[at.EVENTS] += 1


@inner
def _iterate_with_prompts(state: State, rules: Rules, tables: Tables, decoding: int, context: float) -> None:
    """One iteration of decoding sequences and prompt chunks together."""
    clock, count = state.clock_s, state.tally
    start_s, verified_rows = clock[at.NOW], decoding * rules.verified
    step_s, attention_s, joules = tables.fixed_s, 0.0, 0.0
    if decoding > 0:
        step_s = at_context(tables.step_s, tables, decoding, context)
        attention_s = at_context(tables.attention_s, tables, decoding, context)
        joules = at_context(tables.step_j, tables, decoding, context)
    # Decided before the prompts move on: a sequence decodes if its prompt had ended before.
    for index in range(count[at.RUNNING]):
        row = state.running_sequences[index]
        if row[at.FILLED] >= row[at.TARGET]:
            gained = min(rules.tokens_per_step, row[at.LEFT])
            row[at.LEFT] -= gained
            clock[at.EMITTED] += gained
    rows, ending, prompt_attention_s, prompt_j = _prompts(state, rules, tables, decoding)
    prompt_s = (prompt_rows_s(tables, verified_rows, rows, ending) + prompt_attention_s) / rules.prefill_fraction
    joules += tables.row_j[verified_rows + rows] - tables.row_j[verified_rows] + prompt_j
    host_s = rules.host_step_s + rules.host_sequence_s * count[at.RUNNING]
    swap_s, clock[at.OWED_SWAP] = clock[at.OWED_SWAP], 0.0
    clock[at.DECODE] += step_s
    clock[at.ATTENTION] += attention_s
    clock[at.PREFILL] += prompt_s
    clock[at.HOST] += host_s
    clock[at.SWAP] += swap_s
    clock[at.JOULES] += joules
    let_pass(state, step_s + prompt_s + host_s + swap_s)
    parts = min(rules.stages, -(-rows // rules.page))  # less than a page is not cut: its weights take as long
    for index in range(count[at.RUNNING]):
        row = state.running_sequences[index]
        if row[at.SWAPPED] < 0.0:
            row[at.SWAPPED] = 0.0
            # The parts of the rows enter the pipeline one after another: the first is through when the iteration ends.
            row[at.LATE] = (np.ceil(parts * row[at.LATE] / rows) - 1.0) / rules.stages * (step_s + prompt_s)
            gained = min(1.0, row[at.LEFT])
            row[at.LEFT] -= gained
            clock[at.EMITTED] += gained
            if row[at.FIRST] < 0.0:
                row[at.FIRST] = clock[at.NOW] + row[at.LATE]
                record_time(state, at.TTFT, row[at.FIRST] - row[at.ARRIVAL] + rules.request_s)
    _note(state, start_s, 1, decoding, rows)


@inner
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


@inner
def _steps_in_blocks(state: State, rules: Rules, most: int) -> int:
    """Most iterations that free blocks suffice for; 0: not one."""
    free = rules.blocks - state.tally[at.USED]
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


@inner
def _jump(state: State, rules: Rules, tables: Tables, until_s: float, context: float, longest: int) -> None:
    """Iterations of decoding alone, as many as change nothing but contexts, at most ``longest``, up to ``until_s``."""
    clock, count = state.clock_s, state.tally
    decoding, gain = count[at.RUNNING], rules.tokens_per_step
    least_left = np.inf
    for index in range(decoding):
        least_left = min(least_left, state.running_sequences[index, at.LEFT])
    most = min(max(int(np.ceil(least_left / gain - at.ROUNDING)), 1), longest)
    place = cell(tables.kv_len, context)
    if place + 2 < tables.kv_len.size:  # the last cell extrapolates
        most = min(most, int((tables.kv_len[place + 1] - context) / gain) + 1)
    value, slope = along_context(tables.step_s, tables, decoding, place)
    host_s = rules.host_step_s + rules.host_sequence_s * decoding
    at_knot = context - tables.kv_len[place]
    first_s, more_s = value + slope * at_knot + host_s, slope * gain
    if until_s < np.inf:
        most = _steps_until(first_s, more_s, until_s - clock[at.NOW] - clock[at.OWED_SWAP], most)
    iterations = _steps_in_blocks(state, rules, most)
    take_blocks(state, rules, iterations)
    for index in range(decoding):
        row = state.running_sequences[index]
        gained = min(gain * iterations, row[at.LEFT])
        row[at.LEFT] -= gained
        clock[at.EMITTED] += gained
    start_s, swap_s = clock[at.NOW], clock[at.OWED_SWAP]
    clock[at.OWED_SWAP] = 0.0
    whole_s = _elapsed(first_s, more_s, iterations)
    value, slope = along_context(tables.attention_s, tables, decoding, place)
    clock[at.ATTENTION] += _elapsed(value + slope * at_knot, slope * gain, iterations)
    value, slope = along_context(tables.step_j, tables, decoding, place)
    clock[at.JOULES] += _elapsed(value + slope * at_knot, slope * gain, iterations)
    clock[at.DECODE] += whole_s - iterations * host_s
    clock[at.HOST] += iterations * host_s
    clock[at.SWAP] += swap_s
    let_pass(state, whole_s + swap_s)
    _note(state, start_s, iterations, decoding, 0)


@inner
def _decoding(state: State) -> tuple[int, float]:
    """Decoding sequences and the mean context that their next step reads, its own token included."""
    decoding, tokens = 0, 0.0
    for index in range(state.tally[at.RUNNING]):
        row = state.running_sequences[index]
        if row[at.FILLED] >= row[at.TARGET]:
            decoding += 1
            tokens += cached_tokens(row) + 1.0
    return decoding, tokens / max(decoding, 1)


@inner
def _may_change_s(state: State, rules: Rules, buffer: Buffer, horizon_s: float) -> float:
    """Until when nothing but contexts changes: the next cache that comes, the next request that may run, the loss."""
    until_s = min(next_landing_s(state), rules.lost_s)
    if state.tally[at.PARKED] == 0 and more_may_run(state, rules):
        arrival_s = next_arrival_s(state, rules, buffer)
        if arrival_s > state.clock_s[at.NOW]:
            until_s = min(until_s, arrival_s, horizon_s)
    return until_s


@inner
def _idle_until(state: State, wake_s: float) -> None:
    clock = state.clock_s
    if clock[at.START] < 0.0:
        clock[at.START] = wake_s
    else:
        clock[at.IDLE] += wake_s - clock[at.NOW]
        let_pass(state, wake_s - clock[at.NOW])
    clock[at.NOW] = wake_s


@inner
def _pauses(state: State, rules: Rules, horizon_s: float) -> int:
    """Why nothing is played before another pool or the caller does something; GOES_ON where something is."""
    count, wake_s = state.tally, state.clock_s[at.WAKE]
    if rules.lost_s < np.inf and rules.lost_s <= min(wake_s, horizon_s):
        return at.IS_LOST
    if wake_s <= horizon_s and wake_s < np.inf:
        return at.GOES_ON
    if count[at.RUNNING] + count[at.MOVING] + count[at.PARKED] + count[at.OWED] > 0 or rules.role != at.BOTH:
        return at.WAITS
    return at.FINISHED_ALL


@compiled(nogil=True)
def advance(state: State, rules: Rules, tables: Tables, buffer: Buffer, more: bool,  # noqa: FBT001 - compiled
            horizon_s: float) -> int:
    """Run until the stream is served or lost (FINISHED_ALL), the buffer must be filled again (WANTS_REQUESTS) or the
    replica IS_LOST; what it is at then still ends.

    Parameters
    ----------
    state, rules, tables: what changes, what is obeyed, what things take.
    buffer: the next requests; ``state.tally[NEXT]`` is the first that is not taken.
    more: the stream goes on after the buffer.
    horizon_s: nothing comes from another pool before; beyond it the replica WAITS, and ``clock_s[WAKE]`` says until
        when (infinite: for what another pool does).
    """
    count, clock = state.tally, state.clock_s
    while True:
        arrive(state)
        let_go(state, rules)
        if admit(state, rules, tables, buffer, more) == at.WANTS_REQUESTS:
            return at.WANTS_REQUESTS
        if count[at.SENT] > 0:  # what this frees may send more
            horizon_s = min(horizon_s, state.sent[0, at.AT])
        clock[at.WAKE] = clock[at.NOW] if count[at.RUNNING] > 0 else wakes_s(state, rules, buffer)
        why = _pauses(state, rules, horizon_s)
        if why != at.GOES_ON:
            return why
        if count[at.RUNNING] == 0:
            _idle_until(state, clock[at.WAKE])
            continue
        longest = np.iinfo(np.int64).max
        while count[at.RUNNING] > 0 and wanted_blocks(state, rules, 1) > rules.blocks - count[at.USED]:
            preempt_youngest(state, rules)
            let_go(state, rules)
            longest = 1  # what it gave back may be more than was wanted: look again after this iteration
        decoding, context = _decoding(state)
        if count[at.RUNNING] == 0:  # what is on its way holds the blocks
            _idle_until(state, next_landing_s(state))
            continue
        if decoding == count[at.RUNNING]:
            _jump(state, rules, tables, _may_change_s(state, rules, buffer, horizon_s), context, longest)
        else:
            take_blocks(state, rules, 1)
            _iterate_with_prompts(state, rules, tables, decoding, context)
        evict(state, rules)
        _leave(state, rules)
        if count[at.HANDED] > 0:  # the other pool's next event
            clock[at.WAKE] = clock[at.NOW]
            return at.WAITS
        if missed(count) > rules.most_missed:
            return at.FINISHED_ALL

stamp_module(globals())
