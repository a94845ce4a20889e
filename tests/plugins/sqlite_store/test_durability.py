"""What was told as saved is on the disk: proved with the system calls that a save makes, each of them failing once.

A power cut cannot be made here, so it is pretended: a recorded run is cut anywhere, what was not synced then is lost in
part or whole, and the store is started on what remains.  Kills are in the StoreContract.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hl7core import SessionQuery
from hl7core.testing import FakeRuntime
from hl7core.testing.store_worker import saved_session
from hl7core_plugins.sqlite_store import SqliteStore

WORKER = Path(__file__).with_name("sqlite_store_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}
SAVE_CALLS = ("fcntl", "fdatasync", "newfstatat", "pwrite64")
CALLS = (*SAVE_CALLS, "openat", "write", "fsync", "ftruncate", "unlink", "rename")
FILES = tuple(f"sessions.sqlite{ending}" for ending in ("", "-journal", "-wal", "-shm"))


def can_trace():
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")


def traced(folder, log, *arguments, mode, count=1, calls=CALLS):
    command = ["strace", "-f", "-y", "-qq", "-o", str(log), "--seccomp-bpf", "-e", f"trace={','.join(calls)}"]
    worker = [sys.executable, str(WORKER), str(folder), mode, str(count)]
    done = subprocess.run(
        [*command, *arguments, *worker], check=True, capture_output=True, env=ENVIRONMENT, text=True
    )  # fmt: skip
    return done.stdout.splitlines()


def injected(folder, log, call, error, when, *, mode, count=1):
    """Let calls on the database's files fail, counted among those of that name."""
    paths = [argument for name in FILES for argument in ("-P", str(folder / name))]
    inject = ("-e", f"inject={call}:error={error}:when={when}")
    return traced(folder, log, *paths, *inject, mode=mode, count=count, calls=[call])


def calls_of(log, concerned=re.compile(r'/sessions\.sqlite(-journal|-wal|-shm)?[">]')):
    """Every call: its name, its number among those of its name on the database's files, and its line."""
    counts, found = {}, []
    for line in Path(log).read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match:
            counts[match[1]] = counts.get(match[1], 0) + (concerned.search(line) is not None)
            found.append((match[1], counts[match[1]], line))
    return found


def place(calls, name, text):
    return next(at for at, (call, _, line) in enumerate(calls) if call == name and re.search(text, line))


def part(calls, first, last):
    """What came between two lines that the worker wrote."""
    return calls[place(calls, "write", first) + 1 : place(calls, "write", last)]


def reported(lines):
    """The last revision of each session that the worker said was saved."""
    words = [line.split() for line in lines]
    return {int(one[0]): int(one[1]) for one in words if one[2:] == ["saved"]}


def check(folder, saved):
    """Nothing that was told as saved is lost, older or damaged."""
    store = SqliteStore()
    store.start(FakeRuntime(folder))
    found = {s.id: s for s in store.load_sessions(SessionQuery(limit=1000))}
    for number, revision in saved.items():
        stored = found[saved_session(number).id]
        assert stored.revision >= revision
        assert stored == saved_session(number, stored.revision)
    store.stop()


@pytest.mark.parametrize(("mode", "count"), [("replace", 1), ("group", 4)])
def test_a_save_is_told_after_the_log_and_its_name_are_on_the_disk(tmp_path, mode, count):
    traced(tmp_path / "d", tmp_path / "log", mode=mode, count=count)
    calls = calls_of(tmp_path / "log")
    made = place(calls, "openat", r"sqlite-wal.*O_CREAT")
    assert made < place(calls, "fsync", r"/d>") < place(calls, "write", "ready")
    saves = [part(calls, "ready", "1 0 saved")]
    if mode == "replace":
        saves.append(part(calls, "1 0 saved", "1 1 saved"))
    for save in saves:
        written = [at for at, (call, _, line) in enumerate(save) if call == "pwrite64" and "-wal>" in line]
        synced = [at for at, (call, _, line) in enumerate(save) if call == "fdatasync" and "-wal>" in line]
        assert written
        assert len(synced) == 1
        assert max(written) < synced[0]


@pytest.mark.parametrize(("mode", "count"), [("replace", 1), ("group", 3)])
def test_each_call_of_a_save_that_fails_once_is_told_and_made_good(tmp_path, mode, count):
    """Each kind of call on each file; of many writes the first two, one in the middle and the last."""
    traced(tmp_path / "d", tmp_path / "log", mode=mode, count=count)
    first, last = ("1 0 saved", "1 1 saved") if mode == "replace" else ("ready", "1 0 saved")
    save = [entry for entry in part(calls_of(tmp_path / "log"), first, last) if entry[0] in SAVE_CALLS]
    assert {call for call, _, _ in save} == set(SAVE_CALLS)
    writes = [entry for entry in save if entry[0] == "pwrite64"]
    rest = [entry for entry in save if entry[0] != "pwrite64" and (mode == "replace" or entry[0] == "fdatasync")]
    chosen = dict.fromkeys((*rest, *writes[:2]), "EIO")
    chosen |= {writes[len(writes) // 2]: "ENOSPC", writes[-1]: "ENOSPC"}
    for (call, number, _), error in chosen.items():
        folder, log = tmp_path / f"{call}-{number}", tmp_path / "injected"
        said = injected(folder, log, call, error, number, mode=mode, count=count)
        assert sum("INJECTED" in line for line in log.read_text().splitlines()) == 1
        saved = reported(said)
        assert saved == dict.fromkeys(range(1, count + 1), int(mode == "replace"))  # the worker tried again
        check(folder, saved)
    assert len(chosen) > 4


def flush_of_the_second_save(tmp_path, **which):
    traced(tmp_path / "d", tmp_path / "log", mode="replace")
    save = part(calls_of(tmp_path / "log", **which), "1 0 saved", "1 1 saved")
    return next(number for call, number, _ in save if call == "fdatasync")


def test_after_a_failed_flush_all_is_written_to_a_new_log(tmp_path):
    inject = ("-e", f"inject=fdatasync:error=EIO:when={flush_of_the_second_save(tmp_path, concerned=re.compile(''))}")
    said = traced(tmp_path / "e", tmp_path / "log", *inject, mode="replace")
    assert said == ["ready", "1 0 saved", "1 1 failed", "1 1 saved", "stopped"]
    calls = calls_of(tmp_path / "log")
    before, again = part(calls, "1 0 saved", "1 1 failed"), part(calls, "1 1 failed", "1 1 saved")
    assert place(before, "fdatasync", "INJECTED") < place(before, "unlink", "-wal")
    order = [("openat", "-wal.*O_CREAT"), ("pwrite64", "-wal>"), ("fdatasync", "-wal>"), ("fsync", "/e>")]
    assert sorted(order, key=lambda one: place(again, *one)) == order
    check(tmp_path / "e", reported(said))


@pytest.mark.parametrize("times", [2, 3, 1000])
def test_while_flushes_fail_nothing_is_told_as_saved(tmp_path, times):
    """The log that cannot be flushed stays then, and may hold what was never told: nothing is built upon that."""
    flush = flush_of_the_second_save(tmp_path)
    said = injected(
        tmp_path / "e", tmp_path / "log", "fdatasync", "EIO", f"{flush}..{flush + times - 1}", mode="replace"
    )
    assert said[1:3] == ["1 0 saved", "1 1 failed"]
    assert ("1 1 saved" in said) == (times < 1000)
    check(tmp_path / "e", reported(said))


# A power cut, pretended.

STEP = re.compile(r"\d+ +(\w+)\((.*)\) += (\d+)")
NAMED = re.compile(r"<([^>]*)>")


def steps_of(log, folder):
    """Every change of the disk, and what was told as saved among them."""
    steps = []
    for line in Path(log).read_text().splitlines():
        match = STEP.match(line)
        if match is None:
            continue
        call, arguments, answer = match.groups()
        text = re.search(r'"((?:\\x[0-9a-f]{2})*)"', arguments)
        data = bytes.fromhex(text[1].replace("\\x", "")) if text else b""
        named = NAMED.search(arguments)
        file = bytes.fromhex(named[1].replace("\\x", "")).decode() if named else ""
        if call == "write" and data.rstrip().endswith(b"saved"):
            steps.append(("told", reported(data.decode().splitlines())))
        elif call == "openat" and "O_CREAT" in arguments and data.decode().startswith(str(folder)):
            steps.append(("create", data.decode()))
        elif call == "unlink" and data.decode().startswith(str(folder)):
            steps.append(("unlink", data.decode()))
        elif call == "pwrite64" and file.startswith(str(folder)):
            assert int(answer) == len(data)
            steps.append(("write", file, int(arguments.rsplit(",", 1)[1]), data))
        elif call == "ftruncate" and file.startswith(str(folder)):
            steps.append(("truncate", file, int(arguments.rsplit(",", 1)[1])))
        elif call in ("fsync", "fdatasync"):
            steps.append(("sync names",) if file == str(folder) else ("sync", file))
    return [step for step in steps if not str(step[1:2]).endswith("-shm',)")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A run with inserts and updates, a checkpoint within and one at its end: its folder and its steps."""
    folder = tmp_path_factory.mktemp("recorded")
    traced(folder, folder.with_suffix(".log"), "-xx", "-s", "9000", mode="replace", count=12)
    steps = steps_of(folder.with_suffix(".log"), folder)
    assert {step[0] for step in steps} >= {"create", "write", "sync", "sync names", "told", "unlink"}
    return folder, steps


def applied(content, change):
    if change[0] == "truncate":
        return content[: change[2]].ljust(change[2], b"\0")
    _, _, offset, data = change
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_power_cut_leaves_holds_all_that_was_told_as_saved(recording, tmp_path_factory, data):
    _, steps = recording
    cut = data.draw(st.integers(0, len(steps)))
    told, names, durable, pending = {}, {}, {}, []
    waiting = {}  # by file: changes that were not synced yet
    number_of = {}  # by name: which file has it now
    for step in steps[:cut]:
        match step:
            case ("create", path):
                if path not in number_of:
                    number_of[path] = len(durable)
                    durable[number_of[path]] = b""
                    pending.append((path, number_of[path]))
            case ("unlink", path):
                number_of.pop(path, None)
                pending.append((path, None))
            case ("write" | "truncate", path, *_):
                waiting.setdefault(number_of[path], []).append(step)
            case ("sync", path) if path in number_of:
                for change in waiting.pop(number_of[path], ()):
                    durable[number_of[path]] = applied(durable[number_of[path]], change)
            case ("sync names",):
                names |= dict(pending)
                pending = []
            case ("told", sessions):
                told |= sessions
    for path, number in pending:  # each of these may have reached the disk, or not
        if data.draw(st.booleans()):
            names[path] = number
    for number, changes in waiting.items():
        kept = data.draw(st.lists(st.booleans(), min_size=len(changes), max_size=len(changes)))
        for change, keep in zip(changes, kept, strict=True):
            if keep:
                durable[number] = applied(durable[number], change)
    after = tmp_path_factory.mktemp("after")
    for path, number in names.items():
        if number is not None:
            (after / Path(path).name).write_bytes(durable[number])
    check(after, told)
    assert not list(after.glob("*.damaged*"))
    shutil.rmtree(after)
