"""Blocks of prompts that later prompts begin with: a tree of them in memory and in tiers below it. Compiled.

A block's key is mixed from its own number and its parent's key, so that equal keys mean equal prompts up to its end.
Blocks that sequences hold are pinned, and with each all that stand before it. A block that none holds stays until its
room is wanted; the least recently used goes first, of one prompt the last before the first, so that what stays is
whole from the start. It goes down a tier where there is one, unless the way down is behind by more than waits for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.jit_cache import inner, stamp_module
from simkit.serving import state as at
from simkit.serving.iteration import Tables, chunk_attention
from simkit.serving.state import Prefixes, Rules, State

_MIX: Final = -7046029254386353131  # 2^64 over the golden ratio, as a signed number: Fibonacci hashing (Knuth 6.4)


@inner
def next_key(key: int, number: int) -> int:
    """Key of a prompt's block from that of the block before it (0: none) and its number; never 0."""
    mixed = (key ^ (number + 1)) * _MIX
    mixed = (mixed ^ (mixed >> 29)) * _MIX
    return (mixed ^ (mixed >> 32)) | 1


@inner
def find(tree: Prefixes, key: int) -> int:
    """The entry of a key; -1 without one."""
    mask = tree.slots.size - 1
    slot = (key >> 1) & mask
    while tree.slots[slot] > 0:
        if tree.entries[tree.slots[slot] - 1, at.KEY] == key:
            return int(tree.slots[slot] - 1)
        slot = (slot + 1) & mask
    return -1


@inner
def _insert(tree: Prefixes, key: int) -> int:
    spare = tree.lists[-1]
    entry = spare[at.OLDEST] - 1
    if entry >= 0:
        spare[at.OLDEST] = tree.entries[entry, at.NEWER] + 1
    else:
        entry = spare[at.MEMBERS]
        spare[at.MEMBERS] += 1
    mask = tree.slots.size - 1
    slot = (key >> 1) & mask
    while tree.slots[slot] > 0:
        slot = (slot + 1) & mask
    tree.slots[slot] = entry + 1
    tree.entries[entry, at.KEY] = key
    return int(entry)


@inner
def _remove(tree: Prefixes, entry: int) -> None:
    """Forget an entry; later ones of its run of slots move up (Knuth 6.4, algorithm R)."""
    mask = tree.slots.size - 1
    hole = (tree.entries[entry, at.KEY] >> 1) & mask
    while tree.slots[hole] != entry + 1:
        hole = (hole + 1) & mask
    slot = (hole + 1) & mask
    while tree.slots[slot] > 0:
        home = (tree.entries[tree.slots[slot] - 1, at.KEY] >> 1) & mask
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            tree.slots[hole] = tree.slots[slot]
            hole = slot
        slot = (slot + 1) & mask
    tree.slots[hole] = 0
    tree.entries[entry, at.NEWER] = tree.lists[-1, at.OLDEST] - 1
    tree.lists[-1, at.OLDEST] = entry + 1


@inner
def _append(tree: Prefixes, tier: int, entry: int) -> None:
    """Make an entry the newest of its tier."""
    own, row = tree.lists[tier], tree.entries[entry]
    row[at.TIER], row[at.OLDER], row[at.NEWER] = tier, own[at.NEWEST] - 1, -1
    if own[at.NEWEST] > 0:
        tree.entries[own[at.NEWEST] - 1, at.NEWER] = entry
    else:
        own[at.OLDEST] = entry + 1
    own[at.NEWEST] = entry + 1
    own[at.MEMBERS] += 1


@inner
def _unlink(tree: Prefixes, entry: int) -> None:
    row = tree.entries[entry]
    own = tree.lists[row[at.TIER]]
    if row[at.OLDER] >= 0:
        tree.entries[row[at.OLDER], at.NEWER] = row[at.NEWER]
    else:
        own[at.OLDEST] = row[at.NEWER] + 1
    if row[at.NEWER] >= 0:
        tree.entries[row[at.NEWER], at.OLDER] = row[at.OLDER]
    else:
        own[at.NEWEST] = row[at.OLDER] + 1
    own[at.MEMBERS] -= 1


@inner
def _demote(tree: Prefixes, count: NDArray[np.int64], now_s: float, tiers: NDArray[np.float64], entry: int) -> None:
    """Move the oldest of a tier down, and what it displaces there farther down; what finds no way is lost."""
    while entry >= 0:
        tier = tree.entries[entry, at.TIER]  # memory is tier 0; the figures of the tiers below it count from 0 too
        _unlink(tree, entry)
        if (tier >= tiers.shape[0] or tiers[tier, at.CAPACITY] < 1.0
                or tree.free_s[tier, 1] - now_s > tiers[tier, at.MOST_BEHIND_S]):
            _remove(tree, entry)
            return
        tree.free_s[tier, 1] = max(tree.free_s[tier, 1], now_s) + tiers[tier, at.BLOCK_S]
        count[at.DEMOTED] += 1
        full = tree.lists[tier + 1, at.MEMBERS] >= tiers[tier, at.CAPACITY]
        displaced = tree.lists[tier + 1, at.OLDEST] - 1 if full else -1
        _append(tree, tier + 1, entry)
        entry = displaced


@inner
def evict(state: State, rules: Rules) -> None:
    """Cached blocks that no sequence holds make room, the least recently used first."""
    count = state.tally
    while count[at.IDLE_BLOCKS] > 0 and count[at.USED] + count[at.IDLE_BLOCKS] > rules.blocks:
        count[at.IDLE_BLOCKS] -= rules.prefix_blocks
        _demote(state.prefixes, count, state.clock_s[at.NOW], rules.tiers, state.prefixes.lists[0, at.OLDEST] - 1)


@inner
def let_go(state: State, rules: Rules) -> None:
    """Unpin the blocks of sequences that have left; those that are not computed yet go."""
    count, tree = state.tally, state.prefixes
    while count[at.LOOSE] > 0:
        count[at.LOOSE] -= 1
        leaf = tree.entries[count[at.LOOSE], at.SCRATCH]
        while leaf >= 0:
            row = tree.entries[leaf]
            above = row[at.PARENT]
            row[at.PINS] -= 1
            if row[at.PINS] == 0:
                count[at.USED] -= rules.prefix_blocks
                count[at.FREED] += rules.prefix_blocks
                if row[at.READY_TO_SHARE]:
                    _append(tree, 0, leaf)
                    count[at.IDLE_BLOCKS] += rules.prefix_blocks
                else:
                    _remove(tree, leaf)
            leaf = above


@inner
def mark_computed(state: State, rules: Rules, leaf: int, filled_tokens: float) -> None:
    """The blocks of a prompt up to its ``filled_tokens`` hold their keys and values: later prompts may share them."""
    entries = state.prefixes.entries
    while leaf >= 0:
        if (entries[leaf, at.PLACE] + 1) * rules.prefix_tokens <= filled_tokens:
            entries[leaf, at.READY_TO_SHARE] = 1
        leaf = entries[leaf, at.PARENT]


@inner
def look_up(state: State, rules: Rules, tables: Tables, numbers: NDArray[np.int64],
            prompt: int) -> tuple[int, int, int, float]:
    """What is there of a prompt: ``(blocks to share, blocks to add, blocks of memory that both take, loaded at)``.

    Blocks that lie below memory are loaded as far as that ends the prompt sooner than computing the rest again.
    """
    tree, now_s = state.prefixes, state.clock_s[at.NOW]
    blocks = min(numbers.size, prompt // max(rules.prefix_tokens, 1), tree.entries.shape[0])
    if blocks == 0 or tree.entries.shape[0] == 0:
        return 0, 0, 0, now_s
    key, hits, below, added = 0, 0, False, 0
    for place in range(blocks):
        key = next_key(key, numbers[place])
        entry = find(tree, key)
        if hits == place and entry >= 0 and tree.entries[entry, at.READY_TO_SHARE]:
            tree.entries[place, at.SCRATCH], hits = entry, place + 1
            below = below or tree.entries[entry, at.TIER] > 0
        elif entry >= 0 and tree.entries[entry, at.TIER] == 0:
            break  # another sequence computes it, or it stands behind a gap: the rest is this one's own
        else:
            added += 1
    ready_s, kept, held = now_s, hits, 0
    if below:
        kept, ready_s = _worth_loading(tree, rules, tables, hits, now_s)
        place = kept
        while place < hits and tree.entries[tree.entries[place, at.SCRATCH], at.TIER] > 0:
            place += 1
        added = place - kept + (added if place == hits else 0)
    for place in range(kept):
        row = tree.entries[tree.entries[place, at.SCRATCH]]
        held += row[at.PINS] == 0
    return kept, added, (held + added) * rules.prefix_blocks, ready_s


@inner
def _worth_loading(tree: Prefixes, rules: Rules, tables: Tables, hits: int, now_s: float) -> tuple[int, float]:
    """How many of the blocks found end the prompt soonest, the rest computed again, and when they are loaded."""
    tokens, chunk = float(rules.prefix_tokens), min(rules.chunk, tables.row_s.size - 1)
    row_s = tables.row_s[chunk] / chunk * tokens
    wanted = np.zeros(rules.tiers.shape[0])
    best, least_s, saved_s, best_s, loaded_s = 0, 0.0, 0.0, now_s, now_s
    for place in range(hits):
        tier = tree.entries[tree.entries[place, at.SCRATCH], at.TIER] - 1
        if tier >= 0:
            wanted[tier] += 1.0
            loaded_s = max(loaded_s, max(tree.free_s[tier, 0], now_s) + wanted[tier] * rules.tiers[tier, at.BLOCK_S]
                           + rules.tiers[tier, at.LATENCY_S])
        saved_s += (row_s + chunk_attention(tables.prefill_s, tables, tokens, (place + 1.0) * tokens)
                    ) / rules.prefill_fraction
        if loaded_s - now_s - saved_s <= least_s:
            best, least_s, best_s = place + 1, loaded_s - now_s - saved_s, loaded_s
    return best, best_s


@inner
def share(state: State, rules: Rules, numbers: NDArray[np.int64], hits: int, added: int, need: int) -> int:
    """Pin the blocks that :func:`look_up` found, claim ``need``, and add those to be computed; gives the leaf."""
    count, tree = state.tally, state.prefixes
    leaf, key = -1, 0
    for place in range(hits):
        key = next_key(key, numbers[place])
        entry = tree.entries[place, at.SCRATCH]
        row = tree.entries[entry]
        if row[at.PINS] == 0:
            tier = row[at.TIER]
            _unlink(tree, entry)
            if tier == 0:
                count[at.IDLE_BLOCKS] -= rules.prefix_blocks
            else:
                row[at.TIER], row[at.READY_TO_SHARE] = 0, 0  # until this sequence's prompt ends
                tree.free_s[tier - 1, 0] = (max(tree.free_s[tier - 1, 0], state.clock_s[at.NOW])
                                            + rules.tiers[tier - 1, at.BLOCK_S])
                count[at.LOADED] += 1
        row[at.PINS] += 1
        row[at.PARENT], leaf = leaf, entry
    count[at.USED] += need
    count[at.ALLOCATED] += need
    count[at.MOST_USED] = max(count[at.MOST_USED], count[at.USED])
    for place in range(hits, hits + added):
        key = next_key(key, numbers[place])
        entry = find(tree, key)
        if entry < 0:
            entry = _insert(tree, key)
        else:
            _unlink(tree, entry)  # in a tier below, and computed again
        row = tree.entries[entry]
        row[at.TIER], row[at.PINS], row[at.READY_TO_SHARE], row[at.PLACE] = 0, 1, 0, place
        row[at.PARENT], leaf = leaf, entry
    return leaf

stamp_module(globals())
