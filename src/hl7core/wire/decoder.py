"""The decoder: packets in, sessions out.  The face of the wing ``wire/``.

``for session in decoder.feed(batch)`` is all that reading a capture takes.  It holds no thread and no clock: time is
packet time.  One loop serves capture files and live capture; it leaves a packet as soon as it can, because most of
them are bare acknowledgements or other people's traffic.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from struct import Struct
from typing import Final

from hl7core.model.packet import LINKTYPE_ETHERNET, PacketBatch
from hl7core.model.session import Ending, OpenSession, Session
from hl7core.wire.connection import (
    DECIDED,
    IGNORED,
    SECOND,
    UNDECIDED,
    Connection,
    DecoderOptions,
    Half,
    MessageSeen,
)
from hl7core.wire.dissect import FIN, RST, SYN, dissect, endpoints, reverse
from hl7core.wire.framing import Dialect
from hl7core.wire.streams import Streams

__all__ = ["Decoder", "DecoderOptions", "MessageSeen"]

# From an Ethernet header to the TCP flags, for IPv4 without options: EtherType, version and header length, total
# length, fragment word, protocol, sequence number, acknowledgement, data offset, flags.
_FAST: Final = Struct(">12xHBxHxxHxB14xIIBB")
_FAST_LENGTH: Final = 54
_CONTROL: Final = FIN | SYN | RST
_MASK: Final = 0xFFFFFFFF
_BLOCK_START: Final = b"\x0bMSH"
MAX_REMEMBERED: Final = 10_000
"""So many closed connections are remembered, to know late repeats from new connections."""


class Decoder:
    """Turns packets into sessions.

    ``dialects`` are tried before the built-in framings.  ``counters`` names what was seen and what was let go:
    ``packets``, ``connections``, ``ignored``, ``evicted``, ``gaps``, ``gapBytes``, ``sessions``.  With
    ``options.watch_messages`` the messages collect in ``messages`` as they complete; who reads them clears the list.
    """

    def __init__(self, options: DecoderOptions | None = None, dialects: Sequence[Dialect] = ()) -> None:
        self.options = options or DecoderOptions()
        self.counters = dict.fromkeys(
            ("packets", "connections", "ignored", "evicted", "gaps", "gapBytes", "sessions"), 0
        )
        self.now_ns = 0
        self._streams = Streams(self.options, dialects, self.counters)
        self._halves: dict[bytes, Half] = {}
        self._syns: dict[bytes, int] = {}
        self._remembered: dict[bytes, int] = {}
        self._next_sweep = 0

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect] = ()) -> None:
        """Take other options for the connections that begin from now on."""
        self.options = options
        self._streams.configure(options, dialects)

    @property
    def messages(self) -> list[MessageSeen]:
        """The messages that completed or were given up, if they are watched."""
        return self._streams.messages

    @property
    def open_count(self) -> int:
        """How many sessions go on."""
        return len(self.open_sessions())

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the sessions that go on, oldest first."""
        trackers = [half.connection.tracker for half in self._halves.values() if half.side == 0]
        found = [session for tracker in trackers if tracker is not None for session in tracker.open_sessions()]
        return sorted(found, key=lambda session: session.start_ns)

    def feed(self, batch: PacketBatch) -> list[Session]:
        """Take packets; return the sessions that ended, or that a late acknowledgement changed, in that order."""
        out: list[Session] = []
        buffer = batch.buffer
        link_type = batch.interface.link_type
        ethernet = link_type == LINKTYPE_ETHERNET
        unpack = _FAST.unpack_from
        get = self._halves.get
        streams = self._streams
        holes = streams.holes
        next_sweep = self._next_sweep
        self.counters["packets"] += len(batch.starts)
        for start, end, now in zip(batch.starts, batch.ends, batch.times, strict=True):
            if now >= next_sweep:
                self._sweep(now, out)
                next_sweep = self._next_sweep
            if ethernet and end - start >= _FAST_LENGTH:
                ethertype, version, total, fragment, protocol, seq, ack, offset, flags = unpack(buffer, start)
            else:
                ethertype = 0
            if ethertype == 0x0800 and version == 0x45 and not fragment & 0x3FFF and total:
                if protocol != 6:
                    continue
                key = buffer[start + 26 : start + 38]
                begin = start + 34 + (offset >> 2 & 0x3C)
                stop = start + 14 + total
                if stop > end:
                    stop = end
            else:
                segment = dissect(buffer, start, end, link_type)
                if segment is None:
                    continue
                key, seq, ack, flags, begin, stop, _ = segment
            size = stop - begin
            if size <= 0:
                if flags & _CONTROL:
                    self._control(key, seq, flags, out)
                elif holes:
                    self._acknowledged(get(key), ack, now, out)
                continue
            half = get(key)
            if half is None:
                if flags & _CONTROL:
                    self._control(key, seq, flags & SYN, out)
                    seq = seq + 1 & _MASK if flags & SYN else seq
                half = self._connect(key, seq, now, out)
                if half is None:
                    continue
            elif flags & SYN:
                self._control(key, seq, flags, out)
                continue
            connection = half.connection
            if connection.state == IGNORED:
                if buffer.startswith(_BLOCK_START, begin):
                    streams.look_again(half, seq)
                else:
                    if flags & (FIN | RST):
                        self._forget(connection)
                    continue
            connection.last_ns = now
            if seq == half.next_seq and not half.held and connection.state == DECIDED:
                half.offset += size
                half.next_seq = seq + size & _MASK
                if half.pending or half.peer.pending:
                    streams.deliver(half, buffer[begin:stop], now, out)
                else:  # the usual case: whole frames in one segment, and nothing waits on either side
                    half.last_ns = now
                    frames = half.framer.feed(buffer[begin:stop])  # type: ignore[union-attr]  # decided: there is one
                    if frames:
                        ended = connection.tracker.take(half, frames)  # type: ignore[union-attr]
                        if ended:
                            out += ended
                        last = frames[-1]
                        if last.offset + len(last.raw) + last.missing != half.offset:
                            streams.still_pending(half, last.offset + len(last.raw) + last.missing, now)
                        if not connection.timer_ns:
                            streams.arm(connection)
                    else:
                        half.pending = True
                        half.mark(half.offset - size, now)
            else:
                streams.insert(half, seq, buffer[begin:stop], now, out)
            if holes or streams.finished:
                self._acknowledged(half, ack, now, out)
            if flags & (FIN | RST):
                self._control(key, seq + size & _MASK, flags, out)
        if out:
            self.counters["sessions"] += len(out)
        return out

    def expire(self, now_ns: int) -> list[Session]:
        """Let packet time pass without a packet; return the sessions that this ended."""
        out: list[Session] = []
        self._sweep(now_ns, out)
        self.counters["sessions"] += len(out)
        return out

    def end(self, ending: Ending = Ending.CAPTURE_END) -> list[Session]:
        """End everything; return the sessions that were open.  The decoder is as new, save for its counters."""
        out: list[Session] = []
        for half in list(self._halves.values()):
            if half.side == 0:
                self._close(half.connection, ending, out)
        self._syns.clear()
        self._remembered.clear()
        self._streams.timers.clear()
        self.counters["sessions"] += len(out)
        return out

    # Connections.

    def _connect(self, key: bytes, seq: int, now: int, out: list[Session]) -> Half | None:
        """Begin a connection with the first data of it; None if it is a late repeat of one that is closed."""
        peer_key = reverse(key)
        own_isn, peer_isn = self._syns.pop(key, -1), self._syns.pop(peer_key, -1)
        if own_isn < 0 and peer_isn < 0:
            known = self._remembered.get(key, -1)
            if known >= 0 and (known - seq & _MASK) <= 0x100000:
                return None
        if len(self._halves) >= 2 * self.options.max_connections:
            self._evict(out)
        source, target = endpoints(key)
        # A SYN with an acknowledgement answers one: it is kept with its top bit set.
        if own_isn >= 0 and (peer_isn < 0 or own_isn <= _MASK):
            opens = own_isn <= _MASK
        elif peer_isn >= 0:
            opens = peer_isn > _MASK
        else:
            opens = source.port > target.port or (source.port == target.port and source.address <= target.address)
        origin = own_isn & _MASK if own_isn >= 0 else seq
        own = Half(origin, 0 if opens else 1)
        peer = Half(peer_isn & _MASK if peer_isn >= 0 else 0, 1 if opens else 0)
        if peer_isn < 0:
            peer.origin = peer.next_seq = -1  # its first data will tell
        halves, keys, ends = ((own, peer), (key, peer_key), (source, target))
        if not opens:
            halves, keys, ends = ((peer, own), (peer_key, key), (target, source))
        connection = Connection(keys, ends, halves, self.options)
        connection.last_ns = now
        self._halves[key], self._halves[peer_key] = own, peer
        self.counters["connections"] += 1
        return own

    def _control(self, key: bytes, seq: int, flags: int, out: list[Session]) -> None:
        """Take a SYN, FIN or RST; ``seq`` is the sequence number of a FIN, or of the SYN itself."""
        half = self._halves.get(key)
        if flags & SYN:
            origin = seq + 1 & _MASK
            if half is not None:
                if half.origin in (-1, origin):
                    half.origin = origin if half.origin < 0 else half.origin
                    if not half.offset and not half.held:
                        half.next_seq = origin
                    return
                self._close(half.connection, Ending.CLOSED, out)  # the same ports again: its FIN was lost
            if len(self._syns) >= self.options.max_connections:
                del self._syns[next(iter(self._syns))]
            self._syns[key] = origin | (1 << 32 if flags & 0x10 else 0)
            return
        if half is None:
            if flags & RST:
                self._syns.pop(key, None)
                self._syns.pop(reverse(key), None)
            return
        connection = half.connection
        if connection.state == IGNORED:
            self._forget(connection)
        elif flags & RST:
            self._close(connection, Ending.RESET, out)
        elif flags & FIN:
            if half.origin < 0:
                half.begin(seq)
            half.finish(seq)
            self._finished(half, out)

    def _finished(self, half: Half, out: list[Session]) -> None:
        if half.finished and half.peer.finished:
            self._close(half.connection, Ending.CLOSED, out)

    def _acknowledged(self, half: Half | None, ack: int, now: int, out: list[Session]) -> None:
        """Give up what the receiver ``half`` has acknowledged and the capture lacks; close what has ended by it."""
        streams = self._streams
        if half is not None:
            streams.acknowledged(half, ack, now, out)
        while streams.finished:
            self._finished(streams.finished.pop(), out)

    def _close(self, connection: Connection, ending: Ending, out: list[Session]) -> None:
        """End a connection: give up its holes, flush its framers, end its sessions."""
        for half in connection.halves:
            self._streams.flush(half, out)
        if connection.state == UNDECIDED:
            self._streams.decide(connection, out, final=True)
        if connection.state == DECIDED and connection.tracker is not None:
            for half in connection.halves:
                if half.framer is not None:
                    frames = half.framer.close()
                    if frames:
                        out.extend(connection.tracker.take(half, frames))
            out.extend(connection.tracker.end(ending))
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        for key, half in zip(connection.keys, connection.halves, strict=True):
            if self._halves.pop(key, None) is None:
                continue
            self._streams.unhold(half)
            if len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[key] = half.next_seq
        connection.tracker = None

    def _evict(self, out: list[Session]) -> None:
        """Make room: let go the tenth of the connections that have been idle for longest."""
        connections = [half.connection for half in self._halves.values() if half.side == 0]
        connections.sort(key=lambda connection: (connection.state != IGNORED, connection.last_ns))
        for connection in connections[: max(1, len(connections) // 10)]:
            self._close(connection, Ending.EVICTED, out)
            self.counters["evicted"] += 1

    # Time.

    def _sweep(self, now: int, out: list[Session]) -> None:
        """Once a second of packet time: end what is silent, give up holes that will not be filled."""
        if now > self.now_ns:
            self.now_ns = now
        self._next_sweep = self.now_ns + SECOND
        streams = self._streams
        timers = streams.timers
        while timers and timers[0][0] <= now:
            due, key = heapq.heappop(timers)
            half = self._halves.get(key)
            if half is None or half.connection.timer_ns != due:
                continue  # the connection is gone, or another has its ports now
            connection = half.connection
            tracker = connection.tracker
            if tracker is None:
                continue
            due = tracker.due()
            if due and due <= now:
                for half in connection.halves:
                    if half.pending:
                        streams.settle(half, out)
                out.extend(tracker.expire(now))
            streams.arm(connection)
        streams.give_up_stale(now, out)
        self._acknowledged(None, 0, now, out)
