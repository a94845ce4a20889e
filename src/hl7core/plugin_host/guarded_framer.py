"""A third party's dialect, made safe for the decoder thread.

Whatever the plugin does, nothing is thrown away: a framer that raises, or whose frames are not the bytes it was fed, is
dropped for its stream, and every byte that it had not framed yet comes out as a stray frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from hl7core.errors import PluginError
from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.framer import Dialect, Framer

__all__ = ["guarded_dialect"]

DROPPED: Final = "dialect-failed"

Report = Callable[[BaseException], None]
"""Reports what a plugin raised; raises it again if it is not the plugin's."""


def guarded_dialect(dialect: Dialect, report: Report) -> Dialect:
    """Return ``dialect`` with every call of it guarded."""

    def score(opener: bytes, other: bytes) -> int:
        try:
            sure = dialect.score(opener, other)
        except BaseException as error:  # noqa: BLE001 - a plugin's failure is the plugin's; report raises the rest
            report(error)
            return 0
        return min(max(int(sure), 0), 3) if isinstance(sure, int) else 0

    def make(largest: int, offset: int) -> Framer:
        return _GuardedFramer(dialect, report, largest, offset)

    again = tuple(start for start in dialect.again if isinstance(start, bytes) and start)
    return Dialect(dialect.name, score, make, dialect.turns, again)


class _GuardedFramer:
    name: ClassVar[str] = "dialect"

    def __init__(self, dialect: Dialect, report: Report, largest: int, offset: int) -> None:
        self.name = dialect.name  # type: ignore[misc] # a dialect's name is known only when it is registered
        self._report = report
        self._unframed = bytearray()
        self._start = offset
        self._framer: Framer | None = None
        try:
            self._framer = dialect.make(largest, offset)
        except BaseException as error:  # noqa: BLE001 - as above
            report(error)

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
        if self._framer is not None:
            try:
                frames = list(ask(self._framer))
                self._account(frames, gap)
            except BaseException as error:  # noqa: BLE001 - as above
                self._framer = None
                self._report(error)
            else:
                return frames
        return self._strays()

    def _account(self, frames: list[Frame], gap: int) -> None:
        """Drop the bytes that ``frames`` hold from the unframed ones; raise PluginError if they are not the same."""
        position = 0
        missing = 0
        for frame in frames:
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
        del self._unframed[:position]
        self._start += position + gap

    def _strays(self) -> list[Frame]:
        if not self._unframed:
            return []
        frame = Frame(FrameKind.STRAY, self._start, bytes(self._unframed), faults=(Fault(DROPPED, self._start),))
        self._start += len(self._unframed)
        self._unframed.clear()
        return [frame]
