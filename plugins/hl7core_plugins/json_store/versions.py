"""Which schema a file has.

The law: a file of a higher major version is read and never rewritten; one that cannot be read has no version.
"""

from __future__ import annotations

import json
import re
from typing import Final

__all__ = ["CURRENT", "major_of", "written_by_us"]

CURRENT: Final = 2
"""The major version of the schema that this store writes."""

_ENDING: Final = re.compile(rb'"_metadata":\{"version":"(\d{1,6})\.[^{}]*\}\}$')
_TAIL: Final = 200


def written_by_us(data: bytes) -> bool:
    """Say whether the present writer wrote ``data``, so that its strings stand there as it would write them."""
    found = _ENDING.search(data, max(0, len(data) - _TAIL))
    return found is not None and int(found[1]) == CURRENT


def major_of(data: bytes) -> int | None:
    """Return the major version of the schema of ``data``, 1 if it says none, None if it cannot be read."""
    found = _ENDING.search(data, max(0, len(data) - _TAIL))
    if found is not None:
        return int(found[1])
    try:
        metadata = json.loads(data).get("_metadata")
        return 1 if metadata is None else int(metadata["version"].split(".")[0])
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # no JSON, or not a session's
        return None
