"""Names of the parts of a message: from hl7apy for HL7 v2, from our own table for LIS02 records.

Names are optional.  If hl7apy is missing, does not know the version, raises or takes too long, the message is still
shown in full, without those names, and ``note`` says why.  Only hl7apy's tables are read; its parser is never called,
since it drops unknown parts and takes seconds for a long message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

from hl7core.hl7.records import RECORD_COMPONENTS, RECORD_FIELDS, RECORDS, SEGMENTS
from hl7core.hl7.tree import Form, MessageLine, MessageTree

__all__ = ["LARGEST", "MessageNames"]

LARGEST: Final = 256 * 1024
"""Longer HL7 messages (in characters) get no names from hl7apy."""
_SECONDS: Final = 2.0

_VERSION: Final = re.compile(r"\d{1,2}(?:\.\d{1,2}){1,3}")
# Words of hl7apy's names (``DATE_TIME_OF_MESSAGE``) that keep their capitals.
_WORDS: Final = {"IDS": "IDs"} | {
    word: word
    for word in ("ID", "DNA", "DRG", "HL7", "NDC", "OBX", "SSN", "UID", "VIP", "ZIP", "TQ1", "TQ2", "DEA", "DMV", "OID")
}
_PHRASES: Final = (("date time", "date/time"), (" s ", "'s "))


class MessageNames:
    """The names of the parts of one message.

    ``note`` tells a person in one line why names are missing, or which other version they come from; else it is "".
    """

    def __init__(
        self,
        version: str = "",
        size: int = 0,
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take MSH-12, the message's length in characters, and how many seconds hl7apy may take in total."""
        self.note = ""
        self._version = version.strip()
        self._size = size
        self._left = seconds
        self._clock = clock
        self._library: Any = None
        self._opened = False
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    @classmethod
    def of(cls, tree: MessageTree) -> MessageNames:
        """Return the names for ``tree``, in the HL7 version that its first MSH declares."""
        for line in tree:
            if line.form is Form.LIS02:
                break
            if line.name == "MSH":
                version = next((field for field in line.fields() if field.number == 12), None)
                first = next(version.parts()) if version is not None else None
                return cls(next(first.parts()).text if first is not None else "", len(tree.text))
        return cls("", len(tree.text))

    def line(self, line: MessageLine) -> str:
        """Return the name of a segment or record, or ""."""
        table = SEGMENTS if line.form is Form.HL7 else RECORDS if line.form is Form.LIS02 else {}
        return table.get(line.name, "")

    def field(self, line: MessageLine, number: int) -> str:
        """Return the name of field ``number`` of ``line``, or ""."""
        if line.form is Form.LIS02:
            return _nth(RECORD_FIELDS.get(line.name, ()), number)
        return self._look("Field", f"{line.name}_{number}")[0] if line.form is Form.HL7 else ""

    def component(self, line: MessageLine, field: int, number: int, kind: str = "") -> str:
        """Return the name of a component of a field, or "".

        ``kind`` is the data type if the message itself states it, as OBX-2 does for OBX-5.
        """
        if line.form is Form.LIS02:
            return _nth(RECORD_COMPONENTS.get((line.name, field), ()), number)
        return self._component(line, field, number, kind)[0]

    def subcomponent(self, line: MessageLine, field: int, component: int, number: int, kind: str = "") -> str:
        """Return the name of a subcomponent, or ""."""
        within = self._component(line, field, component, kind)[1]
        return self._look("Component", f"{within}_{number}")[0] if within else ""

    def _component(self, line: MessageLine, field: int, number: int, kind: str) -> tuple[str, str]:
        if line.form is not Form.HL7:
            return "", ""
        within = self._look("Field", f"{line.name}_{field}")[1]
        if within == "varies":
            within = kind
        return self._look("Component", f"{within}_{number}") if within else ("", "")

    def _look(self, table: str, key: str) -> tuple[str, str]:
        """Return the name and the data type of an element, each "" if unknown."""
        known = self._known.get((table, key))
        if known is None:
            began = self._clock()
            known = self._ask(table, key)
            self._left -= self._clock() - began
            self._known[table, key] = known
            if self._left < 0 and self._library is not None:
                self._library = None
                self.note = "the other names are left out: hl7apy takes too long"
        return known

    def _ask(self, table: str, key: str) -> tuple[str, str]:
        if not self._opened:
            self._opened = True
            self._open()
        if self._library is None:
            return "", ""
        try:
            found = self._library.get(key, table)
        except Exception as error:  # noqa: BLE001 - hl7apy has many errors that only mean an unknown element
            if type(error).__name__ != "ChildNotFound":
                self._library = None
                self.note = f"the other names are left out: hl7apy failed ({type(error).__name__})"
            return "", ""
        kind, name = (found[2], found[3]) if len(found) > 3 else ("", "")
        return _readable(name, key.partition("_")[0]) if isinstance(name, str) else "", kind if isinstance(
            kind, str
        ) else ""

    def _open(self) -> None:
        """Load hl7apy's tables for the version, or say in ``note`` why not."""
        if self._size > LARGEST:
            self.note = f"names are left out: the message is longer than {LARGEST // 1024} KiB"
            return
        if not _VERSION.fullmatch(self._version):
            self.note = "names are left out: the message declares no HL7 version (MSH-12)"
            return
        try:
            import hl7apy

            versions = sorted(hl7apy.SUPPORTED_LIBRARIES, key=_numbers)
            near = [known for known in versions if _numbers(known) <= _numbers(self._version)]
            if not near or _numbers(self._version)[0] != _numbers(near[-1])[0]:
                self.note = f"names are left out: hl7apy knows no HL7 {self._version}"
                return
            self._library = hl7apy.load_library(near[-1])
            if near[-1] != self._version:
                self.note = f"names are those of HL7 {near[-1]}: hl7apy knows no {self._version}"
        except ImportError:
            self.note = "names are left out: hl7apy is not installed"
        except Exception as error:  # noqa: BLE001 - whatever it raises, the message is shown
            self.note = f"names are left out: hl7apy failed ({type(error).__name__})"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _nth(names: tuple[str, ...], number: int) -> str:
    return names[number - 1] if 0 < number <= len(names) else ""


def _readable(name: str, within: str) -> str:
    """Turn ``DATE_TIME_OF_MESSAGE`` into ``Date/time of message``."""
    words = name.replace("_", " ").split()
    if len(words) > 1 and words[-1] == within:
        words.pop()  # SET_ID_PID
    text = " ".join(_WORDS.get(word, word.lower()) for word in words)
    for written, meant in _PHRASES:
        text = text.replace(written, meant)
    return text[:1].upper() + text[1:]
