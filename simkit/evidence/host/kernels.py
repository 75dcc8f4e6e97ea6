"""Compiled loops that are timed on this machine: streams, a pointer chase, arithmetic in the nearest cache, attention.

Every function repeats its work ``repeats`` times inside compiled code and without the interpreter's lock, so that one
thread a core can run it at once. Inner loops take four rows at a time: a compiler turns them into vector instructions
that load each query once for four keys.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit

from simkit.foundation.jit_cache import compiled

TILE_TOKENS: Final = 16
LINE_BYTES: Final = 64
LOG2_E: Final = np.float32(1.4426950408889634)
LEAST_POWER: Final = np.float32(-126.0)
HALF, ONE = np.float32(0.5), np.float32(1.0)
# Taylor's terms of 2**x on [-1/2, 1/2], good to 2e-6: ln(2)**n / n!.
C1, C2, C3, C4, C5 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 6))
BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)


@njit(fastmath=True, nogil=True, inline="always")
def dot_rows(query: Any, keys: Any, first: int, count: int, scores: Any) -> None:
    """``scores[t] = query . keys[first + t]``, four keys at a time."""
    dim = query.shape[0]
    whole = count - count % 4
    for t in range(0, whole, 4):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(dim):
            x = query[i]
            a += x * keys[first + t, i]
            b += x * keys[first + t + 1, i]
            c += x * keys[first + t + 2, i]
            d += x * keys[first + t + 3, i]
        scores[t], scores[t + 1], scores[t + 2], scores[t + 3] = a, b, c, d
    for t in range(whole, count):
        a = np.float32(0)
        for i in range(dim):
            a += query[i] * keys[first + t, i]
        scores[t] = a


@njit(fastmath=True, nogil=True, inline="always")
def add_rows(weights: Any, values: Any, first: int, count: int, total: Any) -> None:
    """``total += sum_t weights[t] values[first + t]``, four values at a time."""
    dim = total.shape[0]
    whole = count - count % 4
    for t in range(0, whole, 4):
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        for i in range(dim):
            total[i] += (a * values[first + t, i] + b * values[first + t + 1, i]
                         + c * values[first + t + 2, i] + d * values[first + t + 3, i])
    for t in range(whole, count):
        a = weights[t]
        for i in range(dim):
            total[i] += a * values[first + t, i]


@njit(fastmath=True, nogil=True, inline="always")
def exponentials(scores: Any, top: Any, count: int, powers: Any, weights: Any) -> Any:
    """``weights[t] = exp(scores[t] - top)`` and their sum: a power of two from exponent bits, the rest a polynomial."""
    for t in range(count):
        x = max((scores[t] - top) * LOG2_E, LEAST_POWER)
        whole = np.floor(x + HALF)
        f = x - whole
        powers[t] = (np.int32(whole) + BIAS) << MANTISSA_BITS
        weights[t] = ONE + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * C5))))
    scale = powers.view(np.float32)
    total = np.float32(0)
    for t in range(count):
        weights[t] *= scale[t]
        total += weights[t]
    return total


@compiled(fastmath=True, nogil=True)
def attend(queries: Any, keys: Any, values: Any, out: Any, repeats: int) -> None:
    """Decode attention: queries [items, rows, d] over keys and values [items, tokens, d], softmax in one pass.

    Rows of an item share its key and value tiles (the grouped kernel); ``out`` [items, rows, d].
    """
    items, rows, dim = queries.shape
    tokens = keys.shape[1]
    scores, weights = np.empty(TILE_TOKENS, np.float32), np.empty(TILE_TOKENS, np.float32)
    powers = np.empty(TILE_TOKENS, np.int32)
    tops, sums = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for _ in range(repeats):
        for item in range(items):
            tops[:] = -np.inf
            sums[:] = 0
            out[item] = 0
            for first in range(0, tokens, TILE_TOKENS):
                count = min(TILE_TOKENS, tokens - first)
                for row in range(rows):
                    dot_rows(queries[item, row], keys[item], first, count, scores)
                    top = tops[row]
                    for t in range(count):
                        top = max(top, scores[t])
                    if top > tops[row]:
                        shrink = np.float32(0) if first == 0 else np.float32(math.exp(tops[row] - top))
                        sums[row] *= shrink
                        for i in range(dim):
                            out[item, row, i] *= shrink
                        tops[row] = top
                    sums[row] += exponentials(scores, top, count, powers, weights)
                    add_rows(weights, values[item], first, count, out[item, row])
            for row in range(rows):
                for i in range(dim):
                    out[item, row, i] /= sums[row]


@compiled(fastmath=True, nogil=True)
def row_products(query: Any, keys: Any, out: Any, repeats: int) -> None:
    """Dot products with, and weighted sums of, one tile of rows that stays in the nearest cache: 4 t d flops a turn."""
    tokens = keys.shape[0]
    scores = np.empty(tokens, np.float32)
    for _ in range(repeats):
        dot_rows(query, keys, 0, tokens, scores)
        add_rows(scores, keys, 0, tokens, out)
        for i in range(out.shape[0]):
            out[i] *= np.float32(1e-6)


@compiled(fastmath=True, nogil=True)
def softmax_tiles(scores: Any, powers: Any, weights: Any, repeats: int) -> Any:
    """The online softmax of one tile of scores, over and over: its maximum, exponentials and their sum."""
    total, count = np.float32(0), scores.shape[0]
    for _ in range(repeats):
        top = scores[0]
        for t in range(count):
            top = max(top, scores[t])
        total += exponentials(scores, top, count, powers, weights)
    return total


@compiled(fastmath=True, nogil=True)
def read_tiles(first_data: Any, second_data: Any, query: Any, repeats: int) -> Any:
    """Reads two [n, d] arrays in tiles by turns, as attention reads keys and values: one product a row, no more."""
    tokens = first_data.shape[0]
    scores = np.empty(TILE_TOKENS, np.float32)
    total = np.float32(0)
    for _ in range(repeats):
        for first in range(0, tokens, TILE_TOKENS):
            count = min(TILE_TOKENS, tokens - first)
            dot_rows(query, first_data, first, count, scores)
            total += scores[0]
            dot_rows(query, second_data, first, count, scores)
            total += scores[0]
    return total


@compiled(nogil=True)
def chase(successor: Any, start: int, steps: int) -> int:
    """Follow ``successor`` for ``steps`` loads, each of which waits for the one before."""
    place = start
    for _ in range(steps):
        place = successor[place]
    return place


def random_cycle(lines: int, seed: int = 1) -> Any:
    """A random cycle through ``lines`` cache lines, one entry at the head of each: no prefetcher follows it."""
    order = np.random.default_rng(seed).permutation(lines)
    stride = LINE_BYTES // 8
    successor = np.zeros(lines * stride, dtype=np.int64)
    successor[order * stride] = np.roll(order, -1) * stride
    return successor
