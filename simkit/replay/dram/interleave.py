"""Byte address -> channel and address inside that channel, for a memory of any number of channels.

Consecutive blocks of ``granularity_bytes`` go to consecutive channels. With ``hashed``, higher block bits are folded
into the channel number so that power-of-two strides do not return to one channel; a count of channels that is no
power of two is divided by modulo. Both leave a bijection: (channel, address inside) names each byte once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelInterleave:
    """How a flat address space is spread over channels."""

    channels: int
    granularity_bytes: int = 256  # assumed; profiles are replayed with what dram_pattern says
    hashed: bool = True

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UserError(f"channels must be at least 1, got {self.channels}")
        if self.granularity_bytes < 1:
            raise UserError(f"granularity_bytes must be at least 1, got {self.granularity_bytes}")

    def split(self, address_bytes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Channel numbers and addresses inside the channel, for byte addresses of any shape."""
        address = np.asarray(address_bytes, dtype=np.int64)
        block, offset = address // self.granularity_bytes, address % self.granularity_bytes
        inside = block // self.channels
        channel = block % self.channels
        if self.hashed:
            # a rotation by a hash of the block's upper part keeps every group of `channels` blocks a permutation
            mixed = inside ^ (inside >> 5) ^ (inside >> 11) ^ (inside >> 17)
            channel = (channel + mixed) % self.channels
        return channel, inside * self.granularity_bytes + offset
