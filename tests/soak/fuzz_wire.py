"""Feeds the decoders bytes that nobody meant, for as long as you like: a target for Atheris (libFuzzer).

    pip install atheris
    mkdir corpus
    python tests/soak/fuzz_wire.py -max_total_time=600 -max_len=512 -print_final_stats=1 corpus tests/captures

The first byte of an input chooses the decoder; an input that is a capture file goes through all of them.  Found is what
raises, what breaks a law of the wire (the frames of any cut are the same, and joined they are the input; a message is
told once), and what takes longer than a tenth of a second, which is printed as it happens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["hl7core.wire", "hl7core.model"]):
    from hl7core.errors import CaptureFileError
    from hl7core.model.frame import Frame
    from hl7core.model.packet import Interface, PacketBatch
    from hl7core.wire.decoder import Decoder, DecoderOptions
    from hl7core.wire.framing.framer import Framer
    from hl7core.wire.framing.lis01 import Lis01Framer, checksum
    from hl7core.wire.framing.mllp import MllpFramer
    from hl7core.wire.framing.plain import PlainFramer
    from hl7core.wire.pcap.reader import CaptureReader
    from hl7core.wire.pcap.synthetic_tcp import TcpTalk
    from hl7core.wire.peek import batch_counts, batch_ids, glance, split_batch
    from hl7core.wire.tcp.dissect import dissect
    from hl7core.wire.tcp.fragments import Fragments
    from hl7core.wire.tcp.reassembly import Stream

SLOW_SECONDS = 0.1
_CAPTURES = (b"\xa1\xb2", b"\x4d\x3c\xb2\xa1", b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a")


def frames_of(framer: Framer, data: bytes, size: int) -> list[Frame]:
    frames = []
    for at in range(0, len(data), size):
        frames += framer.feed(data[at : at + size])
    return frames + framer.close()


def framing(make: Callable[[], Framer]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        whole = frames_of(make(), data, len(data) or 1)
        assert frames_of(make(), data, 1 + data[0] % 5 if data else 1) == whole
        if not any(frame.missing for frame in whole):
            assert b"".join(frame.raw for frame in whole) == data

    return run


def sums(data: bytes) -> None:
    assert checksum(data) == sum(data) & 0xFF


def glances(data: bytes) -> None:
    glance(data)
    spans = split_batch(data)
    assert all(0 <= start <= end <= len(data) for start, end in spans)
    batch_counts(data)
    batch_ids(data)


def packets(data: bytes) -> None:
    fragments = Fragments()
    for link_type in (0, 1, 101, 113, 228, 229, 276):
        segment = dissect(data, 0, len(data), link_type)
        assert segment is None or 0 <= segment.start <= segment.end <= len(data)
        fragments.add(data, 0, len(data), link_type, 0)


def reassembly(data: bytes) -> None:
    """Segments of a known stream, wherever and however often the input says: what comes out is that stream."""
    known = bytes(range(256))
    stream = Stream(0xFFFFFF80)
    said = b""
    for at in range(0, len(data) - 1, 2):
        begin, size = data[at], data[at + 1] % 32
        pieces = stream.push(0xFFFFFF80 + begin & 0xFFFFFFFF, known[begin : begin + size], at)
        said += b"".join(piece.data for piece in pieces)
    assert known.startswith(said)
    assert stream.offset == len(said)


def conversation(data: bytes) -> None:
    """The input is what both sides say: a byte that tells who and how much, and that much."""
    talk = TcpTalk(isn=(0xFFFFFFF0, 5000))
    talk.open()
    at = 0
    while at < len(data):
        size = data[at] & 0x3F
        (talk.opener if data[at] & 0x80 else talk.acceptor)(data[at + 1 : at + 1 + size] or b"\x05", mss=20)
        if data[at] & 0x40:
            talk.wait(20)
        at += 1 + size
    decode([talk.batch()])


def capture(data: bytes) -> None:
    reader = CaptureReader()
    try:
        batches = reader.feed(data) + reader.finish()
    except CaptureFileError:
        return
    decode(batches)


def loose_packets(data: bytes) -> None:
    """The input is TCP segments, each behind a byte that tells its length, with whatever numbers and flags."""
    batches = []
    at, now = 0, 10**18
    while at < len(data):
        size = data[at] % 96
        payload = data[at + 1 : at + 1 + size]
        header = (
            bytes([0x45, 0]) + (40 + max(0, len(payload) - 6)).to_bytes(2, "big") + bytes([0, 1, 0, 0, 64, 6, 0, 0])
        )
        ends = bytes([10, 0, 0, 5, 10, 0, 0, 9, 1, 1, 2, 2])
        if payload[:1] and payload[0] & 1:
            ends = bytes([10, 0, 0, 9, 10, 0, 0, 5, 2, 2, 1, 1])
        numbers = bytes([0, 0]) + payload[1:3].ljust(2, b"\0") + bytes([0, 0]) + payload[3:5].ljust(2, b"\0")
        flags = bytes([0x50, payload[5] & 0x17 if len(payload) > 5 else 0x10, 1, 0, 0, 0, 0, 0])
        packet = header + ends + numbers + flags + payload[6:]
        now += (data[at] << 23) + 1
        batches.append(PacketBatch(packet, (0,), (len(packet),), (now,), (len(packet),), Interface(link_type=101)))
        at += 1 + size
    decode(batches)


def decode(batches: list[PacketBatch]) -> None:
    decoder = Decoder(DecoderOptions(max_message=4096, max_connections=50, reassembly_bytes=1 << 20))
    told: dict[str, int] = {}
    for session in [*(s for batch in batches for s in decoder.feed(batch)), *decoder.end()]:
        assert session.revision > told.get(session.id, -1), "a session is told twice"
        told[session.id] = session.revision
        for element in session.elements:
            session.raw_of(element)
    assert not decoder.open_sessions()


TARGETS: list[Callable[[bytes], None]] = [
    framing(lambda: MllpFramer(max_message=200)),
    framing(lambda: Lis01Framer(max_message=200)),
    framing(lambda: PlainFramer(max_message=200)),
    framing(MllpFramer),
    framing(Lis01Framer),
    framing(PlainFramer),
    sums,
    glances,
    packets,
    reassembly,
    conversation,
    conversation,
    loose_packets,
    loose_packets,
    capture,
]


def one_input(data: bytes) -> None:
    began = time.process_time()
    if data.startswith(_CAPTURES):
        capture(data)
    elif data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    took = time.process_time() - began
    if took > SLOW_SECONDS:
        sys.stderr.write(f"slow: {took:.3f} s for {len(data)} bytes, which begin {data[:24].hex()}\n")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
