"""The acknowledgement rule: which answers complete an exchange.

``completes`` is the whole rule, and the only place that has it.  The fast path and the C extension read its answers
for a single acknowledgement from the tables of ``completing``.

Sources: HL7 v2 chapter 2.9 (original and enhanced mode), table 0155 (values of MSH-15 and MSH-16) and table 0008
(values of MSA-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

__all__ = ["POSITIVE", "canonical", "completes", "completing", "is_accept"]

POSITIVE: Final = frozenset({"AA", "CA"})
"""The values of MSA-1 that accept a message."""
_CODES: Final = ("AA", "AE", "AR", "CA", "CE", "CR", "")
_ASKED: Final = frozenset({"AL", "SU"})
_NOT_ASKED: Final = frozenset({"", "NE", "ER"})
_UNKNOWN: Final = "?"


def completes(accept: str, application: str, codes: Sequence[str]) -> bool:
    """Return whether an exchange is complete once its request and these acknowledgements have come.

    ``accept`` and ``application`` are MSH-15 and MSH-16 of the request, ``codes`` the MSA-1 of every acknowledgement so
    far, in order of arrival.  An exchange that is complete stays so whatever comes after.

    Original mode (neither field is valued): the application acknowledgement AA, AE or AR completes it.  A C-code alone
    does not: it belongs to the other mode.

    Enhanced mode, AL and SU asking for an acknowledgement, NE, ER and an empty field not asking for one (ER brings one
    only if there is an error):

    * neither is asked for: complete at the end of the request itself, without any acknowledgement;
    * only the accept acknowledgement is asked for: any acknowledgement completes it;
    * only the application acknowledgement is asked for: that one completes it, CA alone does not;
    * both are asked for: both complete it, in either order;
    * CE or CR (refused on acceptance) completes it, since no application acknowledgement follows a refusal.

    A value of MSH-15 or MSH-16 that table 0155 does not list asks for nothing in particular, so the exchange waits: it
    is not complete at the end of the request, and any acknowledgement completes it unless the other field asks for a
    certain one.  A value of MSA-1 that table 0008 does not list counts as an accept acknowledgement if it begins with
    C, else as an application acknowledgement.
    """
    # Only values of the tables are kept in memory, not what a hostile peer may put in their place.
    return _completes(_known(accept), _known(application), tuple(map(canonical, codes)))


@lru_cache(1024)
def _completes(accept: str, application: str, codes: tuple[str, ...]) -> bool:
    accepted = any(is_accept(code) for code in codes)
    applied = not all(is_accept(code) for code in codes)
    if not accept and not application:
        return applied
    if "CE" in codes or "CR" in codes:
        return True
    if accept in _NOT_ASKED and application in _NOT_ASKED:
        return True
    if application in _ASKED:
        return applied and (accepted or accept not in _ASKED)
    return accepted or applied


def is_accept(code: str) -> bool:
    """Return whether an MSA-1 is an accept acknowledgement (C.); all others count as application acknowledgements."""
    return code[:1] == "C"


def canonical(code: str) -> str:
    """Return the value of table 0008 that ``completes`` treats as it treats this MSA-1."""
    if code in _CODES[:6]:
        return code
    return "CA" if is_accept(code) else "AA"


def completing(accept: str, application: str) -> dict[str, bool]:
    """Return, for each value of table 0008, whether it alone completes an exchange with these MSH-15 and MSH-16.

    An empty MSA-1 has an entry too; other values have none.
    """
    return _COMPLETING[_known(accept), _known(application)]


def _known(value: str) -> str:
    return value if value in _ASKED or value in _NOT_ASKED else _UNKNOWN


_VALUES: Final = (*sorted(_ASKED), *sorted(_NOT_ASKED), _UNKNOWN)
_COMPLETING: Final = {
    (accept, application): {code: completes(accept, application, (code,)) for code in _CODES}
    for accept in _VALUES
    for application in _VALUES
}
