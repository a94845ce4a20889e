"""The trash: one folder per cleanup, emptied in parts, each of which costs what it deletes."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from hl7core import CleanupReport, session_to_json
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore
from plugins.json_store.parts import NOW, files_in, session, started

HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path):
    made = JsonStore()
    made.start(FakeRuntime(tmp_path, now=NOW))
    yield made
    made.stop()


def throw(store, count, when, first=1):
    """Save ``count`` sessions and move them to the trash at ``when``."""
    sessions = [make_session(number) for number in range(first, first + count)]
    assert all(isinstance(place, str) for place in store.persist_sessions(sessions, replace=False))
    ids = [one.id for one in sessions]
    assert store.delete_sessions(ids, to_trash=True, deleted_at=when) == ids
    return ids


def parts(store, before, limit):
    """Empty the trash as the core does; return what each call said."""
    reports = []
    while not reports or reports[-1].deleted >= limit:
        reports.append(store.empty_trash(before, limit))
    return reports


@pytest.fixture
def looked_at(monkeypatch):
    """How many names in folders were looked at."""
    counted = Counter()
    scandir = os.scandir

    class Counting:
        def __init__(self, folder):
            self.entries = scandir(folder)

        def __enter__(self):
            self.entries.__enter__()
            return self

        def __exit__(self, *error):
            return self.entries.__exit__(*error)

        def __iter__(self):
            for entry in self.entries:
                counted["names"] += 1
                yield entry

    monkeypatch.setattr(os, "scandir", Counting)
    return counted


def test_however_many_parts_it_takes_each_name_is_looked_at_once_or_so(store, looked_at):
    throw(store, 400, NOW - HOUR)
    looked_at.clear()
    reports = parts(store, NOW, 10)
    assert sum(report.deleted for report in reports) == 400
    assert looked_at["names"] < 400 + 5 * len(reports)


def test_the_last_part_tells_what_is_left(store):
    throw(store, 25, NOW - HOUR)
    throw(store, 7, NOW + HOUR, first=100)
    reports = parts(store, NOW, 10)
    assert [report.deleted for report in reports] == [10, 10, 5]
    assert reports[-1].in_trash == 7
    assert sum(report.freed for report in reports) > 25 * 500
    assert len(store.list_trash()) == 7


def test_what_went_there_first_goes_first(store):
    late = throw(store, 5, NOW - HOUR, first=1)
    early = throw(store, 5, NOW - 2 * HOUR, first=10)
    store.empty_trash(NOW, 7)
    left = {session_id for session_id, _ in store.list_trash()}
    assert not left & set(early)
    assert len(left & set(late)) == 3


def test_a_folder_that_was_emptied_goes_and_what_is_not_ours_in_it_stays(store, tmp_path):
    throw(store, 5, NOW - HOUR)
    throw(store, 5, NOW - 2 * HOUR, first=10)
    kept, gone = sorted((tmp_path / "trash").iterdir(), reverse=True)
    (kept / "notes.txt").write_text("somebody else's")
    parts(store, NOW, 3)
    assert not gone.exists()
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]


def test_what_cannot_be_thrown_away_is_counted_and_does_not_stop_the_rest(store, tmp_path, caplog):
    ids = throw(store, 20, NOW - HOUR)
    (folder,) = (tmp_path / "trash").iterdir()
    for session_id in ids[:12]:  # what cannot be unlinked: a folder in the place of the file
        (folder / f"{session_id}.json").unlink()
        (folder / f"{session_id}.json").mkdir()
    reports = parts(store, NOW, 5)
    assert sum(report.deleted for report in reports) == 8
    assert reports[-1] == CleanupReport(deleted=reports[-1].deleted, freed=reports[-1].freed, in_trash=12, failed=12)
    assert "cannot be deleted" in caplog.text


def test_what_somebody_else_throws_away_meanwhile_is_not_counted(store, monkeypatch, caplog):
    throw(store, 20, NOW - HOUR)
    unlink = os.unlink
    first = []

    def raced(path, **kwargs):
        unlink(path, **kwargs)
        if not first:
            first.append(path)
            for entry in sorted(Path(path).parent.iterdir())[:6]:
                unlink(entry)

    monkeypatch.setattr(os, "unlink", raced)
    report = store.empty_trash(NOW)
    assert report == CleanupReport(deleted=14, freed=report.freed, in_trash=0, failed=0)
    assert not caplog.records


def test_restoring_in_parts_does_not_look_at_the_whole_trash_each_time(store, looked_at):
    ids = throw(store, 400, NOW - HOUR)
    looked_at.clear()
    back = [one for at in range(0, 400, 10) for one in store.restore_sessions(ids[at : at + 10])]
    assert back == ids
    assert looked_at["names"] < 200


def test_deleted_sessions_wait_in_a_folder_named_for_the_time(store, tmp_path):
    store.persist_sessions([session(1), session(2)], replace=False)
    store.delete_sessions([session(1).id, session(2).id], to_trash=True)
    folder = tmp_path / "trash" / "cleanup-20260103T120000Z"
    assert files_in(folder) == [f"{session(1).id}.json", f"{session(2).id}.json"]
    assert files_in(tmp_path / "sessions") == []
    store.restore_sessions([session(1).id, session(2).id])
    assert not folder.exists()


def test_only_what_waits_long_enough_is_thrown_away(tmp_path):
    runtime = FakeRuntime(tmp_path, now=NOW)
    store = started(tmp_path, runtime)
    store.persist_sessions([session(n) for n in range(3)], replace=False)
    for number in range(3):
        runtime.clock = NOW + timedelta(days=number)
        store.delete_sessions([session(number).id], to_trash=True)
    foreign = tmp_path / "trash" / "mine"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("keep")
    (tmp_path / "trash" / "cleanup-99999999T999999Z").mkdir()
    (tmp_path / "trash" / "cleanup-20200101T000000Z").symlink_to(foreign)
    report = store.empty_trash(NOW + timedelta(days=1))
    assert (report.deleted, report.in_trash, report.failed) == (1, 2, 0)
    assert report.freed == len(session_to_json(session(0)))
    assert (foreign / "letter.txt").exists()
    assert store.restore_sessions([session(n).id for n in range(3)]) == [session(1).id, session(2).id]
