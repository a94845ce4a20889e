"""LIS01 conversations and those of its plain variant in, sessions out."""

from hl7core.model.packet import PacketBatch
from hl7core.model.session import ElementType, Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.conversations import ORU, RECORDS, decode, frame, lis01, plain


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
