"""Deleting sessions: to the trash, back from it, and permanently.

The law: no query finds a deleted session; a session in the trash can be restored unchanged; one that was deleted
permanently cannot, and its space is freed.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hl7core.model.schema import at_stored_precision
from hl7core.testing.builders import make_session
from hl7core.testing.store_base import NOW, StoreBase
from hl7core.testing.store_samples import NO_IDS

__all__ = ["StoreDeleting"]


class StoreDeleting(StoreBase):
    """The tests for deleting and restoring."""

    def test_deleted_is_gone_and_a_missing_one_is_no_error(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        unknown = make_session(99).id
        assert self.delete(store, [first.id, unknown, first.id], to_trash=False) == [first.id]
        assert self.load(store) == [second]
        assert self.load(store, specimen="S-0001") == []
        assert self.restore(store, first.id) == []

    def test_the_trash_gives_back(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        assert self.delete(store, [first.id], to_trash=True) == [first.id]
        assert self.load(store) == [second]
        assert self.load(store, specimen="S-0001") == self.load(store, ids=(first.id,)) == []
        store.stop()
        store = self.make_store(tmp_path)
        assert self.load(store) == [second]
        assert self.restore(store, first.id, second.id, make_session(9).id) == [first.id]
        assert self.load(store) == [first, second]
        assert self.load(store, specimen="S-0001") == [first]

    def test_restoring_never_overwrites(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        self.delete(store, [session.id], to_trash=True)
        newer = session._replace(ignored=True)
        store.persist_session(newer, replace=False)
        assert self.restore(store, session.id) == []
        assert self.load(store) == [newer]

    def test_one_session_deleted_twice_comes_back_as_it_was_last(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        for version in (session, session._replace(ignored=True)):
            store.persist_session(version, replace=True)
            assert self.delete(store, [session.id], to_trash=True) == [session.id]
        assert self.restore(store, session.id) == [session.id]
        assert self.load(store) == [session._replace(ignored=True)]

    def test_an_emptied_trash_gives_nothing_back(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        self.delete(store, [first.id], to_trash=True)
        report = self.empty(store, datetime(2000, 1, 1, tzinfo=UTC))
        assert (report.deleted, report.in_trash) == (0, 1)
        report = self.empty(store, datetime(2900, 1, 1, tzinfo=UTC))
        assert (report.deleted, report.in_trash, report.failed) == (1, 0, 0)
        assert report.freed > 0
        assert self.restore(store, first.id) == []
        assert self.load(store) == [second]

    def test_the_trash_says_what_lies_in_it_and_since_when(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        self.has(store, "list_trash")
        first, second, third = self.fill(store, 3)
        later = NOW + timedelta(hours=1)
        self.delete(store, [third.id], to_trash=True)
        self.delete(store, [first.id], to_trash=True, deleted_at=later)
        self.delete(store, [second.id], to_trash=False)
        assert list(store.list_trash()) == [(third.id, NOW), (first.id, later)]
        assert self.empty(store, later).deleted == 1
        assert list(store.list_trash()) == [(first.id, later)]
        assert self.restore(store, first.id) == [first.id]
        assert list(store.list_trash()) == []

    def test_the_trash_is_emptied_in_parts_until_all_is_gone(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = self.fill(store, 7)
        self.delete(store, [session.id for session in sessions], to_trash=True)
        deleted = 0
        while count := self.empty(store, NOW + timedelta(days=1), limit=3).deleted:
            deleted += count
        assert deleted == 7
        assert self.restore(store, *(session.id for session in sessions)) == []

    def test_ids_from_outside_lead_nowhere(self, tmp_path: Path) -> None:
        outside = tmp_path / f"{make_session(1).id}.json"
        outside.write_text("not yours")
        store = self.make_store(tmp_path / "a" / "b")
        session = self.fill(store, 2)[1]
        hostile = (*NO_IDS, f"../{session.id}", f"../../{make_session(1).id}", str(outside.with_suffix("")))
        for to_trash in (True, False):
            assert self.delete(store, hostile, to_trash=to_trash) == []
        assert self.restore(store, *hostile) == []
        assert self.load(store, ids=hostile) == []
        assert outside.read_text() == "not yours"
        assert len(self.load(store)) == 2

    def test_its_size_grows_by_saving_and_shrinks_by_throwing_away(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        self.has(store, "store_size")
        empty = store.store_size()
        sessions = [at_stored_precision(make_session(number)) for number in range(1, 201)]
        assert all(isinstance(outcome, str) for outcome in self.save(store, sessions))
        full = store.store_size()
        assert full - empty > sum(len(session.messages[0].text) for session in sessions)
        self.delete(store, [session.id for session in sessions[20:]], to_trash=True)
        assert store.store_size() > full * 0.9
        self.empty(store, NOW + timedelta(days=1))
        assert store.store_size() - empty < (full - empty) / 4
        self.delete(store, [session.id for session in sessions], to_trash=False)
        assert store.store_size() - empty < (full - empty) / 10
