"""What waits on a connection: found by what answers it, in time that grows with the traffic and never with its square."""

from __future__ import annotations

import pytest

from hl7core.model.session import Session
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.linear_time import assert_linear
from wire.mllp_sessions.test_pairing import ask, reply

COMMIT = b"\x0b\x06\x1c\r"
SEGMENT = 60_000


def batch(count: int) -> bytes:
    messages = b"".join(ask(str(number))[1:-2] for number in range(count))
    return b"\x0bBHS|^~\\&|A|L|B|L|2026||||B\r" + messages + b"\x1c\r"


def unanswered(talk: TcpTalk, count: int) -> None:
    for number in range(count):
        talk.opener(ask(str(number)))


def none_wanted(talk: TcpTalk, count: int) -> None:
    for number in range(count):
        talk.opener(ask(str(number), "NE", "ER"))
        talk.wait(1)
    for number in range(count):
        talk.acceptor(reply(str(number), "CR"))


def answered_backwards(talk: TcpTalk, count: int) -> None:
    unanswered(talk, count)
    for number in reversed(range(count)):
        talk.acceptor(reply(str(number)))


def all_of_one_id_on_both_levels(talk: TcpTalk, count: int) -> None:
    for _ in range(count):
        talk.opener(ask("1", "AL", "AL"))
    for code in ("CA", "AA"):
        for _ in range(count):
            talk.acceptor(reply("1", code))


def answers_to_nothing(talk: TcpTalk, count: int) -> None:
    talk.opener(ask("x"))
    for number in range(count):
        talk.acceptor(reply(str(number)))


def the_same_answer_to_nothing(talk: TcpTalk, count: int) -> None:
    for _ in range(count):
        talk.acceptor(reply("1"))


def a_batch_acknowledged_one_by_one(talk: TcpTalk, count: int) -> None:
    talk.opener(batch(count), mss=SEGMENT)
    for number in range(count):
        talk.acceptor(reply(str(number)))


def a_batch_of_which_no_trailer_counts_right(talk: TcpTalk, count: int) -> None:
    talk.opener(b"\x0b" + (ask("1")[1:-2] + b"BTS|9\r") * count + b"\x1c\r", mss=SEGMENT)


def gaps_in_what_might_have_answered(talk: TcpTalk, count: int) -> None:
    unanswered(talk, count)
    for number in range(count):
        talk.lose(1, b"x")
        talk.acceptor(reply(f"n{number}"))
        talk.opener(b"\n")


def batches_that_still_owe_while_the_other_side_asks(talk: TcpTalk, count: int) -> None:
    for number in range(count):
        talk.opener(ask(f"o{number}"), mss=SEGMENT)
    talk.opener(
        b"".join(b"\x0b" + ask(f"p{n}")[1:-2] + ask(f"q{n}")[1:-2] + b"\x1c\r" for n in range(count)), mss=SEGMENT
    )
    talk.acceptor(b"".join(reply(f"p{n}") for n in range(count)), mss=SEGMENT)
    for number in range(count):
        talk.acceptor(ask(f"l{number}"))


def confirmed_again_and_again(talk: TcpTalk, count: int) -> None:
    talk.opener(ask("1"))
    talk.acceptor(reply("1"))
    talk.opener(COMMIT * count * 4, mss=SEGMENT)


def line_ends_behind_a_batch(talk: TcpTalk, count: int) -> None:
    talk.opener(batch(count), mss=SEGMENT)
    talk.acceptor(reply("B"))
    for _ in range(count):
        talk.acceptor(b"\n" + COMMIT)


def one_a_second(talk: TcpTalk, count: int) -> None:
    for number in range(count):
        talk.opener(ask(str(number)))
        talk.wait(1)


SHAPES = (
    unanswered, none_wanted, answered_backwards, all_of_one_id_on_both_levels, answers_to_nothing,
    the_same_answer_to_nothing, a_batch_acknowledged_one_by_one, a_batch_of_which_no_trailer_counts_right,
    gaps_in_what_might_have_answered, batches_that_still_owe_while_the_other_side_asks, confirmed_again_and_again,
    line_ends_behind_a_batch, one_a_second,
)  # fmt: skip


WATCHED = (a_batch_acknowledged_one_by_one, all_of_one_id_on_both_levels)


@pytest.mark.parametrize(
    ("shape", "watched"),
    [*((shape, False) for shape in SHAPES), *((shape, True) for shape in WATCHED)],
    ids=lambda given: getattr(given, "__name__", "watched" if given else ""),
)
def test_a_flood_on_one_connection_costs_what_its_packets_cost(shape, watched):
    options = DecoderOptions(watch_messages=watched, ack_timeout_ns=86_400 * 10**9)
    batches = {}
    for count in (1000, 4000):
        talk = TcpTalk(step_ns=1000)
        talk.open()
        shape(talk, count)
        batches[count] = talk.batch()

    def work(count: int) -> None:
        decoder = Decoder(options)
        decoder.feed(batches[count])
        decoder.end()

    assert_linear(work, 1000)


def said(*steps: tuple[str, bytes] | int) -> list[Session]:
    """Return the last that is told of each session, oldest first, and then what is still open."""
    talk = TcpTalk()
    talk.open()
    for step in steps:
        if isinstance(step, int):
            talk.wait(step)
        else:
            (talk.opener if step[0] == "device" else talk.acceptor)(step[1])
    decoder = Decoder()
    told = decoder.feed(talk.batch()) + decoder.end()
    last = {session.id: session for session in told}
    return sorted(last.values(), key=lambda session: (session.start_ns, session.elements[0].offset))


def controls(session: Session) -> list[str]:
    return [message.control_id for message in session.messages]


def test_late_acknowledgements_of_one_id_join_one_unanswered_request_each():
    first, second, other = said(
        ("device", ask("1")), ("device", ask("1")), 61, ("device", ask("2")),
        ("lis", reply("1", own="x")), ("lis", reply("1", own="y")),
    )  # fmt: skip
    assert (controls(first), first.is_complete) == (["1", "x"], True)
    assert (controls(second), second.is_complete) == (["1", "y"], True)
    assert controls(other) == ["2"]


def test_a_thousand_late_acknowledgements_each_join_their_own_request():
    numbers = [str(number) for number in range(1000)]
    *asked, _ = said(
        *(("device", ask(number)) for number in numbers), 100, ("device", ask("x")),
        *(("lis", reply(number)) for number in numbers),
    )  # fmt: skip
    assert [controls(session) for session in asked] == [[number, f"a{number}AA"] for number in numbers]
    assert {(session.ending.value, session.is_complete) for session in asked} == {("silent", True)}


def test_who_is_heard_of_again_does_not_hold_up_the_silence_of_the_others():
    asked = said(
        ("device", ask("1", "AL", "AL")), ("device", ask("2")), 50, ("lis", reply("1", "CA")), 30, ("device", ask("3"))
    )
    assert [(controls(session)[0], session.ending.value) for session in asked] == [
        ("1", "captureEnd"),
        ("2", "silent"),
        ("3", "captureEnd"),
    ]


def test_several_commits_at_once_are_told_once():
    talk = TcpTalk()
    talk.open()
    talk.opener(ask("1"))
    talk.acceptor(reply("1"))
    talk.opener(COMMIT * 100)
    told = Decoder().feed(talk.batch())
    assert [(session.revision, len(session.elements)) for session in told] == [(0, 2), (1, 102)]
