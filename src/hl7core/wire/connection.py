"""A connection: the two streams of a TCP 4-tuple, and what its sessions need to know of it.

It names sessions: the id is a pure function of what was captured (the layout of a UUID version 7, RFC 9562 section
5.7: 48 bits of unix milliseconds, 74 bits of a BLAKE2b hash), so every capture that holds a session's first byte gives
it the same id.
"""

from __future__ import annotations

import socket
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple, Protocol

from hl7core.model.frame import Frame
from hl7core.model.packet import Endpoint
from hl7core.model.session import Direction, Ending, Message, OpenSession, Session
from hl7core.wire.framing.framer import Framer
from hl7core.wire.pins import Pin
from hl7core.wire.tcp.dissect import endpoints
from hl7core.wire.tcp.reassembly import Piece, Stream

__all__ = [
    "DECIDED",
    "IGNORED",
    "SECOND",
    "UNDECIDED",
    "Connection",
    "DecoderOptions",
    "Half",
    "MessageSeen",
    "Tracker",
    "TrackerFastPath",
]

UNDECIDED: Final = 0
DECIDED: Final = 1
IGNORED: Final = 2

_ID_VERSION: Final = b"\x01"
_MAX_MARKS: Final = 32
_ORIGIN: Final = Struct(">BI")
_PLACES: Final = (0, 1)
_NOTHING: Final = ((), ())
_VARIANT: Final = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}
_WINDOW: Final = 1 << 26
"""Segments and acknowledgements of a connection lie within 64 MiB of each other: more than any host's buffers."""

SECOND: Final = 1_000_000_000
"""A second in nanoseconds."""


class DecoderOptions(NamedTuple):
    """How to decode.  Durations are nanoseconds of packet time, sizes bytes.

    ``device_addresses`` and ``lis_addresses`` (addresses, or networks such as 10.1.0.0/24) and ``lis_port`` say which
    end is the analyzer, where that is known.  ``protocols`` are the places whose protocol is known beforehand.
    A connection is let go after ``idle_ns`` without a packet.
    """

    device_addresses: tuple[str, ...] = ()
    lis_addresses: tuple[str, ...] = ()
    lis_port: int = 0
    start_marker: int = 0x05
    ack_marker: int = 0x06
    end_marker: int = 0x04
    ack_timeout_ns: int = 60 * SECOND
    silence_ns: int = 30 * SECOND
    late_ns: int = 600 * SECOND
    max_message: int = 16 << 20
    max_connections: int = 50_000
    reassembly_bytes: int = 256 << 20
    sensor: str = ""
    protocols: tuple[Pin, ...] = ()
    idle_ns: int = 86_400 * SECOND
    watch_open: bool = False
    watch_messages: bool = False


class MessageSeen(NamedTuple):
    """A message that has completed or was given up, as it happened.

    ``source`` and ``target`` are the ends it travelled between; ``request`` is the message that it answers, if that
    was seen; ``batch`` holds the control ids of a batch that came in one block.
    """

    session_id: str
    connection: str
    source: Endpoint
    target: Endpoint
    message: Message
    request: Message | None = None
    batch: tuple[str, ...] = ()


class Tracker(Protocol):
    """What turns the frames of a connection into its sessions; times are packet times in unix nanoseconds."""

    def take(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next frames of one direction; return the sessions that ended or changed."""

    def expire(self, now_ns: int) -> list[Session]:
        """End what has been silent for too long."""

    def due(self) -> int:
        """Return when ``expire`` is next worth calling, 0 for not at all."""

    def end(self, ending: Ending) -> list[Session]:
        """End every open session."""

    def let_go(self, upto: int) -> list[Session]:
        """Give up the oldest that is held, until no more than ``upto`` bytes are; return what that ended."""

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the sessions that still go on."""


class TrackerFastPath(Protocol):
    """What a tracker may offer for TCP segments that hold one sound block each."""

    ready: bool

    def add_segment(self, half: Half, data: bytes, now: int, out: list[Session]) -> bool:
        """Add a segment, and to ``out`` the session that it completes; False: the slow path has to take it."""

    def forget(self) -> None:
        """Let the last session go: nothing joins it any more."""


class Half(Stream):
    """One direction of a connection: its stream, its framer, and when which byte was captured."""

    __slots__ = ("absent", "acked", "connection", "framer", "last_ns", "marks", "peer", "pending", "side")

    connection: Connection
    peer: Half

    def __init__(self, origin: int, side: int) -> None:
        super().__init__(origin)
        self.side = side
        self.framer: Framer | None = None
        self.marks: tuple[tuple[int, int], ...] = ()  # most have none
        self.pending = False
        self.last_ns = 0
        self.acked = False  # the receiver has what is missing here
        self.absent = False  # the other side has acknowledged what nobody can have said: it waits for it no more

    def ready(self, ack: int) -> bool:
        """Say whether all that ``ack`` acknowledges was delivered: an answer never comes before what it answers."""
        peer = self.peer
        ahead = (ack - peer.next_seq) & 0xFFFFFFFF
        if not ahead or ahead >= _WINDOW or ack < 0 or peer.origin < 0 or peer.absent:
            return True
        return ahead == 1 and peer.finished  # the FIN takes a sequence number too

    def foreign(self, seq: int, ack: int) -> bool:
        """Say whether a segment belongs to another connection at the same ports, whose SYN was not captured.

        So it is if both its numbers lie far from where the two streams are.
        """
        return not self.near(seq) and (self.peer.origin < 0 or not self.peer.near(ack))

    def near(self, seq: int) -> bool:
        """Say whether sequence number ``seq`` lies where the stream is, as far as that is known."""
        return self.origin < 0 or (seq - self.next_seq + _WINDOW) & 0xFFFFFFFF <= 2 * _WINDOW

    def mark(self, offset: int, time_ns: int) -> None:
        """Note that the byte at ``offset`` was captured at ``time_ns`` and waits for the rest of its frame."""
        marks = self.marks
        if len(marks) >= _MAX_MARKS:  # a frame of thousands of segments: when it began, and its latest, are enough
            marks = (marks[0], *marks[_MAX_MARKS // 2 :])
        self.marks = (*marks, (offset, time_ns))

    def captured_at(self, offset: int) -> int:
        """Return when the byte at ``offset`` was captured (unix nanoseconds)."""
        time_ns = 0
        for mark, marked_ns in self.marks:
            if mark > offset and time_ns:
                break
            time_ns = marked_ns
        return time_ns or self.last_ns


class Connection:
    """Both halves; ``halves[0]`` is the opener's direction.

    ``born`` says where its first packet stands in the capture, ``constant`` keeps for each direction what all lines of
    its sessions have in common; both are :mod:`hl7core.wire.jsonl`' alone.
    """

    __slots__ = (
        "_ends",
        "_hash",
        "_places",
        "_text",
        "born",
        "constant",
        "crowded",
        "device_side",
        "directions",
        "fast_path",
        "halves",
        "joined_midstream",
        "keys",
        "last_ns",
        "options",
        "outer",
        "protocol",
        "reset_ns",
        "state",
        "timer_ns",
        "tracker",
        "unproven",
        "waiting",
        "waiting_bytes",
    )

    def __init__(
        self,
        keys: tuple[bytes, bytes],
        halves: tuple[Half, Half],
        options: DecoderOptions,
    ) -> None:
        self.keys = keys
        self._ends: tuple[Endpoint, Endpoint] | None = None
        self.halves = halves
        self.options = options
        self._text = ""
        self.tracker: Tracker | None = None
        self.fast_path: TrackerFastPath | None = None
        self.unproven: tuple[Half, bytes] | None = None  # no frame has told the dialect: what has come of the first
        self.born = 0
        self.constant: tuple[tuple[str, ...], tuple[str, ...]] = _NOTHING
        self.protocol = ""
        self.state = UNDECIDED
        self.waiting: tuple[tuple[Half, Piece], ...] = ()
        self.waiting_bytes = 0
        self.crowded = False  # it is to be let go for want of room
        self.outer: Connection | None = None  # the one that carries it encrypted
        self.last_ns = 0
        self.joined_midstream = False  # the capture began after it had
        self.reset_ns = 0
        self.timer_ns = 0
        self.device_side = -1
        self.directions = (Direction.FROM_DEVICE, Direction.FROM_LIS)
        halves[0].connection = halves[1].connection = self
        halves[0].peer, halves[1].peer = halves[1], halves[0]
        self._places = _PLACES
        self._hash: blake2b | None = None  # of what all names of its sessions are hashed from

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """The opener's end and the acceptor's."""
        if self._ends is None:
            self._ends = endpoints(self.keys[0])
        return self._ends

    @property
    def text(self) -> str:
        """Both ends, the opener's first."""
        if not self._text:
            opener, acceptor = self.ends
            self._text = f"{opener}-{acceptor}"
        return self._text

    def come_apart(self) -> None:
        """It is over: its halves know nobody any more, so that all of it is freed at once, without a search for cycles.

        Whoever still has a half finds it at rest, in a connection that is ignored.
        """
        self.tracker = self.fast_path = None
        for half, nobody in zip(self.halves, _NOBODY.halves, strict=True):
            half.framer = None
            half.marks = ()
            half.connection, half.peer = _NOBODY, nobody

    def forget(self) -> None:
        """Let go of what can be made again: ten thousand idle connections would hold as much."""
        self._ends = None
        self._hash = None
        self._text = ""
        self.constant = _NOTHING

    def session_id(self, half: Half, offset: int, first: bytes, time_ns: int) -> str:
        """Name the session whose first frame ``first`` begins at ``offset`` of ``half``, captured at ``time_ns``.

        A UUID of version 7 (RFC 9562): the unix milliseconds and 74 bits of the hash.
        """
        if self._hash is None:
            packed = [_packed(end) for end in self.ends]
            if packed[0] > packed[1]:
                self._places = (1, 0)
            self._hash = blake2b(_ID_VERSION + b"".join(sorted(packed)), digest_size=10)
        hashed = self._hash.copy()
        hashed.update(_ORIGIN.pack(self._places[half.side], half.origin + offset & 0xFFFFFFFF) + first[:64])
        digest = hashed.hexdigest()
        millis = f"{time_ns // 1_000_000 & 0xFFFFFFFFFFFF:012x}"
        return f"{millis[:8]}-{millis[8:]}-7{digest[:3]}-{_VARIANT[digest[19]]}{digest[3:6]}-{digest[6:18]}"

    def settle_roles(self, device_side: int) -> None:
        """Fix, at the first session, which side is the analyzer: as configured, else ``device_side``, else the opener.

        ``device_side`` is what the conversation tells (-1: nothing).
        """
        if self.device_side >= 0:
            return
        configured = self._configured_side()
        side = configured if configured >= 0 else device_side
        self.device_side = side if side >= 0 else 0
        if self.device_side == 1:
            self.directions = (Direction.FROM_LIS, Direction.FROM_DEVICE)

    @property
    def device(self) -> Endpoint:
        """The analyzer's end; the opener's while that is not settled."""
        return self.ends[self.device_side if self.device_side >= 0 else 0]

    @property
    def lis(self) -> Endpoint:
        """The LIS's end."""
        return self.ends[1 - self.device_side if self.device_side >= 0 else 1]

    def _configured_side(self) -> int:
        options = self.options
        for side in (0, 1):
            end, other = self.ends[side], self.ends[1 - side]
            if _among(end.address, options.device_addresses) or _among(other.address, options.lis_addresses):
                return side
            if options.lis_port and other.port == options.lis_port and end.port != options.lis_port:
                return side
        return -1


def _among(address: str, places: tuple[str, ...]) -> bool:
    """Say whether ``address`` is one of ``places``: addresses, or networks (10.1.0.0/24)."""
    if address in places:
        return True
    networks = [place for place in places if "/" in place]
    if not networks:
        return False
    from ipaddress import ip_address, ip_network

    return any(ip_address(address) in ip_network(network, strict=False) for network in networks)


def _packed(end: Endpoint) -> bytes:
    family = socket.AF_INET6 if ":" in end.address else socket.AF_INET
    return socket.inet_pton(family, end.address) + end.port.to_bytes(2, "big")


_NOBODY: Final = Connection((b"", b""), (Half(0, 0), Half(0, 1)), DecoderOptions())
_NOBODY.state = IGNORED
