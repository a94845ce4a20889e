"""Every bound is a setting; what breaks it is marked and counted, never a crash and never a silent cut."""

import subprocess
import sys

import pytest

from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending
from hl7core.settings.model import CoreSettings
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from hl7core.wire.streams import HELD_PER_STREAM
from hl7core.wire.tcp.reassembly import MAX_HELD_PIECES

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def faults(sessions) -> set[str]:
    return {fault.code for s in sessions for e in s.elements for fault in e.faults}


@pytest.mark.parametrize(
    "name", ["max_message", "max_connections", "reassembly_bytes", "idle_timeout", "ack_timeout", "silence"]
)
def test_each_bound_is_a_setting_with_a_description(name):
    field = CoreSettings.model_fields[name]
    assert field.description
    assert field.default > 0


@pytest.mark.parametrize("protocol", ["mllp", "lis01", "plain"])
def test_a_message_over_max_message_is_cut_with_a_fault_at_its_byte_and_the_rest_is_counted(protocol):
    talk = TcpTalk()
    talk.open()
    big = ORU + b"x" * 50_000
    if protocol == "mllp":
        talk.opener(block(big))
    else:
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        talk.opener(b"\x021H|\\^&|||" + big + b"\r\x0300\r\n" if protocol == "lis01" else b"\x02" + big + b"\r\n")
        talk.acceptor(b"\x06")
        talk.opener(b"\x04")
    decoder = Decoder(DecoderOptions(max_message=10_000))
    sessions = [*decoder.feed(talk.batch()), *decoder.end()]
    assert "too-long" in faults(sessions)
    said = sum(len(s.raw_of(e)) + e.missing for s in sessions for e in s.elements if s.protocol == protocol)
    assert said == sum(talk.seq) - 1000 - 5000 - 2  # every byte of both sides is kept, or counted as missing
    assert not any(m.complete for s in sessions for m in s.messages if m.text.startswith((b"MSH", b"H|")))


def test_bytes_that_wait_behind_a_hole_are_bounded_for_a_connection_and_the_hole_is_a_gap():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.lose(0, b"lost")
    decoder = Decoder()
    sessions = decoder.feed(talk.batch())
    for _ in range(HELD_PER_STREAM // 100_000 + 2):
        talk.packets.clear()
        talk._send(0, 0x18, b"y" * 50_000)
        talk._send(0, 0x18, b"y" * 50_000)
        sessions += decoder.feed(PacketBatch.of(talk.packets))
        assert all(half.held_bytes <= HELD_PER_STREAM + 65_536 for half in decoder._halves.values())
    sessions += decoder.end()
    assert decoder.counters["gaps"] == 1
    assert decoder.counters["gapBytes"] == 4
    assert any(e.missing == 4 for s in sessions for e in s.elements)


def test_segments_that_wait_are_bounded_in_number_too():
    talk = TcpTalk(step_ns=0)
    talk.open()
    talk.opener(block(ORU))
    talk.lose(0, b"lost")
    decoder = Decoder()
    decoder.feed(talk.batch())
    talk.packets.clear()
    for _ in range(MAX_HELD_PIECES + 10):
        talk._send(0, 0x18, b"z")
    decoder.feed(talk.batch())
    assert decoder.counters["gaps"] == 1
    assert all(len(half.held) <= MAX_HELD_PIECES for half in decoder._halves.values())


def test_all_that_waits_behind_holes_is_bounded_by_reassembly_bytes():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    for number in range(40):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000))
        talk.open()
        talk.opener(block(ORU))
        talk.lose(0, b"lost")
        talk._send(0, 0x18, b"y" * 60_000)
        decoder.feed(talk.batch())
        assert sum(half.held_bytes for half in decoder._halves.values()) <= (1 << 20) + 65_536
    assert decoder.counters["crowded"] > 0
    assert decoder.counters["gaps"] >= decoder.counters["crowded"]


def test_messages_that_never_end_are_bounded_together_and_the_largest_is_let_go_with_what_it_has():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    sessions = []
    talks = []
    for number in range(40):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000), time_ns=START_NS + number * 10**7)
        talk.open()
        talk.opener(block(ORU))
        talk.opener(b"\x0b" + ORU + b"x" * (50_000 if number != 7 else 90_000), mss=20_000)
        talks.append(talk)
        sessions += decoder.feed(talk.batch())
        held = sum(half.framer.pending for half in decoder._halves.values() if half.framer is not None)
        assert held <= (1 << 20) + 100_000
    evicted = [s for s in sessions if s.ending is Ending.EVICTED]
    assert decoder.counters["crowded"] == decoder.counters["evicted"] > 0
    assert any(len(m.text) > 90_000 for s in evicted for m in s.messages)
    assert "truncated" in faults(evicted)
    sessions += decoder.end()
    assert sum(m.text.count(b"x") for s in sessions for m in s.messages) == 39 * 50_000 + 90_000


@pytest.mark.parametrize("ended", ["by the other side's turn", "by a gap"])
def test_a_message_that_has_ended_takes_no_room_any_more(ended):
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    sessions = []
    for number in range(40):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000), time_ns=START_NS + number * 40 * 10**9)
        talk.open()
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        talk.opener(b"\x02" + ORU + b"x" * 60_000, mss=20_000)
        if ended == "by a gap":
            talk.lose(0, b"OBX|1\r")
        talk.opener(b"\r\n")
        talk.acceptor(b"\x06")
        sessions += decoder.feed(talk.batch())
    sessions += decoder.expire(talk.time_ns + 2 * 10**9)
    assert decoder.counters["crowded"] == 0
    sessions += decoder.end()
    assert [m.complete for s in sessions for m in s.messages] == [ended != "by a gap"] * 40


def test_timers_of_connections_that_are_gone_are_let_go_though_no_time_passes():
    decoder = Decoder()
    for number in range(6000):
        talk = TcpTalk(opener=(f"10.1.{number >> 8}.{number & 255}", 40000), step_ns=0)
        talk.open()
        talk.opener(b"\x05\x021H|\\^&\r\x03E5\r\n")
        talk.acceptor(b"\x06")
        talk.close()
        decoder.feed(talk.batch())
    assert len(decoder._streams.timers) < 5000


def test_connections_that_were_reset_and_are_gone_are_let_go_though_no_time_passes():
    decoder = Decoder()
    for number in range(50):
        talk = TcpTalk(step_ns=0, isn=(number << 24, number << 24))
        talk.open()
        talk.opener(block(ORU))
        talk.reset()
        decoder.feed(talk.batch())  # at the same ports and the same time: the one before it is over
    assert len(decoder._resets) <= 1


def test_what_is_let_go_for_want_of_room_may_go_on_as_another_connection():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0b" + ORU + b"x" * (1 << 20), mss=20_000)
    sessions = decoder.feed(talk.batch())
    assert decoder.counters["crowded"] == 1
    talk.packets.clear()
    talk.wait(5)
    talk.opener(b"\x1c\r" + block(ORU.replace(b"M1", b"M2")))
    talk.acceptor(block(ACK.replace(b"M1", b"M2")))
    talk.wait(5)
    talk.close()
    sessions += [*decoder.feed(talk.batch()), *decoder.end()]
    assert any(s.is_complete and s.messages[0].control_id == "M2" for s in sessions)


def test_an_idle_connection_is_let_go_by_packet_time_and_what_it_says_later_is_found_out_anew():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    decoder = Decoder(DecoderOptions(idle_ns=3600 * 10**9))
    assert len(decoder.feed(talk.batch())) == 1
    assert decoder.expire(talk.time_ns + 3000 * 10**9) == []
    assert decoder.counters["idle"] == 0
    decoder.expire(talk.time_ns + 3700 * 10**9)
    assert decoder.counters["idle"] == 1
    assert decoder._halves == {}
    talk.packets.clear()
    talk.wait(4000)
    for number in (b"M2", b"M3"):
        talk.opener(block(ORU.replace(b"M1", number)))
        talk.acceptor(block(ACK.replace(b"M1", number)))
    sessions = [*decoder.feed(talk.batch()), *decoder.end()]
    assert [(s.is_complete, s.messages[0].control_id) for s in sessions] == [(True, "M2"), (True, "M3")]


def test_connections_over_max_connections_are_let_go_counted_and_their_sessions_kept():
    decoder = Decoder(DecoderOptions(max_connections=20))
    sessions = []
    for number in range(50):
        talk = TcpTalk(opener=(f"10.0.1.{number}", 40000), time_ns=START_NS + number * 10**7)
        talk.open()
        talk.opener(block(ORU.replace(b"M1", b"N%d" % number)))
        sessions += decoder.feed(talk.batch())
        assert len(decoder._halves) <= 2 * 20
    assert decoder.counters["evicted"] == len(sessions) > 0
    sessions += decoder.end()
    assert {s.messages[0].control_id for s in sessions} == {f"N{n}" for n in range(50)}


FLOOD = """
import resource, sys
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import tcp_packet
from hl7core.model.packet import Endpoint, Interface, Packet, PacketBatch

kind, count = sys.argv[1], int(sys.argv[2])
lis, there = Endpoint("10.0.0.9", 2575), Interface("test0")
decoder = Decoder(DecoderOptions(max_connections=int(sys.argv[3]), reassembly_bytes=16 << 20))


def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


before = rss()
packets = []
for number in range(count):
    source = Endpoint(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 40000)
    if kind == "specks":
        made = [tcp_packet(source, lis, seq=1, flags=2), tcp_packet(lis, source, seq=1, ack=2, flags=18)]
        made += [tcp_packet(source, lis, seq=100 + 2 * at, ack=2, data=b"x") for at in range(1500)]
    elif kind == "syn":
        made = [tcp_packet(source, lis, seq=1, flags=2)]
    elif kind == "undecided":
        made = [tcp_packet(source, lis, seq=1, flags=2), tcp_packet(source, lis, seq=2, ack=1, data=b"some text " * 140)]
    else:
        made = [tcp_packet(source, lis, seq=1, flags=2), tcp_packet(source, lis, seq=2, ack=1, data=b"\\x0bMSH|^~\\\\&|A" + b"x" * 1300)]
    packets += [Packet(data, 10**18 + number * 100_000, len(data), there) for data in made]
    if len(packets) > 2000:
        decoder.feed(PacketBatch.of(packets))
        packets = []
if kind == "endless":
    source = Endpoint("10.9.9.9", 40000)
    decoder.feed(PacketBatch.of([Packet(tcp_packet(source, lis, seq=1, flags=2), 2 * 10**18, 60, there)]))
    seq = 2
    for number in range(8000):
        data = (b"\\x0bMSH|^~\\\\&|A" if not number else b"") + b"x" * 60000
        raw = tcp_packet(source, lis, seq=seq, ack=1, data=data)
        decoder.feed(PacketBatch.of([Packet(raw, 2 * 10**18, len(raw), there)]))
        seq += len(data)
print(rss() - before)
"""


@pytest.mark.parametrize(
    ("kind", "count", "connections", "most_mib"),
    [
        ("syn", 100_000, 50_000, 60),
        ("undecided", 20_000, 20_000, 120),
        ("begun", 20_000, 20_000, 120),
        ("endless", 1, 1, 80),
        ("specks", 200, 200, 25),
    ],
)
def test_memory_stays_bounded(kind, count, connections, most_mib):
    """Half-open connections, connections that never show their protocol, messages that never end, single bytes with
    holes between them: growth in MiB."""
    run = subprocess.run(
        [sys.executable, "-c", FLOOD, kind, str(count), str(connections)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= most_mib
