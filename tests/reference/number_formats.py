"""Number formats by their definition, executed: what the dense reference quantises a cache with."""

from dataclasses import dataclass

import numpy as np

FP8_LARGEST, FP8_MANTISSA = 448.0, 3  # e4m3
FP4_GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # e2m1


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How elements are stored: ``group`` of them share a scale (and a zero point) along a token or along a channel."""

    name: str
    bits: int
    group: int = 0
    scale_bits: int = 0
    zero_bits: int = 0
    axis: str = "token"

    def encode(self, vectors):
        """Codes [n, d] and, where groups share them, scales and zero points: [n, d/group] or [n/group, d]."""
        if not self.group:
            return (fp8(vectors) if self.name == "fp8" else vectors.copy()), None, None
        along = 1 if self.axis == "token" else 0
        starts = np.arange(0, vectors.shape[along], self.group)
        low = np.minimum.reduceat(vectors, starts, axis=along)
        high = np.maximum.reduceat(vectors, starts, axis=along)
        if self.zero_bits:
            scale, zero = (high - low) / (2**self.bits - 1), low
        else:
            largest = FP4_GRID[-1] if self.name.startswith("fp4") else 2 ** (self.bits - 1) - 1
            scale, zero = np.maximum(abs(low), abs(high)) / largest, None
        scale = np.where(scale > 0, scale, 1.0)
        steps = (vectors - self.spread(zero, vectors.shape)) / self.spread(scale, vectors.shape)
        return (nearest_fp4(steps) if self.name.startswith("fp4") else np.rint(steps)), scale, zero

    def spread(self, shared, shape):
        """One value an element from one a group; 0 where nothing is shared."""
        if shared is None:
            return 0.0
        along = 1 if self.axis == "token" else 0
        return np.repeat(shared, self.group, axis=along)[: shape[0], : shape[1]]

    def decode(self, codes, scale, zero):
        if scale is None:
            return codes
        return codes * self.spread(scale, codes.shape) + self.spread(zero, codes.shape)


def fp8(values):
    """The nearest e4m3 number, under one scale for the whole tensor (an argument of the kernel, not read from memory)."""
    scale = np.max(np.abs(values)) / FP8_LARGEST
    exponent = np.frexp(values / scale)[1]
    exponent = np.maximum(exponent, -5)  # below 2**-6 numbers are subnormal
    digits = np.ldexp(1.0, exponent - FP8_MANTISSA - 1)
    return np.rint(values / scale / digits) * digits * scale


def nearest_fp4(values):
    index = np.argmin(np.abs(np.abs(values)[..., None] - FP4_GRID), axis=-1)
    return np.sign(values) * FP4_GRID[index]
