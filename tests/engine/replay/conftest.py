"""Fixtures for the tests of replays: capture files, and an engine that can replay them."""

import pytest

from engine.parts import Listener, Store
from engine.replay.captures import Destination, PacketListener
from hl7core.testing.harness import EngineHarness
from hl7core_plugins.file_source import FileSource


@pytest.fixture
def lab(tmp_path):
    """Makes running engines with a store in memory, a destination, and listeners, all as attributes."""
    running = []

    def make(more=None, **settings):
        store, listener, destination, heard = Store(), Listener(), Destination(), PacketListener()
        plugins = {
            "memory_store": store,
            "listener": listener,
            "destination": destination,
            "heard": heard,
            "file_source": FileSource,
            **(more or {}),
        }
        harness = EngineHarness(tmp_path / "lab", plugins, settings={"core.store": "memory_store", **settings})
        harness.store, harness.listener, harness.destination, harness.heard = store, listener, destination, heard
        harness.start()
        running.append(harness)
        return harness

    yield make
    for harness in running:
        harness.stop()
        harness.raise_failure()
