"""An exception in words for a person, without message content."""

from __future__ import annotations

from hl7core.errors import Hl7coreError
from hl7core.guard import describe

__all__ = ["reason_of"]


def reason_of(error: BaseException) -> str:
    """Return why ``error`` was raised.

    The text of a foreign exception may hold message content, so only its class is named.
    """
    if isinstance(error, Hl7coreError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return describe(error)
