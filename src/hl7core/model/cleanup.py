"""What a cleanup threw away."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CleanupReport"]


class CleanupReport(NamedTuple):
    """What was (or with ``dry_run`` would be) thrown away, what was kept and why.

    ``deleted`` sessions went to the trash or for good, ``freed`` counts their bytes (those in the trash still take
    them), ``in_trash`` the sessions that wait in the trash afterwards, ``kept`` maps a reason in plain words to how
    many sessions were kept for it, ``failed`` counts sessions that could not be removed.  ``emptied`` sessions left the
    trash for good.  ``halted`` says in a sentence why nothing, or not all, was done; "" if all was.
    """

    deleted: int = 0
    freed: int = 0
    in_trash: int = 0
    kept: tuple[tuple[str, int], ...] = ()
    failed: int = 0
    dry_run: bool = False
    emptied: int = 0
    halted: str = ""
