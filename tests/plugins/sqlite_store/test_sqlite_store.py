import logging
import os
import sqlite3
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hl7core import (
    Delivery,
    DeliveryStatus,
    Finding,
    Hl7coreError,
    SessionQuery,
    SessionRefused,
    SettingsError,
    Severity,
    StoreError,
    session_from_json,
    session_to_json,
)
from hl7core.model.schema import at_stored_precision
from hl7core.testing import FakeRuntime, StoreContract, make_session
from hl7core_plugins.sqlite_store import SqliteStore, SqliteStoreSettings, database, place, schema
from hl7core_plugins.sqlite_store.rows import row_of, stored_row
from hl7core_plugins.sqlite_store.schema import STEPS, bring_up
from hl7core_plugins.sqlite_store.soundness import is_sound

NOW = datetime(2026, 1, 3, tzinfo=UTC)


def started(folder, runtime=None, **settings):
    store = SqliteStore()
    store.configure(SqliteStoreSettings(**settings))
    store.start(runtime or FakeRuntime(folder))
    return store


def session(number=1, **changes):
    return at_stored_precision(make_session(number, **changes))


def loaded(store, **query):
    return store.load_sessions(SessionQuery(**query))


def asked(path, statement, *values):
    """Ask the database as any other program would."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


@pytest.fixture
def store(tmp_path):
    return started(tmp_path)


def edited(path, statement, *values):
    """Change the database behind the store's back, as another program would."""
    connection = sqlite3.connect(path, timeout=10)
    with connection:
        connection.execute(statement, values)
    connection.close()


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
        sessions = [session(number) for number in (1, 2, 3)]
        connection = sqlite3.connect(folder / "sessions.sqlite", isolation_level=None)
        bring_up(connection, steps=STEPS[:1])
        for one in sessions:
            columns = (one.id, 2, one.start_ns // 1000, one.end_ns // 1000, "pending", "mllp", one.device.address)
            connection.execute(
                "INSERT INTO sessions (id, major, start_us, end_us, status, protocol, device, lis, json)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*columns, one.lis.address, session_to_json(one).decode()),
            )
        connection.close()
        return sessions

    def check_rest(self, store):
        names = {path.name for path in store.folder.iterdir()}
        assert names == {"sessions.sqlite", "sessions.sqlite-wal", "sessions.sqlite-shm"}
        connection = sqlite3.connect(store.path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


# The file.


def test_a_session_is_a_row_with_its_json_and_columns_that_people_can_ask_for(store, tmp_path):
    one = session(
        3, deliveries=(Delivery("rest"),), persisted_until=NOW, findings=(Finding("gap", Severity.INFO, "a"),)
    )
    where = store.persist_session(one, replace=False)
    assert where == f"{tmp_path / 'sessions.sqlite'}#{one.id}"
    query = "SELECT id, start_us, end_us, status, protocol, device, lis, persisted_until_us, json FROM sessions"
    ((*columns, json),) = asked(store.path, query)
    start_us, until_us = one.start_ns // 1000, int(NOW.timestamp()) * 1_000_000
    end_us = one.end_ns // 1_000_000 * 1000
    assert columns == [one.id, start_us, end_us, "pending", "mllp", "192.0.2.10", "192.0.2.20", until_us]
    assert json.encode() == session_to_json(one)
    assert asked(store.path, "SELECT json_extract(json, '$.messageInfo[0].controlId') FROM sessions") == [("M000003",)]
    found_by = asked(store.path, "SELECT DISTINCT kind FROM found_by ORDER BY kind")
    assert found_by == [("control_id",), ("finding",), ("patient",), ("pending",), ("specimen",)]


def test_the_database_is_0600_and_its_folder_0700_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        for mask in (0, 0o777):
            os.umask(mask)
            folder = tmp_path / f"{mask:o}" / "below"
            store = started(folder)
            store.persist_sessions([session(n) for n in range(6)], replace=False)
            assert {path.name for path in folder.iterdir()} == {f"sessions.sqlite{end}" for end in ("", "-wal", "-shm")}
            for path in [folder.parent, *folder.parent.rglob("*")]:
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
            store.stop()
    finally:
        os.umask(before)


def test_a_database_that_is_open_to_others_is_closed_to_them_and_that_is_said(tmp_path, caplog):
    started(tmp_path).stop()
    path = tmp_path / "sessions.sqlite"
    path.chmod(0o644)
    store = started(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sum("was open to others" in record.getMessage() for record in caplog.records) == 1
    assert store.folder == tmp_path


def test_the_file_is_a_setting_and_may_change_while_it_runs(tmp_path):
    runtime = FakeRuntime(tmp_path / "data")
    store = started(tmp_path, runtime, file="my.db")
    store.persist_session(session(1), replace=False)
    assert store.path == tmp_path / "data" / "my.db"
    store.configure(SqliteStoreSettings(file=str(tmp_path / "else where" / "50%?#.db")))
    assert loaded(store) == []
    store.persist_session(session(2), replace=False)
    assert (tmp_path / "else where" / "50%?#.db").exists()
    store.configure(SqliteStoreSettings(file="my.db", lock_timeout=1))
    assert loaded(store) == [session(1)]


def test_settings_out_of_bounds_are_refused(store):
    for wrong in ({"lock_timeout": 0}, {"lock_timeout": 61}, {"more": 1}):
        with pytest.raises(ValidationError):
            SqliteStoreSettings(**wrong)
    for file in ("", "a\0b"):
        with pytest.raises(SettingsError, match="must name a file"):
            store.configure(SqliteStoreSettings(file=file))


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sessions.sqlite").symlink_to(tmp_path / "elsewhere" / "x")
    store = started(tmp_path)
    with pytest.raises(StoreError, match="not a regular file"):
        store.persist_session(session(), replace=False)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_database_of_a_later_version_is_left_alone(tmp_path, caplog):
    started(tmp_path).stop()
    path = tmp_path / "sessions.sqlite"
    asked(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    store = started(tmp_path)
    for use in (lambda: loaded(store), lambda: store.persist_session(session(), replace=False), store.store_size):
        with pytest.raises(StoreError, match=r"later version of hl7core .*its schema is 99.*is left alone"):
            use()
    assert "later version" in caplog.text
    store.stop()
    assert path.read_bytes() == before


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "sessions.sqlite"
    asked(path, "CREATE TABLE theirs (a)")
    store = started(tmp_path)
    with pytest.raises(StoreError, match="another program"):
        store.persist_session(session(), replace=False)
    assert asked(path, "SELECT name FROM sqlite_schema") == [("theirs",)]


def test_on_a_network_file_system_it_is_refused_unless_forced(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "network_kind", lambda _folder: "nfs4")
    store = started(tmp_path)
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*network_folder = true"):
        store.persist_session(session(), replace=False)
    assert list(tmp_path.iterdir()) == []
    store.configure(SqliteStoreSettings(network_folder=True))
    store.persist_session(session(), replace=False)
    assert loaded(store) == [session()]


@pytest.mark.parametrize(
    ("kind", "told"), [("nfs4", "nfs4"), ("fuse.sshfs", "fuse.sshfs"), ("ext4", ""), ("tmpfs", "")]
)
def test_the_file_system_is_looked_up_by_its_device(tmp_path, monkeypatch, kind, told):
    device = tmp_path.stat().st_dev
    mounts = (
        f"1 0 0:99 / /proc rw - proc proc rw\n2 0 {os.major(device)}:{os.minor(device)} / / rw shared:1 - {kind} x rw\n"
    )
    read_text = place.Path.read_text
    monkeypatch.setattr(
        place.Path, "read_text", lambda path, **how: mounts if path.name == "mountinfo" else read_text(path, **how)
    )
    assert place.network_kind(tmp_path) == told


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
            with pytest.raises(StoreError, match="is not there"):
                store.persist_session(session(2), replace=False)
        with pytest.raises(StoreError, match="is not there"):
            loaded(store)
        assert list(folder.iterdir()) == []
        assert run("mount", "--bind", str(disk), str(folder))
        store.persist_session(session(2), replace=False)
        assert loaded(store) == [session(1), session(2)]
        store.stop()
    finally:
        for mounted in (folder, disk):
            run("umount", "--lazy", str(mounted))


# Versions.


def test_a_database_takes_the_steps_that_it_has_not_taken_each_whole_or_not_at_all():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    assert bring_up(connection) == len(STEPS)
    assert bring_up(connection) == 0

    def third(connection):
        connection.execute("CREATE TABLE third (a)")

    def fourth(connection):
        connection.execute("CREATE TABLE fourth (a)")
        raise sqlite3.OperationalError("disk full")

    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="disk full"):
            bring_up(connection, steps=(*STEPS, third, fourth))
        assert schema.version_of(connection) == len(STEPS) + 1
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        assert "third" in tables
        assert "fourth" not in tables
    with pytest.raises(StoreError, match="later version"):
        bring_up(connection)


def test_a_guest_brings_no_database_up_but_makes_a_new_one(tmp_path):
    TestContract().make_older(tmp_path)
    guest = started(tmp_path, FakeRuntime(tmp_path, owner=False))
    with pytest.raises(StoreError, match="earlier version"):
        guest.persist_session(session(9), replace=False)
    new = started(tmp_path / "new", FakeRuntime(tmp_path / "new", owner=False))
    new.persist_session(session(9), replace=False)
    assert loaded(new) == [session(9)]


# Locks.


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


# Saving.


def test_it_takes_nothing_before_it_is_started_or_after_it_has_stopped(tmp_path):
    for store in (SqliteStore(), started(tmp_path)):
        store.stop()
        with pytest.raises(StoreError, match="not been started"):
            store.persist_session(session(), replace=False)
        with pytest.raises(StoreError, match="not been started"):
            loaded(store)
        assert isinstance(store.persist_sessions([session()], replace=False)[0], StoreError)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": session().device._replace(port=70_000)},
        {"device": session().device._replace(address='SECRET"')},
        {"start_ns": -1},
        {"ending": "SECRET"},
        {"connection": "SECRET\ud800"},
        {"elements": ("SECRET",)},
        {"elements": (session().elements[0]._replace(message=7),)},
        {"elements": (session().elements[0]._replace(span=(5, 99_999)),)},
        {"messages": None},
        {"deliveries": ("SECRET",)},
        {"retention_days": False},
        {"revision": -1},
        {"persisted_until": datetime(1960, 1, 1, tzinfo=UTC)},
    ],
)
def test_what_could_not_be_read_again_is_refused_and_the_others_are_saved(store, changes):
    spoilt = session(1)._replace(**changes)
    outcomes = store.persist_sessions([spoilt, session(2), None, ("a", "b")], replace=False)
    if "SECRET" in str(changes.get("device", "")):  # odd, but it can be read again
        assert isinstance(outcomes[0], str | SessionRefused)
    else:
        assert isinstance(outcomes[0], SessionRefused)
        assert "SECRET" not in str(outcomes[0])
        assert loaded(store) == [session(2)]
    assert [type(outcome) for outcome in outcomes[1:]] == [str, SessionRefused, SessionRefused]


def sessions():
    """Sessions with whatever a plugin may have put into them."""
    texts = st.sampled_from(["", "x", 'a"b', "back\\slash", "\ud800", "é", "x" * 300, None, 7])
    numbers = st.sampled_from([0, 1, 2**62, -1, 2**63, 1_700_000_000_000_000_000, 1.5, True, None])
    moments = st.sampled_from([None, NOW, datetime(1960, 1, 1, tzinfo=UTC), datetime(2020, 1, 1), "now"])  # noqa: DTZ001
    deliveries = st.lists(
        st.builds(
            Delivery, st.sampled_from(["a", "b", 7]), st.sampled_from([*DeliveryStatus, "pending"]), numbers, moments
        ),
        max_size=2,
    ).map(tuple)
    findings = st.lists(
        st.builds(Finding, texts, st.sampled_from([*Severity, "bad"]), texts, numbers, numbers), max_size=1
    )
    ends = st.builds(session().device.__class__, texts, st.sampled_from([0, 65535, 65536, -1, "x"]))
    elements = st.sampled_from(["time_ns", "offset", "missing", "message", "span", "late", "before"]).flatmap(
        lambda field: st.one_of(numbers, texts, st.tuples(numbers, numbers)).map(
            lambda value: (session().elements[0]._replace(**{field: value}), session().elements[1])
        )
    )
    fields = {
        "protocol": texts, "sensor": texts, "connection": texts, "start_ns": numbers, "end_ns": numbers,
        "revision": numbers, "retention_days": numbers, "deliveries": deliveries, "findings": findings.map(tuple),
        "device": ends, "saved_at": moments, "persisted_until": moments, "elements": elements,
        "ignored": st.sampled_from([True, False, None, 1]), "is_complete": st.sampled_from([True, False, 1]),
    }  # fmt: skip
    names = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen})).map(
        lambda changes: make_session(1)._replace(**changes)
    )


@given(sessions())
def test_what_counts_as_sound_can_be_read_again_and_its_columns_follow_from_its_json(one):
    if is_sound(one):
        try:
            data = session_to_json(one)
        except (SessionRefused, UnicodeEncodeError):  # not Unicode
            return
        read = session_from_json(data)
        assert session_to_json(read) == data
        assert row_of(one) == stored_row(data)
    else:
        try:
            row = row_of(one)
        except SessionRefused:
            return
        assert row == stored_row(row.values[-1].encode())


def test_the_sessions_of_the_wire_are_sound():
    for protocol in ("mllp", "lis01", "plain"):
        assert is_sound(make_session(1, protocol=protocol))


def test_a_save_is_logged_without_content(store, caplog):
    caplog.set_level(logging.DEBUG)
    store.persist_session(session(), replace=False)
    lines = [record.getMessage() for record in caplog.records]
    assert any(str(store.path) in line for line in lines)
    assert not any("TEST^PATIENT" in line or "P-0001" in line for line in lines)


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


def test_a_status_that_changes_touches_no_index_but_its_own(store):
    one = session(1, deliveries=(Delivery("rest"),))
    store.persist_session(one, replace=False)
    before = asked(store.path, "SELECT * FROM found_by WHERE kind <> 'pending' ORDER BY kind, value")
    sent = one._replace(deliveries=(Delivery("rest", DeliveryStatus.SUBMITTED, 1, None, NOW),))
    store.persist_session(sent, replace=True)
    assert asked(store.path, "SELECT status FROM sessions") == [("submitted",)]
    assert asked(store.path, "SELECT * FROM found_by ORDER BY kind, value") == before
    assert loaded(store) == [sent]


def test_a_session_of_many_thousand_identifiers_is_saved_and_found(store):
    made = make_session(1)
    text = made.messages[0].text + b"".join(b"OBR|%d|SP-%05d\r" % (n, n) for n in range(12_000))
    element = made.elements[0]._replace(span=(0, len(text)))
    messages = (made.messages[0]._replace(text=text, control_id="C" * 5000), made.messages[1])
    big = at_stored_precision(made._replace(messages=messages, elements=(element, made.elements[1])))
    store.persist_session(big, replace=False)
    assert loaded(store, specimen="SP-00042", control_id="C" * 5000) == [big]
    assert loaded(store, control_id="C" * 4999) == []
    assert store.delete_sessions([big.id], to_trash=False) == [big.id]
    assert asked(store.path, "SELECT count(*) FROM found_by") == [(0,)]


# Reading.


def test_a_row_that_cannot_be_read_is_logged_once_and_kept(store, caplog):
    store.persist_sessions([session(1), session(2)], replace=False)
    edited(store.path, "UPDATE sessions SET json = ? WHERE id = ?", '{"sessionId": "SECRET^PATIENT"', session(1).id)
    assert loaded(store) == loaded(store) == [session(2)]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert session(1).id in lines[0]
    assert "SECRET" not in caplog.text
    assert asked(store.path, "SELECT count(*) FROM sessions") == [(2,)]


def test_a_row_that_holds_another_session_or_no_text_is_skipped(store):
    store.persist_sessions([session(1), session(2), session(3)], replace=False)
    other = session_to_json(session(9)).decode()
    edited(store.path, "UPDATE sessions SET json = ? WHERE id = ?", other, session(1).id)
    edited(store.path, "UPDATE sessions SET json = ? WHERE id = ?", b"\xff\xfe", session(2).id)
    assert loaded(store) == [session(3)]


@pytest.mark.parametrize("replace", [False, True])
def test_a_damaged_row_never_passes_for_a_save(store, replace):
    store.persist_session(session(1), replace=False)
    edited(store.path, "UPDATE sessions SET json = '{', status = 'x'")
    store.persist_session(session(1), replace=replace)
    assert loaded(store, status=(DeliveryStatus.PENDING,)) == [session(1)]


def test_what_is_stored_can_be_read_while_nothing_can_be_written(store, monkeypatch):
    store.persist_session(session(1), replace=False)
    begin = database.Database._begin

    def full(_self, _connection):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(database.Database, "_begin", full)
    store._database._drop()
    with pytest.raises(StoreError, match="No space left"):
        store.persist_session(session(2), replace=False)
    assert loaded(store) == [session(1)]
    monkeypatch.setattr(database.Database, "_begin", begin)
    store.persist_session(session(2), replace=False)
    assert loaded(store) == [session(1), session(2)]


def test_sessions_can_be_looked_up_by_id(store):
    store.persist_sessions([session(2), session(1)], replace=False)
    store.delete_sessions([session(2).id], to_trash=True)
    assert store.session_ids() == [session(1).id]
    assert store.session_exists(session(1).id)
    assert not store.session_exists(session(2).id)
    assert not store.session_exists("../x")


def test_searches_go_by_an_index(store):
    """No search that an index can answer reads every session."""
    from hl7core_plugins.sqlite_store.query import _select

    store.persist_sessions([session(n) for n in range(50)], replace=False)
    connection = sqlite3.connect(store.path)
    for query in (
        SessionQuery(specimen="S-0001"),
        SessionQuery(patient="P-0001", control_id="M000001", newest_first=True),
        SessionQuery(pending_for="rest", after=(NOW, session().id)),
        SessionQuery(finding="gap", status=(DeliveryStatus.FAILED,)),
        SessionQuery(expired_at=NOW),
        SessionQuery(status=(DeliveryStatus.FAILED,), since=NOW),
        SessionQuery(device="192.0.2.10"),
        SessionQuery(lis="192.0.2.20", newest_first=True),
        SessionQuery(protocol="lis01"),
        SessionQuery(newest_first=True),
        SessionQuery(since=NOW, until=NOW + timedelta(days=1)),
    ):
        statement, values = _select(query, None)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        scans = [line for line in plan if line.startswith("SCAN") and "USING INDEX sessions_started" not in line]
        assert not scans, (query, plan)
    connection.close()


# Throwing away.


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
