import json
import logging
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hl7core import (
    RecoveryDone,
    SessionQuery,
    SessionRefused,
    StoreError,
    schema_version_of,
    session_from_json,
    session_to_json,
)
from hl7core.model.schema import at_stored_precision, session_to_dict
from hl7core.testing import FakeRuntime, StoreContract, make_session
from hl7core_plugins.json_store import JsonStore, JsonStoreSettings, files

OLD = Path(__file__).parents[2] / "data" / "sessions" / "v1"
NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


def started(folder, runtime=None):
    store = JsonStore()
    store.configure(JsonStoreSettings())
    store.start(runtime or FakeRuntime(folder, now=NOW))
    return store


def session(number=1, **changes):
    return at_stored_precision(make_session(number, **changes))


def loaded(store, **query):
    return store.load_sessions(SessionQuery(**query))


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".schema-2")


@pytest.fixture
def store(tmp_path):
    return started(tmp_path)


class TestContract(StoreContract):
    def make_store(self, folder):
        return started(folder)

    def damage(self, store, session_id):
        path = store.folder / f"{session_id}.json"
        path.write_bytes(path.read_bytes()[:-40])
        return True

    def make_guest(self, folder):
        return started(folder, FakeRuntime(folder, now=NOW, owner=False))

    def make_newer(self, store, session_id):
        path = store.folder / f"{session_id}.json"
        path.write_bytes(path.read_bytes().replace(b'"version":"2.', b'"more":1,"version":"3.'))

    def make_older(self, folder):
        data = (OLD / "predecessor-session-1.json").read_bytes()
        (folder / "sessions").mkdir(mode=0o700)
        (folder / "sessions" / "session-1.json").write_bytes(data)
        return [session_from_json(data, now=NOW)]

    def check_rest(self, store):
        found = {f"{session_id}.json" for session_id in store.session_ids()}
        assert {name for name in files_in(store.folder) if not name.startswith(".")} == found


# Saving.


def test_a_session_lies_in_sessions_under_its_id(store, tmp_path):
    where = store.persist_session(session(), replace=False)
    assert where == str(tmp_path / "sessions" / f"{session().id}.json")
    assert Path(where).read_bytes() == session_to_json(session())
    assert files_in(tmp_path) == [f"{session().id}.json"]


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        for mask in (0, 0o777):
            os.umask(mask)
            folder = tmp_path / f"{mask:o}"
            store = started(folder)
            store.persist_sessions([session(n) for n in range(6)], replace=False)
            store.persist_session(session(1), replace=True)
            store.delete_sessions([session(1).id], to_trash=True)
            for path in [folder, *folder.rglob("*")]:
                mode = stat.S_IMODE(path.stat().st_mode)
                if path.name != ".schema-2":
                    assert mode == (0o700 if path.is_dir() else 0o600), path
    finally:
        os.umask(before)


def test_a_folder_that_is_open_to_others_is_said_once(tmp_path, caplog):
    (tmp_path / "sessions").mkdir(mode=0o755)
    (tmp_path / "sessions").chmod(0o755)
    store = started(tmp_path)
    for number in range(3):
        store.persist_session(session(number), replace=False)
    assert sum("open to others" in record.getMessage() for record in caplog.records) == 1


def test_a_save_is_logged_with_id_and_path_and_without_content(store, caplog):
    caplog.set_level(logging.DEBUG)
    where = store.persist_session(session(), replace=False)
    lines = [record.getMessage() for record in caplog.records]
    assert any(session().id in line and where in line for line in lines)
    assert not any("TEST^PATIENT" in line or "P-0001" in line for line in lines)


def test_it_takes_nothing_before_it_is_started(tmp_path):
    with pytest.raises(StoreError, match="not been started"):
        JsonStore().persist_session(session(), replace=False)
    store = started(tmp_path)
    store.stop()
    with pytest.raises(StoreError, match="not been started"):
        store.load_sessions(SessionQuery())


@pytest.mark.parametrize(
    "changes",
    [
        {"device": ("192.0.2.1", 70_000)},
        {"start_ns": -1},
        {"ending": "SECRET"},
        {"connection": "SECRET\ud800"},
        {"elements": ("SECRET",)},
        {"messages": None},
        {"deliveries": ("SECRET",)},
    ],
)
def test_what_could_not_be_read_again_is_refused(store, changes):
    spoilt = session()
    changes = dict(changes)
    if "device" in changes:
        changes["device"] = spoilt.device._replace(port=70_000)
    with pytest.raises(SessionRefused) as caught:
        store.persist_session(spoilt._replace(**changes), replace=False)
    assert "SECRET" not in str(caught.value)
    assert files_in(store.folder) == []


@pytest.mark.parametrize("spoilt", [None, "text", object(), ("a", "b")])
def test_what_is_no_session_is_refused(store, spoilt):
    with pytest.raises(SessionRefused):
        store.persist_session(spoilt, replace=True)


def test_the_folder_may_vanish_while_it_runs(store, tmp_path):
    store.persist_session(session(1), replace=False)
    for path in (tmp_path / "sessions").iterdir():
        path.unlink()
    (tmp_path / "sessions").rmdir()
    assert loaded(store) == []
    (tmp_path / "sessions").rmdir()
    store.persist_sessions([session(n) for n in range(1, 5)], replace=False)
    assert loaded(store) == [session(n) for n in range(1, 5)]


def test_a_session_in_a_folder_below_stays_there(store, tmp_path):
    below = tmp_path / "sessions" / "2026" / "01"
    below.mkdir(parents=True)
    (below / f"{session(1).id}.json").write_bytes(session_to_json(session(1)))
    assert loaded(store) == [session(1)]
    assert loaded(store, ids=(session(1).id,)) == [session(1)]
    changed = session(1)._replace(ignored=True)
    assert store.persist_session(session(1), replace=False) == str(below / f"{session(1).id}.json")
    assert store.persist_session(changed, replace=True) == str(below / f"{session(1).id}.json")
    assert loaded(store) == [changed]
    assert store.delete_sessions([session(1).id], to_trash=True) == [session(1).id]
    assert store.restore_sessions([session(1).id]) == [session(1).id]
    assert files_in(tmp_path) == [f"{session(1).id}.json"]


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


# Reading.


def test_only_regular_files_with_an_id_for_a_name_are_sessions(store, tmp_path, caplog):
    store.persist_session(session(1), replace=False)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{session(2).id}.json").write_bytes(session_to_json(session(2)))
    (store.folder / f"{session(2).id}.json").symlink_to(outside / f"{session(2).id}.json")
    (store.folder / "below").symlink_to(outside)
    (store.folder / "notes.json").write_text("{}")
    (store.folder / f"{session(3).id}.json.bak").write_bytes(session_to_json(session(3)))
    (store.folder / f"{session(4).id}.json").mkdir()
    assert loaded(store) == [session(1)]
    assert store.session_ids() == [session(1).id]
    assert loaded(store, ids=(session(2).id, session(4).id)) == []
    assert not store.session_exists(session(2).id)
    assert store.session_exists(session(1).id)
    assert not store.session_exists("../sessions/x")


def test_a_folder_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sessions").symlink_to(tmp_path / "elsewhere")
    store = started(tmp_path)
    with pytest.raises(StoreError, match="cannot make or use"):
        store.persist_session(session(), replace=False)
    assert files_in(tmp_path / "elsewhere") == []


def test_a_damaged_file_is_logged_once_and_stays_where_it_is(store, caplog):
    store.persist_sessions([session(1), session(2)], replace=False)
    damaged = store.folder / f"{session(1).id}.json"
    damaged.write_text('{"sessionId": "SECRET^PATIENT"')
    assert loaded(store) == loaded(store) == [session(2)]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert str(damaged) in lines[0]
    assert "SECRET" not in caplog.text
    assert damaged.exists()


def test_a_file_under_another_sessions_name_is_skipped(store):
    (store.folder / f"{session(1).id}.json").write_bytes(session_to_json(session(2)))
    assert loaded(store) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_file_never_passes_for_a_save(store, content):
    for replace in (False, True):
        path = store.folder / f"{session(1).id}.json"
        path.write_bytes(content)
        store.persist_session(session(1), replace=replace)
        assert loaded(store, ids=(session(1).id,)) == [session(1)]
        path.write_bytes(content)
        assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in (1, 2, 3)], replace=replace))
        assert loaded(store) == [session(n) for n in (1, 2, 3)]


def test_ids_that_name_no_time_are_in_order_too(store):
    ids = [f"{n:08x}-0000-4000-8000-000000000000" for n in (5, 3, 4, 1, 2)]
    sessions = [session(n, id=ids[n]) for n in range(5)]
    store.persist_sessions(sessions, replace=False)
    lying = [session(n, id=f"0190000{9 - n}-0000-7000-8000-000000000000") for n in range(5, 8)]
    store.persist_sessions(lying, replace=False)
    assert loaded(store) == sessions + lying
    assert loaded(store, newest_first=True, limit=4) == (sessions + lying)[:-5:-1]
    assert loaded(store, since=sessions[2].started_at, until=lying[1].started_at) == [*sessions[2:], lying[0]]


def test_a_listing_opens_no_more_files_than_it_needs(store, monkeypatch):
    store.persist_sessions([session(n) for n in range(50)], replace=False)
    opened = []
    look = files.look
    monkeypatch.setattr(files, "look", lambda path: (opened.append(path), look(path))[1])
    assert loaded(store, newest_first=True, limit=3) == [session(n) for n in (49, 48, 47)]
    assert len(opened) == 3
    middle = session(25)
    assert loaded(store, after=(middle.started_at, middle.id), limit=2) == [session(26), session(27)]
    assert len(opened) <= 3 + 3
    assert loaded(store, since=session(48).started_at) == [session(48), session(49)]
    assert len(opened) <= 3 + 3 + 2


def test_a_search_reads_what_separators_the_message_declares(store):
    text = "MSH*$~\\&*A\rPID*1**P-77$$$LAB~P-78**X\rSPM*1*S-88$7\r"
    base = session(1)
    message = base.messages[0]._replace(text=text.encode())
    element = base.elements[0]._replace(span=(0, len(text)))
    odd = base._replace(elements=(element, base.elements[1]), messages=(message, base.messages[1]))
    store.persist_session(odd, replace=False)
    for query in ({"patient": "P-77"}, {"patient": "P-78"}, {"patient": "P-77$$$LAB~P-78"}, {"specimen": "S-88"}):
        assert loaded(store, **query) == [odd]
    assert loaded(store, patient="P-7") == []


# Recovery.


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


# Migration.


def test_the_predecessors_files_are_brought_up_and_their_originals_kept(tmp_path):
    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o700)
    data = (OLD / "predecessor-session-1.json").read_bytes()
    (folder / "session-1.json").write_bytes(data)
    (folder / "notes.json").write_text('{"my": "notes"}')
    (folder / "session-9.json").write_text("{ damaged")
    store = started(tmp_path)
    expected = session_from_json(data, now=NOW)
    assert loaded(store) == [expected]
    where = folder / f"{expected.id}.json"
    assert schema_version_of(where.read_bytes()) == "2.0.0"
    assert (tmp_path / "predecessor" / "session-1.json").read_bytes() == data
    assert files_in(folder) == sorted([where.name, "notes.json", "session-9.json"])
    before = where.stat()
    assert loaded(started(tmp_path)) == [expected]
    assert where.stat().st_mtime_ns == before.st_mtime_ns
    assert where.stat().st_ino == before.st_ino


def test_two_old_files_of_one_name_are_both_kept(tmp_path):
    data = (OLD / "predecessor-session-1.json").read_bytes()
    for number, folder in enumerate((tmp_path / "sessions", tmp_path / "sessions" / "below")):
        folder.mkdir(mode=0o700)
        old = json.loads(data) | {"startTime": 1_762_594_200_000 + number}
        (folder / "session-1.json").write_text(json.dumps(old))
    assert len(loaded(started(tmp_path))) == 2
    assert files_in(tmp_path / "predecessor") == ["session-1-1.json", "session-1.json"]


def test_an_old_file_with_a_proper_id_is_brought_up_in_place(tmp_path, caplog):
    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o700)
    session_id = session(1).id
    data = json.dumps(json.loads((OLD / "predecessor-session-2-no-metadata.json").read_bytes())
                      | {"sessionId": session_id})  # fmt: skip
    (folder / f"{session_id}.json").write_text(data)
    store = started(tmp_path)
    found = loaded(store)[0]
    assert found.id == session_id
    assert found.first_saved_at == NOW
    assert found.persisted_until == NOW + timedelta(days=30)
    assert schema_version_of((folder / f"{session_id}.json").read_bytes()) == "2.0.0"
    assert (tmp_path / "predecessor" / f"{session_id}.json").read_text() == data


def test_a_file_of_a_newer_version_is_read_and_never_rewritten(store, tmp_path):
    path = store.folder / f"{session(1).id}.json"
    for indent in (None, 2):
        newer = session_to_dict(session(1), saved=True) | {"_metadata": {"version": "3.1.0", "more": {"deep": 1}}}
        path.write_text(json.dumps(newer, indent=indent))
        before = path.read_bytes()
        again = started(tmp_path)
        assert loaded(again) == [session(1)]
        with pytest.raises(StoreError, match="newer version"):
            again.persist_session(session(1, ignored=True), replace=True)
        assert again.persist_session(session(1, ignored=True), replace=False) == str(path)
        assert path.read_bytes() == before


def test_a_start_with_very_many_files_goes_on_at_the_next(tmp_path):
    from hl7core_plugins.json_store import recovery
    from hl7core_plugins.json_store.layout import Layout

    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o700)
    old = json.loads((OLD / "predecessor-session-1.json").read_bytes())
    for number in range(3):
        session_id = session(number).id
        (folder / f"{session_id}.json").write_text(json.dumps(old | {"sessionId": session_id}))
    layout = Layout(str(tmp_path))
    paths = sorted(folder.iterdir())
    assert not recovery.migrate(layout, paths, NOW, clock=iter([0, 1, 99]).__next__)
    assert [schema_version_of(path.read_bytes()) for path in paths] == ["2.0.0", "1.0.0", "1.0.0"]
    assert not (folder / ".schema-2").exists()
    started(tmp_path)
    assert [schema_version_of(path.read_bytes()) for path in paths] == ["2.0.0"] * 3
    assert (folder / ".schema-2").exists()


# Trash.


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


GOOD = session(1).id
HOSTILE = [
    # Out of the folder, in many spellings.
    *(f"{dots}{slash}{rest}" for dots in ("..", "../..", "../../../../../..", ".", "....", "..;", "..\x00", "%2e%2e",
      "%252e%252e", "\u2025", "\uff0e\uff0e", "..%c0%af", "~", "~root", "$HOME", "`id`", "*", "C:", "\\\\?\\C:", "file:")
      for slash in ("/", "\\", "//", "%2f", "\u2215") for rest in ("etc/passwd", "x")),
    # Almost an id.
    GOOD + "\n", "\n" + GOOD, GOOD + " ", " " + GOOD, GOOD + "\0", GOOD[:-1] + "\0", GOOD[:-1] + "/", GOOD[:-1], GOOD + "0",
    GOOD.upper(), GOOD.replace("-", "_"), GOOD[:-1] + "g", GOOD[:-1] + "\u0660", "\u0660" * 36, "A" * 36, "../" * 12,
    "./" * 18, GOOD + ".json", GOOD + "/../x", GOOD[:33] + "/..", "/" + GOOD[1:], "." + GOOD[1:], GOOD[:35] + "\u0301",
    GOOD + ".999.0123456789abcdef.tmp", f"{GOOD}/{GOOD}", f"../trash/cleanup-20260103T120000Z/{GOOD}",
    # Names that systems take for something else.
    "", ".", "..", "/", "//", "\\", "con", "nul", "aux.json", "-", "--", "-rf", "--help", ".schema-2", "sessions", "trash",
    "index", "predecessor", "engine.lock", "/dev/null", "/dev/zero", "/proc/self/mem", "/etc/passwd", "|id", ";id", "&id",
    "\ud800" * 36, "\U0001f4a9" * 9, "a" * 5000, "0" * 255, "\x7f" * 36, "\x1b[2J" * 9, "\r\n" * 18, " " * 36, "\t" * 36,
    "%s" * 18, "{0}" * 12, "[0-9a-f-]{36}", "0x" + "0" * 34, "None", "null", "true", "NaN", "1e9", "<script>", "' OR 1=1 --",
    "\ufeff" + GOOD[1:], GOOD[:-1] + "\u200b", "\u202e" + GOOD[1:], "\u0030" * 35 + "\u00b2", "\uff10" * 36,
]  # fmt: skip


def test_there_are_enough_hostile_names():
    assert len(set(HOSTILE)) >= 200


def everything(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_no_name_leads_out_of_the_folder(tmp_path):
    store = started(tmp_path / "data")
    store.persist_sessions([session(2), session(3)], replace=False)
    store.delete_sessions([session(3).id], to_trash=True)
    (tmp_path / f"{GOOD}.json").write_bytes(session_to_json(session(1)))  # outside
    before = everything(tmp_path)
    for name in HOSTILE:
        with pytest.raises(SessionRefused):
            store.persist_session(session(1)._replace(id=name), replace=True)
        assert isinstance(store.persist_sessions([session(1)._replace(id=name)], replace=False)[0], SessionRefused)
        assert store.delete_sessions([name], to_trash=True) == []
        assert store.delete_sessions([name], to_trash=False) == []
        assert store.restore_sessions([name]) == []
        assert loaded(store, ids=(name,)) == []
        assert not store.session_exists(name)
        assert everything(tmp_path) == before, name


def test_no_name_in_a_search_leads_out_of_the_folder_either(tmp_path):
    store = started(tmp_path / "data")
    store.persist_session(session(2), replace=False)
    before = set(everything(tmp_path))
    for name in HOSTILE:
        for field in ("specimen", "patient", "control_id", "device", "protocol", "finding", "pending_for"):
            assert loaded(store, **{field: name or "?"}) == []
    store.stop()
    assert {path for path in everything(tmp_path) if "/index" not in path} == {p for p in before if "/index" not in p}
