"""Decode attention, executed: every layout on small arrays that count each element that is read or written.

Written without simkit's algebra, so that its counts can judge it. One layer of one step is run on every chip: the
kept tokens are chosen by running the eviction rule over the whole history, the cache is really quantised, laid out
in shuffled pages and dealt out over chips, and the outputs of the chips are put together again.

Shapes: ``n`` kept tokens, ``q`` query tokens, ``r`` query heads that share a KV head, ``d`` elements a vector.
Counts are in bits, so that four 2-bit elements are one byte exactly.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import ceil, gcd, sqrt

import numpy as np

from tests.reference.number_formats import Coding

SCORE_BITS, TABLE_BITS = 32, 32  # H2O's running scores are fp32, page numbers int32


class Ledger(Counter):
    """Bits moved by ``tensor.direction`` and flops by ``phase.flops``, of one chip."""

    def product(self, left, right, phase="attention"):
        """A matrix product and its flops, 2 for a multiply-add."""
        self[f"{phase}.flops"] += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return left @ right

    def bytes(self, *names):
        return sum(self[name] for name in names) / 8


class Counted:
    """An array in memory: the first read of an element in a step is a ``read``, further ones are ``reread``."""

    def __init__(self, values, bits, name, ledger):
        self.values, self.bits, self.name, self.ledger = values, bits, name, ledger
        self.seen = np.zeros(np.shape(values), dtype=bool)

    @property
    def stored_bits(self):
        return self.values.size * self.bits

    def read(self, index=...):
        seen = self.seen[index]
        self.ledger[f"{self.name}.read"] += int(np.sum(~seen)) * self.bits
        self.ledger[f"{self.name}.reread"] += int(np.sum(seen)) * self.bits
        self.seen[index] = True
        return self.values[index]

    def write(self, index, values):
        self.values[index] = values
        self.ledger[f"{self.name}.write"] += int(np.size(self.values[index])) * self.bits


class Vectors:
    """Keys, values or latents of one sequence and KV head on one chip, stored in ``slots`` of a larger room."""

    def __init__(self, vectors, coding, slots, room, ledger):
        self.coding, self.slots = coding, slots
        codes, scale, zero = coding.encode(vectors)
        self.codes = self._laid_out(codes, room, coding.bits, ledger)
        by_token = coding.axis == "token"
        room_of_groups = room if by_token else ceil(room / coding.group)
        self.shared = [
            None if part is None else self._laid_out(part, room_of_groups, bits, ledger, scattered=by_token)
            for part, bits in ((scale, coding.scale_bits), (zero, coding.zero_bits))]

    def _laid_out(self, values, room, bits, ledger, *, scattered=True):
        whole = np.zeros((room, values.shape[1]))
        whole[self.slots if scattered else slice(len(values))] = values
        return Counted(whole, bits, "cache", ledger)

    @property
    def _groups(self):
        return self.slots if self.coding.axis == "token" else slice(ceil(len(self.slots) / self.coding.group))

    def read(self):
        """All kept vectors, de-quantised."""
        shared = (None if part is None else part.read(self._groups) for part in self.shared)
        return self.coding.decode(self.codes.read(self.slots), *shared)

    def append(self, place):
        """Write one new vector at the ``place``-th kept token; along a channel a group's scales are written once."""
        slot = self.slots[place % len(self.slots)]
        self.codes.write(slot, self.codes.values[slot])
        for part in self.shared:
            if part is not None and self.coding.axis == "token":
                part.write(slot, part.values[slot])
            elif part is not None and place % self.coding.group == 0:
                group = place % len(self.slots) // self.coding.group
                part.write(group, part.values[group])

    @property
    def stored_bits(self):
        return sum(part.stored_bits for part in (self.codes, *self.shared) if part is not None)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which tokens a layer keeps: ``window``, or an eviction ``kind`` with ``fixed + recent`` tokens."""

    kind: str = "all"
    fixed: int = 0
    recent: int = 0

    def kept(self, keys, queries, scale):
        """Positions kept of [N, d] keys after a history of queries [r, N, d]; H2O's scores of them besides."""
        n = len(keys)
        everything = np.arange(n)
        if self.kind == "all" or n <= self.fixed + self.recent:
            return everything, self._accumulated(keys, queries, scale, everything)
        if self.kind in ("window", "streaming"):
            return np.r_[everything[: self.fixed], everything[n - self.recent :]], None
        if self.kind == "snapkv":
            prompt = n - self.recent
            watching = queries[:, max(prompt - 4, 0) : prompt].reshape(-1, keys.shape[1])  # the observation window
            votes = softmax(watching @ keys[:prompt].T * scale).sum(axis=0)
            return np.sort(np.r_[np.argsort(-votes)[: self.fixed], everything[prompt:]]), None
        kept, score = np.empty(0, dtype=int), np.empty(0)
        for token in range(n):
            kept, score = np.r_[kept, token], np.r_[score, 0.0]
            score = score + softmax(queries[:, token] @ keys[kept].T * scale).sum(axis=0)
            if len(kept) > self.fixed + self.recent:
                victim = int(np.argmin(score[: len(score) - self.recent]))
                kept, score = np.delete(kept, victim), np.delete(score, victim)
        return kept, score

    def _accumulated(self, keys, queries, scale, everything):
        if self.kind != "h2o":
            return None
        causal = everything[None, :] <= everything[:, None]
        return sum(softmax(np.where(causal, one @ keys.T * scale, -np.inf)).sum(axis=0) for one in queries)


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Widths of latent attention; ``absorbed`` multiplies queries up, otherwise latents are expanded.

    ``apart``: the rotary part is an array of its own, one for all latent heads; else it is part of the only latent.
    """

    kv_rank: int
    rope: int
    nope: int
    value: int
    absorbed: bool
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layer of one step: ``lengths`` are the tokens that went into each sequence, the ``q_len`` new ones included."""

    n_q: int
    n_kv: int
    head_dim: int
    lengths: tuple[int, ...]
    q_len: int = 1
    latent: Latent | None = None
    tied: bool = False  # one state a KV head is its value and half of its key; all heads share the rotary half
    rotary: int = 0  # elements of a further part of keys that all heads share (GQLA)
    keys: Coding = field(default_factory=lambda: Coding(name="bf16", bits=16))
    values: Coding = field(default_factory=lambda: Coding(name="bf16", bits=16))
    rule: Rule = field(default_factory=Rule)
    kernel: str = "grouped"
    sharding: str = "heads"
    chips: int = 1
    page: int = 1
    reserve: int | None = None
    activation_bits: int = 16
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outputs [sequences, q, n_q, d_v], what each chip moved and computed, and the bits that each chip's cache takes."""

    outputs: np.ndarray
    chips: list[Ledger]
    resident_bits: list[int]
    kept_positions: dict[tuple[int, int], np.ndarray]


class Data:
    """Random keys, values and queries of one layer; MLA's latents and up-projections where the case has them."""

    def __init__(self, case):
        rng = np.random.default_rng(case.seed)
        self.case, self.rotary = case, None
        d, longest = case.head_dim, max(case.lengths)
        if case.latent is None:
            wide = d + case.rotary
            self.scale = 1 / sqrt(wide)
            self.keys = rng.normal(size=(len(case.lengths), case.n_kv, longest, wide))
            self.values = rng.normal(size=(*self.keys.shape[:-1], d))
            self.queries = rng.normal(size=(len(case.lengths), case.n_q, longest, wide))
            if case.rotary:
                self._share_rotary(case.rotary)
            if case.tied:
                self._share_rotary(d // 2)
                self.keys[..., : d - d // 2] = self.values[..., : d - d // 2]
            return
        mla = case.latent
        self.scale = 1 / sqrt(mla.nope + mla.rope)
        self.keys = rng.normal(size=(len(case.lengths), case.n_kv, longest, mla.kv_rank + mla.rope))
        if mla.apart:
            self._share_rotary(mla.rope)
        self.values = None
        self.key_up = rng.normal(size=(case.n_q, mla.nope, mla.kv_rank)) / sqrt(mla.kv_rank)
        self.value_up = rng.normal(size=(case.n_q, mla.kv_rank, mla.value)) / sqrt(mla.kv_rank)
        self.plain_queries = rng.normal(size=(len(case.lengths), case.n_q, longest, mla.nope + mla.rope))
        nope, rope = np.split(self.plain_queries, [mla.nope], axis=-1)
        self.queries = np.concatenate([np.einsum("bhqn,hnc->bhqc", nope, self.key_up), rope], axis=-1)

    def _share_rotary(self, width):
        """The last elements of the first head's keys become those of every head's."""
        self.rotary = self.keys[:, 0, :, -width:]
        self.keys[..., -width:] = self.rotary[:, None]

    def stored(self, s, k):
        """What the cache keeps of one KV head, array by array, and how it is coded."""
        if self.case.tied:
            return [(self.values[s, k], self.case.keys)]
        if self.case.rotary:
            return [(self.keys[s, k, :, : -self.case.rotary], self.case.keys), (self.values[s, k], self.case.values)]
        if self.rotary is not None:
            return [(self.keys[s, k, :, : self.case.latent.kv_rank], self.case.keys)]
        return [(self.keys[s, k], self.case.keys), *([] if self.values is None else [(self.values[s, k], self.case.values)])]

    def key_and_value(self, read, rotary):
        """What attention multiplies by, from the arrays as they were read."""
        if self.case.tied:
            return np.concatenate([read[0][:, : read[0].shape[1] - rotary.shape[1]], rotary], axis=1), read[0]
        if rotary is not None:
            return np.concatenate([read[0], rotary], axis=1), read[-1]
        return read[0], read[1] if len(read) == 2 else read[0][:, : self.case.latent.kv_rank]


def shares(case):
    """What each chip works on: query heads, sequences, and which part of how many of the kept tokens."""
    everyone = list(range(len(case.lengths)))
    if case.sharding == "heads":
        own = case.n_q // case.chips
        return [(range(c * own, (c + 1) * own), everyone, 0, 1) for c in range(case.chips)]
    head_ways = gcd(case.chips, case.n_kv)
    rest, own = case.chips // head_ways, case.n_q // head_ways
    at_most = ceil(len(everyone) / rest)
    return [(range(h * own, (h + 1) * own), everyone[r * at_most : (r + 1) * at_most], 0, 1) if case.sharding == "batch"
            else (range(h * own, (h + 1) * own), everyone, r, rest) for h in range(head_ways) for r in range(rest)]


def execute(case):
    """Run the layer on all chips: see :class:`Case` and :class:`Outcome`."""
    data, group = Data(case), case.n_q // case.n_kv
    kept = {(s, k): case.rule.kept(data.keys[s, k, :n], data.queries[s, k * group : (k + 1) * group, :n], data.scale)
            for s, n in enumerate(case.lengths) for k in range(case.n_kv)}
    partials, ledgers, resident = {}, [], []
    for heads, sequences, part, parts in shares(case):
        ledgers.append(ledger := Ledger())
        resident.append(0)
        for s in sequences:
            table = page_table(case, ledger, len(kept[s, 0][0]), part, parts)
            rotary = _shared_rotary(case, data, ledger, table, s, _dealt(kept[s, 0][0], part, parts), part)
            resident[-1] += 0 if rotary is None else rotary.stored_bits
            for k in sorted({h // group for h in heads}):
                mine = [h for h in heads if h // group == k]
                resident[-1] += _one_kv_head(case, data, ledger, table, (s, k), mine, kept[s, k], part, parts, partials,
                                             rotary)
    outputs = np.stack([np.stack([_combined(case, data, partials[s, h], h) for h in range(case.n_q)], axis=1)
                        for s in range(len(case.lengths))])
    return Outcome(outputs=outputs, chips=ledgers, resident_bits=resident,
                   kept_positions={key: positions for key, (positions, _) in kept.items()})


def page_table(case, ledger, tokens, part, parts):
    """The slots of this chip's tokens, read through a table of shuffled pages, or contiguous; and the room given."""
    mine = len(_dealt(np.arange(tokens), part, parts))
    if case.reserve is not None or case.page == 1:
        return np.arange(mine), max(mine, case.reserve or 0)
    pages = ceil(mine / case.page)
    table = Counted(np.random.default_rng(case.seed).permutation(pages), TABLE_BITS, "table", ledger)
    slots = (table.read()[:, None] * case.page + np.arange(case.page)).ravel()[:mine]
    return slots, pages * case.page


def _dealt(items, part, parts):
    """The part's run of the tokens, the newest to part 0, no run longer than the first."""
    run = ceil(len(items) / parts)
    end = len(items) - part * run
    return items[max(end - run, 0) : max(end, 0)]


def _shared_rotary(case, data, ledger, table, s, positions, part):
    """The rotary keys that all KV heads of this chip share, the new ones appended; None where each head has its own."""
    if data.rotary is None or len(positions) == 0:
        return None
    store = Vectors(data.rotary[s][positions], case.keys, *table, ledger)
    if part == 0:
        for new in range(case.q_len):
            store.append(len(positions) - 1 - new)
    return store


def _one_kv_head(case, data, ledger, table, place, heads, kept, part, parts, partials, rotary):
    """Append, attend with every query head of this chip that shares the KV head, keep scores; returns resident bits."""
    (s, k), (positions, scores) = place, kept
    slots, room = table
    positions = _dealt(positions, part, parts)
    if len(positions) == 0:
        return 0
    stores = [Vectors(array[positions], coding, slots, room, ledger) for array, coding in data.stored(s, k)]
    if part == 0:
        for new in range(case.q_len):
            for store in stores:
                store.append(len(positions) - 1 - new)
    rows = [heads] if case.kernel != "per-query-head" else [[h] for h in heads]
    now = case.lengths[s] - case.q_len + np.arange(case.q_len)
    visible = positions[None, :] <= now[:, None]
    probabilities = 0.0
    expanded = case.latent is not None and not case.latent.absorbed
    latents = stores[0].read() if expanded else None
    for together in rows:
        if expanded:
            parts_of = [_expand(case, data, ledger, latents, h) for h in together]
        else:
            shared = data.key_and_value([store.read() for store in stores], None if rotary is None else rotary.read())
            parts_of = None
        for one in ([together] if parts_of is None else [[h] for h in together]):
            keys, values = shared if parts_of is None else parts_of[together.index(one[0])]
            source = data.plain_queries if expanded else data.queries
            queries = Counted(source[s, one][:, now], case.activation_bits, "query", ledger).read()
            answer = _attend(case, ledger, queries, keys, values, visible, data.scale)
            probabilities = probabilities + answer[3]
            for index, h in enumerate(one):
                out = Counted(np.zeros(answer[2][index].shape), case.activation_bits, "output", ledger)
                out.write(..., answer[2][index])
                partials.setdefault((s, h), []).append((answer[0][index], answer[1][index], out.values))
    kept_bits = sum(store.stored_bits for store in stores)
    if scores is None or case.rule.kind != "h2o":
        return kept_bits
    running = Counted(_dealt(scores, part, parts).copy(), SCORE_BITS, "score", ledger)
    running.write(..., running.read() + probabilities)
    return kept_bits + running.stored_bits


def _expand(case, data, ledger, latents, head):
    """Keys and values of one head from the latents, written to memory and read back by attention."""
    compressed, rotary = np.split(latents, [case.latent.kv_rank], axis=1)
    both = []
    for matrix in (data.key_up[head].T, data.value_up[head]):
        made = Counted(np.zeros((len(latents), matrix.shape[1])), case.activation_bits, "expanded", ledger)
        made.write(..., ledger.product(compressed, matrix, "expand"))
        both.append(made.read())
    return np.concatenate([both[0], rotary], axis=1), both[1]


def _attend(case, ledger, queries, keys, values, visible, scale):
    """Maximum, sum and weighted values [r, q, ...] of this chip's tokens, and the probabilities summed over queries."""
    r, q, d = queries.shape
    scores = ledger.product(queries.reshape(r * q, d), keys.T).reshape(r, q, -1) * scale
    scores = _through_memory(case, ledger, scores)
    largest = np.max(np.where(visible, scores, -1e300), axis=-1)
    weights = np.where(visible, np.exp(np.minimum(scores - largest[..., None], 0.0)), 0.0)
    weights = _through_memory(case, ledger, weights)
    outputs = ledger.product(weights.reshape(r * q, -1), values).reshape(r, q, -1)
    total = weights.sum(axis=-1)
    return largest, total, outputs, (weights / np.maximum(total, 1e-300)[..., None]).sum(axis=(0, 1))


def _through_memory(case, ledger, values):
    """An unfused kernel writes scores and probabilities and reads them back; a fused one keeps them on chip."""
    if case.kernel != "unfused":
        return values
    buffer = Counted(np.zeros(values.shape), case.activation_bits, "passes", ledger)
    buffer.write(..., values)
    return buffer.read()


def _combined(case, data, parts, head):
    """Partial results of the chips that share a sequence's tokens, put together; the latent's values multiplied up."""
    largest = np.max([part[0] for part in parts], axis=0)
    factors = [np.exp(part[0] - largest) for part in parts]
    total = sum(f * part[1] for f, part in zip(factors, parts, strict=True))
    output = sum(f[:, None] * part[2] for f, part in zip(factors, parts, strict=True)) / total[:, None]
    return output @ data.value_up[head] if case.latent is not None and case.latent.absorbed else output
