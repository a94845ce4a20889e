"""Rebuilt packets: what a session says, said again in packets."""

import struct

import pytest

from engine.parts import ack, block, oru
from hl7core.model.packet import Endpoint, Interface, Packet, PacketBatch
from hl7core.model.session import Ending
from hl7core.testing import TcpTalk, make_session
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.rebuild import Rebuilder

IFACE = Interface("rebuilt")


def rebuilt(*sessions):
    builder = Rebuilder()
    packets = [packet for session in sessions for packet in builder.feed(session)]
    return packets + builder.finish()


def decoded(packets):
    decoder = Decoder()
    batch = PacketBatch.of([Packet(p.data, p.time_ns, len(p.data), IFACE) for p in packets])
    return decoder.feed(batch) + decoder.end()


def latest(sessions):
    return list({session.id: session for session in sessions}.values())


def said(session):
    return [(e.type, e.direction, e.time_ns, session.raw_of(e), e.missing) for e in session.elements]


def checksum(data):
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("protocol", ["mllp", "lis01", "plain"])
def test_a_decoder_finds_the_same_conversation(protocol):
    session = make_session(1, protocol=protocol)
    (again,) = decoded(rebuilt(session))
    assert said(again) == said(session)
    assert again.messages == session.messages
    assert (again.device, again.lis, again.start_ns, again.ending) == (
        session.device, session.lis, session.start_ns, Ending.COMPLETE,
    )  # fmt: skip


def test_the_id_is_another_one_and_the_same_each_time():
    session = make_session(1)
    (first,), (second,) = decoded(rebuilt(session)), decoded(rebuilt(session))
    assert first.id == second.id != session.id
    assert first.id[:13] == session.id[:13]  # the time in it is kept


def test_every_checksum_is_right_and_times_never_go_back():
    packets = rebuilt(*(make_session(number, protocol=p) for number, p in ((1, "mllp"), (2, "lis01"), (3, "plain"))))
    for packet in packets:
        header, total = packet.data[14:34], struct.unpack_from(">H", packet.data, 16)[0]
        tcp = packet.data[34 : 14 + total]
        assert checksum(header) == 0xFFFF
        assert checksum(header[12:20] + struct.pack(">HH", 6, len(tcp)) + tcp) == 0xFFFF
    times = [packet.time_ns for packet in packets]
    assert times == sorted(times)


def test_the_first_packet_with_data_names_the_session_and_says_that_it_is_rebuilt():
    session = make_session(1)
    comments = [packet.comment for packet in rebuilt(session) if packet.comment]
    assert len(comments) == 1
    assert session.id in comments[0]
    assert "rebuilt" in comments[0]


def test_exchanges_that_overlapped_on_one_connection_overlap_again():
    talk = TcpTalk()
    talk.open()
    for name in "ABC":
        talk.opener(block(oru(name)))
    for name in "CAB":
        talk.acceptor(block(ack(name)))
    decoder = Decoder()
    sessions = sorted(decoder.feed(talk.batch()) + decoder.end(), key=lambda s: s.start_ns)
    assert len(sessions) == 3
    packets = rebuilt(*sessions)
    assert sum(packet.data[47] == 0x02 for packet in packets) == 1  # one handshake
    again = sorted(latest(decoded(packets)), key=lambda s: s.start_ns)
    assert [said(s) for s in again] == [said(s) for s in sessions]
    assert [[m.text for m in s.messages] for s in again] == [[m.text for m in s.messages] for s in sessions]


def test_a_later_connection_between_the_same_ports_shakes_hands_anew():
    sessions = []
    for seconds in (0, 20):
        talk = TcpTalk(time_ns=1_700_000_000_000_000_000 + seconds * 10**9, isn=(seconds + 1, 7))
        talk.open()
        talk.opener(block(oru(f"M{seconds}")))
        talk.acceptor(block(ack(f"M{seconds}")))
        decoder = Decoder()
        sessions += decoder.feed(talk.batch()) + decoder.end()
    packets = rebuilt(*sessions)
    assert sum(packet.data[47] == 0x02 for packet in packets) == 2
    assert [m.control_id for s in decoded(packets) for m in s.messages if m.reply_to is None] == ["M0", "M20"]


@pytest.mark.parametrize(("ending", "finish"), [(Ending.CLOSED, "close"), (Ending.RESET, "reset")])
def test_a_connection_that_was_closed_or_reset_is_so_again(ending, finish):
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru("A")))
    getattr(talk, finish)()
    decoder = Decoder()
    (session,) = latest(decoder.feed(talk.batch()) + decoder.end())
    assert session.ending is ending
    (again,) = latest(decoded(rebuilt(session)))
    assert again.ending is ending


def test_who_opened_the_connection_opens_it_again():
    talk = TcpTalk(("10.0.0.9", 50123), ("10.0.0.5", 6000))
    talk.open()
    talk.acceptor(block(oru("A")))
    talk.opener(block(ack("A")))
    decoder = Decoder()
    (session,) = decoder.feed(talk.batch())
    assert session.device == Endpoint("10.0.0.5", 6000)
    (again,) = decoded(rebuilt(session))
    assert (again.connection, again.device) == (session.connection, session.device)


def test_bytes_that_were_never_captured_are_missing_again():
    talk = TcpTalk()
    talk.open()
    text = block(oru("A") + b"OBX|1|TX|x||" + b"y" * 4000 + b"\r")
    talk.opener(text[:2000])
    talk.lose(0, text[2000:3000])
    talk.opener(text[3000:])
    talk.wait(5)
    talk.acceptor(block(ack("A")))
    decoder = Decoder()
    sessions = latest(decoder.feed(talk.batch()) + decoder.end())
    missing = sum(e.missing for s in sessions for e in s.elements)
    assert missing == 1000
    again = latest(decoded(rebuilt(*sorted(sessions, key=lambda s: s.start_ns))))
    assert sum(e.missing for s in again for e in s.elements) == missing


def test_long_messages_are_cut_as_ethernet_wants_it_and_ipv6_is_ipv6():
    long = make_session(1, device=Endpoint("2001:db8::5", 49152), lis=Endpoint("2001:db8::9", 2575), connection="")
    message = long.messages[0]._replace(text=long.messages[0].text + b"NTE|1||" + b"z" * 20_000 + b"\r")
    element = long.elements[0]._replace(span=(0, len(message.text)))
    long = long._replace(messages=(message, long.messages[1]), elements=(element, *long.elements[1:]))
    packets = rebuilt(long)
    assert max(len(packet.data) for packet in packets) <= 1534
    (again,) = decoded(packets)
    assert again.messages[0].text == message.text
    assert again.device == long.device


@pytest.mark.parametrize(
    ("device", "lis"),
    [(("", 0), ("", 0)), (("analyzer 7", 0), ("10.0.0.9", 2575)), (("10.0.0.5", 1), ("2001:db8::9", 2575))],
)
def test_a_session_that_does_not_know_its_ends_is_rebuilt_all_the_same(device, lis):
    session = make_session(1, device=Endpoint(*device), lis=Endpoint(*lis), connection="")
    (again,) = decoded(rebuilt(session))
    assert [m.text for m in again.messages] == [m.text for m in session.messages]


def test_a_session_without_elements_costs_no_packet():
    assert rebuilt(make_session(1, elements=(), messages=())) == []
