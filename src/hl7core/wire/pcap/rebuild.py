"""Rebuilt packets: from sessions back to a capture that tells the same, where the packets themselves were not kept.

The law: every byte of a session's elements is said once, by the end that said it, at the time it was captured, over TCP
with sound checksums.  Sessions of one connection share its rebuilt connection, so what overlapped overlaps again.
What is made up: the handshake, the sequence numbers and so the ids of the sessions that a decoder finds (an id is
computed from the sequence number on the wire, which a session does not keep), bare acknowledgements, MAC addresses.
Bytes that were never captured are missing here too.
"""

from __future__ import annotations

import heapq
import socket
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

from hl7core.model.packet import Endpoint
from hl7core.model.session import Direction, Element, Ending, Session
from hl7core.wire.pcap.synthetic_tcp import tcp_packet
from hl7core.wire.tcp.dissect import ACK, FIN, RST, SYN

__all__ = ["Rebuilder", "Rebuilt", "opener_of"]

_PSH: Final = 0x08
_MSS: Final = 1460
_MASK: Final = 0xFFFFFFFF
_LINES: Final = 4096
"""So many connections without anything left to say are remembered, for the sessions that go on in them."""
_ENDS: Final = (Endpoint("192.0.2.1", 49152), Endpoint("192.0.2.2", 2575))
"""In place of what a session does not know of its ends (addresses for documentation, RFC 5737)."""


class Rebuilt(NamedTuple):
    """One packet, Ethernet and up; ``comment`` stands on the first one of a session."""

    data: bytes
    time_ns: int
    comment: str = ""


@dataclass(slots=True)
class _Connection:
    """A connection being rebuilt: where both streams stand, and how much is still to be said."""

    ends: tuple[Endpoint, Endpoint]
    seq: list[int]
    first: tuple[int, int, int]
    open: bool = False
    pending: int = 0
    over: bool = False


@dataclass(slots=True, order=True)
class _Segment:
    """Bytes that one end says at a time; ``missing`` of them were never captured."""

    time_ns: int
    number: int
    part: int
    line: _Connection = field(compare=False)
    side: int = field(compare=False)
    data: bytes = field(compare=False)
    missing: int = field(default=0, compare=False)
    last: bool = field(default=False, compare=False)
    ending: Ending | None = field(default=None, compare=False)
    comment: str = field(default="", compare=False)


class Rebuilder:
    """Turns sessions, fed oldest first, into packets in the order of their times.

    Only what lies after the start of the last session fed is held back.
    """

    def __init__(self) -> None:
        self._waiting: list[_Segment] = []
        self._lines: OrderedDict[tuple[Endpoint, Endpoint], _Connection] = OrderedDict()
        self._number = 0

    def feed(self, session: Session) -> list[Rebuilt]:
        """Take a session; return the packets that come before it."""
        packets = self._said(session.start_ns)
        line = self._line(session)
        opener = opener_of(session)
        side = {Direction.FROM_DEVICE: opener, Direction.FROM_LIS: 1 - opener}
        self._number += 1
        comment = f"hl7core session {session.id}, rebuilt: sequence numbers and handshake are made up"
        sayings: list[_Segment] = []
        for element in session.elements:
            for data, time_ns in _parts(session, element):
                sayings.append(_Segment(time_ns, self._number, len(sayings), line, side[element.direction], data))
            if sayings:
                sayings[-1].last = True
            if element.missing:
                part = len(sayings)
                sayings.append(
                    _Segment(element.time_ns, self._number, part, line, side[element.direction], b"", element.missing)
                )
        if sayings:
            sayings[-1].ending = session.ending
            next((one for one in sayings if one.data), sayings[0]).comment = comment
        for saying in sayings:
            heapq.heappush(self._waiting, saying)
        line.pending += len(sayings)
        return packets

    def finish(self) -> list[Rebuilt]:
        """Return the packets that are left."""
        return self._said(None)

    def _line(self, session: Session) -> _Connection:
        ends, first = _ends(session), session.elements[0] if session.elements else None
        key = ends if opener_of(session) == 0 else (ends[1], ends[0])
        line = self._lines.get(key)
        sign = (session.start_ns, list(Direction).index(first.direction), first.offset) if first else (0, 0, 0)
        if line is not None and not line.pending:
            # Offsets begin anew where a later connection has the same ends.
            again = line.first[1] == sign[1] and line.first[0] < sign[0] and line.first[2] >= sign[2]
            if line.over or again:
                line = None
        if line is None:
            digest = blake2b(f"{key} {session.id}".encode(), digest_size=8).digest()
            line = _Connection(key, [int.from_bytes(digest[:4]), int.from_bytes(digest[4:])], sign)
            self._lines[key] = line
        line.first = sign
        self._lines.move_to_end(key)
        while len(self._lines) > _LINES and not next(iter(self._lines.values())).pending:
            self._lines.popitem(last=False)
        return line

    def _said(self, until_ns: int | None) -> list[Rebuilt]:
        """Say what comes before ``until_ns`` (None: everything)."""
        out: list[Rebuilt] = []
        while self._waiting and (until_ns is None or self._waiting[0].time_ns < until_ns):
            self._say(heapq.heappop(self._waiting), out)
        return out

    def _say(self, saying: _Segment, out: list[Rebuilt]) -> None:
        line, side, time_ns = saying.line, saying.side, saying.time_ns
        if not line.open or line.over:
            line.open, line.over = True, False
            for who, flags in ((0, SYN), (1, SYN | ACK), (0, ACK)):
                out.append(self._packet(line, who, flags, b"", time_ns))
        if saying.data:
            out.append(self._packet(line, side, _PSH | ACK, saying.data, time_ns)._replace(comment=saying.comment))
        line.seq[side] = line.seq[side] + saying.missing & _MASK
        if saying.last or saying.missing:
            out.append(self._packet(line, 1 - side, ACK, b"", time_ns))
        line.pending -= 1
        if saying.ending in (Ending.CLOSED, Ending.RESET) and not line.pending:
            closing = ((0, RST | ACK),) if saying.ending is Ending.RESET else ((0, FIN | ACK), (1, FIN | ACK), (0, ACK))
            out.extend(self._packet(line, who, flags, b"", time_ns) for who, flags in closing)
            line.over = True

    def _packet(self, line: _Connection, side: int, flags: int, data: bytes, time_ns: int) -> Rebuilt:
        packet = tcp_packet(
            line.ends[side],
            line.ends[1 - side],
            seq=line.seq[side],
            ack=line.seq[1 - side] if flags & ACK else 0,
            flags=flags,
            data=data,
            checksum=True,
            side=side,
        )
        line.seq[side] = line.seq[side] + len(data) + (1 if flags & (SYN | FIN) else 0) & _MASK
        return Rebuilt(packet, time_ns)


def opener_of(session: Session) -> int:
    """Return which end opened the connection: 0 the analyzer, 1 the LIS; the analyzer where that is not known."""
    return int(session.connection.startswith(f"{session.lis}-") and session.device != session.lis)


def _parts(session: Session, element: Element) -> list[tuple[bytes, int]]:
    """Cut an element into what fits a segment; its message's last byte comes when it was captured."""
    raw = session.raw_of(element)
    if not raw:
        return []
    cuts = [raw[at : at + _MSS] for at in range(0, len(raw), _MSS)]
    ended_ns = element.time_ns
    if element.message is not None:
        message = session.messages[element.message]
        if element.span[1] == len(message.text):
            ended_ns = max(ended_ns, message.time_ns)
    if ended_ns > element.time_ns and len(cuts) == 1 and len(raw) > 1:
        cuts = [raw[: len(raw) // 2], raw[len(raw) // 2 :]]
    return [(cut, ended_ns if at == len(cuts) else element.time_ns) for at, cut in enumerate(cuts, 1)]


def _ends(session: Session) -> tuple[Endpoint, Endpoint]:
    """Return the analyzer's and the LIS's end, such that packets can carry them."""
    ends = [
        Endpoint(end.address if _family(end.address) else spare.address, end.port or spare.port)
        for end, spare in zip((session.device, session.lis), _ENDS, strict=True)
    ]
    if _family(ends[0].address) != _family(ends[1].address):
        ends = [end if ":" in end.address else Endpoint(f"::ffff:{end.address}", end.port) for end in ends]
    return ends[0], ends[1]


def _family(address: str) -> int:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return int(family)
    return 0
