"""The status of a destination, for people and for the control socket."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

__all__ = ["DestinationStatus"]


class DestinationStatus(NamedTuple):
    """The status of one destination.

    ``state`` is inactive, idle, sending, waiting (it asked to be left alone), paused, or unsaved (sessions are not
    saved, so none is submitted); ``until`` is when a waiting or paused one is tried next.  ``queue`` counts the waiting
    sessions that are known, ``more`` says that the store may hold others.  ``submitted`` and ``failed`` count since the
    start of the engine; ``error`` is the last error.  ``busy``: an attempt follows soon.
    """

    name: str
    state: str
    until: datetime | None = None
    queue: int = 0
    more: bool = False
    in_flight: int = 0
    submitted: int = 0
    failed: int = 0
    error: str = ""
    busy: bool = False
