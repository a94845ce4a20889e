"""Decoding with several processors at once, for ``read -o jsonl``.

Each process reads the same files and decodes its share of the connections; this one prints what all of them find.  Its
law: the output is that of one process, byte for byte.  All read the same chunks, so what the shares find in a chunk is
put in order by the packet at which each session ended.  A process that dies ends the command with an error: what it
would have said is missing, and that must not go unnoticed.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import sys
from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final, Never

from hl7core.errors import Hl7coreError
from hl7core.model.packet import PacketBatch
from hl7core.wire.connection import DecoderOptions
from hl7core.wire.decoder import ALL
from hl7core.wire.encrypted import Encrypted
from hl7core.wire.jsonl import JsonlDecoder, ShardDecoder

__all__ = ["Lines", "Shares", "jobs_for", "shares_of"]

_WORTH: Final = 16 << 20
"""Smaller captures are decoded before a second process would be of use."""
_MOST: Final = 8
_PRINTING: Final = 0.3
"""To put a session of another process in its place and print it takes so much of what decoding it took."""
_FRAME: Final = Struct("=II")
_END: Final = 0xFFFFFFFF
_PIPE: Final = 1 << 20
_place: Final = itemgetter(0)


def jobs_for(files: Sequence[str], wanted: int | None) -> int:
    """Return with how many processes to decode ``files``; ``wanted`` is what the user said, None for what is best."""
    if not hasattr(os, "fork") or sys.platform == "darwin":  # a forked process may not use much of macOS
        return 1
    try:
        sizes = [status.st_size if stat.S_ISREG((status := Path(name).stat()).st_mode) else -1 for name in files]
    except OSError:
        return 1  # said by who opens it
    if min(sizes) < 0:  # a pipe can be read once only
        return 1
    if wanted is not None:
        return wanted
    return min(len(os.sched_getaffinity(0)), _MOST) if sum(sizes) >= _WORTH else 1


def shares_of(jobs: int) -> list[range]:
    """Return the shares of all connections, the smallest first: that process prints what the others find too."""
    part = 1 / (jobs - 1)
    own = max(0.0, (part - _PRINTING) / (1 - _PRINTING + part))
    cuts = [0, *(round(len(ALL) * (own + (1 - own) * number * part)) for number in range(jobs))]
    return [range(begin, end) for begin, end in itertools.pairwise(cuts)]


class Lines:
    """Decodes in this process alone, and prints."""

    def __init__(self, options: DecoderOptions, out: BinaryIO) -> None:
        self._decoder = JsonlDecoder(options)
        self._out = out

    @property
    def counters(self) -> dict[str, int]:
        """What was seen, and what was let go."""
        return self._decoder.counters

    @property
    def encrypted(self) -> Encrypted:
        """What nobody could read."""
        return self._decoder.encrypted

    def take(self, batch: PacketBatch) -> None:
        """Print what ends in ``batch``."""
        self._print(self._decoder.lines(batch))

    def end(self) -> None:
        """Print what was open."""
        for lines in self._decoder.last_lines():
            self._print(lines)
        self._out.flush()

    def _print(self, lines: list[bytes]) -> None:
        if lines:
            lines.append(b"")
            self._out.write(b"\n".join(lines))
            self._out.flush()


class Shares:
    """Decodes one share in this process, has the others decoded, and prints all in order.

    ``read`` feeds a reader of the files with every batch; it runs in each of the processes.
    """

    def __init__(
        self, options: DecoderOptions, out: BinaryIO, jobs: int, read: Callable[[Callable[[PacketBatch], None]], object]
    ) -> None:
        bounded = options._replace(
            max_connections=-(-options.max_connections // jobs), reassembly_bytes=options.reassembly_bytes // jobs
        )
        self._out = out
        own, *others = shares_of(jobs)
        self._others = [_Other(bounded, share, read) for share in others]
        self._decoder = ShardDecoder(bounded, own)
        self.counters = self._decoder.counters

    @property
    def encrypted(self) -> Encrypted:
        """What nobody could read, as far as this process has seen it."""
        return self._decoder.encrypted

    def take(self, batch: PacketBatch) -> None:
        """Print what ends in ``batch``."""
        self._print(*self._decoder.placed(batch))

    def end(self) -> None:
        """Print what was open; add up the counters."""
        for other in self._others:
            other.expect_end()
        for part in self._decoder.last_placed():
            self._print(*part)
        self._out.flush()
        for other in self._others:
            for name, count in other.counters().items():
                if name not in ("packets", "skipped"):  # each has seen them all
                    self.counters[name] += count

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for other in self._others:
            other.close()

    def _print(self, places: list[int], lines: list[bytes]) -> None:
        found = [*zip(places, lines, strict=True)]
        own = len(found)
        for other in self._others:
            found += other.next()
        if len(found) > own:
            found.sort(key=_place)
            lines = [line for _, line in found]
        if lines:
            lines.append(b"")
            self._out.write(b"\n".join(lines))
            self._out.flush()


class _Other:
    """A process that decodes a share, and the pipe from it."""

    def __init__(
        self,
        options: DecoderOptions,
        share: range,
        read: Callable[[Callable[[PacketBatch], None]], object],
    ) -> None:
        source, sink = os.pipe()
        _widen(sink)
        sys.stdout.flush()
        self._pid = _fork()
        if not self._pid:
            os.close(source)
            _work(sink, options, share, read)
        os.close(sink)
        self._pipe = os.fdopen(source, "rb", buffering=_PIPE // 4)
        self._done = False

    def next(self) -> list[tuple[int, bytes]]:
        """Return what the share found in the next chunk, and where.  Raises Hl7coreError if the process has died."""
        count, size = self._header()
        if count == _END:
            raise Hl7coreError("a decoding process read less of the capture: did the file change meanwhile?")
        if not count:
            return []
        places = array("Q", self._exactly(8 * count))
        return [*zip(places, self._exactly(size).split(b"\n"), strict=True)]

    def expect_end(self) -> None:
        """Check that the share has come to the end of the capture too.  Raises Hl7coreError if not."""
        if self._header() != (_END, 0):
            raise Hl7coreError("a decoding process read more of the capture: did the file change meanwhile?")

    def counters(self) -> dict[str, int]:
        """Return what was seen, and what was let go: the last thing that the process says."""
        counters: dict[str, int] = json.loads(self._exactly(self._header()[1]))
        return counters

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        if self._pid:
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _header(self) -> tuple[int, int]:
        count, size = _FRAME.unpack(self._exactly(_FRAME.size))
        return count, size

    def _exactly(self, size: int) -> bytes:
        data = self._pipe.read(size)
        if len(data) < size:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise Hl7coreError(f"a decoding process {how}; what is printed is not whole (--jobs 1 uses one process)")
        return data


def _fork() -> int:
    """As ``os.fork``; what asks to end waits for it, since Python swallows what is raised in its own steps around it.

    The new process leaves Ctrl-C to the first one, which is told too and ends it.
    """
    told = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    try:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _work(
    sink: int,
    options: DecoderOptions,
    share: range,
    read: Callable[[Callable[[PacketBatch], None]], object],
) -> Never:
    """Decode a share; never returns."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is to be said of the files the first process says
        decoder = ShardDecoder(options, share)

        def write(data: bytes) -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(sink, rest) :]

        def send(places: list[int], lines: list[bytes]) -> None:
            size = sum(map(len, lines)) + max(0, len(lines) - 1)
            write(b"".join((_FRAME.pack(len(lines), size), array("Q", places), b"\n".join(lines))))

        read(lambda batch: send(*decoder.placed(batch)))
        write(_FRAME.pack(_END, 0))
        for part in decoder.last_placed():
            send(*part)
        counters = json.dumps(decoder.counters).encode()
        write(_FRAME.pack(0, len(counters)) + counters)
        code = 0
    finally:
        os._exit(code)


def _widen(pipe: int) -> None:
    """Let a share run ahead a little; the system's limit is as good."""
    import fcntl

    wider = getattr(fcntl, "F_SETPIPE_SZ", None)
    if wider is not None:
        try:
            fcntl.fcntl(pipe, wider, _PIPE)
        except OSError:
            return
