"""What a disk can do to a store, on pretended disks: full, read-only, forbidden, failing at each step."""

import errno
import os

import pyfakefs.helpers
import pytest

from hl7core import RecoveryDone, SessionQuery, StoreError, session_to_json
from hl7core.model.schema import at_stored_precision
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, JsonStoreSettings, files, group

FOLDER = "/data"


def started(folder=FOLDER, runtime=None):
    store = JsonStore()
    store.configure(JsonStoreSettings())
    store.start(runtime or FakeRuntime(folder))
    return store


def session(number=1, **changes):
    return at_stored_precision(make_session(number, **changes))


def loaded(store, **query):
    return store.load_sessions(SessionQuery(**query))


def drafts(store):
    return list(store.folder.rglob("*.tmp"))


@pytest.fixture
def disk(fs, monkeypatch):
    fs.set_disk_usage(10_000_000, "/")  # from here on it counts what is used
    started("/warm-up").persist_session(session(), replace=False)  # what is imported late is imported now
    monkeypatch.setattr(group, "_library", lambda: None)  # a pretended disk has no syncfs
    return fs


def test_a_full_disk_is_said_and_leaves_no_draft_behind(disk):
    store = started()
    store.persist_session(session(1), replace=False)
    disk.set_disk_usage(disk.get_disk_usage("/").used + 100, "/")
    with pytest.raises(StoreError, match="No space left on device"):
        store.persist_session(session(2), replace=False)
    outcomes = store.persist_sessions([session(n) for n in (3, 4, 5)], replace=False)
    assert [str(outcome).endswith("No space left on device") for outcome in outcomes] == [True] * 3
    with pytest.raises(StoreError, match="No space left"):
        store.persist_session(session(1, ignored=True), replace=True)
    assert drafts(store) == []
    assert loaded(store) == [session(1)]
    disk.set_disk_usage(disk.get_disk_usage("/").used + 1_000_000, "/")
    assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in (2, 3, 4, 5)], replace=False))
    assert loaded(store) == [session(n) for n in (1, 2, 3, 4, 5)]


def test_a_disk_that_fills_within_a_group_keeps_what_fitted(disk):
    store = started()
    room = len(session_to_json(session(1))) * 5 // 2
    disk.set_disk_usage(disk.get_disk_usage("/").used + room, "/")
    outcomes = store.persist_sessions([session(n) for n in range(6)], replace=False)
    saved = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert 0 < len(saved) < 6
    assert all(isinstance(outcome, StoreError) for n, outcome in enumerate(outcomes) if n not in saved)
    assert loaded(store) == [session(n) for n in saved]
    assert drafts(store) == []


@pytest.fixture
def nobody(disk):
    yield disk
    pyfakefs.helpers.reset_ids()


def test_permission_denied_is_said_with_the_folder(nobody):
    store = started()
    store.persist_session(session(1), replace=False)
    pyfakefs.helpers.set_uid(1000)
    pyfakefs.helpers.set_gid(1000)
    with pytest.raises(StoreError, match=r"/data/sessions.*Permission denied") as caught:
        store.persist_session(session(2), replace=False)
    assert "TEST^PATIENT" not in str(caught.value)
    assert isinstance(store.persist_sessions([session(2)], replace=False)[0], StoreError)


def test_a_folder_that_cannot_be_made_does_not_stop_the_start(nobody, caplog):
    nobody.create_dir("/readonly")
    files.Path("/readonly").chmod(0o555)
    pyfakefs.helpers.set_uid(1000)
    pyfakefs.helpers.set_gid(1000)
    runtime = FakeRuntime("/readonly")
    store = started("/readonly", runtime)
    assert "Permission denied" in caplog.text
    assert runtime.events == [RecoveryDone("json_store", 0, 0)]
    with pytest.raises(StoreError, match="Permission denied"):
        store.persist_session(session(), replace=False)
    assert isinstance(store.persist_sessions([session()], replace=False)[0], StoreError)
    assert loaded(store) == []


STEPS = {
    "open": (os, "open", lambda _path, flags, *_: flags & os.O_CREAT),
    "write": (os, "write", lambda *_: True),
    "fsync": (os, "fsync", lambda *_: True),
    "rename": (files.Path, "replace", lambda *_: True),
    "link": (os, "link", lambda *_: True),
}


def fail(monkeypatch, step, nth, code):
    """Make the nth call of a step fail; return its calls."""
    owner, name, concerns = STEPS[step]
    real, calls = getattr(owner, name), []

    def fake(*args, **kwargs):
        if concerns(*args):
            calls.append(name)
            if len(calls) == nth:
                raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, fake)
    return calls


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("as_one", [False, True])
def test_every_step_that_fails_once_leaves_no_false_saved(tmp_path, replace, count, code, step, as_one):
    """Each call of each step of a save fails once: what was told as saved is there, nothing is damaged or left over."""
    for nth in range(1, 40):
        store = started(tmp_path / f"{nth}")
        before = session(0)
        store.persist_session(before, replace=False)
        sessions = [session(n) for n in range(1, count + 1)]
        if replace:
            sessions[0] = session(0, ignored=True)
        with pytest.MonkeyPatch.context() as patch:
            if not as_one:
                patch.setattr(group, "_library", lambda: None)
            calls = fail(patch, step, nth, code)
            outcomes = store.persist_sessions(sessions, replace=replace)
        found = {s.id: s for s in loaded(store)}
        for wanted, outcome in zip(sessions, outcomes, strict=True):
            if isinstance(outcome, str):
                assert found[wanted.id] == wanted
            else:
                assert isinstance(outcome, StoreError)
                assert os.strerror(code) in str(outcome)
        assert found[before.id] in (before, sessions[0])
        assert drafts(store) == []
        assert all(isinstance(o, str) for o in store.persist_sessions(sessions, replace=replace))
        assert loaded(store) == sorted({s.id: s for s in [before, *sessions]}.values(), key=lambda s: s.started_at)
        if len(calls) < nth:  # every call has had its turn
            assert all(isinstance(outcome, str) for outcome in outcomes)
            return
    raise AssertionError("a save has more steps than that?")


def test_after_a_failed_fsync_the_same_draft_is_never_synced_again(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "_library", lambda: None)
    store = started(tmp_path)
    synced, fsync = [], os.fsync

    def once(descriptor):
        name = str(files.Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append(name)
        if len(synced) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", once)
    assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in range(4)], replace=False))
    of_drafts = [name for name in synced if name.endswith(".tmp")]
    assert len(of_drafts) == len(set(of_drafts)) == 2 + 4  # two of the group, then each to a new file
    assert loaded(store) == [session(n) for n in range(4)]


def test_a_failed_syncfs_makes_each_be_written_again_by_itself(tmp_path, monkeypatch):
    store = started(tmp_path)
    written, write = [], os.write

    def fails(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def counted(descriptor, data):
        written.append(str(files.Path(f"/proc/self/fd/{descriptor}").readlink()))
        return write(descriptor, data)

    monkeypatch.setattr(group, "_syncfs", fails)
    monkeypatch.setattr(group, "_handles", lambda folders: [os.open(f, os.O_RDONLY) for f in folders])
    monkeypatch.setattr(os, "write", counted)
    assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in range(4)], replace=False))
    assert len(written) == len(set(written)) == 8
    assert loaded(store) == [session(n) for n in range(4)]
    assert drafts(store) == []


def test_when_the_folders_sync_fails_the_next_save_writes_anew(tmp_path, monkeypatch):
    """Which of the names reached the disk is unknown, so a file that is there does not pass for a save."""
    store = started(tmp_path)
    sync = files.sync_folder

    def fails(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "sync_folder", fails)
    for outcome in store.persist_sessions([session(n) for n in range(3)], replace=False):
        assert isinstance(outcome, StoreError)
    monkeypatch.setattr(files, "sync_folder", sync)
    inodes = {path.name: path.stat().st_ino for path in store.folder.iterdir()}
    assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in range(3)], replace=False))
    assert all(path.stat().st_ino != inodes[path.name] for path in store.folder.iterdir() if path.suffix == ".json")
    assert loaded(store) == [session(n) for n in range(3)]


def test_without_hard_links_an_insert_still_overwrites_nothing(tmp_path, monkeypatch):
    def refuses(*_args, **_kwargs):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuses)
    store = started(tmp_path)
    assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in range(4)], replace=False))
    store.persist_session(session(1, ignored=True), replace=False)
    assert store.delete_sessions([session(0).id], to_trash=True) == [session(0).id]
    assert loaded(store) == [session(n) for n in (1, 2, 3)]
    assert store.restore_sessions([session(0).id]) == [session(0).id]
    assert loaded(store) == [session(n) for n in range(4)]
    assert drafts(store) == []


def test_an_insert_that_another_process_was_faster_with_leaves_the_others(tmp_path, monkeypatch):
    store = started(tmp_path)
    link = os.link
    theirs = session_to_json(session(1, ignored=True))

    def slower(source, target, **kwargs):
        if session(1).id in str(target):
            target.write_bytes(theirs)
        link(source, target, **kwargs)

    monkeypatch.setattr(os, "link", slower)
    assert isinstance(store.persist_session(session(1), replace=False), str)
    assert loaded(store) == [session(1, ignored=True)]
    assert drafts(store) == []


def test_a_trash_on_another_file_system_is_filled_by_copying(tmp_path, monkeypatch):
    store = started(tmp_path)
    store.persist_session(session(1), replace=False)
    link = os.link

    def crosses(source, target, **kwargs):
        if str(source).endswith(".json"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target, **kwargs)

    monkeypatch.setattr(os, "link", crosses)
    assert store.delete_sessions([session(1).id], to_trash=True) == [session(1).id]
    assert loaded(store) == []
    assert store.restore_sessions([session(1).id]) == [session(1).id]
    assert loaded(store) == [session(1)]


def test_one_session_that_cannot_be_deleted_does_not_stop_the_rest(tmp_path, monkeypatch, caplog):
    store = started(tmp_path)
    store.persist_sessions([session(n) for n in range(4)], replace=False)
    copy = files.copy

    def sticks(source, target):
        if session(1).id in source.name:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return copy(source, target)

    monkeypatch.setattr(files, "copy", sticks)
    wanted = [session(n).id for n in range(4)]
    assert store.delete_sessions(wanted, to_trash=True) == [wanted[0], *wanted[2:]]
    assert loaded(store) == [session(1)]
    assert "Permission denied" in caplog.text


def test_nothing_is_deleted_while_the_trash_cannot_be_used(tmp_path):
    store = started(tmp_path)
    store.persist_session(session(1), replace=False)
    (tmp_path / "trash").write_text("in the way")
    with pytest.raises(StoreError, match="trash"):
        store.delete_sessions([session(1).id], to_trash=True)
    assert loaded(store) == [session(1)]


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    store = started(tmp_path)
    store.persist_session(session(1), replace=False)

    def fails(_folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(StoreError, match="cannot be listed: Permission denied"):
        loaded(store)
    with pytest.raises(StoreError, match="cannot be listed"):
        store.session_ids()
    assert started(tmp_path)  # a start never fails because of stored data


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("thing", ["link to nothing", "link to a file", "folder"])
def test_what_has_a_sessions_name_and_is_no_file_never_passes_for_a_save(tmp_path, thing, count, replace):
    store = started(tmp_path)
    path = store.folder / f"{session(0).id}.json"
    (tmp_path / "mine").write_bytes(b"mine")
    if thing == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / ("mine" if thing == "link to a file" else "nowhere"))
    refused, *saved = store.persist_sessions([session(n) for n in range(count)], replace=replace)
    assert isinstance(refused, StoreError)
    assert "a folder, or a link, has the name" in str(refused)
    assert len(saved) == count - 1
    assert all(isinstance(outcome, str) for outcome in saved)
    assert loaded(store) == [session(n) for n in range(1, count)]
    assert drafts(store) == []
    assert path.is_symlink() or path.is_dir()
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()
    path.rmdir() if thing == "folder" else path.unlink()
    assert isinstance(store.persist_session(session(0), replace=replace), str)
    assert loaded(store, ids=(session(0).id,)) == [session(0)]


def test_another_session_under_its_name_never_passes_for_a_save(tmp_path):
    store = started(tmp_path)
    path = store.folder / f"{session(1).id}.json"
    path.write_bytes(session_to_json(session(2)))
    assert store.persist_session(session(1), replace=False) == str(path)
    assert loaded(store) == [session(1)]


def test_a_session_leaves_its_old_place_only_when_its_new_one_is_on_the_disk(tmp_path, monkeypatch):
    store = started(tmp_path)
    stored = [session(n) for n in range(3)]
    ids = [one.id for one in stored]
    store.persist_sessions(stored, replace=False)
    sync = files.sync_folder

    def fails(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fails_in_the_end(folder):
        if "cleanup" not in folder.name:
            fails(folder)
        sync(folder)

    monkeypatch.setattr(files, "sync_folder", fails)
    store.folder.parent.joinpath("trash").mkdir()
    with pytest.raises(StoreError, match="nothing is deleted"):
        store.delete_sessions(ids, to_trash=True)
    assert loaded(store) == stored
    monkeypatch.setattr(files, "sync_folder", sync)
    assert store.delete_sessions(ids, to_trash=True) == ids
    monkeypatch.setattr(files, "sync_folder", fails_in_the_end)
    with pytest.raises(StoreError, match="nothing is restored"):
        store.restore_sessions(ids)
    assert {session_id for session_id, _ in store.list_trash()} == set(ids)
    monkeypatch.setattr(files, "sync_folder", sync)
    for one in store.folder.glob("*.json"):
        one.unlink()  # as if the names had not reached the disk
    assert store.restore_sessions(ids) == ids
    assert loaded(store) == stored


def test_a_start_leaves_alone_what_is_no_draft_and_what_is_never_rewritten(tmp_path):
    store = started(tmp_path)
    newer = store.folder / f"{session(1).id}.json"
    newer.write_bytes(session_to_json(session(1)).replace(b'"version":"2.', b'"version":"3.'))
    os.utime(newer, (1, 1))
    (store.folder / f"{session(1).id}.999999999.{1:016x}.tmp").write_bytes(session_to_json(session(1, ignored=True)))
    (store.folder / "letter.tmp").write_text("somebody's")
    before = newer.read_bytes()
    runtime = FakeRuntime(tmp_path)
    started(tmp_path, runtime)
    assert runtime.events == [RecoveryDone("json_store", 0, 1)]
    assert newer.read_bytes() == before
    assert (store.folder / "letter.tmp").read_text() == "somebody's"
