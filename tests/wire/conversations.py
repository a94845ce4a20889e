"""Conversations of every sort, usual ones mostly, for tests that hold two ways of decoding against each other."""

from hypothesis import strategies as st

from hl7core.model.packet import PacketBatch
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
