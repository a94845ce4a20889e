"""A third party's dialect, made safe for the decoder thread.

Whatever the plugin does, nothing is thrown away: a framer that raises, or whose frames are not the bytes it was fed, is
dropped for its stream, and every byte that it had not framed yet comes out as a stray frame.  If a call does not return
in time, that happens to all framers of the dialect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

from hl7core.errors import PluginError
from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.plugin_host.helper_thread import AnswerTimeout
from hl7core.wire.framing.framer import Dialect, Framer

__all__ = ["guarded_dialect"]

DROPPED: Final = "dialect-failed"

Report = Callable[[BaseException], None]
"""Reports what a plugin raised; raises it again if it is not the plugin's."""


Ask = Callable[[Callable[[], Any]], Any]
"""Calls a function of the plugin and returns its answer, on a thread of its own; raises AnswerTimeout if it hangs."""


class _Plugin:
    """The way to the plugin; closed for all framers of a dialect once it has not answered in time."""

    def __init__(self, report: Report, ask: Ask) -> None:
        self._report = report
        self._ask = ask
        self.open = True

    def ask(self, function: Callable[[], Any]) -> Any:
        """Return what ``function`` returns; raise PluginError, having reported why, if there is no answer."""
        if not self.open:
            raise PluginError("the plugin has not answered in time")
        try:
            return self._ask(function)
        except AnswerTimeout:  # the watchdog has reported it
            self.open = False
            raise PluginError("the plugin has not answered in time") from None
        except BaseException as error:
            self._report(error)
            raise PluginError("the plugin has failed") from error


def guarded_dialect(dialect: Dialect, report: Report, ask: Ask) -> Dialect:
    """Return ``dialect`` with every call of it guarded."""
    plugin = _Plugin(report, ask)

    def score(opener: bytes, other: bytes) -> int:
        try:
            sure = plugin.ask(lambda: dialect.score(opener, other))
        except PluginError:
            return 0
        return min(max(int(sure), 0), 3) if isinstance(sure, int) else 0

    def make(largest: int, offset: int) -> Framer:
        return _GuardedFramer(dialect, plugin, largest, offset)

    again = tuple(start for start in dialect.again if isinstance(start, bytes) and start)
    return Dialect(dialect.name, score, make, dialect.turns, again)


class _GuardedFramer:
    name: ClassVar[str] = "dialect"

    def __init__(self, dialect: Dialect, plugin: _Plugin, largest: int, offset: int) -> None:
        self.name = dialect.name  # type: ignore[misc] # a dialect's name is known only when it is registered
        self._plugin = plugin
        self._unframed = bytearray()
        self._start = offset
        self._framer: Framer | None = None
        with contextlib.suppress(PluginError):
            self._framer = plugin.ask(lambda: dialect.make(largest, offset))

    @property
    def pending(self) -> int:
        return len(self._unframed)

    def feed(self, data: bytes) -> list[Frame]:
        self._unframed += data
        return self._ask(lambda framer: framer.feed(data))

    def skip(self, count: int) -> list[Frame]:
        end = self._start + len(self._unframed)
        frames = self._ask(lambda framer: framer.skip(count), gap=count)
        if self._framer is None:
            frames.append(Frame(FrameKind.GAP, end, b"", missing=count))
            self._start = end + count
        return frames

    def settle(self) -> list[Frame]:
        return self._ask(lambda framer: framer.settle())

    def close(self) -> list[Frame]:
        frames = self._ask(lambda framer: framer.close())
        return frames + self._strays()

    def _ask(self, ask: Callable[[Framer], list[Frame]], gap: int = 0) -> list[Frame]:
        framer = self._framer
        if framer is not None:

            def call() -> list[Frame]:
                frames = list(ask(framer))
                self._check(frames, gap)
                return frames

            try:
                frames: list[Frame] = self._plugin.ask(call)
            except PluginError:
                self._framer = None
            else:
                self._drop(frames, gap)
                return frames
        return self._strays()

    def _check(self, frames: list[Frame], gap: int) -> None:
        """Raise PluginError unless ``frames`` hold the next unframed bytes, and the bytes never captured."""
        position = 0
        missing = 0
        for frame in frames:
            if not _is_frame(frame) or frame.offset != self._start + position + missing:
                raise PluginError(f"dialect {self.name}: its frames are not the bytes of the stream")
            size = len(frame.raw)
            if frame.kind is FrameKind.GAP:
                missing += frame.missing
                if position != len(self._unframed):
                    raise PluginError(f"dialect {self.name}: a gap comes before bytes that were captured ahead of it")
            elif self._unframed[position : position + size] != frame.raw:
                raise PluginError(f"dialect {self.name}: its frames are not the bytes of the stream")
            position += size
        if missing != gap:
            raise PluginError(f"dialect {self.name}: its gap frames do not add up to the bytes never captured")

    def _drop(self, frames: list[Frame], gap: int) -> None:
        """Drop the bytes that ``frames`` hold from the unframed ones."""
        size = sum(len(frame.raw) for frame in frames)
        del self._unframed[:size]
        self._start += size + gap

    def _strays(self) -> list[Frame]:
        if not self._unframed:
            return []
        frame = Frame(FrameKind.STRAY, self._start, bytes(self._unframed), faults=(Fault(DROPPED, self._start),))
        self._start += len(self._unframed)
        self._unframed.clear()
        return [frame]


def _is_frame(frame: object) -> bool:
    """Return whether ``frame`` is a Frame whose fields have their types."""
    return (
        isinstance(frame, Frame)
        and isinstance(frame.kind, FrameKind)
        and isinstance(frame.raw, bytes)
        and all(type(number) is int and number >= 0 for number in (frame.offset, frame.head, frame.tail, frame.missing))
        and isinstance(frame.faults, tuple)
        and all(isinstance(fault, Fault) for fault in frame.faults)
    )
