"""Many sessions in one save."""

from __future__ import annotations

from hl7core import SessionRefused
from plugins.json_store.parts import files_in, loaded, session


def test_a_group_saves_what_can_be_saved(store):
    stored = session(1)
    store.persist_session(stored, replace=False)
    outcomes = store.persist_sessions(
        [session(2), stored._replace(ignored=True), "nothing", session(3), session(2)._replace(ignored=True)],
        replace=False,
    )
    assert [type(outcome) for outcome in outcomes] == [str, str, SessionRefused, str, str]
    assert loaded(store) == [stored, session(2), session(3)]
    assert store.persist_sessions([], replace=False) == []


def test_a_big_group_is_saved(store, tmp_path):
    sessions = [session(n) for n in range(600)]
    assert all(isinstance(outcome, str) for outcome in store.persist_sessions(sessions, replace=False))
    assert loaded(store, limit=1000) == sessions
    assert len(files_in(tmp_path)) == 600
