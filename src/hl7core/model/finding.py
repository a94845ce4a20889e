"""Something wrong with a session, in plain words."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Finding", "Severity"]


class Severity(StrEnum):
    """How bad a finding is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """Something wrong with a session.

    ``code`` is a short stable name; ``text`` describes the finding in plain words, without message content.
    ``element`` is the index of the element that it concerns (None: the whole session), ``offset`` the byte offset in
    that element's stream.
    """

    code: str
    severity: Severity
    text: str
    element: int | None = None
    offset: int | None = None
