"""The C extension and the same code in Python give equal results, whatever they are given."""

import struct
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.errors import CaptureFileError
from hl7core.model.packet import Interface, PacketBatch
from hl7core.wire import decoder as decoding
from hl7core.wire import jsonl as lining
from hl7core.wire import native
from hl7core.wire.connection import DecoderOptions
from hl7core.wire.decoder import ALL, Decoder
from hl7core.wire.jsonl import JsonlDecoder, ShardDecoder, exchange_line
from hl7core.wire.mllp_sessions.fast_path import exchange_session
from hl7core.wire.pcap import pcapng
from hl7core.wire.pcap import reader as pcap
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.conversations import captures, reply, request

pytestmark = pytest.mark.skipif(native.SlowPathPackets is None, reason="this installation has no C extension")


@contextmanager
def pure():
    with (
        patch.object(decoding, "SlowPathPackets", None),
        patch.object(decoding, "_make", exchange_session),
        patch.object(lining, "_make", exchange_line),
        patch.object(pcap, "records", None),
        patch.object(pcapng, "blocks", None),
    ):
        yield


def alike(work, *given_):
    """Do the same both ways; return what both answer, or the error that both raise."""

    def answer():
        try:
            return work(*given_)
        except Exception as error:  # noqa: BLE001 - whatever it is, both are to raise it
            return type(error)

    own = answer()
    with pure():
        assert answer() == own
    return own


def decoded(batches, **options):
    """Everything that a decoder tells: what each batch gives, what is open and held then, and the counts."""
    decoder = Decoder(DecoderOptions(**options))
    books = decoder._streams._in_framers, decoder._streams._held
    told = [
        (decoder.feed(batch), decoder.open_sessions(), decoder.messages[:], [book.total for book in books])
        for batch in batches
    ]
    return told, decoder.end(), decoder.counters, decoder.encrypted.count


def lined(batches):
    decoder = JsonlDecoder()
    return [decoder.lines(batch) for batch in batches], [*decoder.last_lines()], decoder.counters


def placed(batches, share):
    decoder = ShardDecoder(None, share)
    return [decoder.placed(batch) for batch in batches], [*decoder.last_placed()], decoder.counters


@given(captures)
@settings(max_examples=150)
def test_sessions_are_alike(batches):
    alike(decoded, batches)


@given(captures, st.booleans(), st.sampled_from((60, 90, 200)), st.sampled_from((100, 1000, 256 << 20)))
@settings(max_examples=100)
def test_messages_that_are_watched_and_bounds_are_alike(batches, watch, most, held):
    alike(lambda: decoded(batches, watch_messages=watch, max_message=most, reassembly_bytes=held))


@given(captures, st.integers(0, len(ALL)))
@settings(max_examples=100)
def test_lines_and_their_places_are_alike(batches, cut):
    alike(lined, batches)
    alike(placed, batches, range(cut))
    alike(placed, batches, range(cut, len(ALL)))


_HURT = st.tuples(
    st.integers(0, 400), st.sampled_from(("drop", "double", "swap", "byte", "cut", "late")), st.integers(0)
)


def hurt(batches, hurts):
    """Disturb packets: lose, repeat and exchange them, change a byte of one, cut one short, send one again later."""
    packets = [packet for batch in batches for packet in batch.packets()]
    for number, how, value in hurts:
        if not packets:
            break
        at = number % len(packets)
        packet = packets[at]
        if how == "drop":
            del packets[at]
        elif how == "double":
            packets.insert(at, packet)
        elif how == "swap" and at:
            packets[at - 1 : at + 1] = packets[at], packets[at - 1]
        elif how == "byte":
            data = bytearray(packet.data)
            place = value % len(data) if value & 1 else 12 + value % 44  # a header more often than not
            data[place % len(data)] = value >> 8 & 0xFF
            packets[at] = packet._replace(data=bytes(data))
        elif how == "cut":
            packets[at] = packet._replace(data=packet.data[: max(1, value % len(packet.data))])
        elif how == "late":
            packets.append(packet)
    return [PacketBatch.of(packets[at : at + 50]) for at in range(0, len(packets), 50)]


@given(captures, st.lists(_HURT, max_size=12))
@settings(max_examples=300)
def test_disturbed_traffic_is_alike(batches, hurts):
    batches = hurt(batches, hurts)
    alike(decoded, batches)
    alike(lined, batches)
    alike(placed, batches, range(len(ALL) // 2))


_NUMBERS = st.integers(-3, 300)


@given(st.binary(max_size=300), st.lists(st.tuples(_NUMBERS, _NUMBERS, st.integers(-5, 2**64)), max_size=6))
@settings(max_examples=300)
def test_a_batch_that_lies_about_its_packets_is_alike(noise, packets):
    head = b"\0" * 12 + b"\x08\x00\x45\0" + len(noise).to_bytes(2, "big") + b"\0" * 4 + b"\x40\x06"
    starts, ends, times = ([packet[place] for packet in packets] for place in range(3))
    batch = PacketBatch(head + noise, starts, ends, times, ends, Interface(1))
    alike(decoded, [batch])
    with pytest.raises(ValueError, match=r"zip|batch"):
        Decoder().feed(batch._replace(times=[*batch.times, 1]))


@pytest.mark.parametrize("since", [-(2**64), 2**42 * 10**6 - 123_456, 2**63 - 1, 2**64])
def test_times_beyond_what_a_machine_word_holds_are_alike(since):
    talk = TcpTalk()
    talk.open()
    for number in (b"1", b"2"):
        talk.opener(request(0, number, (b"", b"")))
        talk.acceptor(reply(number, b"AA"))
    batch = talk.batch()
    batch = batch._replace(times=[time - batch.times[0] + since for time in batch.times])
    told, *_ = alike(decoded, [batch])
    assert len(told[0][0]) == 2
    alike(lined, [batch])


def test_a_buffer_of_another_sort_goes_through_python():
    talk = TcpTalk()
    talk.open()
    talk.opener(request(0, b"1", (b"", b"")))
    talk.acceptor(reply(b"1", b"AA"))
    batch = talk.batch()

    class Buffer(bytes):
        pass

    assert len(Decoder().feed(batch._replace(buffer=Buffer(batch.buffer)))) == len(Decoder().feed(batch)) == 1


_RECORD = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 90), st.integers(-3, 3))


@given(st.sampled_from("<>"), st.sampled_from((0xA1B2C3D4, 0xA1B23C4D)), st.lists(_RECORD, max_size=20), st.data())
@settings(max_examples=200)
def test_records_of_a_file_are_alike(order, magic, records, data):
    file = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, 1)
    for seconds, fraction, size, lie in records:
        file += struct.pack(order + "4I", seconds, fraction, max(0, size + lie), size) + bytes(size)
    alike(read_in_parts, file, sorted(data.draw(st.lists(st.integers(0, len(file)), max_size=4))))


def read_in_parts(file, cuts):
    reader = pcap.CaptureReader()
    try:
        batches = [
            b for start, end in zip([0, *cuts], [*cuts, len(file)], strict=True) for b in reader.feed(file[start:end])
        ]
        batches += reader.finish()
    except CaptureFileError as error:
        return str(error)
    return [list(batch.packets()) for batch in batches], str(reader.damage), reader.packets


_BLOCK = st.tuples(
    st.sampled_from((6, 6, 6, 6, 3, 2, 1, 5, 0xBAD)),  # mostly Enhanced Packet Blocks
    st.integers(0, 2), st.integers(0, 2**64 - 1), st.integers(0, 90),
    st.sampled_from((0, 0, 0, 0, 0, 0, -4, 4, 1, 1 << 25, (1 << 32) - 200)),  # what it says of its length, and of
    st.sampled_from((0, 0, 0, 0, 0, 0, -1, 1, 5, (1 << 32) - 200)),  # what was captured, is so much too high
)  # fmt: skip


@given(st.sampled_from("<>"), st.lists(_BLOCK, max_size=20), st.data())
@settings(max_examples=300)
def test_blocks_of_a_file_are_alike(order, found, data):
    def block(kind, body, lie=0):
        body += bytes(-len(body) % 4)
        length = (12 + len(body) + lie) & 0xFFFFFFFF
        return struct.pack(order + "2I", kind, length) + body + struct.pack(order + "I", length)

    file = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    for link_type in (1, 101):
        file += block(1, struct.pack(order + "HHI", link_type, 0, 0))
    for kind, interface, ticks, size, lie, more in found:
        captured = (size + more) & 0xFFFFFFFF
        file += block(
            kind,
            struct.pack(order + "5I", interface, ticks >> 32, ticks & 0xFFFFFFFF, captured, size) + bytes(size),
            lie,
        )
    alike(read_in_parts, file, sorted(data.draw(st.lists(st.integers(0, len(file)), max_size=4))))


@pytest.mark.parametrize("size", [1, 700, 5000, 40_000])
@pytest.mark.parametrize("mss", [17, 536, 1460])
def test_blocks_of_any_length_in_any_segments_are_alike(size, mss):
    talk = TcpTalk()
    talk.open()
    for number in (b"1", b"2", b"3"):
        text = (
            request(0, number, (b"", b""))[:-3]
            + b"\rOBX|2|TX|NOTE||"
            + b'say "x"\\T\\\x7f' * (size // 10)
            + b"\r\x1c\r"
        )
        talk.opener(text, mss=mss)
        talk.acceptor(reply(number, b"AE"), mss=mss)
    told, *_ = alike(decoded, [talk.batch()])
    assert len(told[0][0]) == 3
    lines, *_ = alike(lined, [talk.batch()])
    assert len(lines[0]) == 3


@pytest.mark.parametrize("often", [1, 2])
def test_packets_of_the_fast_path_and_their_repeats_never_reach_the_decoder(often):
    talk = TcpTalk()
    talk.open()
    for number in range(50):
        talk.opener(request(0, b"%d" % number, (b"", b"")), mss=60)
        talk.acceptor(reply(b"%d" % number, b"AA"))
    batch = PacketBatch.of([packet for packet in talk.packets for _ in range(often)])
    seen, delivered = [], []

    class Watched(Decoder):
        def deliver(self, half, data, now, out):
            delivered.append(data)
            super().deliver(half, data, now, out)

        def _packets(self, *given_):
            for packet in super()._packets(*given_):
                seen.append(packet)
                yield packet

    assert len(Watched(make=exchange_session).feed(batch)) == 50
    assert len(seen) < 10 > len(delivered) < len(batch.starts) // 2


@pytest.mark.parametrize("order", "<>")
def test_blocks_of_one_interface_are_taken_in_one_go(order):
    packet = struct.pack(order + "7I", 6, 36, 3, 1, 2, 2, 60) + b"ab\0\0" + struct.pack(order + "I", 36)
    columns = [], [], [], []
    assert native.blocks(packet * 3, 0, order == ">", 3, *columns) == 108
    assert columns == ([28, 64, 100], [30, 66, 102], [(1 << 32) + 2] * 3, [60] * 3)
