"""A message taken apart: lines, fields, repetitions, components and subcomponents, each with its byte offsets.

Reading never raises and loses nothing: joined, the parts, the separators between them and the blanks around the lines
are the message's bytes.  Each level is split only when asked for, so that reading part of a large message takes time in
proportion to that part.

A line is an HL7 segment or a LIS02 record and ends with CR; LF and CRLF are accepted.  Its separators are those that
the last header declared (MSH, FHS, BHS; H), or the usual ones if there was none.
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
# Codecs that encode the pieces of a text to the same bytes as the whole.
_EXACT: Final = re.compile(
    r"ascii|latin-1|utf-(?:8|16|32)|cp\d+|iso8859-\d+|koi8-\w|gb18030|gbk|gb2312|big5(?:hkscs)?|euc_(?:jp|kr)|"
    r"shift_jis|iso2022_jp(?:_\d)?"
)


class Form(StrEnum):
    """The kind of a line: a segment of HL7 v2, a record of LIS02 (ASTM), or neither."""

    HL7 = "hl7"
    LIS02 = "lis02"
    NEITHER = ""


class Level(IntEnum):
    """The level of a part in its line, outermost first."""

    FIELD = 0
    REPETITION = 1
    COMPONENT = 2
    SUBCOMPONENT = 3


class MessagePart:
    """A field, or a part of one.

    ``number`` counts from 1 as the standards do: ``MSH-1`` is the field separator itself, ``P-1`` the record's letter.
    ``text`` is the raw text, with escapes and separators.  ``start`` and ``end`` are its byte offsets in the message
    (end exclusive).
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
        """Its text with escaped separators replaced; other escapes stay as they are."""
        return unescaped(self.text, self._separators)

    @property
    def divided(self) -> bool:
        """Whether it contains a separator of a deeper level."""
        return any(mark and mark in self.text for mark in self._separators[self.level + 1 : 4])

    def parts(self) -> Iterator[MessagePart]:
        """Yield its parts one level down: at least one, except that a subcomponent has none."""
        if self.level is Level.SUBCOMPONENT:
            return
        separator = self._separators[self.level + 1]
        pieces = self.text.split(separator) if separator else [self.text]
        level = Level(self.level + 1)
        for number, laid in enumerate(self._ruler.lay(pieces, separator, self.start, self._state), 1):
            yield MessagePart(level, number, laid, self._separators, self._ruler)


class MessageLine:
    """An HL7 segment, a LIS02 record, or a line that is neither (with text, but no name and no fields).

    ``text`` is the line without its line end.  ``start`` and ``end`` are byte offsets in the message (end exclusive).
    They include blanks or a byte order mark before the text and the line end, so that lines adjoin without gaps.
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
        """Yield all its fields, including empty ones."""
        if self.form is Form.NEITHER:
            return
        mark, ruler = self._separators.field, self._ruler
        pieces = self.text.split(mark)
        start, state = self._text_start, self._state
        first, undivided = (
            (1, 1) if self.form is Form.LIS02 else (0, 0)
        )  # number of the first piece; up to which field nothing is split
        if self.name in HL7_HEADERS and len(pieces) > 1:  # the separator after the name is a field
            rest = self.text[len(self.name) + 1 :]
            _, own, behind = ruler.lay((self.name, mark, rest), "", start, state)
            yield MessagePart(Level.FIELD, 1, own, _UNDIVIDED, ruler)
            _, start, _, state = behind
            del pieces[0]
            first, undivided = 2, 2
        elif self.name == "H":
            undivided = 2
        for number, laid in enumerate(ruler.lay(pieces, mark, start, state), first):
            if number:  # a segment's name is not a field
                within = self._separators if number > undivided else _UNDIVIDED
                yield MessagePart(Level.FIELD, number, laid, within, ruler)


class MessageTree:
    """A message as its lines; each iteration reads it from the start.

    ``text`` is the decoded message and ``codec`` the Python codec whose ``encode`` gives its exact bytes back.
    """

    def __init__(self, data: bytes, charset: str = "") -> None:
        """Take a message's exact bytes and the character set in its MSH-18, or ""."""
        text, codec = decode(data, charset)
        if not text or _EXACT.fullmatch(codec) is None:
            text, codec = decode(data)
        self.text = text
        self.codec = codec
        self._size = len(data)
        self._ruler = _Ruler("" if len(text) == len(data) else codec)

    @classmethod
    def of(cls, message: Message) -> MessageTree:
        """Return the tree of a message, read in the character set that it declares."""
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
"""A piece of text, the byte offsets of its start and end, and the encoder's state at its start."""
_FRESH: Final = -1
"""The state of a new encoder."""
_UNDIVIDED: Final = Separators("", "", "", "", "")


class _Ruler:
    """Finds the byte offsets of pieces of text."""

    def __init__(self, codec: str) -> None:
        self._codec = codec  # "" where each character is one byte

    def lay(self, pieces: Iterable[str], separator: str, at: int, state: int) -> Iterator[_Laid]:
        """Yield each piece with its offsets; the first begins at byte ``at``, with the encoder in ``state``."""
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
