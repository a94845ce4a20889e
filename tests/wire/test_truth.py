"""Whatever the network and the capture do to a conversation, its messages are told as they were sent.

A conversation is made, then damaged.  What was sent, and which bytes of it are left in the capture, is known without
any decoder: whatever is wholly there must come out once, in order, byte for byte; nothing else may be called whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.packet import Interface, Packet
from hl7core.model.session import Direction
from wire.lossy_talks import PLAIN_PORT, RECORDS, Talk, frame, sessions_of, whole_messages
from wire.mllp_blocks import block


@st.composite
def mllp(draw) -> Talk:
    talk = Talk(isn=draw(st.tuples(sequence_numbers, sequence_numbers)))
    talk.open()
    mss = draw(st.integers(1, 120))
    size = draw(st.integers(0, 60))
    pipelined = draw(st.booleans())
    count = draw(st.integers(1, 4))

    def request(number: int) -> None:
        text = b"MSH|^~\\&|A|L|B|L|2026||ORU^R01|M%d|P|2.5\rOBX|1|TX|||" % number + b"x" * size + b"\r"
        talk.sent.append((text, [talk.say(0, block(text), mss)]))

    def reply(number: int) -> None:
        text = b"MSH|^~\\&|B|L|A|L|2026||ACK|A%d|P|2.5\rMSA|AA|M%d\r" % (number, number)
        talk.sent.append((text, [talk.say(1, block(text), mss)]))

    for steps in ([request, reply],) if not pipelined else ([request], [reply]):
        for number in range(count):
            for step in steps:
                step(number)
    _leave(draw, talk)
    return talk


@st.composite
def lis01(draw) -> Talk:
    talk = Talk(isn=draw(st.tuples(sequence_numbers, sequence_numbers)), acceptor=("10.0.0.9", 6661))
    talk.open()
    mss = draw(st.integers(1, 60))
    for session in range(draw(st.integers(1, 3))):
        opening = [talk.say(0, b"\x05", mss), talk.say(1, b"\x06", mss)]
        number = 0
        said = []
        for message in range(draw(st.integers(1, 2))):
            spans = list(opening)
            records = [*RECORDS[:3], b"R|1|^^^GLU|%d%d\r" % (session, message), RECORDS[4]]
            for record in records:
                number += 1
                spans += [talk.say(0, frame(number, record), mss), talk.say(1, b"\x06", mss)]
            said.append((b"".join(records), spans))
        end = talk.say(0, b"\x04", mss)
        talk.sent += [(text, [*spans, end]) for text, spans in said]
    _leave(draw, talk)
    return talk


@st.composite
def plain(draw) -> Talk:
    talk = Talk(isn=draw(st.tuples(sequence_numbers, sequence_numbers)), acceptor=("10.0.0.9", PLAIN_PORT))
    talk.open()
    mss = draw(st.integers(1, 60))
    separator = draw(st.sampled_from([b"\r", b"\r\n"]))
    for session in range(draw(st.integers(1, 3))):
        opening = [talk.say(0, b"\x05", mss), talk.say(1, b"\x06", mss)]
        said = []
        for message in range(draw(st.integers(1, 2))):
            header = b"MSH|^~\\&|A|L|B|L|2026||ORU^R01|M%d%d|P|2.5" % (session, message)
            text = separator.join([header, b"PID|1||P7", b"OBX|1|NM|GLU||5"])
            said.append((text, [*opening, talk.say(0, b"\x02" + text + b"\r\n", mss), talk.say(1, b"\x06", mss)]))
        end = talk.say(0, b"\x04", mss)
        talk.sent += [(text, [*spans, end]) for text, spans in said]
    _leave(draw, talk)
    return talk


def _leave(draw, talk: Talk) -> None:
    how = draw(st.sampled_from(["stays", "closes", "resets"]))
    if how == "closes":
        talk.close()
    elif how == "resets":
        talk.reset(draw(st.integers(0, 1)))


sequence_numbers = st.one_of(st.integers(0, 0xFFFFFFFF), st.integers(0xFFFFFFFF - 600, 0xFFFFFFFF))
talks = st.one_of(mllp(), lis01(), plain())


def tcp(packet: Packet) -> tuple[int, int, int]:
    """Which side sent it, its sequence number, the length of its payload."""
    total, seq = struct.unpack_from(">H", packet.data, 16)[0], struct.unpack_from(">I", packet.data, 38)[0]
    return (0 if packet.data[29] == 5 else 1), seq, total - 40


def expected(
    talk: Talk, side: int, whole: Callable[[list[tuple[int, int, int]]], bool] = lambda _: True
) -> list[bytes]:
    return [text for text, spans in talk.sent if spans[0][0] == side and whole(spans)]


DIRECTIONS = (Direction.FROM_DEVICE, Direction.FROM_LIS)


def hold(talk: Talk, packets: list[Packet]) -> None:
    """All that was sent comes out, and is whole, and nothing else."""
    sessions = sessions_of(packets)
    for side, direction in enumerate(DIRECTIONS):
        assert whole_messages(sessions, direction) == expected(talk, side)
    assert all(message.complete for session in sessions for message in session.messages)
    assert all(session.is_complete for session in sessions), [session.ending for session in sessions]


def shifted(packet: Packet, nanoseconds: int) -> Packet:
    return packet._replace(time_ns=packet.time_ns + nanoseconds)


def retimed(packets: list[Packet]) -> list[Packet]:
    """As if they had been captured in this order."""
    times = sorted(packet.time_ns for packet in packets)
    return [packet._replace(time_ns=time_ns) for packet, time_ns in zip(packets, times, strict=True)]


@given(talks)
@settings(deadline=None)
def test_a_sound_capture_gives_every_message(talk):
    hold(talk, talk.packets)


@given(talks, st.randoms(use_true_random=False), st.integers(2, 6), st.booleans())
@settings(deadline=None)
def test_packets_stored_out_of_order_change_nothing(talk, random, window, times_too):
    packets: list[Packet] = []
    for at in range(0, len(talk.packets), window):
        run = talk.packets[at : at + window]
        random.shuffle(run)
        packets += run
    hold(talk, retimed(packets) if times_too else packets)


@given(talks, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_repeats_and_overlaps_change_nothing_and_of_two_versions_the_first_stands(talk, random):
    packets: list[Packet] = []
    for packet in talk.packets:
        packets.append(packet)
        _, seq, size = tcp(packet)
        for _ in range(random.choice([0, 0, 1, 2])):
            if size <= 0:
                packets.append(shifted(packet, 1000))
                continue
            begin = random.randrange(size)
            end = random.randrange(begin, size) + 1
            payload = packet.data[54 + begin : 54 + end]
            if random.random() < 0.5:
                payload = bytes(byte ^ 0xFF for byte in payload)
            data = bytearray(packet.data[:54] + payload)
            struct.pack_into(">I", data, 38, seq + begin & 0xFFFFFFFF)
            struct.pack_into(">H", data, 16, 40 + len(payload))
            packets.append(shifted(packet._replace(data=bytes(data).ljust(60, b"\0")), 1000))
    hold(talk, packets)


@given(talks, st.integers(0, 40), st.integers(1, 30), st.booleans())
@settings(deadline=None)
def test_the_same_traffic_on_two_interfaces_is_told_once(talk, lag, run, one_by_one):
    other = Interface("other", description="the same network")
    copies = [shifted(packet, lag * 1000)._replace(interface=other) for packet in talk.packets]
    if one_by_one:
        packets = talk.packets + copies
    else:
        packets = []
        for at in range(0, len(copies), run):
            packets += talk.packets[at : at + run] + copies[at : at + run]
    hold(talk, packets)


@given(talks, st.integers(1, 9))
@settings(deadline=None)
def test_keep_alives_and_window_probes_are_no_bytes(talk, every):
    packets: list[Packet] = []
    for number, packet in enumerate(talk.packets):
        packets.append(packet)
        _, seq, size = tcp(packet)
        if size > 0 and number % every == 0:
            data = bytearray(packet.data[:55])
            struct.pack_into(">I", data, 38, seq + size - 1 & 0xFFFFFFFF)
            struct.pack_into(">H", data, 16, 41)
            packets.append(shifted(packet._replace(data=bytes(data).ljust(60, b"\0")), 1000))
    hold(talk, packets)


@given(talks, st.data())
@settings(deadline=None)
def test_what_the_capture_lost_costs_no_message_that_it_has(talk, data):
    """Packets are missing from the capture only: the peers had them and went on."""
    carrying = [number for number, packet in enumerate(talk.packets) if tcp(packet)[2] > 0]
    lost = data.draw(st.sets(st.sampled_from(carrying), max_size=4)) if carrying else set()
    captured = [packet for number, packet in enumerate(talk.packets) if number not in lost]
    gaps = []
    for number in lost:
        side, seq, size = tcp(talk.packets[number])
        begin = (seq - talk.starts[side] - 1) & 0xFFFFFFFF
        gaps.append((side, begin, begin + size))

    def whole(spans: list[tuple[int, int, int]]) -> bool:
        return not any(
            side == other and begin < stop and start < end for side, begin, end in spans for other, start, stop in gaps
        )

    sessions = sessions_of(captured)
    for side, direction in enumerate(DIRECTIONS):
        came, there = whole_messages(sessions, direction), expected(talk, side, whole)
        sent = expected(talk, side)
        assert [text for text in came if text in there] == there, "a message that was captured is missing"
        # LIS01 whose ENQ, ACK or EOT alone is missing may be whole all the same.
        assert [text for text in sent if text in came] == came, "a message is told that was never sent, or twice"


@given(talks, st.integers(0, 200))
@settings(deadline=None)
def test_a_capture_that_began_later_gives_the_same_sessions_with_the_same_ids(talk, at):
    at = min(at, len(talk.packets) - 1)
    begin_ns = talk.packets[at].time_ns
    whole = sessions_of(talk.packets)
    later = {session.id: session for session in sessions_of(talk.packets[at:])}
    for session in whole:
        if session.start_ns < begin_ns:
            continue
        # Bytes of a message that began before the capture go along with the first session: its front differs.
        also = later[session.id]
        assert also.messages == session.messages
        assert (also.ending, also.is_complete) == (session.ending, session.is_complete)
        assert also.start_ns == session.start_ns


@given(talks, st.integers(0, 1))
@settings(deadline=None)
def test_one_direction_alone_gives_its_messages(talk, side):
    packets = [packet for packet in talk.packets if tcp(packet)[0] == side]
    sessions = sessions_of(packets)
    assert sorted(m.text for s in sessions for m in s.messages if m.complete) == sorted(expected(talk, side))


@pytest.mark.parametrize("make", [mllp(), lis01(), plain()], ids=["mllp", "lis01", "plain"])
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_every_captured_byte_is_in_exactly_one_element(make, data):
    talk = data.draw(make)
    drop = data.draw(st.sets(st.integers(3, len(talk.packets) - 1), max_size=2))
    packets = [packet for number, packet in enumerate(talk.packets) if number not in drop]
    sessions = sessions_of(packets)
    if not sessions:  # nothing that was left is recognised
        return
    for side, direction in enumerate(DIRECTIONS):
        captured = b"".join(p.data[54 : 54 + tcp(p)[2]] for p in packets if tcp(p)[0] == side and tcp(p)[2] > 0)
        pieces = sorted(
            (element.offset, session.raw_of(element))
            for session in sessions
            for element in session.elements
            if element.direction is direction and not element.missing
        )
        assert b"".join(raw for _, raw in pieces) == captured
