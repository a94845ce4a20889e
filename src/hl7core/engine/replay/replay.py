"""A replay: capture files through the plugins of a running engine, beside what it captures.

It has an intake and a decoder of its own, because a decoder has one packet clock, and packets of last year beside
today's would end every open session.  Ledger, stores, news and destinations are those of the engine.  It gives way to
live capture: while live packets wait it waits, and it rests as long as it works.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Final

from hl7core.contract import PacketSource, SourceRequest, SourceStats
from hl7core.engine.capture.intake import Intake
from hl7core.engine.decoding import Decoding
from hl7core.engine.parts import Parts
from hl7core.engine.replay.pace import Pace, sliced
from hl7core.engine.replay.recording import Recording
from hl7core.errors import EngineError
from hl7core.guard import reason_of
from hl7core.model.packet import PacketBatch
from hl7core.model.replay import ReplayReport
from hl7core.model.session import Ending

__all__ = ["Replay", "Replays"]

logger = logging.getLogger(__name__)

_TELL_EVERY: Final = 0.25
_PATIENCE: Final = 0.25
"""For how many seconds one batch gives way to live packets that wait."""
_LONGEST_REST: Final = 0.1
_HEARD_TOGETHER: Final = 256
"""How many packets plugins with ``on_packet`` hear at once, so that they are soon free for live packets."""
_POLL: Final = 0.005
_STUCK: Final = 5.0
_DRAIN: Final = 2.0
_OUT: Final = ("disabled", "failed", "quarantined")


class Replay:
    """One replay of ``files``; ``own_pace``: as fast as they were captured.  ``start``, then follow ``progress``."""

    def __init__(self, parts: Parts, files: Sequence[str], *, own_pace: bool) -> None:
        self._parts = parts
        self._files = tuple(files)
        self._pace = Pace(time.monotonic) if own_pace else None
        self._stopped = Flag()
        self._hurry = False
        self._recording = Recording(parts, self._stopped)
        self._intake = Intake(max_batches=1)  # a batch waits until the one before it is being decoded
        self._decoding = Decoding(
            self._intake,
            on_sessions=self._recording.add,
            on_fault=lambda text: self._problem(self._file, text),
            listeners=parts.dispatch.packet_listeners,
        )
        self._decoding.finite = True
        self._configured: tuple[object, int] | None = None
        self._source: tuple[str, PacketSource] | None = None
        self._gone = ""
        self._state = "reading"
        self._file = ""
        self._read_before = 0
        self._size = sum(map(_size_of, self._files))
        self._at = 0.0
        self._problems: list[tuple[str, str]] = []
        self._thread = Thread(target=self._run, name="hl7core-replay", daemon=True)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start it, on threads of its own."""
        self._thread.start()

    def stop(self, *, hurry: bool = False) -> None:
        """Stop reading; what was decoded is kept.  ``hurry``: do not wait until it is saved, the engine does."""
        self._hurry = self._hurry or hurry
        self._stopped.set()
        source = self._source
        if source is not None:
            source[1].stop()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, at most so many seconds."""
        self._thread.join(seconds)

    async def progress(self) -> AsyncIterator[ReplayReport]:
        """Yield reports while it runs, and the final one."""
        ended = False
        while not ended:
            ended = not self.running
            yield self.report()
            until = time.monotonic() + _TELL_EVERY
            while self.running and time.monotonic() < until:
                await asyncio.sleep(_POLL)

    def report(self) -> ReplayReport:
        """Return how far it has come.  Called from any thread."""
        recording, counters = self._recording, self._decoding.counters
        detail = recording.detail
        state = "waiting" if detail and self._state == "reading" else self._state
        source = self._source
        position = self._read_before + (_stats_of(source[1]).position if source is not None else 0)
        return ReplayReport(
            state=state,
            detail=detail,
            file=self._file,
            position=min(position, self._size),
            size=self._size,
            at=self._at,
            packets=counters.get("packets", 0),
            connections=counters.get("connections", 0),
            sessions=recording.sessions,
            saved=recording.saved,
            known=recording.known,
            waiting=recording.waiting,
            lost=recording.lost,
            unsaved=recording.unsaved,
            dropped=recording.dropped,
            encrypted=self._decoding.encrypted,
            problems=tuple(self._problems),
        )

    # On its own thread.

    def _run(self) -> None:
        logger.info("replaying %s", ", ".join(self._files))
        self._decoding.start()
        try:
            for name in self._files:
                if not self._stopped.is_set():
                    self._replay_file(name)
            self._end()
        except Exception as error:
            logger.exception("the replay failed")
            self._problem(self._file, f"the replay failed: {reason_of(error)}")
        finally:
            self._recording.close()
            self._decoding.stop(Ending.STOPPED, _DRAIN)
            self._recording.count_saved()
            self._state = "stopped" if self._stopped.is_set() else "done"
            logger.info("the replay is %s: %s", self._state, self.report()._replace(problems=()))

    def _end(self) -> None:
        """Decode what was read, end the open sessions unless it was stopped, and wait until all is saved."""
        if not self._stopped.is_set():
            self._wait_for(self._decoding.end_open(Ending.CAPTURE_END))
        if self._stopped.is_set():
            self._decoding.drained().wait(_DRAIN)
            self._recording.close()
        else:
            self._state = "saving"
        patience = time.monotonic() + _STUCK
        while self._recording.waiting and not self._hurry and time.monotonic() < patience:
            if self._recording.count_saved() or not self._parts.keeper.stuck:
                patience = time.monotonic() + _STUCK
            if not self._parts.in_force().core.enable_persistence:
                break
            time.sleep(_POLL)
        self._recording.detail = self._recording.reason() if self._recording.waiting else ""

    def _wait_for(self, done: Flag) -> None:
        while not done.wait(_POLL) and not self._stopped.is_set():
            continue

    def _replay_file(self, name: str) -> None:
        self._file = name
        before = _status_of(name)
        try:
            self._check(name, before)
            plugin, source = self._open(name)
            self._gone = ""
            self._source = plugin, source
            if self._pace is not None:
                self._pace.restart()
            if not self._stopped.is_set():
                source.run(self._emit)
        except Exception as error:  # noqa: BLE001 - the other files are replayed
            self._problem(name, self._gone or reason_of(error) + _changed(before, _status_of(name)))
        except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit must not end the replay
            self._problem(name, f"its source ended with {type(error).__name__}")
        else:
            changed = _changed(before, _status_of(name))
            if self._gone:
                self._problem(name, self._gone)
            elif changed and not self._stopped.is_set():
                self._problem(name, name + changed)
        finally:
            self._source = None
            self._read_before += before.st_size if before is not None else 0

    def _check(self, name: str, status: os.stat_result | None) -> None:
        if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise EngineError(f"{name}: not a regular file; save what it contains in a file, and replay that")

    def _open(self, name: str) -> tuple[str, PacketSource]:
        """Return a source for the file and its plugin: if several offer one, one that knows the file's size."""
        offered = self._parts.dispatch.open_source(SourceRequest(files=(name,), configured=False))
        found = [pair for pair in offered if not self._parts.sources.runs(pair[1])]  # not what captures now
        if not found:
            raise EngineError(
                f"{name}: no enabled plugin reads capture files; enable one: hl7core plugins enable file_source"
            )
        chosen = next((pair for pair in found if _stats_of(pair[1]).size), found[0])
        for pair in found:
            if pair is not chosen:
                pair[1].stop()
        return chosen

    def _emit(self, batch: PacketBatch) -> None:
        for wait, part in self._parts_of(batch):
            self._wait(wait)
            if self._stopped.is_set() or self._gone:
                return
            ready = time.monotonic()
            self._intake.put(part, self._file, finite=True)
            self._at = part.times[-1] / 1e9
            if self._parts.sources.capturing:
                self._stopped.wait(min(time.monotonic() - ready, _LONGEST_REST))

    def _parts_of(self, batch: PacketBatch) -> Iterator[tuple[float, PacketBatch]]:
        """Yield the parts of ``batch`` that are decoded together, and how many seconds to wait before each."""
        if self._pace is not None:
            yield from self._pace.split(batch)
            return
        some = _HEARD_TOGETHER if self._parts.dispatch.packet_listeners() else batch.count
        for start in range(0, batch.count, max(some, 1)):
            yield 0.0, sliced(batch, start, start + some)

    def _wait(self, seconds: float) -> None:
        """Wait until the next packets are due and may be decoded, minding meanwhile what changes."""
        until = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            self._give_way()
            held_up = time.monotonic() - began
            if self._pace is not None:
                until += held_up
                self._pace.delay(held_up)
            self._configure()
            left = until - time.monotonic()
            if left <= 0 or self._gone or self._stopped.wait(min(left, _TELL_EVERY)):
                return

    def _give_way(self) -> None:
        """Wait while the engine is paused, and for a moment while live packets wait to be decoded."""
        live = self._parts.intake
        while live.paused and not self._stopped.is_set():
            self._state = "paused"
            self._stopped.wait(_POLL)
        self._state = "reading"
        until = time.monotonic() + _PATIENCE
        while not live.idle and time.monotonic() < until and not self._stopped.is_set():
            self._stopped.wait(_POLL)

    def _configure(self) -> None:
        """Decode by the settings and with the plugins that are in force now."""
        parts = self._parts
        core, generation = parts.in_force().core, parts.registry.generation
        if self._configured is not None and self._configured[0] is core and self._configured[1] == generation:
            return
        self._configured = core, generation
        self._decoding.configure(core.decoder_options(parts.sensor), parts.dispatch.dialects())
        if self._source is not None:
            plugin, source = self._source
            state = parts.registry.info(plugin).state
            if state in _OUT:
                self._gone = f"{self._file}: not read to its end: the plugin {plugin}, which reads it, is {state}"
                source.stop()

    def _problem(self, name: str, text: str) -> None:
        logger.warning("replay: %s", text)
        self._problems.append((name, text))


class Replays:
    """The replays of an engine, one at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._current: Replay | None = None
        self._ended = False

    def begin(self, files: Sequence[str], *, speed: str = "max") -> Replay:
        """Start a replay of ``files`` at ``speed``: ``max``, or ``1`` for the packets' own pace.

        Raises EngineError if there are no files, if one is not an absolute path, or if a replay is running.
        """
        if speed not in ("1", "max"):
            raise EngineError("speed: must be 1 or max")
        if not files:
            raise EngineError("name at least one capture file to replay")
        for name in files:
            if not Path(name).is_absolute():
                raise EngineError(f"{name}: a replay needs the absolute path of each file")
        if self._ended:
            raise EngineError("the engine is stopping; replay the files once it runs again")
        if self._current is not None and self._current.running:
            report = self._current.report()
            raise EngineError(f"a replay is already running ({report.file}); wait until it has ended, or stop it")
        self._current = Replay(self._parts, files, own_pace=speed == "1")
        self._current.start()
        return self._current

    async def stop(self, seconds: float) -> None:
        """The engine stops: stop the replay that runs, and start no other."""
        self._ended = True
        if self._current is not None:
            self._current.stop(hurry=True)
            await asyncio.to_thread(self._current.join, seconds)


def _size_of(name: str) -> int:
    status = _status_of(name)
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0


def _status_of(name: str) -> os.stat_result | None:
    try:
        return Path(name).stat()
    except (OSError, ValueError):  # whoever opens it says why
        return None


def _changed(before: os.stat_result | None, after: os.stat_result | None) -> str:
    """Return the end of a sentence about a file that was changed meanwhile, "" if it was not."""
    if before is None or after is None or (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        return ""
    return ": the file was changed while it was replayed; replay it again once it is complete"


def _stats_of(source: PacketSource) -> SourceStats:
    try:
        return source.stats()
    except Exception as error:  # noqa: BLE001 - statistics must not end a replay
        logger.debug("a source has no statistics: %s", reason_of(error))
        return SourceStats()
