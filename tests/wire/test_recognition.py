"""Recognition: pins first, then the first bytes, and dialects of plugins before the built-in ones."""

from __future__ import annotations

import pytest

from hl7core.wire.connection import DecoderOptions
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.framing.lis01 import Lis01Framer
from hl7core.wire.pins import Pin
from wire.first_bytes import FRAME, ORU, sessions
from wire.lossy_talks import RECORDS, Talk, frame, plain_sessions, sessions_of, whole_messages, without


def test_a_pinned_protocol_is_spoken_from_the_first_byte():
    found, decoder = sessions([(0, b"no header at all")], DecoderOptions(protocols=(Pin("", 4000, "mllp"),)))
    assert [s.protocol for s in found] == ["mllp"]
    assert found[0].raw_of(found[0].elements[0]) == b"no header at all"
    assert decoder.counters["ignored"] == 0


def test_a_dialect_of_others_is_asked_again_at_the_beginning_that_it_names():
    asked = []

    def score(first: bytes, second: bytes) -> int:
        asked.append(first)
        return 3 if first.startswith(b"<lab>") else 0

    dialect = Dialect("tagged", score, Lis01Framer, turns=True, again=(b"<lab>",))
    said = [(0, b"\xfe" * 5000), (0, b"<lab>" + FRAME)]
    found, _ = sessions(said, dialects=[dialect])
    assert {s.protocol for s in found} == {"tagged"}
    assert sessions(said)[0] == []


def test_all_dialects_are_asked_at_a_block_that_begins_with_msh():
    dialect = Dialect("mine", lambda first, _: 3 if first.startswith(b"\x0bMSH") else 0, Lis01Framer, turns=True)
    found, _ = sessions([(0, b"\xfe" * 5000), (0, ORU)], dialects=[dialect])
    assert {s.protocol for s in found} == {"mine"}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (3,), (1, 2), (1, 2, 3), (2, 3, 4), (0, 1, 2), (1, 5, 40)])
def test_a_plain_header_that_was_cut_is_not_taken_for_lis01(count, lost):
    """STX and the ``H`` of ``MSH`` look like a header record once the bytes between them are gone."""
    talk, begins = plain_sessions(count, 1)
    sessions = sessions_of(without(talk, *(begins[0] + number for number in lost)))
    assert {session.protocol for session in sessions} == {"plain"}
    assert whole_messages(sessions) == [text for text, _ in talk.sent[1:]]


@pytest.mark.parametrize("lost", range(24))
def test_a_lis01_frame_that_was_cut_is_still_lis01(lost):
    talk = Talk(acceptor=("10.0.0.9", 6661))
    talk.open()
    talk.say(0, b"\x05", 1)
    talk.say(1, b"\x06", 1)
    begin = len(talk.packets)
    for number, record in enumerate(RECORDS, 1):
        talk.say(0, frame(number, record), 1)
        talk.say(1, b"\x06", 1)
    talk.say(0, b"\x04", 1)
    sessions = sessions_of(without(talk, begin + lost))
    assert {session.protocol for session in sessions} == {"lis01"}
    # What is missing may be but an answer, or a line end; then the message is whole, and as it was sent.
    assert set(whole_messages(sessions)) <= {b"".join(RECORDS)}
