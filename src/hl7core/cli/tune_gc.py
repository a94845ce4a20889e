"""Tuning Python's garbage collector for a process through which sessions pass by the thousand."""

from __future__ import annotations

import gc

from hl7core.wire.native import keep_memory

__all__ = ["tune_gc"]


def tune_gc() -> None:
    """Make the collector run seldom, and skip what is loaded already.  Call it once all modules are imported.

    Sessions hold no reference cycles, so the collector would scan them again and again and find nothing.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    if keep_memory is not None:
        keep_memory()
