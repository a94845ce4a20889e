"""Files of the predecessor and of newer versions."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from hl7core import StoreError, schema_version_of, session_from_json
from hl7core.model.schema import session_to_dict
from plugins.json_store.parts import NOW, OLD, files_in, loaded, session, started


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
