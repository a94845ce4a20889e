"""Streams: what waits behind a hole is bounded, in bytes, in number and in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hl7core.model.packet import Packet, PacketBatch
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from hl7core.wire.streams import HELD_PER_STREAM
from hl7core.wire.tcp.reassembly import MAX_HELD_PIECES
from wire.linear_time import OPENED, assert_linear, of_each
from wire.mllp_blocks import ORU, block


def test_bytes_that_wait_behind_a_hole_are_bounded_for_a_connection_and_the_hole_is_a_gap():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.lose(0, b"lost")
    decoder = Decoder()
    sessions = decoder.feed(talk.batch())
    for _ in range(HELD_PER_STREAM // 100_000 + 2):
        talk.packets.clear()
        talk._send(0, 0x18, b"y" * 50_000)
        talk._send(0, 0x18, b"y" * 50_000)
        sessions += decoder.feed(PacketBatch.of(talk.packets))
        assert all(half.held_bytes <= HELD_PER_STREAM + 65_536 for half in decoder._halves.values())
    sessions += decoder.end()
    assert decoder.counters["gaps"] == 1
    assert decoder.counters["gapBytes"] == 4
    assert any(e.missing == 4 for s in sessions for e in s.elements)


def test_segments_that_wait_are_bounded_in_number_too():
    talk = TcpTalk(step_ns=0)
    talk.open()
    talk.opener(block(ORU))
    talk.lose(0, b"lost")
    decoder = Decoder()
    decoder.feed(talk.batch())
    talk.packets.clear()
    for _ in range(MAX_HELD_PIECES + 10):
        talk._send(0, 0x18, b"z")
    decoder.feed(talk.batch())
    assert decoder.counters["gaps"] == 1
    assert all(len(half.held) <= MAX_HELD_PIECES for half in decoder._halves.values())


def test_all_that_waits_behind_holes_is_bounded_by_reassembly_bytes():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    for number in range(40):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000))
        talk.open()
        talk.opener(block(ORU))
        talk.lose(0, b"lost")
        talk._send(0, 0x18, b"y" * 60_000)
        decoder.feed(talk.batch())
        assert sum(half.held_bytes for half in decoder._halves.values()) <= (1 << 20) + 65_536
    assert decoder.counters["crowded"] > 0
    assert decoder.counters["gaps"] >= decoder.counters["crowded"]


def test_holes_that_wait_to_be_filled_cost_nothing_as_time_passes():
    """Their receivers have not acknowledged them: TCP will send them again, some day."""

    def work(count: int) -> None:
        decoder = Decoder()
        decoder.feed(of_each(count, *OPENED, (0, {"seq": 100, "ack": 2, "data": b"x"})))
        for second in range(count):
            decoder.expire(START_NS + 2 * second * 10**9)
        assert len(decoder._streams.holes) == count

    assert_linear(work, 250)


def test_giving_up_holes_for_want_of_memory_takes_time_that_grows_with_their_number():
    def work(count: int) -> None:
        decoder = Decoder(DecoderOptions(reassembly_bytes=count * 1000))
        decoder.feed(of_each(count, *OPENED))
        for at in range(8):
            decoder.feed(of_each(count, (0, {"seq": 100 + 10 * at, "ack": 2, "data": b"x"})))
        assert decoder.counters["crowded"] > 0

    assert_linear(work, 250)


def segments(count: int, order: Callable[[list[Packet]], list[Packet]]) -> list[PacketBatch]:
    talk = TcpTalk(step_ns=1000)
    talk.open()
    start = len(talk.packets)
    for number in range(count):
        talk._send(0, 0x18, b"\x0bMSH|^~\\&|A|L|B|L|2026||ORU|%d|P|2.5\r\x1c\r" % number)
    packets = talk.packets[:start] + order(talk.packets[start:])
    return [PacketBatch.of(packets)]


@pytest.mark.parametrize(
    "order",
    [
        lambda packets: packets[::-1],
        lambda packets: packets[1:] + packets[:1],
        lambda packets: packets[1::2] + packets[::2],
        lambda packets: [copy for packet in packets for copy in (packet,) * 4],
        lambda packets: packets[1:],
    ],
    ids=["backwards", "the first at the end", "every second", "four times", "without the first"],
)
def test_segments_in_a_hostile_order_take_time_that_grows_with_their_number(order):
    def work(count: int) -> None:
        decoder = Decoder()
        for batch in segments(count, order):
            decoder.feed(batch)
        decoder.end()

    assert_linear(work, 700)
