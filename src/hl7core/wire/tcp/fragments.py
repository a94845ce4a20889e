"""IP fragments: the fragments of a packet, in any order, are joined into the packet.

Whatever is sent, the number of incomplete packets, their bytes and their age stay bounded.  Where fragments overlap,
the one that arrived first wins, byte for byte, so later fragments cannot overwrite earlier ones.  A packet is returned
once, when it is whole, or never.

IPv4: RFC 791 section 3.2; IPv6: RFC 8200 section 4.5.  Hosts discard an incomplete packet after 30 to 60 seconds.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from hl7core.wire.tcp.dissect import IPV6_FRAGMENT, IPV6_OPTIONS, TCP_PROTOCOL, network_layer
from hl7core.wire.tcp.reassembly import Stream

__all__ = ["KEPT_NS", "MAX_BYTES", "MAX_PACKETS", "Fragments"]

MAX_PACKETS: Final = 512
"""The most packets that may wait for fragments; beyond that the oldest is discarded."""
MAX_BYTES: Final = 8 << 20
"""The most bytes of fragments held, over all packets."""
KEPT_NS: Final = 30_000_000_000
"""How long a packet waits for its fragments, in nanoseconds of packet time."""
_LARGEST: Final = 65_535
_U16: Final = Struct(">H")


class _Fragment(NamedTuple):
    """One fragment: the key of its packet, the offset of its bytes in that packet, and the IP header for the result."""

    key: bytes
    offset: int
    more: bool
    data: bytes
    header: bytes


class _Partial:
    """A packet of which some fragments have arrived."""

    __slots__ = ("header", "pieces", "since_ns", "stream", "total")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.stream = Stream(0)
        self.pieces: list[bytes] = []
        self.total = -1
        self.header = b""


class Fragments:
    """The incomplete packets of one decoder.  ``discarded`` counts those that never became whole."""

    def __init__(self) -> None:
        self.discarded = 0
        self._partial: dict[bytes, _Partial] = {}  # oldest first
        self._bytes = 0

    def add(self, buffer: bytes, start: int, end: int, link_type: int, now: int) -> bytes | None:
        """Add the fragment ``buffer[start:end]``, captured at ``now`` (unix nanoseconds).

        Returns the whole IP packet once its last missing fragment arrives, without a link-layer header.  Returns None
        while fragments are missing, and for anything that is not a fragment of a packet that carries TCP.
        """
        fragment = _fragment(buffer, start, end, link_type)
        if fragment is None or fragment.offset + len(fragment.data) > _LARGEST:
            return None
        partial = self._partial.get(fragment.key)
        if partial is not None and not -KEPT_NS < now - partial.since_ns < KEPT_NS:
            self._discard(fragment.key)
            partial = None
        if partial is None:
            self._make_room(now, len(fragment.data))
            partial = self._partial[fragment.key] = _Partial(now)
        if not fragment.offset:
            partial.header = partial.header or fragment.header
        if not fragment.more and partial.total < 0:
            partial.total = fragment.offset + len(fragment.data)
        stream = partial.stream
        before = stream.offset + stream.held_bytes
        partial.pieces += [piece.data for piece in stream.push(fragment.offset, fragment.data, now)]
        self._bytes += stream.offset + stream.held_bytes - before
        if partial.total < 0 or stream.offset < partial.total or not partial.header:
            self._make_room(now, 0)
            return None
        self._forget(fragment.key)
        data = b"".join(partial.pieces)[: partial.total]
        return _whole(partial.header, data)

    def _make_room(self, now: int, size: int) -> None:
        while self._partial:
            key, oldest = next(iter(self._partial.items()))
            full = len(self._partial) >= MAX_PACKETS if size else False
            if not full and self._bytes + size <= MAX_BYTES and now - oldest.since_ns < KEPT_NS:
                return
            self._discard(key)

    def _discard(self, key: bytes) -> None:
        self.discarded += 1
        self._forget(key)

    def _forget(self, key: bytes) -> None:
        stream = self._partial.pop(key).stream
        self._bytes -= stream.offset + stream.held_bytes


def _fragment(buffer: bytes, start: int, end: int, link_type: int) -> _Fragment | None:
    at = network_layer(buffer, start, end, link_type)
    if at < 0 or end - at < 20:
        return None
    if buffer[at] >> 4 == 4:
        return _ipv4(buffer, at, end)
    if buffer[at] >> 4 == 6 and end - at >= 48:
        return _ipv6(buffer, at, end)
    return None


def _ipv4(buffer: bytes, at: int, end: int) -> _Fragment | None:
    header = (buffer[at] & 0x0F) * 4
    word = _U16.unpack_from(buffer, at + 6)[0]
    stop = at + _U16.unpack_from(buffer, at + 2)[0]
    if buffer[at + 9] != TCP_PROTOCOL or not word & 0x3FFF or header < 20 or at + header >= stop or stop > end:
        return None  # cut off by the capture: it can never be whole
    key = buffer[at + 4 : at + 6] + buffer[at + 12 : at + 20]
    return _Fragment(
        key, (word & 0x1FFF) * 8, bool(word & 0x2000), buffer[at + header : stop], buffer[at : at + header]
    )


def _ipv6(buffer: bytes, at: int, end: int) -> _Fragment | None:
    stop = at + 40 + _U16.unpack_from(buffer, at + 4)[0]
    following = buffer[at + 6]
    head = at + 40
    while following in IPV6_OPTIONS and head + 8 <= end:
        following = buffer[head]
        head += (buffer[head + 1] + 1) * 8
    if following != IPV6_FRAGMENT or head + 8 >= stop or stop > end:
        return None
    word = _U16.unpack_from(buffer, head + 2)[0]
    key = buffer[head + 4 : head + 8] + buffer[at + 8 : at + 40]
    # The headers before the fragment header concern only routing; the joined packet leaves them out.
    header = buffer[at : at + 6] + buffer[head : head + 1] + buffer[at + 7 : at + 40]
    return _Fragment(key, word & 0xFFF8, bool(word & 1), buffer[head + 8 : stop], header)


def _whole(header: bytes, data: bytes) -> bytes:
    """Return ``header`` and ``data`` as a packet: the length corrected, the fragment fields cleared."""
    if header[0] >> 4 == 6:
        return header[:4] + _U16.pack(len(data)) + header[6:] + data
    length = min(len(header) + len(data), _LARGEST)
    return header[:2] + _U16.pack(length) + header[4:6] + b"\0\0" + header[8:] + data
