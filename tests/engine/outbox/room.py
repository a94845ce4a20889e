"""An engine with a store, a listener and destinations, for the tests of the outbox."""

import asyncio

from engine.parts import Listener, Store, exchange, session
from hl7core.contract import DestinationSettings
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import Delivery, DeliveryStatus, Receipt
from hl7core.testing import EngineHarness

PENDING, SUBMITTED, FAILED, IGNORED = DeliveryStatus


class QuickSettings(DestinationSettings):
    endpoint: str = "somewhere"

    @property
    def active(self):
        return bool(self.endpoint)


class Destination:
    """Keeps what it is handed; ``error`` is raised while it is set, ``errors`` by id; ``gate`` is waited for."""

    def __init__(self):
        self.got = []
        self.tries = []
        self.error = None
        self.errors = {}
        self.gate = None
        self.at_once = self.most = 0
        self.settings = None

    @hookimpl
    def register_settings(self):
        return QuickSettings

    @hookimpl
    def configure(self, settings):
        self.settings = settings

    @hookimpl
    async def submit_session(self, session):
        self.tries.append(session.id)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            while self.gate is not None and not self.gate.is_set():
                await asyncio.sleep(0.005)
            if (error := self.errors.get(session.id, self.error)) is not None:
                raise error
        finally:
            self.at_once -= 1
        self.got.append(session.id)
        return Receipt("7")


def stored(*numbers, names=("dest",), **delivery):
    return [
        session(number)._replace(
            first_saved_at=session().started_at, deliveries=tuple(Delivery(name, **delivery) for name in names)
        )
        for number in numbers
    ]


class Room:
    """An engine with a store, an ear and destinations."""

    def __init__(self, folder, *held, plugins=None, settings=None, **destinations):
        self.store, self.ear = Store(), Listener()
        self.store.held = {one.id: one for one in held}
        self.dest = destinations.setdefault("dest", Destination())
        self.harness = EngineHarness(
            folder,
            {"mem": self.store, "ear": self.ear, **destinations},
            settings={"core.store": "mem", "core.memory_sessions": 10, **(settings or {})},
        )

    def __enter__(self):
        self.harness.start()
        self.call, self.runtime, self.engine = self.harness.call, self.harness.runtime, self.harness.engine
        return self

    def __exit__(self, *_):
        self.harness.stop()

    def capture(self, count, start=0):
        self.harness.feed(*[exchange(f"M{start + i}", seconds=start + i) for i in range(count)])

    def statuses(self, name="dest"):
        return [
            d.status
            for s in sorted(self.store.held.values(), key=lambda s: s.start_ns)
            for d in s.deliveries
            if d.name == name
        ]

    def delivery(self, session_id, name="dest"):
        return next((d for d in self.store.held[session_id].deliveries if d.name == name), None)

    def status(self, name="dest"):
        return next(one for one in self.engine.outbox.status() if one.name == name)
