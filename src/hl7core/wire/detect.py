"""Detection: the first bytes of a connection tell its framing.

A byte alone proves little: 05 is an ENQ only where it stands alone or a frame or EOT follows; 02 begins a LIS01 frame
only with a frame number behind it.  So a verdict may be "wait".  What is no protocol of the lab is let go soon: most of
what a capture holds is other traffic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hl7core.wire.connection import DecoderOptions
from hl7core.wire.framing import Dialect
from hl7core.wire.lis01 import Lis01Framer
from hl7core.wire.mllp import MllpFramer
from hl7core.wire.stx import PlainFramer

__all__ = ["HELD_BYTES", "UNKNOWN", "WAIT", "builtin", "choose"]

HELD_BYTES: Final = 4096
"""So many bytes of a direction are looked at; then the connection is let go."""

_VT: Final = 0x0B
_STX: Final = 0x02
_EOT: Final = 0x04
_ENQ: Final = 0x05
_ACK: Final = 0x06
_NAK: Final = 0x15

# A block that begins with a header segment, perhaps behind a byte order mark or blank lines.
_MLLP_BLOCK: Final = re.compile(rb"\x0b(?:\xef\xbb\xbf)?[\r\n]*(?:MSH|FHS|BHS)[^A-Za-z0-9\r\n]")
_MLLP_COMMIT: Final = re.compile(rb"\x0b[\x06\x15]\x1c\r")
_BARE_HEADER: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*(?:MSH|FHS|BHS)[^A-Za-z0-9\r\n].{3}", re.DOTALL)
_LIS01_FRAME: Final = re.compile(
    rb"\x02[0-7](?:[HPOQRCMSL][^A-Za-z0-9]|MSH[^A-Za-z0-9]|[^\x02\x03\x17]*[\x03\x17][0-9A-Fa-f]{2})"
)
_PLAIN_MESSAGE: Final = re.compile(rb"\x02(?:MSH|FHS|BHS)[^A-Za-z0-9\r\n]")

_NO: Final = 0
_MAYBE: Final = 1
_LIKELY: Final = 2
_CERTAIN: Final = 3


class _Wait:
    """The verdict that more bytes are needed."""


class _Unknown:
    """The verdict that this is none of the protocols."""


WAIT: Final = _Wait()
UNKNOWN: Final = _Unknown()


def builtin(options: DecoderOptions) -> tuple[Dialect, ...]:
    """Return the framings that hl7core brings along, with the configured marker bytes of the plain variant."""
    start, ack, end = options.start_marker, options.ack_marker, options.end_marker
    controls = bytes((start, ack, end, _NAK))

    def plain_score(first: bytes, second: bytes) -> int:
        for data in (first, second):
            body = data.lstrip(controls)
            if _PLAIN_MESSAGE.match(body) and (len(body) < len(data) or not _LIS01_FRAME.match(body)):
                return _CERTAIN
        return _turn_opens(first, second, controls)

    def make_plain(max_message: int, offset: int) -> PlainFramer:
        return PlainFramer(start, ack, end, max_message=max_message, offset=offset)

    return (
        Dialect("mllp", _mllp_score, MllpFramer, turns=False),
        Dialect("lis01", _lis01_score, Lis01Framer, turns=True),
        Dialect("plain", plain_score, make_plain, turns=True),
    )


def choose(dialects: Sequence[Dialect], first: bytes, second: bytes, *, final: bool) -> Dialect | _Wait | _Unknown:
    """Return the dialect that the first bytes of both directions speak, or ``WAIT``, or ``UNKNOWN``.

    ``final``: no more bytes will come, so that what is merely possible is taken.
    """
    scores = [dialect.score(first[:HELD_BYTES], second[:HELD_BYTES]) for dialect in dialects]
    best = max(scores)
    if best >= _LIKELY:
        return dialects[scores.index(best)]
    if best and not final and max(len(first), len(second)) < HELD_BYTES:
        return WAIT
    if best and final and b"\x05" in (first[:1], second[:1]):  # an ENQ that stands alone
        for dialect, score in zip(dialects, scores, strict=True):
            if score and dialect.turns:
                return dialect
    return UNKNOWN


def _mllp_score(first: bytes, second: bytes) -> int:
    maybe = _NO
    for data in (first, second):
        if not data:
            continue
        if _MLLP_BLOCK.search(data) or _MLLP_COMMIT.match(data) or _BARE_HEADER.match(data):
            return _CERTAIN
        # Text of any kind may be a log line before the first block; a short start may grow into a header.
        if data[0] == _VT or len(data) < 16 or (data[:64].isascii() and data[:64].decode("ascii").isprintable()):
            maybe = _MAYBE
    return maybe


def _lis01_score(first: bytes, second: bytes) -> int:
    controls = bytes((_ENQ, _ACK, _EOT, _NAK, 0x0A, 0x0D))
    for data in (first, second):
        body = data.lstrip(controls)
        if _LIS01_FRAME.match(body):
            return _CERTAIN
        if body:
            if body[0] == _STX and len(body) < 4:
                return _MAYBE
            if body[0] == _STX and len(body) >= 2 and 0x30 <= body[1] <= 0x37 and len(body) < HELD_BYTES:
                return _MAYBE
    # ENQ, its answer and EOT, and no frame: an empty session, which some devices send to keep the line alive.
    for data, answer in ((first, second), (second, first)):
        if (
            data[:1] == b"\x05"
            and _EOT in data
            and not data.strip(b"\x04\x05\x06\x15")
            and not answer.strip(b"\x04\x05\x06\x15")
        ):
            return _LIKELY
    return _turn_opens(first, second, controls)


def _turn_opens(first: bytes, second: bytes, controls: bytes) -> int:
    """Say whether control bytes alone have been seen so far, and so a turn may be opening."""
    return _MAYBE if (first or second) and not first.strip(controls) and not second.strip(controls) else _NO
