"""What is written is read back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.packet import Packet, PacketBatch
from hl7core.wire.pcap.reader import PcapngWriter, pcap_header, pcap_record
from wire.pcap.capture_bytes import (
    COOKED,
    ETH0,
    NOON,
    PACKETS,
    read,
    times_and_data,
)


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
