"""Conversations in, sessions out.  Each test reads as what was said on the wire."""

import pytest

from hl7core.model.packet import Packet, PacketBatch
from hl7core.model.session import Direction, ElementType, Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rPID|1||X1\rOBX|1|NM|GLU||5\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def frame(number: int, text: bytes, end: bytes = b"\x03") -> bytes:
    body = b"%d" % number + text + end
    return b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF)


def oru(control_id: bytes, *, accept: bytes = b"", application: bytes = b"") -> bytes:
    return (
        b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|" + control_id + b"|P|2.5|||" + accept + b"|" + application
        + b"\rOBX|1|NM|GLU||5\r"
    )  # fmt: skip


def ack(reply_to: bytes, code: bytes = b"AA") -> bytes:
    return b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK|A" + reply_to + b"|P|2.5\rMSA|" + code + b"|" + reply_to + b"\r"


def decode(*talks: TcpTalk, options: DecoderOptions | None = None, ending: Ending = Ending.CAPTURE_END):
    packets = sorted((p for talk in talks for p in talk.packets), key=lambda p: p.time_ns)
    decoder = Decoder(options)
    return [*decoder.feed(PacketBatch.of(packets)), *decoder.end(ending)]


def rebuilt(sessions, direction: Direction) -> bytes:
    return b"".join(
        session.raw_of(element)
        for session in sessions
        for element in session.elements
        if element.direction is direction
    )


# MLLP.


def test_bytes_that_are_missing_before_the_first_message_have_a_time_too():
    talk = TcpTalk()
    talk.open()
    talk.lose(0, b"x" * 40)
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    talk.close()
    (session,) = decode(talk)
    assert [element.missing for element in session.elements] == [40, 0, 0]
    assert session.start_ns > START_NS
    assert all(element.time_ns >= START_NS for element in session.elements)


def test_a_message_and_its_acknowledgement_are_one_session():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    talk.close()
    (session,) = decode(talk)
    assert session.protocol == "mllp"
    assert session.is_complete
    assert session.ending is Ending.COMPLETE
    assert str(session.device) == "10.0.0.5:49152"
    assert str(session.lis) == "10.0.0.9:2575"
    assert session.connection == "10.0.0.5:49152-10.0.0.9:2575"
    assert [e.type for e in session.elements] == [ElementType.MESSAGE, ElementType.ACK]
    assert [m.text for m in session.messages] == [ORU, ACK]
    assert session.messages[1].reply_to == "M1"
    assert session.messages[1].ack_code == "AA"
    assert session.start_ns == START_NS + 3_000_000
    assert session.end_ns == START_NS + 5_000_000


def test_the_session_ends_with_the_packet_that_completes_it():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    assert len(Decoder().feed(talk.batch())) == 1


@pytest.mark.parametrize("mss", [1, 2, 3, 7, 50])
def test_however_the_segments_are_cut_the_session_is_the_same(mss):
    whole, cut = TcpTalk(step_ns=0), TcpTalk(step_ns=0)
    for talk, size in ((whole, 1460), (cut, mss)):
        talk.open()
        talk.opener(block(ORU), mss=size)
        talk.acceptor(block(ACK), mss=size)
        talk.close()
    assert decode(whole) == decode(cut)


def test_an_acknowledgement_joins_the_request_that_it_names_not_the_next():
    talk = TcpTalk()
    talk.open()
    for control_id in (b"1", b"2", b"3"):
        talk.opener(block(oru(control_id)))
    for control_id in (b"3", b"1"):
        talk.acceptor(block(ack(control_id)))
    sessions = decode(talk)
    assert [(s.messages[0].control_id, len(s.messages), s.is_complete) for s in sessions] == [
        ("3", 2, True),
        ("1", 2, True),
        ("2", 1, False),
    ]


def test_a_resent_message_with_the_same_control_id_waits_for_an_answer_of_its_own():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.opener(block(oru(b"1")))
    talk.acceptor(block(ack(b"1")))
    first, second = decode(talk)
    assert first.is_complete
    assert not second.is_complete
    assert first.start_ns < second.start_ns


def test_a_refusal_is_a_nak():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.acceptor(block(ack(b"1", b"AE")))
    (session,) = decode(talk)
    assert session.elements[1].type is ElementType.NAK
    assert session.is_complete


def test_in_enhanced_mode_both_acknowledgements_that_are_asked_for_must_come():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1", accept=b"AL", application=b"AL")))
    talk.acceptor(block(ack(b"1", b"CA")))
    decoder = Decoder()
    assert decoder.feed(talk.batch()) == []
    talk.packets.clear()
    talk.acceptor(block(ack(b"1", b"AA")))
    (session,) = decoder.feed(talk.batch())
    assert session.is_complete
    assert len(session.messages) == 3


def test_a_message_that_wants_no_acknowledgement_is_complete_by_itself():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1", accept=b"NE", application=b"NE")))
    (session,) = decode(talk)
    assert session.is_complete
    assert session.ending is Ending.COMPLETE


def test_silence_ends_an_exchange_and_a_late_acknowledgement_joins_it():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.wait(61)
    talk.opener(block(oru(b"2")))
    talk.wait(30)
    talk.acceptor(block(ack(b"1")))
    silent, late, open_ = decode(talk)
    assert (silent.messages[0].control_id, silent.ending, silent.is_complete) == ("1", Ending.SILENT, False)
    assert (late.id, late.ending, late.is_complete, late.revision) == (silent.id, Ending.SILENT, True, 1)
    assert late.elements[-1].late
    assert open_.messages[0].control_id == "2"


def test_a_reply_to_nobody_is_kept_as_a_session_of_its_own():
    talk = TcpTalk()
    talk.open()
    talk.acceptor(block(ack(b"nobody")))
    (session,) = decode(talk)
    assert not session.is_complete
    assert session.messages[0].reply_to == "nobody"
    assert session.elements[0].faults[0].code == "unknown-request"


def test_an_acknowledgement_of_an_acknowledgement_opens_no_exchange():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    talk.opener(block(ack(b"A1")))
    sessions = decode(talk)
    assert [s.is_complete for s in sessions] == [True, False]
    assert sessions[1].messages[0].reply_to == "A1"


def test_a_batch_in_one_block_is_one_session_with_a_message_each():
    batch = b"FHS|^~\\&|AN\rBHS|^~\\&|AN\r" + oru(b"1") + oru(b"2") + b"BTS|2\rFTS|1\r"
    talk = TcpTalk()
    talk.open()
    talk.opener(block(batch))
    talk.acceptor(block(ack(b"1")))
    (session,) = decode(talk)
    assert [m.control_id for m in session.messages if m.reply_to is None] == ["1", "2"]
    assert rebuilt([session], Direction.FROM_DEVICE) == block(batch)


def test_bytes_outside_any_block_are_kept():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"connecting...\r\n" + block(ORU) + b"\n")
    talk.acceptor(block(ACK) + b"\n")
    talk.opener(block(oru(b"2")))
    talk.acceptor(block(ack(b"2")))
    sessions = decode(talk)
    assert len(sessions) == 2
    assert rebuilt(sessions, Direction.FROM_DEVICE) == b"connecting...\r\n" + block(ORU) + b"\n" + block(oru(b"2"))
    assert rebuilt(sessions, Direction.FROM_LIS) == block(ACK) + b"\n" + block(ack(b"2"))


def test_a_reset_in_the_middle_of_a_message_keeps_what_came():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU)[:40])
    talk.reset()
    (session,) = decode(talk)
    assert session.ending is Ending.RESET
    assert not session.is_complete
    assert not session.messages[0].complete
    assert session.messages[0].text == ORU[:39]


def test_bytes_that_the_capture_lacks_are_a_gap_and_nothing_is_joined_across_it():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1"))[:60])
    talk.lose(0, block(oru(b"1"))[60:] + block(oru(b"2"))[:30])
    talk.opener(block(oru(b"2"))[30:])
    talk.wait(2)
    talk.opener(block(oru(b"3")))
    talk.acceptor(block(ack(b"3")))
    talk.close()
    sessions = decode(talk)
    complete = [s for s in sessions if s.is_complete]
    assert [s.messages[0].control_id for s in complete] == ["3"]
    cut = next(s for s in sessions if s.messages and s.messages[0].control_id == "1")
    assert cut.ending is Ending.GAPPED
    assert not cut.messages[0].complete


# LIS01.

RECORDS = (b"H|\\^&|||SIM\r", b"P|1\r", b"O|1|S1\r", b"R|1|^^^GLU|5.4\r", b"L|1|N\r")


def lis01(talk: TcpTalk, *, nak: int = 0) -> None:
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        if number == nak:
            talk.opener(frame(number, record)[:-4] + b"00\r\n")
            talk.acceptor(b"\x15")
        talk.opener(frame(number, record))
        talk.acceptor(b"\x06")
    talk.opener(b"\x04")


def test_a_lis01_session_runs_from_enq_to_eot():
    talk = TcpTalk()
    talk.open()
    lis01(talk)
    (session,) = decode(talk)
    assert session.protocol == "lis01"
    assert session.is_complete
    assert session.messages[0].text == b"".join(RECORDS)
    assert session.messages[0].message_type == "HPORL"
    assert session.elements[0].type is ElementType.START
    assert session.elements[-1].type is ElementType.END
    assert len(session.elements) == 2 + 2 * len(RECORDS) + 1


def test_a_refused_frame_is_kept_and_left_out_of_the_message():
    talk = TcpTalk()
    talk.open()
    lis01(talk, nak=4)
    (session,) = decode(talk)
    assert session.messages[0].text == b"".join(RECORDS)
    refused = [e for e in session.elements if any(f.code == "checksum" for f in e.faults)]
    assert len(refused) == 1
    assert refused[0].message is None
    assert [e.type for e in session.elements].count(ElementType.NAK) == 1


def test_a_repeated_frame_is_not_joined_twice():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    for number, record in ((1, RECORDS[0]), (1, RECORDS[0]), (2, RECORDS[4])):
        talk.opener(frame(number, record))
        talk.acceptor(b"\x06")
    talk.opener(b"\x04")
    (session,) = decode(talk)
    assert session.messages[0].text == RECORDS[0] + RECORDS[4]


def test_frames_that_end_in_etb_go_on_in_the_next():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    talk.opener(frame(1, b"H|\\^&|||SI", b"\x17"))
    talk.acceptor(b"\x06")
    talk.opener(frame(2, b"M\rL|1|N\r"))
    talk.acceptor(b"\x06")
    talk.opener(b"\x04")
    (session,) = decode(talk)
    assert session.messages[0].text == b"H|\\^&|||SIM\rL|1|N\r"
    assert session.messages[0].complete


def test_the_lis01_session_without_an_eot_ends_by_silence_and_is_kept():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    talk.opener(frame(1, RECORDS[0]))
    talk.acceptor(b"\x06")
    decoder = Decoder()
    assert decoder.feed(talk.batch()) == []
    assert decoder.expire(talk.time_ns + 29_000_000_000) == []
    (session,) = decoder.expire(talk.time_ns + 31_000_000_000)
    assert session.ending is Ending.SILENT
    assert not session.messages[0].complete


def test_eot_and_the_next_enq_in_one_segment_end_one_session_and_begin_the_next():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    talk.opener(frame(1, RECORDS[0] + RECORDS[4]))
    talk.acceptor(b"\x06")
    talk.opener(b"\x04\x05")
    talk.acceptor(b"\x06")
    talk.opener(frame(1, RECORDS[0] + RECORDS[4]))
    talk.acceptor(b"\x06")
    talk.opener(b"\x04")
    first, second = decode(talk)
    assert first.is_complete
    assert second.is_complete
    assert first.id != second.id


def test_an_empty_session_keeps_the_line_alive_and_is_a_session():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    talk.opener(b"\x04")
    (session,) = decode(talk)
    assert session.protocol == "lis01"
    assert session.is_complete
    assert session.messages == ()


def test_one_direction_alone_still_gives_the_message():
    talk = TcpTalk()
    talk.open()
    lis01(talk)
    sent = [p for p in talk.packets if p.data[26:30] == b"\x0a\x00\x00\x05"]
    (session,) = [*(decoder := Decoder()).feed(PacketBatch.of(sent)), *decoder.end()]
    assert session.messages[0].text == b"".join(RECORDS)
    assert session.is_complete


# The plain variant.


def plain(talk: TcpTalk, start: bytes = b"\x05", ack_: bytes = b"\x06", end: bytes = b"\x04") -> None:
    talk.opener(start)
    talk.acceptor(ack_)
    talk.opener(b"\x02" + ORU[:-1] + b"\r\n")
    talk.acceptor(ack_)
    talk.opener(end)


def test_the_plain_variant_is_recognised():
    talk = TcpTalk(acceptor=("10.0.0.9", 6001))
    talk.open()
    plain(talk)
    (session,) = decode(talk)
    assert session.protocol == "plain"
    assert session.is_complete
    assert session.messages[0].text == ORU[:-1]


def test_its_marker_bytes_are_settings():
    talk = TcpTalk()
    talk.open()
    plain(talk, b"\x11", b"\x12", b"\x13")
    options = DecoderOptions(start_marker=0x11, ack_marker=0x12, end_marker=0x13)
    (session,) = decode(talk, options=options)
    assert session.protocol == "plain"
    assert session.is_complete


# Connections.


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


def test_the_id_is_the_same_whenever_the_capture_began():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.acceptor(block(ack(b"1")))
    talk.opener(block(oru(b"2")))
    talk.acceptor(block(ack(b"2")))
    whole = decode(talk)
    talk.packets = talk.packets[7:]
    (later,) = decode(talk)
    assert later.id == whole[1].id


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


@pytest.mark.parametrize(
    ("options", "device"),
    [
        (DecoderOptions(), "10.0.0.5"),
        (DecoderOptions(device_addresses=("10.0.0.9",)), "10.0.0.9"),
        (DecoderOptions(device_addresses=("192.0.2.1", "10.0.0.8/31")), "10.0.0.9"),
        (DecoderOptions(lis_addresses=("10.0.0.5",)), "10.0.0.9"),
        (DecoderOptions(lis_port=49152), "10.0.0.9"),
    ],
)
def test_the_settings_say_which_end_is_the_analyzer(options, device):
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    assert decode(talk, options=options)[0].device.address == device


def test_an_order_tells_that_its_receiver_is_the_analyzer():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU.replace(b"ORU^R01", b"OML^O33")))
    assert decode(talk)[0].device.address == "10.0.0.9"


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
