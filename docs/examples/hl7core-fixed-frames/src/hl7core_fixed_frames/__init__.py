"""Frames of a fixed width without a checksum: ``STX letter text ETX``, answered by ACK or NAK.

Three rules of :class:`hl7core.Framer` shape this file.  Nothing is discarded: bytes outside any frame become STRAY
frames.  The frames depend on the bytes alone, never on where packets cut them, so bytes that may still become a frame
are held.  And no input makes it raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from hl7core import Dialect, Fault, Frame, FrameKind, Framer, PluginSettings, hookimpl

__all__ = ["FixedFramer", "FixedFrames", "FixedFramesSettings", "dialect"]

STX, ETX, ACK, NAK = 0x02, 0x03, 0x06, 0x15
_CONTROLS = {ACK: FrameKind.ACK, NAK: FrameKind.NAK}
_NEXT = re.compile(rb"[\x02\x06\x15]")
_STRAY = 1024  # bytes outside frames are reported in pieces of at most this size


class FixedFramesSettings(PluginSettings):
    """The table ``[plugins.fixed_frames]``."""

    width: int = Field(default=32, ge=1, le=4096, description="Bytes of text between a frame's letter and its ETX.")


class FixedFramer:
    """Reads one direction of one connection."""

    name: ClassVar[str] = "fixed_frames"

    def __init__(self, width: int, offset: int) -> None:
        self._size = width + 3
        self._offset = offset  # of the first byte held, in its stream
        self._held = bytearray()

    @property
    def pending(self) -> int:
        """How many bytes are held that belong to no frame yet."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Frame]:
        """Read the next bytes and return the frames they complete."""
        self._held += data
        frames: list[Frame] = []
        while self._held:
            count = self._next()
            if not count:
                break
            frames.append(self._frame(count))
        return frames

    def settle(self) -> list[Frame]:
        """The other side spoke, or silence fell: half a frame may still continue, anything else is stray."""
        if not self._held or self._may_be_frame():
            return []
        return [self._frame(len(self._held))]

    def skip(self, count: int) -> list[Frame]:
        """``count`` bytes were never captured: end the open frame and report the gap."""
        frames = self._give_up("gap")
        frames.append(Frame(FrameKind.GAP, self._offset, b"", missing=count))
        self._offset += count
        return frames

    def close(self) -> list[Frame]:
        """The stream has ended: return what is held."""
        return self._give_up("truncated")

    def _may_be_frame(self) -> bool:
        return self._held[0] == STX and len(self._held) < self._size

    def _next(self) -> int:
        """Return the length of the next frame, 0 while it is not complete."""
        held = self._held
        if held[0] in _CONTROLS:
            return 1
        if held[0] == STX:
            if len(held) < self._size:
                return 0
            if held[self._size - 1] == ETX:
                return self._size
        following = _NEXT.search(held, 1)
        if following and following.start() <= _STRAY:
            return following.start()
        return _STRAY if len(held) > _STRAY else 0

    def _frame(self, count: int) -> Frame:
        raw, offset = bytes(self._held[:count]), self._offset
        del self._held[:count]
        self._offset += count
        if count == 1 and raw[0] in _CONTROLS:
            return Frame(_CONTROLS[raw[0]], offset, raw)
        if count == self._size and raw[0] == STX and raw[-1] == ETX:
            # The end of a run carries no data, so it is an end mark.
            return Frame(FrameKind.EOT, offset, raw) if raw[1:2] == b"E" else Frame(FrameKind.DATA, offset, raw, 1, 1)
        return Frame(FrameKind.STRAY, offset, raw, faults=(Fault("stray-bytes", offset),))

    def _give_up(self, code: str) -> list[Frame]:
        if not self._held:
            return []
        if not self._may_be_frame():
            return [self._frame(len(self._held))]
        raw, offset = bytes(self._held), self._offset
        self._held.clear()
        self._offset += len(raw)
        return [Frame(FrameKind.DATA, offset, raw, 1, faults=(Fault(code, self._offset),), complete=False)]


def dialect(width: int = 32) -> Dialect:
    """Return the dialect for frames with ``width`` bytes of text."""
    whole = re.compile(rb"[\x06\x15]*\x02[RE][ -~]{%d}\x03" % width)
    begun = re.compile(rb"[\x06\x15]*(?:\x02(?:[RE][ -~]{0,%d})?)?" % width)

    def score(opener: bytes, other: bytes) -> int:
        """Return 3 if a whole frame was seen, 1 if these bytes may become one, 0 if they cannot."""
        if any(whole.match(data) for data in (opener, other)):
            return 3
        return 1 if all(begun.fullmatch(data) for data in (opener, other)) else 0

    def make(_largest: int, offset: int) -> Framer:
        return FixedFramer(width, offset)

    # turns: sessions run from the first frame to the end of the run.  again: an ignored connection (perhaps the capture
    # began in the middle of noise) is examined again at a TCP segment that begins like a result.
    return Dialect("fixed_frames", score, make, turns=True, again=(b"\x02R",))


class FixedFrames:
    """The plugin."""

    hook_api = ">=1.0,<2"

    def __init__(self) -> None:
        self._settings = FixedFramesSettings()

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the settings model."""
        return FixedFramesSettings

    @hookimpl
    def configure(self, settings: FixedFramesSettings) -> None:
        """Receive the settings.  After a change, ``register_framers`` is called again."""
        self._settings = settings

    @hookimpl
    def register_framers(self) -> Iterable[Dialect]:
        """Contribute the dialect.  Detection asks it before the built-in framings."""
        return [dialect(self._settings.width)]
