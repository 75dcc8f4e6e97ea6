"""What comes in: regular files of bounded size, and nothing that could wait, never end, or fill the memory.

A named pipe or a terminal waits for a writer, ``/dev/zero`` never ends, and a compressed file of a few kilobytes may
hold gigabytes. Every reader opens its files here, so that such a file is refused before anything is read from it.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, TextIO, cast

from simkit.foundation.errors import Location, UserError, shorten

_GZIP_MARK: Final = b"\x1f\x8b"
# Not to wait for the other end of a pipe; without meaning for regular files, and not known to Windows.
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_SHOWN: Final = 200


def open_file(path: Path | str, *, failure: str = "cannot read") -> io.BufferedReader:
    """Open a regular file for reading bytes.

    Parameters: failure: the words before the reason when it cannot be read. Raises :class:`UserError` when there is
    no such file, when it cannot be read, or when it is a folder, pipe or device.
    """
    where = Location(file=shorten(str(path), _SHOWN))
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat is the same call
        if stat.S_ISREG(mode):
            descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
        elif stat.S_ISDIR(mode):
            raise UserError(f"{failure}: Is a directory", where=where)
        else:
            raise UserError(f"{failure}: it is a pipe or a device, not a file", where=where)
    except FileNotFoundError:
        raise UserError("no such file" if failure == "cannot read" else f"{failure}: No such file or directory",
                        where=where) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{failure}: {getattr(error, 'strerror', None) or error}", where=where) from None
    # Opened by number: what was checked and what is read are told apart only by someone who swaps files meanwhile.
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise UserError(f"{failure}: it is a pipe or a device, not a file", where=where)
    return stream


def read_bytes(path: Path | str, *, most_bytes: int, unpack: bool = False, failure: str = "cannot read") -> bytes:
    """The whole of a regular file.

    Parameters: most_bytes: the largest file that is read, unpacked too; unpack: whether a gzip file is read as what
    it holds; failure: as in :func:`open_file`. Raises :class:`UserError`.
    """
    where = Location(file=shorten(str(path), _SHOWN))
    with open_file(path, failure=failure) as stream:
        try:
            packed = unpack and stream.read(len(_GZIP_MARK)) == _GZIP_MARK
            stream.seek(0)
            content = (gzip.GzipFile(fileobj=stream) if packed else stream).read(most_bytes + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{failure}: {getattr(error, 'strerror', None) or error}", where=where) from None
    if len(content) > most_bytes:
        raise UserError(f"larger than {most_bytes:,} bytes", where=where)
    return content


def read_text(path: Path | str, *, most_bytes: int, unpack: bool = False, failure: str = "cannot read") -> str:
    """As :func:`read_bytes`, decoded from UTF-8. Raises :class:`UserError` with the line that is not."""
    raw = read_bytes(path, most_bytes=most_bytes, unpack=unpack, failure=failure)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError("not UTF-8 text", where=Location(file=shorten(str(path), _SHOWN), line=line)) from None


@contextmanager
def open_text(path: Path | str) -> Iterator[TextIO]:
    """Open a regular UTF-8 text file for reading line by line, unpacked when it is gzip; line ends are kept.

    Raises :class:`UserError` as :func:`open_file` does; what is wrong further on is met while reading.
    """
    with open_file(path) as stream:
        packed = stream.read(len(_GZIP_MARK)) == _GZIP_MARK
        stream.seek(0)
        source = cast("BinaryIO", gzip.GzipFile(fileobj=stream)) if packed else stream
        yield io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
