"""Fragments in any order become the packet that was fragmented; what is held is bounded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.packet import Endpoint, Interface, PacketBatch
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.synthetic_tcp import TcpTalk, tcp_packet
from hl7core.wire.tcp.dissect import FRAGMENT, dissect
from hl7core.wire.tcp.fragments import KEPT_NS, MAX_BYTES, MAX_PACKETS, Fragments

RAW = 101
PLACES = {
    4: (Endpoint("10.0.0.5", 49152), Endpoint("10.0.0.9", 2575)),
    6: (Endpoint("fd00::5", 1), Endpoint("fd00::9", 2)),
}
TEXT = bytes(range(256)) * 3


def packet(version: int = 4, data: bytes = TEXT) -> bytes:
    """An IP packet that carries ``data``."""
    source, target = PLACES[version]
    return tcp_packet(source, target, seq=1000, data=data, link=b"")


def cut(whole: bytes, size: int, *, number: int = 7) -> list[bytes]:
    """The packet in fragments of ``size`` bytes, which is a multiple of 8."""
    header = 20 if whole[0] >> 4 == 4 else 40
    payload = whole[header:]
    parts = []
    for at in range(0, len(payload), size):
        piece = payload[at : at + size]
        more = at + size < len(payload)
        head = bytearray(whole[:header])
        if header == 20:
            struct.pack_into(">HHH", head, 2, 20 + len(piece), number, (0x2000 if more else 0) | at // 8)
            parts.append(bytes(head) + piece)
        else:
            struct.pack_into(">H", head, 4, 8 + len(piece))
            head[6] = 44
            parts.append(bytes(head) + struct.pack(">BBHI", 6, 0, at | more, number) + piece)
    return parts


def take(fragments: Fragments, part: bytes, now: int = 0) -> bytes | None:
    return fragments.add(part, 0, len(part), RAW, now)


def payload(whole: bytes | None) -> bytes | None:
    if whole is None:
        return None
    segment = dissect(whole, 0, len(whole), RAW)
    assert segment is not None
    assert segment is not FRAGMENT
    return whole[segment.start : segment.end]


@pytest.mark.parametrize("version", [4, 6])
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.booleans())
def test_in_any_order_and_repeated_they_are_the_packet_once(version, random, size, twice):
    parts = cut(packet(version), size * 8)
    if twice:
        parts = parts[:-1] * 2 + parts[-1:]  # what comes again once it is whole begins another
    order = parts[:]
    random.shuffle(order)
    fragments = Fragments()
    found = [payload(take(fragments, part)) for part in order]
    assert TEXT in found
    assert found.count(TEXT) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_the_first_of_two_that_overlap_stands(version):
    fragments = Fragments()
    parts = cut(packet(version), 64)
    evil = [part[:-8] + b"?" * 8 for part in parts]
    found = None
    for part, other in zip(parts, evil, strict=True):
        found = found or take(fragments, part)
        if found is None:
            assert take(fragments, other) is None
    assert payload(found) == TEXT


def test_two_packets_at_once_stay_apart():
    fragments = Fragments()
    other = bytes(reversed(TEXT))
    first, second = cut(packet(), 128, number=1), cut(packet(data=other), 128, number=2)
    found = [payload(take(fragments, part)) for pair in zip(first, second, strict=True) for part in pair]
    assert [text for text in found if text] == [TEXT, other]


def test_a_packet_that_never_becomes_whole_is_given_up_and_counted():
    fragments = Fragments()
    parts = cut(packet(), 128)
    take(fragments, parts[0], 0)
    take(fragments, cut(packet(), 128, number=9)[0], KEPT_NS + 1)
    assert fragments.discarded == 1
    assert all(take(fragments, part, KEPT_NS + 2) is None for part in parts[1:])


def test_what_is_held_is_bounded_in_number():
    fragments = Fragments()
    for number in range(5 * MAX_PACKETS):
        take(fragments, cut(packet(), 128, number=number % 0x10000)[0])
    assert len(fragments._partial) <= MAX_PACKETS
    assert fragments.discarded >= 4 * MAX_PACKETS


def test_what_is_held_is_bounded_in_bytes():
    fragments = Fragments()
    large = packet(data=bytes(60_000))
    for number in range(300):
        for part in cut(large, 1400, number=number)[1:]:
            take(fragments, part)
    held = sum(partial.stream.held_bytes for partial in fragments._partial.values())
    assert held <= MAX_BYTES
    assert held == fragments._bytes


def test_a_length_beyond_any_packet_is_no_fragment():
    part = bytearray(cut(packet(), 128)[1])
    struct.pack_into(">H", part, 6, 0x1FFF)  # the ping of death
    assert take(Fragments(), bytes(part)) is None


def test_a_fragment_that_the_capture_cut_makes_no_packet():
    fragments = Fragments()
    first, *rest = cut(packet(), 128)
    assert fragments.add(first, 0, len(first) - 1, RAW, 0) is None
    assert all(take(fragments, part) is None for part in rest)


@settings(max_examples=300)
@given(st.binary(max_size=100), st.sampled_from([0, 1, 12, 101, 108, 113, 228, 229, 276, 999]))
def test_no_bytes_make_it_fail(data, link_type):
    Fragments().add(data, 0, len(data), link_type, 0)


def test_the_decoder_counts_what_stayed_in_pieces():
    decoder = Decoder()
    parts = cut(packet(), 128)
    interface = Interface(link_type=RAW)
    for number, time_ns in ((1, 0), (2, 10 * KEPT_NS)):
        part = cut(packet(), 128, number=number)[0]
        decoder.feed(PacketBatch(part, (0,), (len(part),), (time_ns,), (len(part),), interface))
    assert parts
    assert decoder.counters["fragmentsLost"] == 1
    assert decoder.counters["packets"] == 2


def test_a_message_that_came_in_fragments_counts_as_the_packets_that_carried_it():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|A|L|B|L|2026||ORU^R01|M1|P|2.5\rOBX|1|TX|||" + b"x" * 500 + b"\r\x1c\r")
    packets = []
    for sent in talk.packets:
        whole = sent.data[14 : 14 + int.from_bytes(sent.data[16:18], "big")]
        packets += [sent._replace(data=part, interface=Interface(link_type=RAW)) for part in cut(whole, 64)]
    decoder = Decoder()
    decoder.feed(PacketBatch.of(packets))
    (session,) = decoder.end()
    assert session.messages[0].complete
    assert decoder.counters["packets"] == len(packets)
    assert decoder.counters["sessions"] == 1
