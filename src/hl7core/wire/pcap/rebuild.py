"""Rebuilt packets: from sessions back to a capture that shows the same, where the original packets were not kept.

Every byte of a session's elements is sent once, by the end that sent it, at the time it was captured, over TCP with
valid checksums.  Sessions of one connection share its rebuilt connection, so sessions that overlapped overlap again.
Bytes that were never captured are missing here too.

Made up are the handshake, the sequence numbers, bare acknowledgements and MAC addresses.  A decoder therefore gives the
rebuilt sessions other ids: an id depends on the sequence number on the wire, which a session does not keep.
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
_MAX_CONNECTIONS: Final = 4096
"""The most connections remembered without segments to send, for the sessions that may follow on them."""
_ENDS: Final = (Endpoint("192.0.2.1", 49152), Endpoint("192.0.2.2", 2575))
"""Used where a session does not know its ends (addresses reserved for documentation, RFC 5737)."""


class Rebuilt(NamedTuple):
    """One Ethernet packet, sent at ``time_ns`` (unix nanoseconds); the first of a session carries a ``comment``."""

    data: bytes
    time_ns: int
    comment: str = ""


class _SessionStart(NamedTuple):
    """The first element of a session: its time, its direction and its offset in the stream of that direction."""

    time_ns: int
    direction: Direction | None = None
    offset: int = 0


@dataclass(slots=True)
class _Connection:
    """A connection being rebuilt.

    ``ends`` are its opener and its acceptor, ``seq`` their next sequence numbers; ``start`` is where the latest session
    began, and ``pending`` counts the segments still to send.
    """

    ends: tuple[Endpoint, Endpoint]
    seq: list[int]
    start: _SessionStart
    open: bool = False
    pending: int = 0
    closed: bool = False


@dataclass(slots=True, order=True)
class _Segment:
    """Bytes that one end sends at a time, or ``missing`` bytes that were never captured."""

    time_ns: int
    number: int
    part: int
    connection: _Connection = field(compare=False)
    side: int = field(compare=False)
    data: bytes = field(compare=False)
    missing: int = field(default=0, compare=False)
    last: bool = field(default=False, compare=False)
    ending: Ending | None = field(default=None, compare=False)
    comment: str = field(default="", compare=False)


class Rebuilder:
    """Turns sessions into packets in the order of their times.

    Feed the sessions oldest first; only packets later than the start of the last session are held back.
    """

    def __init__(self) -> None:
        self._waiting: list[_Segment] = []
        self._connections: OrderedDict[tuple[Endpoint, Endpoint], _Connection] = OrderedDict()
        self._number = 0

    def feed(self, session: Session) -> list[Rebuilt]:
        """Add a session; return the packets that come before its start."""
        packets = self._send_until(session.start_ns)
        connection = self._connection_of(session)
        opener = opener_of(session)
        side = {Direction.FROM_DEVICE: opener, Direction.FROM_LIS: 1 - opener}
        self._number += 1
        comment = f"hl7core session {session.id}, rebuilt: sequence numbers and handshake are made up"
        segments: list[_Segment] = []
        for element in session.elements:
            for data, time_ns in _parts(session, element):
                segments.append(
                    _Segment(time_ns, self._number, len(segments), connection, side[element.direction], data)
                )
            if segments:
                segments[-1].last = True
            if element.missing:
                part = len(segments)
                segments.append(
                    _Segment(
                        element.time_ns, self._number, part, connection, side[element.direction], b"", element.missing
                    )
                )
        if segments:
            segments[-1].ending = session.ending
            next((one for one in segments if one.data), segments[0]).comment = comment
        for segment in segments:
            heapq.heappush(self._waiting, segment)
        connection.pending += len(segments)
        return packets

    def finish(self) -> list[Rebuilt]:
        """Return the remaining packets."""
        return self._send_until(None)

    def _connection_of(self, session: Session) -> _Connection:
        ends = _ends(session)
        key = ends if opener_of(session) == 0 else (ends[1], ends[0])
        connection = self._connections.get(key)
        start = _SessionStart(0)
        if session.elements:
            first = session.elements[0]
            start = _SessionStart(session.start_ns, first.direction, first.offset)
        if connection is not None and not connection.pending:
            # Offsets restart where a later connection has the same ends.
            before = connection.start
            restarted = (
                before.direction == start.direction and before.time_ns < start.time_ns and before.offset >= start.offset
            )
            if connection.closed or restarted:
                connection = None
        if connection is None:
            digest = blake2b(f"{key} {session.id}".encode(), digest_size=8).digest()
            connection = _Connection(key, [int.from_bytes(digest[:4]), int.from_bytes(digest[4:])], start)
            self._connections[key] = connection
        connection.start = start
        self._connections.move_to_end(key)
        while len(self._connections) > _MAX_CONNECTIONS and not next(iter(self._connections.values())).pending:
            self._connections.popitem(last=False)
        return connection

    def _send_until(self, until_ns: int | None) -> list[Rebuilt]:
        """Send the segments before ``until_ns`` (None: all); return their packets."""
        out: list[Rebuilt] = []
        while self._waiting and (until_ns is None or self._waiting[0].time_ns < until_ns):
            self._send(heapq.heappop(self._waiting), out)
        return out

    def _send(self, segment: _Segment, out: list[Rebuilt]) -> None:
        connection, side, time_ns = segment.connection, segment.side, segment.time_ns
        if not connection.open or connection.closed:
            connection.open, connection.closed = True, False
            for who, flags in ((0, SYN), (1, SYN | ACK), (0, ACK)):
                out.append(self._packet(connection, who, flags, b"", time_ns))
        if segment.data:
            out.append(
                self._packet(connection, side, _PSH | ACK, segment.data, time_ns)._replace(comment=segment.comment)
            )
        connection.seq[side] = connection.seq[side] + segment.missing & _MASK
        if segment.last or segment.missing:
            out.append(self._packet(connection, 1 - side, ACK, b"", time_ns))
        connection.pending -= 1
        if segment.ending in (Ending.CLOSED, Ending.RESET) and not connection.pending:
            closing = (
                ((0, RST | ACK),) if segment.ending is Ending.RESET else ((0, FIN | ACK), (1, FIN | ACK), (0, ACK))
            )
            out.extend(self._packet(connection, who, flags, b"", time_ns) for who, flags in closing)
            connection.closed = True

    def _packet(self, connection: _Connection, side: int, flags: int, data: bytes, time_ns: int) -> Rebuilt:
        packet = tcp_packet(
            connection.ends[side],
            connection.ends[1 - side],
            seq=connection.seq[side],
            ack=connection.seq[1 - side] if flags & ACK else 0,
            flags=flags,
            data=data,
            checksum=True,
            side=side,
        )
        connection.seq[side] = connection.seq[side] + len(data) + (1 if flags & (SYN | FIN) else 0) & _MASK
        return Rebuilt(packet, time_ns)


def opener_of(session: Session) -> int:
    """Return which end opened the connection: 0 for the analyzer, also if unknown, 1 for the LIS."""
    return int(session.connection.startswith(f"{session.lis}-") and session.device != session.lis)


def _parts(session: Session, element: Element) -> list[tuple[bytes, int]]:
    """Cut an element into (bytes, time) that fit a TCP segment; a message's last byte keeps its own capture time."""
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
    """Return the analyzer's and the LIS's end, completed, and both of one IP version."""
    ends = [
        Endpoint(end.address if _family(end.address) else spare.address, end.port or spare.port)
        for end, spare in zip((session.device, session.lis), _ENDS, strict=True)
    ]
    if _family(ends[0].address) != _family(ends[1].address):
        ends = [end if ":" in end.address else Endpoint(f"::ffff:{end.address}", end.port) for end in ends]
    return ends[0], ends[1]


def _family(address: str) -> int:
    """Return the socket address family of ``address``, 0 if it is no IP address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return int(family)
    return 0
