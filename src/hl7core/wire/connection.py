"""A connection: the two streams of a TCP 4-tuple, and what its sessions need to know about it.

A connection names its sessions.  An id depends only on what was captured, so every capture that holds a session's first
byte gives it the same id.  It has the layout of a UUID version 7 (RFC 9562 section 5.7): 48 bits of unix milliseconds
and 74 bits of a BLAKE2b hash.
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
"""Sequence and acknowledgement numbers of one connection lie within 64 MiB of its streams: no host buffers more."""

SECOND: Final = 1_000_000_000
"""One second in nanoseconds."""


class DecoderOptions(NamedTuple):
    """How to decode.  Durations are in nanoseconds of packet time, sizes in bytes.

    ``device_addresses`` and ``lis_addresses`` (addresses, or networks such as 10.1.0.0/24) and ``lis_port`` tell which
    end of a connection is the analyzer.  ``start_marker``, ``ack_marker`` and ``end_marker`` are the control bytes of
    the plain variant.  A request times out after ``ack_timeout_ns``, but an acknowledgement still joins its session for
    ``late_ns``; a LIS01 or plain session ends after ``silence_ns`` of silence, a connection after ``idle_ns`` without
    data.  ``max_message`` limits one message, ``max_connections`` the open connections, ``reassembly_bytes`` the memory
    for data that waits.  ``sensor`` is recorded in each session.  ``protocols`` pins addresses and ports to a protocol.
    ``watch_messages`` collects messages in :attr:`Decoder.messages` as they complete.  ``watch_open`` has no effect.
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
    """A message, reported as soon as it completes or is given up.

    ``source`` and ``target`` are the ends between which it travelled.  ``request`` is the message that it answers, if
    that one was captured.  ``batch`` holds the control ids of a batch that arrived in one block.
    """

    session_id: str
    connection: str
    source: Endpoint
    target: Endpoint
    message: Message
    request: Message | None = None
    batch: tuple[str, ...] = ()


class Tracker(Protocol):
    """Turns the frames of one connection into sessions.  Times are packet times in unix nanoseconds."""

    def add_frames(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Add the next frames of one direction; return the sessions that ended or changed."""

    def expire(self, now_ns: int) -> list[Session]:
        """End the sessions that have been silent for too long; return them."""

    def due(self) -> int:
        """Return when ``expire`` must be called next, 0 for never."""

    def end(self, ending: Ending) -> list[Session]:
        """End every open session as ``ending``; return them."""

    def evict_to(self, upto: int) -> list[Session]:
        """Evict the oldest data until no more than ``upto`` bytes are held; return the sessions that this ended."""

    def open_sessions(self) -> list[OpenSession]:
        """Return a summary of each open session."""


class TrackerFastPath(Protocol):
    """A tracker's fast path for segments that hold whole blocks of an ordinary exchange."""

    ready: bool

    def add_segment(self, half: Half, data: bytes, now: int, out: list[Session]) -> bool:
        """Read a segment; append the session it completes to ``out``.  Returns False if the slow path must read it."""

    def forget(self) -> None:
        """Release the last session: nothing can join it any more."""


class Half(Stream):
    """One direction of a connection: its stream, its framer, and the capture times of bytes not framed yet.

    ``peer`` is the other direction; ``side`` is 0 for the opener's direction, 1 for the acceptor's.  ``marks`` are
    (offset, time) pairs.  ``pending`` says that the framer holds bytes, ``last_ns`` when the last byte was captured.
    ``acked`` says that the receiver has acknowledged bytes missing here; ``absent`` that the peer acknowledged more
    than this direction can have sent, so that the peer no longer waits for it.
    """

    __slots__ = ("absent", "acked", "connection", "framer", "last_ns", "marks", "peer", "pending", "side")

    connection: Connection
    peer: Half

    def __init__(self, origin: int, side: int) -> None:
        super().__init__(origin)
        self.side = side
        self.framer: Framer | None = None
        self.marks: tuple[tuple[int, int], ...] = ()
        self.pending = False
        self.last_ns = 0
        self.acked = False
        self.absent = False

    def ready(self, ack: int) -> bool:
        """Return whether everything that ``ack`` acknowledges was delivered, so that no answer precedes its request."""
        peer = self.peer
        ahead = (ack - peer.next_seq) & 0xFFFFFFFF
        if not ahead or ahead >= _WINDOW or ack < 0 or peer.origin < 0 or peer.absent:
            return True
        return ahead == 1 and peer.finished  # a FIN occupies one sequence number

    def foreign(self, seq: int, ack: int) -> bool:
        """Return whether a segment belongs to a new connection on the same ports, whose SYN was not captured.

        That is so if both its sequence and its acknowledgement number are far from the two streams.
        """
        return not self.near(seq) and (self.peer.origin < 0 or not self.peer.near(ack))

    def near(self, seq: int) -> bool:
        """Return whether ``seq`` is close to the next sequence number, or that is not known."""
        return self.origin < 0 or (seq - self.next_seq + _WINDOW) & 0xFFFFFFFF <= 2 * _WINDOW

    def mark(self, offset: int, time_ns: int) -> None:
        """Record that the byte at ``offset``, whose frame is incomplete, was captured at ``time_ns``."""
        marks = self.marks
        if len(marks) >= _MAX_MARKS:  # of thousands of segments keep the first and the latest
            marks = (marks[0], *marks[_MAX_MARKS // 2 :])
        self.marks = (*marks, (offset, time_ns))

    def captured_at(self, offset: int) -> int:
        """Return when the byte at ``offset`` was captured, in unix nanoseconds."""
        time_ns = 0
        for mark, marked_ns in self.marks:
            if mark > offset and time_ns:
                break
            time_ns = marked_ns
        return time_ns or self.last_ns


class Connection:
    """Both directions of a connection; ``halves[0]`` is the opener's, and ``keys`` are theirs.

    ``state`` is ``UNDECIDED`` until the protocol is known; ``waiting`` holds the pieces until then.  ``tracker`` makes
    the sessions of a decided connection, ``fast_path`` is its fast path.  ``outer`` is the TLS connection that
    carries this one.  ``crowded`` says that the connection must be evicted to free memory, ``joined_midstream`` that it
    began before the capture did.  ``device_side`` is the analyzer's side, -1 until it is known.

    ``unproven`` is set while only control bytes were seen, which do not tell LIS01 from the plain variant: the
    direction and the beginning of its first frame.  ``born`` (where its first packet is in the capture) and
    ``constant`` (the JSON that the sessions of each direction have in common) belong to :mod:`hl7core.wire.jsonl`.
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
        self.unproven: tuple[Half, bytes] | None = None
        self.born = 0
        self.constant: tuple[tuple[str, ...], tuple[str, ...]] = _NOTHING
        self.protocol = ""
        self.state = UNDECIDED
        self.waiting: tuple[tuple[Half, Piece], ...] = ()
        self.waiting_bytes = 0
        self.crowded = False
        self.outer: Connection | None = None
        self.last_ns = 0
        self.joined_midstream = False
        self.reset_ns = 0
        self.timer_ns = 0
        self.device_side = -1
        self.directions = (Direction.FROM_DEVICE, Direction.FROM_LIS)
        halves[0].connection = halves[1].connection = self
        halves[0].peer, halves[1].peer = halves[1], halves[0]
        self._places = _PLACES
        self._hash: blake2b | None = None  # of the part that all its session ids share

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """The opener's and the acceptor's endpoint."""
        if self._ends is None:
            self._ends = endpoints(self.keys[0])
        return self._ends

    @property
    def text(self) -> str:
        """Both endpoints as text, the opener's first."""
        if not self._text:
            opener, acceptor = self.ends
            self._text = f"{opener}-{acceptor}"
        return self._text

    def detach(self) -> None:
        """Break the reference cycles of a closed connection, so that its memory is freed at once.

        A half that is still referenced then belongs to a connection that is ignored.
        """
        self.tracker = self.fast_path = None
        for half, peer in zip(self.halves, _DETACHED.halves, strict=True):
            half.framer = None
            half.marks = ()
            half.connection, half.peer = _DETACHED, peer

    def drop_caches(self) -> None:
        """Drop what can be computed again; it adds up over ten thousand idle connections."""
        self._ends = None
        self._hash = None
        self._text = ""
        self.constant = _NOTHING

    def session_id(self, half: Half, offset: int, first: bytes, time_ns: int) -> str:
        """Return the id of the session whose first frame, ``first``, begins at ``offset`` of ``half`` at ``time_ns``.

        It is a UUID of version 7 (RFC 9562 section 5.7); the hash covers both endpoints, the sequence number and the
        first 64 bytes of the frame.
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

    def assign_roles(self, device_side: int) -> None:
        """Decide which side is the analyzer, once: as configured, else ``device_side``, else the opener.

        ``device_side`` is the side that the messages suggest, or -1.
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
        """The analyzer's endpoint; the opener's while the roles are not assigned."""
        return self.ends[self.device_side if self.device_side >= 0 else 0]

    @property
    def lis(self) -> Endpoint:
        """The LIS's endpoint; the acceptor's while the roles are not assigned."""
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
    """Return whether ``address`` is in ``places``, which are addresses or networks such as 10.1.0.0/24."""
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


_DETACHED: Final = Connection((b"", b""), (Half(0, 0), Half(0, 1)), DecoderOptions())
_DETACHED.state = IGNORED
