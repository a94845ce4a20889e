"""Capture files as bytes: what is read, what is written, and what a damaged one still gives."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.errors import CaptureFileError
from hl7core.model.packet import Interface, Packet, PacketBatch
from hl7core.wire.pcap.reader import CaptureReader, PcapngWriter, pcap_header, pcap_record

NOON = 1_700_000_000_123_456_789
ETH0 = Interface("eth0", 1, 65535, description="the analyzer's port")
COOKED = Interface("any", 113, 0)
PACKETS = [(NOON, b"\x05"), (NOON + 1_000, b"\x06" * 61), (NOON + 2_000_000_000, b"\x1cMSH\r" * 13)]


def read(*chunks: bytes) -> tuple[list[tuple[int, bytes, int, Interface]], CaptureReader]:
    """Feed ``chunks`` to a fresh reader; return its packets and the reader, after checking what holds for every batch."""
    reader = CaptureReader()
    batches: list[PacketBatch] = []
    for chunk in chunks:
        batches += reader.feed(chunk)
    batches += reader.finish()
    number = 1
    for batch in batches:
        assert batch.count
        assert batch.number == number
        number += batch.count
        assert all(0 <= time_ns < 2**63 for time_ns in batch.times)
        assert all(0 <= start <= end <= len(batch.buffer) for start, end in zip(batch.starts, batch.ends, strict=True))
    assert reader.packets == number - 1
    return [
        (packet.time_ns, packet.data, packet.wire_length, packet.interface)
        for batch in batches
        for packet in batch.packets()
    ], reader


def times_and_data(*chunks: bytes) -> list[tuple[int, bytes]]:
    return [(time_ns, data) for time_ns, data, _, _ in read(*chunks)[0]]


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 1, snaplen: int = 0, options: bytes = b"", order: str = "<") -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def enhanced(number: int, ticks: int, data: bytes, order: str = "<", options: bytes = b"") -> bytes:
    padded = data + bytes(-len(data) % 4)
    head = struct.pack(order + "5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) + 3)
    return block(6, head + padded + options, order)


def classic(packets: list[tuple[int, bytes]] = PACKETS, *, link_type: int = 1) -> bytes:
    return pcap_header(link_type) + b"".join(pcap_record(time_ns, data) for time_ns, data in packets)


def pcapng(packets: list[tuple[int, bytes]] = PACKETS) -> bytes:
    writer = PcapngWriter()
    return writer.header("test", [ETH0]) + b"".join(
        writer.packet(0, time_ns, data, len(data)) for time_ns, data in packets
    )


# Classic pcap


def test_a_nanosecond_file_gives_its_packets_with_their_times():
    packets, reader = read(classic())
    assert packets == [(time_ns, data, len(data), Interface(link_type=1, snaplen=262_144)) for time_ns, data in PACKETS]
    assert reader.damage is None
    assert reader.interfaces == (Interface(link_type=1, snaplen=262_144),)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("magic", "fraction_ns", "extra"),
    [(0xA1B2C3D4, 1000, b""), (0xA1B23C4D, 1, b""), (0xA1B2CD34, 1000, b"\x02\0\0\0\x08\0\0\0")],
    ids=["microseconds", "nanoseconds", "modified"],
)
def test_every_classic_form_is_read_in_either_byte_order(order, magic, fraction_ns, extra):
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 96, 113)
    data += struct.pack(order + "4I", 1_700_000_000, 250_000, 5, 1500) + extra + b"first"
    data += struct.pack(order + "4I", 1_700_000_001, 7, 6, 6) + extra + b"second"
    packets, reader = read(data)
    assert packets == [
        (1_700_000_000_000_000_000 + 250_000 * fraction_ns, b"first", 1500, Interface("", 113, 96)),
        (1_700_000_001_000_000_000 + 7 * fraction_ns, b"second", 6, Interface("", 113, 96)),
    ]
    assert reader.damage is None


def test_the_bits_that_describe_a_frame_check_sequence_are_no_part_of_the_link_type():
    packets, _ = read(classic([(NOON, b"x")], link_type=0x5400_0001))
    assert packets[0][3].link_type == 1


def test_a_file_with_a_header_and_no_packets_is_well():
    packets, reader = read(pcap_header())
    assert packets == []
    assert reader.damage is None


def test_an_empty_packet_is_a_packet():
    packets, reader = read(classic([(NOON, b""), (NOON + 1, b"x")]))
    assert [(time_ns, data) for time_ns, data, _, _ in packets] == [(NOON, b""), (NOON + 1, b"x")]
    assert reader.damage is None


# pcapng


@pytest.mark.parametrize("order", "<>")
def test_pcapng_is_read_in_either_byte_order(order):
    data = section(order) + interface(1, 0, option(2, b"eth0", order), order) + enhanced(0, 1_000_001, b"abcde", order)
    packets, reader = read(data)
    assert packets == [(1_000_001_000, b"abcde", 8, Interface("eth0"))]  # microseconds, unless the interface says
    assert reader.damage is None


@pytest.mark.parametrize(
    ("resolution", "offset", "ticks", "time_ns"),
    [
        (b"\x06", None, 5, 5_000),
        (b"\x09", None, 5, 5),
        (b"\x03", None, 5, 5_000_000),
        (b"\x00", None, 5, 5_000_000_000),
        (b"\x0c", None, 5_999, 5),
        (b"\x80", None, 5, 5_000_000_000),
        (b"\x8a", None, 1_024, 1_000_000_000),
        (b"\xa0", None, 1 << 31, 500_000_000),
        (b"\x09", 3, 5, 3_000_000_005),
        (b"\x06", -2, 3_000_000, 1_000_000_000),
        (b"\x7f", None, 5, 0),
        (b"\x09", -1, 5, 0),
        (b"\x00", None, 2**63, 2**63 - 1),
    ],
)
def test_each_interface_has_its_own_clock(resolution, offset, ticks, time_ns):
    options = option(9, resolution) + (option(14, struct.pack("<q", offset)) if offset is not None else b"")
    packets, reader = read(section() + interface(options=options) + enhanced(0, ticks, b"x"))
    assert [packet[0] for packet in packets] == [time_ns]
    assert reader.damage is None


def test_a_change_of_interface_starts_a_new_batch_and_keeps_the_order():
    reader = CaptureReader()
    data = section() + interface(1, 0, option(2, b"eth0")) + interface(113, 0, option(2, b"any") + option(9, b"\x09"))
    for ticks, number in enumerate((0, 0, 1, 0, 1, 1)):
        data += enhanced(number, ticks, bytes([ticks]))
    batches = reader.feed(data)
    assert [(batch.interface.name, batch.count, batch.number) for batch in batches] == [
        ("eth0", 2, 1),
        ("any", 1, 3),
        ("eth0", 1, 4),
        ("any", 2, 5),
    ]
    assert [list(batch.times) for batch in batches] == [[0, 1000], [2], [3000], [4, 5]]
    assert all(batch.buffer is data for batch in batches)  # nothing is copied


def test_sections_follow_each_other_with_interfaces_and_byte_orders_of_their_own():
    data = section() + interface(1, 0, option(2, b"eth0")) + enhanced(0, 1, b"one")
    data += section(">") + interface(113, 0, option(2, b"any", ">"), ">") + enhanced(0, 2, b"two", ">")
    packets, reader = read(data)
    assert [(data, interface.name) for _, data, _, interface in packets] == [(b"one", "eth0"), (b"two", "any")]
    assert [interface.link_type for interface in reader.interfaces] == [1, 113]


def test_a_simple_packet_has_the_time_of_the_packet_before_it():
    data = section() + interface(1, snaplen=4) + enhanced(0, 77, b"first")
    data += block(3, struct.pack("<I", 9) + b"nine")  # 9 bytes on the wire, 4 captured: the snaplen
    data += block(3, struct.pack("<I", 3) + b"abc")
    packets, reader = read(data)
    assert [packet[:3] for packet in packets] == [(77_000, b"first", 8), (77_000, b"nine", 9), (77_000, b"abc", 3)]
    assert reader.damage is None


def test_the_obsolete_packet_block_is_read():
    body = struct.pack("<2H4I", 0, 9, 0, 5, 3, 60) + b"old"
    packets, reader = read(section() + interface() + block(2, body))
    assert [packet[:3] for packet in packets] == [(5_000, b"old", 60)]
    assert reader.damage is None


def test_blocks_that_hold_no_packets_are_passed_over():
    names, secrets, custom = block(4, b"\0" * 8), block(10, b"\1" * 20), block(0x0BAD, b"\2" * 8)
    data = section() + names + interface() + secrets + enhanced(0, 1, b"a") + custom + enhanced(0, 2, b"b")
    packets, reader = read(data + block(0x7FFF_0001, b""))
    assert [packet[1] for packet in packets] == [b"a", b"b"]
    assert reader.damage is None


def test_options_of_a_packet_are_no_part_of_it():
    packets, _ = read(section() + interface() + enhanced(0, 1, b"abc", options=option(1, b"a comment") + b"\0\0\0\0"))
    assert packets[0][1] == b"abc"


def test_drops_are_the_last_word_of_each_interface_summed():
    def statistics(number: int, *options: bytes) -> bytes:
        return block(5, struct.pack("<3I", number, 0, 0) + b"".join(options) + b"\0\0\0\0")

    def counter(code: int, value: int) -> bytes:
        return option(code, struct.pack("<Q", value))

    data = section() + interface() + interface()
    data += statistics(0, counter(4, 100), counter(5, 1), counter(7, 2))  # 1 by the interface, 2 by the system
    data += statistics(1, counter(5, 10)) + statistics(0, counter(5, 4), counter(7, 2)) + statistics(1)
    reader = CaptureReader()
    reader.feed(data)
    assert reader.drops == 16
    reader.feed(section() + interface() + statistics(0, counter(7, 5)))
    assert reader.drops == 21  # another section counts anew


def test_a_name_from_a_file_is_safe_to_print():
    data = section() + interface(options=option(2, b"eth0\x1b[2J\xff\0rest") + option(3, b"n" * 5000))
    _, reader = read(data)
    (found,) = reader.interfaces
    assert found.name == "eth0?[2J\N{REPLACEMENT CHARACTER}"
    assert len(found.description) == 256


# Damage


@pytest.mark.parametrize("make", [classic, pcapng])
def test_a_file_cut_in_a_packet_gives_every_packet_before_it(make):
    whole = make()
    lengths = [len(make(PACKETS[:count])) for count in range(len(PACKETS) + 1)]
    for cut in range(lengths[0], len(whole)):
        complete = max(count for count, length in enumerate(lengths) if length <= cut)
        packets, reader = read(whole[:cut])
        assert [packet[:2] for packet in packets] == PACKETS[:complete]
        if cut in lengths:
            assert reader.damage is None
        else:
            assert reader.damage is not None
            assert reader.damage.packet == complete + 1
            assert f"cut short in packet {complete + 1}" in str(reader.damage)


@pytest.mark.parametrize("make", [classic, pcapng])
def test_a_file_cut_in_its_header_is_no_capture_file(make):
    header = make([])[:24]
    for cut in range(1, 24):
        with pytest.raises(CaptureFileError, match=f"cut short in the file header, after {cut} bytes"):
            read(header[:cut])


def test_a_record_that_claims_more_than_any_packet_has_ends_the_reading():
    data = classic() + struct.pack("<4I", 1, 1, 0x4000_0000, 60) + classic()[24:]
    packets, reader = read(data)
    assert [packet[:2] for packet in packets] == PACKETS
    assert reader.damage is not None
    assert reader.damage.packet == 4
    assert str(reader.damage).startswith("damaged at packet 4: its header claims 1073741824 bytes")


def test_zeros_that_a_power_cut_left_are_damage_and_not_packets():
    packets, reader = read(classic() + bytes(4096))
    assert len(packets) == 3
    assert str(reader.damage) == "damaged at packet 4: its header is all zeros"
    packets, reader = read(pcapng() + bytes(4096))
    assert len(packets) == 3
    assert str(reader.damage) == "damaged at packet 4: a block claims an impossible length of 0 bytes"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (struct.pack("<II", 6, 8) + bytes(28), "an impossible length of 8 bytes"),
        (struct.pack("<II", 6, 37) + bytes(40), "an impossible length of 37 bytes"),
        (struct.pack("<II", 6, 0xFFFF_FFF0) + bytes(40), "an impossible length of 4294967280 bytes"),
        (enhanced(0, 1, b"abcd")[:-4] + struct.pack("<I", 40), "the two lengths of a block differ"),
        (enhanced(1, 1, b"abcd"), "it names interface 1, but the section describes 1"),
        (enhanced(0xFFFF_FFFF, 1, b"abcd"), "it names interface 4294967295, but the section describes 1"),
        (block(6, struct.pack("<5I", 0, 0, 0, 9, 9) + b"8 bytes."), "its captured length runs past its block"),
        (block(6, b"\0" * 8), "a packet block is too short for its header"),
        (block(3, b""), "a packet block is too short for its header"),
        (block(1, b"\0" * 4), "an interface description is too short"),
        (block(5, b"\0" * 8), "an interface statistics block is too short"),
        (block(5, b"\1" * 12), "statistics name interface 16843009"),
        (block(0x0A0D0D0A, b"\0" * 16), "a section header has no byte-order magic"),
        (block(0x0A0D0D0A, struct.pack("<I", 0x1A2B3C4D)), "a section header is too short"),
    ],
)
def test_a_bad_block_ends_the_reading_and_says_why(bad, why):
    start = section() + interface() + enhanced(0, 1, b"one")
    for chunks in (
        (start + bad + enhanced(0, 2, b"two"),),
        (start, bad + bytes(64)),
        tuple(map(bytes, zip(start + bad, strict=True))),
    ):
        packets, reader = read(*chunks)
        assert [packet[1] for packet in packets] == [b"one"]
        assert reader.damage is not None
        assert reader.damage.packet == 2
        assert str(reader.damage).startswith("damaged at packet 2: ")
        assert why in str(reader.damage)
        assert reader.feed(enhanced(0, 3, b"more")) == []  # what follows damage is not guessed at


def test_a_hostile_length_holds_no_more_than_was_fed():
    reader = CaptureReader()
    reader.feed(pcap_header() + struct.pack("<4I", 1, 1, 16 * 1024 * 1024, 60))
    began = time.process_time()
    for _ in range(20_000):  # byte by byte towards a length that never comes: no chunk is joined again and again
        reader.feed(b"x")
    assert time.process_time() - began < 2
    reader.finish()
    assert reader.damage is not None
    assert reader.damage.packet == 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x1f\x8b\x08\0 compressed", "it looks like gzip data"),
        (b"PK\x03\x04 archive", "it looks like a ZIP archive"),
        (b"MSH|^~\\&|ANALYZER|LAB", "it looks like an HL7 message"),
        (b"snoop\0\0\0\0\0\0\x02", "it looks like a Solaris snoop capture"),
        (b"\0" * 100, "not a capture file; pcap and pcapng can be read"),
        (b"just some text", "not a capture file; pcap and pcapng can be read"),
        (block(0x0A0D0D0A, b"\0" * 16), "not a capture file: .* no byte-order magic"),
    ],
)
def test_what_is_no_capture_file_is_refused_with_a_plain_sentence(data, what):
    with pytest.raises(CaptureFileError, match=what) as refused:
        CaptureReader().feed(data)
    assert refused.value.packet == 0


def test_an_empty_file_is_refused():
    with pytest.raises(CaptureFileError, match="empty"):
        CaptureReader().finish()


def test_an_error_shows_nothing_of_what_was_captured():
    with pytest.raises(CaptureFileError) as refused:
        CaptureReader().feed(b"PID|1||4711^^^LAB||DOE^JANE")
    assert "DOE" not in str(refused.value)


# Properties


def captures() -> st.SearchStrategy[bytes]:
    """Capture files of every format, some of them spoilt."""
    packets = st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), st.binary(max_size=40)), max_size=8)
    two = section() + interface() + interface(113, 8, option(9, b"\x89"))
    blocks = st.one_of(
        st.builds(enhanced, st.integers(0, 2), st.integers(0, 2**64 - 1), st.binary(max_size=20)),
        st.builds(
            lambda wire, data: block(3, struct.pack("<I", wire) + data), st.integers(0, 30), st.binary(max_size=12)
        ),
        st.builds(block, st.integers(0, 12), st.binary(max_size=40)),
        st.sampled_from([section(">") + interface(order=">") + enhanced(0, 5, b"big", ">"), two]),
        st.binary(max_size=16),
    )
    return st.one_of(
        st.builds(classic, packets),
        st.builds(pcapng, packets),
        st.builds(lambda parts: two + b"".join(parts), st.lists(blocks, max_size=8)),
        st.builds(lambda whole, tail: whole + tail, st.builds(classic, packets), st.binary(max_size=60)),
    )


def outcome(*chunks: bytes) -> object:
    try:
        packets, reader = read(*chunks)
    except CaptureFileError as error:
        return str(error)
    damage = reader.damage and (str(reader.damage), reader.damage.packet)
    return packets, reader.interfaces, reader.drops, damage


@settings(deadline=None)
@given(captures(), st.lists(st.integers(0, 400)))
def test_however_the_bytes_are_cut_the_same_packets_come_out(data, cuts):
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    whole = outcome(data)
    assert outcome(*(data[start:end] for start, end in itertools.pairwise(edges))) == whole
    assert outcome(*(data[at : at + 1] for at in range(len(data)))) == whole


@settings(deadline=None)
@given(st.sampled_from([b"", classic([]), section(), section() + interface(), section(">")]), st.binary(max_size=400))
def test_random_bytes_never_raise_anything_but_capture_file_error(header, data):
    outcome(header + data)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.binary(max_size=70), st.integers(0, 2**32 - 1))))
def test_what_pcapng_writes_is_read_back(packets):
    writer = PcapngWriter()
    data = writer.header("sensor", [COOKED, ETH0])
    data += b"".join(writer.packet(1, *packet) for packet in packets) + writer.statistics(1, NOON, 9, 4)
    found, reader = read(data)
    assert found == [(*packet, ETH0) for packet in packets]
    assert reader.interfaces == (COOKED, ETH0)
    assert reader.drops == 4
    assert reader.damage is None


def test_a_batch_is_written_as_its_packets():
    batch = PacketBatch.of([Packet(data, time_ns, len(data) + 4, ETH0) for time_ns, data in PACKETS])
    writer = PcapngWriter()
    assert writer.batch(batch) == b"".join(writer.packet(0, time_ns, data, len(data) + 4) for time_ns, data in PACKETS)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**32 * 10**9 - 1), st.binary(min_size=1, max_size=70))), st.booleans())
def test_what_classic_pcap_writes_is_read_back(packets, nano):
    data = pcap_header(101, nano=nano) + b"".join(pcap_record(*packet, nano=nano) for packet in packets)
    unit = 1 if nano else 1000
    assert times_and_data(data) == [(time_ns // unit * unit, packet) for time_ns, packet in packets]


# Other programs' word


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark, whose word this compares with, is not installed")
@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "modpcap", "pcapng"])
@pytest.mark.parametrize("make", [classic, pcapng])
def test_what_wireshark_rewrites_and_lists_is_what_is_read(tmp_path, make, form):
    original, rewritten = tmp_path / "original", tmp_path / "rewritten"
    original.write_bytes(make())
    subprocess.run(["tshark", "-r", original, "-F", form, "-w", rewritten], check=True, capture_output=True)
    unit = 1000 if form in ("pcap", "modpcap") else 1
    expected = [(time_ns // unit * unit, data) for time_ns, data in PACKETS]
    packets, reader = read(rewritten.read_bytes())
    assert [packet[:2] for packet in packets] == expected
    assert reader.damage is None
    listed = subprocess.run(
        ["tshark", "-r", rewritten, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.cap_len"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert listed == [
        text for time_ns, data in expected for text in (f"{time_ns // 10**9}.{time_ns % 10**9:09}", str(len(data)))
    ]
