"""Capture files on disk, in a pipe or on standard input: opened here, parsed by :mod:`hl7core.wire.pcap.reader`.

Memory use does not grow with the size of the file.  A file is read, and decompressed, 128 KiB at a time; it is never
mapped and never held as a whole.  A pipe is read as its data arrives, so that a live capture can be piped in.  A file
that cannot be opened raises; one that ends in damage keeps every packet before it and says so in ``damage``.
"""

from __future__ import annotations

import io
import os
import select
import stat
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from types import TracebackType
from typing import Self

from hl7core.errors import CaptureFileError
from hl7core.model.packet import PacketBatch
from hl7core.wire.pcap.reader import CaptureReader

__all__ = ["CaptureFile"]

_CHUNK = 128 * 1024  # small enough for what is decoded of it to stay in the processor's cache
_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1
_GZIP_PIECE = 16 * 1024
_GZIP_WINDOW = 31  # zlib: the largest window, with a gzip header and trailer


class CaptureFile:
    """A capture file, opened for reading once; iterate over it for its batches.

    ``path`` is a file, a named pipe, or ``-`` for standard input.  The content is pcap or pcapng, plain or
    gzip-compressed, whatever the name says.  ``size`` is the length of the file in bytes, 0 for a pipe; ``position`` is
    how many bytes have been read.  Opening a named pipe waits for its writer.

    Raises CaptureFileError if the file cannot be opened; iterating raises it if this is not a capture file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == "-" else path
        self.position = 0
        self._reader = CaptureReader()
        self._damage: CaptureFileError | None = None
        try:
            # Unbuffered: each read is one system call, which returns what a pipe holds.
            self._file = io.FileIO(0, "rb", closefd=False) if path == "-" else io.FileIO(path, "rb")
            status = os.fstat(self._file.fileno())
        except FileNotFoundError:
            raise CaptureFileError(f"{self.name}: no such file") from None
        except IsADirectoryError:
            raise CaptureFileError(f"{self.name}: this is a folder; name the capture files in it") from None
        except PermissionError:
            raise CaptureFileError(
                f"{self.name}: permission denied; ask its owner for access, or read a copy"
            ) from None
        except (OSError, ValueError) as error:
            raise CaptureFileError(f"{self.name}: cannot be opened: {_reason(error)}") from error
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else 0

    @property
    def damage(self) -> CaptureFileError | None:
        """Why the reading ended early, known after the iteration; None if it did not."""
        return self._damage

    @property
    def packets(self) -> int:
        """How many packets have been read so far."""
        return self._reader.packets

    @property
    def drops(self) -> int:
        """How many packets were dropped while capturing, as far as the file says so yet; only pcapng records it."""
        return self._reader.drops

    def take_secrets(self) -> bytes:
        """Return the TLS key logs read from the file that were not returned before."""
        return self._reader.take_secrets()

    def __iter__(self) -> Iterator[PacketBatch]:
        """Yield the batches of the file in order.  Raises CaptureFileError if it is not a capture file."""
        reader = self._reader
        try:
            for data in self._unpacked():
                yield from reader.feed(data)
                if reader.damage:
                    break
            yield from reader.finish()
        except CaptureFileError as error:
            # If a disk or gzip error cut off the header, report that error, not the short header.
            raise CaptureFileError(str(self._damage or self._named(error))) from None
        if reader.damage and not self._damage:
            self._damage = self._named(reader.damage)

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raw(self) -> Iterator[bytes]:
        """Yield the bytes of the file as they arrive; a read error ends them with damage."""
        while True:
            try:
                data = self._file.read(_CHUNK)
            except OSError as error:
                self._cut(f"reading failed after {self.position} bytes: {_reason(error)}")
                return
            if data is None:  # standard input is non-blocking and holds nothing yet
                select.select([self._file], [], [])
                continue
            if not data:
                return
            self.position += len(data)
            yield data

    def _unpacked(self) -> Iterator[bytes]:
        """Yield the bytes of the capture, decompressed if the file is gzip."""
        raw = self._raw()
        head = b""
        for data in raw:
            head += data
            if len(head) >= len(_GZIP_MAGIC):
                break
        if not head.startswith(_GZIP_MAGIC):
            if head:
                yield head
            yield from raw
            return
        yield from self._gunzip(head, raw)

    def _gunzip(self, head: bytes, raw: Iterator[bytes]) -> Iterator[bytes]:
        """Decompress the members of a gzip file one after the other; corrupt or missing data ends it with damage.

        Zeros between and after members are padding, as for gzip itself; tapes and block devices leave them.
        """
        member = None
        for piece in _pieces(chain((head,), raw)):
            data = piece
            while data:
                if member is None:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    member = zlib.decompressobj(_GZIP_WINDOW)
                before = member.copy()
                try:
                    unpacked = member.decompress(data, _CHUNK)
                except zlib.error as error:
                    yield _salvage(before, data)
                    self._cut(f"the gzip data is damaged near byte {self.position}: {error}")
                    return
                if unpacked:
                    yield unpacked
                if member.eof:
                    data, member = member.unused_data, None
                else:
                    data = member.unconsumed_tail
        if member is not None and not self._damage:
            yield member.flush()
            self._cut(f"the gzip data is cut short after {self.position} bytes")

    def _cut(self, what: str) -> None:
        packet = self._reader.packets + 1
        self._damage = CaptureFileError(f"{self.name}: damaged at packet {packet}: {what}", packet=packet)

    def _named(self, error: CaptureFileError) -> CaptureFileError:
        return CaptureFileError(f"{self.name}: {error}", packet=error.packet)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut compressed data into small pieces: each end of a member copies the rest, and a hostile file has many ends."""
    for chunk in chunks:
        for at in range(0, len(chunk), _GZIP_PIECE):
            yield chunk[at : at + _GZIP_PIECE]


def _salvage(member: zlib._Decompress, data: bytes) -> bytes:
    """Return what ``data`` decompresses to before the error in it, which zlib discards when it raises."""
    parts: list[bytes] = []
    size = len(data)
    while size and not member.eof:
        attempt = member.copy()
        try:
            parts.append(attempt.decompress(data[:size], _CHUNK))
        except zlib.error:
            size //= 2
            continue
        data = attempt.unconsumed_tail + data[size:]
        member = attempt
    return b"".join(parts)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
