"""How this process keeps memory, where sessions come and go by the thousand."""

from __future__ import annotations

import gc

from hl7core.wire.native import keep_memory

__all__ = ["settle"]


def settle() -> None:
    """Once all is loaded: look for cycles seldom, and not among what stays anyway.

    Sessions refer to nothing that refers back: the collector would look through them all the time and find nothing.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    if keep_memory is not None:
        keep_memory()
