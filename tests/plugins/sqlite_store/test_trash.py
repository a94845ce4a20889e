"""Deleting: what is deleted permanently is gone from every file."""

from __future__ import annotations

from datetime import UTC, datetime

from plugins.sqlite_store.parts import loaded, session


def test_what_is_thrown_away_is_overwritten_in_every_file(store, tmp_path):
    store.persist_sessions([session(n) for n in range(1, 60)], replace=False)
    store.delete_sessions([session(n).id for n in range(1, 50)], to_trash=True)
    store.empty_trash(datetime(2900, 1, 1, tzinfo=UTC))
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"S-0007" not in data
        assert b"P-0049" not in data
    assert b"S-0055" in store.path.read_bytes()


def test_the_file_shrinks_when_much_is_thrown_away(store):
    store.persist_sessions([session(n) for n in range(400)], replace=False)
    store._database.keep_house("PRAGMA wal_checkpoint(TRUNCATE)")
    before = store.path.stat().st_size
    report = store.empty_trash(datetime(2900, 1, 1, tzinfo=UTC))
    assert (report.deleted, report.freed) == (0, 0)
    store.delete_sessions([session(n).id for n in range(380)], to_trash=False)
    assert store.path.stat().st_size < before / 3
    assert loaded(store) == [session(n) for n in range(380, 400)]
