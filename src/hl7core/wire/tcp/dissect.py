"""Dissection: from a packet's bytes to its TCP segment, through the link layer, IP and TCP.

Lengths come from the IP header, not from the capture, because Ethernet pads short packets with zeros that are not
payload.  Checksums are not verified: with offload, a host captures its own packets before the network card fills in the
checksum.

Link types: https://www.tcpdump.org/linktypes.html.  IPv4: RFC 791; IPv6: RFC 8200; TCP: RFC 9293; VLAN tags:
IEEE 802.1Q.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from hl7core.model.packet import Endpoint

__all__ = [
    "ACK",
    "FIN",
    "FRAGMENT",
    "IPV6_FRAGMENT",
    "IPV6_OPTIONS",
    "LINK_TYPES",
    "RST",
    "SYN",
    "TCP_PROTOCOL",
    "TcpSegment",
    "dissect",
    "endpoints",
    "network_layer",
    "reverse",
]

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

_U16: Final = Struct(">H")
_TCP: Final = Struct(">4xIIBB")

_ETHERTYPE_IPV4: Final = 0x0800
_ETHERTYPE_IPV6: Final = 0x86DD
_VLAN_TAGS: Final = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
_PPPOE: Final = 0x8864
TCP_PROTOCOL: Final = 6
"""The protocol number of TCP in IP headers."""
IPV6_OPTIONS: Final = frozenset({0, 43, 60, 135})
"""IPv6 extension headers whose length field counts 8-byte units: hop-by-hop, routing, destination options, mobility."""
IPV6_FRAGMENT: Final = 44
"""The IPv6 fragment header."""
_IPV6_AUTH: Final = 51

_NULL: Final = 0
_ETHERNET: Final = 1
_RAW: Final = frozenset({12, 14, 101})
_LOOP: Final = 108
_SLL: Final = 113
_IPV4: Final = 228
_IPV6: Final = 229
_SLL2: Final = 276
LINK_TYPES: Final = frozenset({_NULL, _ETHERNET, *_RAW, _LOOP, _SLL, _IPV4, _IPV6, _SLL2})
"""The link types that can be dissected."""


class TcpSegment(NamedTuple):
    """One dissected piece of a stream.

    ``key`` identifies its direction: source address, destination address, source port and destination port, packed.
    ``seq`` and ``ack`` are absolute sequence numbers.  The payload is ``buffer[start:end]``; if the capture cut the
    packet short, ``missing`` more bytes belong to it.
    """

    key: bytes
    seq: int
    ack: int
    flags: int
    start: int
    end: int
    missing: int


FRAGMENT: Final = TcpSegment(b"", 0, 0, 0, 0, 0, 0)
"""What ``dissect`` returns for a fragment of an IP packet; :mod:`hl7core.wire.tcp.fragments` joins them."""


def reverse(key: bytes) -> bytes:
    """Return the key of the opposite direction."""
    width = (len(key) - 4) // 2
    return key[width : 2 * width] + key[:width] + key[-2:] + key[-4:-2]


def endpoints(key: bytes) -> tuple[Endpoint, Endpoint]:
    """Return the source and the destination that ``key`` packs."""
    width = (len(key) - 4) // 2
    return _endpoint(key[:width], key[-4:-2]), _endpoint(key[width : 2 * width], key[-2:])


@lru_cache(1000)  # thousands of connections share one server
def _endpoint(address: bytes, port: bytes) -> Endpoint:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return Endpoint(socket.inet_ntop(family, address), _U16.unpack(port)[0])


def dissect(buffer: bytes, start: int, end: int, link_type: int) -> TcpSegment | None:
    """Return the TCP segment in the packet ``buffer[start:end]``.

    Returns ``FRAGMENT`` for a fragment of an IP packet, and None for anything else: no TCP, a link type that is not
    supported, or a packet cut off before the end of its TCP header.
    """
    at = network_layer(buffer, start, end, link_type)
    if at < 0 or end - at < 20:
        return None
    version = buffer[at] >> 4
    if version == 4:
        return _ipv4(buffer, at, end)
    if version == 6:
        return _ipv6(buffer, at, end)
    return None


def network_layer(buffer: bytes, start: int, end: int, link_type: int) -> int:
    """Return the index of the IP header in the packet ``buffer[start:end]``, or -1 if it is not an IP packet."""
    if link_type == _ETHERNET:
        return _behind_tags(buffer, start + 12, end)
    if link_type == _SLL:
        return _behind_tags(buffer, start + 14, end)
    if link_type == _SLL2:  # a 20-byte header that begins with the protocol
        if end - start < 20:
            return -1
        protocol = _U16.unpack_from(buffer, start)[0]
        if protocol in _VLAN_TAGS:
            return _behind_tags(buffer, start + 22, end)
        return start + 20 if protocol in (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6) else -1
    if link_type in (_NULL, _LOOP):  # an address family in host byte order; the IP version says the same
        return start + 4
    if link_type in _RAW or link_type in (_IPV4, _IPV6):
        return start
    return -1


def _behind_tags(buffer: bytes, at: int, end: int) -> int:
    """Return the index of the IP header after the EtherType at ``at``, past any VLAN tags and PPPoE; -1 if not IP."""
    while at + 2 <= end:
        ethertype = _U16.unpack_from(buffer, at)[0]
        if ethertype in (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6):
            return at + 2
        if ethertype == _PPPOE:  # 6 bytes of PPPoE, 2 of PPP
            return at + 10
        if ethertype not in _VLAN_TAGS:
            return -1
        at += 4
    return -1


def _ipv4(buffer: bytes, at: int, end: int) -> TcpSegment | None:
    header = (buffer[at] & 0x0F) * 4
    if header < 20 or buffer[at + 9] != TCP_PROTOCOL:
        return None
    if _U16.unpack_from(buffer, at + 6)[0] & 0x3FFF:  # more fragments, or not the first
        return FRAGMENT
    total = _U16.unpack_from(buffer, at + 2)[0]
    # 0: segmentation offload leaves the length to the network card.
    return _tcp(buffer, at + header, end, at + total if total else end, buffer[at + 12 : at + 20])


def _ipv6(buffer: bytes, at: int, end: int) -> TcpSegment | None:
    if end - at < 40:
        return None
    length = _U16.unpack_from(buffer, at + 4)[0]
    stop = at + 40 + length if length else end
    following = buffer[at + 6]
    addresses = buffer[at + 8 : at + 40]
    at += 40
    while following != TCP_PROTOCOL:
        if at + 8 > end:
            return None
        if following in IPV6_OPTIONS:
            step = (buffer[at + 1] + 1) * 8
        elif following == _IPV6_AUTH:
            step = (buffer[at + 1] + 2) * 4
        elif following == IPV6_FRAGMENT:
            if _U16.unpack_from(buffer, at + 2)[0] & 0xFFF9:
                return FRAGMENT
            step = 8  # an "atomic" fragment is a whole packet (RFC 6946)
        else:
            return None
        following = buffer[at]
        at += step
    return _tcp(buffer, at, end, stop, addresses)


def _tcp(buffer: bytes, at: int, end: int, stop: int, addresses: bytes) -> TcpSegment | None:
    if at + 20 > min(end, stop):
        return None
    seq, ack, offset, flags = _TCP.unpack_from(buffer, at)
    start = at + ((offset >> 4) << 2)
    if start < at + 20 or start > stop:
        return None
    captured = min(stop, end)
    return TcpSegment(
        addresses + buffer[at : at + 4], seq, ack, flags, min(start, captured), captured, max(0, stop - max(end, start))
    )
