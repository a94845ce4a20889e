"""Capture filters: libpcap's own, asked about whole batches."""

from __future__ import annotations

import ctypes
import gc
import struct

import pytest

from hl7core import bpf
from hl7core.bpf import PacketFilter
from hl7core.errors import SourceError
from hl7core.model.packet import Interface, Packet, PacketBatch

try:
    PacketFilter("", 1).close()
except SourceError as error:  # pragma: no cover - every machine of ours has it
    pytest.skip(str(error), allow_module_level=True)

ETHERNET = Interface("eth0", 1)


def ipv4(port: int, *, protocol: int = 6) -> bytes:
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return header + struct.pack(">HH", 50_000, port) + bytes(16)


def frame(port: int, *, protocol: int = 6) -> bytes:
    return b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0" + ipv4(port, protocol=protocol)


def batch(*data: bytes, interface: Interface = ETHERNET, number: int = 1, skipped: int = 0) -> PacketBatch:
    packets = [Packet(part, 1_000 + place, len(part) + place, interface) for place, part in enumerate(data)]
    return PacketBatch.of(packets, number=number)._replace(skipped=skipped)


def test_the_packets_that_match_are_kept_with_their_times_and_lengths():
    packets = batch(frame(80), frame(2575), frame(443), frame(2575), number=41)
    with PacketFilter("tcp port 2575", 1) as chosen:
        kept = chosen.apply(packets)
    assert kept is not None
    assert list(kept.packets()) == [packet for packet in packets.packets() if packet.data == frame(2575)]
    assert kept.number == 42
    assert kept.buffer is packets.buffer


def test_a_batch_that_matches_as_a_whole_is_passed_on_as_it_is():
    packets = batch(frame(2575), frame(2575))
    assert PacketFilter("tcp", 1).apply(packets) is packets


def test_nothing_that_matches_is_none():
    assert PacketFilter("udp", 1).apply(batch(frame(2575))) is None


def test_an_empty_filter_matches_everything():
    packets = batch(frame(2575), b"")
    assert PacketFilter("", 1).apply(packets) is packets


def test_an_empty_or_short_packet_matches_no_port_and_breaks_nothing():
    assert PacketFilter("tcp port 2575", 1).apply(batch(b"", frame(2575)[:30], b"\x05")) is None


def test_what_a_filter_asks_of_the_length_is_the_length_on_the_wire():
    packets = batch(frame(1), frame(2), frame(3))  # 54, 55 and 56 bytes on the wire
    kept = PacketFilter("len >= 55 and len < 56", 1).apply(packets)
    assert kept is not None
    assert [packet.wire_length for packet in kept.packets()] == [len(frame(2)) + 1]


def test_packets_that_were_skipped_are_not_forgotten_with_a_batch_that_is_left_out():
    chosen = PacketFilter("tcp port 2575", 1)
    assert chosen.apply(batch(frame(80), skipped=3)) is None
    assert chosen.apply(batch(frame(80), skipped=1)) is None
    kept = chosen.apply(batch(frame(2575), skipped=2))
    assert kept is not None
    assert kept.skipped == 6
    kept = chosen.apply(batch(frame(80), frame(2575)))
    assert kept is not None
    assert kept.skipped == 0


@pytest.mark.parametrize(
    ("link_type", "before"),
    [
        (101, b""),
        (228, b""),
        (0, struct.pack("=I", 2)),
        (113, b"\0\0\0\1\0\6\2\0\0\0\0\1\0\0\x08\0"),
        (276, b"\x08\0" + bytes(18)),
    ],
    ids=["raw", "ipv4", "loopback", "cooked", "cooked 2"],
)
def test_each_link_type_has_a_program_of_its_own(link_type, before):
    other = Interface("other", link_type)
    chosen = PacketFilter("tcp port 2575", 1)
    assert chosen.apply(batch(frame(2575))) is not None
    kept = chosen.apply(batch(before + ipv4(80), before + ipv4(2575), interface=other))
    assert kept is not None
    assert [packet.data for packet in kept.packets()] == [before + ipv4(2575)]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("tcp prt 2575", "can't parse filter expression: syntax error"),
        ("port 99999", "illegal port number 99999"),
        ("tcp\0", "contains an invalid character"),
        ("host \ud800", "contains an invalid character"),
    ],
)
def test_a_wrong_expression_is_refused_in_libpcaps_own_words(expression, message):
    with pytest.raises(SourceError, match="the capture filter") as refused:
        PacketFilter(expression, 1)
    assert message in str(refused.value)


def test_a_filter_that_means_nothing_on_a_link_type_says_so():
    chosen = PacketFilter("ether host 02:00:00:00:00:01", 1)
    with pytest.raises(SourceError, match="ethernet addresses supported only on"):
        chosen.apply(batch(ipv4(80), interface=Interface("tun0", 101)))


def test_without_libpcap_the_remedy_is_named(monkeypatch):
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(bpf.ctypes, "CDLL", missing)
    bpf._libpcap.cache_clear()
    try:
        with pytest.raises(SourceError, match=r"needs libpcap.*apt install libpcap0\.8"):
            PacketFilter("tcp", 1)
    finally:
        bpf._libpcap.cache_clear()


def test_what_libpcap_holds_is_freed_once(monkeypatch):
    freed = []
    library = bpf._libpcap()
    free = library.pcap_freecode
    monkeypatch.setattr(library, "pcap_freecode", lambda program: (freed.append(1), free(program)))
    closed = PacketFilter("tcp", 1)
    closed.close()
    closed.close()
    assert len(freed) == 1
    left = PacketFilter("tcp", 1)
    left.apply(batch(ipv4(80), interface=Interface("tun0", 101)))
    del left
    gc.collect()
    assert len(freed) == 3
