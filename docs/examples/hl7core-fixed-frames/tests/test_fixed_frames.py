"""The dialect in the framer contract, and in conversations."""

import pytest
from hl7core_fixed_frames import FixedFramer, dialect

from hl7core import Decoder, FrameKind
from hl7core.testing import FramerContract, TcpTalk

RESULT = b"\x02R" + b"S-0001".ljust(10) + b"GLU".ljust(6) + b"5.4".rjust(10) + b"mmol/l" + b"\x03"
END = b"\x02E" + b" " * 32 + b"\x03"


class TestFixedFrames(FramerContract):
    def make_dialect(self):
        return dialect()

    def pieces(self):
        return [RESULT, END, RESULT[:20], RESULT[20:], b"\x06", b"\x15"]

    def conversation(self):
        return RESULT + END, b"\x06"


def test_a_run_is_a_session_with_a_message_for_each_result():
    talk = TcpTalk()
    talk.open()
    for frame in (RESULT, RESULT.replace(b"GLU", b"URE")):
        talk.opener(frame)
        talk.acceptor(b"\x06")
    talk.opener(END)
    (session,) = Decoder(dialects=[dialect()]).feed(talk.batch())
    assert (session.protocol, session.is_complete) == ("fixed_frames", True)
    assert [message.text[1:7] for message in session.messages] == [b"S-0001", b"S-0001"]


def test_a_refused_result_is_kept_and_left_out():
    talk = TcpTalk()
    talk.open()
    for frame, answer in ((RESULT, b"\x15"), (RESULT, b"\x06"), (END, b"")):
        talk.opener(frame)
        if answer:
            talk.acceptor(answer)
    (session,) = Decoder(dialects=[dialect()]).feed(talk.batch())
    assert len(session.messages) == 1
    assert sum(element.type == "message" for element in session.elements) == 2


def test_without_the_dialect_there_is_no_session():
    talk = TcpTalk()
    talk.open()
    talk.opener(RESULT)
    talk.acceptor(b"\x06")
    decoder = Decoder()
    assert [*decoder.feed(talk.batch()), *decoder.end()] == []


@pytest.mark.parametrize("cut", range(1, 35))
def test_half_a_frame_waits_for_the_rest_even_if_the_other_side_speaks(cut):
    framer = FixedFramer(32, 0)
    assert framer.feed(RESULT[:cut]) + framer.settle() == []
    (frame,) = framer.feed(RESULT[cut:])
    assert frame.kind is FrameKind.DATA
    assert frame.text == RESULT[1:-1]
