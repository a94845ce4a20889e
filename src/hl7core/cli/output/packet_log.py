"""Writing the raw packets of a capture to a file (``-w``): pcapng, on a thread of its own, so no disk delays decoding.

Packets that do not fit into the queue, or that the disk refuses, are counted and reported; capturing goes on.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from hl7core import __version__
from hl7core.cli.captures import note_capture
from hl7core.cli.output.text import counted
from hl7core.model.packet import Interface, PacketBatch
from hl7core.wire.pcap.reader import PcapngWriter

__all__ = ["PacketLog"]

logger = logging.getLogger(__name__)

_MAX_QUEUED: Final = 1024


class PacketLog:
    """Writes batches to ``path``; with ``filesize`` (KiB) or ``duration`` (seconds) to a series of numbered files.

    ``files`` is how many files are kept (0: all).  Each is added to the list of captures in the data folder ``noted``,
    where an export finds it.  A context manager: leaving it writes what is queued.  Entering it raises OSError.
    """

    def __init__(
        self, path: str, *, filesize: int = 0, duration: int = 0, files: int = 0, noted: Path | None = None
    ) -> None:
        self._path = Path(path)
        self._noted = noted
        self._bytes, self._seconds, self._files = filesize * 1024, duration, files
        self._queue: queue.Queue[PacketBatch | None] = queue.Queue(_MAX_QUEUED)
        self._kept: deque[Path] = deque()
        self._file: BinaryIO | None = None
        self._writer = PcapngWriter()
        self._interfaces: list[Interface] = []
        self._written = self._number = 0
        self._opened = 0.0
        self.packets = 0
        self.dropped = 0
        self.error = ""
        self._thread = threading.Thread(target=self._run, name="packet-log", daemon=True)

    @property
    def failed(self) -> bool:
        """Whether packets are missing from the file."""
        return bool(self.dropped or self.error)

    def put(self, batch: PacketBatch) -> None:
        """Queue a batch.  Never blocks; may be called from any thread."""
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            self.dropped += batch.count

    def summary(self) -> str:
        """Return in one line what was written."""
        text = f"{counted(self.packets, 'packet', digits=True)} written to {self._path}"
        if self._number > 1:
            text += f" ({len(self._kept)} of {self._number} files kept)"
        if self.dropped:
            text += f"; {counted(self.dropped, 'packet', digits=True)} missing: {self.error or 'the disk was too slow'}"
        return text

    def __enter__(self) -> Self:
        self._open([])
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        self._close()

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                self._write(batch)
            except OSError as error:
                self.dropped += batch.count
                self.error = error.strerror or type(error).__name__

    def _write(self, batch: PacketBatch) -> None:
        full = self._bytes and self._written >= self._bytes
        old = self._seconds and time.monotonic() - self._opened >= self._seconds
        if batch.interface not in self._interfaces or full or old or self._file is None:
            interfaces = [*self._interfaces, *([] if batch.interface in self._interfaces else [batch.interface])]
            if full or old or self._file is None or not self._interfaces:
                self._open(interfaces)
            else:  # another interface: a new section in the same file, as pcapng allows
                self._begin(interfaces)
        data = self._writer.batch(batch, self._interfaces.index(batch.interface))
        file = self._file
        if file is not None:
            file.write(data)
            self._written += len(data)
            self.packets += batch.count

    def _open(self, interfaces: list[Interface]) -> None:
        fresh = self._file is not None and not self._written
        self._close()
        if not fresh:
            self._number += 1
        path = self._path
        if self._bytes or self._seconds:
            path = path.with_name(f"{path.stem}_{self._number:05d}{path.suffix}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        if path not in self._kept:
            self._kept.append(path)
            self._note(path)
        while self._files and len(self._kept) > self._files:
            self._kept.popleft().unlink(missing_ok=True)
        self._opened, self._written = time.monotonic(), 0
        if interfaces:
            self._begin(interfaces)

    def _note(self, path: Path) -> None:
        if self._noted is None:
            return
        try:
            note_capture(self._noted, path, time.time(), prune=self._number <= 1)
        except OSError as error:  # the capture itself goes on
            logger.warning("%s is not in the list of captures, so exports will not find it: %s", path, error.strerror)

    def _begin(self, interfaces: list[Interface]) -> None:
        self._interfaces = interfaces
        if self._file is not None:
            data = self._writer.header(f"hl7core {__version__}", interfaces)
            self._file.write(data)
            self._written += len(data)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
