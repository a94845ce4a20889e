"""Importing: sessions of another store, or of files, into the store of record."""

import json
from datetime import UTC, datetime

import pytest

from engine.parts import Store, poll
from hl7core.engine.control.client import ControlClient
from hl7core.engine.imports import Imports
from hl7core.errors import EngineError, PluginError, StoreError
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.schema import at_stored_precision, session_to_json
from hl7core.model.session import SessionQuery
from hl7core.testing import make_session
from hl7core.testing.harness import EngineHarness
from hl7core_plugins.json_store import JsonStore
from hl7core_plugins.sqlite_store import SqliteStore

LONG_AGO = datetime(2020, 1, 2, tzinfo=UTC)
SENT = Delivery("lab", DeliveryStatus.SUBMITTED, 2, None, LONG_AGO)


def stored(number, **fields):
    session = make_session(number)._replace(
        first_saved_at=LONG_AGO,
        saved_at=LONG_AGO,
        persisted_until=LONG_AGO.replace(year=2100),
        retention_days=7,
        deliveries=(SENT,),
    )
    return at_stored_precision(session._replace(**fields))


class Redactor:
    """It changes whatever is saved."""

    @hookimpl
    def before_persist(self, session):
        return session._replace(sensor="redacted")


@pytest.fixture
def house(tmp_path):
    old = Store()
    settings = {"core.store": "json_store", "core.output_folder": "data"}
    plugins = {"old_store": old, "json_store": JsonStore, "redactor": Redactor()}
    with EngineHarness(tmp_path, plugins, settings=settings) as harness:
        harness.old = old
        yield harness


def fill(store, count, **fields):
    sessions = [stored(number, **fields) for number in range(1, count + 1)]
    store.held |= {session.id: session for session in sessions}
    return sessions


def brought(harness, source="old_store", **options):
    async def run():
        pages = [dict(report.as_json()) async for report in Imports(harness.engine.parts).from_store(source, **options)]
        return pages[-1] | {"pages": len(pages)}

    return harness.call(run())


def from_files(harness, *paths):
    async def run():
        return [report async for report in Imports(harness.engine.parts).from_files([str(path) for path in paths])][-1]

    return harness.call(run())


def in_json(harness):
    return {path.stem: path.read_bytes() for path in (harness.folder / "data/sessions").rglob("*.json")}


def test_every_session_comes_over_as_it_was(house):
    sessions = fill(house.old, 250)
    report = brought(house)
    assert (report["found"], report["copied"], report["known"], report["failed"]) == (250, 250, 0, 0)
    assert report["pages"] == 3
    assert report["at"] == report["last"] > report["first"] > 0
    assert in_json(house) == {session.id: session_to_json(session) for session in sessions}
    assert len(house.old.held) == 250  # it was copied, not moved


def test_from_files_to_sqlite_and_back_every_session_stays_as_it_was(tmp_path):
    sessions = [stored(number) for number in range(1, 131)]
    plugins = {"json_store": JsonStore, "sqlite_store": SqliteStore}
    settings = {"core.store": "json_store", "core.output_folder": "data"}
    with EngineHarness(tmp_path, plugins, settings=settings) as house:
        (tmp_path / "all.jsonl").write_bytes(b"\n".join(map(session_to_json, sessions)))
        assert from_files(house, tmp_path / "all.jsonl").copied == 130
        house.call(house.runtime.change_settings({"core.store": "sqlite_store"}))
        report = brought(house, "json_store", empty=True)
        assert (report["copied"], report["removed"], report["failed"]) == (130, 130, 0)
        assert in_json(house) == {}
        assert house.sessions(SessionQuery(limit=1000)) == sessions
        assert house.sessions(SessionQuery(specimen="S-0077")) == [sessions[76]]
        house.call(house.runtime.change_settings({"core.store": "json_store"}))
        assert brought(house, "sqlite_store")["copied"] == 130
        assert in_json(house) == {session.id: session_to_json(session) for session in sessions}


def test_a_second_import_changes_nothing(house):
    fill(house.old, 20)
    brought(house)
    before = in_json(house)
    report = brought(house)
    assert (report["found"], report["copied"], report["known"]) == (20, 0, 20)
    assert in_json(house) == before


def test_an_import_that_broke_off_goes_on_where_it_was(house):
    fill(house.old, 250)

    async def first_page():
        pages = Imports(house.engine.parts).from_store("old_store")
        await anext(pages)
        await pages.aclose()

    house.call(first_page())
    assert len(in_json(house)) == 100
    report = brought(house)
    assert (report["known"], report["copied"]) == (100, 150)


def test_what_was_saved_later_stays_and_what_is_newer_in_the_source_comes_over(house):
    first, second = fill(house.old, 2)
    brought(house)
    house.call(house.runtime.ignore([first.id]))
    poll(lambda: b'"ignored"' in in_json(house)[first.id])
    house.old.held[second.id] = second._replace(saved_at=datetime(2100, 1, 1, tzinfo=UTC), ignored=True)
    report = brought(house)
    assert (report["newer"], report["copied"]) == (1, 1)
    held = {session.id: session for session in house.sessions()}
    assert held[first.id].ignored
    assert held[second.id].saved_at.year == 2100
    assert in_json(house)[second.id] == session_to_json(house.old.held[second.id])


def test_what_changes_after_the_import_is_saved_in_the_store_of_record(house):
    (session,) = fill(house.old, 1)
    assert house.call(house.runtime.ignore([session.id])) == [session.id]  # now it is in memory, as the old store's
    poll(lambda: house.old.held[session.id].ignored)
    brought(house)
    house.call(house.runtime.unignore([session.id]))
    poll(lambda: b'"submitted"' in in_json(house)[session.id])
    assert house.old.held[session.id].ignored


def test_a_copy_that_was_sent_since_is_not_pending_again_because_of_the_old_one(house):
    (session,) = fill(house.old, 1, deliveries=(Delivery("lab"),))
    brought(house)
    house.engine.keeper.submit(
        lambda: house.engine.stores.change([session.id], lambda s: s._replace(deliveries=(SENT,)))
    ).result(10)
    poll(lambda: b'"submitted"' in in_json(house)[session.id])
    assert house.sessions(SessionQuery(pending_for="lab")) == []
    house.call(house.runtime.clear())
    assert house.sessions(SessionQuery(pending_for="lab")) == []


def test_emptying_the_source_deletes_what_is_known_to_be_over_and_nothing_else(house):
    sessions = fill(house.old, 130)
    blocked = house.folder / "data/sessions" / f"{sessions[7].id}.json"
    blocked.mkdir(parents=True)  # this one cannot be written
    report = brought(house, empty=True)
    assert (report["copied"], report["failed"], report["removed"]) == (129, 1, 129)
    assert report["reason"]
    assert list(house.old.held) == [sessions[7].id]


def test_a_write_that_does_not_read_back_equal_is_no_copy(tmp_path):
    class Careless(Store):
        @hookimpl
        def load_sessions(self, query):
            return [session._replace(sensor="?") for session in super().load_sessions(query)]

    old, careless = Store(), Careless()
    with EngineHarness(
        tmp_path, {"old_store": old, "careless_store": careless}, settings={"core.store": "careless_store"}
    ) as house:
        fill(old, 3)
        report = brought(house, empty=True)
    assert (report["copied"], report["failed"], report["removed"]) == (0, 3, 0)
    assert "does not read back as it was written" in report["reason"]
    assert len(old.held) == 3


def test_an_import_that_makes_no_sense_is_refused_with_the_reason(house):
    for source, error, words in (
        ("json_store", PluginError, "is the store of record"),
        ("jsn_store", PluginError, "no plugin jsn_store is installed"),
        ("redactor", PluginError, "is not running as a store"),
    ):
        with pytest.raises(error, match=words):
            brought(house, source)
    house.call(house.runtime.change_settings({"core.enable_persistence": False}))
    with pytest.raises(EngineError, match="enable_persistence"):
        brought(house)
    house.call(house.runtime.change_settings({"core.enable_persistence": True}))
    house.old.unreadable = True
    with pytest.raises(StoreError):
        brought(house)


def test_another_process_imports_through_the_running_engine_and_sees_how_far_it_is(house):
    fill(house.old, 150)
    with ControlClient(house.engine.folder).connect() as client:
        seen = [item["found"] for item in client.stream("import", source="old_store")]
        assert seen[-1] == 150
        assert len(seen) == 2
        assert client.result["copied"] == 150
        with pytest.raises(PluginError, match="no plugin"):
            client.call("import", source="nowhere")


def test_files_of_sessions_come_in_whatever_their_layout(house, tmp_path):
    sessions = [stored(number) for number in range(1, 9)]
    lines = [session_to_json(session) for session in sessions]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b"\n".join(lines[:3]) + b"\n")
    (tmp_path / "in/b.json").write_bytes(b"[\n" + b",\n".join(lines[3:5]) + b"\n]\n")
    (tmp_path / "in/c.json").write_text(json.dumps([json.loads(line) for line in lines[5:7]], indent=2))
    (tmp_path / "in/d.json").write_bytes(lines[7])
    (tmp_path / "in/notes.txt").write_text("not looked at")
    report = from_files(house, tmp_path / "in")
    assert (report.found, report.copied, report.damaged) == (8, 8, 0)
    assert in_json(house) == {session.id: line for session, line in zip(sessions, lines, strict=True)}
    assert from_files(house, tmp_path / "in/a.jsonl", tmp_path / "in/b.json").known == 5


def test_a_damaged_line_costs_itself_alone(house, tmp_path):
    lines = [session_to_json(stored(number)) for number in range(1, 4)]
    file = tmp_path / "some.jsonl"
    file.write_bytes(lines[0] + b"\n" + lines[1][:200] + b"\nnonsense\n{}\n" + lines[2] + b"\n")
    report = from_files(house, file)
    assert (report.copied, report.damaged) == (2, 3)
    assert "line 2" in report.reason
    assert "PATIENT" not in report.reason
    file.write_text("<html>")
    assert from_files(house, file).damaged == 1
    with pytest.raises(StoreError, match="no such file"):
        from_files(house, tmp_path / "nowhere")


def test_what_was_never_saved_is_saved_like_a_session_captured_now(house, tmp_path):
    session = at_stored_precision(make_session(1))
    file = tmp_path / "read.jsonl"
    file.write_bytes(session_to_json(session, saved=False) + b"\n")
    assert from_files(house, file).copied == 1
    (held,) = house.sessions()
    assert held.first_saved_at is not None
    assert held.sensor == "redacted"  # it has not been through the plugins yet
    assert from_files(house, file).known == 1
