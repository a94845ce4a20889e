"""The decoder: connections are bounded in number, memory and time, and lose no message for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk
from wire.linear_time import PATTERNS, SIZE, assert_linear
from wire.mllp_blocks import ACK, ORU, block


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


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_connection_that_repeats_itself_takes_time_that_grows_with_its_bytes(pattern):
    """Through reassembly, detection, framing and sessions, in segments of 50 bytes; the other side confirms each."""

    def work(size: int) -> None:
        talk = TcpTalk()
        talk.open()
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        talk.opener(b"\x0bMSH|^~\\&|A|L|B|L|2026||ORU|1|P|2.5\rPID|1\r\x1c\r\x021H|\\^&\r\x03E5\r\n", mss=2000)
        raw = PATTERNS[pattern]
        data = (raw * 50)[:50]
        for _ in range(size // 50):
            talk.opener(data)
        talk.acceptor(b"\x06")
        decoder = Decoder()
        decoder.feed(talk.batch())
        decoder.end()

    assert_linear(work, SIZE)
