"""Fixtures for the tests of the engine."""

import pytest

from engine.parts import Listener, Store
from engine.rooms import Rooms
from engine.two_stores import Two, Watched
from hl7core.engine.session_memory import Limits
from hl7core.testing.harness import EngineHarness


@pytest.fixture
def rooms():
    made = []

    def make(limits=None, **stores):
        one = Rooms(limits or Limits(), **stores)
        made.append(one)
        one.keeper.start()
        return one

    yield make
    for one in made:
        one.keeper.stop(0.1)


@pytest.fixture
def two(tmp_path):
    old, new, listener = Watched(), Watched(), Listener()
    plugins = {"old_store": old, "new_store": new, "listener": listener}
    with EngineHarness(tmp_path, plugins, settings={"core.store": "old_store"}) as harness:
        yield Two(harness, old, new, listener)


@pytest.fixture
def parts(tmp_path):
    store, listener = Store(), Listener()

    def make(more=None, **options):
        settings = {"core.store": "memory_store", **options.pop("settings", {})}
        return EngineHarness(
            tmp_path, {"memory_store": store, "listener": listener, **(more or {})}, settings=settings, **options
        )

    return store, listener, make
