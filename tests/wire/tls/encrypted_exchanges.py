"""An HL7 exchange over TLS, and decoders that read it with or without its keys."""

from hl7core.model.packet import PacketBatch
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.tls.keylog import KeyLog
from tls_peers import TlsTalk

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rOBX|1|NM|GLU||5\r"

ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def exchange(tls: TlsTalk) -> None:
    tls.open()
    tls.opener(block(ORU))
    tls.acceptor(block(ACK))
    tls.close()


def decode(talk: TcpTalk, keys: KeyLog | None = None, **options):
    decoder = Decoder(DecoderOptions(**options), keys=keys)
    return decoder, [*decoder.feed(PacketBatch.of(talk.packets)), *decoder.end()]


def read(tls: TlsTalk, **options):
    return decode(tls.talk, KeyLog(tls.keys.read_bytes()), **options)[1]
