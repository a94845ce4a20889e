"""Captured packets, in batches, and the endpoints between which they travel.

A batch is one buffer and, for each packet, its place in it.  A :class:`Packet` is made only for plugins that implement
``on_packet``: one object per packet is what makes reading captures slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["LINKTYPE_ETHERNET", "Endpoint", "Interface", "Packet", "PacketBatch"]

LINKTYPE_ETHERNET: Final = 1
"""The link-layer type of Ethernet in capture files (https://www.tcpdump.org/linktypes.html)."""


class Endpoint(NamedTuple):
    """One end of a connection: ``address`` as text (IPv4 dotted, IPv6 compressed without brackets), TCP ``port``."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Interface(NamedTuple):
    """Where packets were captured.

    ``link_type`` is the LINKTYPE number of its packets, ``snaplen`` how many bytes of each are kept (0: all);
    ``addresses`` and ``is_up`` are known only for live interfaces.
    """

    name: str = ""
    link_type: int = LINKTYPE_ETHERNET
    snaplen: int = 0
    addresses: tuple[str, ...] = ()
    is_up: bool = True
    description: str = ""


class Packet(NamedTuple):
    """One packet: ``data`` is what was captured, from the link layer on; ``time_ns`` its time (unix nanoseconds).

    ``wire_length`` is its length on the wire in bytes, more than ``len(data)`` if the capture truncated it.
    """

    data: bytes
    time_ns: int
    wire_length: int
    interface: Interface


class PacketBatch(NamedTuple):
    """Packets of ONE interface, in the order captured: packet ``i`` is ``buffer[starts[i]:ends[i]]``.

    ``times`` are unix nanoseconds, ``wire_lengths`` the lengths on the wire in bytes.  ``number`` is the position, from
    1, of the first packet in its source, for messages to people.  ``skipped`` counts packets known to be missing right
    before this batch (dropped at the intake, or while capturing was paused).
    """

    buffer: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    times: Sequence[int]
    wire_lengths: Sequence[int]
    interface: Interface
    number: int = 1
    skipped: int = 0

    @property
    def count(self) -> int:  # type: ignore[override]  # tuple.count means nothing for a batch
        """The number of packets."""
        return len(self.starts)

    @property
    def size(self) -> int:
        """The number of captured bytes, without those between packets in the buffer."""
        return sum(self.ends) - sum(self.starts)

    def packets(self) -> Iterator[Packet]:
        """Yield each packet as a :class:`Packet`."""
        buffer, interface = self.buffer, self.interface
        for start, end, time_ns, wire_length in zip(self.starts, self.ends, self.times, self.wire_lengths, strict=True):
            yield Packet(buffer[start:end], time_ns, wire_length, interface)

    @classmethod
    def of(cls, packets: Sequence[Packet], *, number: int = 1) -> PacketBatch:
        """Join ``packets``, all of one interface, into a batch.  Raises ValueError if there are none."""
        if not packets:
            raise ValueError("a batch needs at least one packet")
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for packet in packets:
            starts.append(at)
            at += len(packet.data)
            ends.append(at)
        return cls(
            b"".join(packet.data for packet in packets),
            starts,
            ends,
            [packet.time_ns for packet in packets],
            [packet.wire_length for packet in packets],
            packets[0].interface,
            number,
        )
