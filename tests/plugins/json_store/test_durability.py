"""What was told as saved is on the disk: proved on a real one, with failing system calls (kills: the StoreContract).

A power cut cannot be made here, so it is pretended: a recorded run is cut anywhere, what was not synced then is lost in
part or whole, and the store is started on what remains.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hl7core import RecoveryDone, SessionQuery, session_to_json
from hl7core.testing import FakeRuntime
from hl7core_plugins.json_store import JsonStore, files, group
from plugins.json_store.json_store_worker import session

WORKER = Path(__file__).with_name("json_store_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}


def started(folder):
    runtime = FakeRuntime(folder)
    store = JsonStore()
    store.start(runtime)
    done = next(event for event in runtime.events if isinstance(event, RecoveryDone))
    return store, done


def loaded(store):
    return {s.id: s for s in store.load_sessions(SessionQuery(limit=1_000_000))}


def reported(lines):
    """The last revision of each session that the worker said was saved; a line cut off says nothing."""
    saved = {}
    for line in lines:
        number, revision, word = line.split()
        if word == "saved":
            saved[int(number)] = int(revision)
    return saved


def check(folder, saved):
    """Nothing that was told as saved is lost or older, nothing is damaged, nothing lies around."""
    store, _ = started(folder)
    found = loaded(store)
    for number, revision in saved.items():
        stored = found[session(number).id]
        assert stored.revision >= revision
        assert stored == session(number, stored.revision)
    on_disk = [path for path in folder.rglob("*") if path.is_file() and path.name != ".schema-2"]
    assert {path.name for path in on_disk} == {f"{session_id}.json" for session_id in found}


# The order of system calls, and each of them failing once.

CALLS = "openat,write,fsync,syncfs,rename,renameat,renameat2,link,linkat,unlink"
SAVE_CALLS = ("openat", "write", "fsync", "syncfs", "rename", "linkat", "unlink")


def can_trace():
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")


def traced(folder, log, *arguments, mode, count=1):
    command = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", f"trace={CALLS}", *arguments, sys.executable]
    worker = [str(WORKER), str(folder), mode, "1", str(count)]
    done = subprocess.run([*command, *worker], check=True, capture_output=True, env=ENVIRONMENT, text=True)
    return done.stdout.splitlines()


def calls_of(log, folder):
    """Every call after the store has started: its name, its number among those of its name, and its line."""
    counts, found = {}, []
    for line in Path(log).read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match:
            counts[match[1]] = counts.get(match[1], 0) + 1
            found.append((match[1], counts[match[1]], line))
    begin = max(at for at, (_, _, line) in enumerate(found) if ".schema-2" in line)
    return [entry for entry in found[begin + 1 :] if str(folder) in entry[2] or "saved" in entry[2]]


def place(calls, name, text):
    return next(at for at, (call, _, line) in enumerate(calls) if call == name and re.search(text, line))


@needs_strace
def test_a_save_is_told_after_file_name_and_folder_are_on_the_disk(tmp_path):
    traced(tmp_path / "d", tmp_path / "log", mode="replace")
    calls = calls_of(tmp_path / "log", tmp_path / "d")
    inserted = place(calls, "write", "1 0 saved")
    for part, name in ((calls[: inserted + 1], "linkat"), (calls[inserted + 1 :], "rename")):
        order = [
            place(part, "openat", r"\.tmp"),
            place(part, "write", r"\.tmp"),
            place(part, "fsync", r"\.tmp"),
            place(part, name, r"\.tmp.*\.json"),
            place(part, "fsync", r"sessions>"),
            place(part, "write", "saved"),
        ]
        assert order == sorted(order)


@needs_strace
def test_a_group_is_told_after_all_files_all_names_and_the_folder(tmp_path):
    traced(tmp_path / "d", tmp_path / "log", mode="group", count=4)
    calls = calls_of(tmp_path / "log", tmp_path / "d")
    if any(call == "syncfs" for call, _, _ in calls):
        synced = [place(calls, "syncfs", "sessions>")]
        assert place(calls, "openat", "O_DIRECTORY") < place(calls, "openat", r"\.tmp")  # so that it hears of errors
    else:
        synced = [at for at, (call, _, line) in enumerate(calls) if call == "fsync" and ".tmp" in line]
        assert len(synced) == 4
    written = [at for at, (call, _, line) in enumerate(calls) if call == "write" and ".tmp" in line]
    named = [at for at, (call, _, _) in enumerate(calls) if call == "linkat"]
    assert len(written) == len(named) == 4
    assert max(written) < min(synced) <= max(synced) < min(named)
    assert max(named) < place(calls, "fsync", "sessions>") < place(calls, "write", "saved")


@needs_strace
@pytest.mark.parametrize(("mode", "count"), [("replace", 1), ("group", 3)])
def test_each_call_of_a_save_that_fails_once_is_told_and_made_good(tmp_path, mode, count):
    traced(tmp_path / "d", tmp_path / "log", mode=mode, count=count)
    calls = [entry for entry in calls_of(tmp_path / "log", tmp_path / "d") if "saved" not in entry[2]]
    if mode == "replace":  # the second save: what an insert does, a group does too
        calls = calls[next(at for at, entry in enumerate(calls) if entry[0] == "unlink") + 3 :]
    seen = set()
    for call, number, line in calls:
        what = (call, ".tmp" in line, "O_DIRECTORY" in line)
        if call not in SAVE_CALLS or what in seen:  # one of a kind: a group has several
            continue
        seen.add(what)
        folder = tmp_path / f"{call}-{number}"
        error = "ENOSPC" if call in ("write", "openat") else "EIO"
        lines = traced(folder, tmp_path / "injected", "-e", f"inject={call}:error={error}:when={number}", mode=mode,
                       count=count)  # fmt: skip
        assert "INJECTED" in (tmp_path / "injected").read_text()
        saved = reported(lines)
        assert saved == dict.fromkeys(range(1, count + 1), int(mode == "replace"))  # the worker tried again
        check(folder, saved)
    assert len(seen) >= 4


# A power cut, pretended.


@contextmanager
def recorded(steps):
    """Note every change of the disk: data by inode, names by folder."""
    patch = pytest.MonkeyPatch()
    opens, writes, syncs, links = os.open, os.write, os.fsync, os.link
    replaces, unlinks = Path.replace, Path.unlink

    def opened(path, flags, mode=0o777, **kwargs):
        descriptor = opens(path, flags, mode, **kwargs)
        if flags & os.O_CREAT:
            steps.append(("create", str(path), os.fstat(descriptor).st_ino))
        return descriptor

    def written(descriptor, data):
        count = writes(descriptor, data)
        steps.append(("write", os.fstat(descriptor).st_ino, bytes(data[:count])))
        return count

    def synced(descriptor):
        syncs(descriptor)
        steps.append(("sync", os.fstat(descriptor).st_ino))

    def linked(source, target, **kwargs):
        links(source, target, **kwargs)
        steps.append(("name", str(target), Path(target).stat().st_ino))

    def replaced(self, target):
        inode = self.stat().st_ino
        replaces(self, target)
        steps.append(("rename", str(self), str(target), inode))

    def unlinked(self, **kwargs):
        unlinks(self, **kwargs)
        steps.append(("unlink", str(self)))

    patch.setattr(os, "open", opened)
    patch.setattr(os, "write", written)
    patch.setattr(os, "fsync", synced)
    patch.setattr(os, "link", linked)
    patch.setattr(Path, "replace", replaced)
    patch.setattr(Path, "unlink", unlinked)
    patch.setattr(files, "sync_folder", lambda _folder: steps.append(("sync names",)))
    patch.setattr(group, "_syncfs", lambda _descriptor: steps.append(("sync all",)))
    try:
        yield
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A run with inserts, updates and groups: its steps, with what was told as saved among them."""
    folder = tmp_path_factory.mktemp("recorded")
    store, _ = started(folder)
    steps = []

    def save(numbers, revision, *, replace):
        made = [session(number, revision) for number in numbers]
        assert all(isinstance(outcome, str) for outcome in store.persist_sessions(made, replace=replace))
        steps.append(("told", [(number, revision) for number in numbers]))

    with recorded(steps):
        save([1], 0, replace=False)
        save([1], 1, replace=True)
        save([2, 3, 4, 5], 0, replace=False)
        save([6, 3, 4], 1, replace=True)
        save([7, 8], 0, replace=True)
        save([1], 2, replace=True)
    return steps


def test_the_recording_has_every_kind_of_step(recording):
    assert {step[0] for step in recording} >= {
        "create",
        "write",
        "sync",
        "name",
        "rename",
        "unlink",
        "sync names",
        "told",
    }


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_power_cut_leaves_holds_all_that_was_told_as_saved(recording, tmp_path_factory, data):
    cut = data.draw(st.integers(0, len(recording)))
    told, written, synced, names, pending = {}, [], set(), {}, []
    file_of = {}  # a number of the file system's, which may be used again, to a file of ours
    for step in recording[:cut]:
        match step:
            case ("create", path, inode):
                file_of[inode] = len(written)
                written.append(b"")
                pending.append({path: file_of[inode]})
            case ("write", inode, part):
                written[file_of[inode]] += part
            case ("sync", inode):
                synced.add(file_of[inode])
            case ("sync all",):
                synced.update(range(len(written)))
            case ("name", path, inode):
                pending.append({path: file_of[inode]})
            case ("rename", source, target, inode):
                pending.append({source: None, target: file_of[inode]})
            case ("unlink", path):
                pending.append({path: None})
            case ("sync names",):
                for change in pending:
                    names |= change
                pending = []
            case ("told", sessions):
                told |= dict(sessions)
    for change in pending:  # each of these may have reached the disk, or not
        if data.draw(st.booleans()):
            names |= change
    folder = tmp_path_factory.mktemp("after")
    (folder / "sessions").mkdir(mode=0o700)
    for path, file in names.items():
        if file is not None:
            content = written[file]
            if file not in synced:
                content = content[: data.draw(st.integers(0, len(content)))]
            (folder / "sessions" / Path(path).name).write_bytes(content)
    check(folder, told)
    shutil.rmtree(folder)


def test_the_worker_and_its_judge_mean_the_same_sessions(tmp_path):
    store, _ = started(tmp_path)
    store.persist_session(session(3, 1), replace=False)
    assert (store.folder / f"{session(3).id}.json").read_bytes() == session_to_json(session(3, 1))
