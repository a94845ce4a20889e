"""Capture files on disk, in a pipe, on standard input: opened here, read by :mod:`hl7core.wire.pcap.reader`.

The law: memory stays flat, whatever the size.  A file is read a mebibyte at a time, never mapped and never whole; what
is compressed gives a mebibyte at a time too, however small it was; a pipe gives what it has at once, so that a live
capture can be piped in.  What cannot be opened raises; what ends badly keeps every packet that was read and says so in
``damage``.
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

_CHUNK = 128 * 1024  # small enough that what is decoded of it stays in the processor's cache
_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1
_GZIP_PIECE = 16 * 1024
_GZIP_WINDOW = 31  # zlib: the largest window, with a gzip header and trailer


class CaptureFile:
    """One capture file, opened for reading once: iterate over it for its batches.

    ``path`` is a file, a named pipe, or ``-`` for standard input; pcap or pcapng, plain or compressed with gzip (told
    by its content, whatever its name).  ``size`` is the length of the file in bytes, 0 where it has none (a pipe);
    ``position`` how many of them were read.  Opening a named pipe waits for its writer.

    Raises CaptureFileError if it cannot be opened; iterating raises it if this is no capture file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == "-" else path
        self.position = 0
        self._reader = CaptureReader()
        self._damage: CaptureFileError | None = None
        try:
            # Unbuffered: one read is one system call, which for a pipe returns what is there.
            self._file = io.FileIO(0, "rb", closefd=False) if path == "-" else io.FileIO(path, "rb")
            status = os.fstat(self._file.fileno())
        except FileNotFoundError:
            raise CaptureFileError(f"{self.name}: there is no such file") from None
        except IsADirectoryError:
            raise CaptureFileError(f"{self.name}: it is a folder; name the capture files in it") from None
        except PermissionError:
            raise CaptureFileError(f"{self.name}: you may not read it; ask its owner, or read a copy") from None
        except (OSError, ValueError) as error:
            raise CaptureFileError(f"{self.name}: it cannot be opened: {_reason(error)}") from error
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else 0

    @property
    def damage(self) -> CaptureFileError | None:
        """Why the file ended badly, known once the iteration has ended; None if it ended well."""
        return self._damage

    @property
    def packets(self) -> int:
        """How many packets were read so far."""
        return self._reader.packets

    @property
    def drops(self) -> int:
        """How many packets the capture says were dropped while it was made, so far (pcapng alone says it)."""
        return self._reader.drops

    def take_secrets(self) -> bytes:
        """Return the TLS key logs that the file carries, of what was read so far and was not returned yet."""
        return self._reader.take_secrets()

    def __iter__(self) -> Iterator[PacketBatch]:
        """Yield the batches of the file, in order.  Raises CaptureFileError if it is no capture file."""
        reader = self._reader
        try:
            for data in self._unpacked():
                yield from reader.feed(data)
                if reader.damage:
                    break
            yield from reader.finish()
        except CaptureFileError as error:
            # If a disk or gzip error took even the header, that is what went wrong, not the short header.
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
        """Yield the bytes of the file as they come; an error of the disk ends them with damage."""
        while True:
            try:
                data = self._file.read(_CHUNK)
            except OSError as error:
                self._cut(f"it cannot be read on after {self.position} bytes: {_reason(error)}")
                return
            if data is None:  # a standard input that someone set to non-blocking has nothing yet
                select.select([self._file], [], [])
                continue
            if not data:
                return
            self.position += len(data)
            yield data

    def _unpacked(self) -> Iterator[bytes]:
        """Yield the bytes of the capture: those of the file, decompressed if they are gzip."""
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
        """Decompress the members of a gzip file, one after the other; what is broken or cut short ends it with damage.

        Zeros between and after members are padding, as for gzip itself (a tape or a block device leaves them).
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
    """Cut what is compressed small: each member's end copies the rest, and a hostile file is all ends."""
    for chunk in chunks:
        for at in range(0, len(chunk), _GZIP_PIECE):
            yield chunk[at : at + _GZIP_PIECE]


def _salvage(member: zlib._Decompress, data: bytes) -> bytes:
    """Return what ``data`` holds up to the error in it: zlib raises away the output before an error."""
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
