"""Replays capture files into the engine: pcap, pcapng, gzip, a pipe or standard input.

The reader is hl7core's ``CaptureFile``.  Damage is reported once, with the packet's number, after every packet before
it was emitted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from hl7core import (
    CaptureFile,
    CaptureFileError,
    Interface,
    PacketBatch,
    PacketSource,
    PluginSettings,
    SourceRequest,
    SourceStats,
    hookimpl,
)

__all__ = ["FileSource", "FileSourceSettings", "Replay"]


class FileSourceSettings(PluginSettings):
    """The table ``[plugins.file_source]``."""

    enabled: bool = Field(default=True, description="Read capture files, for `hl7core replay`.")


class Replay:
    """One or more capture files, in the order given, as a packet source."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = tuple(files)
        self._stopped = threading.Event()
        self._packets = 0
        self._position = 0
        self._interfaces: list[Interface] = []
        self._size = sum(Path(name).stat().st_size for name in self._files if Path(name).is_file())

    @property
    def name(self) -> str:
        """The file's name, or the number of files."""
        return Path(self._files[0]).name if len(self._files) == 1 else f"{len(self._files)} files"

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Emit the files' packets.

        Raises CaptureFileError for the first file that is damaged or cannot be read, after all files were read.
        """
        damage = None
        for name in self._files:
            done = self._position
            try:
                with CaptureFile(name) as capture:
                    for batch in capture:
                        if self._stopped.is_set():
                            return
                        if batch.interface not in self._interfaces:
                            self._interfaces.append(batch.interface)
                        emit(batch)
                        self._packets += batch.count
                        self._position = done + capture.position
                    damage = damage or capture.damage
            except CaptureFileError as error:
                damage = damage or error
        if damage is not None:
            raise damage

    def stop(self) -> None:
        """Make ``run`` return before the next batch."""
        self._stopped.set()

    def stats(self) -> SourceStats:
        """Return how far the files have been read."""
        return SourceStats(received=self._packets, position=self._position, size=self._size)

    def interfaces(self) -> Sequence[Interface]:
        """Return the interfaces whose packets the files contain, as far as they have been read."""
        return tuple(self._interfaces)


class FileSource:
    """The plugin."""

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of the table."""
        return FileSourceSettings

    @hookimpl
    def open_source(self, request: SourceRequest) -> PacketSource | None:
        """Return a replay of the files in ``request``, None if it names none."""
        return Replay(request.files) if request.files else None
