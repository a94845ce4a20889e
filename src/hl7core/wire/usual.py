"""The usual exchange: a request in one sound block, and the one acknowledgement that completes it.

Nearly all MLLP traffic is that, so it takes a short way here, without a frame and without an exchange in the making.
The law is one of doubt: what is not beyond doubt usual is left as it is to :mod:`hl7core.wire.exchanges`, which
answers the same of what is (a test holds the two against each other).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hl7core.model.session import Element, ElementType, Ending, Message, Session
from hl7core.wire.connection import Connection, Half
from hl7core.wire.exchange import ASKED, NEVER, POSITIVE
from hl7core.wire.peek import NO_REPLY

__all__ = ["Make", "Told", "Usual", "usual_session"]

_HEAD: Final = b"\x0bMSH|^~\\&|"
_HEADER: Final = 200
_ANSWERED: Final = 64
_VT: Final = b"\x0b"
_END: Final = b"\x1c\r"
_MESSAGE: Final = ElementType.MESSAGE
_ACK: Final = ElementType.ACK
_NAK: Final = ElementType.NAK
_COMPLETE: Final = Ending.COMPLETE
_new = tuple.__new__  # the constructors of named tuples take the arguments apart and put them together again


Told = tuple[
    Connection, Half, bytes, int, int, int, str, str, str, Half, bytes, int, int, int, str, str, str, str,
]  # fmt: skip
"""A usual exchange: its connection; of the request the direction, block, offset, times of first and last byte, control
id, type and charset; of the acknowledgement the same, and its code."""
Make = Callable[[Told], Any]
"""Makes of it what the decoder returns."""


class Usual:
    """The short way of one connection.

    ``ready`` says that nothing else of the connection waits: no exchange, no bytes outside of blocks.  ``half`` is the
    direction of the request that waits for its acknowledgement here, or None.
    """

    __slots__ = (
        "_accept", "_answered", "_application", "_charset", "_connection", "_control_id", "_fresh", "_last", "_make",
        "_max", "_offset", "_raw", "_recent", "_start_ns", "_told", "_type", "end_ns", "half", "ready",
    )  # fmt: skip

    def __init__(self, connection: Connection, recent: list[Usual], make: Make) -> None:
        self._connection = connection
        self._recent = recent
        self._make = make
        self._fresh = False
        self._answered: list[str] = []  # by turns MSA-2 and MSH-10 of the acknowledgements that came
        self._told: Told | None = None  # the exchange that was told last, as it was taken
        self._last: Session | None = None  # the session that was told last, where it is made already
        self._max = connection.options.max_message + 3
        self.half: Half | None = None
        self.ready = True
        self.end_ns = self._start_ns = self._offset = 0
        self._control_id = self._type = self._charset = ""
        self._accept = self._application = False
        self._raw = b""

    def segment(self, half: Half, data: bytes, now: int) -> list[Session] | None:
        """Take a segment's bytes, captured at ``now``, where none of ``half`` wait; as ``block``.

        ``half.offset`` is behind them.
        """
        size = len(data)
        if (
            data.find(b"\x1c") != size - 2 or data[-1] != 13 or size > self._max or b"\n" in data
            or data.rfind(b"\x0b") != 0
        ):  # fmt: skip
            return None
        taken = self.block(half, data, half.offset - size, now, now)
        if taken is not None:
            half.framer.offset += size  # type: ignore[union-attr]  # a framer of MLLP, at rest
        return taken

    def block(self, half: Half, raw: bytes, offset: int, start_ns: int, end_ns: int) -> list[Session] | None:
        """Take a sound block, its first and last byte captured at ``start_ns`` and ``end_ns`` (unix nanoseconds).

        Return the session that it completes, none if it is a request, which waits here from now on, or None, nothing
        having changed, if there is anything unusual about it.
        """
        end = raw.find(b"\r", 10, _HEADER)
        if end < 0 or not raw.startswith(_HEAD) or raw.rfind(b"\rMSH") > 0:
            return None
        header = raw[10:end].decode("latin-1")
        fields = header.split("|", 16)  # MSH-3 and on
        count = len(fields)
        if count < 8 or "~" in header or "\n" in header:
            return None
        if self.half is not None:
            if self.half is half or raw[end + 1 : end + 5] != b"MSA|":
                return None
            stop = raw.find(b"\r", end + 5, end + _HEADER)
            line = raw[end + 5 : stop].decode("latin-1")
            parts = line.split("|", 2)
            if stop < 0 or len(parts) < 2 or parts[1] != self._control_id or "~" in line or "\n" in line:
                return None
            code = parts[0]
            if self._application and (code == "CA" or (self._accept and code[:1] != "C")):
                return None  # more is to come
            charset = fields[15] if count > 15 else ""
            asking, self.half = self.half, None
            self._told = told = (
                self._connection, asking, self._raw, self._offset, self._start_ns, self.end_ns, self._control_id,
                self._type, self._charset, half, raw, offset, start_ns, end_ns, fields[7], fields[6], charset, code,
            )  # fmt: skip
            self._last = None
            answered = self._answered
            answered += (self._control_id, fields[7])
            if len(answered) > _ANSWERED:
                del answered[: _ANSWERED // 2]
            if not self._fresh:
                self._fresh = True
                self._recent.append(self)
            return [self._make(told)]
        if raw[end + 1 : end + 4] not in NO_REPLY or self._connection.device_side < 0:
            return None
        self._accept, self._application = False, True
        if count > 12:
            accept, application = fields[12], fields[13] if count > 13 else ""
            if accept or application:
                if accept in NEVER and application in NEVER:
                    return None
                self._accept, self._application = accept in ASKED, application in ASKED
        self._charset = fields[15] if count > 15 else ""
        self._control_id, self._type = fields[7], fields[6]
        self._raw, self._offset = raw, offset
        self._start_ns, self.end_ns = start_ns, end_ns
        self.half = half
        return []

    def keep(self, session: Session) -> None:
        """Keep the session that was told last at hand, until ``forget``: what belongs to it may yet come."""
        self._last, self._told = session, None
        if not self._fresh:
            self._fresh = True
            self._recent.append(self)

    @property
    def last(self) -> Session | None:
        """The session that was told last, while it is kept at hand."""
        if self._told is not None:
            self._last, self._told = usual_session(self._told), None
        return self._last

    def forget(self) -> None:
        """Let the last session go: ten thousand idle connections would hold as many."""
        self._last = self._told = None
        self._fresh = False

    def note(self, request: str, reply: str) -> None:
        """Note that ``reply`` (MSH-10) has answered ``request`` (MSA-2)."""
        self._answered += (request, reply)
        if len(self._answered) > _ANSWERED:
            del self._answered[: _ANSWERED // 2]

    def known(self, control_id: str) -> str:
        """Return what is wrong with an acknowledgement of ``control_id``, which nothing waits for; "": unknown."""
        if control_id and control_id in self._answered[::2]:
            return "duplicate-acknowledgement"
        return "acknowledged-acknowledgement" if control_id and control_id in self._answered[1::2] else ""

    def give_back(self) -> tuple[Half, bytes, int, int, int]:
        """Let go of the request that waits: return what ``block`` was given of it."""
        half = self.half
        assert half is not None  # noqa: S101 - asked by the callers, stated for the type checker
        self.half = None
        return half, self._raw, self._offset, self._start_ns, self.end_ns


def usual_session(told: Told) -> Session:
    """Return a usual exchange as a session."""
    (
        connection, asking, asked, asked_offset, asked_ns, asked_end_ns, control_id, asked_type, asked_charset,
        half, raw, offset, start_ns, end_ns, own_id, own_type, charset, code,
    ) = told  # fmt: skip
    protocol, directions = connection.protocol, connection.directions
    there, back = directions[asking.side], directions[half.side]
    request, answer = asked[1:-2], raw[1:-2]
    elements = (
        _new(Element, (
            asked_ns, there, _MESSAGE, asked_offset, _VT, b"", _END, 0, (0, len(request)), (), False, 0,
        )),
        _new(Element, (
            start_ns, back, _ACK if code in POSITIVE else _NAK, offset, _VT, b"", _END, 1, (0, len(answer)), (), False,
            0,
        )),
    )  # fmt: skip
    messages = (
        _new(Message, (
            request, there, protocol, asked_end_ns, control_id, asked_type, asked_charset, True, "", None,
        )),
        _new(Message, (
            answer, back, protocol, end_ns, own_id, own_type, charset, True, code, control_id,
        )),
    )  # fmt: skip
    return _new(Session, (
        connection.session_id(asking, asked_offset, asked, asked_ns), asked_ns,
        end_ns if end_ns > asked_end_ns else asked_end_ns, connection.device, connection.lis, elements, messages, True,
        protocol, _COMPLETE, connection.text, connection.options.sensor, (), (), False, None, None, None, None, 0,
    ))  # fmt: skip
