"""Fixtures for the tests of the outbox."""

import pytest

from engine.outbox.room import Room


@pytest.fixture
def make(tmp_path):
    def room(*held, **options):
        return Room(tmp_path, *held, **options)

    return room
