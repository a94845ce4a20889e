"""The capture process: sockets from the opener, packets from the kernel's ring, pcapng to the pipe.

Law: it first drops all privileges; then it copies packets and never parses them.  It ends when its standard input is
closed, because the parent asks it to or has died, after it has passed on what the kernel still had.  It reports on
standard error, one JSON object per line, when it is ready, when an interface goes or comes back, and why it gives up.

An interface that goes down keeps its socket, and packets arrive again once it is up.  A deleted interface loses it, and
gets a new one from the opener within a second of its return, while the others continue without a gap.  That is what the
opener is for: by then the parent may not be allowed to open sockets.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from operator import itemgetter

from hl7core import Interface, PcapngWriter
from hl7core_plugins.scapy_source import opener, portable, privileges
from hl7core_plugins.scapy_source.interfaces import ETHERNET, UNKNOWN_LINK, interface_state, link_type_of
from hl7core_plugins.scapy_source.opener import Configuration, Refusal
from hl7core_plugins.scapy_source.ring import RETIRE_MS, Ring, RingRefused, Seen

__all__ = ["Reader", "main"]

_TURN_BLOCKS = 32
_CHECK_SECONDS = 1.0
_LAST_SECONDS = 5 * RETIRE_MS / 1000
_HOLD_NS = 3 * RETIRE_MS * 1_000_000
_LEAST_BYTES = 2 * 1024 * 1024


class _Tap:
    """One interface: its ring, if it has one, and the counts of its earlier rings."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.ring: Ring | None = None
        self.state = ""
        self.link_type = ETHERNET
        self.received_before = 0
        self.dropped_before = 0

    def lose(self) -> None:
        """Close the ring, keeping its counts."""
        if self.ring is not None:
            self.received_before += self.ring.received
            self.dropped_before += self.ring.dropped
            self.ring.close()
            self.ring = None


class Reader:
    """Empties the rings of several interfaces into one pcapng stream, in the order of time."""

    def __init__(self, configuration: Configuration, channel: socket.socket) -> None:
        self._configuration = configuration
        self._channel = channel
        self._taps = [_Tap(index, name) for index, name in enumerate(configuration.interfaces)]
        self._writer = PcapngWriter()
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._held: list[tuple[int, bytes]] = []
        self._ring_bytes = max(configuration.buffer_mib * 1024 * 1024 // len(self._taps), _LEAST_BYTES)

    def open(self) -> None:
        """Open every interface and write the header of the stream.  Raises Refusal."""
        for tap in self._taps:
            self._open(tap, patient=self._configuration.patient)
        write(
            self._writer.header(
                "hl7core", [Interface(tap.name, tap.link_type, self._configuration.snaplen) for tap in self._taps]
            )
        )
        tell(status="ready", interfaces=[tap.name for tap in self._taps], mode="ring")

    def _open(self, tap: _Tap, *, patient: bool) -> None:
        """Open a ring for ``tap`` if its interface exists and is up.  Raises Refusal if waiting would not help."""
        try:
            up, link_type = interface_state(tap.name)
        except OSError as error:
            if not patient:
                raise Refusal("missing", f"no interface {tap.name!r}", tap.name) from error
            self._mark(tap, "gone")
            return
        if link_type == UNKNOWN_LINK or (tap.state and link_type != tap.link_type):
            what = "cannot be captured" if link_type == UNKNOWN_LINK else "has changed"
            raise Refusal("other", f"the link layer of {tap.name} {what}", tap.name)
        tap.link_type = link_type
        if not up:
            self._mark(tap, "down")
            return
        try:
            sock = opener.ask(self._channel, self._configuration.interfaces, tap.index)
        except Refusal as refusal:
            if refusal.kind == "down" or (refusal.kind == "missing" and patient):
                self._mark(tap, "down" if refusal.kind == "down" else "gone")
                return
            raise
        try:
            tap.ring = Ring(sock, self._ring_bytes, self._configuration.snaplen)
        except RingRefused as error:
            raise Refusal("ring", str(error.strerror), tap.name) from error
        if link_type_of(tap.ring.hardware) != tap.link_type:
            raise Refusal("other", f"the link layer of {tap.name} has changed", tap.name)
        self._poll.register(tap.ring, select.POLLIN)
        self._mark(tap, "up")

    def run(self) -> None:
        """Copy packets until standard input ends.  Raises Refusal, and BrokenPipeError if the pipe has no reader."""
        check_at = time.monotonic() + _CHECK_SECONDS
        while True:
            timeout = RETIRE_MS if self._held else max(0.0, check_at - time.monotonic()) * 1000
            events = dict(self._poll.poll(timeout))
            if 0 in events and not os.read(0, 64):
                break
            for tap in self._taps:
                if tap.ring is not None and events.get(tap.ring.fileno(), 0) & ~select.POLLIN:
                    tap.ring.take_error()
                    self._look(tap)
            self._pass_on(_TURN_BLOCKS)
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + _CHECK_SECONDS
                self._check()
        time.sleep(_LAST_SECONDS)  # until the kernel has handed over the blocks that it was filling
        self._pass_on(max((tap.ring.blocks for tap in self._taps if tap.ring), default=0), last=True)
        self._statistics(self._taps)

    def _pass_on(self, turn: int, *, last: bool = False) -> None:
        """Write the packets in the rings, at most ``turn`` blocks of each."""
        lossy = [tap for tap in self._taps if tap.ring is not None and tap.ring.count()]
        for tap in self._taps:
            for _ in range(turn):
                found = tap.ring.take() if tap.ring is not None else None
                if found is None:
                    break
                self._hand_over(tap.index, found)
        if self._held:
            self._release(last=last)
        if lossy:
            self._statistics(lossy)

    def _hand_over(self, index: int, found: list[Seen]) -> None:
        packet = self._writer.packet
        if len(self._taps) == 1:
            write(b"".join([packet(0, time_ns, data, wire) for time_ns, data, wire in found]))
        else:
            self._held += [(time_ns, packet(index, time_ns, data, wire)) for time_ns, data, wire in found]

    def _release(self, *, last: bool) -> None:
        """Write the packets that were held back to be sorted.

        Two taps of one cable see one conversation: what one of them saw may still be in the kernel.  A time ahead of
        the clock (it was set back) is no reason to wait.
        """
        now = time.time_ns()
        old = now - _HOLD_NS
        held = self._held
        held.sort(key=itemgetter(0))
        self._held = [] if last else [entry for entry in held if old < entry[0] <= now]
        write(b"".join([block for time_ns, block in held if last or not old < time_ns <= now]))

    def _check(self) -> None:
        """Once a second, check the interfaces and report the kernel's counters."""
        for tap in self._taps:
            if tap.ring is None:
                self._open(tap, patient=True)
            else:
                self._look(tap)
        self._statistics(self._taps)

    def _look(self, tap: _Tap) -> None:
        """Check whether an open interface is up, down or gone."""
        ring = tap.ring
        if ring is None:
            return
        name = str(ring.sock.getsockname()[0])  # its present name: it may have been given another
        if not name:
            while found := ring.take():
                self._hand_over(tap.index, found)
            ring.count()
            self._poll.unregister(ring)
            tap.lose()
            self._mark(tap, "gone")
            return
        try:
            up, _ = interface_state(name)
        except OSError:
            return  # it went or was renamed between two questions: the next look tells
        self._mark(tap, "up" if up else "down")

    def _mark(self, tap: _Tap, state: str) -> None:
        """Report an interface's state if it has changed."""
        before, tap.state = tap.state, state
        if before != state and (before or state != "up"):
            tell(status=state, interface=tap.name)

    def _statistics(self, taps: Iterable[_Tap]) -> None:
        """Write how many packets each interface has received and dropped since the stream began."""
        now = time.time_ns()
        blocks = []
        for tap in taps:
            received, dropped = tap.received_before, tap.dropped_before
            if tap.ring is not None:
                tap.ring.count()
                received, dropped = received + tap.ring.received, dropped + tap.ring.dropped
            blocks.append(self._writer.statistics(tap.index, now, received, dropped))
        write(b"".join(blocks))


def write(data: bytes) -> None:
    """Write all of ``data`` to standard output, waiting while the pipe is full."""
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def tell(**what: object) -> None:
    """Write one status message, a line, to standard error."""
    os.write(2, json.dumps(what).encode() + b"\n")


def _order() -> dict[str, object]:
    """Read the configuration: the first line of standard input, unbuffered, so that what follows is left there."""
    line = bytearray()
    while not line.endswith(b"\n"):
        got = os.read(0, 1)
        if not got:
            break
        line += got
    found = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError("the configuration is not a JSON object")
    return found


def main() -> int:
    """Capture as the line on standard input says; return the exit status."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to every process of a service; the parent decides when to end
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    order = _order()
    try:
        if order.get("list"):
            write(json.dumps(portable.describe()).encode())
            return 0
        names = order.pop("interfaces")
        configuration = Configuration(interfaces=tuple(names), **order)  # type: ignore[arg-type]
        if configuration.portable or sys.platform != "linux":
            portable.capture(configuration, write, tell)
            return 0
        channel = opener.spawn(configuration)
        privileges.drop()
        privileges.die_with_parent()
        reader = Reader(configuration, channel)
        reader.open()
        reader.run()
    except Refusal as refusal:
        tell(status="error", kind=refusal.kind, text=refusal.text, interface=refusal.interface)
        return 1
    except BrokenPipeError:
        return 0  # nobody reads any more
    return 0


if __name__ == "__main__":
    sys.exit(main())
