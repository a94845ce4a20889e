"""The stored sessions, as the outbox uses them: read and changed on the store thread, awaited on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hl7core.engine.keeper import Keeper
from hl7core.engine.stores import AttachedStores
from hl7core.model.session import Session, SessionQuery

__all__ = ["StoredRecords"]


class StoredRecords:
    """Implements ``Records`` on the attached stores; ``saving`` returns whether sessions are to be saved."""

    def __init__(self, keeper: Keeper, stores: AttachedStores, saving: Callable[[], bool]) -> None:
        self._keeper = keeper
        self._stores = stores
        self._saving = saving

    @property
    def sound(self) -> bool:
        """Whether sessions can be saved now; while they cannot, nothing is submitted."""
        return self._saving() and not self._keeper.down

    async def load(self, query: SessionQuery) -> list[Session]:
        """Return the matching sessions as they are now.  Raises StoreError, and EngineError after the stop."""
        return await asyncio.wrap_future(self._keeper.submit(lambda: self._stores.load(query), gives_way=True))

    async def change(self, ids: Sequence[str], how: Callable[[Session], Session]) -> list[str]:
        """Change sessions and have them saved; return the ids that were found.  Raises as ``load`` does."""
        return await asyncio.wrap_future(self._keeper.submit(lambda: self._stores.change(ids, how)))
