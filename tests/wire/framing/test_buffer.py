"""What the built-in framers have in common: limits on a message, and time that grows with the bytes alone."""

from __future__ import annotations

import pytest

from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.framing.lis01 import Lis01Framer
from hl7core.wire.framing.mllp import MllpFramer
from hl7core.wire.framing.plain import PlainFramer
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.linear_time import PATTERNS, SIZE, assert_linear
from wire.mllp_blocks import ORU, block, faults

FRAMERS = {"mllp": MllpFramer, "lis01": Lis01Framer, "plain": PlainFramer}


@pytest.mark.parametrize("cut", [100_000, 7])
@pytest.mark.parametrize("name", FRAMERS)
def test_framing_takes_time_that_grows_with_the_bytes(name, cut):
    for pattern in PATTERNS.values():
        for front in (b"", b"\x0bMSH|^~\\&|", b"\x021H|\\^&"):

            def work(size: int, front: bytes = front, pattern: bytes = pattern) -> None:
                framer = FRAMERS[name](max_message=1 << 20)
                data = front + pattern * (size // len(pattern))
                for at in range(0, len(data), cut):
                    framer.feed(data[at : at + cut])
                framer.settle()
                framer.close()

            assert_linear(work, SIZE)


@pytest.mark.parametrize("protocol", ["mllp", "lis01", "plain"])
def test_a_message_over_max_message_is_cut_with_a_fault_at_its_byte_and_the_rest_is_counted(protocol):
    talk = TcpTalk()
    talk.open()
    big = ORU + b"x" * 50_000
    if protocol == "mllp":
        talk.opener(block(big))
    else:
        talk.opener(b"\x05")
        talk.acceptor(b"\x06")
        talk.opener(b"\x021H|\\^&|||" + big + b"\r\x0300\r\n" if protocol == "lis01" else b"\x02" + big + b"\r\n")
        talk.acceptor(b"\x06")
        talk.opener(b"\x04")
    decoder = Decoder(DecoderOptions(max_message=10_000))
    sessions = [*decoder.feed(talk.batch()), *decoder.end()]
    assert "too-long" in faults(sessions)
    said = sum(len(s.raw_of(e)) + e.missing for s in sessions for e in s.elements if s.protocol == protocol)
    assert said == sum(talk.seq) - 1000 - 5000 - 2  # every byte of both sides is kept, or counted as missing
    assert not any(m.complete for s in sessions for m in s.messages if m.text.startswith((b"MSH", b"H|")))
