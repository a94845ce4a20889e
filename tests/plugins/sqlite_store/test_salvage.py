"""A damaged database: what is sound in it is saved, nothing is made up, nothing is thrown away, and it is said aloud."""

import os
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hl7core import NoticeRaised, RecoveryDone, SessionQuery, StoreError
from hl7core.model.schema import at_stored_precision
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.sqlite_store import SqliteStore, SqliteStoreSettings, database, salvage

PAGE = 4096
COUNT = 40


def started(folder, runtime=None, **settings):
    store = SqliteStore()
    store.configure(SqliteStoreSettings(**settings))
    store.start(runtime or FakeRuntime(folder))
    return store


def loaded(store, **query):
    return store.load_sessions(SessionQuery(**query))


def session(number, **changes):
    return at_stored_precision(make_session(number, **changes))


def big(number):
    """A session that does not fit on a page."""
    made = make_session(number)
    text = made.messages[0].text + b"NTE|1||" + b"x" * 9000 + b"\r"
    element = made.elements[0]._replace(span=(0, len(text)))
    messages = (made.messages[0]._replace(text=text), made.messages[1])
    return at_stored_precision(made._replace(messages=messages, elements=(element, made.elements[1])))


SESSIONS = [session(number) for number in range(1, COUNT)] + [big(COUNT), big(COUNT + 1)]
TRASHED = SESSIONS[5].id


def damaged_files(folder):
    return sorted(path.name for path in folder.iterdir() if ".damaged-" in path.name)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A database with sessions, one of them in the trash, all of it out of the log."""
    folder = tmp_path_factory.mktemp("original")
    store = started(folder)
    assert all(isinstance(outcome, str) for outcome in store.persist_sessions(SESSIONS, replace=False))
    store.delete_sessions([TRASHED], to_trash=True)
    store.stop()
    data = (folder / "sessions.sqlite").read_bytes()
    assert len(data) % PAGE == 0
    return data


def crashed(folder, data, log=b""):
    """A database as a process that was killed has left it."""
    path = folder / "sessions.sqlite"
    path.write_bytes(data)
    if data.startswith(b"SQLite format 3\0"):
        connection = sqlite3.connect(path)
        try:
            with connection:
                connection.execute("UPDATE state SET value = 0 WHERE name = 'clean'")
        except sqlite3.DatabaseError:  # the damage is right there
            pass
        finally:
            connection.close()
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    if log:
        path.with_name(f"{path.name}-wal").write_bytes(log)
    return path


def test_without_its_header_every_session_is_saved(tmp_path, original, caplog):
    crashed(tmp_path, os.urandom(100) + original[100:])
    runtime = FakeRuntime(tmp_path)
    store = started(tmp_path, runtime)
    assert loaded(store) == [one for one in SESSIONS if one.id != TRASHED]
    assert store.restore_sessions([TRASHED]) == [TRASHED]
    assert loaded(store) == SESSIONS
    assert loaded(store, specimen="S-0007") == [SESSIONS[6]]
    assert damaged_files(tmp_path) == ["sessions.sqlite.damaged-1"]
    assert RecoveryDone("sqlite_store", len(SESSIONS), 0) in runtime.events
    (notice,) = [event for event in runtime.events if isinstance(event, NoticeRaised)]
    assert f"{len(SESSIONS)} sessions were recovered" in notice.text
    assert str(tmp_path / "sessions.sqlite.damaged-1") in notice.text
    assert notice.text in caplog.text
    assert "TEST^PATIENT" not in caplog.text
    assert not (tmp_path / "sessions.sqlite").stat().st_mode & 0o077
    store.stop()
    assert loaded(started(tmp_path)) == SESSIONS
    assert damaged_files(tmp_path) == ["sessions.sqlite.damaged-1"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_page_that_is_damaged_costs_only_what_lies_on_it(tmp_path_factory, original, data):
    count = len(original) // PAGE
    pages = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4, unique=True))
    fill = data.draw(st.sampled_from([b"\0" * PAGE, b"\xff" * PAGE, random.Random(count).randbytes(PAGE)]))
    damaged = bytearray(original)
    for page in pages:
        damaged[page * PAGE : (page + 1) * PAGE] = fill
    folder = tmp_path_factory.mktemp("damaged")
    crashed(folder, bytes(damaged))
    store = started(folder)
    found = {one.id: one for one in loaded(store)}
    if TRASHED in store.restore_sessions([TRASHED]):
        found[TRASHED] = SESSIONS[5]
    assert all(found[one.id] == one for one in SESSIONS if one.id in found)  # and nothing is made up
    assert set(found) <= {one.id for one in SESSIONS}
    touched = {one.id for one in SESSIONS if any(one.id.encode() in original[p * PAGE : (p + 1) * PAGE] for p in pages)}
    touched |= {one.id for one in SESSIONS[-2:]}  # they lie on several pages
    assert {one.id for one in SESSIONS} - set(found) <= touched
    later = session(99)
    assert isinstance(store.persist_session(later, replace=False), str)
    assert loaded(store, specimen="S-0099") == [later]
    store.stop()


@pytest.mark.parametrize("kept", [3, 10, 25])
def test_of_a_file_that_was_cut_off_what_is_left_is_saved(tmp_path, original, kept):
    crashed(tmp_path, original[: kept * PAGE])
    store = started(tmp_path)
    found = loaded(store)
    assert found == [one for one in SESSIONS if one in found]
    held = [one for one in SESSIONS[:-2] if f'"sessionId":"{one.id}"'.encode() in original[: kept * PAGE]]
    assert {one.id for one in found} >= {one.id for one in held if one.id != TRASHED}
    assert damaged_files(tmp_path) == ["sessions.sqlite.damaged-1"]


def killed_with_a_log(folder):
    """Save in a process that is killed before its log is written back; return the log."""
    script = (
        "import os, sys\nsys.path[:0] = sys.argv[2:]\n"
        "from plugins.sqlite_store.test_salvage import SESSIONS, started\n"
        "store = started(sys.argv[1])\n"
        "for one in SESSIONS[:9]:\n    store.persist_session(one, replace=False)\n"
        "store.persist_session(SESSIONS[2]._replace(ignored=True), replace=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), *sys.path], check=False, capture_output=True)
    return (folder / "sessions.sqlite-wal").read_bytes()


@pytest.mark.parametrize("left", ["nothing", "a broken header"])
def test_what_stands_in_the_log_alone_is_saved_too(tmp_path, left):
    log = killed_with_a_log(tmp_path)
    path = tmp_path / "sessions.sqlite"
    path.write_bytes(b"" if left == "nothing" else b"\xff" * 100 + path.read_bytes()[100:])
    assert log
    store = started(tmp_path)
    changed = [SESSIONS[2]._replace(ignored=True) if one is SESSIONS[2] else one for one in SESSIONS[:9]]
    assert loaded(store) == changed
    store.stop()
    assert loaded(started(tmp_path)) == changed


def test_a_session_that_is_only_found_in_part_is_named_and_the_others_are_saved(tmp_path, original, caplog):
    at = original.index(b'"sessionId":"' + SESSIONS[3].id.encode())
    damaged = original[: at + 600] + b"\0" * 40 + original[at + 640 :]
    crashed(tmp_path, b"\0" * 100 + damaged[100:])
    runtime = FakeRuntime(tmp_path)
    store = started(tmp_path, runtime)
    assert loaded(store) == [one for one in SESSIONS if one.id not in (TRASHED, SESSIONS[3].id)]
    assert f"session {SESSIONS[3].id} is damaged" in caplog.text
    assert any("1 more are damaged" in event.text for event in runtime.events if isinstance(event, NoticeRaised))


def test_damage_that_shows_while_it_runs_is_mended_at_once(tmp_path):
    store = started(tmp_path)
    store.persist_sessions(SESSIONS, replace=False)
    store._database.keep_house("PRAGMA wal_checkpoint(TRUNCATE)")
    store._database.keep_house("PRAGMA shrink_memory")
    path = tmp_path / "sessions.sqlite"
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sessions_started'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((found[0] - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    assert loaded(store) == SESSIONS
    assert damaged_files(tmp_path) == ["sessions.sqlite.damaged-1"]
    assert isinstance(store.persist_session(session(99), replace=False), str)


def test_a_guest_mends_nothing(tmp_path, original):
    crashed(tmp_path, b"\0" * 100 + original[100:])
    before = (tmp_path / "sessions.sqlite").read_bytes()
    guest = started(tmp_path, FakeRuntime(tmp_path, owner=False))
    with pytest.raises(StoreError, match="damaged; the engine, its owner"):
        loaded(guest)
    with pytest.raises(StoreError, match="damaged"):
        guest.persist_session(session(1), replace=False)
    assert (tmp_path / "sessions.sqlite").read_bytes() == before
    assert damaged_files(tmp_path) == []


def crashes_at(number, steps):
    """A rename that is the last one before a crash."""
    rename = Path.rename

    def renamed(source, target):
        steps.append(source.name)
        if len(steps) > number:
            raise KeyboardInterrupt
        return rename(source, target)

    return renamed


@pytest.mark.parametrize(("log", "renames"), [(False, 3), (True, 4)])
def test_a_salvage_that_is_cut_off_anywhere_is_finished_at_the_next_start(
    tmp_path, original, monkeypatch, log, renames
):
    for number in range(renames + 1):
        folder, steps = tmp_path / str(number), []
        folder.mkdir()
        if log:
            killed_with_a_log(folder)
            (folder / "sessions.sqlite").write_bytes(b"")
        else:
            crashed(folder, b"\0" * 100 + original[100:])
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", crashes_at(number, steps))
            try:
                store = started(folder)
                loaded(store)
                store.stop()
            except KeyboardInterrupt:
                assert number < renames
        assert len(steps) == min(number + 1, renames)
        if 0 < number < renames:
            guest = started(folder, FakeRuntime(folder, owner=False))
            with pytest.raises(StoreError, match="being repaired"):
                guest.persist_session(session(1), replace=False)
        again = started(folder)
        assert len(loaded(again)) == (9 if log else len(SESSIONS) - 1)
        again.stop()
        aside = {"sessions.sqlite.damaged-1", *(["sessions.sqlite.damaged-1-wal"] if log else [])}
        assert {path.name for path in folder.iterdir()} == {"sessions.sqlite", *aside}


def test_two_salvages_keep_two_files(tmp_path, original):
    for number in (1, 2):
        crashed(tmp_path, b"\0" * 100 + original[100:])
        assert len(loaded(started(tmp_path))) == len(SESSIONS) - 1
        assert damaged_files(tmp_path) == [f"sessions.sqlite.damaged-{n}" for n in range(1, number + 1)]


def test_a_full_disk_keeps_a_salvage_for_later(tmp_path, original, monkeypatch):
    path = crashed(tmp_path, b"\0" * 100 + original[100:])
    before = path.read_bytes()
    monkeypatch.setattr(salvage.os, "fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    store = started(tmp_path)
    with pytest.raises(StoreError, match="No space left"):
        loaded(store)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert len(loaded(store)) == len(SESSIONS) - 1


def test_after_an_unclean_stop_the_database_is_checked_and_after_a_clean_one_not(tmp_path, original, monkeypatch):
    checks = []
    check = database.Database._check
    monkeypatch.setattr(database.Database, "_check", lambda *args: (checks.append(1), check(*args)))
    crashed(tmp_path, original)
    store = started(tmp_path)
    assert len(loaded(store)) == len(SESSIONS) - 1
    loaded(store)
    assert len(checks) == 1
    store.stop()
    assert len(loaded(started(tmp_path))) == len(SESSIONS) - 1
    assert len(checks) == 1
    assert damaged_files(tmp_path) == []


def test_a_lost_index_entry_is_found_by_the_check(tmp_path, original):
    """Each page is sound; a session would just not be found."""
    path = crashed(tmp_path, original)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = sql || ' AND start_us < 0' WHERE name = 'sessions_started'")
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute("REINDEX sessions_started")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, ' AND start_us < 0', '') WHERE name = 'sessions_started'"
    )
    connection.close()
    store = started(tmp_path)
    assert loaded(store) == [one for one in SESSIONS if one.id != TRASHED]
    assert damaged_files(tmp_path) == ["sessions.sqlite.damaged-1"]


class Impatient(threading.Thread):
    """A timer that is up at once, and again and again until it is cancelled."""

    def __init__(self, _seconds, interrupt):
        super().__init__()
        self.interrupt = interrupt
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.001):
            self.interrupt()

    def cancel(self):
        self.over.set()


def test_a_check_that_takes_too_long_ends_and_the_database_is_used(tmp_path, original, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(database.threading, "Timer", Impatient)
    crashed(tmp_path, original)
    store = started(tmp_path)
    many = [session(number) for number in range(1000, 5000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database.Database, "_check", lambda *_: None)
        store.persist_sessions(many, replace=False)
    store._database._to_check = True
    assert len(loaded(store, limit=10_000)) == len(SESSIONS) - 1 + len(many)
    assert "its check ended" in caplog.text
    assert damaged_files(tmp_path) == []
