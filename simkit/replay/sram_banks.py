r"""What share of a banked SRAM's peak the reads of a KV layout reach.

``count`` banks deliver one word of ``width`` bytes each in a cycle. A reader asks for ``count`` words at once, in the
order in which the cache holds them; words of one access that lie in one bank are served one after the other, so that an
access takes as many cycles as its fullest bank has words:

.. math:: f = \frac{bytes / (count \cdot width)}{\sum_{accesses} \max_{bank} words},
          \qquad bank = \lfloor address / width \rfloor \bmod count

Contiguous vectors meet no bank twice. Vectors that are shorter than an access and far apart (heads of a token side by
side, tokens kept by an eviction policy) meet in one bank when their distance is a multiple of the banks' rows.

*Limits.* Readers take turns access by access and do not disturb one another: those that met once have fallen into step.
Pages count as contiguous. Machines whose compiler has placed every access lose nothing (``scheduled``).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.hardware.devices import SramBanks
from simkit.hardware.profile import MemoryLevel

SAMPLE_TOKENS: Final = 512  # of one head; the pattern of banks repeats within as many tokens as there are banks


def bank_fraction(level: MemoryLevel, *, token_bytes: float, row_bytes: float, stride_tokens: float = 1.0) -> float:
    """Share of ``level``'s peak at which one head's vectors are read.

    Parameters: ``level``; ``token_bytes`` of a vector, one of which begins every ``row_bytes`` (equal: side by side);
    ``stride_tokens`` from one token that is read to the next, on average.
    Returns: 1 where the level names no banks or its accesses were scheduled so as not to meet.
    """
    banks = level.banks
    if banks is None or banks.scheduled:
        return 1.0
    words = word_numbers(token_bytes, row_bytes, stride_tokens, banks.width_bytes)
    ideal_cycles = SAMPLE_TOKENS * token_bytes / (banks.count * banks.width_bytes)
    return float(min(1.0, ideal_cycles / access_cycles(words, banks)))


def word_numbers(token_bytes: float, row_bytes: float, stride_tokens: float, width_bytes: int) -> NDArray[np.int64]:
    """Words that the vectors of the sample lie in, in order; a word in which two vectors meet is read once."""
    start = np.floor(np.arange(SAMPLE_TOKENS) * stride_tokens) * row_bytes
    first = (start // width_bytes).astype(np.int64)
    last = (np.ceil((start + token_bytes) / width_bytes) - 1).astype(np.int64)
    length = last - first + 1
    inside = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    words = np.repeat(first, length) + inside
    return np.asarray(words[np.diff(words, prepend=-1) != 0], dtype=np.int64)


def access_cycles(words: NDArray[np.int64], banks: SramBanks) -> int:
    """Cycles of all accesses: of each, the words in its fullest bank; a last one that is not full counts its share."""
    access = np.arange(len(words)) // banks.count
    load = np.bincount(access * banks.count + words % banks.count, minlength=(int(access[-1]) + 1) * banks.count)
    return int(load.reshape(-1, banks.count).max(axis=1).sum())
