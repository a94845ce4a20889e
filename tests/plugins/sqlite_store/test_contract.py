"""sqlite_store keeps the contract of stores."""

from __future__ import annotations

import sqlite3

from hl7core.testing import FakeRuntime, StoreContract
from plugins.sqlite_store.parts import earlier_database, edited, started


class TestContract(StoreContract):
    def make_store(self, folder):
        return started(folder)

    def make_guest(self, folder):
        return started(folder, FakeRuntime(folder, owner=False))

    def damage(self, store, session_id):
        edited(store.path, "UPDATE sessions SET json = substr(json, 1, length(json) - 40) WHERE id = ?", session_id)
        return True

    def make_newer(self, store, session_id):
        newer = """replace(json, '"version":"2.0.0"', '"version":"3.0.0","more":true')"""
        edited(store.path, f"UPDATE sessions SET major = 3, json = {newer} WHERE id = ?", session_id)

    def make_older(self, folder):
        return earlier_database(folder)

    def check_rest(self, store):
        names = {path.name for path in store.folder.iterdir()}
        assert names == {"sessions.sqlite", "sessions.sqlite-wal", "sessions.sqlite-shm"}
        connection = sqlite3.connect(store.path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
