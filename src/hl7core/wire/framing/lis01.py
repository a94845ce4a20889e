r"""LIS01: ``ENQ``, frames of ``STX n text ETX|ETB c c CR LF``, ``EOT``, and the answers ``ACK`` and ``NAK``.

Law: ONE table, ``TRANSITIONS``, says what each byte does.  It depends on the state and the byte alone, so the way
packets cut the bytes cannot change it.  Control bytes count only between frames.  STX inside a frame starts a new frame
only if a frame number follows.

The frame and its checksum (the sum of the bytes from the number to ETX or ETB, modulo 256, as two hex digits) are those
of ASTM E1381 and CLSI LIS01-A2 as vendors describe them (Roche cobas c 111 host interface manual; Indiko "Astm
protocol" manual).  They forbid 01 to 06, 10 to 17 and LF in the text.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar, Final
from zlib import adler32

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.buffer import CONTEXT, MAX_MESSAGE, STRAY_LIMIT, Buffered

__all__ = [
    "RESTRICTED",
    "TRANSITIONS",
    "Action",
    "Input",
    "Lis01Framer",
    "State",
    "checksum",
    "control_in_text",
    "diagram",
]


class State(StrEnum):
    """Where in a frame the next byte is."""

    BETWEEN = "between"
    NUMBER = "number"
    TEXT = "text"
    RESTART = "restart"
    CHECKSUM = "checksum"
    CHECKSUM2 = "checksum2"
    CR = "cr"
    LF = "lf"


class Input(StrEnum):
    """The classes of bytes."""

    CONTROL = "ENQ, ACK, NAK, EOT"
    STX = "STX"
    END = "ETX, ETB"
    CR = "CR"
    LF = "LF"
    OCTAL = "0-7"
    HEX = "8-9, A-F, a-f"
    OTHER = "any other"


class Action(StrEnum):
    """What is done with a byte."""

    STRAY = "keep as stray"
    CONTROL = "return it"
    OPEN = "open a frame"
    NUMBER = "take the number"
    UNNUMBERED = "begin the text, look again"
    KEEP = "keep"
    RESTART = "give up the frame, open a new one"
    AGAIN = "look again"
    MARK = "the text ends"
    DONE = "return the frame"
    SHORT = "return the frame without it, look again"


TRANSITIONS: Final[dict[State, dict[Input, tuple[Action, State]]]] = {
    State.BETWEEN: {
        Input.CONTROL: (Action.CONTROL, State.BETWEEN),
        Input.STX: (Action.OPEN, State.NUMBER),
        Input.OTHER: (Action.STRAY, State.BETWEEN),
    },
    State.NUMBER: {
        Input.OCTAL: (Action.NUMBER, State.TEXT),
        Input.OTHER: (Action.UNNUMBERED, State.TEXT),
    },
    State.TEXT: {
        Input.END: (Action.MARK, State.CHECKSUM),
        Input.STX: (Action.KEEP, State.RESTART),
        Input.OTHER: (Action.KEEP, State.TEXT),
    },
    State.RESTART: {
        Input.OCTAL: (Action.RESTART, State.TEXT),
        Input.OTHER: (Action.AGAIN, State.TEXT),
    },
    State.CHECKSUM: {
        Input.OCTAL: (Action.KEEP, State.CHECKSUM2),
        Input.HEX: (Action.KEEP, State.CHECKSUM2),
        Input.CR: (Action.KEEP, State.LF),
        Input.OTHER: (Action.SHORT, State.BETWEEN),
    },
    State.CHECKSUM2: {
        Input.OCTAL: (Action.KEEP, State.CR),
        Input.HEX: (Action.KEEP, State.CR),
        Input.CR: (Action.KEEP, State.LF),
        Input.OTHER: (Action.SHORT, State.BETWEEN),
    },
    State.CR: {
        Input.CR: (Action.KEEP, State.LF),
        Input.OTHER: (Action.SHORT, State.BETWEEN),
    },
    State.LF: {
        Input.LF: (Action.DONE, State.BETWEEN),
        Input.OTHER: (Action.SHORT, State.BETWEEN),
    },
}
"""State -> class of byte -> (action, next state).  A class that is not listed does what ``OTHER`` does."""

_CONTROLS: Final = {
    b"\x05": FrameKind.ENQ,
    b"\x06": FrameKind.ACK,
    b"\x15": FrameKind.NAK,
    b"\x04": FrameKind.EOT,
}
_DATA: Final = FrameKind.DATA
_BETWEEN: Final = State.BETWEEN
_TEXT: Final = State.TEXT
_KEEP: Final = Action.KEEP
_ETX: Final = 0x03
_ETB: Final = 0x17
_LONGEST: Final = 63_993
"""The longest text of a frame, for a frame of 64,000 bytes, as vendors state it; earlier editions allow 240."""

_HEX: Final = b"0123456789ABCDEFabcdef"
RESTRICTED: Final = b"\x01\x02\x03\x04\x05\x06\x10\x11\x12\x13\x14\x15\x16\x17\n"
_NOT_TEXT: Final = re.compile(rb"[\x02\x03\x17]")
_NOT_STRAY: Final = re.compile(rb"[\x02\x04\x05\x06\x15]")
# Some devices send records, or HL7, between the control bytes without any frame.
_RECORD: Final = re.compile(rb"(?:[HPOQRCMSL]|MSH|FHS|BHS)[!-/:-@\[-`{-~]")
_CLEAN: Final = re.compile(rb"\x02[0-7][^\x01-\x06\x10-\x17\n]*[\x03\x17][0-9A-Fa-f]{2}\r\n")
_BEHIND_TEXT: Final = frozenset({State.CHECKSUM, State.CHECKSUM2, State.CR, State.LF})


def checksum(data: bytes) -> int:
    """Return the sum of the bytes of ``data`` modulo 256, the checksum of ASTM E1381 and LIS01-A2.

    It is computed with Adler-32, whose low word is the sum of the bytes plus one and does not wrap within 256 bytes
    (RFC 1950 section 8.2).
    """
    if len(data) <= 256:
        return (adler32(data) - 1) & 0xFF
    return sum((adler32(data[at : at + 256]) & 0xFFFF) - 1 for at in range(0, len(data), 256)) & 0xFF


def control_in_text(text: bytes, offset: int, restricted: bytes = RESTRICTED) -> list[Fault]:
    """Return a fault for the first forbidden byte in ``text``, which begins at ``offset`` of its stream."""
    if len(text.translate(None, restricted)) == len(text):
        return []
    at = next(at for at, byte in enumerate(text) if byte in restricted)
    return [Fault("control-in-text", offset + at)]


def diagram() -> str:
    """Return ``TRANSITIONS`` as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> between"]
    for state, row in TRANSITIONS.items():
        arrows: dict[tuple[Action, State], list[str]] = {}
        for cause, step in row.items():
            arrows.setdefault(step, []).append(cause.value)
        for (action, following), causes in arrows.items():
            lines.append(f"    {state.value} --> {following.value}: {', '.join(causes)} / {action.value}")
    return "\n".join(lines) + "\n"


class Lis01Framer(Buffered):
    """Reads one direction of a LIS01 connection."""

    __slots__ = ("_mark", "_shedding", "_state")

    name: ClassVar[str] = "lis01"

    def __init__(self, max_message: int = MAX_MESSAGE, offset: int = 0) -> None:
        super().__init__(max_message, offset)
        self._state = State.BETWEEN
        self._mark = 0  # where the text of the open frame ends
        self._shedding = False  # the bytes held follow stray bytes that were already returned

    def feed(self, data: bytes) -> list[Frame]:
        """Read the next bytes in stream order; return the frames that they complete."""
        frames: list[Frame] = []
        if not self._buffer and not self._open:
            # Nearly all traffic: one control byte, or whole frames.
            if len(data) == 1:
                kind = _CONTROLS.get(data)
                if kind is not None:
                    offset = self.offset
                    self.offset = offset + 1
                    return [Frame(kind, offset, data)]
            start = 0
            found = _CLEAN.match(data)
            while found and found.end() - start - 7 <= self._max:
                raw = found[0]
                if int(raw[-4:-2], 16) == checksum(raw[1:-4]) and len(raw) <= _LONGEST:
                    frames.append(Frame(_DATA, self.offset, raw, 2, 5, (), raw[-5] == _ETX, True, raw[1] - 0x30))
                else:
                    frames.append(self._frame(raw, self.offset, 5, [], complete=True))
                start += len(raw)
                self.offset += len(raw)
                found = _CLEAN.match(data, start)
            if start:
                if start == len(data):
                    return frames
                data = data[start:]
        self._pour(frames, data)
        return frames

    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        buffer = self._buffer
        while self._seen < len(buffer):
            state = self._state
            if state is _TEXT or state is _BETWEEN:
                found = (_NOT_TEXT if state is _TEXT else _NOT_STRAY).search(buffer, self._seen)
                self._seen = found.start() if found else len(buffer)
                if not found:
                    break
            action, self._state = _STEPS[state][buffer[self._seen]]
            self._seen = self._seen + 1 if action is _KEEP else self._do(action, self._seen, frames)
        if self._state is State.BETWEEN:
            if settled:
                self._stray(frames, len(buffer))
            else:
                self._shed_stray(frames)
        elif self._state is State.TEXT:
            self._shed(frames, self._seen)
        elif self._state is State.RESTART:
            self._shed(frames, self._seen - 1)
        elif settled and self._state in _BEHIND_TEXT:  # its line end, or even its checksum, never arrived
            self._end_frame(frames, self._mark, len(buffer) - self._mark, [])

    def _do(self, action: Action, at: int, frames: list[Frame]) -> int:
        """Act on the byte at ``at``; return the index of the next byte to examine."""
        if action is Action.CONTROL:
            self._stray(frames, at)
            offset = self.offset
            raw = self._pop(1)
            frames.append(Frame(_CONTROLS[raw], offset, raw))
            return 0
        if action is Action.OPEN:
            self._stray(frames, at)
            self._start_frame(1)
            return 1
        if action is Action.NUMBER:
            self._head = 2
        elif action is Action.UNNUMBERED:  # 8 or 9 is a wrong number, anything else begins the text
            self._head = 2 if self._buffer[at] in b"89" else 1
            return at
        elif action is Action.AGAIN:
            return at
        elif action is Action.MARK:
            self._mark = at
        elif action is Action.RESTART:
            start = at - 1
            self._end_frame(frames, start, 0, [Fault("truncated", self.offset + start)], complete=False)
            self._start_frame(2)
            self._state = State.TEXT
            return 2
        elif action is Action.DONE:
            self._end_frame(frames, self._mark, at + 1 - self._mark, [])
            return 0
        elif action is Action.SHORT:
            self._end_frame(frames, self._mark, at - self._mark, [])
            return 0
        return at + 1

    def _stray(self, frames: list[Frame], count: int) -> None:
        """Return unframed records as an unusual frame, and other bytes between frames as stray."""
        if count and not self._shedding and count <= self._max and _RECORD.match(self._buffer):
            offset = self.offset
            raw = self._pop(count)
            faults = [Fault("unframed", offset), *control_in_text(raw, offset)]
            frames.append(Frame(_DATA, offset, raw, faults=tuple(faults)))
        else:
            super()._stray(frames, count)
        self._shedding = False

    def _shed_stray(self, frames: list[Frame]) -> None:
        if self._seen > self._max or not _RECORD.match(self._buffer):
            while self._seen >= STRAY_LIMIT + CONTEXT:
                super()._stray(frames, STRAY_LIMIT)
                self._shedding = True

    def _give_up(self, frames: list[Frame], code: str) -> None:
        if self._state in _BEHIND_TEXT:
            held = len(self._buffer)
            self._end_frame(frames, self._mark, held - self._mark, [Fault(code, self.offset + held)], complete=False)
        else:
            super()._give_up(frames, code)
        self._state = State.BETWEEN

    def _end_frame(
        self, frames: list[Frame], at: int, tail: int, faults: list[Fault], *, complete: bool = True
    ) -> None:
        super()._end_frame(frames, at, tail, faults, complete=complete)
        self._state = State.BETWEEN

    def _frame(self, raw: bytes, offset: int, tail: int, faults: list[Fault], *, complete: bool) -> Frame:
        end = len(raw) - tail
        number: int | None = None
        head = 1
        found: list[Fault] = []
        if end > 1 and 0x30 <= raw[1] <= 0x39:
            head = 2
            if raw[1] <= 0x37:
                number = raw[1] - 0x30
        if number is None and len(raw) > 1:
            found.append(Fault("bad-frame-number", offset + 1))
        found += control_in_text(raw[head:end], offset + head)
        if end - head > _LONGEST:
            found.append(Fault("frame-over-64000", offset + head + _LONGEST))
        if complete:
            digits = raw[end + 1 : end + 3]
            if len(digits) < 2 or digits[0] not in _HEX or digits[1] not in _HEX:
                found.append(Fault("missing-checksum", offset + end + 1))
            elif int(digits, 16) != checksum(raw[1 : end + 1]):
                found.append(Fault("checksum", offset + end + 1))
            if raw[-2:] != b"\r\n":
                found.append(Fault("missing-crlf", offset + len(raw)))
        last = tail == 0 or raw[end] != _ETB
        return Frame(_DATA, offset, raw, head, tail, (*found, *faults), last, complete, number)


def _input(byte: int) -> Input:
    if byte in (0x04, 0x05, 0x06, 0x15):
        return Input.CONTROL
    if byte in (0x03, _ETB):
        return Input.END
    if byte in b"01234567":
        return Input.OCTAL
    if byte in _HEX:
        return Input.HEX
    return {0x02: Input.STX, 0x0D: Input.CR, 0x0A: Input.LF}.get(byte, Input.OTHER)


_STEPS: Final = {
    state: [row.get(_input(byte), row[Input.OTHER]) for byte in range(256)] for state, row in TRANSITIONS.items()
}
"""``TRANSITIONS``, looked up by byte."""
