"""What waits in sessions is bounded in bytes: for a connection, for all together; nothing is lost by it."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending, Session
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.mllp_sessions.exchange import end_of
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from hl7core.wire.tls.keylog import KeyLog
from tls_peers import TlsTalk
from wire.mllp_sessions.test_pairing import ask, reply

MIB = 1 << 20


def large(control_id: str, size: int = 100_000) -> bytes:
    return ask(control_id)[:-2] + b"OBX|2|ED|" + b"x" * size + b"\r\x1c\r"


def talks(count: int) -> list[TcpTalk]:
    made = []
    for number in range(count):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000), time_ns=START_NS + number * 10**7)
        talk.open()
        made.append(talk)
    return made


def feed(decoder: Decoder, talk: TcpTalk) -> list[Session]:
    """Feed what a conversation has said since."""
    sessions = decoder.feed(PacketBatch.of(talk.packets))
    talk.packets.clear()
    return sessions


def held(decoder: Decoder) -> int:
    """Return how many bytes of messages wait in sessions that go on, counted one by one."""
    found = 0
    trackers = [half.connection.tracker for half in decoder._halves.values() if half.side == 0]
    for tracker in trackers:
        if tracker is None:
            continue
        if hasattr(tracker, "fast_path"):
            found += len(tracker.fast_path.request.block) if tracker.fast_path.request is not None else 0
            waiting = tracker._unanswered
            exchanges = () if waiting is None else {e.id: e for e in (*waiting.open(), *waiting.late.values())}.values()
            found += sum(len(m.text) for e in exchanges for m in e.messages)
        elif tracker._builder is not None:
            found += sum(len(placed.frame.raw) for placed in tracker._builder.placed)
    return found


def assert_marked(session: Session) -> None:
    """It says that it was let go, and where."""
    assert session.ending is Ending.EVICTED
    assert not session.is_complete
    last = session.elements[-1]
    assert [(fault.code, fault.offset) for fault in last.faults][-1] == ("evicted", end_of(last))


def test_a_peer_that_never_acknowledges_large_messages_holds_no_more_than_a_quarter():
    decoder = Decoder(DecoderOptions(reassembly_bytes=8 * MIB, max_message=MIB))
    (talk,) = talks(1)
    sessions = []
    for number in range(100):
        talk.opener(large(str(number)), mss=60_000)
        sessions += feed(decoder, talk)
        assert held(decoder) <= 2 * MIB + 100_000
    for session in sessions:
        assert_marked(session)
    assert decoder.counters["crowded"] == len(sessions) > 70
    assert decoder.counters["evicted"] == 0
    sessions += decoder.end()
    assert [s.messages[0].control_id for s in sessions] == [str(number) for number in range(100)]  # the oldest first
    assert all(message.complete for session in sessions for message in session.messages)


def test_one_message_of_the_largest_size_may_always_wait():
    decoder = Decoder(DecoderOptions(reassembly_bytes=4 * MIB, max_message=2 * MIB))
    (talk,) = talks(1)
    talk.opener(large("1", 2 * MIB - 200), mss=60_000)
    talk.acceptor(reply("1"))
    (session,) = feed(decoder, talk)
    assert session.is_complete
    assert decoder.counters["crowded"] == 0


@pytest.mark.parametrize("before", [0, 1], ids=["slow path", "fast path"])
def test_all_that_waits_for_an_answer_is_bounded_together(before):
    """Also where only one message waits on each connection, on the fast path."""
    decoder = Decoder(DecoderOptions(reassembly_bytes=4 * MIB, max_message=MIB))
    sessions = []
    everyone = talks(100)
    for number, talk in enumerate(everyone):
        if before:
            talk.opener(ask(f"before{number}"))
            talk.acceptor(reply(f"before{number}"))
        talk.opener(large(str(number), 100_000 if number != 7 else 150_000), mss=60_000)
        sessions += feed(decoder, talk)
        assert held(decoder) <= 4 * MIB
    evicted = [session for session in sessions if session.ending is Ending.EVICTED]
    for session in evicted:
        assert_marked(session)
    assert decoder.counters["crowded"] == len(evicted) > 50
    assert evicted[0].messages[0].control_id == "7"  # who holds most goes first
    for number, talk in enumerate(everyone):
        talk.acceptor(reply(str(number)))
        sessions += feed(decoder, talk)
    sessions += decoder.end()
    asked = [m.control_id for s in sessions for m in s.messages if m.reply_to is None]
    assert sorted(asked) == sorted([*map(str, range(100)), *(f"before{n}" for n in range(100) if before)])
    answered = [s for s in sessions if s.is_complete and not s.messages[0].control_id.startswith("before")]
    unknown = [s for s in sessions for e in s.elements for f in e.faults if f.code == "unknown-request"]
    assert len(answered) + len(evicted) == 100
    assert len(unknown) == len(evicted)  # what answers a message that was let go is kept too


def test_small_messages_that_wait_are_counted_with_what_they_take_besides_their_bytes():
    decoder = Decoder(DecoderOptions(reassembly_bytes=2 * MIB, max_message=MIB // 4))
    (talk,) = talks(1)
    told = 0
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5000):
            talk.opener(ask(str(number)))
            told += len(feed(decoder, talk))
        gc.collect()  # Python keeps some tuples for the next
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert MIB // 4 < after - before < MIB * 5 // 8  # a quarter of all, and the connection
    assert told + len(decoder.end()) == 5000
    assert decoder.counters["crowded"] == told > 4000


def test_the_same_acknowledgement_again_and_again_is_bounded():
    decoder = Decoder(DecoderOptions(reassembly_bytes=MIB, max_message=MIB // 4))
    (talk,) = talks(1)
    talk.opener(ask("1", "AL", "AL"))
    told = feed(decoder, talk)
    for _ in range(2000):
        talk.acceptor(reply("1", "CA"))
        told += feed(decoder, talk)
        assert held(decoder) <= MIB // 4
    told += decoder.end()
    assert_marked(told[0])
    assert sum(len(session.messages) for session in told) == 2001


def test_what_has_been_told_and_may_still_be_acknowledged_late_is_let_go_first_and_unmarked():
    decoder = Decoder(DecoderOptions(reassembly_bytes=4 * MIB, max_message=MIB // 4))
    (talk,) = talks(1)
    for number in range(8):
        talk.opener(large(f"early{number}"), mss=60_000)
    talk.wait(61)
    told = feed(decoder, talk)
    for number in range(8):
        talk.opener(large(f"later{number}"), mss=60_000)
        told += feed(decoder, talk)
    assert [session.ending for session in told] == [Ending.SILENT] * 8
    assert held(decoder) <= MIB
    assert decoder.counters["crowded"] > 0
    talk.acceptor(reply("early0") + reply("early7") + reply("later0"))
    told = feed(decoder, talk) + decoder.end()
    found = {s.messages[-1].reply_to: s for s in told if s.messages[-1].reply_to is not None}
    assert [fault.code for fault in found["early0"].elements[0].faults] == ["unknown-request"]
    assert found["later0"].is_complete
    assert found["early7"].is_complete


def test_sessions_without_an_end_are_bounded_together():
    decoder = Decoder(DecoderOptions(reassembly_bytes=2 * MIB, max_message=MIB))
    sessions = []
    for number, talk in enumerate(talks(60)):
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        for frame in range(1, 5):
            body = b"%dR|%d|" % (frame, number) + b"x" * 15_000 + b"\r\x03"
            talk.opener(b"\x02" + body + b"%02X\r\n" % (sum(body) % 256), mss=60_000)
            talk.acceptor(b"\x06")
        sessions += feed(decoder, talk)
        assert held(decoder) <= 2 * MIB
    assert decoder.counters["crowded"] == len(sessions) > 20
    for session in sessions:
        assert_marked(session)
    sessions += decoder.end()
    assert sum(m.text.count(b"x") for s in sessions for m in s.messages) == 60 * 4 * 15_000
    assert len({session.id for session in sessions}) == 60


def test_a_session_of_countless_elements_is_let_go_and_the_next_goes_on():
    decoder = Decoder(DecoderOptions(reassembly_bytes=MIB, max_message=MIB // 4))
    (talk,) = talks(1)
    talk.opener(b"\x05")
    told = feed(decoder, talk)
    for _ in range(3000):
        talk.acceptor(b"\x06")
        told += feed(decoder, talk)
    told += decoder.end()
    for session in told[:-1]:
        assert_marked(session)
    assert len(told) > 3
    assert sum(len(session.elements) for session in told) == 3001


def test_what_is_let_go_with_its_connection_says_so_too():
    decoder = Decoder(DecoderOptions(max_connections=5))
    sessions = []
    for number, talk in enumerate(talks(20)):
        talk.opener(ask(str(number)))
        sessions += feed(decoder, talk)
    assert decoder.counters["evicted"] == len(sessions) > 10
    for session in sessions:
        assert_marked(session)


def test_what_is_let_go_within_tls_says_that_it_was_encrypted(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    tls.open()
    for number in range(30):
        tls.opener(large(str(number)))
    decoder = Decoder(DecoderOptions(reassembly_bytes=2 * MIB, max_message=MIB), keys=KeyLog(tls.keys.read_bytes()))
    sessions = decoder.feed(PacketBatch.of(tls.talk.packets))
    assert len(sessions) == 20  # by the bound of the connection
    for talk in talks(2):  # and more, by the bound over all, as others want the room
        for number in range(9):
            talk.opener(large(f"other{number}"), mss=60_000)
        sessions += feed(decoder, talk)
    assert len(sessions) == decoder.counters["crowded"] > 22
    found = []
    for session in sessions:
        assert_marked(session)
        found += [finding.code for finding in session.findings]
        assert bool(session.findings) != session.messages[0].control_id.startswith("other")
    assert found == ["tls"] * len(found)
    assert len(found) > 20
    assert len(sessions) + len(decoder.end()) == 30 + 18


def test_nothing_is_held_once_all_sessions_have_ended():
    decoder = Decoder(DecoderOptions(max_message=MIB))
    for number, talk in enumerate(talks(10)):
        for _ in range(3):
            talk.opener(large(str(number)), mss=60_000)
        talk.acceptor(reply(str(number)) + b"noise")
        feed(decoder, talk)
    assert decoder._streams._budget.held > 2_000_000
    decoder.end()
    assert decoder._streams._budget.held == 0
