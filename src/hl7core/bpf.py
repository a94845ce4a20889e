"""Capture filters as in tcpdump: libpcap compiles the expression, and its interpreter runs it on each packet.

libpcap alone decides what an expression means, and its error messages are passed on unchanged.  It is loaded when the
first filter is made, so that nothing but a filter needs it.

Language: pcap-filter(7).  Functions: pcap_open_dead(3pcap), pcap_compile(3pcap), pcap_offline_filter(3pcap).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
import weakref
from functools import cache
from types import TracebackType
from typing import Final, Self

from hl7core.errors import SourceError
from hl7core.model.packet import PacketBatch

__all__ = ["PacketFilter", "check_filter"]

_NAMES: Final = ("libpcap.so.1", "libpcap.so.0.8", "libpcap.dylib")
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN: only "ip broadcast" needs a netmask
_OPTIMIZE: Final = 1
_ETHERNET: Final = 1

# The link types that capture files number differently from libpcap (https://www.tcpdump.org/linktypes.html).
_LINK_TYPE_TO_DLT: Final = {100: 11, 101: 12}

# libpcap before 1.8 compiles with global state.
_COMPILING = threading.Lock()


class _Program(ctypes.Structure):
    """``struct bpf_program``."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _Header(ctypes.Structure):
    """``struct pcap_pkthdr``."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("wire_length", ctypes.c_uint32),
    )


def check_filter(expression: str) -> None:
    """Raise SourceError, with libpcap's reason, if ``expression`` is not a valid filter for Ethernet.

    Does nothing where libpcap is not installed: nothing there can tell.
    """
    try:
        _libpcap()
    except SourceError:
        return
    with PacketFilter(expression, _ETHERNET):
        pass


class PacketFilter:
    """A capture filter; :meth:`apply` returns the packets that match.

    ``expression`` is in the language of pcap-filter(7), such as ``tcp port 2575``.  ``link_type`` is the LINKTYPE
    number of the packets and ``snaplen`` the most bytes captured of each.  The expression is compiled again for each
    other link type that arrives.  Two threads must not use a filter at the same time.

    Raises SourceError with libpcap's message if the expression is not valid, or with the remedy if libpcap is missing.
    """

    def __init__(self, expression: str, link_type: int, snaplen: int = 262_144) -> None:
        self.expression = expression
        self._snaplen = snaplen
        self._library = _libpcap()
        self._programs: dict[int, _Program] = {}
        self._skipped = 0
        self._free = weakref.finalize(self, _free, self._library, self._programs)
        self._program(link_type)

    def apply(self, batch: PacketBatch) -> PacketBatch | None:
        """Return the packets of ``batch`` that match, in the same buffer; None if none does.

        ``number`` of the result is that of its first packet.  The ``skipped`` of a batch without a match is added to
        the next one.  Raises SourceError if the expression is not valid for the batch's link type.
        """
        link_type = batch.interface.link_type
        program = ctypes.byref(self._programs.get(link_type) or self._program(link_type))
        header = _Header()
        at_header = ctypes.byref(header)
        matches = self._library.pcap_offline_filter
        # The batch keeps the buffer alive while libpcap reads it.
        base = ctypes.cast(ctypes.c_char_p(batch.buffer), ctypes.c_void_p).value or 0
        kept: list[int] = []
        for position, (start, end, wire_length) in enumerate(
            zip(batch.starts, batch.ends, batch.wire_lengths, strict=True)
        ):
            header.captured = end - start
            header.wire_length = wire_length
            if matches(program, at_header, base + start):
                kept.append(position)
        skipped, self._skipped = batch.skipped + self._skipped, 0
        if not kept:
            self._skipped = skipped
            return None
        if len(kept) == batch.count:
            return batch if skipped == batch.skipped else batch._replace(skipped=skipped)
        starts, ends, times, wire_lengths = batch.starts, batch.ends, batch.times, batch.wire_lengths
        return PacketBatch(
            batch.buffer,
            [starts[position] for position in kept],
            [ends[position] for position in kept],
            [times[position] for position in kept],
            [wire_lengths[position] for position in kept],
            batch.interface,
            batch.number + kept[0],
            skipped,
        )

    def close(self) -> None:
        """Free libpcap's memory; the filter cannot be used afterwards.  Closing twice is harmless."""
        self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _program(self, link_type: int) -> _Program:
        """Compile the expression for ``link_type``."""
        library = self._library
        try:
            expression = self.expression.encode()
        except UnicodeEncodeError:
            expression = b"\0"
        if b"\0" in expression:
            raise SourceError(f"the capture filter {self.expression!r} contains an invalid character")
        program = _Program()
        with _COMPILING:
            handle = library.pcap_open_dead(_LINK_TYPE_TO_DLT.get(link_type, link_type), self._snaplen)
            if not handle:
                raise SourceError("libpcap is out of memory for a capture filter")
            try:
                if library.pcap_compile(handle, ctypes.byref(program), expression, _OPTIMIZE, _NETMASK_UNKNOWN):
                    reason = library.pcap_geterr(handle).decode("utf-8", "replace")
                    raise SourceError(f"the capture filter {self.expression!r} is not valid: {reason}")
            finally:
                library.pcap_close(handle)
        self._programs[link_type] = program
        return program


@cache
def _libpcap() -> ctypes.CDLL:
    """Return libpcap with its functions declared.  Raises SourceError if it is not installed."""
    found = ctypes.util.find_library("pcap")
    for name in (found, *_NAMES) if found else _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        library.pcap_open_dead.argtypes, library.pcap_open_dead.restype = (integer, integer), pointer
        library.pcap_compile.argtypes = (pointer, pointer, ctypes.c_char_p, integer, ctypes.c_uint32)
        library.pcap_compile.restype = integer
        library.pcap_geterr.argtypes, library.pcap_geterr.restype = (pointer,), ctypes.c_char_p
        library.pcap_close.argtypes, library.pcap_close.restype = (pointer,), None
        library.pcap_freecode.argtypes, library.pcap_freecode.restype = (pointer,), None
        library.pcap_offline_filter.argtypes = (pointer, pointer, pointer)
        library.pcap_offline_filter.restype = integer
        return library
    raise SourceError(
        "a capture filter needs libpcap, which is not installed; install it "
        "(Debian, Ubuntu: apt install libpcap0.8; Fedora, RHEL, Alpine: the package libpcap) or leave the filter out"
    )


def _free(library: ctypes.CDLL, programs: dict[int, _Program]) -> None:
    while programs:
        _, program = programs.popitem()
        library.pcap_freecode(ctypes.byref(program))
