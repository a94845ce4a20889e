"""A ledger, stores and a keeper without an engine."""

from datetime import UTC, datetime

from engine.parts import Store, poll
from hl7core.engine.keeper import Keeper, Policy
from hl7core.engine.ledger import Ledger
from hl7core.engine.news import News
from hl7core.engine.stores import AttachedStores
from hl7core.errors import StoreError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Direct:
    """The dispatch's surface, straight onto stores."""

    def __init__(self, **stores):
        self._stores = stores
        self.events = []
        self.found = ()

    @property
    def stores(self):
        return self

    def attached_stores(self):
        return tuple(self._stores)

    def persist(self, store, sessions, *, replace):
        if store not in self._stores:
            return [StoreError(f"the store {store} is not in service")] * len(sessions)
        return self._stores[store].persist_sessions(sessions, replace)

    def load(self, store, query):
        return self._stores[store].load_sessions(query)

    def delete(self, store, ids, to_trash, deleted_at):
        return self._stores[store].delete_sessions(ids, to_trash, deleted_at)

    def restore(self, store, ids):
        return self._stores[store].restore_sessions(ids)

    def findings(self, _session):
        return self.found

    def event(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Rooms:
    def __init__(self, limits, **stores):
        self.store = stores.get("main") or Store()
        self.dispatch = Direct(main=self.store, **{k: v for k, v in stores.items() if k != "main"})
        self.ledger = Ledger(limits)
        self.news = News(self.dispatch)
        self.stores = AttachedStores(self.dispatch, self.ledger, record=lambda: "main")
        self.policy = Policy("main", 30, ("lab",))
        self.keeper = Keeper(
            self.ledger, self.dispatch, self.stores, self.news, policy=lambda: self.policy, now=lambda: NOW
        )

    def add(self, *sessions):
        self.ledger.add(sessions)
        self.keeper.wake()

    def saved(self):
        poll(lambda: self.ledger.unsaved == 0)

    def do(self, job):
        return self.keeper.submit(job).result(10)


def stamped(ledger, *, now=NOW, days=30, destinations=(), limit=100):
    ids = ledger.claim_due(limit, 0.0)
    return ledger.stamp(ids, now=now, retention_days=days, store="json_store", destinations=destinations)


def save(ledger, **options):
    made = stamped(ledger, **options)
    for one in made:
        ledger.saved(one)
    return made
