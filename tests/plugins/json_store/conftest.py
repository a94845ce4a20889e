"""Fixtures for the tests of json_store."""

from __future__ import annotations

import pytest

from hl7core_plugins.json_store import files, layout
from plugins.json_store.parts import Run, started


@pytest.fixture
def store(tmp_path):
    return started(tmp_path)


@pytest.fixture
def trusting(monkeypatch):
    """Trust files that changed a moment ago: a test cannot wait for two seconds each time."""
    monkeypatch.setattr(layout, "JUST_NOW_NS", 0)


@pytest.fixture
def run(tmp_path, trusting):
    return Run(tmp_path)


@pytest.fixture
def opened(monkeypatch):
    """The files that are read, by the start of their names."""
    read, look = [], files.look
    monkeypatch.setattr(files, "look", lambda path: (read.append(path.stem), look(path))[1])
    return read
