r"""Synthetic TCP: packets that were made, not captured, for tests, the demo and rebuilt captures.

::

    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|...\r\x1c\r")
    talk.acceptor(b"\x0bMSH|...\rMSA|AA|1\r\x1c\r")
    talk.close()
    sessions = decoder.feed(talk.batch())
"""

from __future__ import annotations

import socket
from struct import pack, unpack
from typing import Final

from hl7core.model.packet import Endpoint, Interface, Packet, PacketBatch

__all__ = ["TcpTalk", "tcp_packet"]

_FIN: Final = 0x01
_SYN: Final = 0x02
_RST: Final = 0x04
_PSH: Final = 0x08
_ACK: Final = 0x10
_MASK: Final = 0xFFFFFFFF
_MACS: Final = (b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02")
START_NS: Final = 1_700_000_000_000_000_000
"""When a conversation begins by default, in unix nanoseconds: in November 2023."""


def tcp_packet(
    source: Endpoint,
    target: Endpoint,
    *,
    seq: int,
    ack: int = 0,
    flags: int = _ACK,
    data: bytes = b"",
    link: bytes | None = None,
    checksum: bool = False,
    side: int = 0,
) -> bytes:
    """Return a packet: an Ethernet header (or ``link`` instead), IPv4 or IPv6, TCP and ``data``, padded as on the wire.

    ``seq`` and ``ack`` are absolute sequence numbers.  The TCP checksum is 0, as offload leaves it, unless ``checksum``
    is set.  ``side`` (0 or 1) selects the source and target MAC addresses.
    """
    tcp = pack(">HHIIBBHHH", source.port, target.port, seq & _MASK, ack & _MASK, 0x50, flags, 65535, 0, 0) + data
    if ":" in source.address:
        addresses = socket.inet_pton(socket.AF_INET6, source.address) + socket.inet_pton(
            socket.AF_INET6, target.address
        )
        network = pack(">IHBB", 0x60000000, len(tcp), 6, 64) + addresses
        ethertype = b"\x86\xdd"
    else:
        addresses = socket.inet_aton(source.address) + socket.inet_aton(target.address)
        head = pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + addresses
        network = head[:10] + pack(">H", _checksum(head)) + head[12:]
        ethertype = b"\x08\x00"
    if checksum:
        tcp = tcp[:16] + pack(">H", _checksum(addresses + pack(">HH", 6, len(tcp)) + tcp)) + tcp[18:]
    if link is not None:
        return link + network + tcp
    return (_MACS[side] + ethertype + network + tcp).ljust(60, b"\0")


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of ``data``."""
    total: int = sum(unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class TcpTalk:
    """A TCP conversation between two ends; ``packets`` collects its packets.

    ``opener`` and ``acceptor`` are (address, port).  The first packet is captured at ``time_ns`` (unix nanoseconds) and
    each further one ``step_ns`` later (1 ms by default).  ``isn`` are the initial sequence numbers of the opener and
    the acceptor.
    """

    def __init__(
        self,
        opener: tuple[str, int] = ("10.0.0.5", 49152),
        acceptor: tuple[str, int] = ("10.0.0.9", 2575),
        *,
        time_ns: int = START_NS,
        step_ns: int = 1_000_000,
        isn: tuple[int, int] = (1000, 5000),
        interface: Interface | None = None,
    ) -> None:
        self.ends = (Endpoint(*opener), Endpoint(*acceptor))
        self.time_ns = time_ns
        self.step_ns = step_ns
        self.seq = [isn[0], isn[1]]
        self.interface = interface or Interface("test0")
        self.packets: list[Packet] = []

    def open(self) -> None:
        """Add the three-way handshake."""
        self._send(0, _SYN, b"")
        self._send(1, _SYN | _ACK, b"")
        self._send(0, _ACK, b"")

    def opener(self, data: bytes, *, mss: int = 1460) -> None:
        """Send ``data`` from the opener in segments of at most ``mss`` bytes, and acknowledge it."""
        self._send_data(0, data, mss)

    def acceptor(self, data: bytes, *, mss: int = 1460) -> None:
        """Send ``data`` from the acceptor, as ``opener`` does."""
        self._send_data(1, data, mss)

    def close(self) -> None:
        """Close both directions with FIN."""
        self._send(0, _FIN | _ACK, b"")
        self._send(1, _FIN | _ACK, b"")
        self._send(0, _ACK, b"")

    def reset(self, side: int = 0) -> None:
        """Reset the connection from the opener (``side`` 0) or the acceptor (1)."""
        self._send(side, _RST | _ACK, b"")

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` pass before the next packet."""
        self.time_ns += int(seconds * 1_000_000_000)

    def lose(self, side: int, data: bytes) -> None:
        """Send ``data`` from ``side`` without capturing it: the packets that follow leave a gap."""
        self.seq[side] += len(data)

    def batch(self) -> PacketBatch:
        """Return all packets as one batch."""
        return PacketBatch.of(self.packets)

    def _send_data(self, side: int, data: bytes, mss: int) -> None:
        for at in range(0, len(data), mss):
            self._send(side, _PSH | _ACK, data[at : at + mss])
        self._send(1 - side, _ACK, b"")

    def _send(self, side: int, flags: int, data: bytes) -> None:
        packet = tcp_packet(
            self.ends[side],
            self.ends[1 - side],
            seq=self.seq[side],
            ack=self.seq[1 - side] if flags & _ACK else 0,
            flags=flags,
            data=data,
        )
        self.packets.append(Packet(packet, self.time_ns, len(packet), self.interface))
        self.seq[side] += len(data) + (1 if flags & (_SYN | _FIN) else 0)
        self.time_ns += self.step_ns
