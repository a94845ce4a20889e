"""The built-in dialects keep the contract that dialects of plugins must keep."""

from __future__ import annotations

from hl7core.testing.framer_contract import FramerContract
from wire.first_bytes import ACK, DIALECTS, FRAME, LIS01_SESSION, ORU


class TestLis01(FramerContract):
    def make_dialect(self):
        return DIALECTS[1]

    def pieces(self):
        return [b"\x05", FRAME, FRAME[:5], b"\x06", b"\x04"]

    def conversation(self):
        return LIS01_SESSION


class TestMllp(FramerContract):
    def make_dialect(self):
        return DIALECTS[0]

    def pieces(self):
        return [ORU, ACK, ORU[:30], b"\x1c", b"\r"]

    def conversation(self):
        return ORU, ACK


class TestPlain(FramerContract):
    def make_dialect(self):
        return DIALECTS[2]

    def pieces(self):
        return [b"\x05", b"\x02" + ORU[1:-2] + b"\r\n", b"\x02MSH|", b"\x06", b"\x04"]

    def conversation(self):
        return b"\x05\x02" + ORU[1:-2] + b"\r\n\x04", b"\x06\x06"
