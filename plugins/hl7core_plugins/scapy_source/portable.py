"""Capture without a packet ring: one packet at a time, as scapy returns it.

For BSD, macOS, Windows, and a Linux kernel that refuses the ring.  It is slower and uses one process: it opens the
sockets, drops its privileges where the system can, then reads packets.  If an interface goes away the process ends, and
the parent starts another one, which waits for it.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from hl7core import Interface, PcapngWriter
from hl7core_plugins.scapy_source import privileges
from hl7core_plugins.scapy_source.opener import Configuration, Refusal, load_scapy, open_listener

__all__ = ["capture", "describe"]

_FLUSH_SECONDS = 0.05
_FLUSH_BYTES = 256 * 1024
_CHECK_SECONDS = 1.0
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_SOL_PACKET, _PACKET_STATISTICS, _IGNORE_OUTGOING = 263, 6, 23
_SO_RCVBUFFORCE = 33
_OF_DLT = {12: 101, 14: 101}
"""Where libpcap's number for a link layer (DLT) differs from the one in files: bare IP."""


def describe() -> list[dict[str, object]]:
    """Return the interfaces that scapy lists, ready for JSON."""
    conf = load_scapy()
    return [
        {
            "name": str(entry.network_name),
            "link_type": 1,
            "addresses": [str(address) for family in (4, 6) for address in entry.ips.get(family, ())],
            "is_up": bool(int(entry.flags or 0) & _IFF_UP) or sys.platform == "win32",
            "description": str(entry.description or ""),
        }
        for entry in conf.ifaces.values()
    ]


def capture(configuration: Configuration, write: Callable[[bytes], None], tell: Callable[..., None]) -> None:
    """Capture until standard input ends.  Raises Refusal, and BrokenPipeError if the pipe has no reader."""
    conf = load_scapy()
    listeners: list[Any] = []
    for name in configuration.interfaces:
        while True:
            try:
                listeners.append(open_listener(conf, name, configuration))
                break
            except Refusal as refusal:
                waits = refusal.kind == "down" or (refusal.kind == "missing" and configuration.patient)
                if not waits:
                    raise
                tell(status="down" if refusal.kind == "down" else "gone", interface=name)
                if _ended_within(_CHECK_SECONDS):
                    return
    for listener in listeners:
        _prepare(listener, configuration)
    privileges.drop()
    privileges.die_with_parent()
    writer = PcapngWriter()
    known = [
        Interface(name, _link_type(conf, listener), configuration.snaplen)
        for name, listener in zip(configuration.interfaces, listeners, strict=True)
    ]
    write(writer.header("hl7core", known))
    tell(status="ready", interfaces=list(configuration.interfaces), mode="portable")
    _Loop(configuration, listeners, writer, write).run()


class _Loop:
    """Reads the listeners in turn and writes their packets every 50 ms or 256 KiB."""

    def __init__(
        self, configuration: Configuration, listeners: list[Any], writer: PcapngWriter, write: Callable[[bytes], None]
    ) -> None:
        self._configuration = configuration
        self._listeners = listeners
        self._writer = writer
        self._write = write
        self._blocks: list[bytes] = []
        self._size = 0
        self._counts = [[0, 0] for _ in listeners]

    def run(self) -> None:
        ended = threading.Event()
        threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
        numbers = {id(listener): index for index, listener in enumerate(self._listeners)}
        select = type(self._listeners[0]).select
        flush_at = time.monotonic() + _FLUSH_SECONDS
        check_at = time.monotonic() + _CHECK_SECONDS
        last = False
        while True:
            ready = select(self._listeners, 0 if last else _FLUSH_SECONDS)
            for listener in ready:
                self._read(listener, numbers[id(listener)])
            now = time.monotonic()
            if now >= flush_at or self._size >= _FLUSH_BYTES:
                self._flush()
                flush_at = now + _FLUSH_SECONDS
            if now >= check_at:
                self._statistics()
                check_at = now + _CHECK_SECONDS
            if last and (not ready or now >= check_at - _CHECK_SECONDS / 2):
                break
            if ended.is_set() and not last:
                last, check_at = True, now + _CHECK_SECONDS
        self._flush()
        self._statistics()

    def _read(self, listener: Any, index: int) -> None:
        try:
            _, data, stamp = listener.recv_raw(max(self._configuration.snaplen, 65_536))
        except OSError as error:
            self._flush()
            name = self._configuration.interfaces[index]
            raise Refusal("lost", f"{name} is lost: {error.strerror or error}", name) from error
        if not data:
            return
        time_ns = int(stamp * 1_000_000_000) if stamp else time.time_ns()
        block = self._writer.packet(index, time_ns, data[: self._configuration.snaplen], len(data))
        self._counts[index][0] += 1
        self._blocks.append(block)
        self._size += len(block)

    def _flush(self) -> None:
        self._write(b"".join(self._blocks))
        self._blocks.clear()
        self._size = 0

    def _statistics(self) -> None:
        """Write what was received and, where the system says it, dropped."""
        for index, listener in enumerate(self._listeners):
            if sys.platform == "linux":
                _, dropped = struct.unpack("=II", listener.ins.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
                self._counts[index][1] += dropped
            self._write(self._writer.statistics(index, time.time_ns(), *self._counts[index]))


def _prepare(listener: Any, configuration: Configuration) -> None:
    """On Linux: a large receive buffer, and each packet of the loopback once."""
    if sys.platform != "linux":
        return
    size = configuration.buffer_mib * 1024 * 1024 // len(configuration.interfaces)
    sock = listener.ins
    try:
        sock.setsockopt(1, _SO_RCVBUFFORCE, size)  # SOL_SOCKET; needs CAP_NET_ADMIN
    except PermissionError:
        sock.setsockopt(1, 8, size)  # SO_RCVBUF, which stops at net.core.rmem_max
    sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1 if sock.getsockname()[3] == 772 else 0)


def _link_type(conf: Any, listener: Any) -> int:
    """Return the LINKTYPE of a listener's packets, Ethernet if scapy does not know it."""
    number = conf.l2types.layer2num.get(listener.LL, 1)
    return int(_OF_DLT.get(number, 1 if number == 772 else number))


def _wait_for_end(ended: threading.Event) -> None:
    while os.read(0, 64):
        pass
    ended.set()


def _ended_within(seconds: float) -> bool:
    """Wait; return whether standard input has ended by then."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    return ended.wait(seconds)
