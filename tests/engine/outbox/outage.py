"""A day in seconds: an event loop whose clock jumps to the next timer, and a world for an outbox to run in.

The outbox, the ledger, the attached stores, the dispatch and the rules are the real ones.  The store is one in memory that keeps
of a session what changes, and the keeper's part, saving what is dirty, is done on the spot.
"""

import asyncio
import threading
from bisect import bisect_right, insort
from collections import Counter
from datetime import UTC, datetime, timedelta

from engine.parts import session
from fakes import registry
from hl7core.contract import DestinationSettings, PluginSettings
from hl7core.engine.ledger import Ledger
from hl7core.engine.news import News
from hl7core.engine.outbox.outbox import Outbox
from hl7core.engine.session_memory import Limits
from hl7core.engine.stores import AttachedStores
from hl7core.errors import DestinationUnreachable
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import DeliveryStatus, Receipt
from hl7core.plugin_host.dispatch import Dispatch

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


def at_work():
    """Whether a thread does something that somebody waits for: no time passes meanwhile, however long it takes."""
    return any(": " in thread.name or thread.name.startswith("hl7core-submit-") for thread in threading.enumerate())


class JumpingLoop(asyncio.SelectorEventLoop):
    """Nobody waits: when nothing is left to do, here or on a thread, it is later."""

    def __init__(self):
        super().__init__()
        self.elapsed = 0.0
        select = self._selector.select

        def jump(timeout):
            found = select(0)
            while not found and timeout != 0 and at_work():
                found = select(0.01)
            if not found and timeout is None:
                raise RuntimeError("nothing will ever happen again")
            if not found:
                self.elapsed += timeout
            return found

        self._selector.select = jump

    def time(self):
        return self.elapsed


def in_no_time(coroutine):
    """Run ``coroutine`` on a loop of that kind."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)


class SmallStore:
    """Keeps of each session its start and what changes; finds what is pending without reading the rest."""

    def __init__(self):
        self.held = {}
        self.pending = []
        self.pages = 0

    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def persist_session(self, session, replace):
        if not replace and session.id in self.held:
            return ""
        self._place(session.id, pending=False)
        self.held[session.id] = (session.start_ns, session.deliveries, session.ignored, session.first_saved_at)
        self._place(session.id, pending=self._status(session.id) is DeliveryStatus.PENDING)
        return ""

    @hookimpl
    def load_sessions(self, query):
        if query.ids:
            return [self.session(i) for i in query.ids if i in self.held]
        self.pages += 1
        if query.status == (DeliveryStatus.FAILED,):
            found = [i for i in self.held if self._status(i) is DeliveryStatus.FAILED]
            return [self.session(i) for i in found[: query.limit]]
        after = (int(query.after[0].timestamp() * 1e6), query.after[1]) if query.after else (0, "")
        at = bisect_right(self.pending, after)
        return [self.session(i) for _, i in self.pending[at : at + query.limit]]

    def session(self, session_id):
        start_ns, deliveries, ignored, first = self.held[session_id]
        return session(0, start=start_ns)._replace(
            id=session_id, deliveries=deliveries, ignored=ignored, first_saved_at=first
        )

    def _status(self, session_id):
        return self.session(session_id).status

    def _place(self, session_id, *, pending):
        if session_id not in self.held:
            return
        key = (self.held[session_id][0] // 1000, session_id)
        if pending:
            insort(self.pending, key)
        else:
            at = bisect_right(self.pending, key) - 1
            if at >= 0 and self.pending[at] == key:
                del self.pending[at]

    def counts(self):
        return Counter(self._status(session_id) for session_id in self.held)


class Settings(DestinationSettings):
    enabled: bool = True


class Receiver:
    """A destination that fails with ``error`` while it has one, keeps its answer to itself if ``lose`` says so."""

    def __init__(self):
        self.error = None
        self.lose = lambda: False
        self.poison = set()
        self.took = Counter()
        self.tries = 0

    @hookimpl
    def register_settings(self):
        return Settings

    @hookimpl
    async def submit_session(self, session):
        return (await self.submit_sessions([session]))[0]

    @hookimpl
    async def submit_sessions(self, sessions):
        self.tries += 1
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        if any(session.id in self.poison for session in sessions):
            raise DestinationUnreachable("the connection was reset")
        self.took.update(session.id for session in sessions)
        if self.lose():
            raise DestinationUnreachable("the connection was reset")
        return [Receipt()] * len(sessions)


class World:
    """Everything but capture; implements ``Records``."""

    sound = True

    def __init__(self, loop, tables=None):
        self.loop = loop
        self.store, self.receiver = SmallStore(), Receiver()
        given = {"store": self.store, "receiver": self.receiver}
        kinds = {name: type(name, (), {"__new__": lambda _cls, it=it: it}) for name, it in given.items()}
        self.registry = registry(kinds, {name: {"enabled": True, **(tables or {}).get(name, {})} for name in given})
        self.dispatch = Dispatch(self.registry)
        self.ledger = Ledger(Limits(memory_sessions=100))
        self.stores = AttachedStores(self.dispatch, self.ledger, record=lambda: "store")
        self.news = News(self.dispatch)
        self.outbox = Outbox(self.dispatch, self, self.news, now=self.now, clock=loop.time)

    async def start(self):
        await self.registry.start(None)
        self.outbox.start()

    async def stop(self):
        await self.outbox.stop(1.0)
        self.dispatch.close(0)

    def now(self):
        return EPOCH + timedelta(seconds=self.loop.time())

    def capture(self, numbers):
        self.ledger.add([session(number) for number in numbers])
        self.save()

    def save(self):
        ids = self.ledger.claim_due(1000, 0.0)
        stamped = self.ledger.stamp(
            ids, now=self.now(), retention_days=30, store="store", destinations=self.dispatch.destinations()
        )
        for one in stamped:
            self.dispatch.stores.persist("store", [one.session], one.replace)
            self.ledger.saved(one)
        self.outbox.saved([one.session for one in stamped])

    async def load(self, query):
        return self.stores.load(query)

    async def change(self, ids, how):
        found = self.stores.change(ids, how)
        self.save()
        return found
