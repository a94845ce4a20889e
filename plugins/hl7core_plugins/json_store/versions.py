"""The schema version of a file.

The law: a file of a higher major version is read but not rewritten; one that cannot be read has no version.
"""

from __future__ import annotations

import re
from typing import Final

from hl7core import SCHEMA_VERSION, SessionRefused, schema_version_of

__all__ = ["CURRENT", "major_of", "written_by_us"]

CURRENT: Final = int(SCHEMA_VERSION.split(".")[0])
"""The major version of the schema that this store writes."""

_ENDING: Final = re.compile(rb'"_metadata":\{"version":"(\d{1,6})\.[^{}]*\}\}$')
_TAIL: Final = 200


def written_by_us(data: bytes) -> bool:
    """Return whether this version's writer wrote ``data``, so that its strings look as it would write them."""
    found = _ENDING.search(data, max(0, len(data) - _TAIL))
    return found is not None and int(found[1]) == CURRENT


def major_of(data: bytes) -> int | None:
    """Return the major version of the schema of ``data``, None if it cannot be read.

    What this store wrote says it at its end, where it is found without reading all.
    """
    found = _ENDING.search(data, max(0, len(data) - _TAIL))
    try:
        return int(found[1] if found is not None else schema_version_of(data).split(".")[0])
    except SessionRefused:
        return None
