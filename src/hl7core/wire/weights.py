"""Weights: what is held for each direction of each connection, and all of it together, in bytes.

Its law: whoever is over the limit lets go of the tenth that hold most.  That is a tenth of the weight at least, so
what it takes to find them is earned by the bytes that came before, however many connections there are.
"""

from __future__ import annotations

import heapq
from typing import Final

from hl7core.wire.connection import Half

__all__ = ["PER_PIECE", "Weights"]

PER_PIECE: Final = 256
"""What Python takes for a piece that is held, beside its bytes: a peer may send them one by one."""


class Weights:
    """``of`` has the weight of each direction that holds something, ``total`` that of all."""

    def __init__(self) -> None:
        self.of: dict[Half, int] = {}
        self.total = 0

    def put(self, half: Half, weight: int) -> None:
        """Note what ``half`` holds now; 0 for nothing."""
        self.total += weight - self.of.get(half, 0)
        if weight:
            self.of[half] = weight
        else:
            self.of.pop(half, None)

    def heaviest(self) -> list[Half]:
        """Return the tenth that hold most, heaviest first."""
        return heapq.nlargest(len(self.of) // 10 + 1, self.of, key=self.of.__getitem__)
