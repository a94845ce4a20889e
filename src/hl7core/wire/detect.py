"""Detection: the first bytes of a connection tell its framing.

A single byte proves little.  05 is an ENQ only if it stands alone, or a frame or EOT follows, or the peer answers as a
LIS01 peer would; 02 begins a LIS01 frame only if a frame number and a record follow, or a checksum that is right.  So
the verdict may be to wait for more bytes.  Most traffic in a capture is something else: it is ignored early, and noise
never becomes a session.  Encrypted connections are recognized first, before any framing is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hl7core.wire.connection import DecoderOptions
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.framing.lis01 import Lis01Framer, checksum
from hl7core.wire.framing.mllp import MllpFramer
from hl7core.wire.framing.plain import PlainFramer
from hl7core.wire.tls.records import tls_score

__all__ = ["HELD_BYTES", "TLS", "UNKNOWN", "WAIT", "Verdict", "builtin", "choose", "encrypted", "unknown_pins"]

HELD_BYTES: Final = 4096
"""The most bytes of a direction that are examined before the connection is ignored."""

_VT: Final = 0x0B
_EOT: Final = 0x04
_ENQ: Final = 0x05
_ACK: Final = 0x06
_NAK: Final = 0x15

# Every TLS record begins with one of these bytes, which most text lacks.
_TLS_RECORD_TYPE: Final = re.compile(rb"[\x14-\x17]")
# A block that begins with a header segment, possibly after a byte order mark or blank lines.
_MLLP_BLOCK: Final = re.compile(rb"\x0b(?:\xef\xbb\xbf)?[\r\n]*(?:MSH|FHS|BHS)[!-/:-@\[-`{-~]")
_MLLP_COMMIT: Final = re.compile(rb"\x0b[\x06\x15]\x1c\r(?=\Z|[\x0b\r\nMFB])")
_BARE_HEADER: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*(?:MSH|FHS|BHS)[!-/:-@\[-`{-~]{3}")
_LIS01_FRAME: Final = re.compile(
    rb"\x02[0-7]H[!-/:-@\[-`{-~]{3}"
    rb"|\x02H[!-/:-@\[-`{-~]{4}[ -~\r]{3}"  # a header record in a frame without a number
    rb"|\x02[0-7](?:MSH|FHS|BHS)[!-/:-@\[-`{-~]"
    rb"|\x02[0-7][A-Z][!-/:-@\[-`{-~](?:[ -~]{8}|[ -~\r\x80-\xff]*[\x03\x17][0-9A-Fa-f]{2})"
    rb"|\x02[0-7][^\x00-\x08\x0e-\x1f]*[\x03\x17][0-9A-Fa-f]{2}\r\n"
)
# A frame after an ENQ that the peer answered: less proof is needed.
_ANSWERED_FRAME: Final = re.compile(rb"\x02[0-7][^\x02\x03\x17]*[\x03\x17][0-9A-Fa-f]{2}")
# After an ENQ: a header record without any frame.
_LIS01_RECORD: Final = re.compile(rb"[\x04\x06\x15]*\x05[\x04-\x06\x15]*H[!-/:-@\[-`{-~]{4}[ -~\r]{3}")
# The first bytes of a capture that begins within a message: HL7 segments, or the end of a frame and more frames.
_HL7_SEGMENT: Final = re.compile(rb"[\r\n][A-Z][A-Z0-9]{2}[!-/:-@\[-`{-~]|\x1c\r")
_FRAME_END: Final = re.compile(rb"[\x03\x17][0-9A-Fa-f]{2}\r\n")
_WHOLE_FRAME: Final = re.compile(rb"\x02([0-7][^\x02\x03\x17]*[\x03\x17])([0-9A-Fa-f]{2})\r\n")
_FRAME_BEGINS: Final = re.compile(rb"\x02[0-7][A-Z][ -~\r]*")
# Any text may be a log line before the first block, except that of protocols that name themselves.
_TEXT: Final = re.compile(rb"(?![A-Z]+ \S+ HTTP/|HTTP/[0-9]|SSH-[0-9])[ -~\t\n\x0b-\r]*")
_PLAIN_MESSAGE: Final = re.compile(rb"\x02(?:MSH|FHS|BHS)[^A-Za-z0-9\r\n]")
_CUT_HEADER: Final = re.compile(rb"\x02(?:MS?|FH?|BH?)?\0")  # a header cut by a gap

_PLAIN_OPENINGS: Final = (b"\x02MSH", b"\x02FHS", b"\x02BHS")

_NO: Final = 0
_MAYBE: Final = 1
_LIKELY: Final = 2
_CERTAIN: Final = 3


class _Wait:
    """The verdict that more bytes are needed."""


class _Unknown:
    """The verdict that the connection speaks none of the dialects."""


class _Tls:
    """The verdict that the connection is encrypted."""


WAIT: Final = _Wait()
UNKNOWN: Final = _Unknown()
TLS: Final = _Tls()

Verdict = Dialect | _Wait | _Unknown | _Tls
"""What a connection speaks: a dialect, or ``WAIT``, ``UNKNOWN`` or ``TLS``."""


def builtin(options: DecoderOptions) -> tuple[Dialect, ...]:
    """Return the built-in dialects; ``options`` holds the marker bytes of the plain variant."""
    start, ack, end = options.start_marker, options.ack_marker, options.end_marker
    controls = bytes((start, ack, end, _NAK))
    later = re.compile(b"[\n" + re.escape(controls) + rb"]\x02(?:MSH|FHS|BHS)[^A-Za-z0-9\r\n]")
    # Text, its line end and a control byte: in LIS01, ETX and a checksum would stand before the line end.
    ended = re.compile(rb"[ -~\r\n\x80-\xff]{4}\r\n[\x02" + re.escape(bytes((start, end))) + b"]")

    def plain_score(first: bytes, second: bytes) -> int:
        for data, answer in ((first, second), (second, first)):
            body = data.lstrip(controls)
            if answer and not answer.strip(controls) and _BARE_HEADER.match(data):
                return _LIKELY  # the STX was not captured; a single byte does not answer an MLLP block
            if _PLAIN_MESSAGE.match(body) and (len(body) < len(data) or not _LIS01_FRAME.match(body)):
                return _CERTAIN
            if later.search(data):
                return _CERTAIN
            if data[:1] == bytes((start,)) and answer and not answer.strip(controls) and ended.search(body):
                return _LIKELY  # the header was not captured
            if body and any(opening.startswith(body) for opening in _PLAIN_OPENINGS):
                return _MAYBE
        return _session_opens(first, second, controls)

    def make_plain(max_message: int, offset: int) -> PlainFramer:
        return PlainFramer(start, ack, end, max_message=max_message, offset=offset)

    return (
        Dialect("mllp", _mllp_score, MllpFramer, turns=False),
        Dialect("lis01", _lis01_score, Lis01Framer, turns=True),
        Dialect("plain", plain_score, make_plain, turns=True),
    )


def unknown_pins(options: DecoderOptions, dialects: Sequence[Dialect]) -> list[str]:
    """Return one sentence for each protocol in ``options.protocols`` that no dialect speaks, built-in or registered."""
    known = sorted({dialect.name for dialect in (*builtin(options), *dialects)})
    unknown = dict.fromkeys(pin.protocol for pin in options.protocols if pin.protocol not in known)
    return [
        f"core.protocols: unknown protocol {name}; known protocols are {', '.join(known)}"
        " (a plugin's while the plugin is enabled); until then the protocol is auto-detected there"
        for name in unknown
    ]


def encrypted(first: bytes, second: bytes, *, final: bool) -> Verdict | None:
    """Return ``TLS`` if the first bytes of either direction are TLS, ``WAIT`` if they may be, else None."""
    if not _TLS_RECORD_TYPE.search(first) and not _TLS_RECORD_TYPE.search(second):
        return None
    scores = (tls_score(first), tls_score(second))
    if _CERTAIN in scores:
        return TLS
    return WAIT if _MAYBE in scores and not final else None


def choose(
    dialects: Sequence[Dialect], first: bytes, second: bytes, *, final: bool, openers: bytes = b"\x05"
) -> Verdict:
    """Return the dialect that the first bytes of both directions speak, or ``TLS``, ``WAIT`` or ``UNKNOWN``.

    A NUL stands for a gap in the bytes.  ``final`` says that the decision cannot wait for more bytes, so that a dialect
    that is merely possible may be chosen.  ``openers`` are the bytes that open a LIS01 or plain session; one that
    stands alone is enough for that.
    """
    if not first and not second and not final:
        return WAIT  # nothing but a gap so far
    first, second = first[:HELD_BYTES], second[:HELD_BYTES]
    hidden = encrypted(first, second, final=final)
    if hidden is TLS:
        return TLS
    scores = [dialect.score(first, second) for dialect in dialects]
    best = max(scores)
    if best >= _LIKELY:
        return dialects[scores.index(best)]
    if not final and (hidden is WAIT or (best and max(len(first), len(second)) < HELD_BYTES)):
        return WAIT
    bare = any(
        _BARE_HEADER.match(data) and (not other or other.strip(b"\x04\x05\x06\x15"))
        for data, other in ((first, second), (second, first))
    )
    if bare and final and any(dialect.name == "mllp" for dialect in dialects):  # without its VT and its FS
        return next(dialect for dialect in dialects if dialect.name == "mllp")
    if best and final and _stands_alone(first, second, openers):
        turns = [dialect for dialect, score in zip(dialects, scores, strict=True) if score and dialect.turns]
        if turns:
            plain = _cut_message(first) or _cut_message(second)
            return next((dialect for dialect in turns if plain and dialect.name == "plain"), turns[0])
    return UNKNOWN


def _stands_alone(first: bytes, second: bytes, openers: bytes) -> bool:
    """Return whether an ENQ opened a session and only an answer, the start of a frame, or silence followed."""
    controls = bytes({*openers, _ENQ, _ACK, _EOT, _NAK, 0x0A, 0x0D})
    for data, answer in ((first, second), (second, first)):
        if data and data[0] in openers and not answer.strip(controls):
            rest = data.lstrip(controls)
            if not rest or answer or _FRAME_BEGINS.fullmatch(rest):
                return True
    return False


def _cut_message(data: bytes) -> bool:
    """Return whether a gap cut a header and no ETX or ETB follows, as one would at the end of a LIS01 frame."""
    cut = _CUT_HEADER.search(data)
    return cut is not None and data.find(b"\x03", cut.end()) < 0 and data.find(b"\x17", cut.end()) < 0


def _mllp_score(first: bytes, second: bytes) -> int:
    maybe = _NO
    for data, other in ((first, second), (second, first)):
        if not data:
            continue
        if _MLLP_BLOCK.search(data) or _MLLP_COMMIT.match(data):
            return _CERTAIN
        # A header without its VT or its STX: the end of the message tells which, or the answer.
        if _BARE_HEADER.match(data) and (b"\x1c" in data or other.strip(b"\x04\x05\x06\x15")):
            return _CERTAIN
        # Few bytes may become a header.
        is_text = _TEXT.fullmatch(data[:64])
        line_ends = b"\r" in data[-4:] or b"\n" in data[-4:]
        if data[0] == _VT or len(data) < 16 or is_text or line_ends:
            maybe = _MAYBE
        if _HL7_SEGMENT.search(data) or _BARE_HEADER.match(data):
            maybe = _MAYBE
    return maybe


def _lis01_score(first: bytes, second: bytes) -> int:
    controls = bytes((_ENQ, _ACK, _EOT, _NAK, 0x0A, 0x0D))
    for data, answer in ((first, second), (second, first)):
        body = data.lstrip(controls)
        if _LIS01_FRAME.match(body) or _LIS01_RECORD.match(data):
            return _CERTAIN
        if data[:1] == b"\x05" and answer and not answer.strip(controls) and _ANSWERED_FRAME.match(body):
            return _CERTAIN
        if any(checksum(frame[1]) == int(frame[2], 16) for frame in _WHOLE_FRAME.finditer(body)):
            return _CERTAIN
        if body[:1] == b"\x02" and (len(body) == 1 or 0x30 <= body[1] <= 0x37 or body[1] in b"HMFB"):
            return _MAYBE
    # ENQ, its answer and EOT without a frame: an empty session, which some devices send as a keep-alive.
    for data, answer in ((first, second), (second, first)):
        if (
            data[:1] == b"\x05"
            and _EOT in data
            and not data.strip(b"\x04\x05\x06\x15")
            and not answer.strip(b"\x04\x05\x06\x15")
        ):
            return _LIKELY
    if _FRAME_END.search(first) or _FRAME_END.search(second):
        return _MAYBE
    return _session_opens(first, second, controls)


def _session_opens(first: bytes, second: bytes, controls: bytes) -> int:
    """Return ``_MAYBE`` if a session may be opening (only control bytes so far, or a side sent ENQ), else ``_NO``."""
    for data, answer in ((first, second), (second, first)):
        if data and not answer.strip(controls) and (not data.strip(controls) or data[0] == _ENQ):
            return _MAYBE
    return _NO
