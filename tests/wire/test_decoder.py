"""Packets of many connections in, sessions out: which belong together, what is kept, what is let go."""

import pytest

from hl7core.model.packet import Packet, PacketBatch
from hl7core.model.session import Direction, ElementType, Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from wire.conversations import ACK, ORU, RECORDS, ack, block, decode, frame, lis01, oru, rebuilt


def test_many_connections_and_devices_at_once_stay_apart():
    talks = [TcpTalk(opener=(f"10.0.1.{n}", 40000 + n)) for n in range(1, 100)]
    for number, talk in enumerate(talks):
        talk.open()
        talk.opener(block(oru(b"%d" % number)))
        talk.acceptor(block(ack(b"%d" % number)))
    sessions = decode(*talks)
    assert len(sessions) == 99
    assert len({s.id for s in sessions}) == 99
    assert all(s.is_complete and s.messages[0].control_id == s.messages[1].reply_to for s in sessions)


def test_the_same_ports_again_are_another_connection():
    first, second = TcpTalk(), TcpTalk(time_ns=START_NS + 10**9, isn=(777000, 888000))
    for talk in (first, second):
        talk.open()
        talk.opener(block(oru(b"1")))
    sessions = decode(first, second)
    assert [s.ending for s in sessions] == [Ending.CLOSED, Ending.CAPTURE_END]


def test_a_capture_that_begins_in_the_middle_of_a_connection():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.acceptor(block(ack(b"1")))
    talk.packets.clear()
    talk.opener(block(oru(b"2")))
    talk.acceptor(block(ack(b"2")))
    (session,) = decode(talk)
    assert session.is_complete


def test_traffic_of_others_is_let_go_and_counted():
    talk = TcpTalk(acceptor=("10.0.0.9", 443))
    talk.open()
    talk.opener(b"\x16\x03\x01\x02\x00" + bytes(range(256)) * 4)
    decoder = Decoder()
    assert decoder.feed(talk.batch()) == []
    assert decoder.counters["ignored"] == 1


def test_a_connection_that_was_let_go_is_looked_at_again_at_a_block():
    talk = TcpTalk()
    talk.open()
    talk.opener(bytes(range(128, 256)) * 40)
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    (session,) = decode(talk)
    assert session.is_complete


def test_a_hundred_thousand_half_open_connections_are_bounded():
    decoder = Decoder(DecoderOptions(max_connections=1000))
    packets = []
    for number in range(100_000):
        talk = TcpTalk(opener=(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 40000))
        talk._send(0, 0x02, b"")
        packets += talk.packets
        if len(packets) == 5000:
            decoder.feed(PacketBatch.of(packets))
            packets = []
    assert len(decoder._syns) <= 1000
    assert len(decoder._halves) == 0


def test_more_connections_than_allowed_let_the_idlest_go_with_their_sessions():
    decoder = Decoder(DecoderOptions(max_connections=10))
    sessions = []
    for number in range(20):
        talk = TcpTalk(opener=(f"10.0.0.{number}", 40000), time_ns=START_NS + number * 10**6)
        talk.open()
        talk.opener(block(oru(b"%d" % number)))
        sessions += decoder.feed(talk.batch())
    assert {s.ending for s in sessions} == {Ending.EVICTED}
    assert len(sessions) == decoder.counters["evicted"]
    assert len(sessions) + len(decoder.end()) == 20


def test_messages_are_told_as_they_complete():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    decoder = Decoder(DecoderOptions(watch_messages=True))
    decoder.feed(talk.batch())
    (seen,) = decoder.messages
    assert seen.message.control_id == "1"
    talk.packets.clear()
    talk.acceptor(block(ack(b"1")))
    decoder.feed(talk.batch())
    reply = decoder.messages[1]
    assert reply.request is seen.message
    assert reply.session_id == seen.session_id
    assert str(reply.source) == "10.0.0.9:2575"


def test_open_sessions_can_be_seen():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    decoder = Decoder()
    decoder.feed(talk.batch())
    (summary,) = decoder.open_sessions()
    assert summary.messages == 1
    assert summary.last_type is ElementType.MESSAGE
    (ended,) = decoder.end()
    assert ended.id == summary.id


def test_every_byte_of_a_recognised_stream_is_in_exactly_one_element():
    talk = TcpTalk()
    talk.open()
    lis01(talk, nak=2)
    lis01(talk)
    sessions = decode(talk)
    for side, direction in ((0, Direction.FROM_DEVICE), (1, Direction.FROM_LIS)):
        said = b"".join(
            p.data[54 : 14 + int.from_bytes(p.data[16:18], "big")]
            for p in talk.packets
            if p.data[26:30] == bytes([10, 0, 0, 5 if side == 0 else 9])
        )
        assert rebuilt(sessions, direction) == said


def test_packets_of_a_batch_are_only_made_for_who_asks():
    talk = TcpTalk()
    talk.open()
    batch = talk.batch()
    assert list(batch.packets()) == [Packet(p.data, p.time_ns, p.wire_length, batch.interface) for p in talk.packets]


@pytest.mark.parametrize("first", [block(ORU), b"\x05"])
def test_endless_bytes_that_are_no_frame_are_kept_in_sessions_and_not_in_memory(first):
    talk = TcpTalk()
    talk.open()
    talk.opener(first)
    talk.acceptor(b"\x06" if first == b"\x05" else block(ACK))
    talk.opener(frame(1, RECORDS[0]))
    decoder = Decoder(DecoderOptions(max_message=1 << 20))
    sessions = decoder.feed(talk.batch())
    for said in range(100_000, 8_000_000, 100_000):
        talk.packets.clear()
        talk.opener(b"\xfe" * 100_000)
        sessions += decoder.feed(talk.batch())
        kept = sum(s.raw_of(e).count(b"\xfe") for s in sessions for e in s.elements)
        assert said - kept < 5 << 20
    sessions += decoder.end()
    assert sum(s.raw_of(e).count(b"\xfe") for s in sessions for e in s.elements) == said


def test_a_message_larger_than_allowed_is_cut_and_marked_and_what_follows_is_whole():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU + b"OBX|1|TX|||" + b"x" * 300_000 + b"\r"))
    talk.acceptor(block(ACK))
    talk.opener(block(oru(b"2")))
    talk.acceptor(block(ack(b"2")))
    sessions = decode(talk, options=DecoderOptions(max_message=100_000))
    large = next(s for s in sessions if s.messages[0].control_id == "M1")
    assert not large.is_complete
    assert not large.messages[0].complete
    assert len(large.messages[0].text) <= 100_000
    assert any(f.code == "too-long" for s in sessions for e in s.elements for f in e.faults)
    assert [s.is_complete for s in sessions if s.messages[0].control_id == "2"] == [True]


def test_packets_that_are_known_to_be_missing_are_counted():
    talk = TcpTalk()
    talk.open()
    decoder = Decoder()
    decoder.feed(talk.batch()._replace(skipped=7))
    assert decoder.counters["skipped"] == 7


def test_a_reset_far_from_the_stream_is_somebody_elses_and_what_follows_is_kept():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU)[:40])
    talk.seq[0] += 1 << 30
    talk.reset(0)
    talk.seq[0] -= 1 << 30
    talk.opener(block(ORU)[40:])
    talk.acceptor(block(ACK))
    (session,) = decode(talk)
    assert session.is_complete


def test_an_evicted_connection_that_goes_on_loses_no_message():
    decoder = Decoder(DecoderOptions(max_connections=1))
    first, second = TcpTalk(), TcpTalk(opener=("10.0.0.6", 40000), time_ns=START_NS + 10**9)
    for talk in (first, second):
        talk.open()
        talk.opener(block(oru(b"1")))
    sessions = decoder.feed(PacketBatch.of(first.packets + second.packets))
    assert [s.ending for s in sessions] == [Ending.EVICTED]
    first.packets.clear()
    first.time_ns += 2 * 10**9
    first.opener(block(oru(b"2")))
    first.acceptor(block(ack(b"2")))
    sessions = decoder.feed(first.batch()) + decoder.end()
    assert [s.is_complete for s in sessions if s.messages[0].control_id == "2"] == [True]


def test_a_plain_device_that_began_with_an_empty_turn_is_known_by_its_first_message():
    for size in (1, 7, 1460):
        talk = TcpTalk(acceptor=("10.0.0.9", 6001))
        talk.open()
        for text in (b"", b"\x02" + ORU.rstrip(b"\r") + b"\r\n", b""):
            talk.opener(b"\x05")
            talk.acceptor(b"\x06")
            if text:
                talk.opener(text, mss=size)
                talk.acceptor(b"\x06")
            talk.opener(b"\x04")
        talk.close()
        sessions = decode(talk)
        assert [len(session.messages) for session in sessions] == [0, 1, 0]
        assert sessions[1].protocol == "plain"
        assert sessions[1].messages[0].text == ORU.rstrip(b"\r")
        assert not [fault for session in sessions for element in session.elements for fault in element.faults]
        assert rebuilt(sessions, Direction.FROM_DEVICE).startswith(b"\x05\x04\x05\x02MSH")


def test_a_turn_whose_end_was_not_captured_does_not_swallow_the_next():
    talk = TcpTalk(acceptor=("10.0.0.9", 6001))
    talk.open()
    for number in (b"1", b"2"):
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        text = b"\x02MSH|^~\\&|A|L|B|L|2026||ORU^R01|M" + number + b"|P|2.5\rPID|1||P7\r\n"
        if number == b"1":
            talk.lose(0, text[:20])
            talk.opener(text[20:])
            talk.acceptor(b"\x06")
            talk.lose(0, b"\x04")
        else:
            talk.opener(text)
            talk.acceptor(b"\x06")
            talk.opener(b"\x04")
    talk.close()
    first, second = decode(talk)
    assert (first.ending, first.messages) == (Ending.GAPPED, ())
    assert second.is_complete
    assert second.messages[0].control_id == "M2"


@pytest.mark.parametrize(("before", "after", "ends"), [(600, 5, True), (5, 600, False)])
@pytest.mark.parametrize("kind", ["mllp", "lis01"])
def test_other_timeouts_count_for_connections_that_are_open_already(kind, before, after, ends):
    """An analyzer may keep its connection for days."""

    def options(seconds):
        return DecoderOptions(ack_timeout_ns=seconds * 10**9, silence_ns=seconds * 10**9)

    talk = TcpTalk()
    talk.open()
    if kind == "mllp":
        talk.opener(block(oru(b"1")))
    else:
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        talk.opener(frame(1, b"H|\\^&\r"))
    decoder = Decoder(options(before))
    assert decoder.feed(talk.batch()) == []
    now = talk.packets[-1].time_ns
    assert decoder.expire(now + 10**9) == []
    decoder.configure(options(after))
    found = decoder.expire(now + 10 * 10**9)
    assert [session.ending for session in found] == ([Ending.SILENT] if ends else [])
    if not ends:
        assert [session.ending for session in decoder.expire(now + 700 * 10**9)] == [Ending.SILENT]


def test_a_shorter_idle_timeout_counts_for_connections_that_are_open_already():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.acceptor(block(ack(b"1")))
    decoder = Decoder(DecoderOptions())
    decoder.feed(talk.batch())
    now = talk.packets[-1].time_ns
    decoder.expire(now + 10**9)
    decoder.configure(DecoderOptions(idle_ns=5 * 10**9))
    decoder.expire(now + 10 * 10**9)
    assert decoder.counters["idle"] == 1


def test_the_earlier_name_of_start_block_stays_usable():
    assert Decoder.begin is Decoder.start_block
