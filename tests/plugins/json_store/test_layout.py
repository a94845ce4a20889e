"""Where sessions lie; no name leads out of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hl7core import SessionRefused, StoreError, session_to_json
from plugins.json_store.parts import files_in, loaded, session, started


def test_a_session_lies_in_sessions_under_its_id(store, tmp_path):
    where = store.persist_session(session(), replace=False)
    assert where == str(tmp_path / "sessions" / f"{session().id}.json")
    assert Path(where).read_bytes() == session_to_json(session())
    assert files_in(tmp_path) == [f"{session().id}.json"]


def test_a_folder_that_is_open_to_others_is_said_once(tmp_path, caplog):
    (tmp_path / "sessions").mkdir(mode=0o755)
    (tmp_path / "sessions").chmod(0o755)
    store = started(tmp_path)
    for number in range(3):
        store.persist_session(session(number), replace=False)
    assert sum("open to others" in record.getMessage() for record in caplog.records) == 1


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


def test_a_folder_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sessions").symlink_to(tmp_path / "elsewhere")
    store = started(tmp_path)
    with pytest.raises(StoreError, match="cannot make or use"):
        store.persist_session(session(), replace=False)
    assert files_in(tmp_path / "elsewhere") == []


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
