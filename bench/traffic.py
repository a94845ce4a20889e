"""Generates the traffic that hl7core is measured with: the same bytes for the same kind, scale and seed.

    python bench/traffic.py a /tmp/a.pcap              847,000 packets, 292 MB: MLLP on 200 long-lived connections
    python bench/traffic.py b /tmp/b.pcap              2.2 million packets: 100,000 LIS01 sessions, byte by byte
    python bench/traffic.py c /tmp/c.pcap              2 million packets of noise with 0.8 % MLLP among them
    python bench/traffic.py d /tmp/d.pcap              like a, with 18 % of the data segments repeated or out of order
    python bench/traffic.py o /tmp/o.pcap              10,000 connections, all open at once, each in a message of 1 KiB

OUT.truth.json records what was sent: packets, sessions, messages, and ``sha256`` over the hex sha256 of every message,
sorted, each with a line feed.  This command must print the same value:

    hl7core read OUT -o messages | jq -r .sha256 | sort | sha256sum

IPv4 and TCP are valid throughout (sequence numbers, lengths, both checksums), so that no peer is slowed by warnings.
In b, frames to the LIS are padded to 60 bytes, as a network card delivers them (tcpflow would read padding as data).
All patients are invented.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# 2024-01-08 08:00:00 UTC, in microseconds: any fixed day does.
START_US = 1_704_700_800_000_000
MEAN_GAP_US = 20

FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10
_HEADERS = struct.Struct(">16sHHHBBH12sIIHHHH")  # Ethernet to TCP, without options
_RECORD = struct.Struct("<4I")
_PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


class Truth:
    """What was sent, as the sender knows it."""

    def __init__(self) -> None:
        self.sessions = 0
        self.digests: list[bytes] = []

    def message(self, data: bytes) -> None:
        self.digests.append(hashlib.sha256(data).digest())

    def summary(self) -> dict[str, object]:
        joined = "".join(f"{digest.hex()}\n" for digest in sorted(self.digests))
        return {
            "sessions": self.sessions,
            "messages": len(self.digests),
            "sha256": hashlib.sha256(joined.encode()).hexdigest(),
        }


class End:
    """What one end of a connection sends: its headers, its next sequence number."""

    def __init__(self, rng: random.Random, addresses: bytes, ports: bytes, macs: bytes, *, padded: bool) -> None:
        self.prefix = macs + b"\x08\x00\x45\x00"
        self.addressing = addresses + ports
        # One's complement sums are sums modulo 65535 (RFC 1071), and integers of any length add up as one.
        self.ip_sum = sum(struct.unpack(">4H", addresses)) + 0x4500 + 0x4000 + 0x4006
        self.tcp_sum = sum(struct.unpack(">6H", self.addressing)) + 6
        self.ident = rng.randrange(0x10000)
        self.next = rng.randrange(0x1_0000_0000)
        self.padded = padded


class Connection:
    """One TCP connection: makes its packets, in order."""

    def __init__(
        self,
        rng: random.Random,
        client: tuple[int, int, int, int],
        port: int,
        server_port: int,
        *,
        padded: bool = False,
    ) -> None:
        client_ip, server_ip = bytes(client), bytes((10, 0, 0, 2))
        client_mac, server_mac = b"\x02\x00" + client_ip, b"\x02\x00" + server_ip
        ports = struct.pack(">HH", port, server_port)
        self.client = End(rng, client_ip + server_ip, ports, server_mac + client_mac, padded=padded)
        self.server = End(rng, server_ip + client_ip, ports[2:] + ports[:2], client_mac + server_mac, padded=False)

    def packet(self, sender: End, flags: int, payload: bytes = b"") -> bytes:
        receiver = self.server if sender is self.client else self.client
        length = len(payload)
        sender.ident = (sender.ident + 1) & 0xFFFF
        sequence, expected = sender.next, receiver.next if flags & ACK else 0
        sender.next = (sequence + length + (flags & (SYN | FIN) != 0)) & 0xFFFFFFFF
        body = int.from_bytes(payload, "big") << (length & 1) * 8
        # TCP's length, header length with flags, and window; then the payload.
        tcp_sum = sender.tcp_sum + 20 + length + sequence + expected + (0x5000 | flags) + 64_240 + body
        packet = (
            _HEADERS.pack(
                sender.prefix,
                40 + length,
                sender.ident,
                0x4000,
                64,
                6,
                -(sender.ip_sum + 40 + length + sender.ident) % 0xFFFF,
                sender.addressing,
                sequence,
                expected,
                0x5000 | flags,
                64_240,
                -tcp_sum % 0xFFFF,
                0,
            )
            + payload
        )
        return packet.ljust(60, b"\0") if sender.padded else packet

    def open(self) -> Iterator[bytes]:
        yield self.packet(self.client, SYN)
        yield self.packet(self.server, SYN | ACK)
        yield self.packet(self.client, ACK)

    def close(self) -> Iterator[bytes]:
        yield self.packet(self.client, FIN | ACK)
        yield self.packet(self.server, FIN | ACK)
        yield self.packet(self.client, ACK)


# MLLP

_SURNAMES = (
    "Abel",
    "Brandt",
    "Castillo",
    "Dubois",
    "Ekholm",
    "Ferrari",
    "Grimm",
    "Hoang",
    "Ivanova",
    "Janssen",
    "Kowalski",
    "Lindqvist",
)
_GIVEN = ("Ada", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Leo")
_ANALYTES = (
    ("2345-7", "Glucose", "mmol/L", "3.9-5.8"),
    ("2160-0", "Creatinine", "umol/L", "45-104"),
    ("2951-2", "Sodium", "mmol/L", "136-145"),
    ("2823-3", "Potassium", "mmol/L", "3.5-5.1"),
    ("2075-0", "Chloride", "mmol/L", "98-107"),
    ("1742-6", "Alanine aminotransferase", "U/L", "0-41"),
    ("1920-8", "Aspartate aminotransferase", "U/L", "0-40"),
    ("1975-2", "Bilirubin total", "umol/L", "0-21"),
    ("2885-2", "Protein total", "g/L", "64-83"),
)


class Mllp:
    """Results and their acknowledgements; constant parts are rendered once."""

    def __init__(self, rng: random.Random, truth: Truth) -> None:
        self.rng, self.truth, self.number, self.clock = rng, truth, 0, ""
        self.observations = [
            [
                f"OBX|{place}|NM|{code}^{name}^LN||{rng.uniform(1, 150):.1f}|{unit}|{span}|N|||F|||20240108080000\r"
                for _ in range(97)
            ]
            for place, (code, name, unit, span) in enumerate(_ANALYTES, 1)
        ]

    def exchange(self, analyzer: int) -> tuple[bytes, bytes]:
        """Return the next result and its acknowledgement, without their framing."""
        sent = self.request(analyzer)
        reply = (
            f"MSH|^~\\&|LIS|HOSPITAL|ANALYZER{analyzer:03}|LAB|{self.clock}||ACK^R01^ACK|A{self.number:08}|P|2.5.1\r"
            f"MSA|AA|R{self.number:08}\r"
        )
        answered = reply.encode()
        self.truth.sessions += 1
        self.truth.message(sent)
        self.truth.message(answered)
        return sent, answered

    def request(self, analyzer: int) -> bytes:
        """Return the next result; the caller adds it to the truth."""
        rng = self.rng
        self.number = number = self.number + 1
        pick = int(rng.random() * 0x1_0000_0000)
        name = f"{_SURNAMES[pick % 12]}^{_GIVEN[pick // 12 % 12]}"
        clock = self.clock = f"20240108{8 + number // 3600 % 12:02}{number // 60 % 60:02}{number % 60:02}"
        request = (
            f"MSH|^~\\&|ANALYZER{analyzer:03}|LAB|LIS|HOSPITAL|{clock}||ORU^R01^ORU_R01|R{number:08}|P|2.5.1|||AL|NE\r"
            f"PID|1||{pick % 10_000_000:07}^^^HOSPITAL^MR||{name}||19{pick % 90 + 10}0315|{'FM'[pick & 1]}\r"
            f"PV1|1|O|AMB^^^HOSPITAL\r"
            f"OBR|1|O{number:08}|S{number:08}|24323-8^Comprehensive metabolic panel^LN|||{clock}|||||||||||||||||||F\r"
            + "".join([lines[(pick >> place * 3) % 97] for place, lines in enumerate(self.observations)])
            + f"NTE|1|L|Verified by the analyzer in run {pick % 997:03}; reference ranges are those of adults\r"
        )
        return request.encode()

    def conversation(
        self, connection: Connection, analyzer: int, exchanges: int, *, close: bool = True
    ) -> Iterator[bytes]:
        rng, packet, client, server = self.rng, connection.packet, connection.client, connection.server
        yield from connection.open()
        for _ in range(exchanges):
            request, reply = self.exchange(analyzer)
            block = b"\x0b" + request + b"\x1c\r"
            if rng.random() < 0.228:
                cut = 1 + int(rng.random() * (len(block) - 1))
                yield packet(client, ACK, block[:cut])
                yield packet(client, PSH | ACK, block[cut:])
            else:
                yield packet(client, PSH | ACK, block)
            yield packet(server, ACK)
            yield packet(server, PSH | ACK, b"\x0b" + reply + b"\x1c\r")
            yield packet(client, ACK)
        if close:
            yield from connection.close()


def disturbed(rng: random.Random, packets: Iterator[bytes]) -> Iterator[bytes]:
    """Repeat 9 % of the data segments, up to three packets later, and swap 9 % with the next packet."""
    repeats: list[tuple[int, bytes]] = []
    for packet in packets:
        kind = rng.random() if len(packet) > 54 else 1.0
        if kind < 0.09:
            repeats.append((int(rng.random() * 4), packet))
            yield packet
        elif kind < 0.18:
            overtaking = next(packets, None)
            if overtaking is not None:
                yield overtaking
            yield packet
        else:
            yield packet
        due = [repeat for wait, repeat in repeats if wait == 0]
        repeats = [(wait - 1, repeat) for wait, repeat in repeats if wait]
        yield from due


# LIS01


def lis01(rng: random.Random, truth: Truth, connection: Connection, analyzer: int, sessions: int) -> Iterator[bytes]:
    packet, device, lis = connection.packet, connection.client, connection.server
    yield from connection.open()
    for number in range(sessions):
        pick = int(rng.random() * 0x1_0000_0000)
        name = f"{_SURNAMES[pick % 12]}^{_GIVEN[pick // 12 % 12]}"
        records = [
            f"H|\\^&|{analyzer:03}{number:06}||ANALYZER{analyzer:03}|||||LIS||P|LIS02-A2|20240108080000\r",
            f"P|1||{pick % 10_000_000:07}||{name}||19{pick % 90 + 10}0315|{'FM'[pick & 1]}\r",
            f"O|1|S{analyzer:03}{number:06}||^^^CMP|R||20240108080000||||N||||Serum\r",
            f"R|1|^^^GLU|{pick % 200 / 10}|mmol/L|3.9-5.8|N||F||||20240108080000\r",
            f"R|2|^^^CREA|{pick % 1500 / 10}|umol/L|45-104|N||F||||20240108080000\r",
            "L|1|N\r",
        ]
        if pick % 3 == 0:
            del records[4]
        truth.sessions += 1
        truth.message("".join(records).encode())
        yield packet(device, PSH | ACK, b"\x05")
        yield packet(lis, PSH | ACK, b"\x06")
        yield packet(device, ACK)
        for place, record in enumerate(records, 1):
            text = f"{place % 8}{record}\x03".encode()
            yield packet(device, PSH | ACK, b"\x02%b%02X\r\n" % (text, sum(text) & 0xFF))
            yield packet(lis, PSH | ACK, b"\x06")
            yield packet(device, ACK)
        yield packet(device, PSH | ACK, b"\x04")
        yield packet(lis, ACK)
    yield from connection.close()


# Noise


def https(rng: random.Random, pool: bytes) -> Iterator[bytes]:
    """Connections that carry what looks like TLS, one after the other, endlessly."""
    while True:
        client = (10, 1, rng.randrange(256), rng.randrange(1, 255))
        connection = Connection(rng, client, rng.randrange(1024, 65536), 443)
        packet = connection.packet
        yield from connection.open()
        yield packet(connection.client, PSH | ACK, b"\x16\x03\x01\x02\x00" + _piece(rng, pool, 512))
        yield packet(connection.server, PSH | ACK, b"\x16\x03\x03\x04\xd2" + _piece(rng, pool, 1234))
        for _ in range(rng.randrange(2, 60)):
            if rng.random() < 0.3:
                yield packet(connection.client, PSH | ACK, b"\x17\x03\x03\x00\xc8" + _piece(rng, pool, 200))
            length = 1400 if rng.random() < 0.2 else 20 + int(rng.random() * 400)
            yield packet(
                connection.server, PSH | ACK, b"\x17\x03\x03" + struct.pack(">H", length) + _piece(rng, pool, length)
            )
            yield packet(connection.client, ACK)
        yield from connection.close()


def _piece(rng: random.Random, pool: bytes, length: int) -> bytes:
    at = int(rng.random() * (len(pool) - length))
    return pool[at : at + length]


def small_talk(rng: random.Random) -> Iterator[bytes]:
    """DNS over UDP (without checksum, which IPv4 allows) and ARP, endlessly."""
    names = [bytes((len(name),)) + name.lower().encode() for name in _SURNAMES]
    while True:
        client, server = bytes((10, 1, rng.randrange(256), rng.randrange(1, 255))), b"\x0a\x00\x00\x35"
        macs = b"\x02\x00" + server + b"\x02\x00" + client
        if rng.random() < 0.2:
            arp = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + b"\x02\x00" + client + client + bytes(6) + server
            yield (b"\xff" * 6 + macs[6:] + arp).ljust(60, b"\0")
            continue
        question = struct.pack(">6H", rng.randrange(0x10000), 0x0100, 1, 0, 0, 0)
        question += rng.choice(names) + b"\x07example\x00\x00\x01\x00\x01"
        length = 28 + len(question)
        total = 0x4500 + length + 0x4011 + sum(struct.unpack(">4H", client + server))
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 17, -total % 0xFFFF, client, server)
        udp = struct.pack(">HHHH", rng.randrange(1024, 65536), 53, length - 20, 0)
        yield macs + b"\x08\x00" + ip + udp + question


# Mixing


def shuffled(rng: random.Random, conversations: list[Iterator[bytes]]) -> Iterator[bytes]:
    """Interleave the conversations at random, each in its order, until all have ended."""
    draw = rng.random
    while conversations:
        place = int(draw() * len(conversations))
        packet = next(conversations[place], None)
        if packet is None:
            conversations[place] = conversations[-1]
            conversations.pop()
        else:
            yield packet


def _analyzer(rng: random.Random, number: int, port: int, *, padded: bool = False) -> Connection:
    return Connection(rng, (10, 0, 1 + number // 250, 1 + number % 250), 49_152 + number, port, padded=padded)


def _share(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


def clean(rng: random.Random, truth: Truth, scale: float) -> Iterator[bytes]:
    mllp, exchanges = Mllp(rng, truth), max(1, round(200_000 * scale))
    count = min(200, exchanges)
    return shuffled(
        rng,
        [
            mllp.conversation(_analyzer(rng, number, 2575), number, _share(exchanges, count, number))
            for number in range(count)
        ],
    )


def bytewise(rng: random.Random, truth: Truth, scale: float) -> Iterator[bytes]:
    sessions = max(1, round(100_000 * scale))
    count = min(100, sessions)
    return shuffled(
        rng,
        [
            lis01(rng, truth, _analyzer(rng, number, 4010, padded=True), number, _share(sessions, count, number))
            for number in range(count)
        ],
    )


def noisy(rng: random.Random, truth: Truth, scale: float) -> Iterator[bytes]:
    packets = max(100, round(2_000_000 * scale))
    mllp, exchanges = Mllp(rng, truth), max(1, round(packets * 0.008 / 4.23))
    count = min(10, exchanges)
    wanted = shuffled(
        rng,
        [
            mllp.conversation(_analyzer(rng, number, 2575), number, _share(exchanges, count, number))
            for number in range(count)
        ],
    )
    pool = rng.randbytes(1 << 20)
    noise = shuffled(rng, [*(https(rng, pool) for _ in range(190)), *(small_talk(rng) for _ in range(10))])
    for _ in range(packets):
        packet = next(wanted, None) if rng.random() < 0.008 else None
        yield packet if packet is not None else next(noise)
    yield from wanted


def unruly(rng: random.Random, truth: Truth, scale: float) -> Iterator[bytes]:
    mllp, exchanges = Mllp(rng, truth), max(1, round(200_000 * scale))
    count = min(200, exchanges)
    return shuffled(
        rng,
        [
            disturbed(rng, mllp.conversation(_analyzer(rng, number, 2575), number, _share(exchanges, count, number)))
            for number in range(count)
        ],
    )


def left_open(rng: random.Random, truth: Truth, scale: float) -> Iterator[bytes]:
    """Connections with one exchange and then 1 KiB of a message that is cut off by the end of the capture."""
    mllp, count = Mllp(rng, truth), max(1, round(10_000 * scale))
    connections = [_analyzer(rng, number, 2575) for number in range(count)]
    for number, connection in enumerate(connections):
        yield from mllp.conversation(connection, number % 1000, 1, close=False)
    for number, connection in enumerate(connections):
        begun = mllp.request(number % 1000)[:1023]
        truth.message(begun)
        truth.sessions += 1
        yield connection.packet(connection.client, ACK, b"\x0b" + begun)


KINDS: dict[str, Callable[[random.Random, Truth, float], Iterator[bytes]]] = {
    "a": clean,
    "b": bytewise,
    "c": noisy,
    "d": unruly,
    "o": left_open,
}


def write(kind: str, out: Path, *, scale: float = 1.0, seed: int = 1) -> dict[str, object]:
    """Write the capture to ``out`` and the truth beside it; return the truth."""
    rng, truth = random.Random(seed), Truth()
    draw, pack = random.Random(seed + 1).random, _RECORD.pack
    packets, now_us = 0, START_US
    with out.open("wb", buffering=1 << 20) as file:
        file.write(_PCAP)
        for packet in KINDS[kind](rng, truth, scale):
            packets += 1
            now_us += 1 + int(draw() * 2 * MEAN_GAP_US)
            length = len(packet)
            file.write(pack(now_us // 1_000_000, now_us % 1_000_000, length, length) + packet)
        size = file.tell()
    summary: dict[str, object] = {"kind": kind, "scale": scale, "seed": seed, "packets": packets, "bytes": size}
    summary |= truth.summary()
    truth_path(out).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def truth_path(capture: Path) -> Path:
    return capture.with_name(capture.name + ".truth.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="fraction of the traffic (default 1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random numbers (default 1)")
    options = parser.parse_args()
    began = time.perf_counter()
    summary = write(options.kind, options.out, scale=options.scale, seed=options.seed)
    seconds = time.perf_counter() - began
    print(
        f"{options.out}: {summary['packets']:,} packets, {summary['bytes']:,} bytes, {summary['sessions']:,} sessions, "
        f"{summary['messages']:,} messages, in {seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
