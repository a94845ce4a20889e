"""One turn of a sender in the making: which of its frames make which message.

Its laws: a frame's text belongs to the message once the receiver has acknowledged it (or, where no answer was
captured, once its checksum holds); a refused or repeated frame is kept and left out of the message; nothing is joined
across a gap without saying so.

Frame numbers and repeats: CLSI LIS01-A2 as vendors' manuals describe it (docs/wire.md lists them).
"""

from __future__ import annotations

import re
from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.model.session import Message
from hl7core.wire.connection import Connection, MessageSeen
from hl7core.wire.peek import glance

__all__ = ["Placed", "SessionBuilder"]

_HEADER: Final = re.compile(rb"[\r\n]*(?:H[^A-Za-z0-9]|MSH[^A-Za-z0-9]|FHS[^A-Za-z0-9]|BHS[^A-Za-z0-9])")
_PLACED: Final = 320
"""What a frame takes besides its bytes, about."""


class Placed:
    """A frame placed in a session, whose text may yet become part of a message (its ``index``-th, at ``span``)."""

    __slots__ = ("end_ns", "faults", "frame", "index", "side", "span", "time_ns")

    def __init__(self, frame: Frame, side: int, time_ns: int, end_ns: int) -> None:
        self.end_ns = end_ns
        self.frame = frame
        self.side = side
        self.time_ns = time_ns
        self.index: int | None = None
        self.span = (0, 0)
        self.faults = frame.faults

    @property
    def weight(self) -> int:
        """About what it takes in memory."""
        return len(self.frame.raw) + _PLACED


class SessionBuilder:
    """A session in the making.

    ``placed`` are its frames, ``messages`` what they have made so far; ``size`` counts the bytes of the frames, and
    ``weight`` is about what all of it takes in memory.  ``waiting`` is the frame that no answer has come for.
    """

    __slots__ = (
        "_by_id", "_connection", "_expected", "_lost", "_owed", "_parts", "_seen", "_whole", "end_ns", "gapped", "id",
        "messages", "placed", "sender", "size", "start_ns", "waiting", "weight",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        seen: list[MessageSeen] | None,
        session_id: str,
        first: Placed,
        strays: list[Placed],
    ) -> None:
        self._connection = connection
        self._seen = seen
        self._by_id: dict[str, Message] = {}  # the first message of each control id, where messages are watched
        self._parts: list[Placed] = []  # the accepted frames of the message that goes on
        self._expected: int | None = None  # the number of the next frame
        self._owed = False  # the receiver refused a frame, or asked to stop, and nothing has been accepted since
        self._whole = True  # no part of the message that goes on is missing
        self._lost = [0, 0]  # of each side, up to which offset bytes were never captured
        self.id = session_id
        self.sender = first.side
        self.start_ns = self.end_ns = first.time_ns
        self.placed = list(strays)
        self.messages: list[Message] = []
        self.waiting: Placed | None = None
        self.size = sum([len(stray.frame.raw) for stray in strays])
        self.weight = sum([stray.weight for stray in strays])
        self.gapped = False
        for stray in strays:
            if stray.frame.missing:
                self._lost[stray.side] = stray.frame.end
            if stray.frame.kind is FrameKind.GAP:
                self.gapped = True

    @property
    def under_way(self) -> bool:
        """Whether a message has been begun, or more."""
        return bool(self._parts or self.waiting or self.messages) or not self._whole

    def add(self, placed: Placed) -> None:
        """Take the next frame."""
        self.placed.append(placed)
        self.size += len(placed.frame.raw)
        self.weight += placed.weight
        self.end_ns = max(self.end_ns, placed.end_ns)

    def say(self, placed: Placed) -> None:
        """The sender says ``placed``, and waits for an answer.

        Where none was captured for the frame before, that counts as accepted if its checksum holds.
        """
        if self.waiting is not None:
            if _sound(self.waiting.frame):
                self.accept()
            self.waiting = None
        self.sender = placed.side
        self.waiting = placed

    def refuse(self) -> bool:
        """The receiver refuses the frame that waits; false if none does."""
        if self.waiting is None:
            return False
        self._owed = True
        self.waiting = None
        return True

    def interrupt(self) -> None:
        """The receiver takes the frame that waits, and asks to stop."""
        self.accept()
        self._owed = bool(self._parts)

    def miss(self, placed: Placed) -> None:
        """Bytes were never captured."""
        self.gapped = True
        self._lost[placed.side] = placed.frame.end
        if placed.side == self.sender:
            self._whole = False
            self._expected = None  # whatever number comes next, nobody skipped one

    def accept(self, *, sound: bool = True) -> None:
        """The receiver takes the frame that waits, if one does; ``sound``: or would have."""
        placed, self.waiting = self.waiting, None
        if placed is None:
            return
        frame, parts = placed.frame, self._parts
        if frame.number is not None:
            expected = self._expected
            if expected is not None and frame.number == (expected - 1) % 8:
                placed.faults += (Fault("repeated-frame", frame.offset),)
                if parts and not _sound(parts[-1].frame) and _sound(frame):
                    parts[-1] = placed  # its answer was counted wrongly: this is the copy that was meant
                return
            if frame.number != expected and (expected is not None or (frame.number != 1 and not self.gapped)):
                placed.faults += (Fault("frame-number", frame.offset),)
            self._expected = (frame.number + 1) % 8
        self._owed = False
        joins = bool(parts) and not parts[-1].frame.last
        text = frame.text
        alone = frame.number is None and self._connection.protocol != "lis01"  # such a frame is a message
        if parts and not joins and (alone or _HEADER.match(text)):
            self._finish(complete=self._whole and _is_hl7(parts[0]))
            parts = self._parts
        begins = not parts
        parts.append(placed)
        if not (frame.complete and sound):
            self._whole = False
        ends = frame.last and (alone or _ends_message(text, parts))
        if begins and self.gapped:
            self._whole = frame.complete and sound and _begins_whole(placed, self._lost[placed.side], ends=ends)
        if ends:
            self._finish(complete=self._whole)

    def end(self, *, complete: bool) -> None:
        """No more frames come; ``complete``: because its sender said so."""
        if self.waiting is not None:  # no answer came any more: what was sent is kept as part of the message
            self.accept(sound=_sound(self.waiting.frame))
        if self._parts:
            whole = self._whole and not self._owed and self._parts[-1].frame.last
            self._finish(complete=whole and complete)

    def _finish(self, *, complete: bool) -> None:
        """Join the accepted frames to a message."""
        parts, self._parts = self._parts, []
        self._whole = True
        at = 0
        texts = []
        for placed in parts:
            text = placed.frame.text
            placed.index, placed.span = len(self.messages), (at, at + len(text))
            at += len(text)
            texts.append(text)
        text = b"".join(texts)
        self.weight += at
        seen = glance(text)
        connection = self._connection
        message = Message(
            text,
            connection.directions[self.sender],
            connection.protocol,
            parts[-1].end_ns,
            seen.control_id,
            seen.message_type,
            seen.charset,
            complete,
            seen.ack_code,
            seen.reply_to,
        )
        if self._seen is not None:
            request = self._by_id.get(message.reply_to) if message.reply_to is not None else None
            self._by_id.setdefault(message.control_id, message)
            ends = connection.ends
            self._seen.append(
                MessageSeen(self.id, connection.text, ends[self.sender], ends[1 - self.sender], message, request)
            )
        self.messages.append(message)


def _is_hl7(first: Placed) -> bool:
    """Say whether the message that begins with ``first`` is HL7, which has no closing record."""
    return first.frame.text.lstrip(b"\r\n")[:3] in (b"MSH", b"FHS", b"BHS")


def _sound(frame: Frame) -> bool:
    """Say whether a frame is whole, as far as can be told without its answer."""
    return frame.complete and not any(fault.code == "checksum" for fault in frame.faults)


def _begins_whole(placed: Placed, lost: int, *, ends: bool) -> bool:
    """Say whether a message begins with this frame, and lacks nothing yet of the bytes missing up to ``lost``.

    ``ends``: it ends with it too, and what is missing behind it is none of its.  Text without a frame may lack its own
    beginning.
    """
    frame = placed.frame
    if not _HEADER.match(frame.text) or (not frame.head and frame.offset == lost):
        return False
    return ends or frame.offset >= lost


def _ends_message(text: bytes, parts: list[Placed]) -> bool:
    """Say whether this text, the last so far of the message in ``parts``, ends with the terminator record (L)."""
    body = text.rstrip(b"\r\n")
    start = max(body.rfind(b"\r"), body.rfind(b"\n")) + 1
    if start or len(parts) == 1 or parts[-2].frame.last:
        return body[start : start + 1] == b"L" and not body[start + 1 : start + 2].isalnum()
    # The record began in an earlier frame: only the text joined from there tells.
    begins = len(parts) - 2
    while begins and not parts[begins - 1].frame.last:
        begins -= 1
    joined = b"".join([placed.frame.text for placed in parts[begins:]]).rstrip(b"\r\n")
    start = max(joined.rfind(b"\r"), joined.rfind(b"\n")) + 1
    return joined[start : start + 1] == b"L" and not joined[start + 1 : start + 2].isalnum()
