"""The connection: locks, disks that go away, failed groups."""

from __future__ import annotations

import sqlite3
import subprocess
import threading

import pytest

from hl7core import Hl7coreError, StoreError
from hl7core_plugins.sqlite_store import database, schema
from plugins.sqlite_store.parts import NOW, loaded, session, started


def test_a_disk_that_is_unmounted_is_waited_for(tmp_path):
    def run(*command):
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    disk, folder = tmp_path / "disk", tmp_path / "folder"
    disk.mkdir()
    folder.mkdir()
    if not run("mount", "-t", "tmpfs", "tmpfs", str(disk)):
        pytest.skip("a disk cannot be mounted here: that takes root on Linux")
    try:
        assert run("mount", "--bind", str(disk), str(folder))
        store = started(folder / "data")
        store.persist_session(session(1), replace=False)
        assert run("umount", "--lazy", str(folder))
        for _ in range(2):
            with pytest.raises(StoreError, match="is not mounted"):
                store.persist_session(session(2), replace=False)
        with pytest.raises(StoreError, match="is not mounted"):
            loaded(store)
        assert list(folder.iterdir()) == []
        assert run("mount", "--bind", str(disk), str(folder))
        store.persist_session(session(2), replace=False)
        assert loaded(store) == [session(1), session(2)]
        store.stop()
    finally:
        for mounted in (folder, disk):
            run("umount", "--lazy", str(mounted))


def held(path, seconds):
    """Lock the database as another program would; return what lets it go."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(seconds, connection.close)
    timer.start()
    return timer


def test_while_another_program_writes_a_save_waits(tmp_path):
    store = started(tmp_path, lock_timeout=20)
    timer = held(store.path, 0.2)
    store.persist_session(session(), replace=False)
    timer.join()
    assert loaded(store) == [session()]


def test_a_lock_that_stays_is_told_and_what_waited_is_saved_later(tmp_path):
    store = started(tmp_path, lock_timeout=0.1)
    store.persist_session(session(1), replace=False)
    timer = held(store.path, 60)
    for _ in range(2):
        with pytest.raises(StoreError, match="locked by another program"):
            store.persist_session(session(2), replace=False)
        outcomes = store.persist_sessions([session(2), session(3)], replace=False)
        assert ["locked" in str(outcome) for outcome in outcomes] == [True, True]
        assert loaded(store) == [session(1)]  # reading goes on
    timer.cancel()
    timer.function()
    store.persist_sessions([session(2), session(3)], replace=False)
    assert loaded(store) == [session(1), session(2), session(3)]


def test_a_start_while_it_is_locked_fails_nothing(tmp_path):
    started(tmp_path).stop()
    timer = held(tmp_path / "sessions.sqlite", 60)
    store = started(tmp_path, lock_timeout=0.1)
    with pytest.raises(StoreError, match="locked"):
        store.persist_session(session(), replace=False)
    timer.cancel()
    timer.function()
    store.persist_session(session(), replace=False)
    assert loaded(store) == [session()]


def test_a_group_that_fails_is_written_anew_even_where_it_seems_to_be_there(store, monkeypatch):
    """Whether a failed commit reached the disk is unknown, so finding the row does not count as a save."""
    prove = database.Database._prove

    def fails(_self):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(database.Database, "_prove", fails)
    outcomes = store.persist_sessions([session(1), session(2)], replace=False)
    assert all("Input/output error" in str(outcome) for outcome in outcomes)
    monkeypatch.setattr(database.Database, "_prove", prove)
    written = []
    monkeypatch.setattr(
        "hl7core_plugins.sqlite_store.update", lambda *args: (written.append(args[1]), schema.update(*args))
    )
    assert all(isinstance(o, str) for o in store.persist_sessions([session(1), session(2)], replace=False))
    assert len(written) == 2
    assert all(isinstance(o, str) for o in store.persist_sessions([session(1), session(2)], replace=False))
    assert len(written) == 2


def test_errors_are_all_of_our_own_kind(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = started(tmp_path / "file" / "below")
    uses = (
        lambda: store.persist_session(session(), replace=False),
        lambda: loaded(store),
        lambda: store.delete_sessions([session().id], to_trash=True),
        lambda: store.restore_sessions([session().id]),
        lambda: store.empty_trash(NOW),
        store.list_trash,
        store.store_size,
        store.session_ids,
        lambda: store.session_exists(session().id),
    )
    for use in uses:
        with pytest.raises(Hl7coreError, match="Not a directory"):
            use()
