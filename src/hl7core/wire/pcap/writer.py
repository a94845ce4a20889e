"""Writing a capture: values in, the bytes of a pcapng or pcap file out, little-endian and in nanoseconds.

hl7core writes pcapng (the capture process's pipe, ``-w``, exports), because it records the interface of each packet and
how many packets were dropped.  Classic pcap is for small tools and tests.

Formats: draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from hl7core.model.packet import LINKTYPE_ETHERNET, Interface, PacketBatch

__all__ = ["PcapngWriter", "pcap_header", "pcap_record"]

_PAD: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # the padding to 32 bits, by length modulo 4
_END_OF_OPTIONS: Final = b"\0\0\0\0"
_OPT_COMMENT = 1
_SHB_USERAPPL, _IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 4, 2, 3, 9
_ISB_IFRECV, _ISB_IFDROP = 4, 5
_NANOSECONDS: Final = b"\x09"  # if_tsresol: 10**-9 s

_SECTION = struct.Struct("<IIIHHq")
_INTERFACE = struct.Struct("<HHI")
_ENHANCED = struct.Struct("<7I")
_WORD = struct.Struct("<I")
_PCAP_HEADER = struct.Struct("<IHHiIII")
_PCAP_RECORD = struct.Struct("<4I")


class PcapngWriter:
    """Writes one pcapng section.  Call :meth:`header` first; packets refer to its interfaces by index."""

    def header(self, sensor: str, interfaces: Sequence[Interface], comment: str = "") -> bytes:
        """Return the section header and one Interface Description Block per interface.

        ``sensor`` is recorded as the program that wrote the file, ``comment`` as the comment of the section, which
        viewers show.
        """
        body = _SECTION.pack(0x0A0D0D0A, 0, 0x1A2B3C4D, 1, 0, -1)[8:]
        blocks = [_block(0x0A0D0D0A, body + _options(_comment(comment), (_SHB_USERAPPL, sensor.encode()[:0xFFFF])))]
        for interface in interfaces:
            options = _options(
                (_IF_NAME, interface.name.encode()[:0xFFFF]),
                (_IF_DESCRIPTION, interface.description.encode()[:0xFFFF]),
                (_IF_TSRESOL, _NANOSECONDS),
            )
            blocks.append(_block(1, _INTERFACE.pack(interface.link_type, 0, interface.snaplen) + options))
        return b"".join(blocks)

    def packet(self, interface_index: int, time_ns: int, data: bytes, wire_length: int, comment: str = "") -> bytes:
        """Return one Enhanced Packet Block; ``time_ns`` is in unix nanoseconds, ``wire_length`` in bytes."""
        captured = len(data)
        pad = _PAD[captured & 3]
        if comment:
            pad += _options(_comment(comment))
        length = 32 + captured + len(pad)
        head = _ENHANCED.pack(
            6, length, interface_index, time_ns >> 32, time_ns & 0xFFFFFFFF, captured, wire_length
        )  # fmt: skip
        return b"".join((head, data, pad, _WORD.pack(length)))

    def batch(self, batch: PacketBatch, interface_index: int = 0) -> bytes:
        """Return one Enhanced Packet Block for each packet of ``batch``."""
        buffer, packet = batch.buffer, self.packet
        return b"".join(
            packet(interface_index, time_ns, buffer[start:end], wire_length)
            for start, end, time_ns, wire_length in zip(
                batch.starts, batch.ends, batch.times, batch.wire_lengths, strict=True
            )
        )

    def statistics(self, interface_index: int, time_ns: int, received: int, dropped: int) -> bytes:
        """Return an Interface Statistics Block: how many packets were received and dropped since the capture began."""
        body = struct.pack("<III", interface_index, time_ns >> 32, time_ns & 0xFFFFFFFF)
        counters = ((_ISB_IFRECV, struct.pack("<Q", received)), (_ISB_IFDROP, struct.pack("<Q", dropped)))
        return _block(5, body + _options(*counters))


def pcap_header(link_type: int = LINKTYPE_ETHERNET, *, nano: bool = True, snaplen: int = 262_144) -> bytes:
    """Return the 24-byte header of a classic pcap file with times in nanoseconds (``nano``) or microseconds."""
    return _PCAP_HEADER.pack(0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link_type)


def pcap_record(time_ns: int, data: bytes, wire_length: int = 0, *, nano: bool = True) -> bytes:
    """Return one packet record of a classic pcap file; a ``wire_length`` of 0 means the length of ``data``."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return (
        _PCAP_RECORD.pack(seconds, fraction if nano else fraction // 1000, len(data), wire_length or len(data)) + data
    )


def _block(kind: int, body: bytes) -> bytes:
    length = _WORD.pack(12 + len(body))
    return b"".join((_WORD.pack(kind), length, body, length))


def _comment(text: str) -> tuple[int, bytes]:
    return _OPT_COMMENT, text.encode("utf-8", "replace")[:0xFFFF]


def _options(*options: tuple[int, bytes]) -> bytes:
    """Return an option list, padded and terminated; empty values are left out."""
    parts = [struct.pack("<HH", code, len(value)) + value + _PAD[len(value) & 3] for code, value in options if value]
    return b"".join((*parts, _END_OF_OPTIONS)) if parts else b""
