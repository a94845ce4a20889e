"""A ring of packets that the kernel fills and this process empties (TPACKET_V3 of packet(7)).  Linux only.

Why a ring and not ``recvmsg``: its size needs no CAP_NET_ADMIN and is not limited by ``net.core.rmem_max`` (212 KB on
most machines); the kernel timestamps each packet in nanoseconds, wakes us once per block instead of once per packet,
and gives each packet's length on the wire, its direction and the VLAN tag that was stripped.

Law: a block is read only while it is ours, and returned once its packets are copied; their content is not parsed.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import threading
from typing import NamedTuple

__all__ = ["BLOCK_BYTES", "RETIRE_MS", "Ring", "RingRefused", "Seen"]

BLOCK_BYTES = 256 * 1024
"""The size of a block in bytes; a packet longer than this is truncated."""
RETIRE_MS = 10
"""Milliseconds after which the kernel passes on a block that is not full (it may take twice as long)."""

_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V3 = 2
_SO_TIMESTAMPNS = 35
_STATUS_USER = 1
_VLAN_VALID, _VLAN_TPID_VALID = 1 << 4, 1 << 6
_ETH_P_8021Q = 0x8100
_PACKET_OUTGOING = 4
_FRAME_BYTES = 2048
_FEWEST_BLOCKS = 4

_REQUEST = struct.Struct("=7I")  # struct tpacket_req3
_BLOCK = struct.Struct("=8x3I")  # struct tpacket_block_desc: status, packets, offset of the first
_PACKET = struct.Struct("=6I2H4xIH")  # struct tpacket3_hdr, up to tp_vlan_tpid
_DIRECTION_AT = 48 + 10  # sll_pkttype of the struct sockaddr_ll behind it
_STATISTICS = struct.Struct("=3I")
_TAG = struct.Struct("!HH")


class RingRefused(OSError):  # noqa: N818 - it is what the kernel does
    """The kernel has no such ring; packets must be read one by one."""


class Seen(NamedTuple):
    """One packet: when (unix nanoseconds), its bytes, and its length on the wire."""

    time_ns: int
    data: bytes
    wire_length: int


class Ring:
    """The ring of one open packet socket, which it owns."""

    def __init__(self, sock: socket.socket, size: int, snaplen: int) -> None:
        """Map a ring of about ``size`` bytes; of each packet keep ``snaplen``.  Raises RingRefused."""
        self.sock = sock
        self.received = 0
        self.dropped = 0
        self._snaplen = snaplen
        hardware = sock.getsockname()[3]
        self._tagged = hardware in {1, 772}
        self._twice = hardware == 772  # loopback shows each packet as it leaves and as it arrives
        self._fence = threading.Lock()
        self._next = 0
        try:
            # The kernel then notes each packet's time once, before any socket gets it: so two captures of one packet,
            # while one takes the place of another, agree on its time.
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("=I", _TPACKET_V3))
            self._blocks = self._allocate(max(size // BLOCK_BYTES, _FEWEST_BLOCKS))
            self._map = mmap.mmap(sock.fileno(), self._blocks * BLOCK_BYTES, mmap.MAP_SHARED)
        except OSError as error:
            raise RingRefused(error.errno, f"the kernel refuses a packet ring: {error.strerror}") from error
        self.count()  # what came before there was a ring is not part of the capture
        self.received = self.dropped = 0

    def _allocate(self, blocks: int) -> int:
        """Request ``blocks`` blocks, and half as many again and again while memory is short; return how many we got."""
        per_block = BLOCK_BYTES // _FRAME_BYTES
        while True:
            wanted = _REQUEST.pack(BLOCK_BYTES, blocks, _FRAME_BYTES, blocks * per_block, RETIRE_MS, 0, 0)
            try:
                self.sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, wanted)
            except OSError as error:
                if error.errno != errno.ENOMEM or blocks <= _FEWEST_BLOCKS:
                    raise
                blocks = max(blocks // 2, _FEWEST_BLOCKS)
            else:
                return blocks

    def fileno(self) -> int:
        """The descriptor to poll: readable when a block is ours."""
        return self.sock.fileno()

    @property
    def bound(self) -> bool:
        """Whether its interface still exists, under whatever name."""
        return bool(self.sock.getsockname()[0])

    @property
    def hardware(self) -> int:
        """The hardware type (ARPHRD) of its interface."""
        return int(self.sock.getsockname()[3])

    def take_error(self) -> int:
        """Return and clear the pending error number of the socket (ENETDOWN once its interface goes down), or 0."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def count(self) -> bool:
        """Add up the kernel's counters; return whether it has dropped packets since the last call."""
        counters = self.sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        received, dropped, _ = _STATISTICS.unpack(counters)  # the kernel resets them as it answers
        self.received += received
        self.dropped += dropped
        return bool(dropped)

    def take(self) -> list[Seen] | None:
        """Return the packets of the next block and give the block back; None if no block is ready."""
        memory = self._map
        start = self._next * BLOCK_BYTES
        status, packets, first = _BLOCK.unpack_from(memory, start)
        if not status & _STATUS_USER:
            return None
        with self._fence:  # what the kernel wrote before the status is read after it
            at = start + first
        read, size, snaplen, tagged, twice = _PACKET.unpack_from, len(memory), self._snaplen, self._tagged, self._twice
        found: list[Seen] = []
        add = found.append
        for _ in range(packets):
            step, seconds, nanos, kept, wire, flags, mac, _net, tci, tpid = read(memory, at)
            if not (twice and memory[at + _DIRECTION_AT] == _PACKET_OUTGOING):
                begin = at + mac
                data = memory[begin : min(begin + kept, size)]
                if flags & _VLAN_VALID and tagged:
                    tag = _TAG.pack(tpid if flags & _VLAN_TPID_VALID else _ETH_P_8021Q, tci & 0xFFFF)
                    data = data[:12] + tag + data[12:]
                    wire += 4
                add(Seen(seconds * 1_000_000_000 + nanos, data[:snaplen], wire))
            at += step
        with self._fence:
            memory[start + 8 : start + 12] = b"\0\0\0\0"
        self._next = (self._next + 1) % self._blocks
        return found

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self._blocks

    def close(self) -> None:
        """Release the ring and close the socket."""
        self._map.close()
        self.sock.close()
