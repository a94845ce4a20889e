"""Time that grows with what is read, never with its square, so that a hostile peer gains nothing.

Four times the bytes may take four times as long.  A square would take sixteen times.  ``assert_linear`` accepts less than
nine, measured in this process's own time; where the machine is busy with something else, the best of eight counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hl7core.model.packet import Endpoint, Interface, Packet, PacketBatch
from hl7core.wire.pcap.synthetic_tcp import START_NS, tcp_packet

PATTERNS = {
    "FS": b"\x1c", "VT": b"\x0b", "CR FF": b"\r\x0c", "CR": b"\r", "LF": b"\n", "FS CR": b"\x1c\r", "VT FS CR": b"\x0b\x1c\r",
    "MSH": b"MSH", "CR MSH|": b"\rMSH|", "VT MSH|": b"\x0bMSH|", "commits": b"\x0b\x06\x1c\r", "STX": b"\x02",
    "STX and a number": b"\x021", "ETX": b"\x03", "an empty frame": b"\x021\x03", "ENQ": b"\x05", "ENQ EOT": b"\x05\x04",
    "ACK": b"\x06", "NAK": b"\x15", "CR LF": b"\r\n", "STX CR LF": b"\x02\r\n", "STX MSH|": b"\x02MSH|", "H|": b"H|",
    "a record": b"R|1\r", "nothing": b"\x00", "text": b"x", "a frame": b"\x021H|\\^&\r\x03E5\r\n",
    "a BOM": b"\xef\xbb\xbf", "a batch": b"\x0bFHS|\rMSH|\r\x1c\r",
}  # fmt: skip

SIZE = 8_000


def seconds(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began


def assert_linear(work: Callable[[int], object], size: int) -> None:
    small = large = 1e9
    for _ in range(8):
        small, large = min(small, seconds(work, size)), min(large, seconds(work, 4 * size))
        if large < 9 * max(small, 0.003):
            return
    raise AssertionError(f"{small:.4f} s became {large:.4f} s")


Said = tuple[int, dict[str, object]]

OPENED: list[Said] = [
    (0, {"seq": 1, "flags": 2}),
    (1, {"seq": 1, "ack": 2, "flags": 18}),
    (0, {"seq": 2, "ack": 2, "data": b"\x0bMSH|^~\\&|A|"}),
]


def of_each(count: int, *said: Said) -> PacketBatch:
    """The same packets (of which side, and their fields) on ``count`` connections, all captured at once."""
    made = []
    for number in range(count):
        ends = (Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 40000), Endpoint("10.0.0.9", 2575))
        for side, fields in said:
            raw = tcp_packet(ends[side], ends[1 - side], **fields)
            made.append(Packet(raw, START_NS, len(raw), Interface("test0")))
    return PacketBatch.of(made)
