"""Conversations that know which bytes make which message, and what a decoder finds if packets of them are lost."""

from __future__ import annotations

from collections.abc import Sequence

from hl7core.model.packet import Packet, PacketBatch
from hl7core.model.session import Direction, Session
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.synthetic_tcp import TcpTalk

PLAIN_PORT = 6001

RECORDS = (b"H|\\^&|||AN\r", b"P|1||P7\r", b"O|1|S4\r", b"R|1|^^^GLU|5.4\r", b"L|1|N\r")


def frame(number: int, text: bytes, end: bytes = b"\x03") -> bytes:
    body = b"%d" % (number % 8) + text + end
    return b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF)


class Talk(TcpTalk):
    """A conversation that knows which bytes of each stream make which message."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.starts = list(self.seq)
        self.sent: list[tuple[bytes, list[tuple[int, int, int]]]] = []  # the text, and the (side, from, to) it took

    def at(self, side: int) -> int:
        return self.seq[side] - self.starts[side] - 1

    def say(self, side: int, data: bytes, mss: int) -> tuple[int, int, int]:
        begin = self.at(side)
        (self.opener if side == 0 else self.acceptor)(data, mss=mss)
        return side, begin, begin + len(data)


def sessions_of(packets: Sequence[Packet]) -> list[Session]:
    decoder = Decoder()
    last: dict[str, Session] = {}
    at = 0
    while at < len(packets):  # batches are of one interface each
        run = [packet for packet in packets[at : at + 5] if packet.interface == packets[at].interface]
        upto = at
        while upto < len(packets) and upto - at < 5 and packets[upto].interface == packets[at].interface:
            upto += 1
        run = list(packets[at:upto])
        at = upto
        for session in decoder.feed(PacketBatch.of(run)):
            last[session.id] = session
    for session in decoder.end():
        last[session.id] = session
    return sorted(last.values(), key=lambda session: (session.start_ns, session.elements[0].offset))


def whole_messages(sessions: list[Session], direction: Direction | None = None) -> list[bytes]:
    found = [
        (element.offset, message.text)
        for session in sessions
        for number, message in enumerate(session.messages)
        for element in [next(e for e in session.elements if e.message == number)]
        if message.complete and (direction is None or message.direction is direction)
    ]
    return [text for _, text in sorted(found)]


def without(talk: Talk, *lost: int) -> list[Packet]:
    return [packet for number, packet in enumerate(talk.packets) if number not in lost]


def plain_sessions(count: int, mss: int, separator: bytes = b"\r") -> tuple[Talk, list[int]]:
    """``count`` sessions of one message each, and the number of the first packet of each message."""
    talk = Talk(acceptor=("10.0.0.9", PLAIN_PORT))
    talk.open()
    begins = []
    for session in range(count):
        talk.say(0, b"\x05", mss)
        talk.say(1, b"\x06", mss)
        begins.append(len(talk.packets))
        text = separator.join(
            [b"MSH|^~\\&|A|L|B|L|2026||ORU^R01|M%d|P|2.5" % session, b"PID|1||P7", b"OBX|1|NM|GLU||5"]
        )
        talk.sent.append((text, [talk.say(0, b"\x02" + text + b"\r\n", mss), talk.say(1, b"\x06", mss)]))
        talk.say(0, b"\x04", mss)
    return talk, begins
