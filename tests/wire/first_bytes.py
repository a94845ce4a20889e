"""Short conversations, and the sessions that a decoder finds in them."""

from __future__ import annotations

from hl7core.wire.connection import DecoderOptions
from hl7core.wire.decoder import Decoder
from hl7core.wire.detect import builtin
from hl7core.wire.pcap.synthetic_tcp import TcpTalk

OPTIONS = DecoderOptions()
DIALECTS = builtin(OPTIONS)
ORU = b"\x0bMSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rOBX|1|NM|GLU||5\r\x1c\r"
ACK = b"\x0bMSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK|A1|P|2.5\rMSA|AA|M1\r\x1c\r"
FRAME = b"\x021H|\\^&|||AN\r\x036D\r\n"
LIS01_SESSION = (b"\x05" + FRAME + b"\x04", b"\x06\x06")


def sessions(said: list[tuple[int, bytes]], options: DecoderOptions = OPTIONS, dialects=(), mss: int = 1460):
    talk = TcpTalk(acceptor=("10.0.0.9", 4000))
    talk.open()
    for side, data in said:
        (talk.opener if side == 0 else talk.acceptor)(data, mss=mss)
    talk.close()
    decoder = Decoder(options, dialects)
    return [*decoder.feed(talk.batch()), *decoder.end()], decoder
