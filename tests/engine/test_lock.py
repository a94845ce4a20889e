"""One engine per data folder, whatever became of the last one."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from hl7core.engine.lock import EngineLock
from hl7core.errors import EngineBusy, EngineError

HOLD = """
import sys, time
from pathlib import Path
from hl7core.engine.lock import EngineLock
EngineLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_engine_is_refused_with_the_pid_of_the_first(tmp_path):
    with EngineLock(tmp_path), pytest.raises(EngineBusy) as refused:
        EngineLock(tmp_path).acquire()
    assert refused.value.pid == os.getpid()
    assert str(os.getpid()) in str(refused.value)


def test_released_it_can_be_taken_again(tmp_path):
    lock = EngineLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
    with EngineLock(tmp_path) as other:
        assert other.held


def test_a_killed_engine_holds_nothing_and_removes_nothing(tmp_path):
    (tmp_path / "sessions").mkdir()
    kept = tmp_path / "sessions" / "x.json"
    kept.write_text("{}")
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(EngineBusy) as refused:
            EngineLock(tmp_path).acquire()
        assert refused.value.pid == process.pid
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    with EngineLock(tmp_path):
        assert kept.read_text() == "{}"


def test_the_folder_and_the_lock_are_private_even_with_an_open_umask(tmp_path):
    folder = tmp_path / "data"
    mask = os.umask(0)
    try:
        with EngineLock(folder):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "engine.lock").stat().st_mode) == 0o600
    finally:
        os.umask(mask)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("keep me")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "engine.lock").symlink_to(target)
    with pytest.raises(EngineError):
        EngineLock(folder).acquire()
    assert target.read_text() == "keep me"


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot use the data folder"):
        EngineLock(tmp_path / "file" / "data").acquire()
