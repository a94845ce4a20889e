"""A message taken apart: lines, fields, repetitions, components, subcomponents, each with its place in the bytes.

The law: it never raises over what it reads and it loses nothing: joined, the parts, the separators between them and
what stands around the lines ARE the message's bytes.  Each level is cut when it is asked for, so that a message of many
megabytes costs what is looked at, and never more than its size.

A line is an HL7 segment or a LIS02 record; lines end with CR, and LF and CRLF are taken for it.  The separators are
those that the last header (MSH, FHS, BHS; H) declared; a message without one is read by the usual ones.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from enum import IntEnum, StrEnum
from itertools import chain
from typing import Final

from hl7core.hl7.separators import (
    HL7_HEADERS,
    USUAL_HL7,
    USUAL_LIS02,
    Separators,
    hl7_separators,
    lis02_separators,
    unescaped,
)
from hl7core.model.session import Message
from hl7core.model.text import decode

__all__ = ["Form", "Level", "MessageLine", "MessagePart", "MessageTree"]

_LINE: Final = re.compile(r"([\r\n \t\0\ufeff]*)([^\r\n]*)([\r\n]*)")
_SEGMENT: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
# Codecs that give the bytes of a text piece by piece as they give them for the whole.
_EXACT: Final = re.compile(
    r"ascii|latin-1|utf-(?:8|16|32)|cp\d+|iso8859-\d+|koi8-\w|gb18030|gbk|gb2312|big5(?:hkscs)?|euc_(?:jp|kr)|"
    r"shift_jis|iso2022_jp(?:_\d)?"
)


class Form(StrEnum):
    """What a line is: a segment of HL7 v2, a record of LIS02 (ASTM), or neither."""

    HL7 = "hl7"
    LIS02 = "lis02"
    NEITHER = ""


class Level(IntEnum):
    """How deep a part lies in its line."""

    FIELD = 0
    REPETITION = 1
    COMPONENT = 2
    SUBCOMPONENT = 3


class MessagePart:
    """A field, or a part of one.

    ``number`` counts from 1 as the standards do (``MSH-1`` is the separator itself, ``P-1`` the letter of the record).
    ``text`` is as it stands, escapes and separators included; ``start`` and ``end`` are its byte offsets in the
    message, the end excluded.
    """

    __slots__ = ("_ruler", "_separators", "_state", "end", "level", "number", "start", "text")

    def __init__(self, level: Level, number: int, laid: _Laid, separators: Separators, ruler: _Ruler) -> None:
        self.level = level
        self.number = number
        self.text, self.start, self.end, self._state = laid
        self._separators = separators
        self._ruler = ruler

    @property
    def value(self) -> str:
        """Its text, the escapes of separators undone."""
        return unescaped(self.text, self._separators)

    @property
    def divided(self) -> bool:
        """Whether a separator of a deeper level stands in it."""
        return any(mark and mark in self.text for mark in self._separators[self.level + 1 : 4])

    def parts(self) -> Iterator[MessagePart]:
        """Yield its parts one level down, at least one; a subcomponent has none."""
        if self.level is Level.SUBCOMPONENT:
            return
        separator = self._separators[self.level + 1]
        pieces = self.text.split(separator) if separator else [self.text]
        level = Level(self.level + 1)
        for number, laid in enumerate(self._ruler.lay(pieces, separator, self.start, self._state), 1):
            yield MessagePart(level, number, laid, self._separators, self._ruler)


class MessageLine:
    """An HL7 segment, a LIS02 record, or a line that is neither (it has text, no name and no fields).

    ``text`` is the line without its end; ``start`` and ``end`` are byte offsets in the message and take in what stands
    before the text (blanks, a byte order mark) and the line's end, so that lines follow each other without a gap.
    """

    __slots__ = ("_ruler", "_separators", "_state", "_text_start", "end", "form", "name", "start", "text")

    def __init__(
        self, form: Form, name: str, start: int, laid: _Laid, end: int, separators: Separators, ruler: _Ruler
    ) -> None:
        self.form = form
        self.name = name
        self.start = start
        self.text, self._text_start, _, self._state = laid
        self.end = end
        self._separators = separators
        self._ruler = ruler

    def fields(self) -> Iterator[MessagePart]:
        """Yield its fields, empty ones too."""
        if self.form is Form.NEITHER:
            return
        mark, ruler = self._separators.field, self._ruler
        pieces = self.text.split(mark)
        start, state = self._text_start, self._state
        first, undivided = (1, 1) if self.form is Form.LIS02 else (0, 0)  # the number of the first piece; what is whole
        if self.name in HL7_HEADERS and len(pieces) > 1:  # the separator behind the name is a field
            rest = self.text[len(self.name) + 1 :]
            _, own, behind = ruler.lay((self.name, mark, rest), "", start, state)
            yield MessagePart(Level.FIELD, 1, own, _UNDIVIDED, ruler)
            _, start, _, state = behind
            del pieces[0]
            first, undivided = 2, 2
        elif self.name == "H":
            undivided = 2
        for number, laid in enumerate(ruler.lay(pieces, mark, start, state), first):
            if number:  # a segment's name is none of its fields
                within = self._separators if number > undivided else _UNDIVIDED
                yield MessagePart(Level.FIELD, number, laid, within, ruler)


class MessageTree:
    """A message as its lines.  Iterating reads it from the start, again and again if wanted.

    ``text`` is its bytes as text and ``codec`` the Python codec that gives exactly these bytes back.
    """

    def __init__(self, data: bytes, charset: str = "") -> None:
        """Take a message's exact bytes and the character set that it declares (MSH-18), if any."""
        text, codec = decode(data, charset)
        if not text or _EXACT.fullmatch(codec) is None:
            text, codec = decode(data)
        self.text = text
        self.codec = codec
        self._size = len(data)
        self._ruler = _Ruler("" if len(text) == len(data) else codec)

    @classmethod
    def of(cls, message: Message) -> MessageTree:
        """Return the tree of a session's message."""
        return cls(message.text, message.charset)

    def __iter__(self) -> Iterator[MessageLine]:
        hl7: Separators | None = USUAL_HL7
        lis02: Separators | None = USUAL_LIS02
        ruler = self._ruler
        groups = (match.groups() for match in _LINE.finditer(self.text) if match.end() > match.start())
        laid = ruler.lay(chain.from_iterable(groups), "", 0, _FRESH)
        seen = 0
        for before, line, after in zip(laid, laid, laid, strict=True):
            text = line[0]
            seen += len(before[0]) + len(text) + len(after[0])
            end = after[2] if seen < len(self.text) else self._size
            form, name, separators = Form.NEITHER, "", _UNDIVIDED
            if hl7 is not None:
                declared = hl7_separators(text)
                if declared is not None:
                    hl7, lis02 = declared, None
                if text[3:4] in ("", hl7.field) and _SEGMENT.match(text):
                    form, name, separators = Form.HL7, text[:3], hl7
            if lis02 is not None and form is Form.NEITHER:
                declared = lis02_separators(text)
                if declared is not None:
                    hl7, lis02 = None, declared
                if text[1:2] in ("", lis02.field) and text[:1].isascii() and text[:1].isalpha():
                    form, name, separators = Form.LIS02, text[:1], lis02
            yield MessageLine(form, name, before[1], line, end, separators, ruler)


_Laid = tuple[str, int, int, int]
"""A piece of text, the byte offsets of its start and end, and the state of the encoder at its start."""
_FRESH: Final = -1
"""The state of an encoder that has encoded nothing yet."""
_UNDIVIDED: Final = Separators("", "", "", "", "")


class _Ruler:
    """Lays pieces of text along the bytes they came from."""

    def __init__(self, codec: str) -> None:
        self._codec = codec  # "" where each character is one byte

    def lay(self, pieces: Iterable[str], separator: str, at: int, state: int) -> Iterator[_Laid]:
        """Yield each piece with its place; the first begins ``at``, where the encoder is in ``state``."""
        if not self._codec:
            for piece in pieces:
                end = at + len(piece)
                yield piece, at, end, 0
                at = end + len(separator)
            return
        encoder = codecs.getincrementalencoder(self._codec)()
        if state != _FRESH:
            encoder.setstate(state)
        for piece in pieces:
            before = encoder.getstate()
            end = at + len(encoder.encode(piece))
            yield piece, at, end, int(before)
            at = end + len(encoder.encode(separator))
