"""Where the database lies: its folder, its modes, and the file systems it is refused on."""

from __future__ import annotations

import os
import stat

import pytest

from hl7core import StoreError
from hl7core_plugins.sqlite_store import SqliteStoreSettings, place
from plugins.sqlite_store.parts import loaded, session, started


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
    assert sum("had mode" in record.getMessage() for record in caplog.records) == 1
    assert store.folder == tmp_path


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sessions.sqlite").symlink_to(tmp_path / "elsewhere" / "x")
    store = started(tmp_path)
    with pytest.raises(StoreError, match="not a regular file"):
        store.persist_session(session(), replace=False)
    assert list((tmp_path / "elsewhere").iterdir()) == []


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
