"""LIS01 sessions, from ENQ to EOT: what a flood of frames in one costs, and how it is kept."""

import pytest

from hl7core.model.session import Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.framing.lis01 import checksum
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.linear_time import assert_linear


def frame(number: int, text: bytes, end: bytes = b"\x03") -> bytes:
    body = b"%d" % (number % 8) + text + end
    return b"\x02" + body + b"%02X\r\n" % checksum(body)


def records_that_go_on_in_the_next_frame(talk: TcpTalk, count: int) -> None:
    """None of them has a line end, so only the joined text tells where a record begins."""
    for number in range(1, 2 * count, 2):
        talk.opener(frame(number, b"H|x" if number == 1 else b"x" * 20, b"\x17"))
        talk.acceptor(b"\x06")
        talk.opener(frame(number + 1, b"y" * 20))
        talk.acceptor(b"\x06")


def replies(talk: TcpTalk, count: int) -> None:
    for number in range(count):
        talk.opener(b"\x02MSH|^~\\&|A|L|B|L|2026||ACK|%d|P|2.5\rMSA|AA|x%d\r\r\n" % (number, number))
        talk.acceptor(b"\x06")


@pytest.mark.parametrize("shape", [records_that_go_on_in_the_next_frame, replies], ids=lambda shape: shape.__name__)
def test_a_flood_of_frames_in_one_session_takes_time_that_grows_with_their_number(shape):
    batches = {}
    for count in (1000, 4000):
        talk = TcpTalk(step_ns=1000)
        talk.open()
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        shape(talk, count)
        batches[count] = talk.batch()

    def work(count: int) -> None:
        decoder = Decoder(DecoderOptions(watch_messages=True))
        decoder.feed(batches[count])
        decoder.end()

    assert_linear(work, 1000)


@pytest.mark.parametrize(("last", "whole"), [(b"L|1|N", True), (b"X|1|N", False)])
def test_a_closing_record_that_is_split_over_frames_ends_the_message(last, whole):
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    for number, (text, end) in enumerate(
        [(b"H|\\^&|||A", b"\x17"), (b"N\r", b"\x03"), (last[:2], b"\x17"), (last[2:], b"\x03"), (b"R|9", b"\x03")], 1
    ):
        talk.opener(frame(number, text, end))
        talk.acceptor(b"\x06")
    talk.opener(b"\x04")
    (session,) = Decoder().feed(talk.batch())
    assert session.messages[0].text == b"H|\\^&|||AN\r" + last + (b"" if whole else b"R|9")
    assert session.messages[0].complete


def test_stray_bytes_that_no_frame_follows_are_kept_in_the_order_in_which_they_came():
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    talk.opener(frame(1, b"H|\\^&|||A\r") + frame(2, b"L|1|N\r") + b"\x04")
    for said in (b"first", b"second", b"third"):
        talk.opener(said)
        talk.acceptor(b"*" + said)
    told = Decoder()
    sessions = told.feed(talk.batch()) + told.end()
    kept = [element.content for session in sessions[1:] for element in session.elements]
    assert kept == [b"first", b"*first", b"second", b"*second", b"third", b"*third"]
    assert {session.ending for session in sessions[1:]} == {Ending.CAPTURE_END}
