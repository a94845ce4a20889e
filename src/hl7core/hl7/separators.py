"""The separators that a message declares: MSH-1 and MSH-2 of HL7 v2, the characters behind ``H`` of LIS02.

What a header does not declare divides nothing; a header that declares none, and a message whose header was lost, are
read by the usual ones.
"""

from __future__ import annotations

import re
from string import punctuation
from typing import Final, NamedTuple

__all__ = ["HL7_HEADERS", "USUAL_HL7", "USUAL_LIS02", "Separators", "hl7_separators", "lis02_separators", "unescaped"]


class Separators(NamedTuple):
    """What divides the lines of a message, a character each; "" divides nothing."""

    field: str
    repetition: str
    component: str
    subcomponent: str
    escape: str

    @property
    def dividing(self) -> str:
        """What divides a field, from the outside in."""
        return self.repetition + self.component + self.subcomponent


HL7_HEADERS: Final = frozenset({"MSH", "FHS", "BHS"})
"""The segments that declare separators."""
USUAL_HL7: Final = Separators("|", "~", "^", "&", "\\")
USUAL_LIS02: Final = Separators("|", "\\", "^", "", "&")

_MARKS: Final = frozenset(punctuation)


def hl7_separators(line: str) -> Separators | None:
    """Return what the line declares if it is a header segment of HL7 v2 (MSH, FHS, BHS), else None."""
    field = line[3:4]
    if field not in _MARKS or line[:3] not in HL7_HEADERS:
        return None
    declared = line[4:9].split(field, 1)[0]
    if not declared:
        return USUAL_HL7._replace(field=field)
    component, repetition, escape, subcomponent = (declared[at : at + 1] for at in range(4))
    return Separators(field, repetition, component, subcomponent, escape)


def lis02_separators(line: str) -> Separators | None:
    r"""Return what the line declares if it is a header record of LIS02 (``H|\^&``), else None."""
    field = line[1:2]
    if field not in _MARKS or line[0] != "H":
        return None
    declared = line[2:5].split(field, 1)[0]
    if not declared:
        return USUAL_LIS02._replace(field=field)
    repetition, component, escape = (declared[at : at + 1] for at in range(3))
    return Separators(field, repetition, component, "", escape)


def unescaped(text: str, separators: Separators) -> str:
    r"""Return ``text`` with the escapes of separators undone (``\F\`` and the like); others stay as they are."""
    escape = separators.escape
    if not escape or escape not in text:
        return text
    marks = {"F": separators.field, "S": separators.component, "R": separators.repetition, "E": escape}
    if separators.subcomponent:
        marks["T"] = separators.subcomponent
    mark = re.escape(escape)
    return re.sub(f"{mark}([FSTRE]){mark}", lambda found: marks.get(found[1]) or found[0], text)
