"""Which acknowledgement belongs to which message: each rule a row, each row a conversation.

A row is what was said, in order, by whom; then the sessions it must give, by their first message: the control ids of
the messages in each, whether it is complete, how it ended, and the faults that mark what is wrong.
"""

from __future__ import annotations

import pytest

from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending, Session
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk

SECOND = 1_000_000_000


def ask(control_id: str, accept: str = "", application: str = "", kind: str = "ORU^R01") -> bytes:
    return (
        f"\x0bMSH|^~\\&|A|L|B|L|2026||{kind}|{control_id}|P|2.5|||{accept}|{application}\rOBX|1|NM|GLU||5\r\x1c\r"
    ).encode()


def reply(to: str | None, code: str = "AA", kind: str = "ACK", own: str = "") -> bytes:
    msa = f"MSA|{code}" if to is None else f"MSA|{code}|{to}"
    return f"\x0bMSH|^~\\&|B|L|A|L|2026||{kind}|{own or f'a{to}{code}'}|P|2.5\r{msa}\r\x1c\r".encode()


D, L = "device", "lis"
OPEN = "captureEnd"

ROWS = {
    "the request that MSA-2 names": (
        [(D, ask("1")), (D, ask("2")), (L, reply("2"))],
        [(["1"], False, OPEN, []), (["2", "a2AA"], True, "complete", [])],
    ),
    "the first unanswered one of that id": (
        [(D, ask("1")), (D, ask("1")), (L, reply("1")), (D, ask("1")), (L, reply("1", "AE"))],
        [
            (["1", "a1AA"], True, "complete", []),
            (["1", "a1AE"], True, "complete", []),
            (["1"], False, OPEN, []),
        ],
    ),
    "an id that is used again once answered": (
        [(D, ask("1")), (L, reply("1")), (D, ask("1")), (L, reply("1"))],
        [(["1", "a1AA"], True, "complete", []), (["1", "a1AA"], True, "complete", [])],
    ),
    "both sides ask with the same id": (
        [(D, ask("1")), (L, ask("1", kind="QRY^Q01")), (D, reply("1", own="d")), (L, reply("1", own="l"))],
        [(["1", "l"], True, "complete", []), (["1", "d"], True, "complete", [])],
    ),
    "accept and application acknowledgement both": (
        [(D, ask("1", "AL", "AL")), (L, reply("1", "CA")), (L, reply("1", "AA"))],
        [(["1", "a1CA", "a1AA"], True, "complete", [])],
    ),
    "the two the other way round": (
        [(D, ask("1", "AL", "AL")), (L, reply("1", "AA")), (L, reply("1", "CA"))],
        [(["1", "a1AA", "a1CA"], True, "complete", [])],
    ),
    "only one of the two that are asked for": (
        [(D, ask("1", "AL", "AL")), (L, reply("1", "CA"))],
        [(["1", "a1CA"], False, OPEN, [])],
    ),
    "accept acknowledgement only": (
        [(D, ask("1", "AL", "NE")), (L, reply("1", "CA"))],
        [(["1", "a1CA"], True, "complete", [])],
    ),
    "application acknowledgement only": (
        [(D, ask("1", "NE", "AL")), (L, reply("1", "AA"))],
        [(["1", "a1AA"], True, "complete", [])],
    ),
    "refused on acceptance, so nothing follows": (
        [(D, ask("1", "AL", "AL")), (L, reply("1", "CE"))],
        [(["1", "a1CE"], True, "complete", [])],
    ),
    "none wanted": (
        [(D, ask("1", "NE", "NE"))],
        [(["1"], True, "complete", [])],
    ),
    "none wanted unless there is an error, and there is": (
        [(D, ask("1", "ER", "ER")), (L, reply("1", "CR"))],
        [(["1", "a1CR"], True, "complete", [])],
    ),
    "none wanted unless there is an error, and silence": (
        [(D, ask("1", "ER", "NE")), 61],
        [(["1"], True, "complete", [])],
    ),
    "none wanted unless there is an error, and no more": (
        [(D, ask("1", "NE", "ER")), (D, ask("2", "ER", "ER"))],
        [(["1"], True, "complete", []), (["2"], True, "complete", [])],
    ),
    "none wanted at all, and there is one": (
        [(D, ask("1", "NE", "NE")), 300, (D, ask("2")), (L, reply("1", "AE")), (L, reply("2"))],
        [(["1", "a1AE"], True, "complete", []), (["2", "a2AA"], True, "complete", [])],
    ),
    "both, though none is wanted unless there is an error": (
        [(D, ask("1", "ER", "ER")), (L, reply("1", "CA")), (L, reply("1", "AA")), (L, reply("1", "AA"))],
        [(["1", "a1CA", "a1AA", "a1AA"], True, "complete", ["duplicate-acknowledgement"])],
    ),
    "an accept acknowledgement where the mode knows none": (
        [(D, ask("1")), (L, reply("1", "CA")), (D, ask("2")), (L, reply("2", "CE")), (L, reply("2", "AE"))],
        [(["1", "a1CA"], False, OPEN, []), (["2", "a2CE", "a2AE"], True, "complete", [])],
    ),
    "an unknown value of MSH-15, and nothing": (
        [(D, ask("1", "XX")), 61, (D, ask("2"))],
        [(["1"], False, "silent", []), (["2"], False, OPEN, [])],
    ),
    "an unknown value of MSH-15, and an answer": (
        [(D, ask("1", "XX")), (L, reply("1"))],
        [(["1", "a1AA"], True, "complete", [])],
    ),
    "a reply that is no ACK": (
        [(D, ask("1", kind="QBP^Q11")), (L, reply("1", kind="RSP^K11")), (D, ask("2")), (L, reply("2", kind="ORR^O02"))],
        [(["1", "a1AA"], True, "complete", []), (["2", "a2AA"], True, "complete", [])],
    ),
    "a reply in three parts": (
        [(D, ask("1")), (L, reply("1", kind="ACK^R01^ACK"))],
        [(["1", "a1AA"], True, "complete", [])],
    ),
    "an error and a rejection answer too": (
        [(D, ask("1")), (L, reply("1", "AE")), (D, ask("2")), (L, reply("2", "AR"))],
        [(["1", "a1AE"], True, "complete", []), (["2", "a2AR"], True, "complete", [])],
    ),
    "an acknowledgement of an acknowledgement": (
        [(D, ask("1")), (L, reply("1")), (D, reply("a1AA")), (L, reply("aa1AAAA"))],
        [
            (["1", "a1AA"], True, "complete", []),
            (["aa1AAAA"], False, OPEN, ["acknowledged-acknowledgement"]),
            (["aaa1AAAAAA"], False, OPEN, ["unknown-request"]),
        ],
    ),
    "late, within ten minutes": (
        [(D, ask("1")), 300, (L, reply("1"))],
        [(["1", "a1AA"], True, "silent", [])],
    ),
    "too late": (
        [(D, ask("1")), 61, (D, ask("2")), (L, reply("2")), 700, (L, reply("1"))],
        [
            (["1"], False, "silent", []),
            (["2", "a2AA"], True, "complete", []),
            (["a1AA"], False, OPEN, ["unknown-request"]),
        ],
    ),
    "late, and again": (
        [(D, ask("1")), 61, (D, ask("2")), (L, reply("1")), (L, reply("1")), (L, reply("2"))],
        [(["1", "a1AA", "a1AA"], True, "silent", ["duplicate-acknowledgement"]), (["2", "a2AA"], True, "complete", [])],
    ),
    "a second one": (
        [(D, ask("1")), (L, reply("1")), (L, reply("1"))],
        [(["1", "a1AA"], True, "complete", []), (["a1AA"], False, OPEN, ["duplicate-acknowledgement"])],
    ),
    "a second one while the session goes on": (
        [(D, ask("1", "AL", "AL")), (L, reply("1", "CA")), (L, reply("1", "CA")), (L, reply("1", "AA"))],
        [(["1", "a1CA", "a1CA", "a1AA"], True, "complete", ["duplicate-acknowledgement"])],
    ),
    "all earlier ones again with each new one": (
        [
            (D, ask("1")), (L, reply("1")), (D, ask("2")), (L, reply("1") + reply("2")),
            (D, ask("3")), (L, reply("1") + reply("2") + reply("3")),
        ],
        [
            (["1", "a1AA"], True, "complete", []),
            (["2", "a2AA"], True, "complete", []),
            # The same answer again and again is one session: it answers one message.
            (["a1AA", "a1AA"], False, OPEN, ["duplicate-acknowledgement", "duplicate-acknowledgement"]),
            (["3", "a3AA"], True, "complete", []),
            (["a2AA"], False, OPEN, ["duplicate-acknowledgement"]),
        ],
    ),
    "to nobody": (
        [(L, reply("9")), (D, ask("1")), (L, reply("1"))],
        [(["a9AA"], False, OPEN, ["unknown-request"]), (["1", "a1AA"], True, "complete", [])],
    ),
    "by the sender itself, which answers nothing": (
        [(D, ask("1")), (D, reply("1"))],
        [(["1"], False, OPEN, []), (["a1AA"], False, OPEN, ["unknown-request"])],
    ),
    "without ids": (
        [(D, ask("")), (L, reply("")), (D, ask("2")), (L, reply(None))],
        [
            (["", "aAA"], True, "complete", []),
            (["2"], False, OPEN, []),
            (["aNoneAA"], False, OPEN, ["unknown-request"]),
        ],
    ),
    "all of one id": (
        [(D, ask("1")), (L, reply("1", own="ACK")), (D, ask("2")), (L, reply("2", own="ACK"))],
        [(["1", "ACK"], True, "complete", []), (["2", "ACK"], True, "complete", [])],
    ),
    "pipelined, some left unanswered": (
        [(D, ask("1") + ask("2") + ask("3")), (L, reply("3") + reply("1"))],
        [
            (["1", "a1AA"], True, "complete", []),
            (["2"], False, OPEN, []),
            (["3", "a3AA"], True, "complete", []),
        ],
    ),
    "silence": (
        [(D, ask("1")), 61, (D, ask("2"))],
        [(["1"], False, "silent", []), (["2"], False, OPEN, [])],
    ),
}  # fmt: skip


def said(steps: list) -> TcpTalk:
    talk = TcpTalk()
    talk.open()
    for step in steps:
        if isinstance(step, int):
            talk.wait(step)
        elif step[0] == D:
            talk.opener(step[1])
        else:
            talk.acceptor(step[1])
    return talk


def sessions(talk: TcpTalk, *, after: float = 0) -> list[Session]:
    decoder = Decoder()
    told = decoder.feed(PacketBatch.of(talk.packets))
    told += decoder.expire(talk.time_ns) if after == 0 else []
    told += decoder.end()
    last: dict[str, Session] = {}
    for session in told:
        last[session.id] = session
    return sorted(last.values(), key=lambda s: (s.start_ns, s.elements[0].offset))


@pytest.mark.parametrize("row", ROWS)
def test_an_acknowledgement_joins(row):
    steps, expected = ROWS[row]
    found = [
        (
            [message.control_id for message in session.messages],
            session.is_complete,
            session.ending.value,
            [fault.code for element in session.elements for fault in element.faults],
        )
        for session in sessions(said(steps))
    ]
    assert found == expected


def test_another_connections_acknowledgement_is_not_taken():
    first, second = said([(D, ask("1"))]), TcpTalk(opener=("10.0.0.5", 50000), time_ns=START_NS + SECOND)
    second.open()
    second.acceptor(reply("1"))
    decoder = Decoder()
    told = decoder.feed(PacketBatch.of([*first.packets, *second.packets])) + decoder.end()
    assert sorted(len(session.messages) for session in told) == [1, 1]
    assert not any(session.is_complete for session in told)


def test_the_latency_is_from_the_last_byte_of_the_request_to_the_first_of_its_answer():
    talk = TcpTalk()
    talk.open()
    talk.opener(ask("1"), mss=30)
    asked_ns = talk.packets[-2].time_ns
    talk.wait(0.25)
    talk.acceptor(reply("1"), mss=20)
    answered_ns = next(p.time_ns for p in talk.packets if p.time_ns > asked_ns + SECOND // 5)
    (session,) = sessions(talk)
    assert session.latency_ns == answered_ns - asked_ns


def test_what_nobody_answers_has_no_latency():
    (session,) = sessions(said([(D, ask("1"))]))
    assert session.latency_ns is None


def test_an_acknowledgement_before_the_message_has_ended_is_marked_and_the_message_kept():
    """A peer that answers the header and does not wait for the rest."""
    message = ask("1")
    talk = said([(D, message[:40]), (L, reply("1")), (D, message[40:])])
    early, asked = sorted(sessions(talk), key=lambda session: len(session.elements[0].faults), reverse=True)
    assert [fault.code for fault in early.elements[0].faults] == ["unknown-request"]
    assert asked.messages[0].text == message[1:-2]
    assert asked.messages[0].complete


def test_a_late_acknowledgement_is_told_as_an_update_of_its_session():
    talk = said([(D, ask("1")), 100, (D, ask("2")), (L, reply("1"))])
    told = Decoder().feed(PacketBatch.of(talk.packets))
    assert [(session.ending, session.is_complete, session.revision) for session in told] == [
        (Ending.SILENT, False, 0),
        (Ending.SILENT, True, 1),
    ]
    assert told[0].id == told[1].id
    assert [element.late for element in told[1].elements] == [False, True]


def test_an_answer_that_was_not_asked_for_is_told_as_an_update_of_its_session_and_is_not_late():
    talk = said([(D, ask("1", "ER", "ER")), 5, (L, reply("1", "AE"))])
    told = Decoder().feed(PacketBatch.of(talk.packets))
    assert [(s.id, s.ending, s.is_complete, s.revision) for s in told] == [
        (told[0].id, Ending.COMPLETE, True, 0),
        (told[0].id, Ending.COMPLETE, True, 1),
    ]
    assert [element.late for element in told[1].elements] == [False, False]


@pytest.mark.parametrize("behind", [b"\n", b"\r\n", b"\x0b\x06\x1c\r"])
def test_what_comes_behind_the_answer_in_a_packet_of_its_own_belongs_to_the_same_session(behind):
    confirms = behind.startswith(b"\x0b")
    talk = said([(D, ask("1")), (L, reply("1")), (D if confirms else L, behind)])
    told = Decoder().feed(PacketBatch.of(talk.packets))
    assert {session.id for session in told} == {told[0].id}
    assert [session.revision for session in told] == list(range(len(told)))
    assert b"".join(told[-1].raw_of(element) for element in told[-1].elements[2:]) == behind
    assert all(element.late for element in told[-1].elements[2:])


def test_once_a_side_confirms_what_it_gets_a_session_waits_for_that():
    steps = []
    for number in ("1", "2", "3"):
        steps += [(D, ask(number)), (L, b"\x0b\x06\x1c\r"), (L, reply(number)), (D, b"\x0b\x06\x1c\r")]
    told = Decoder().feed(PacketBatch.of(said(steps).packets))
    assert [(s.messages[0].control_id, s.revision, len(s.elements)) for s in told] == [
        ("1", 0, 3),
        ("1", 1, 4),
        ("2", 0, 4),
        ("3", 0, 4),
    ]


def test_a_session_that_waits_for_a_confirmation_ends_complete_without_it():
    steps = [(D, ask("1")), (L, reply("1")), (D, b"\x0b\x06\x1c\r"), (D, ask("2")), (L, reply("2")), 90, (D, ask("3"))]
    found = sessions(said(steps))
    assert [(s.ending.value, s.is_complete) for s in found] == [("complete", True), ("complete", True), (OPEN, False)]


@pytest.mark.parametrize("answer", ["B7", "F3", "1", "3"])
def test_a_batch_is_answered_by_its_own_id_or_that_of_any_of_its_messages(answer):
    batch = b"FHS|^~\\&|A|L|B|L|2026||||F3\rBHS|^~\\&|A|L|B|L|2026||||B7\r"
    batch += b"".join(ask(number)[1:-2] for number in ("1", "2", "3")) + b"BTS|3\rFTS|1\r"
    (session,) = sessions(said([(D, b"\x0b" + batch + b"\x1c\r"), (L, reply(answer))]))
    assert session.is_complete
    assert [message.control_id for message in session.messages] == ["1", "2", "3", f"a{answer}AA"]
