"""Delivery: what framers and undecided connections hold is bounded, and freed once it is delivered."""

from __future__ import annotations

import pytest

from hl7core.model.session import Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.detect import HELD_BYTES
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from wire.linear_time import OPENED, assert_linear, of_each
from wire.lossy_talks import plain_sessions, sessions_of, whole_messages
from wire.mllp_blocks import ORU, block, faults


def test_messages_that_never_end_are_bounded_together_and_the_largest_is_let_go_with_what_it_has():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    sessions = []
    talks = []
    for number in range(40):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000), time_ns=START_NS + number * 10**7)
        talk.open()
        talk.opener(block(ORU))
        talk.opener(b"\x0b" + ORU + b"x" * (50_000 if number != 7 else 90_000), mss=20_000)
        talks.append(talk)
        sessions += decoder.feed(talk.batch())
        held = sum(half.framer.pending for half in decoder._halves.values() if half.framer is not None)
        assert held <= (1 << 20) + 100_000
    evicted = [s for s in sessions if s.ending is Ending.EVICTED]
    assert decoder.counters["crowded"] == decoder.counters["evicted"] > 0
    assert any(len(m.text) > 90_000 for s in evicted for m in s.messages)
    assert "truncated" in faults(evicted)
    sessions += decoder.end()
    assert sum(m.text.count(b"x") for s in sessions for m in s.messages) == 39 * 50_000 + 90_000


@pytest.mark.parametrize("ended", ["by the peer's answer", "by a gap"])
def test_a_message_that_has_ended_takes_no_room_any_more(ended):
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    sessions = []
    for number in range(40):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000), time_ns=START_NS + number * 40 * 10**9)
        talk.open()
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        talk.opener(b"\x02" + ORU + b"x" * 60_000, mss=20_000)
        if ended == "by a gap":
            talk.lose(0, b"OBX|1\r")
        talk.opener(b"\r\n")
        talk.acceptor(b"\x06")
        sessions += decoder.feed(talk.batch())
    sessions += decoder.expire(talk.time_ns + 2 * 10**9)
    assert decoder.counters["crowded"] == 0
    sessions += decoder.end()
    assert [m.complete for s in sessions for m in s.messages] == [ended != "by a gap"] * 40


def test_timers_of_connections_that_are_gone_are_let_go_though_no_time_passes():
    decoder = Decoder()
    for number in range(6000):
        talk = TcpTalk(opener=(f"10.1.{number >> 8}.{number & 255}", 40000), step_ns=0)
        talk.open()
        talk.opener(b"\x05\x021H|\\^&\r\x03E5\r\n")
        talk.acceptor(b"\x06")
        talk.close()
        decoder.feed(talk.batch())
    assert len(decoder._streams.timers) < 5000


def test_giving_up_open_messages_takes_time_that_grows_with_their_number():
    def work(count: int) -> None:
        decoder = Decoder(DecoderOptions(reassembly_bytes=count * 1000))
        decoder.feed(of_each(count, *OPENED))
        for at in range(3):
            decoder.feed(of_each(count, (0, {"seq": 14 + 600 * at, "ack": 2, "data": b"x" * 600})))
        assert decoder.counters["crowded"] > 0

    assert_linear(work, 250)


def test_giving_up_undecided_connections_takes_time_that_grows_with_their_number():
    def work(count: int) -> None:
        decoder = Decoder(DecoderOptions(reassembly_bytes=count * 100))
        decoder.feed(of_each(count, (0, {"seq": 1, "flags": 2}), (0, {"seq": 2, "data": b"some text"})))
        assert decoder.counters["crowded"] > 0

    assert_linear(work, 1000)


def test_what_is_undecided_holds_a_few_kib_and_is_then_let_go_and_counted():
    talk = TcpTalk()
    talk.open()
    decoder = Decoder()
    for _ in range(100):
        talk.packets.clear()
        talk.opener(b"text of any kind may be a log line ahead of the first block\n")
        decoder.feed(talk.batch())
        held = [half.connection.waiting_bytes for half in decoder._halves.values()]
        assert max(held) <= 2 * HELD_BYTES + 1460
    assert decoder.counters["ignored"] == 1
    assert max(half.connection.waiting_bytes for half in decoder._halves.values()) == 0


def test_undecided_connections_together_hold_no_more_than_the_settings_allow():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    most = 0
    for number in range(2000):
        talk = TcpTalk(opener=(f"10.1.{number >> 8}.{number & 255}", 40000))
        talk.open()
        talk.opener(b"x" * 3000)
        decoder.feed(talk.batch())
        most = max(most, sum(half.connection.waiting_bytes for half in decoder._halves.values() if half.side == 0))
    assert most <= (1 << 20) + 8192
    assert decoder.counters["ignored"] > 1000


@pytest.mark.parametrize("how", ["stays", "closes", "resets", "is reset"])
def test_a_plain_message_cut_at_a_line_end_is_not_whole_though_nothing_follows_it(how):
    """CR LF stands between segments too: only what follows tells that it ended the message."""
    talk, begins = plain_sessions(1, 1, b"\r\n")
    line = talk.sent[0][0].index(b"\r\n") + 1 + 2
    packets = talk.packets[: begins[0] + line]
    before = len(talk.packets)
    if how == "closes":  # its FIN says that more came before it
        talk.close()
    elif how != "stays":
        talk.reset(0 if how == "resets" else 1)
    sessions = sessions_of(packets + talk.packets[before:])
    ending = {"stays": "captureEnd", "closes": "captureEnd"}.get(how, "reset")
    assert [(s.protocol, s.ending.value, [m.complete for m in s.messages]) for s in sessions] == [
        ("plain", ending, [False])
    ]


def test_a_plain_message_that_its_senders_fin_follows_is_whole():
    talk, begins = plain_sessions(1, 1, b"\r\n")
    del talk.packets[begins[0] :]
    talk.seq[0] = talk.starts[0] + 2
    talk.seq[1] = talk.starts[1] + 2
    talk.opener(b"\x02" + talk.sent[0][0] + b"\r\n")
    talk.close()
    assert whole_messages(sessions_of(talk.packets)) == [talk.sent[0][0]]
