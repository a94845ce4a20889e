"""Captures as bytes: classic pcap, and what a damaged or foreign file gives."""

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
from hl7core.model.packet import Interface
from hl7core.wire.pcap.reader import CaptureReader, pcap_header
from wire.pcap.capture_bytes import (
    NOON,
    PACKETS,
    block,
    classic,
    enhanced,
    interface,
    option,
    pcapng,
    read,
    section,
)


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
