"""Sends traffic over an interface at a steady rate, in a separate process that ``bench/live.py`` controls.

The traffic is generated before any clock runs and sent in laps, as often as asked.  Each lap has its own client and
server addresses, so that every connection, session and message of a run is a different one.  The checksums stay valid
without being computed again: what is added to a client's address is subtracted from the server's, and both are in the
same sums (RFC 1071; RFC 6296 translates prefixes the same way).

The packets of one lap are in a ring that the kernel sends from (``PACKET_TX_RING`` of packet(7)).  Sending a packet
means writing its addresses and a mark, and the kernel copies nothing: twice as fast as ``sendmmsg``.  tcpreplay is not
used because it is not installed everywhere, and because we must know message by message what was sent.

    python bench/sending.py INTERFACE KIND SCALE

It writes one JSON object per line to standard output: first what a lap contains; then, for each line of standard input
with a ``rate`` (packets per second) and ``laps``, what was sent.
"""

from __future__ import annotations

import json
import mmap
import random
import socket
import struct
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

import traffic

SERVER = bytes((10, 0, 0, 2))
"""The server that ``traffic`` has in all of its connections."""
_IP_TCP = b"\x08\x00\x45\x00"
_SECOND_OCTETS = range(3, 253)  # of the clients: 10.0 is the server's, and the noise has 10.1 to begin with
MOST_LAPS = len(_SECOND_OCTETS) * 200

_SOL_PACKET, _PACKET_VERSION, _PACKET_TX_RING, _PACKET_QDISC_BYPASS = 263, 10, 13, 20
_TPACKET_V2 = 1
_HEADER = struct.Struct("=2I")  # struct tpacket2_hdr: status, length of the packet
_DATA = 32  # where the packet begins
_SEND = struct.pack("=I", 1)  # TP_STATUS_SEND_REQUEST
_PAGE = mmap.PAGESIZE
_SLOT = 2048
_MOST_AT_ONCE = 64
_CALLS_A_SECOND = 2000
_GIVEN_UP_SECONDS = 0.005


def moved(client: bytes, lap: int) -> tuple[bytes, bytes]:
    """Return the addresses of a client and the server in ``lap``; their one's complement sum is always the same."""
    third, second = divmod(lap, len(_SECOND_OCTETS))
    more = _SECOND_OCTETS[second] + (
        third << 8
    )  # added to the second and third octet, taken from the server's last two
    there = (int.from_bytes(SERVER[2:], "big") - more) % 0xFFFF
    moved_client = bytes((client[0], client[1] + (more & 0xFF), client[2] + (more >> 8), client[3]))
    return moved_client, SERVER[:2] + there.to_bytes(2, "big")


class Sent(NamedTuple):
    """``late`` says by how much the schedule had to be moved, in seconds, because this process was held up."""

    packets: int
    bytes: int
    seconds: float
    late: float
    longest_pause: float


class Lap:
    """Packets ready to be sent, in the kernel's ring; they begin with the addresses of the first lap."""

    def __init__(self, interface: str, packets: Iterable[bytes]) -> None:
        kept = list(packets)
        if len(kept) % 2:  # two slots make a page, and the kernel goes round by whole pages
            kept.append(next(traffic.small_talk(random.Random(0))))
        self.count = len(kept)
        self.bytes = sum(map(len, kept))
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        size = self.count * _SLOT
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("=I", _TPACKET_V2))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        ring = struct.pack("=4I", _PAGE, size // _PAGE, _SLOT, _PAGE // _SLOT * (size // _PAGE))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_TX_RING, ring)
        self._ring = mmap.mmap(self._socket.fileno(), size, mmap.MAP_SHARED)
        self._socket.bind((interface, 0))
        places: dict[bytes, int] = {}
        self._places: list[int] = []  # which addresses each packet has; -1: it has none that change
        for number, packet in enumerate(kept):
            if len(packet) > _SLOT - _DATA:
                raise ValueError("a packet is longer than a slot of the ring")
            at = number * _SLOT
            self._ring[at : at + _HEADER.size] = _HEADER.pack(0, len(packet))
            self._ring[at + _DATA : at + _DATA + len(packet)] = packet
            changes = packet[12:16] == _IP_TCP and packet[23] == socket.IPPROTO_TCP
            self._places.append(places.setdefault(packet[26:34], len(places)) if changes else -1)
        self._pairs = [(addresses[:4], addresses[4:]) for addresses in places]

    def send(self, rate: float, laps: int) -> Sent:
        """Send ``laps`` laps, ``rate`` packets a second, in groups as small and even as the rate allows.

        A group that is late is sent at once, so that the mean holds; after 5 ms of lateness the schedule is moved
        instead, since no network sends in one burst what it missed.
        """
        group = min(_MOST_AT_ONCE, max(1, round(rate / _CALLS_A_SECOND)))
        clock, sleep = time.monotonic, time.sleep
        moved_by = longest = 0.0
        began = before = due = clock()
        for lap in range(laps):
            addresses = [b"".join(_moved_pair(*pair, lap)) for pair in self._pairs]
            for first in range(0, self.count, group):
                behind = min(first + group, self.count)
                self._mark(first, behind, addresses)
                now = clock()
                if now < due:
                    sleep(due - now)
                elif now - due > _GIVEN_UP_SECONDS:
                    moved_by += now - due
                    due = now
                due += (behind - first) / rate
                now = clock()
                longest, before = max(longest, now - before), now
                self._socket.send(b"")
        return Sent(laps * self.count, laps * self.bytes, clock() - began, moved_by, longest)

    def _mark(self, first: int, behind: int, addresses: list[bytes]) -> None:
        """Have the kernel send the packets from ``first`` to before ``behind`` when it is called next."""
        ring, at = self._ring, first * _SLOT
        for place in self._places[first:behind]:
            if place >= 0:
                ring[at + _DATA + 26 : at + _DATA + 34] = addresses[place]
            ring[at : at + 4] = _SEND
            at += _SLOT


def _moved_pair(source: bytes, target: bytes, lap: int) -> tuple[bytes, bytes]:
    if source == SERVER:
        client, server = moved(target, lap)
        return server, client
    return moved(source, lap)


def main(interface: str, kind: str, scale: str) -> None:
    truth = traffic.Truth()
    lap = Lap(interface, traffic.KINDS[kind](random.Random(1), truth, float(scale)))
    digests = [digest.hex() for digest in truth.digests]
    tell = {"packets": lap.count, "bytes": lap.bytes, "sessions": truth.sessions, "digests": digests}
    print(json.dumps(tell), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(lap.send(order["rate"], order["laps"])._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
