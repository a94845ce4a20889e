"""Files: regular ones alone, with private modes."""

from __future__ import annotations

import os
import stat

from hl7core import session_to_json
from plugins.json_store.parts import loaded, session, started


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
