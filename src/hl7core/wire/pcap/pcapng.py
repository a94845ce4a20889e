"""pcapng blocks: bytes in, batches out, under the rules that :mod:`hl7core.wire.pcap.reader` states.

One loop reads the blocks in two ways.  The fast path reads Enhanced Packet Blocks of the current interface, which is
nearly all that a file holds, and accepts nothing that the slow path would refuse.  The slow path reads one block of any
type, and damage in it ends the reading.

Format: PCAP Next Generation (pcapng) Capture File Format, draft-ietf-opsawg-pcapng, whose sections are cited here.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from hl7core.errors import CaptureFileError
from hl7core.model.packet import Interface, PacketBatch
from hl7core.wire.native import blocks

__all__ = ["MAX_CAPTURED", "MAX_TIME", "SECTION_HEADER", "PcapngParser"]

MAX_CAPTURED: Final = 16 * 1024 * 1024
"""The largest packet: a header that claims more is damaged.  (libpcap's own limit is 256 KiB for Ethernet.)"""

MAX_TIME: Final = 2**63 - 1
"""The latest time accepted, in unix nanoseconds (the year 2262): no hostile timestamp overflows a date later."""

_MAX_BLOCK: Final = MAX_CAPTURED + 64 * 1024
_MAX_INTERFACES: Final = 65_536
_MAX_NAME: Final = 256

# Block types, sections 4.1 to 4.6 and appendix A of the draft.
SECTION_HEADER: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_OBSOLETE_PACKET: Final = 2
_SIMPLE_PACKET: Final = 3
_STATISTICS: Final = 5
_ENHANCED_PACKET: Final = 6
_SECRETS: Final = 10
_TLS_KEY_LOG: Final = 0x544C534B  # section 4.7
_MAX_SECRETS: Final = 16 * 1024 * 1024

_BYTE_ORDER_MAGIC: Final = b"\x1a\x2b\x3c\x4d"

# Options: section 3.5 (end), 4.2 (if_*), 4.6 (isb_*).
_OPT_END: Final = 0
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 2, 3, 9, 14
_ISB_IFDROP, _ISB_OSDROP = 5, 7

_SECOND: Final = 1_000_000_000


_Columns = tuple[list[int], list[int], list[int], list[int]]  # starts, ends, ticks and wire lengths of a batch


class _Described(NamedTuple):
    """An interface of the section, and its clock: nanoseconds are ``ticks * multiply // divide + offset``."""

    interface: Interface
    multiply: int
    divide: int
    offset: int

    def ticks(self, time_ns: int) -> int:
        """Return ``time_ns`` in the time unit of this interface, rounded down."""
        return (time_ns - self.offset) * self.divide // self.multiply


class _Layout(NamedTuple):
    """The structs of one byte order."""

    word: struct.Struct
    head: struct.Struct
    enhanced: struct.Struct
    obsolete: struct.Struct
    interface: struct.Struct
    option: struct.Struct
    counter: struct.Struct
    offset: struct.Struct


def _layout(order: str) -> _Layout:
    return _Layout(*(struct.Struct(order + form) for form in ("I", "II", "7I", "2I2H4I", "HHI", "HH", "Q", "q")))


_LITTLE, _BIG = _layout("<"), _layout(">")


class PcapngParser:
    """Reads the blocks of one pcapng stream; use it through :class:`hl7core.wire.pcap.reader.CaptureReader`."""

    def __init__(self) -> None:
        self.packets = 0
        self.damage: CaptureFileError | None = None
        self.secrets: list[bytes] = []
        self._secret_bytes = 0
        self.needs_header = True
        self.interfaces: dict[Interface, None] = {}
        self._layout = _LITTLE
        self._section: list[_Described] = []
        self._drops: dict[int, int] = {}
        self._drops_before = 0
        self._current = -1
        self._last_time = 0

    @property
    def drops(self) -> int:
        """How many packets the interfaces and the system dropped: the sum of the last statistics of each interface."""
        return self._drops_before + sum(self._drops.values())

    def parse(self, buffer: bytes) -> tuple[list[PacketBatch], int, int]:
        """Read the whole blocks of ``buffer``, which starts at a block.

        Returns the batches, the number of bytes read, and how many bytes must follow those before the next call can
        read on.  Damage goes to :attr:`damage`; the batches hold all packets before it.
        """
        batches: list[PacketBatch] = []
        columns = _columns()
        starts, ends, ticks, wires = columns
        layout, limit = self._layout, _MAX_BLOCK
        read_words, read_word = layout.enhanced.unpack_from, layout.word.unpack_from
        section, current = self._section, self._current
        at, end = 0, len(buffer)
        last = end - 32
        need = 12
        while end - at >= 12:
            if blocks is not None:  # the fast path in C; it stops at the first block that it does not accept
                at = blocks(buffer, at, layout is _BIG, current, starts, ends, ticks, wires)
            add_start, add_end, add_ticks, add_wire = starts.append, ends.append, ticks.append, wires.append
            while at <= last:
                kind, length, number, high, low, captured, wire = read_words(buffer, at)
                after = at + length
                if (
                    kind != _ENHANCED_PACKET
                    or number != current
                    or after > end
                    or captured + 32 > length
                    or length > limit
                    or length & 3
                    or read_word(buffer, after - 4) != (length,)
                ):
                    break
                at += 28
                add_start(at)
                add_end(at + captured)
                add_ticks(high << 32 | low)
                add_wire(wire)
                at = after
            else:
                kind = number = -1
            if kind == _ENHANCED_PACKET and current != number < len(section):
                self._end_batch(batches, buffer, columns)
                columns = _columns()
                starts, ends, ticks, wires = columns
                current = self._current = number
                continue
            if end - at < 12:
                break
            # The slow path: one block of any type, or the reason why the fast path refused it.
            kind, length = layout.head.unpack_from(buffer, at)
            if kind == SECTION_HEADER:
                magic = buffer[at + 8 : at + 12]
                if magic not in (_BYTE_ORDER_MAGIC, _BYTE_ORDER_MAGIC[::-1]):
                    self._damaged("a section header has no byte-order magic", len(starts))
                    break
                layout = _BIG if magic == _BYTE_ORDER_MAGIC else _LITTLE
                length = layout.word.unpack_from(buffer, at + 4)[0]
            if length < 12 or length & 3 or length > _MAX_BLOCK:
                self._damaged(f"a block claims an impossible length of {length} bytes", len(starts))
                break
            after = at + length
            if after > end:
                need = length
                break
            if layout.word.unpack_from(buffer, after - 4)[0] != length:
                self._damaged("the two lengths of a block differ", len(starts))
                break
            if kind in (_ENHANCED_PACKET, _SIMPLE_PACKET, _OBSOLETE_PACKET):
                found = self._packet(layout, buffer, at, kind, length)
                if isinstance(found, str):
                    self._damaged(found, len(starts))
                    break
                number, tick, start, captured, wire = found
                if number != current:
                    self._end_batch(batches, buffer, columns)
                    columns = _columns()
                    starts, ends, ticks, wires = columns
                    current = self._current = number
                if tick is None:  # it has no time of its own: it gets that of the packet before it
                    tick = ticks[-1] if ticks else section[number].ticks(self._last_time)
                starts.append(start)
                ends.append(start + captured)
                ticks.append(tick)
                wires.append(wire)
            elif kind == SECTION_HEADER:
                if length < 28:
                    self._damaged("a section header is too short", len(starts))
                    break
                self._end_batch(batches, buffer, columns)
                columns = _columns()
                starts, ends, ticks, wires = columns
                self._drops_before, self._drops = self.drops, {}
                self._layout = layout
                self.needs_header = False
                read_words, read_word = layout.enhanced.unpack_from, layout.word.unpack_from
                section = self._section = []
                current = self._current = -1
            elif kind in (_INTERFACE, _STATISTICS):
                read = self._read_interface if kind == _INTERFACE else self._read_statistics
                problem = read(buffer[at + 8 : after - 4])
                if problem:
                    self._damaged(problem, len(starts))
                    break
            elif kind == _SECRETS:
                self._read_secrets(buffer[at + 8 : after - 4])
            at = after  # other types hold no packets: name resolution, journals, vendors' own blocks
        self._end_batch(batches, buffer, columns)
        return batches, at, need

    def _packet(
        self, layout: _Layout, buffer: bytes, at: int, kind: int, length: int
    ) -> tuple[int, int | None, int, int, int] | str:
        """Return interface number, ticks, start, captured and wire length of a packet block, or what is wrong."""
        ticks: int | None = None
        if length < (16 if kind == _SIMPLE_PACKET else 32):
            return "a packet block is too short for its header"
        if kind == _ENHANCED_PACKET:
            _, _, number, high, low, captured, wire = layout.enhanced.unpack_from(buffer, at)
            start, ticks = at + 28, high << 32 | low
        elif kind == _OBSOLETE_PACKET:
            _, _, number, _, high, low, captured, wire = layout.obsolete.unpack_from(buffer, at)
            start, ticks = at + 28, high << 32 | low
        else:
            number, start = 0, at + 12
            (wire,) = layout.word.unpack_from(buffer, at + 8)
            # Section 4.4: the captured length is the smaller of the wire length and the interface's snaplen.
            snaplen = self._section[0].interface.snaplen if self._section else 0
            captured = min(wire, snaplen or wire, length - 16)
        if number >= len(self._section):
            return f"it names interface {number}, but the section describes {len(self._section)}"
        if start + captured > at + length - 4:
            return "its captured length runs past its block"
        return number, ticks, start, captured, wire

    def _read_interface(self, body: bytes) -> str:
        """Add the interface that ``body`` describes to the section; return what is wrong with it, if anything."""
        if len(body) < 8:
            return "an interface description is too short"
        if len(self._section) >= _MAX_INTERFACES:
            return f"there are more than {_MAX_INTERFACES} interfaces"
        link_type, _, snaplen = self._layout.interface.unpack_from(body)
        options = self._options(body, 8)
        resolution = options.get(_IF_TSRESOL, b"\x06")[:1] or b"\x06"
        exponent = resolution[0] & 0x7F
        if resolution[0] & 0x80:  # section 4.2: the top bit selects a power of 2 over a power of 10
            multiply, divide = _SECOND, 1 << exponent
        elif exponent <= 9:
            multiply, divide = 10 ** (9 - exponent), 1
        else:
            multiply, divide = 1, 10 ** (exponent - 9)
        seconds = options.get(_IF_TSOFFSET, b"")
        offset = self._layout.offset.unpack(seconds)[0] * _SECOND if len(seconds) == 8 else 0
        interface = Interface(
            name=_text(options.get(_IF_NAME, b"")),
            link_type=link_type,
            snaplen=snaplen,
            description=_text(options.get(_IF_DESCRIPTION, b"")),
        )
        if interface not in self.interfaces and len(self.interfaces) >= _MAX_INTERFACES:
            return f"there are more than {_MAX_INTERFACES} interfaces"
        self.interfaces[interface] = None
        self._section.append(_Described(interface, multiply, divide, offset))
        return ""

    def _read_statistics(self, body: bytes) -> str:
        """Store how many packets an interface dropped; return what is wrong with ``body``, if anything."""
        if len(body) < 12:
            return "an interface statistics block is too short"
        (number,) = self._layout.word.unpack_from(body)
        if number >= len(self._section):
            return f"statistics name interface {number}, but the section describes {len(self._section)}"
        options = self._options(body, 12)
        counters = [options[code] for code in (_ISB_IFDROP, _ISB_OSDROP) if len(options.get(code, b"")) == 8]
        if counters:
            self._drops[number] = sum(self._layout.counter.unpack(counter)[0] for counter in counters)
        return ""

    def _read_secrets(self, body: bytes) -> None:
        """Keep the TLS key logs that the capture carries, up to a limit; skip other types of secrets (section 4.7)."""
        if len(body) < 8:
            return
        (kind,), (length,) = self._layout.word.unpack_from(body), self._layout.word.unpack_from(body, 4)
        text = body[8 : 8 + length]
        if kind == _TLS_KEY_LOG and self._secret_bytes + len(text) <= _MAX_SECRETS:
            self.secrets.append(text)
            self._secret_bytes += len(text)

    def _options(self, body: bytes, at: int) -> dict[int, bytes]:
        """Return the options from ``at`` on by code, the last of each code; skip an option that runs past the end."""
        options: dict[int, bytes] = {}
        while at + 4 <= len(body):
            code, length = self._layout.option.unpack_from(body, at)
            at += 4
            if code == _OPT_END or at + length > len(body):
                break
            options[code] = body[at : at + length]
            at += length + 3 & ~3
        return options

    def _end_batch(self, batches: list[PacketBatch], buffer: bytes, columns: _Columns) -> None:
        """Append the packets in ``columns`` to ``batches`` as a batch, if there are any."""
        starts, ends, ticks, wires = columns
        if not starts:
            return
        interface, multiply, divide, offset = self._section[self._current]
        times = ticks
        if multiply != 1 or divide != 1 or offset:
            times = [tick * multiply // divide + offset for tick in ticks]
        if max(times) > MAX_TIME or min(times) < 0:
            times = [min(max(time_ns, 0), MAX_TIME) for time_ns in times]
        self._last_time = times[-1]
        batches.append(PacketBatch(buffer, starts, ends, times, wires, interface, self.packets + 1))
        self.packets += len(starts)

    def _damaged(self, what: str, pending: int) -> None:
        packet = self.packets + pending + 1
        self.damage = CaptureFileError(f"damaged at packet {packet}: {what}", packet=packet)


def _columns() -> _Columns:
    return [], [], [], []


def _text(raw: bytes) -> str:
    """Return a name from a file as text that is safe to print."""
    text = raw[:_MAX_NAME].split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
