"""The separators that a message declares: MSH-1 and MSH-2 of HL7 v2, the characters behind ``H`` of LIS02.

A separator that the header does not declare splits nothing.  If the header declares none at all, or was lost, the usual
ones apply (HL7 v2.5.1, 2.5.4; CLSI LIS02-A2).
"""

from __future__ import annotations

import re
from string import punctuation
from typing import Final, NamedTuple

__all__ = ["HL7_HEADERS", "USUAL_HL7", "USUAL_LIS02", "Separators", "hl7_separators", "lis02_separators", "unescaped"]


class Separators(NamedTuple):
    """The separators of a message, one character each; "" splits nothing."""

    field: str
    repetition: str
    component: str
    subcomponent: str
    escape: str

    @property
    def dividing(self) -> str:
        """The separators within a field, outermost first."""
        return self.repetition + self.component + self.subcomponent


HL7_HEADERS: Final = frozenset({"MSH", "FHS", "BHS"})
"""The segments that declare separators."""
USUAL_HL7: Final = Separators("|", "~", "^", "&", "\\")
USUAL_LIS02: Final = Separators("|", "\\", "^", "", "&")

_MARKS: Final = frozenset(punctuation)


def hl7_separators(line: str) -> Separators | None:
    """Return the separators that ``line`` declares if it is a header segment of HL7 v2 (MSH, FHS, BHS), else None."""
    field = line[3:4]
    if field not in _MARKS or line[:3] not in HL7_HEADERS:
        return None
    declared = line[4:9].split(field, 1)[0]
    if not declared:
        return USUAL_HL7._replace(field=field)
    component, repetition, escape, subcomponent = (declared[at : at + 1] for at in range(4))
    return Separators(field, repetition, component, subcomponent, escape)


def lis02_separators(line: str) -> Separators | None:
    r"""Return the separators that ``line`` declares if it is a header record of LIS02 (``H|\^&``), else None."""
    field = line[1:2]
    if field not in _MARKS or line[0] != "H":
        return None
    declared = line[2:5].split(field, 1)[0]
    if not declared:
        return USUAL_LIS02._replace(field=field)
    repetition, component, escape = (declared[at : at + 1] for at in range(3))
    return Separators(field, repetition, component, "", escape)


def unescaped(text: str, separators: Separators) -> str:
    r"""Return ``text`` with escaped separators replaced (``\F\``, ``\S\``, ``\T\``, ``\R\``, ``\E\``: HL7 v2.5.1, 2.7).

    Other escapes stay as they are.
    """
    escape = separators.escape
    if not escape or escape not in text:
        return text
    marks = {"F": separators.field, "S": separators.component, "R": separators.repetition, "E": escape}
    if separators.subcomponent:
        marks["T"] = separators.subcomponent
    mark = re.escape(escape)
    return re.sub(f"{mark}([FSTRE]){mark}", lambda found: marks.get(found[1]) or found[0], text)
