"""Fixtures for the tests of the control socket."""

import pytest

from engine.parts import Listener, Store
from hl7core.engine.control.client import ControlClient
from hl7core.testing.harness import EngineHarness


@pytest.fixture
def running(tmp_path):
    store = Store()
    with EngineHarness(
        tmp_path, {"memory_store": store, "listener": Listener()}, settings={"core.store": "memory_store"}
    ) as harness:
        harness.store = store
        yield harness


@pytest.fixture
def client(running):
    with ControlClient(running.engine.folder).connect() as client:
        yield client
