"""How a session ended, in words."""

import re
from enum import StrEnum

import click
import pytest

from hl7core.cli.output.endings import ending_text
from hl7core.cli.output.text import headline, ladder
from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending
from hl7core.testing import TcpTalk, make_session
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pins import parse_pins

ENQ, ACK, NAK, EOT = b"\x05", b"\x06", b"\x15", b"\x04"
ORU = b"\x0bMSH|^~\\&|A|B|C|D|||ORU^R01|M1|P|2.5\r\x1c\r"
ENHANCED = b"\x0bMSH|^~\\&|A|B|C|D|||ORU^R01|M1|P|2.5|||AL|AL\r\x1c\r"
COMMIT = b"\x0bMSH|^~\\&|C|D|A|B|||ACK|R1|P|2.5\rMSA|CA|M1\r\x1c\r"
ANSWER = b"\x0bMSH|^~\\&|C|D|A|B|||ACK|R1|P|2.5\rMSA|AA|M1\r\x1c\r"
UNASKED = b"\x0bMSH|^~\\&|C|D|A|B|||ACK|R1|P|2.5\rMSA|AA|M9\r\x1c\r"


def frame(number, text):
    body = b"%d" % number + text + b"\x03"
    return b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF)


FRAME = frame(1, b"H|\\^&|||SIM\r")
RESULT = frame(2, b"R|1|^^^GLU|5.4\r")


def first_session(*said, then=None, pause=0):
    """The session that the conversation begins with: bytes of the opener and the acceptor, in turn."""
    talk = TcpTalk()
    talk.open()
    for turn, data in enumerate(said):
        (talk.acceptor if turn % 2 else talk.opener)(data)
    if then is not None:
        talk.wait(pause)
        talk.acceptor(then)
    pinned = parse_pins(f":{talk.ends[1].port}=lis01") if said[0] == ENQ else ()  # an ENQ alone tells no protocol
    decoder = Decoder(DecoderOptions(protocols=pinned))
    sessions = decoder.feed(PacketBatch.of(talk.packets))
    sessions += decoder.expire(talk.time_ns + 100_000_000_000) if then is None else []
    sessions += decoder.end()
    by_id = {session.id: session for session in sessions}  # the newest of each
    return by_id[sessions[0].id]


def shown(session):
    """What ``list`` and ``show`` say of it."""
    return click.unstyle(headline(session)), click.unstyle(next(ladder(session)))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((ENQ,), "no answer to ENQ seen"),
        ((ENQ, ACK), "no EOT seen"),
        ((ENQ, ACK, FRAME), "no answer to the last frame seen"),
        ((ENQ, ACK, FRAME, ACK), "no EOT seen"),
        ((ENQ, ACK, FRAME, NAK), "nothing followed the NAK"),
        ((ENQ, ACK, FRAME, ACK, RESULT, EOT), "nothing followed the receiver's EOT"),
        ((ENQ, ACK, FRAME, ACK, EOT), "complete"),
        ((ORU,), "no answer seen"),
        ((ORU, ANSWER), "complete"),
        ((ENHANCED, COMMIT), "an acknowledgement is missing"),
        ((b"", UNASKED), "its request was not seen"),
    ],
)
def test_silence_is_described_by_what_the_capture_shows(said, words):
    session = first_session(*said)
    assert ending_text(session) == words
    assert all(words in text for text in shown(session))


def test_an_exchange_answered_late_is_not_said_to_have_no_answer():
    session = first_session(ORU, then=ANSWER, pause=100)
    assert (session.ending, session.is_complete) == (Ending.SILENT, True)
    assert ending_text(session) == "answered late"
    assert all("answered late" in text for text in shown(session))


def test_list_and_show_agree_on_a_truncated_message_that_was_acknowledged():
    session = make_session(1, is_complete=False, ending=Ending.COMPLETE)
    for text in shown(session):
        assert "incomplete" in text
        assert not re.search(r"\bcomplete", text)


class Later(StrEnum):
    """Endings of a later version."""

    TIMED_OUT = "timedOut"


PROTOCOLS = ("mllp", "lis01", "plain", "vendor_dialect")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ending", [*Ending, *Later])
@pytest.mark.parametrize("bare", [False, True], ids=["said", "nothing_said"])
def test_every_ending_of_every_protocol_has_words_the_same_in_list_and_show(ending, protocol, bare):
    session = make_session(1, protocol="lis01" if protocol == "vendor_dialect" else protocol)
    session = session._replace(protocol=protocol, ending=ending, is_complete=ending is Ending.COMPLETE)
    if bare:
        session = session._replace(elements=(), messages=())
    words = ending_text(session)
    assert re.fullmatch(r"[A-Za-z':, ]{5,40}", words)
    assert all(words in text for text in shown(session))


def test_an_ending_of_a_later_version_is_described_by_its_own_name():
    assert ending_text(make_session(1, is_complete=False)._replace(ending=Later.TIMED_OUT)) == "timed out"
