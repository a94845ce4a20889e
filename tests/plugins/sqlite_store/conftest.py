"""Fixtures for the tests of sqlite_store."""

from __future__ import annotations

import pytest

from plugins.sqlite_store.parts import started


@pytest.fixture
def store(tmp_path):
    return started(tmp_path)
