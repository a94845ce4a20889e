"""Search keys: the identifiers by which a session is found, for stores to index.

Only the segments and records that carry identifiers are read, and nothing here raises.  ``matches`` finds a session by
a specimen or a patient exactly if that value is among these keys.

The identifiers are PID-3, SPM-2, OBR-2 and OBR-3 of HL7 v2 (v2.5.1, chapters 3, 4 and 7), and P-3, P-4 and O-3 of LIS02
(CLSI LIS02-A2).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from hl7core.hl7.native import usual_keys
from hl7core.hl7.separators import USUAL_HL7, USUAL_LIS02, Separators, hl7_separators, lis02_separators
from hl7core.model.session import Session

__all__ = ["SearchKeys", "search_keys"]


class SearchKeys(NamedTuple):
    """The distinct values by which a session is found, in the order of the messages; none is empty.

    ``specimens`` and ``patients`` hold each identifier as a whole and each of its parts (repetition, component,
    subcomponent, by the separators that the message declares), without surrounding blanks; escapes are kept as they
    are.  ``codes`` are the codes of tests, split likewise: OBR-4 and OBX-3, or O-5 and R-3.  ``control_ids`` are MSH-10
    (LIS02: H-3) and ``message_types`` MSH-9 (LIS02: the letters of the records), as the message has them.  Specimens,
    patients and codes have at most 200 characters, and at most 10,000 of each are kept.
    """

    specimens: tuple[str, ...]
    patients: tuple[str, ...]
    control_ids: tuple[str, ...]
    message_types: tuple[str, ...]
    codes: tuple[str, ...]


_LONGEST: Final = 200
_MOST: Final = 10_000
_SPECIMEN, _PATIENT, _CODE = range(3)
# For each kind of line: at how many separators to split, and which of the fields are identifiers.
_HL7: Final = {
    "PID": (4, ((3, _PATIENT),)),
    "SPM": (3, ((2, _SPECIMEN),)),
    "OBR": (5, ((2, _SPECIMEN), (3, _SPECIMEN), (4, _CODE))),
    "OBX": (4, ((3, _CODE),)),
}
_LIS02: Final = {
    "P": (4, ((2, _PATIENT), (3, _PATIENT))),
    "O": (5, ((2, _SPECIMEN), (4, _CODE))),
    "R": (3, ((2, _CODE),)),
}
_BLANKS: Final = " \t\0\ufeff"


_Places = tuple[int, tuple[tuple[int, int], ...]]
_Fields = tuple[dict[str, None], dict[str, None], dict[str, None]]
"""The distinct fields that hold specimens, patients and codes."""
_Found = defaultdict[Separators, _Fields]


def search_keys(session: Session) -> SearchKeys:
    """Return the values by which ``session`` is found.  Never raises, whatever its messages hold."""
    usual = None if usual_keys is None else usual_keys(session.messages)
    return _all_keys(session) if usual is None else SearchKeys(*usual)


def _all_keys(session: Session) -> SearchKeys:
    found: _Found = defaultdict(lambda: ({}, {}, {}))
    control_ids: dict[str, None] = {}
    message_types: dict[str, None] = {}
    for message in session.messages:
        control_ids[message.control_id] = None
        message_types[message.message_type] = None
        _glance(message.decoded()[0], found)
    control_ids.pop("", None)
    message_types.pop("", None)
    specimens, patients, codes = (_keys(found, kind) for kind in (_SPECIMEN, _PATIENT, _CODE))
    return SearchKeys(specimens, patients, tuple(control_ids), tuple(message_types), codes)


def _glance(text: str, found: _Found) -> None:
    """Add the fields of one message."""
    hl7: Separators | None = USUAL_HL7
    lis02: Separators | None = USUAL_LIS02
    hl7_fields, lis02_fields = found[USUAL_HL7], found[USUAL_LIS02]
    for line in text.replace("\n", "\r").split("\r"):
        if not line:
            continue
        if line[0] in _BLANKS:
            line = line.lstrip(_BLANKS)  # noqa: PLW2901 - blanks before a line are no part of it
        if hl7 is not None:
            if line[:3] in _HL7:
                if line[3:4] == hl7.field:
                    _add(line, hl7.field, _HL7[line[:3]], hl7_fields)
                continue
            declared = hl7_separators(line)
            if declared is not None:
                hl7, lis02 = declared, None
                hl7_fields = found[hl7]
        if lis02 is not None and line[1:2]:
            if line[0] in _LIS02:
                if line[1] == lis02.field:
                    _add(line, lis02.field, _LIS02[line[0]], lis02_fields)
                continue
            declared = lis02_separators(line)
            if declared is not None:
                hl7, lis02 = None, declared
                lis02_fields = found[lis02]


def _add(line: str, separator: str, places: _Places, fields: _Fields) -> None:
    values = line.split(separator, places[0])
    for place, kind in places[1]:
        if place < len(values) and values[place]:
            fields[kind][values[place]] = None


def _keys(found: _Found, kind: int) -> tuple[str, ...]:
    """Return the fields of one kind and their parts; joined first, since one split of all is fastest."""
    keys: dict[str, None] = {}
    for separators, fields in found.items():
        pieces = list(fields[kind])
        joined = "\r".join(pieces)  # no field holds one
        for separator in separators.dividing:
            if separator in joined:
                joined = joined.replace(separator, "\r")
                pieces += joined.split("\r")
        keys |= dict.fromkeys(map(str.strip, pieces))
    return tuple(key for key in keys if key and len(key) <= _LONGEST)[:_MOST]
