"""pcapng: every block, option and clock, in either byte order."""

from __future__ import annotations

import struct

import pytest

from hl7core.model.packet import Interface
from hl7core.wire.pcap.reader import CaptureReader
from wire.pcap.capture_bytes import (
    block,
    enhanced,
    interface,
    option,
    read,
    section,
)


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
