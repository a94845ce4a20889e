"""A message's bytes to text and back, without loss."""

from __future__ import annotations

import codecs
from functools import cache

__all__ = ["codec_of", "decode"]

# MSH-18, HL7 table 0211 (https://build.fhir.org/ig/HL7/UTG/CodeSystem-v2-0211.html).
_CODECS = {
    "ASCII": "ascii",
    "8859/1": "latin-1",
    **{f"8859/{part}": f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "ISO IR6": "ascii",
    "ISO IR14": "iso2022_jp",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "CNS 11643-1992": "big5hkscs",
    "BIG-5": "big5",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UNICODE UTF-16": "utf-16",
    "UNICODE UTF-32": "utf-32",
}
# Codecs of Python that are not character sets; some of them take time that grows with the square of the length.
_NO_CHARSETS = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}


@cache
def codec_of(charset: str) -> str:
    """Return the Python codec for a value of MSH-18, or "" if it names no known character set."""
    name = charset.strip().upper()
    if name in _CODECS:
        return _CODECS[name]
    try:
        codec = codecs.lookup(name).name if name and name.isascii() and name.isprintable() else ""
    except LookupError:
        return ""
    return "" if codec in _NO_CHARSETS else codec


def decode(data: bytes, charset: str = "") -> tuple[str, str]:
    """Return ``data`` as text and the codec whose ``encode`` gives exactly ``data`` back.

    Tried in turn: the declared ``charset`` (a value of MSH-18), utf-8, cp1252, and latin-1, which fits any bytes.  The
    text is always valid Unicode: UTF-7 can encode half a surrogate pair, and is then not used.
    """
    declared = codec_of(charset) if charset else ""
    for codec in (declared, "utf-8", "cp1252"):
        if codec:
            try:
                text = data.decode(codec)
                if codec == "utf-8":  # strict utf-8 always gives its bytes back
                    return text, codec
                text.encode()  # raises if UTF-7 gave half a surrogate pair
                if text.encode(codec) == data:
                    return text, codec
            except (UnicodeError, LookupError):  # LookupError: a codec of Python's that is not for text
                continue
    return data.decode("latin-1"), "latin-1"
