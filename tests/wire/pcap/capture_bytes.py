"""Capture files as bytes: made block by block, and read with the checks that hold for every batch."""

from __future__ import annotations

import struct

from hl7core.model.packet import Interface, PacketBatch
from hl7core.wire.pcap.reader import CaptureReader, PcapngWriter, pcap_header, pcap_record

NOON = 1_700_000_000_123_456_789

ETH0 = Interface("eth0", 1, 65535, description="the analyzer's port")

COOKED = Interface("any", 113, 0)

PACKETS = [(NOON, b"\x05"), (NOON + 1_000, b"\x06" * 61), (NOON + 2_000_000_000, b"\x1cMSH\r" * 13)]


def read(*chunks: bytes) -> tuple[list[tuple[int, bytes, int, Interface]], CaptureReader]:
    """Feed ``chunks`` to a fresh reader; return its packets and the reader, after checking what holds for every batch."""
    reader = CaptureReader()
    batches: list[PacketBatch] = []
    for chunk in chunks:
        batches += reader.feed(chunk)
    batches += reader.finish()
    number = 1
    for batch in batches:
        assert batch.count
        assert batch.number == number
        number += batch.count
        assert all(0 <= time_ns < 2**63 for time_ns in batch.times)
        assert all(0 <= start <= end <= len(batch.buffer) for start, end in zip(batch.starts, batch.ends, strict=True))
    assert reader.packets == number - 1
    return [
        (packet.time_ns, packet.data, packet.wire_length, packet.interface)
        for batch in batches
        for packet in batch.packets()
    ], reader


def times_and_data(*chunks: bytes) -> list[tuple[int, bytes]]:
    return [(time_ns, data) for time_ns, data, _, _ in read(*chunks)[0]]


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 1, snaplen: int = 0, options: bytes = b"", order: str = "<") -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def enhanced(number: int, ticks: int, data: bytes, order: str = "<", options: bytes = b"") -> bytes:
    padded = data + bytes(-len(data) % 4)
    head = struct.pack(order + "5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) + 3)
    return block(6, head + padded + options, order)


def classic(packets: list[tuple[int, bytes]] = PACKETS, *, link_type: int = 1) -> bytes:
    return pcap_header(link_type) + b"".join(pcap_record(time_ns, data) for time_ns, data in packets)


def pcapng(packets: list[tuple[int, bytes]] = PACKETS) -> bytes:
    writer = PcapngWriter()
    return writer.header("test", [ETH0]) + b"".join(
        writer.packet(0, time_ns, data, len(data)) for time_ns, data in packets
    )
