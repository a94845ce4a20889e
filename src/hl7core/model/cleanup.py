"""What a cleanup deleted."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CleanupReport"]


class CleanupReport(NamedTuple):
    """What was deleted (or with ``dry_run`` would be), and what was kept and why.

    ``deleted`` counts the sessions moved to the trash or deleted permanently, ``freed`` their bytes (in the trash they
    still take space), ``in_trash`` the sessions in the trash afterwards, ``failed`` those that could not be deleted,
    and ``emptied`` those deleted permanently from the trash.  ``kept`` has pairs of a reason, in plain words, and how
    many sessions were kept for it.  ``halted`` says in a sentence why not everything was done; "" if it was.
    """

    deleted: int = 0
    freed: int = 0
    in_trash: int = 0
    kept: tuple[tuple[str, int], ...] = ()
    failed: int = 0
    dry_run: bool = False
    emptied: int = 0
    halted: str = ""
