"""The builder of one session: which of its frames make up which message.

A frame's text becomes part of the message once the receiver acknowledges the frame or, if no answer was captured, if
its checksum is right.  Refused and repeated frames stay in the session but not in the message.  A message joined across
a gap is marked incomplete.

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
"""Roughly how many bytes of memory a placed frame takes besides its text."""


class Placed:
    """A frame placed in a session; its text may become part of message number ``index``, at ``span`` of its text."""

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
    def size(self) -> int:
        """Roughly how many bytes of memory it takes."""
        return len(self.frame.raw) + _PLACED


class SessionBuilder:
    """Builds one session from its frames.

    ``placed`` are the frames so far and ``messages`` the messages joined from them.  ``size`` counts the bytes of the
    frames; ``held_bytes`` is roughly the memory that all of it takes.  ``sender`` is the side that sends text,
    ``waiting`` its frame that has not been answered yet.  ``gapped`` says that bytes of the session were not captured.
    """

    __slots__ = (
        "_by_id",
        "_connection",
        "_expected",
        "_lost",
        "_owed",
        "_parts",
        "_seen",
        "_whole",
        "end_ns",
        "gapped",
        "held_bytes",
        "id",
        "messages",
        "placed",
        "sender",
        "size",
        "start_ns",
        "waiting",
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
        self._by_id: dict[str, Message] = {}  # the first message of each control id, if messages are watched
        self._parts: list[Placed] = []  # the accepted frames of the current message
        self._expected: int | None = None  # the number that the next frame should have
        self._owed = False  # the receiver refused a frame or interrupted, and has accepted nothing since
        self._whole = True  # no part of the current message is missing
        self._lost = [0, 0]  # for each side, the end of its last gap
        self.id = session_id
        self.sender = first.side
        self.start_ns = self.end_ns = first.time_ns
        self.placed = list(strays)
        self.messages: list[Message] = []
        self.waiting: Placed | None = None
        self.size = sum([len(stray.frame.raw) for stray in strays])
        self.held_bytes = sum([stray.size for stray in strays])
        self.gapped = False
        for stray in strays:
            if stray.frame.missing:
                self._lost[stray.side] = stray.frame.end
            if stray.frame.kind is FrameKind.GAP:
                self.gapped = True

    @property
    def under_way(self) -> bool:
        """Whether the session holds at least the beginning of a message."""
        return bool(self._parts or self.waiting or self.messages) or not self._whole

    def add(self, placed: Placed) -> None:
        """Add the next frame to the session."""
        self.placed.append(placed)
        self.size += len(placed.frame.raw)
        self.held_bytes += placed.size
        self.end_ns = max(self.end_ns, placed.end_ns)

    def add_text(self, placed: Placed) -> None:
        """Note that the sender sent ``placed`` and waits for an answer.

        If the frame before it is still unanswered, that one counts as accepted if its checksum is right.
        """
        if self.waiting is not None:
            if _sound(self.waiting.frame):
                self.accept()
            self.waiting = None
        self.sender = placed.side
        self.waiting = placed

    def refuse(self) -> bool:
        """Drop the unanswered frame from the message: the receiver refused it.  Returns False if there is none."""
        if self.waiting is None:
            return False
        self._owed = True
        self.waiting = None
        return True

    def accept_and_interrupt(self) -> None:
        """Accept the unanswered frame: the receiver took it and asked the sender to stop (receiver interrupt)."""
        self.accept()
        self._owed = bool(self._parts)

    def add_gap(self, placed: Placed) -> None:
        """Note a gap: the bytes that ``placed`` stands for were never captured."""
        self.gapped = True
        self._lost[placed.side] = placed.frame.end
        if placed.side == self.sender:
            self._whole = False
            self._expected = None  # any frame number may follow a gap

    def accept(self, *, sound: bool = True) -> None:
        """Add the unanswered frame, if any, to the message; it is incomplete if the frame is not ``sound``."""
        placed, self.waiting = self.waiting, None
        if placed is None:
            return
        frame, parts = placed.frame, self._parts
        if frame.number is not None:
            expected = self._expected
            if expected is not None and frame.number == (expected - 1) % 8:
                placed.faults += (Fault("repeated-frame", frame.offset),)
                if parts and not _sound(parts[-1].frame) and _sound(frame):
                    parts[-1] = placed  # the sender repeated a damaged frame: keep the intact copy
                return
            if frame.number != expected and (expected is not None or (frame.number != 1 and not self.gapped)):
                placed.faults += (Fault("frame-number", frame.offset),)
            self._expected = (frame.number + 1) % 8
        self._owed = False
        joins = bool(parts) and not parts[-1].frame.last
        text = frame.text
        alone = frame.number is None and self._connection.protocol != "lis01"  # such a frame is a whole message
        if parts and not joins and (alone or _HEADER.match(text)):
            self._finish_message(complete=self._whole and _is_hl7(parts[0]))
            parts = self._parts
        begins = not parts
        parts.append(placed)
        if not (frame.complete and sound):
            self._whole = False
        ends = frame.last and (alone or _ends_message(text, parts))
        if begins and self.gapped:
            self._whole = frame.complete and sound and _begins_whole(placed, self._lost[placed.side], ends=ends)
        if ends:
            self._finish_message(complete=self._whole)

    def finish(self, *, complete: bool) -> None:
        """Finish the session; ``complete`` says that its sender ended it with EOT."""
        if self.waiting is not None:  # never answered: its text still belongs to the message
            self.accept(sound=_sound(self.waiting.frame))
        if self._parts:
            whole = self._whole and not self._owed and self._parts[-1].frame.last
            self._finish_message(complete=whole and complete)

    def _finish_message(self, *, complete: bool) -> None:
        """Join the accepted frames to a message and add it to ``messages``."""
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
        self.held_bytes += at
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
    """Return whether the message that begins with ``first`` is HL7, which has no terminator record."""
    return first.frame.text.lstrip(b"\r\n")[:3] in (b"MSH", b"FHS", b"BHS")


def _sound(frame: Frame) -> bool:
    """Return whether a frame is complete and its checksum right: what the receiver would accept."""
    return frame.complete and not any(fault.code == "checksum" for fault in frame.faults)


def _begins_whole(placed: Placed, lost: int, *, ends: bool) -> bool:
    """Return whether a message begins with this frame and has lost none of its bytes to the gap that ends at ``lost``.

    ``ends`` says that the message also ends with this frame, so that a gap behind it does not concern it.  Text without
    a frame directly behind a gap may lack its own beginning.
    """
    frame = placed.frame
    if not _HEADER.match(frame.text) or (not frame.head and frame.offset == lost):
        return False
    return ends or frame.offset >= lost


def _ends_message(text: bytes, parts: list[Placed]) -> bool:
    """Return whether ``text``, the latest of the message in ``parts``, ends with the terminator record (L)."""
    body = text.rstrip(b"\r\n")
    start = max(body.rfind(b"\r"), body.rfind(b"\n")) + 1
    if start or len(parts) == 1 or parts[-2].frame.last:
        return body[start : start + 1] == b"L" and not body[start + 1 : start + 2].isalnum()
    # The record began in an earlier frame: look at the text joined from there.
    begins = len(parts) - 2
    while begins and not parts[begins - 1].frame.last:
        begins -= 1
    joined = b"".join([placed.frame.text for placed in parts[begins:]]).rstrip(b"\r\n")
    start = max(joined.rfind(b"\r"), joined.rfind(b"\n")) + 1
    return joined[start : start + 1] == b"L" and not joined[start + 1 : start + 2].isalnum()
