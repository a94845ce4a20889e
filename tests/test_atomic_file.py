"""Replacing a file atomically, on a real disk: its old content or its new one, and nothing left beside it."""

import errno
import io
import os
import stat
import subprocess
import sys
import textwrap
import threading

import pytest

from hl7core.atomic_file import replace_atomically, replacing

OLD, NEW = b"from before", b"new content"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def left(path):
    return [each.name for each in path.parent.iterdir()]


def test_the_content_is_replaced_and_nothing_is_left_beside_it(path):
    replace_atomically(path, NEW, mode=0o600)
    assert path.read_bytes() == NEW
    assert left(path) == ["file"]


def test_a_file_that_was_not_there_is_created(tmp_path):
    replace_atomically(tmp_path / "new", NEW, mode=0o600)
    assert (tmp_path / "new").read_bytes() == NEW


def test_a_stream_shows_nothing_of_itself_before_its_end(path):
    with replacing(path, mode=0o600) as file:
        file.write(NEW[:3])
        file.flush()
        assert path.read_bytes() == OLD
        file.write(NEW[3:])
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o400])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_mode_is_the_one_given_whatever_the_umask(path, mode, umask):
    before = os.umask(umask)
    try:
        replace_atomically(path, NEW, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_nobody_else_can_open_the_file_while_it_is_written(path):
    with replacing(path, mode=0o644):
        (temporary,) = [each for each in path.parent.iterdir() if each != path]
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_an_error_in_the_block_keeps_the_old_content(path):
    def fail():
        with replacing(path, mode=0o600) as file:
            file.write(NEW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == OLD
    assert left(path) == ["file"]


@pytest.mark.parametrize("call", ["write", "fchmod", "fsync", "rename"])
def test_a_disk_that_fails_at_any_step_keeps_the_old_content_and_raises(path, call, monkeypatch):
    def fail(*_arguments, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full(io.FileIO):
        write = fail

    if call == "write":
        monkeypatch.setattr(os, "fdopen", Full)
    elif call == "rename":
        monkeypatch.setattr(type(path), "replace", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        replace_atomically(path, NEW, mode=0o600)
    monkeypatch.undo()
    assert path.read_bytes() == OLD
    assert left(path) == ["file"]


def test_the_file_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_return(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, type(path).replace

    def synced(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(self, target):
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(type(path), "replace", renamed)
    replace_atomically(path, NEW, mode=0o600)
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(("error", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_a_folder_is_accepted_and_a_failing_disk_is_not(
    path, error, raised, monkeypatch
):
    fsync = os.fsync

    def synced(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    if raised:
        with pytest.raises(OSError, match=os.strerror(error)):
            replace_atomically(path, NEW, mode=0o600)
    else:
        replace_atomically(path, NEW, mode=0o600)
    assert path.read_bytes() == NEW
    assert left(path) == ["file"]


def test_a_link_is_replaced_and_what_it_points_to_stays(path):
    link = path.with_name("link")
    link.symlink_to(path)
    replace_atomically(link, NEW, mode=0o600)
    assert not link.is_symlink()
    assert (link.read_bytes(), path.read_bytes()) == (NEW, OLD)


def test_a_folder_that_is_missing_or_a_target_that_is_a_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_atomically(tmp_path / "no/such/file", NEW, mode=0o600)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_atomically(tmp_path / "folder", NEW, mode=0o600)
    assert left(tmp_path / "folder") == ["folder"]


def test_a_name_as_long_as_the_file_system_allows_can_be_replaced(tmp_path):
    path = tmp_path / ("n" * 255)
    replace_atomically(path, NEW, mode=0o600)
    assert path.read_bytes() == NEW


def test_of_several_writers_at_once_one_wins_whole(path):
    contents = [bytes([letter]) * 200_000 for letter in b"abcdefgh"]
    threads = [
        threading.Thread(target=replace_atomically, args=(path, content), kwargs={"mode": 0o600})
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert left(path) == ["file"]


def test_a_process_killed_while_it_writes_leaves_the_old_content(path):
    script = f"""
        import os, signal
        from pathlib import Path
        from hl7core.atomic_file import replacing
        with replacing(Path({str(path)!r}), mode=0o600) as file:
            file.write({NEW!r})
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert run.returncode == -9
    assert path.read_bytes() == OLD
