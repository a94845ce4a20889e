"""Reading a capture: the bytes of a pcap or pcapng file in, batches of packets out.  No file is opened here.

A capture file is untrusted input.  If its first bytes do not start a capture file, reading raises.  After the header
nothing raises: damage ends the reading, every packet before it is returned, none is invented, and ``damage`` says where
and why.  No memory is allocated because a header claims a size; at most one packet or block that was fed, up to 16 MiB,
is held.  However the bytes are cut into chunks, the same packets come out.

Formats: classic pcap as in draft-ietf-opsawg-pcap and pcap-savefile(5), with its nanosecond variant and Kuznetzov's
"modified" variant (packet headers of 24 bytes); pcapng in :mod:`hl7core.wire.pcap.pcapng`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from hl7core.errors import CaptureFileError
from hl7core.model.packet import Interface, PacketBatch
from hl7core.wire.native import records
from hl7core.wire.pcap.pcapng import MAX_CAPTURED, SECTION_HEADER, PcapngParser
from hl7core.wire.pcap.writer import PcapngWriter, pcap_header, pcap_record

__all__ = ["CaptureReader", "PcapngWriter", "pcap_header", "pcap_record"]

_FILE_HEADER: Final = 24
# Magic number -> (nanoseconds per unit of a packet's fraction of a second, length of a packet header).
_CLASSIC: Final = {0xA1B2C3D4: (1000, 16), 0xA1B23C4D: (1, 16), 0xA1B2CD34: (1000, 24)}
_LINK_TYPE_BITS: Final = 0x03FFFFFF  # the bits above give the length of the frame check sequence

# Files that people pass by mistake, by their first bytes.
_LOOK_ALIKES: Final = (
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"\xfd7zXZ", "xz-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\x04\x22\x4d\x18", "lz4-compressed data"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"snoop", "a Solaris snoop capture"),
    (b"GMBU", "a Microsoft Network Monitor capture"),
    (b"RTSS", "a Microsoft Network Monitor capture"),
    (b"XCP\0", "a Sniffer capture"),
    (b"\x0bMSH", "an MLLP stream"),
    (b"MSH|", "an HL7 message"),
    (b"{", "JSON"),
)


class CaptureReader:
    """Reads one capture file or stream; its first bytes tell the format.

    Call :meth:`feed` with chunks of any size (about 1 MiB is fast), then :meth:`finish` once.
    """

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_size = 0
        self._need = 4
        self._parser: PcapngParser | _ClassicParser | None = None
        self._damage: CaptureFileError | None = None

    @property
    def packets(self) -> int:
        """How many packets have been returned so far."""
        return self._parser.packets if self._parser else 0

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The distinct interfaces described so far, in order of appearance."""
        return tuple(self._parser.interfaces) if self._parser else ()

    @property
    def drops(self) -> int:
        """How many packets were dropped while capturing, as far as the file says so yet; only pcapng records it."""
        return self._parser.drops if self._parser else 0

    def take_secrets(self) -> bytes:
        """Return the TLS key logs in the capture that were not returned before; only pcapng can carry any."""
        if not isinstance(self._parser, PcapngParser) or not self._parser.secrets:
            return b""
        secrets, self._parser.secrets = self._parser.secrets, []
        return b"\n".join(secrets)

    @property
    def damage(self) -> CaptureFileError | None:
        """Why reading stopped early, with the number of the packet that could not be read; None if it did not."""
        return self._damage

    def feed(self, data: bytes) -> list[PacketBatch]:
        """Read the next bytes; return the packets that they complete, in order, in batches of one interface each.

        A batch keeps ``data`` as its buffer, preceded by the start of a packet that the last chunk cut.  A pcapng
        packet without a timestamp gets that of the packet before it.  Times lie between 1970 and 2262.  After damage
        nothing more is returned.

        Raises CaptureFileError if this is not a capture file.
        """
        if self._damage:
            return []
        if self._held:
            self._held.append(data)
            self._held_size += len(data)
            if self._held_size < self._need:
                return []
            data = b"".join(self._held)
        elif len(data) < self._need:
            if data:
                self._held, self._held_size = [data], len(data)
            return []
        if self._parser is None:
            self._parser = _parser_for(data)
        batches, used, self._need = self._parser.parse(data)
        self._damage = self._parser.damage
        if self._damage and self._parser.needs_header:
            raise CaptureFileError(f"not a capture file: {self._damage}")
        rest = data[used:]
        self._held, self._held_size = ([rest], len(rest)) if rest and not self._damage else ([], 0)
        return batches

    def finish(self) -> list[PacketBatch]:
        """End the reading; :attr:`damage` then tells if the file was cut short within a packet.

        Returns no packets, since :meth:`feed` has returned all that are whole.  Raises CaptureFileError if the file
        ends before or within its header.
        """
        if self._damage:
            return []
        if not self._held_size and self._parser is None:
            raise CaptureFileError("the file is empty")
        if self._parser is None or self._parser.needs_header:
            raise CaptureFileError(f"cut short in the file header, after {self._held_size} bytes")
        if self._held_size:
            packet = self.packets + 1
            self._damage = CaptureFileError(
                f"cut short in packet {packet}: the file ends in the middle of it", packet=packet
            )
            self._held, self._held_size = [], 0
        return []


class _ClassicParser:
    """Reads the records of a classic pcap file."""

    def __init__(self, order: str, unit: int, record_header: int) -> None:
        self.packets = 0
        self.drops = 0
        self.damage: CaptureFileError | None = None
        self.needs_header = True
        self.interfaces: dict[Interface, None] = {}
        self._file_header = struct.Struct(order + "16xII")
        self._record = struct.Struct(order + "4I")
        self._record_header = record_header
        self._unit = unit
        self._big = order == ">"
        self._interface = Interface()

    def parse(self, buffer: bytes) -> tuple[list[PacketBatch], int, int]:
        """Read the whole records of ``buffer``; as :meth:`PcapngParser.parse`."""
        at, end = 0, len(buffer)
        if self.needs_header:
            if end < _FILE_HEADER:
                return [], 0, _FILE_HEADER
            snaplen, link_type = self._file_header.unpack_from(buffer)
            self._interface = Interface(link_type=link_type & _LINK_TYPE_BITS, snaplen=snaplen)
            self.interfaces[self._interface] = None
            self.needs_header = False
            at = _FILE_HEADER
        starts: list[int] = []
        ends: list[int] = []
        times: list[int] = []
        wires: list[int] = []
        add_start, add_end, add_time, add_wire = starts.append, ends.append, times.append, wires.append
        read: Callable[[bytes, int], tuple[int, ...]]
        read, header, unit, limit = self._record.unpack_from, self._record_header, self._unit, MAX_CAPTURED
        second, second_ns = 0, 0  # most packets share their second with the packet before
        last = end - header
        need = header
        if records is not None:
            at = records(buffer, at, self._big, header, unit, starts, ends, times, wires)
        while at <= last:
            seconds, fraction, captured, wire = read(buffer, at)
            start = at + header
            after = start + captured
            if after > end or captured > limit or not captured:
                problem = _impossible(seconds, captured, wire)
                if problem:
                    packet = self.packets + len(starts) + 1
                    self.damage = CaptureFileError(f"damaged at packet {packet}: {problem}", packet=packet)
                    break
                if after > end:
                    need = header + captured
                    break
            if seconds != second:
                second, second_ns = seconds, seconds * 1_000_000_000
            add_start(start)
            add_end(after)
            add_time(second_ns + fraction * unit)
            add_wire(wire)
            at = after
        if not starts:
            return [], at, need
        batch = PacketBatch(buffer, starts, ends, times, wires, self._interface, self.packets + 1)
        self.packets += len(starts)
        return [batch], at, need


def _impossible(seconds: int, captured: int, wire: int) -> str:
    """Return what is impossible about a packet header, if anything."""
    if captured > MAX_CAPTURED:
        return f"its header claims {captured} bytes, more than any packet has"
    if not captured and not wire and not seconds:  # a disk that lost power leaves zeros at the end
        return "its header is all zeros"
    return ""


def _parser_for(head: bytes) -> PcapngParser | _ClassicParser:
    """Return the parser for a file that begins with ``head`` (at least 4 bytes); raises CaptureFileError if none."""
    if head.startswith(SECTION_HEADER.to_bytes(4, "big")):  # the same bytes in either byte order
        return PcapngParser()
    for order in ("<", ">"):
        (magic,) = struct.unpack_from(order + "I", head)
        if magic in _CLASSIC:
            return _ClassicParser(order, *_CLASSIC[magic])
    looks = next((f" (it looks like {what})" for start, what in _LOOK_ALIKES if head.startswith(start)), "")
    raise CaptureFileError(f"not a capture file{looks}; pcap and pcapng can be read, plain or gzip-compressed")
