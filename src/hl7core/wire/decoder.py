"""The decoder: packets in, sessions out.

``for session in decoder.feed(batch)`` is all it takes to read a capture.  There is no thread and no clock: time is
packet time.  One loop serves capture files and live capture.  It leaves each packet as soon as it can, because most are
bare acknowledgements or traffic of other protocols.

From a packet to a session: ``tcp/dissect`` finds the TCP segment, ``streams`` orders the bytes of each direction,
``delivery`` gives them to a framer of ``framing/``, and the frames go to a tracker in ``mllp_sessions/`` or
``lis01_sessions/``.  Segments that hold one whole sound block go to the fast path of the tracker at once.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final
from zlib import crc32

from hl7core.model.packet import LINKTYPE_ETHERNET, Interface, PacketBatch
from hl7core.model.session import Ending, OpenSession, Session
from hl7core.wire.connection import (
    DECIDED,
    IGNORED,
    SECOND,
    Connection,
    DecoderOptions,
    Half,
    MessageSeen,
)
from hl7core.wire.encrypted import UNREAD, Encrypted
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.mllp_sessions.fast_path import Make, exchange_session
from hl7core.wire.native import FastSession, SlowPathPackets
from hl7core.wire.streams import Streams
from hl7core.wire.tcp.dissect import FIN, FRAGMENT, RST, SYN, TCP_PROTOCOL, dissect, reverse
from hl7core.wire.tcp.fragments import Fragments
from hl7core.wire.tcp.reassembly import LOOSE_BYTES
from hl7core.wire.tls.keylog import KeyLog

__all__ = ["ALL", "Decoder", "DecoderOptions", "MessageSeen"]

# From an Ethernet header to the TCP flags, for IPv4 without options: EtherType with version, header length and type of
# service; total length; fragment word with time to live and protocol; sequence number, acknowledgement, data offset,
# flags.
_FAST: Final = Struct(">12xIHxxI14xIIBB")
_FAST_LENGTH: Final = 54
_IPV4: Final = 0x080045
_WHOLE: Final = 0x3FFF00FF  # no fragment, and the protocol
# The length of both headers, by the data offset; what is shorter than a TCP header carries nothing.
_HEADERS: Final = (*([1 << 16] * 0x50), *(20 + ((offset >> 4) << 2) for offset in range(0x50, 0x100)))
_NEVER: Final = 1 << 62
_CONTROL: Final = FIN | SYN | RST
_MASK: Final = 0xFFFFFFFF
MAX_REMEMBERED: Final = 10_000
"""At most so many closed connections are remembered, to tell late repeats from new connections."""
ALL: Final = range(1 << 16)
"""All connections, by a hash of their ends (0 to 65,535); a part of the range is a shard of them."""
MAX_BYPASSED: Final = 200_000
MAX_RECENT: Final = 500
_SOME: Final = 500
_REPEATED: Final = 1 << 20
_LOOK_IDLE: Final = 60 * SECOND
_LINKTYPE_RAW: Final = 101
_make: Final[Make] = exchange_session if FastSession is None else FastSession(exchange_session)


class Decoder:
    """Turns packets into sessions.

    ``dialects`` are tried before the built-in framings; ``keys`` decrypt TLS.  ``make`` makes what ``feed`` returns of
    an exchange of the fast path (None: its session).  ``share`` is the shard of all connections to decode.

    ``counters`` counts ``packets``, ``connections``, ``sessions``, ``gaps``, ``gapBytes``, ``skipped`` (packets that
    the batches say are missing), ``fragmentsLost`` (IP packets of which a fragment never came), ``tls`` (encrypted
    connections; ``encrypted`` names those that could not be read), and what was dropped: ``ignored`` (connections of
    other protocols), ``evicted`` and ``idle`` (connections), ``crowded`` (how often something was ended for want of
    memory).  With ``options.watch_messages`` messages are added to ``messages`` as they complete; whoever reads them
    clears the list.
    """

    def __init__(
        self,
        options: DecoderOptions | None = None,
        dialects: Sequence[Dialect] = (),
        *,
        make: Make | None = None,
        share: range = ALL,
        keys: KeyLog | None = None,
    ) -> None:
        self.options = options or DecoderOptions()
        self.counters = dict.fromkeys(
            (
                "packets", "connections", "ignored", "evicted", "gaps", "gapBytes", "sessions", "skipped",
                "fragmentsLost", "tls", "crowded", "idle",
            ), 0,
        )  # fmt: skip
        self.now_ns = 0
        self._streams = Streams(self.options, dialects, self.counters, make or _make, keys)
        self._shard = share
        self._sharded = share != ALL
        self._bypassed: set[bytes] = set()  # the keys of encrypted connections, whose packets are skipped
        self._halves: dict[bytes, Half] = {}
        # These two are bounded: their oldest entry goes first, which an OrderedDict finds at once.
        self._syns: OrderedDict[bytes, int] = OrderedDict()
        # Of closed connections: the first and the next sequence number, and the time of the last packet.
        self._remembered: OrderedDict[bytes, tuple[int, int, int]] = OrderedDict()
        self._fragments: Fragments | None = None  # made when one comes
        self._resets: dict[Connection, None] = {}
        self.next_sweep = 0
        self._next_idle = 0

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect] = ()) -> None:
        """Use other options and dialects for the connections that begin from now on, and other timeouts for all."""
        before, self.options = self.options, options
        self._streams.configure(options, dialects)
        if _with_timeouts(before, options) != before:
            self._next_idle = 0
            shared: dict[int, DecoderOptions] = {}  # by the options before, which most connections share
            for connection in [half.connection for half in self._halves.values() if half.side == 0]:
                old = connection.options
                if id(old) not in shared:
                    shared[id(old)] = _with_timeouts(old, options)
                connection.options = shared[id(old)]
                self._streams.arm(connection)

    @property
    def messages(self) -> list[MessageSeen]:
        """The messages that completed or were cut, if they are watched."""
        return self._streams.messages

    @property
    def encrypted(self) -> Encrypted:
        """The TLS connections that could not be read."""
        return self._streams.encrypted

    @property
    def open_count(self) -> int:
        """How many sessions are open."""
        return len(self.open_sessions())

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the open sessions, oldest first."""
        trackers = [half.connection.tracker for half in self._halves.values() if half.side == 0]
        found = [session for tracker in trackers if tracker is not None for session in tracker.open_sessions()]
        return sorted(found, key=lambda session: session.start_ns)

    def open_connections(self) -> deque[Connection]:
        """Return the open connections, in the order in which they began."""
        return deque(half.connection for half in self._halves.values() if half.side == 0)

    def feed(self, batch: PacketBatch) -> list[Session]:
        """Decode packets; return the sessions that ended, or that a late acknowledgement changed, in that order."""
        out: list[Session] = []
        self._feed(batch, self._packets(batch, out), out)
        return out

    def _packets(
        self, batch: PacketBatch, out: list[Session], places: list[int] | None = None, base: int = 0
    ) -> Iterable[tuple[int, int, int]]:
        """Return where each packet that takes the slow path starts and ends, and its time.

        Without the C extension that is every packet.  With it, what the others complete is added to ``out``, and to
        ``places`` ``base`` plus the start of the packet that completed it.
        """
        if (
            SlowPathPackets is None
            or batch.interface.link_type != LINKTYPE_ETHERNET
            or batch.buffer.__class__ is not bytes
        ):
            return zip(batch.starts, batch.ends, batch.times, strict=True)
        shard = self._shard if self._sharded else None
        return SlowPathPackets(self, self._streams, batch, self._halves, self._bypassed, out, places, base, shard)

    def _feed(self, batch: PacketBatch, packets: Iterable[tuple[int, int, int]], out: list[Session]) -> None:
        buffer = batch.buffer
        link_type = batch.interface.link_type
        fast = _FAST_LENGTH if link_type == LINKTYPE_ETHERNET else _NEVER
        unpack: Callable[[bytes, int], tuple[int, ...]] = _FAST.unpack_from
        get = self._halves.get
        streams = self._streams
        holes = streams.holes
        again = streams.again
        sharded, bypassed = self._sharded, self._bypassed
        next_sweep = self.next_sweep
        self.counters["packets"] += len(batch.starts)
        self.counters["skipped"] += batch.skipped
        for start, end, now in packets:
            if now >= next_sweep:
                self._sweep(now, out)
                next_sweep = self.next_sweep
            if end - start >= fast:
                if (
                    bypassed and buffer[start + 26 : start + 38] in bypassed and buffer[start + 14] == 0x45
                    and not buffer[start + 47] & _CONTROL
                ):  # fmt: skip
                    continue
                kind, total, part, seq, ack, offset, flags = unpack(buffer, start)
                kind >>= 8
            else:
                kind = part = total = 0
            if kind == _IPV4 and part & _WHOLE == TCP_PROTOCOL and total:
                size = total - _HEADERS[offset]
                if size <= 0 and not flags & _CONTROL and not holes:
                    continue  # a bare acknowledgement
                stop = start + 14 + total
                begin = stop - size
                if stop > end:
                    stop = end
                    size = stop - begin
                key = buffer[start + 26 : start + 38]
            elif kind == _IPV4 and part & 0xFF != TCP_PROTOCOL:
                continue
            else:
                segment = dissect(buffer, start, end, link_type)
                if segment is None:
                    continue
                if segment is FRAGMENT:
                    self._fragment(buffer, start, end, link_type, now, out)
                    continue
                key, seq, ack, flags, begin, stop, _ = segment
                size = stop - begin
            if size <= 0:
                if flags & _CONTROL:
                    self._control(key, seq, flags, now, out)
                elif holes:
                    self._acknowledged(get(key), ack, now, out)
                continue
            half = get(key)
            if half is None:
                if (key in bypassed and not flags & SYN) or (sharded and self._is_others(key)):
                    continue
                if 0x14 <= buffer[begin] <= 0x17 and streams.is_encrypted(buffer[begin:stop]):
                    self._skip_encrypted(key)
                    continue
                if flags & _CONTROL:
                    self._control(key, seq, flags & SYN, now, out)
                    seq = seq + 1 & _MASK if flags & SYN else seq
                half = self._connect(key, seq, now, out)
                if half is None:
                    continue
            elif flags & SYN:
                self._control(key, seq, flags, now, out)
                continue
            connection = half.connection
            if connection.state == IGNORED and (
                connection.protocol or not buffer.startswith(again, begin)
                or not streams.reconsider(half, seq, buffer[begin:stop])
            ):  # fmt: skip
                if flags & (FIN | RST):
                    self._forget(connection)
                elif connection.protocol:  # encrypted
                    self._bypass(connection.keys)
                continue
            connection.last_ns = now
            if (
                seq == half.next_seq and not half.held and connection.state == DECIDED
                and (ack == half.peer.next_seq or half.ready(ack))
            ):  # fmt: skip
                data = buffer[begin:stop]
                fast_path = connection.fast_path
                if (  # a whole block in one segment, and no bytes wait on either side
                    fast_path is None or not fast_path.ready or half.pending or half.peer.pending
                    or not fast_path.add_segment(half, data, now, out)
                ):  # fmt: skip
                    half.next_seq = seq + size & _MASK
                    self.deliver(half, data, now, out)
                else:
                    half.last_ns = now
                    half.offset += size
                    half.next_seq = seq + size & _MASK
                    if not connection.timer_ns:
                        streams.arm(connection)
            else:
                if half.foreign(seq, ack):
                    self._close(connection, Ending.CLOSED, out)
                    for old in connection.keys:  # what comes now is no late repeat of it
                        self._remembered.pop(old, None)
                    half = self._connect(key, seq, now, out)
                    if half is None:
                        continue
                streams.insert(half, seq, buffer[begin:stop], now, out, ack)
            if holes or streams.finished:
                self._acknowledged(half, ack, now, out)
            if flags & (FIN | RST):
                self._control(key, seq + size & _MASK, flags, now, out)
        if len(streams.recent) > MAX_RECENT:
            streams.forget_recent()
        if out:
            self.counters["sessions"] += len(out)

    def deliver(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Add the next bytes of a stream, captured at ``now`` (unix nanoseconds), and to ``out`` what they complete."""
        half.offset += len(data)
        streams = self._streams
        streams.deliver(half, data, now, out)
        while streams.finished:
            self._finished(streams.finished.pop(), out)

    def start_block(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Add the first bytes of a block that is not whole yet; otherwise as ``deliver``."""
        half.offset += len(data)
        streams = self._streams
        streams.start_block(half, data, now)
        while streams.finished:
            self._finished(streams.finished.pop(), out)

    begin = start_block
    """Its earlier name, which stays usable."""

    def expire(self, now_ns: int) -> list[Session]:
        """Let packet time pass without a packet; return the sessions that this ended."""
        out: list[Session] = []
        self._sweep(now_ns, out)
        self.counters["sessions"] += len(out)
        return out

    def end(self, ending: Ending = Ending.CAPTURE_END) -> list[Session]:
        """End everything; return the sessions that were open.  The decoder is then as new, except for its counters."""
        return [session for sessions in self.ending(ending) for session in sessions]

    def ending(self, ending: Ending = Ending.CAPTURE_END) -> Iterator[list[Session]]:
        """End everything as ``end`` does, a few hundred sessions at a time."""
        out: list[Session] = []
        open_ones = self.open_connections()
        while open_ones:
            self._close(open_ones.popleft(), ending, out)
            if len(out) >= _SOME:
                yield self._counted(out)
                out = []
        self._syns.clear()
        self._remembered.clear()
        self._resets.clear()
        self._fragments = None
        self._streams.timers.clear()
        yield self._counted(out)

    def _counted(self, out: list[Any]) -> list[Any]:
        """Return what the end of connections has ended, and count it."""
        self._streams.drop_recent()
        self._remembered.clear()
        self.counters["sessions"] += len(out)
        return out

    def _fragment(self, buffer: bytes, start: int, end: int, link_type: int, now: int, out: list[Session]) -> None:
        """Add a fragment of an IP packet, and decode the packet if it is whole now."""
        if self._fragments is None:
            self._fragments = Fragments()
        whole = self._fragments.add(buffer, start, end, link_type, now)
        self.counters["fragmentsLost"] = self._fragments.discarded
        if whole is None:
            return
        interface = Interface(link_type=_LINKTYPE_RAW)
        sessions = self.feed(PacketBatch(whole, (0,), (len(whole),), (now,), (len(whole),), interface))
        self.counters["packets"] -= 1
        self.counters["sessions"] -= len(sessions)  # the caller counts them
        out += sessions

    # Connections.

    def _is_others(self, key: bytes) -> bool:
        """Return whether a connection belongs to another shard, the same for both directions."""
        return crc32(min(key, reverse(key))) % len(ALL) not in self._shard

    def _bypass(self, keys: Iterable[bytes]) -> None:
        """Skip the packets of a connection from now on, until it closes."""
        if len(self._bypassed) >= MAX_BYPASSED:
            self._bypassed.clear()
        self._bypassed.update(keys)

    def _connect(self, key: bytes, seq: int, now: int, out: list[Session]) -> Half | None:
        """Begin a connection with its first data; return None if that is a late repeat of a closed one."""
        peer_key = reverse(key)
        own_isn, peer_isn = self._syns.pop(key, -1), self._syns.pop(peer_key, -1)
        if own_isn < 0 and peer_isn < 0:
            known = self._remembered.get(key)
            if known is not None:
                behind = known[1] - seq & _MASK
                if 0 < behind <= _REPEATED or (0 < behind < 1 << 31 and now <= known[2]):
                    return None
        if len(self._halves) >= 2 * self.options.max_connections:
            self._evict(out)
        opens = _opens(key, own_isn, peer_isn)
        origin = own_isn & _MASK if own_isn >= 0 else seq
        own = Half(origin, 0 if opens else 1)
        own.loose = own_isn < 0 or peer_isn < 0
        peer = Half(peer_isn & _MASK if peer_isn >= 0 else 0, 1 if opens else 0)
        if peer_isn < 0:
            peer.origin = peer.next_seq = -1  # its first data will tell
        halves, keys = ((own, peer), (key, peer_key)) if opens else ((peer, own), (peer_key, key))
        connection = Connection(keys, halves, self.options)
        connection.last_ns = now
        connection.joined_midstream = own_isn < 0 and peer_isn < 0
        self._halves[key], self._halves[peer_key] = own, peer
        self.counters["connections"] += 1
        return own

    def _skip_encrypted(self, key: bytes) -> None:
        """Note a connection that begins with TLS, and skip its packets from now on."""
        peer_key = reverse(key)
        opener = key if _opens(key, self._syns.pop(key, -1), self._syns.pop(peer_key, -1)) else peer_key
        self._streams.encrypted.note(opener, UNREAD)
        for name in ("connections", "ignored", "tls"):
            self.counters[name] += 1
        self._bypass((key, peer_key))

    def _control(self, key: bytes, seq: int, flags: int, now: int, out: list[Session]) -> None:
        """Add a SYN, FIN or RST; ``seq`` is the sequence number of a FIN, or of the SYN itself."""
        half = self._halves.get(key)
        if half is None and (self._sharded or key in self._bypassed):
            if self._sharded and self._is_others(key):
                return
            self._bypassed -= {key, reverse(key)}
        if flags & SYN:
            origin = seq + 1 & _MASK
            if half is not None:
                if half.origin in (-1, origin):
                    half.origin = origin if half.origin < 0 else half.origin
                    half.loose = half.loose and half.peer.origin < 0
                    half.connection.joined_midstream = False
                    if not half.offset and not half.held:
                        half.next_seq = origin
                    return
                if half.loose and (half.origin - origin & _MASK) <= LOOSE_BYTES:  # stored behind the first data
                    half.extend_back(half.origin - origin & _MASK)
                    half.loose = half.connection.joined_midstream = False
                    return
                self._close(half.connection, Ending.CLOSED, out)  # the same ports again: its FIN was lost
            known = self._remembered.get(key)
            if known is not None and known[0] == origin and now <= known[2]:
                return  # captured a second time, on another interface
            if len(self._syns) >= self.options.max_connections:
                self._syns.popitem(last=False)
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
            if not connection.reset_ns and half.near(seq):  # what was said before it may be stored behind it
                connection.reset_ns = now
                self._resets[connection] = None
        elif flags & FIN:
            if half.origin < 0:
                half.start_at(seq)
            half.finish(seq)
            self._finished(half, out)

    def _finished(self, half: Half, out: list[Session]) -> None:
        connection = half.connection
        if connection.crowded:
            if self._halves.get(connection.keys[0]) is connection.halves[0]:  # not closed since
                self.counters["crowded"] += 1
                self.counters["evicted"] += 1
                self._close(connection, Ending.EVICTED, out)
        elif half.finished and half.peer.finished:
            self._close(connection, Ending.CLOSED, out)

    def _acknowledged(self, half: Half | None, ack: int, now: int, out: list[Session]) -> None:
        """Mark as gaps what ``half`` has acknowledged and the capture lacks; close the connections that this ends."""
        streams = self._streams
        if half is not None:
            streams.acknowledged(half, ack, now, out)
        while streams.finished:
            self._finished(streams.finished.pop(), out)

    def _close(self, connection: Connection, ending: Ending, out: list[Session]) -> None:
        """End a connection: fill its holes with gaps, flush its framers, end its sessions."""
        if connection.reset_ns and ending is not Ending.EVICTED:
            ending = Ending.RESET
        self._streams.flush(connection, out)
        first, second = connection.halves
        if ending is Ending.CAPTURE_END and first.finished and second.finished:
            ending = Ending.CLOSED
        self._streams.close(connection, ending, out)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        known = False
        for key, half in zip(connection.keys, connection.halves, strict=True):
            if self._halves.pop(key, None) is None:
                continue
            known = True
            self._bypassed.discard(key)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.popitem(last=False)
            self._remembered[key] = (half.origin, half.next_seq, connection.last_ns)
        if known:
            self._streams.drop_held(connection)
        self._resets.pop(connection, None)
        connection.detach()

    def _evict(self, out: list[Session]) -> None:
        """Make room: close the tenth of the connections that have been idle for longest."""
        connections = [half.connection for half in self._halves.values() if half.side == 0]
        connections.sort(key=lambda connection: (connection.state != IGNORED, connection.last_ns))
        for connection in connections[: max(1, len(connections) // 10)]:
            self._close(connection, Ending.EVICTED, out)
            self.counters["evicted"] += 1

    def _close_idle(self, before: int, out: list[Session]) -> None:
        """Close the connections that have had no packet since packet time ``before`` (unix nanoseconds)."""
        idle = [h.connection for h in self._halves.values() if h.side == 0 and h.connection.last_ns <= before]
        for connection in idle:
            self.counters["idle"] += 1
            self._close(connection, Ending.SILENT, out)

    # Time.

    def _sweep(self, now: int, out: list[Session]) -> None:
        """Once per second of packet time: end silent sessions, and fill holes with gaps that stayed open too long."""
        if now > self.now_ns:
            self.now_ns = now
        self.next_sweep = self.now_ns + SECOND
        streams = self._streams
        streams.give_up_stale(now, out)
        streams.forget_recent()
        self._acknowledged(None, 0, now, out)
        for connection in [c for c in self._resets if now - c.reset_ns >= SECOND]:
            self._close(connection, Ending.RESET, out)
        if now >= self._next_idle:
            self._next_idle = now + min(_LOOK_IDLE, self.options.idle_ns)
            self._close_idle(now - self.options.idle_ns, out)
        timers = streams.timers
        while timers and timers[0][0] <= now:
            due, key = heapq.heappop(timers)
            half = self._halves.get(key)
            if half is None or half.connection.timer_ns != due:
                continue  # the connection has ended, or another uses its ports
            connection = half.connection
            tracker = connection.tracker
            if tracker is None:
                continue
            due = tracker.due()
            if due and due <= now:
                for half in connection.halves:
                    if half.pending:
                        streams.settle_framer(half, out)
                out.extend(tracker.expire(now))
            streams.arm(connection)


def _with_timeouts(options: DecoderOptions, other: DecoderOptions) -> DecoderOptions:
    """Return ``options`` with the timeouts of ``other``: when silence ends something."""
    return options._replace(
        ack_timeout_ns=other.ack_timeout_ns,
        silence_ns=other.silence_ns,
        late_ns=other.late_ns,
        idle_ns=other.idle_ns,
    )


def _opens(key: bytes, own_isn: int, peer_isn: int) -> bool:
    """Return whether the source of ``key`` opened the connection: by both SYNs (-1: not seen), else by the ports.

    A SYN that acknowledges another one has bit 32 set.
    """
    if own_isn >= 0 and (peer_isn < 0 or own_isn <= _MASK):
        return own_isn <= _MASK
    if peer_isn >= 0:
        return peer_isn > _MASK
    own_port, peer_port = key[-4:-2], key[-2:]
    return own_port > peer_port or (own_port == peer_port and key <= reverse(key))
