"""Fixtures for the tests of retention."""

from __future__ import annotations

import pytest

from plugins.retention.parts import Desk


@pytest.fixture
def desk(tmp_path):
    return lambda **options: Desk(tmp_path, **options)
