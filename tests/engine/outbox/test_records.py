"""The stored sessions as the outbox uses them: on the store thread, and only while they can be saved."""

import asyncio

import pytest

from engine.parts import poll, session
from hl7core.engine.outbox.records import StoredRecords
from hl7core.errors import EngineError
from hl7core.model.session import SessionQuery


def test_sessions_are_read_and_changed_on_the_store_thread(rooms):
    r = rooms()
    r.add(session(1))
    r.saved()
    records = StoredRecords(r.keeper, r.stores, lambda: True)

    async def main():
        found = await records.change([session(1).id, session(2).id], lambda one: one._replace(ignored=True))
        return found, await records.load(SessionQuery())

    found, (held,) = asyncio.run(main())
    assert found == [session(1).id]
    assert held.ignored
    poll(lambda: r.store.held[session(1).id].ignored)
    assert r.store.threads == {"hl7core-keeper"}


def test_nothing_is_sound_while_sessions_are_not_to_be_saved_or_cannot_be(rooms):
    r = rooms()
    saving = True
    records = StoredRecords(r.keeper, r.stores, lambda: saving)
    assert records.sound
    r.store.down = True
    r.add(session(1), session(2))
    poll(lambda: not records.sound)
    r.store.down = False
    poll(lambda: records.sound)
    saving = False
    assert not records.sound


def test_after_the_stop_nothing_can_be_asked(rooms):
    r = rooms()
    records = StoredRecords(r.keeper, r.stores, lambda: True)
    r.keeper.stop(0.1)
    with pytest.raises(EngineError, match="stopped"):
        asyncio.run(records.load(SessionQuery()))
