"""MLLP conversations in, sessions out.  Each test reads as what was said on the wire."""

import pytest

from hl7core.model.session import Direction, ElementType, Ending
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from wire.conversations import ACK, ORU, ack, block, decode, oru, rebuilt


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
