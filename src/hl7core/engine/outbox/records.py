"""The stored sessions, as the outbox sees them: everything is done on the store thread, and waited for on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hl7core.engine.keeper import Keeper
from hl7core.engine.stores import Shelf
from hl7core.model.session import Session, SessionQuery

__all__ = ["StoredRecords"]


class StoredRecords:
    """Implements ``Records`` over the shelf; ``saving`` says whether the settings want sessions to be saved."""

    def __init__(self, keeper: Keeper, shelf: Shelf, saving: Callable[[], bool]) -> None:
        self._keeper = keeper
        self._shelf = shelf
        self._saving = saving

    @property
    def sound(self) -> bool:
        """Whether sessions are saved now; while a store is down, no status is added to what waits for it."""
        return self._saving() and not self._keeper.down

    async def load(self, query: SessionQuery) -> list[Session]:
        """Return the sessions that fit, as they stand now.  Raises StoreError, EngineError after the stop."""
        return await asyncio.wrap_future(self._keeper.submit(lambda: self._shelf.load(query), gives_way=True))

    async def change(self, ids: Sequence[str], how: Callable[[Session], Session]) -> list[str]:
        """Change sessions and have them saved; return the ids that were found.  Raises as ``load`` does."""
        return await asyncio.wrap_future(self._keeper.submit(lambda: self._shelf.change(ids, how)))
