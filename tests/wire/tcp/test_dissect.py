"""From a packet's bytes to its TCP segment."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.model.packet import Endpoint
from hl7core.wire.pcap.synthetic_tcp import tcp_packet
from hl7core.wire.tcp.dissect import dissect, endpoints, reverse

A, B = Endpoint("10.0.0.5", 49152), Endpoint("10.0.0.9", 2575)
A6, B6 = Endpoint("fd00::5", 49152), Endpoint("fd00::9", 2575)
DATA = b"\x0bMSH|^~\\&|\x1c\r"


def payload(packet: bytes, link_type: int = 1) -> bytes | None:
    segment = dissect(packet, 0, len(packet), link_type)
    return None if segment is None else packet[segment.start : segment.end]


def test_ethernet_padding_is_no_payload():
    packet = tcp_packet(A, B, seq=1, data=b"\x05")
    assert packet.endswith(b"\x05\0\0\0\0\0")
    assert payload(packet) == b"\x05"
    assert payload(tcp_packet(A, B, seq=1)) == b""


@pytest.mark.parametrize(("source", "target"), [(A, B), (A6, B6)])
def test_the_key_names_both_ends(source, target):
    packet = tcp_packet(source, target, seq=7, data=DATA)
    segment = dissect(packet, 0, len(packet), 1)
    assert endpoints(segment.key) == (source, target)
    assert endpoints(reverse(segment.key)) == (target, source)
    assert segment.seq == 7


LINKS = {
    "802.1Q": (1, b"\x02" * 12 + b"\x81\x00\x00\x2a\x08\x00"),
    "QinQ": (1, b"\x02" * 12 + b"\x88\xa8\x00\x01\x81\x00\x00\x2a\x08\x00"),
    "PPPoE": (1, b"\x02" * 12 + b"\x88\x64\x11\x00\x00\x01\x00\x30\x00\x21"),
    "Linux cooked 1": (113, b"\x00\x00\x00\x01\x00\x06" + b"\x02" * 6 + b"\x00\x00\x08\x00"),
    "Linux cooked 2": (276, b"\x08\x00\x00\x00\x00\x00\x00\x02\x00\x01\x00\x06" + b"\x02" * 8),
    "loopback, little-endian": (0, b"\x02\x00\x00\x00"),
    "loopback, big-endian": (0, b"\x00\x00\x00\x02"),
    "OpenBSD loopback": (108, b"\x00\x00\x00\x02"),
    "raw IP": (101, b""),
    "raw IPv4": (228, b""),
}


@pytest.mark.parametrize("name", LINKS)
def test_every_link_layer_is_read(name):
    link_type, header = LINKS[name]
    assert payload(tcp_packet(A, B, seq=1, data=DATA, link=header), link_type) == DATA


def test_ipv4_options_are_passed_over():
    packet = tcp_packet(A, B, seq=1, data=DATA, link=b"")
    head = bytes([0x46]) + packet[1:2] + struct.pack(">H", len(packet) + 4) + packet[4:20] + b"\x01" * 4
    assert payload(head + packet[20:], 101) == DATA


def test_ipv6_extension_headers_are_passed_over():
    packet = tcp_packet(A6, B6, seq=1, data=DATA, link=b"")
    options = b"\x2c\x00" + b"\x00" * 6 + b"\x06\x00\x00\x00" + b"\x00" * 4  # hop-by-hop, then an atomic fragment
    head = packet[:4] + struct.pack(">HB", len(packet) - 40 + len(options), 0) + packet[7:40]
    assert payload(head + options + packet[40:], 101) == DATA


def test_without_an_ip_length_the_captured_length_counts():
    packet = tcp_packet(A, B, seq=1, data=DATA * 10)  # segmentation offload leaves 0 there
    assert payload(packet[:16] + b"\0\0" + packet[18:]) == DATA * 10


def test_a_packet_that_the_capture_cut_says_what_is_missing():
    packet = tcp_packet(A, B, seq=1, data=b"x" * 500)[:100]
    segment = dissect(packet, 0, len(packet), 1)
    assert segment.end - segment.start == 46
    assert segment.missing == 454


@pytest.mark.parametrize("kept", range(54))
def test_a_packet_cut_within_its_headers_is_let_go(kept):
    assert dissect(tcp_packet(A, B, seq=1, data=DATA)[:kept], 0, kept, 1) is None


@given(st.binary(max_size=120), st.sampled_from([0, 1, 12, 101, 108, 113, 228, 229, 276, 147]))
def test_no_bytes_make_it_fail(data, link_type):
    segment = dissect(data, 0, len(data), link_type)
    assert segment is None or 0 <= segment.start <= segment.end <= len(data)
