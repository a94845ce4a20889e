"""What every store must survive: kill -9, a full disk, a folder that vanishes, damage, other versions' data.

The law: a session that was reported as saved is there, and one that was not saved is reported as an error.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from hl7core.errors import StoreError
from hl7core.model.schema import at_stored_precision
from hl7core.testing.builders import make_session
from hl7core.testing.store_base import NOW, StoreBase
from hl7core.testing.store_worker import saved_session

__all__ = ["StoreDisasters"]

_MODES: Final = ("insert", "replace", "group")
_PATIENCE: Final = 60.0
_TRIES: Final = 20


class StoreDisasters(StoreBase):
    """The tests for crashes, full disks and damaged data."""

    # kill -9

    def test_kill_9_loses_nothing_that_was_told_as_saved(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        folder.mkdir(mode=0o700)
        dice = random.Random(7)
        saved: dict[int, int] = {}
        kills = acknowledged = 0
        command = [sys.executable, "-m", "hl7core.testing.store_worker"]
        command += [inspect.getfile(type(self)), type(self).__qualname__]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        deadline = time.monotonic() + _PATIENCE
        with subprocess.Popen(  # noqa: S603 - nothing from outside
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        ) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            read = worker.stdout.readline
            while kills < self.kills or (acknowledged < self.saves and time.monotonic() < deadline):
                first = max(saved, default=0) + 100
                worker.stdin.write(f"{folder}\t{_MODES[kills % 3]}\t{first}\n")
                lines: list[list[str]] = []
                while {"pid", "saved"} - {words[0] for words in lines}:
                    lines.append(read().split())
                    assert lines[-1] not in ([], ["end"]), "the saving process ended by itself"
                child = next(int(words[1]) for words in lines if words[0] == "pid")
                # Later processes run longer if the disk is too slow for that many saves.
                time.sleep(dice.uniform(0.0, 0.1) if kills < self.kills else 1.0)
                os.kill(child, signal.SIGKILL)
                lines += iter(lambda: read().split(), ["end"])
                for word in (word for words in lines if words[0] == "saved" for word in words[1:]):
                    number, revision = map(int, word.split(":"))
                    saved[number] = revision
                    acknowledged += 1
                kills += 1
            worker.stdin.close()
        assert acknowledged >= self.saves, "this machine is too slow for that many saves"
        store = self.make_store(folder)
        found = {session.id: session for session in self.load(store, limit=1_000_000)}
        for number, revision in saved.items():
            stored = found[saved_session(number).id]
            assert stored.revision >= revision
            assert stored == saved_session(number, stored.revision)
        self.check_rest(store)
        store.stop()

    # The disk.

    def test_a_full_disk_is_told_and_what_did_not_fit_is_saved_later(self, tmp_path: Path) -> None:
        with self.small_disk(tmp_path) as folder:
            store = self.make_store(folder)
            before = self.fill(store, 3)
            ballast = folder / "ballast"
            _fill_up(ballast)
            text = b"x" * 40_000
            after = [make_session(number) for number in range(4, 30)]
            after = [s._replace(messages=(s.messages[0]._replace(text=text), s.messages[1])) for s in after]
            after = [at_stored_precision(s._replace(elements=s.elements[1:])) for s in after]
            outcomes = self.save(store, after)
            assert any(isinstance(outcome, StoreError) for outcome in outcomes)
            fitted = [s for s, outcome in zip(after, outcomes, strict=True) if isinstance(outcome, str)]
            assert self.load(store) == [*before, *fitted]
            alone = self.save(store, after[-1:])
            assert isinstance(alone[0], str) or (isinstance(alone[0], StoreError) and str(alone[0]))
            ballast.unlink()
            assert all(isinstance(outcome, str) for outcome in self.save(store, after))
            assert self.load(store) == [*before, *after]
            store.stop()
            again = self.make_store(folder)
            assert self.load(again) == [*before, *after]
            again.stop()

    def test_after_its_folder_has_vanished_what_is_told_as_saved_is_there(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        store = self.make_store(folder)
        self.fill(store, 3)
        _needs(folder)
        shutil.rmtree(folder)
        later = [at_stored_precision(make_session(number)) for number in (4, 5)]
        for _ in range(_TRIES):
            if all(isinstance(outcome, str) for outcome in self.save(store, later)):
                break
        else:
            raise AssertionError("the store does not recover: saves keep failing")
        assert [session for session in self.load(store) if session in later] == later
        store.stop()
        assert [session for session in self.load(self.make_store(folder)) if session in later] == later

    def test_after_its_folder_was_moved_away_and_back_all_is_there(self, tmp_path: Path) -> None:
        folder, away = tmp_path / "store", tmp_path / "away"
        store = self.make_store(folder)
        before = self.fill(store, 3)
        _needs(folder)
        folder.rename(away)
        folder.write_text("in the way")
        late = at_stored_precision(make_session(4))
        assert isinstance(self.save(store, [late])[0], StoreError)
        folder.unlink()
        away.rename(folder)
        for _ in range(_TRIES):
            if isinstance(self.save(store, [late])[0], str):
                break
        else:
            raise AssertionError("the store does not recover: saves keep failing")
        assert self.load(store) == [*before, late]
        store.stop()
        assert self.load(self.make_store(folder)) == [*before, late]

    # Damage.

    def test_a_damaged_entry_does_not_hide_the_rest(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second, third = self.fill(store, 3)
        if not self.damage(store, second.id):
            return
        assert self.load(store) == [first, third]
        assert self.load(store, specimen="S-0002") == []
        store.stop()
        again = self.make_store(tmp_path)
        assert self.load(again) == [first, third]
        again.persist_session(second, replace=False)
        assert self.load(again) == [first, second, third]
        assert self.load(again, specimen="S-0002") == [second]

    # Other versions.

    def test_what_a_later_version_stored_is_read_and_never_rewritten(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        self.make_newer(store, first.id)
        for _ in range(2):
            assert [session.id for session in self.load(store)] == [first.id, second.id]
            refused, saved = self.save(
                store, [first._replace(ignored=True), second._replace(ignored=True)], replace=True
            )
            assert isinstance(refused, StoreError)
            assert isinstance(saved, str)
            assert isinstance(self.save(store, [first])[0], str)  # already stored
            assert [session.ignored for session in self.load(store)] == [False, True]
            store.stop()
            store = self.make_store(tmp_path)
        assert self.delete(store, [first.id], to_trash=True) == [first.id]
        assert self.restore(store, first.id) == [first.id]

    def test_what_an_earlier_version_stored_is_brought_up(self, tmp_path: Path) -> None:
        wanted = self.make_older(tmp_path)
        assert wanted
        for _ in range(2):
            store = self.make_store(tmp_path)
            assert self.load(store) == wanted
            assert self.load(store, specimen="S-0001") == [s for s in wanted if _holds(s, "S-0001")]
            store.stop()
        store = self.make_store(tmp_path)
        changed = [session._replace(ignored=True, persisted_until=NOW) for session in wanted]
        assert all(isinstance(outcome, str) for outcome in self.save(store, changed, replace=True))
        assert self.load(store) == changed


def _needs(folder: Path) -> None:
    if not folder.exists():
        pytest.skip("this store keeps no files in its folder")


def _holds(session: object, value: str) -> bool:
    return any(value.encode() in message.text for message in getattr(session, "messages", ()))


def _fill_up(path: Path) -> None:
    """Fill the file system of ``path`` completely."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
