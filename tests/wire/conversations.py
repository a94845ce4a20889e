"""Conversations: random ones for tests that compare two ways of decoding, and the parts of those that tests spell out."""

from hypothesis import strategies as st

from hl7core.model.packet import PacketBatch
from hl7core.model.session import Direction, Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk

REQUESTS = (
    b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01^ORU_R01|%b|P|2.5.1|||%b|%b\rPID|1||X1\rOBX|1|NM|GLU||5\r",
    b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|%b|P|2.5|||%b|%b||8859/1\rPID|1||M\xfcller\r",
    b'MSH|^~\\&|AN|LAB|LIS|LAB|20260101||OUL^R22|%b|P|2.5|||%b|%b\rPID|1||say "x"\\T\\\tend\r',
    b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||QBP^Q11|%b~X|P|2.5|||%b|%b\rQPD|1\r",
    b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|%b|P|2.5|||%b|%b\nOBX|1|NM|GLU||5\n",
    b"MSH$%%~\\&$AN$LAB$LIS$LAB$20260101$$ORU$%b$P$2.5$$$%b$%b\rPID$1\r",
    b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORM^O01|%b|P|2.5|||%b|%b\rORC|NW\rMSH|^~\\&|||||||ORM^O01|B2\rORC|NW\r",
)
ASKS = (
    (b"", b""),
    (b"AL", b"NE"),
    (b"AL", b"AL"),
    (b"NE", b"NE"),
    (b"ER", b"ER"),
    (b"NE", b"AL"),
    (b"SU", b""),
    (b"XX", b"AL"),
)
CODES = (b"AA", b"CA", b"AE", b"CE", b"AR", b"", b"OK")
IDS = (b"1", b"2", b"A-77", b"")
STRAYS = (b"\r\n", b"noise", b"\n", b"\x0b\x06\x1c\r", b"\x0b\x1c\r")


def request(kind: int, control_id: bytes, ask: tuple[bytes, bytes]) -> bytes:
    return b"\x0b" + REQUESTS[kind] % (control_id, *ask) + b"\x1c\r"


def reply(control_id: bytes, code: bytes) -> bytes:
    head = b"\x0bMSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK|R" + control_id + b"|P|2.5\r"
    return head + b"MSA|" + code + b"|" + control_id + b"\r\x1c\r"


_IDS = st.sampled_from(IDS)
_KINDS = st.sampled_from((0, 0, 0, 0, 1, 2, 3, 4, 5, 6))
_ASKS = st.sampled_from((ASKS[0], ASKS[0], ASKS[1], *ASKS))
_CODES = st.sampled_from((b"AA", b"AA", b"AA", *CODES))
_STEP = st.one_of(
    st.tuples(st.just("exchange"), _KINDS, _IDS, _ASKS, _CODES),
    st.tuples(st.just("exchange"), _KINDS, _IDS, _ASKS, _CODES),
    st.tuples(st.just("exchange"), _KINDS, _IDS, _ASKS, _CODES),
    st.tuples(st.just("request"), _KINDS, _IDS, _ASKS),
    st.tuples(st.just("reply"), _IDS, _CODES),
    st.tuples(st.just("stray"), st.sampled_from(STRAYS), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from((0.5, 3.0, 45.0, 70.0, 700.0))),
    st.tuples(st.just("lose"), st.booleans()),
)
_CONVERSATION = st.tuples(
    st.lists(_STEP, max_size=8),
    st.sampled_from((1460, 1460, 1460, 90, 17)),
    st.sampled_from(("close", "reset", "open")),
    st.integers(0, 50),
)


def _packets(number: int, conversation):
    steps, mss, ending, begin = conversation
    talk = TcpTalk(
        (f"10.0.0.{number + 1}", 49152 + number), time_ns=START_NS + begin * 100_000_000, isn=(7, 2**32 - 50)
    )
    talk.open()
    for kind, *values in steps:
        if kind in ("exchange", "request"):
            talk.opener(request(*values[:3]), mss=mss)
        if kind == "exchange":
            talk.wait(0.004)
            talk.acceptor(reply(values[1], values[3]), mss=mss)
        elif kind == "reply":
            talk.acceptor(reply(*values), mss=mss)
        elif kind == "stray":
            (talk.opener if values[1] else talk.acceptor)(values[0])
        elif kind == "wait":
            talk.wait(values[0])
        elif kind == "lose":
            talk.lose(int(values[0]), b"x" * 40)
    if ending != "open":
        (talk.close if ending == "close" else talk.reset)()
    return talk.packets


def _batches(drawn):
    conversations, size = drawn
    packets = [p for number, c in enumerate(conversations) for p in _packets(number, c)]
    packets.sort(key=lambda packet: packet.time_ns)
    return [PacketBatch.of(packets[at : at + size]) for at in range(0, len(packets), size)]


captures = st.tuples(st.lists(_CONVERSATION, min_size=1, max_size=4), st.sampled_from((5, 40, 1000))).map(_batches)
"""Captures of one to four connections, as batches."""


# What a test says itself, and what a decoder makes of it.

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rPID|1||X1\rOBX|1|NM|GLU||5\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"
RECORDS = (b"H|\\^&|||SIM\r", b"P|1\r", b"O|1|S1\r", b"R|1|^^^GLU|5.4\r", b"L|1|N\r")


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def frame(number: int, text: bytes, end: bytes = b"\x03") -> bytes:
    body = b"%d" % number + text + end
    return b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF)


def oru(control_id: bytes, *, accept: bytes = b"", application: bytes = b"") -> bytes:
    return (
        b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|" + control_id + b"|P|2.5|||" + accept + b"|" + application
        + b"\rOBX|1|NM|GLU||5\r"
    )  # fmt: skip


def ack(reply_to: bytes, code: bytes = b"AA") -> bytes:
    return b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK|A" + reply_to + b"|P|2.5\rMSA|" + code + b"|" + reply_to + b"\r"


def decode(*talks: TcpTalk, options: DecoderOptions | None = None, ending: Ending = Ending.CAPTURE_END):
    packets = sorted((p for talk in talks for p in talk.packets), key=lambda p: p.time_ns)
    decoder = Decoder(options)
    return [*decoder.feed(PacketBatch.of(packets)), *decoder.end(ending)]


def rebuilt(sessions, direction: Direction) -> bytes:
    return b"".join(
        session.raw_of(element)
        for session in sessions
        for element in session.elements
        if element.direction is direction
    )


def lis01(talk: TcpTalk, *, nak: int = 0) -> None:
    talk.opener(b"\x05")
    talk.acceptor(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        if number == nak:
            talk.opener(frame(number, record)[:-4] + b"00\r\n")
            talk.acceptor(b"\x15")
        talk.opener(frame(number, record))
        talk.acceptor(b"\x06")
    talk.opener(b"\x04")


def plain(talk: TcpTalk, start: bytes = b"\x05", ack_: bytes = b"\x06", end: bytes = b"\x04") -> None:
    talk.opener(start)
    talk.acceptor(ack_)
    talk.opener(b"\x02" + ORU[:-1] + b"\r\n")
    talk.acceptor(ack_)
    talk.opener(end)
