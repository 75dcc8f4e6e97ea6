"""Safetensors files read and written piece by piece: no more of a checkpoint in memory than a few rows.

The format is 8 bytes of header length (little-endian), a JSON header with each tensor's dtype, shape and byte
range, then the bytes. The safetensors package checks every file, read or written; it is not used for the data
itself because it writes from memory only and gives NumPy no bfloat16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import Location, UserError
from simkit.foundation.input_file import open_file

_LENGTH_BYTES: Final = 8  # safetensors: the header's length as a 64-bit integer
_ALIGNMENT: Final = 8  # safetensors: headers are padded so that tensors begin at a multiple
_COPY_BYTES: Final = 8 * 2**20  # held at once while a tensor is copied
# bfloat16 is stored as the upper half of a float32.
_STORED: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
}
_HALF_FLOAT_BITS: Final = 16  # half of float32's 32 (IEEE 754)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor of one file: its dtype by the format's name, its shape, and where its bytes stand."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset_bytes: int
    length_bytes: int

    def rows(self, first: int, count: int) -> NDArray[np.float64]:
        """Rows ``first`` to ``first + count`` of a float tensor (elements, of a vector) as float64."""
        if not is_float(self.dtype):
            raise UserError(f"stored as {self.dtype}: expected F64, F32, F16 or BF16",
                            where=Location(file=str(self.file), key=self.name))
        stored = _STORED[self.dtype]
        row_elements = math.prod(self.shape[1:])
        with self.file.open("rb") as stream:
            stream.seek(self.offset_bytes + first * row_elements * stored.itemsize)
            raw = stream.read(count * row_elements * stored.itemsize)
        return decode(raw, self.dtype).reshape(count, *self.shape[1:])

    def raw(self) -> Iterator[bytes]:
        """The tensor's bytes, in pieces."""
        left = self.length_bytes
        with self.file.open("rb") as stream:
            stream.seek(self.offset_bytes)
            while left:
                piece = stream.read(min(left, _COPY_BYTES))
                if not piece:
                    raise UserError("the file became shorter while it was read", where=Location(file=str(self.file)))
                left -= len(piece)
                yield piece


def is_float(dtype: str) -> bool:
    """Whether :func:`decode` reads the dtype: unquantised floating point."""
    return dtype in _STORED


def decode(raw: bytes, dtype: str) -> NDArray[np.float64]:
    """Stored bytes to float64; exact, for every stored format is narrower."""
    stored = np.frombuffer(raw, dtype=_STORED[dtype])
    if dtype == "BF16":
        return (stored.astype(np.uint32) << _HALF_FLOAT_BITS).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def encode(weight_elements: NDArray[np.float64], dtype: str) -> bytes:
    """float64 to stored bytes, rounded to nearest, ties to even.

    >>> decode(encode(np.array([1.0, 3.140625, 1 + 2**-8]), "BF16"), "BF16").tolist()
    [1.0, 3.140625, 1.0]
    """
    if dtype != "BF16":
        return weight_elements.astype(_STORED[dtype]).tobytes()
    # Through float32 the value would be rounded twice; rounding to odd first keeps what the second needs to know.
    narrow = weight_elements.astype(np.float32)
    bits = narrow.view(np.uint32).copy()
    inexact = narrow.astype(np.float64) != weight_elements
    overshot = np.abs(narrow.astype(np.float64)) > np.abs(weight_elements)
    bits -= (inexact & overshot).astype(np.uint32)
    bits |= inexact.astype(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> _HALF_FLOAT_BITS) & np.uint32(1))
    rounded = ((bits + half) >> _HALF_FLOAT_BITS).astype(np.uint16)
    return np.where(np.isnan(narrow), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()


def checked_by_safetensors(path: Path) -> None:
    """Have the safetensors package open a file. Raises :class:`UserError` when it, or the file, is not right."""
    try:
        from safetensors import SafetensorError, safe_open  # an extra, so not at the top
    except ImportError:
        raise UserError("checkpoints need the package safetensors",
                        hint="install it with: pip install 'simkit[checkpoints]'") from None
    with open_file(path):
        pass  # a pipe or a folder is told from a file here, in our words and without waiting
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"not a whole safetensors file: {error}", where=Location(file=str(path))) from None


def read_entries(path: Path) -> tuple[list[TensorEntry], dict[str, str]]:
    """The tensors of one file in the order of their bytes, and its metadata."""
    checked_by_safetensors(path)
    with open_file(path) as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
    metadata = header.pop("__metadata__", {})
    entries = [
        TensorEntry(name=name, dtype=value["dtype"], shape=tuple(value["shape"]), file=path,
                    offset_bytes=_LENGTH_BYTES + length + value["data_offsets"][0],
                    length_bytes=value["data_offsets"][1] - value["data_offsets"][0])
        for name, value in header.items()
    ]
    return sorted(entries, key=lambda entry: (entry.offset_bytes, entry.name)), metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTensor:
    """A tensor to write: what the header says of it, and its bytes in pieces, made when they are written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    length_bytes: int
    pieces: Iterable[bytes]


def write_tensors(path: Path, tensors: Iterable[NewTensor], metadata: dict[str, str]) -> int:
    """Write one safetensors file, tensor after tensor, and have it checked. Returns the tensors' bytes."""
    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                               "data_offsets": [at, at + tensor.length_bytes]}
        at += tensor.length_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("xb") as stream:
        stream.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        stream.write(text)
        for tensor in tensors:
            for piece in tensor.pieces:
                stream.write(piece)
    checked_by_safetensors(path)
    return at
