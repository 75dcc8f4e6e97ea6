"""Attention over chosen or compressed entries, and recurrences, executed on small arrays that count what is touched.

Written without simkit's algebra, beside ``dense_attention``: an index scores every entry and each query gathers the best
of them; a compressed cache pools its tokens; a state is decayed, written and multiplied element by element.
"""

from dataclasses import dataclass
from math import ceil, gcd

import numpy as np

from tests.reference.dense_attention import Counted, Ledger, softmax


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One layer of one step: ``top_k`` blocks of ``block`` entries of an index, an entry for ``ratio`` tokens, a window."""

    n_q: int
    n_kv: int
    key_dim: int
    value_dim: int
    lengths: tuple[int, ...]
    q_len: int = 1
    tied: bool = False
    latent: bool = False  # one entry for all query heads, of which the first value_dim elements are the value
    index_heads: int = 0
    index_dim: int = 0
    top_k: int = 0
    block: int = 1
    by_kv_head: bool = False
    ratio: int = 1
    window: int = 0
    among_tokens: bool = False  # entries for ratio tokens and the window are branches beside the chosen tokens (NSA)
    sharding: str = "heads"
    chips: int = 1
    bits: int = 16
    index_bits: float = 8.25
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What each chip moved, computed and keeps, in bits."""

    chips: list[Ledger]
    resident_bits: list[float]


def chip_shares(case):
    """Query heads, sequences, and which part of how many of the entries each chip works on."""
    everyone = list(range(len(case.lengths)))
    heads = 1 if case.latent else case.n_kv
    if case.sharding == "heads":
        own = case.n_q // case.chips
        return [(range(c * own, (c + 1) * own), everyone, 0, 1) for c in range(case.chips)]
    ways = gcd(case.chips, heads)
    rest, own = case.chips // ways, case.n_q // ways
    most = ceil(len(everyone) / rest)
    return [(range(h * own, (h + 1) * own), everyone[r * most:(r + 1) * most], 0, 1) if case.sharding == "batch"
            else (range(h * own, (h + 1) * own), everyone, r, rest) for h in range(ways) for r in range(rest)]


def execute_chosen(case):
    """Run the layer on all chips."""
    rng = np.random.default_rng(case.seed)
    stored = 1 if case.latent else case.n_kv
    ledgers, resident = [], []
    world = [_sequence(case, rng, n, stored) for n in case.lengths]
    for heads, sequences, part, parts in chip_shares(case):
        ledgers.append(ledger := Ledger())
        resident.append(0.0)
        for s in sequences:
            group = case.n_q // stored
            mine = sorted({h // group for h in heads})
            resident[-1] += _on_chip(case, world[s], ledger, {k: [h for h in heads if h // group == k] for k in mine},
                                     part, parts)
    return Touched(chips=ledgers, resident_bits=resident)


def _sequence(case, rng, n, stored):
    entries = n // case.ratio if case.ratio > 1 and not case.among_tokens else n
    pooled = n // case.ratio if case.among_tokens else 0
    widths = [case.key_dim] if case.tied or case.latent else [case.key_dim, case.value_dim]
    return {"n": n, "pooled": [[rng.normal(size=(pooled, w)) for w in widths] for _ in range(stored)], "entries": [[rng.normal(size=(entries, w)) for w in widths] for _ in range(stored)],
            "recent": [[rng.normal(size=(min(n, case.window), w)) for w in widths] for _ in range(stored)],
            "index": rng.normal(size=(entries, case.index_dim)),
            "queries": rng.normal(size=(case.n_q, case.q_len, case.key_dim)),
            "index_queries": rng.normal(size=(max(case.index_heads, 1), case.q_len, case.index_dim))}


def _run(items, part, parts):
    """Entries of a part: every parts-th one, so that what an index chooses falls evenly on all."""
    return items[part::parts]


def _choices(case, sequence, group):
    """Entries that each query of a group of heads reads: the best blocks by the index, or all."""
    count = len(sequence["index"])
    if not case.top_k:
        return [np.arange(count)] * case.q_len
    found = []
    for query in range(case.q_len):
        scores = np.maximum(sequence["index_queries"][group, query] @ sequence["index"].T, 0)
        scores = scores.max(axis=0) if scores.ndim > 1 else scores
        blocks = [scores[at:at + case.block].max() for at in range(0, count, case.block)]
        best = np.sort(np.argsort(-np.array(blocks), kind="stable")[: case.top_k])
        found.append(np.concatenate([np.arange(b * case.block, min((b + 1) * case.block, count)) for b in best]
                                    or [np.empty(0, dtype=int)]))
    return found


def _on_chip(case, sequence, ledger, by_kv_head, part, parts):
    kept = 0.0
    own = np.arange(len(sequence["index"]))[part::parts] if not case.top_k else None
    if case.top_k and not case.among_tokens:
        mine = _run(np.arange(len(sequence["index"])), part, parts)
        keys = Counted(sequence["index"][mine], case.index_bits, "index", ledger)
        kept += keys.stored_bits
        heads = len(by_kv_head) * case.index_heads // case.n_kv if case.by_kv_head else case.index_heads
        for at in range(case.q_len):
            ledger.product(sequence["index_queries"][:heads, at], keys.read().T if at == 0 else keys.values.T, "index")
    for k, heads in by_kv_head.items():
        choices = _choices(case, sequence, slice(k * case.index_heads // case.n_kv, (k + 1) * case.index_heads // case.n_kv)
                           if case.by_kv_head else slice(None))
        mine = _run(np.arange(len(sequence["index"])), part, parts) if own is None else own
        stores = [Counted(array[mine], case.bits, "cache", ledger) for array in sequence["entries"][k]]
        recent = [Counted(_run(array, part, parts), case.bits, "cache", ledger) for array in sequence["recent"][k]]
        pooled = [Counted(_run(array, part, parts), case.bits, "cache", ledger) for array in sequence["pooled"][k]]
        kept += sum(store.stored_bits for store in (*stores, *recent, *pooled))
        for at in range(case.q_len):
            here = (np.flatnonzero(np.isin(mine, choices[at])) if not case.top_k or parts == 1
                    else np.arange(len(_run(choices[at], part, parts))))
            near = [np.concatenate([one.read() if at == 0 else one.values for one in branches])
                    for branches in zip(recent, pooled, strict=True)]
            read = [store.read(here) if case.top_k or at == 0 else store.values[here] for store in stores]
            keys, values = np.concatenate([read[0], near[0]]), np.concatenate([read[-1], near[-1]])
            values = values[:, : case.value_dim]
            scores = ledger.product(sequence["queries"][heads, at], keys.T)
            if len(keys):
                ledger.product(softmax(scores), values)
    return kept


def execute_state(value_heads, key_dim, value_dim, q_len, *, takes_back, bits=32, seed=0):
    """A recurrence over ``q_len`` tokens of one sequence, every operation on an element of the state counted."""
    rng, ledger = np.random.default_rng(seed), Ledger()
    outputs = []
    for head in range(value_heads):
        store = Counted(rng.normal(size=(key_dim, value_dim)), bits, "state", ledger)
        state = store.read()
        for _ in range(q_len):
            key, query, value = rng.normal(size=key_dim), rng.normal(size=key_dim), rng.normal(size=value_dim)
            state = state * 0.9
            ledger["state.flops"] += state.size
            if takes_back:
                value = value - ledger.product(key[None], state, "state")[0]
            state = state + np.outer(key, value)
            ledger["state.flops"] += 2 * state.size
            outputs.append(ledger.product(query[None], state, "state"))
            store.write(..., state)
        assert np.isfinite(outputs[-1]).all(), head
    return ledger
