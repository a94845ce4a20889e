"""What a start puts right: drafts that a crash left behind."""

from __future__ import annotations

import os
import time

from hl7core import RecoveryDone, session_to_json
from hl7core.testing import FakeRuntime
from plugins.json_store.parts import NOW, files_in, loaded, session, started


def draft(folder, number=1, pid=999_999_999, **changes):
    """A draft that a crash left behind."""
    path = folder / f"{session(number).id}.{pid}.{number:016x}.tmp"
    path.write_bytes(session_to_json(session(number, **changes)))
    return path


def recovery_of(folder):
    runtime = FakeRuntime(folder, now=NOW)
    store = started(folder, runtime)
    done = next(event for event in runtime.events if isinstance(event, RecoveryDone))
    return store, (done.recovered, done.cleaned)


def test_a_whole_draft_without_a_file_becomes_the_session(store, tmp_path):
    draft(store.folder)
    again, counts = recovery_of(tmp_path)
    assert counts == (1, 0)
    assert loaded(again) == [session()]
    assert files_in(tmp_path) == [f"{session().id}.json"]


def test_a_draft_that_is_not_newer_than_the_file_goes(store, tmp_path):
    store.persist_session(session(), replace=False)
    old = draft(store.folder, ignored=True)
    os.utime(old, (1, 1))
    again, counts = recovery_of(tmp_path)
    assert counts == (0, 1)
    assert loaded(again) == [session()]


def test_a_draft_that_is_newer_than_the_file_replaces_it(store, tmp_path):
    store.persist_session(session(), replace=False)
    os.utime(store.folder / f"{session().id}.json", (1, 1))
    draft(store.folder, ignored=True)
    again, counts = recovery_of(tmp_path)
    assert counts == (1, 0)
    assert loaded(again) == [session(ignored=True)]


def test_a_draft_that_is_not_whole_goes(store, tmp_path):
    store.persist_session(session(1), replace=False)
    for number in (1, 2):
        cut = draft(store.folder, number)
        cut.write_bytes(cut.read_bytes()[:-1])
    draft(store.folder, 3).rename(store.folder / f"{session(4).id}.999999999.{0:016x}.tmp")  # another session's
    (store.folder / f"{session(5).id}.json.tmp").write_bytes(b"")
    again, counts = recovery_of(tmp_path)
    assert counts == (0, 4)
    assert loaded(again) == [session(1)]
    assert files_in(tmp_path) == [f"{session(1).id}.json"]


def test_a_draft_of_a_process_that_lives_is_left_to_it(store, tmp_path):
    busy = draft(store.folder, 1, pid=os.getppid())
    forgotten = draft(store.folder, 2, pid=os.getppid())
    long_ago = time.time() - 3600
    os.utime(forgotten, (long_ago, long_ago))
    draft(store.folder, 3, pid=os.getpid())
    again, counts = recovery_of(tmp_path)
    assert counts == (2, 0)
    assert busy.exists()
    assert loaded(again) == [session(2), session(3)]


def test_one_draft_that_cannot_be_recovered_does_not_stop_the_rest(store, tmp_path, monkeypatch, caplog):
    draft(store.folder, 1)
    draft(store.folder, 2)
    files = __import__("hl7core_plugins.json_store.files", fromlist=["save"])
    save = files.save

    def fail_once(final, *args, **kwargs):
        if session(1).id in final.name:
            raise OSError(5, "Input/output error")
        return save(final, *args, **kwargs)

    monkeypatch.setattr(files, "save", fail_once)
    again, counts = recovery_of(tmp_path)
    assert counts == (1, 0)
    assert loaded(again) == [session(2)]
    assert "Input/output error" in caplog.text
    monkeypatch.undo()
    _, counts = recovery_of(tmp_path)
    assert counts == (1, 0)


def test_recovery_of_a_missing_folder_is_fine(tmp_path):
    _, counts = recovery_of(tmp_path / "new")
    assert counts == (0, 0)
