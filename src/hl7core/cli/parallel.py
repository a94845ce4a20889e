"""Decoding with several processes at once, for ``read -o jsonl``.

Each process reads the same files and decodes one shard of the connections; this one prints what all of them find.  The
law: the output is that of one process, byte for byte.  All read the same chunks, so the sessions found in a chunk are
sorted by the packet at which each ended.  If a process dies, the command ends with an error, because its sessions are
missing from the output.
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

__all__ = ["MultiProcess", "SingleProcess", "process_count", "shards_of"]

_WORTH: Final = 16 << 20
"""Smaller captures, in bytes, are decoded before a second process has started."""
_MOST: Final = 8
_PRINTING: Final = 0.3
"""Sorting in and printing a session of another process costs this fraction of decoding it."""
_FRAME: Final = Struct("=II")
_END: Final = 0xFFFFFFFF
_PIPE: Final = 1 << 20
_place: Final = itemgetter(0)
_Reader = Callable[[Callable[[PacketBatch], None]], object]


def process_count(files: Sequence[str], wanted: int | None) -> int:
    """Return how many processes should decode ``files``; ``wanted`` is the user's choice, None to choose for them."""
    if not hasattr(os, "fork") or sys.platform == "darwin":  # much of macOS is not safe after fork
        return 1
    try:
        sizes = [status.st_size if stat.S_ISREG((status := Path(name).stat()).st_mode) else -1 for name in files]
    except OSError:
        return 1  # reported when it is opened
    if min(sizes) < 0:  # a pipe can be read only once
        return 1
    if wanted is not None:
        return wanted
    return min(len(os.sched_getaffinity(0)), _MOST) if sum(sizes) >= _WORTH else 1


def shards_of(processes: int) -> list[range]:
    """Divide all connections into shards, the smallest first: its process also prints what the others find."""
    part = 1 / (processes - 1)
    own = max(0.0, (part - _PRINTING) / (1 - _PRINTING + part))
    cuts = [0, *(round(len(ALL) * (own + (1 - own) * number * part)) for number in range(processes))]
    return [range(begin, end) for begin, end in itertools.pairwise(cuts)]


class SingleProcess:
    """Decodes and prints in this process."""

    def __init__(self, options: DecoderOptions, out: BinaryIO) -> None:
        self._decoder = JsonlDecoder(options)
        self._out = out

    @property
    def counters(self) -> dict[str, int]:
        """What was seen, and what was given up."""
        return self._decoder.counters

    @property
    def encrypted(self) -> Encrypted:
        """The encrypted connections."""
        return self._decoder.encrypted

    def decode(self, batch: PacketBatch) -> None:
        """Decode ``batch`` and print the sessions that end in it."""
        self._print(self._decoder.lines(batch))

    def finish(self) -> None:
        """End and print the open sessions."""
        for lines in self._decoder.last_lines():
            self._print(lines)
        self._out.flush()

    def _print(self, lines: list[bytes]) -> None:
        if lines:
            lines.append(b"")
            self._out.write(b"\n".join(lines))
            self._out.flush()


class MultiProcess:
    """Decodes one shard in this process and the others in processes of their own, and prints all sessions in order.

    ``read`` reads the files and calls its argument with every batch; it runs in each of the other processes.
    """

    def __init__(
        self,
        options: DecoderOptions,
        out: BinaryIO,
        processes: int,
        read: _Reader,
    ) -> None:
        bounded = options._replace(
            max_connections=-(-options.max_connections // processes),
            reassembly_bytes=options.reassembly_bytes // processes,
        )
        self._out = out
        own, *others = shards_of(processes)
        self._others = [_Other(bounded, shard, read) for shard in others]
        self._decoder = ShardDecoder(bounded, own)
        self.counters = self._decoder.counters

    @property
    def encrypted(self) -> Encrypted:
        """The encrypted connections of this process's shard."""
        return self._decoder.encrypted

    def decode(self, batch: PacketBatch) -> None:
        """Decode ``batch`` and print the sessions that end in it."""
        self._print(*self._decoder.placed(batch))

    def finish(self) -> None:
        """End and print the open sessions; add up the counters.  Raises Hl7coreError if a process has died."""
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
        """Kill the other processes."""
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
    """A process that decodes one shard, and the pipe from it."""

    def __init__(
        self,
        options: DecoderOptions,
        shard: range,
        read: _Reader,
    ) -> None:
        source, sink = os.pipe()
        _widen(sink)
        sys.stdout.flush()
        self._pid = _fork()
        if not self._pid:
            os.close(source)
            _work(sink, options, shard, read)
        os.close(sink)
        self._pipe = os.fdopen(source, "rb", buffering=_PIPE // 4)
        self._done = False

    def next(self) -> list[tuple[int, bytes]]:
        """Return the sessions of the next chunk, each after its place.  Raises Hl7coreError if the process has died."""
        count, size = self._header()
        if count == _END:
            raise Hl7coreError("a decoding process read less of the capture: the file has changed; read it again")
        if not count:
            return []
        places = array("Q", self._exactly(8 * count))
        return [*zip(places, self._exactly(size).split(b"\n"), strict=True)]

    def expect_end(self) -> None:
        """Check that the process is at the end of the capture too.  Raises Hl7coreError if it is not."""
        if self._header() != (_END, 0):
            raise Hl7coreError("a decoding process read more of the capture: the file has changed; read it again")

    def counters(self) -> dict[str, int]:
        """Return the process's counters: the last thing that it sends."""
        counters: dict[str, int] = json.loads(self._exactly(self._header()[1]))
        return counters

    def close(self) -> None:
        """Kill the process."""
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
            raise Hl7coreError(f"a decoding process {how}; the output is incomplete; try --jobs 1 (one process)")
        return data


def _fork() -> int:
    """Call ``os.fork`` with SIGINT and SIGTERM blocked, because Python swallows what a handler raises during it.

    The new process ignores Ctrl-C: the first one gets it too, and ends the new one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
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
    shard: range,
    read: _Reader,
) -> Never:
    """Decode one shard and send what it gives; never returns."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the first process reports what is wrong with the files
        decoder = ShardDecoder(options, shard)

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
    """Let a process run ahead a little.  If the system refuses, its own limit will do."""
    import fcntl

    wider = getattr(fcntl, "F_SETPIPE_SZ", None)
    if wider is not None:
        try:
            fcntl.fcntl(pipe, wider, _PIPE)
        except OSError:
            return
