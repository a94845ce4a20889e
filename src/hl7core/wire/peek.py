"""Peeking: the few fields of a message that pairing needs, straight from its bytes.

Peeking never raises and never guesses.  It reads only the header and the acknowledgement segment, so a message of 16
MiB costs as little as a short one.  Of a repeating field it returns the first repetition.  Fields are cut at 200 bytes
and decoded as latin-1, which accepts any bytes.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hl7core.model.frame import Fault

__all__ = ["NO_REPLY", "Glance", "batch_counts", "batch_ids", "glance", "split_batch"]


class Glance(NamedTuple):
    """What a message says about itself.  ``kind`` is ``hl7``, ``astm`` or ``other``.

    HL7: ``control_id`` is MSH-10, ``message_type`` MSH-9, ``charset`` MSH-18, ``accept_ack`` MSH-15,
    ``application_ack`` MSH-16, ``ack_code`` MSA-1, ``reply_to`` MSA-2 (None without an MSA segment).  ASTM:
    ``control_id`` is H-3, ``message_type`` the letters of its records.
    """

    kind: str
    control_id: str = ""
    message_type: str = ""
    charset: str = ""
    accept_ack: str = ""
    application_ack: str = ""
    ack_code: str = ""
    reply_to: str | None = None


_CR: Final = 0x0D
_FIELD: Final = 200
_HEADER: Final = 4096
_LETTERS: Final = 64
_NOTHING: Final = Glance("other")
_SEPARATORS: Final = frozenset(range(0x21, 0x30)) | frozenset(b":;<=>?@[\\]^_`{|}~")

NO_REPLY: Final = frozenset({b"PID", b"EVN", b"ORC", b"OBR", b"PV1", b"QRD", b"QPD", b"MFI", b"SCH", b"SPM", b"EQU"})
"""The second segments of messages that hold no MSA, so that the text need not be searched for one: a reply begins
MSH [{SFT}] [UAC] MSA (HL7 v2.5.1, 2.14)."""

# The lines that divide a batch, each with its separator (HL7 v2.5.1, 2.10.3); a trailer may have three letters only.
_DIVIDERS: Final = re.compile(
    rb"(?:MSH|FHS|BHS|BTS|FTS)(?:(?<![^\r\n]...)|(?<=\xef\xbb\xbf...))(?:[!-/:-@\[-`{-~]|(?<=TS)(?:[\r\n]|\Z))"
)
_BLANK: Final = re.compile(rb"\A[\r\n]*(?:\xef\xbb\xbf)?[\r\n]*")
_LINE: Final = re.compile(rb"[^\r\n]+")


def glance(text: bytes) -> Glance:
    """Return what the header of ``text`` says, be it HL7 v2 (MSH) or LIS02 (H); kind ``other`` if it is neither."""
    if text[:3] != b"MSH":
        text = _opening(text)
        if text[:1] == b"H":
            return _astm(text)
    if len(text) < 5 or text[3] not in _SEPARATORS or text[:3] != b"MSH":
        return _NOTHING
    end = text.find(_CR)
    header = text[: end if 0 < end < _HEADER else _HEADER].decode("latin-1")
    if "\n" in header:
        end = header.index("\n")
        header = header[:end]
    # MSH-1 is the separator itself, so MSH-n is at index n - 1.
    fields = header.split(header[3], 18)
    repeat = fields[1][1:2] or "~"
    if end < 0 or text[end + 1 : end + 4] in NO_REPLY:
        code, reply_to = "", None
    else:
        code, reply_to = _acknowledgement(text, end + 1, repeat)
    count = len(fields)
    if count > 9 and len(header) < _FIELD and header.find(repeat, 6) < 0:  # no field repeats or is too long
        charset = fields[17] if count > 17 else ""
        accept_ack = fields[14] if count > 14 else ""
        application_ack = fields[15] if count > 15 else ""
        return Glance("hl7", fields[9], fields[8], charset, accept_ack, application_ack, code, reply_to)
    fields = [_first(field, repeat) for field in fields] + [""] * (18 - count)
    return Glance("hl7", fields[9], fields[8], fields[17], fields[14], fields[15], code, reply_to)


def split_batch(text: bytes) -> list[tuple[int, int]]:
    """Return the start and end of each message in a batch; an empty list if ``text`` is not a batch.

    FHS, BHS, BTS and FTS lines lie outside the messages.  The headers are optional (HL7 v2.5.1, 2.10.3), so a text with
    several MSH segments is a batch too.
    """
    spans: list[tuple[int, int]] = []
    batch = False
    begin = -1
    for found in _DIVIDERS.finditer(text):
        if begin >= 0:
            spans.append((begin, found.start()))
        begin = found.start() if found[0].startswith(b"MSH") else -1
        batch = batch or begin < 0 or bool(spans)
    if begin >= 0:
        spans.append((begin, len(text)))
    return spans if batch else []


def batch_counts(text: bytes, offset: int = 0) -> list[Fault]:
    """Return a fault for each trailer whose count is wrong: BTS-1 counts messages, FTS-1 batches.

    A trailer without a count is never wrong.  ``offset`` is the stream offset of ``text``.
    """
    faults = []
    messages = batches = 0
    in_batch = False
    for found in _DIVIDERS.finditer(text):
        at = found.start()
        name = found[0][:3]
        if name == b"MSH":
            messages += 1
            batches += 0 if in_batch else 1  # BHS is optional
            in_batch = True
        elif name == b"BHS":
            messages = 0
            batches += 1
            in_batch = True
        elif name == b"FHS":
            messages = batches = 0
            in_batch = False
        else:
            if _stated(text, at) not in (None, messages if name == b"BTS" else batches):
                faults.append(Fault("batch-count", offset + at))
            messages = 0
            in_batch = False
    return faults


def batch_ids(text: bytes) -> tuple[str, ...]:
    """Return the control ids of the batches and files in ``text``, BHS-11 and FHS-11, where not empty."""
    ids = []
    for found in _DIVIDERS.finditer(text):
        if found[0][1:3] == b"HS":
            line = _LINE.match(text, found.start(), found.start() + _HEADER)
            fields = line[0].split(line[0][3:4], 11) if line else []
            if len(fields) > 10 and fields[10]:
                ids.append(fields[10][:_FIELD].decode("latin-1"))
    return tuple(ids)


def _opening(text: bytes) -> bytes:
    """Return ``text`` from its header on, without BOM and blank lines; of a batch, its first message."""
    text = _BLANK.sub(b"", text, count=1)
    if text[:3] in (b"FHS", b"BHS"):
        lines = _DIVIDERS.finditer(text)
        first = next((line.start() for line in lines if line[0].startswith(b"MSH")), len(text))
        return text[first : next((line.start() for line in lines), len(text))]
    return text


def _first(field: str, repeat: str) -> str:
    """Return the first repetition of a field."""
    return field.split(repeat, 1)[0][:_FIELD]


def _acknowledgement(text: bytes, at: int, repeat: str) -> tuple[str, str | None]:
    """Return MSA-1 and MSA-2 of the first MSA segment from ``at`` on; '' and None if there is none."""
    separator = text[3:4]
    ends = (separator, b"\r", b"\n", b"")
    while text[at : at + 3] != b"MSA" or text[at - 1] not in b"\r\n" or text[at + 3 : at + 4] not in ends:
        at = text.find(b"MSA", at + 1)
        if at < 0:
            return "", None
    end = text.find(_CR, at)
    line = text[at : end if 0 < end < at + _HEADER else at + _HEADER].decode("latin-1")
    if "\n" in line:
        line = line[: line.index("\n")]
    fields = line.split(separator.decode("latin-1"), 3)
    if len(fields) > 2 and len(line) <= _FIELD and repeat not in line:
        return fields[1], fields[2]
    fields = [_first(field, repeat) for field in fields] + ["", ""]
    return fields[1], fields[2]


def _astm(text: bytes) -> Glance:
    """Peek at LIS02 records; ``H`` and the delimiters come first (ASTM E1394, 6.2, as in vendors' manuals)."""
    if len(text) < 2 or text[1] not in _SEPARATORS:
        return _NOTHING
    letters = b""
    for found in _LINE.finditer(text):
        line = found[0][:1]
        if line.isalpha():
            letters += line
            if len(letters) == _LETTERS:
                break
    header = _LINE.match(text, 0, _HEADER)
    fields = header[0].split(text[1:2], 3) if header else []
    control_id = fields[2][:_FIELD].decode("latin-1") if len(fields) > 2 else ""
    return Glance("astm", control_id, letters.decode("ascii"))


def _stated(text: bytes, at: int) -> int | None:
    """Return the number in the first field of the trailer at ``at``: -1 if not a number, None if empty."""
    line = _LINE.match(text, at, at + _HEADER)
    fields = line[0].split(line[0][3:4], 2) if line and len(line[0]) > 4 else []
    stated = fields[1].strip() if len(fields) > 1 else b""
    if not stated:
        return None
    return int(stated) if stated.isdigit() and len(stated) < 10 else -1
