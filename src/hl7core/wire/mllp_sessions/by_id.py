"""Exchanges found by the ids that an acknowledgement names, however many of them go by the same one.

Its law: no search looks at what an earlier one has passed.  A peer may leave a hundred thousand requests unanswered,
all of one id, and acknowledge them on both levels: what no longer waits is passed once.
"""

from __future__ import annotations

from hl7core.wire.mllp_sessions.exchange import Exchange

__all__ = ["ById"]


class _Shared:
    """The exchanges that go by one id, in the order in which they began.

    ``_at`` says, for each side that may answer, where the first can be that waits for an accept acknowledgement, for
    an application acknowledgement, and that is still there at all.  ``count`` are still there.
    """

    __slots__ = ("_at", "_by_id", "_exchanges", "_id", "count")

    def __init__(self, by_id: ById, control_id: str) -> None:
        self._by_id = by_id
        self._id = control_id
        self._exchanges: list[Exchange] = []
        self._at = [0] * 6
        self.count = 0

    def add(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        self.count += 1

    def left(self) -> None:
        """Note that one of them is there no more."""
        self.count -= 1
        if 2 * self.count < len(self._exchanges):  # do not hold what has gone
            self._exchanges = [exchange for exchange in self._exchanges if exchange.by_id is self._by_id]
            self._at = [0] * 6

    def awaiting(self, side: int, code: str) -> Exchange | None:
        """Return the first that waits for an acknowledgement by ``side``."""
        place = 3 * side + (code[:1] != "C")
        exchanges, at = self._exchanges, self._at[place]
        while at < len(exchanges):
            exchange = exchanges[at]
            if exchange.by_id is self._by_id and exchange.awaits(side, self._id, code):
                break
            at += 1
        self._at[place] = at
        return exchanges[at] if at < len(exchanges) else None

    def first(self, side: int) -> Exchange | None:
        """Return the first that an acknowledgement by ``side`` concerns."""
        place = 3 * side + 2
        exchanges, at = self._exchanges, self._at[place]
        while at < len(exchanges):
            exchange = exchanges[at]
            if exchange.by_id is self._by_id and exchange.concerns(side):
                break
            at += 1
        self._at[place] = at
        return exchanges[at] if at < len(exchanges) else None


class ById:
    """Exchanges by id.  Most ids are borne by one at a time: those take no list."""

    __slots__ = ("_shared", "_sole")

    def __init__(self) -> None:
        self._sole: dict[str, Exchange] = {}
        self._shared: dict[str, _Shared] = {}

    def add(self, exchange: Exchange) -> None:
        """Take an exchange, which is in no other of these."""
        exchange.by_id = self
        sole, shared = self._sole, self._shared
        if not shared and not exchange.batch and exchange.control_id not in sole:
            sole[exchange.control_id] = exchange
            return
        for control_id in exchange.ids:
            if control_id not in sole and (not shared or control_id not in shared):
                sole[control_id] = exchange
                continue
            line = shared.get(control_id)
            if line is None:
                line = shared[control_id] = _Shared(self, control_id)
            line.add(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Let go of one that was added."""
        exchange.by_id = None
        sole = self._sole
        if not exchange.batch and sole.get(exchange.control_id) is exchange:
            del sole[exchange.control_id]
            return
        for control_id in exchange.ids:
            if sole.get(control_id) is exchange:
                del sole[control_id]
                continue
            line = self._shared[control_id]
            line.left()
            if not line.count:
                del self._shared[control_id]

    def find(self, side: int, control_id: str, code: str) -> tuple[Exchange | None, bool]:
        """Return the exchange that an acknowledgement by ``side`` belongs to, and whether that waits for it.

        It is the first that waits for it, else the first that it concerns.
        """
        sole = self._sole.get(control_id)
        if sole is not None and sole.awaits(side, control_id, code):
            return sole, True
        if self._shared:
            line = self._shared.get(control_id)
            if line is not None:
                found = line.awaiting(side, code)
                if found is not None:
                    return found, True
                if sole is None or not sole.concerns(side):
                    return line.first(side), False
        return (sole, False) if sole is not None and sole.concerns(side) else (None, False)
