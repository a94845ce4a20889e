"""Searching by the index gives what reading every file would give, whatever became of the files and of the index."""

import json
import logging
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hl7core import (
    Delivery,
    DeliveryStatus,
    Endpoint,
    Finding,
    SessionQuery,
    Severity,
    StoreError,
    matches,
    session_from_json,
    session_to_json,
    sort_key,
)
from hl7core.model.schema import at_stored_precision, session_to_dict
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, files, index, layout

NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)
OLD = Path(__file__).parents[2] / "data" / "sessions" / "v1"


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    """Trust files that changed a moment ago: a test cannot wait for two seconds each time."""
    monkeypatch.setattr(layout, "JUST_NOW_NS", 0)


class Run:
    """A store in a run of its own; ``work`` does what the engine has done every second."""

    def __init__(self, folder, *, owner=True):
        self.runtime = FakeRuntime(folder, now=NOW, owner=owner)
        self.store = JsonStore()
        self.store.start(self.runtime)
        self.work = self.runtime.jobs[0][1]

    def __getattr__(self, name):
        return getattr(self.store, name)

    def find(self, **query):
        return [s.id for s in self.store.load_sessions(SessionQuery(**query))]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def session(number=1, **changes):
    return at_stored_precision(make_session(number, **changes))


def save(run, *numbers):
    made = [session(number) for number in numbers]
    assert all(isinstance(outcome, str) for outcome in run.persist_sessions(made, replace=False))
    return made


@pytest.fixture
def opened(monkeypatch):
    """The files that are read, by the start of their names."""
    read, look = [], files.look
    monkeypatch.setattr(files, "look", lambda path: (read.append(path.stem), look(path))[1])
    return read


def index_file(folder):
    return next((folder / "index").glob("sessions-*.index"))


def path_of(run, number):
    return run.folder / f"{session(number).id}.json"


def rewrite(path, data):
    """Write to a file as an editor does that keeps the file, surely later than its last change."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(data)


# What it is good for.


@pytest.mark.parametrize(
    "query",
    [{"specimen": "S-0007"}, {"patient": "P-0007"}, {"patient": "P-0007^^^LAB"}, {"control_id": "M000007"},
     {"device": "198.51.100.7"}, {"pending_for": "rest"}, {"status": (DeliveryStatus.FAILED,)},
     {"finding": "slow"}, {"expired_at": NOW}, {"text": "S-0007"}],
    ids=lambda query: next(iter(query)),
)  # fmt: skip
def test_a_search_reads_the_sessions_that_fit_and_no_others(run, tmp_path, opened, query):
    save(run, *range(7), *range(8, 30))
    wanted = session(7)._replace(
        device=Endpoint("198.51.100.7", 5000),
        deliveries=(Delivery("rest"), Delivery("other", DeliveryStatus.FAILED)),
        findings=(Finding("slow", Severity.WARNING, "it took long"),),
        persisted_until=NOW - timedelta(milliseconds=1),
    )
    run.persist_session(wanted, replace=False)
    run.stop()
    again = Run(tmp_path)
    opened.clear()
    assert again.find(**query) == [wanted.id]
    if "text" not in query:  # which is looked for in the bytes of each
        assert opened == [wanted.id]
    assert again.find(device="198.51.100.7", protocol="lis01") == []


def test_what_the_index_never_saw_is_read_once(run, tmp_path, opened):
    save(run, 1)
    run.stop()
    for number in range(2, 20):
        path_of_number = tmp_path / "sessions" / f"{session(number).id}.json"
        path_of_number.write_bytes(session_to_json(session(number)))
    again = Run(tmp_path)
    opened.clear()
    assert again.find(specimen="S-0019") == [session(19).id]
    assert len(opened) == 18
    again.stop()
    for _ in range(2):
        opened.clear()
        third = Run(tmp_path)
        assert third.find(specimen="S-0018") == [session(18).id]
        assert opened == [session(18).id]


def test_a_search_in_a_process_of_its_own_finds_what_another_saved(run, tmp_path):
    save(run, *range(20))
    run.stop()
    code = (
        "import sys; from hl7core import SessionQuery; from hl7core.testing import FakeRuntime\n"
        "from hl7core_plugins.json_store import JsonStore\n"
        "s = JsonStore(); s.start(FakeRuntime(sys.argv[1], owner=False))\n"
        "print(*[f.id for f in s.load_sessions(SessionQuery(specimen='S-0013'))])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [session(13).id]


def test_the_index_is_private_and_outside_the_sessions_and_holds_no_content(tmp_path):
    before = os.umask(0)
    try:
        run = Run(tmp_path)
        save(run, 1)
        run.work()
        path = index_file(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert run.folder not in path.parents
        for content in (b"P-0001", b"S-0001", b"M000001", b"192.0.2.10"):
            assert content not in path.read_bytes()
    finally:
        os.umask(before)


def test_a_save_does_not_wait_for_the_index(run, monkeypatch):
    """Its row is made later; a search that comes before finds the session all the same."""
    made = []
    monkeypatch.setattr(index, "row_of", lambda *args, **kwargs: made.append(args) or b"")
    save(run, 1, 2, 3)
    assert made == []
    assert run.find(specimen="S-0002") == [session(2).id]
    assert len(made) > 0


# The files are the truth.


def test_what_changes_behind_its_back_is_found_as_it_is(run, tmp_path):
    save(run, *range(6))
    assert run.find(specimen="S-0003") == [session(3).id]
    other = Run(tmp_path, owner=False)  # read --store
    other.persist_session(session(7), replace=False)
    assert run.find(specimen="S-0007") == [session(7).id]
    times = path_of(run, 2).stat()
    messages = tuple(m._replace(text=m.text.replace(b"S-0002", b"S-XXXX")) for m in session(2).messages)
    rewrite(path_of(run, 2), session_to_json(session(2)._replace(messages=messages)))
    assert path_of(run, 2).stat().st_size == times.st_size  # edited in its place, and as if nothing had happened
    os.utime(path_of(run, 2), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run.find(specimen="S-0002") == []
    assert run.find(specimen="S-XXXX") == [session(2).id]
    path_of(run, 3).unlink()
    assert run.find(specimen="S-0003") == []
    below = run.folder / "2026"
    below.mkdir()
    path_of(run, 4).rename(below / path_of(run, 4).name)
    assert run.find(specimen="S-0004") == [session(4).id]
    path_of(run, 5).write_bytes(b"")
    assert run.find(specimen="S-0005") == []
    copied = tmp_path / "copy.json"
    copied.write_bytes(session_to_json(session(5)))
    os.utime(copied, (1, 1))
    shutil.copy2(copied, path_of(run, 5))  # times kept
    assert run.find(specimen="S-0005") == [session(5).id]


def test_a_file_that_changed_just_now_is_read_even_if_it_looks_the_same(run, monkeypatch, opened):
    save(run, 1, 2)
    monkeypatch.setattr(layout, "JUST_NOW_NS", 10**12)
    opened.clear()
    assert run.find(specimen="S-0001") == [session(1).id]
    assert sorted(opened) == [session(1).id, session(2).id]


def test_deleted_and_restored_sessions_are_found_accordingly(run):
    save(run, 1, 2)
    run.delete_sessions([session(1).id], to_trash=True)
    assert run.find(specimen="S-0001") == []
    run.restore_sessions([session(1).id])
    assert run.find(specimen="S-0001") == [session(1).id]
    run.persist_session(session(1, ignored=True), replace=True)
    assert run.find(status=(DeliveryStatus.IGNORED,)) == [session(1).id]


def test_another_process_that_was_faster_is_not_taken_for_the_save(run, monkeypatch):
    """What lies there is theirs, so nothing of ours is noted of it."""
    link = os.link
    theirs = session(1, ignored=True)

    def slower(source, target, **kwargs):
        Path(target).write_bytes(session_to_json(theirs))
        link(source, target, **kwargs)

    monkeypatch.setattr(os, "link", slower)
    assert isinstance(run.persist_session(session(1), replace=False), str)
    assert run.find(status=(DeliveryStatus.IGNORED,)) == [theirs.id]
    assert run.find(status=(DeliveryStatus.PENDING,)) == []


def test_a_predecessors_file_is_no_part_of_it_since_it_ends_when_it_is_read(run):
    old = json.loads((OLD / "predecessor-session-2-no-metadata.json").read_bytes()) | {"sessionId": session(1).id}
    path_of(run, 1).write_text(json.dumps(old))
    ends = NOW + timedelta(days=30)
    for _ in range(2):
        assert run.find(expired_at=ends + timedelta(seconds=1)) == [session(1).id]
        run.runtime.clock = NOW + timedelta(days=1)
        assert run.find(expired_at=ends + timedelta(seconds=1)) == []
        run.runtime.clock = NOW
        run.work()


def test_text_is_found_however_a_person_has_written_it_down(run):
    message = session(1).messages[0]
    text = message.text + 'NTE|1||Größe "A" & <B>\r'.encode()
    sessions = [session(n) for n in (1, 2, 3)]
    sessions = [s._replace(messages=(message._replace(text=text), s.messages[1])) for s in sessions]
    run.persist_sessions(sessions, replace=False)
    rewrite(path_of(run, 2), json.dumps(session_to_dict(sessions[1], saved=True), separators=(",", ":")).encode())
    rewrite(path_of(run, 3), json.dumps(session_to_dict(sessions[2], saved=True), indent=1).encode())
    for wanted in ("Größe", '"A" & <B>', "NTE|1||Gr"):
        for _ in range(2):
            assert run.find(text=wanted) == [s.id for s in sessions]
    assert run.find(text="Grösse") == []


def test_the_order_is_by_start_in_the_next_run_too(run, tmp_path):
    odd = [
        session(n, id=f"{9 - n:08x}-0000-{'4' if n % 2 else '7'}000-8000-000000000000", start_ns=session(n).start_ns)
        for n in range(1, 5)
    ]
    run.persist_sessions([*odd, session(5)], replace=False)
    run.stop()
    wanted = [*(s.id for s in odd), session(5).id]
    again = Run(tmp_path)
    assert again.find() == wanted
    assert again.find(newest_first=True, limit=3) == wanted[:1:-1]
    assert again.find(since=odd[1].started_at, until=odd[3].started_at) == wanted[1:3]
    assert again.find(since=odd[1].started_at, protocol="mllp") == wanted[1:]


# The index may be lost, torn or in the way.


def test_the_index_may_be_deleted_at_any_time(run, tmp_path, opened):
    save(run, *range(10))
    assert run.find(specimen="S-0004") == [session(4).id]
    shutil.rmtree(tmp_path / "index")
    assert run.find(specimen="S-0004") == [session(4).id]
    run.work()
    opened.clear()
    assert run.find(specimen="S-0004") == [session(4).id]
    assert opened == [session(4).id]


def test_whatever_part_of_it_is_damaged_the_answer_is_right(run, tmp_path):
    save(run, *range(12))
    run.work()
    path = index_file(tmp_path)
    whole = path.read_bytes()
    dice = random.Random(3)
    for _ in range(300):
        start = dice.randrange(len(whole))
        length = dice.randrange(1, 300)
        filling = dice.choice([b"", b"\0" * length, dice.randbytes(length), whole[:length], b"0" * length, b"\n"])
        path.write_bytes(whole[:start] + filling + whole[start + dice.choice([0, length, len(whole)]) :])
        number = dice.randrange(12)
        assert Run(tmp_path).find(specimen=f"S-{number:04}") == [session(number).id]


def test_a_row_that_was_cut_off_costs_no_more_than_itself(run, tmp_path, opened):
    save(run, *range(5))
    run.work()
    path = index_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    save(run, 7)
    run.stop()
    opened.clear()
    again = Run(tmp_path)
    assert again.find(specimen="S-0007") == [session(7).id]
    assert sorted(opened) == [session(4).id, session(7).id]


@pytest.mark.parametrize("thing", ["link", "folder", "pipe", "file for a folder", "link for a folder"])
def test_what_stands_in_its_way_is_said_once_and_searches_go_on(run, tmp_path, caplog, thing):
    run.stop()
    (tmp_path / "index").mkdir(exist_ok=True)
    path = index.Index(layout.Layout(str(tmp_path)), owner=True).path
    outside = tmp_path / "outside"
    outside.write_text("mine")
    if thing == "link":
        path.symlink_to(outside)
    elif thing == "folder":
        path.mkdir()
    elif thing == "pipe":
        os.mkfifo(path)
    else:
        shutil.rmtree(tmp_path / "index")
        if thing == "link for a folder":
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "index").symlink_to(tmp_path / "elsewhere")
        else:
            (tmp_path / "index").write_text("mine")
    again = Run(tmp_path)
    save(again, *range(3))
    for _ in range(3):
        assert again.find(specimen="S-0001") == [session(1).id]
        again.work()
    told = [record for record in caplog.records if "index" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert outside.read_text() == "mine"
    again.stop()


def test_a_full_disk_costs_the_index_and_not_the_search(run, monkeypatch, caplog):
    save(run, *range(3))
    write = os.write

    def full(descriptor, data):
        if bytes(data[:1]) == b"\n":
            write(descriptor, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        assert run.find(specimen="S-0001") == [session(1).id]
    assert caplog.text.count("No space left on device") == 1
    monkeypatch.undo()
    monkeypatch.setattr(layout, "JUST_NOW_NS", 0)
    assert run.find(specimen="S-0001") == [session(1).id]


# Making it, and keeping it small.


def test_it_is_made_a_little_at_a_time_and_says_how_far_it_is(run, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(index, "_WORTH_TELLING", 10)
    monkeypatch.setattr(index, "_TOLD_EVERY", 10)
    save(run, *range(25))
    run.stop()
    shutil.rmtree(tmp_path / "index")
    now = [0.0]
    made = index.Index(
        layout.Layout(str(tmp_path)), owner=True, clock=lambda: now.__setitem__(0, now[0] + 0.1) or now[0]
    )
    looks = 0
    while not (made.path.exists() and made.path.read_bytes().count(b" =\n") == 25):
        made.work()
        looks += 1
    assert 5 < looks < 25
    lines = [record.getMessage() for record in caplog.records if record.name == index.__name__]
    assert lines == [
        "25 of 25 stored sessions are not in the index yet; they are read now",
        "the index: 10 of 25 sessions read",
        "the index: 20 of 25 sessions read",
        "the index is complete: 25 sessions were read",
    ]


def test_saves_and_searches_go_on_while_it_is_made(run, tmp_path, monkeypatch):
    save(run, *range(5))
    run.stop()
    shutil.rmtree(tmp_path / "index")
    again = Run(tmp_path)
    look, reached, go_on = files.look, threading.Event(), threading.Event()

    def slow(path):
        if threading.current_thread().name == "making":
            reached.set()
            assert go_on.wait(20)
        return look(path)

    monkeypatch.setattr(files, "look", slow)
    making = threading.Thread(target=again.work, name="making")
    making.start()
    assert reached.wait(20)
    save(again, 7)
    assert again.find(specimen="S-0007") == [session(7).id]
    assert again.find(specimen="S-0003") == [session(3).id]
    go_on.set()
    making.join()
    again.stop()


def test_rows_of_no_use_are_dropped_by_the_owner_alone(run, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(index, "_SPARE_ROWS", 5)
    run.work()
    save(run, *range(10))
    for revision in range(1, 5):
        run.persist_sessions([session(n, revision=revision) for n in range(10)], replace=True)
    run.delete_sessions([session(9).id], to_trash=False)
    run.stop()
    made = index_file(tmp_path)
    foreign = made.with_name("sessions-0-0.0.1.index")
    foreign.write_bytes(b"of another version")
    before = made.read_bytes()
    guest = Run(tmp_path, owner=False)
    guest.work()
    assert (made.read_bytes(), foreign.exists()) == (before, True)
    guest.stop()
    owner = Run(tmp_path)
    owner.work()
    assert not foreign.exists()
    after = made.read_bytes()
    assert (before.count(b" =\n"), after.count(b" =\n")) == (50, 9)
    assert session(9).id.encode() not in after
    opened.clear()
    assert owner.find(specimen="S-0003") == [session(3).id]
    assert opened == [session(3).id]


def test_damaged_files_are_no_part_of_it_and_are_told_by_who_looks(run, tmp_path, caplog):
    save(run, 1, 2)
    path_of(run, 1).write_bytes(b"{")
    (run.folder / f"{session(3).id}.json").write_bytes(session_to_json(session(4)))
    run.work()
    assert "skipped" not in caplog.text
    assert run.find(protocol="mllp") == [session(2).id]
    assert run.find(specimen="S-0004") == []
    assert caplog.text.count("cannot be read and is skipped") == 2
    assert run.find(protocol="mllp") == [session(2).id]
    assert caplog.text.count("cannot be read and is skipped") == 2


# All of it together.

QUERIES = [
    {"specimen": "S-0001"}, {"patient": "P-0002"}, {"control_id": "M000003"}, {"status": (DeliveryStatus.IGNORED,)},
    {"status": (DeliveryStatus.PENDING,), "newest_first": True, "limit": 2}, {"protocol": "lis01"}, {"text": "S-0004"},
    {"expired_at": NOW}, {"device": "192.0.2.10", "specimen": "S-0002"}, {"pending_for": "rest"},
]  # fmt: skip
MOVES = ["save", "save", "save", "group", "replace", "edit", "copy in", "remove", "cut off", "link", "trash", "restore",
         "lose index", "tear index", "work", "next run", "guest", "search"]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 5), st.integers(0, 3)), max_size=25))
def test_whatever_happens_a_search_gives_what_reading_every_file_gives(tmp_path_factory, moves):
    folder = tmp_path_factory.mktemp("store")
    run = Run(folder)

    def version(number, kind):
        made = session(number, protocol="lis01" if number == 5 else "mllp")
        return made._replace(
            ignored=kind == 1,
            deliveries=(Delivery("rest"),) if kind == 2 else (),
            persisted_until=NOW - timedelta(days=1) if kind == 3 else None,
        )

    def check():
        whole = []
        for path in run.folder.glob("*.json"):
            try:
                found = session_from_json(files.read(path))
            except (OSError, StoreError):
                continue
            whole.append(found)
        whole.sort(key=sort_key)
        for query in QUERIES:
            asked = SessionQuery(**query)
            wanted = [s for s in (reversed(whole) if asked.newest_first else whole) if matches(s, asked)]
            assert run.load_sessions(asked) == wanted[: asked.limit], query

    for move, number, kind in moves:
        made = version(number, kind)
        path = run.folder / f"{made.id}.json"
        present = path.is_file() and not path.is_symlink()
        if move == "save":
            run.persist_sessions([made], replace=False)
        elif move == "group":
            run.persist_sessions([version(n, kind) for n in range(5)], replace=False)
        elif move == "replace":
            run.persist_sessions([made], replace=True)
        elif move == "edit" and present:
            rewrite(path, session_to_json(made))
        elif move == "copy in" and not path.is_symlink():
            path.write_bytes(session_to_json(made))
        elif move == "remove":
            path.unlink(missing_ok=True)
        elif move == "cut off" and present:
            rewrite(path, path.read_bytes()[:-1])
        elif move == "link" and not present:
            path.unlink(missing_ok=True)
            path.symlink_to(folder / "nowhere")
        elif move == "trash":
            run.delete_sessions([made.id], to_trash=True)
        elif move == "restore":
            run.restore_sessions([made.id])
        elif move == "lose index":
            shutil.rmtree(folder / "index", ignore_errors=True)
        elif move == "tear index" and (folder / "index").exists():
            torn = index_file(folder)
            data = torn.read_bytes()
            torn.write_bytes(data[: len(data) * (number + 1) // 7] + b"\0" * kind)
        elif move == "work":
            run.work()
        elif move == "next run":
            run.stop()
            run = Run(folder)
        elif move == "guest":
            guest = Run(folder, owner=False)
            guest.persist_sessions([made], replace=False)
            guest.stop()
        elif move == "search":
            check()
    check()
    run.stop()
    shutil.rmtree(folder)


# How much there is.


def test_the_size_of_the_store_is_that_of_its_sessions_trash_included(run, tmp_path):
    assert run.store_size() == 0
    save(run, 1, 2, 3)
    (tmp_path / "sessions" / "notes.txt").write_text("of somebody else's")
    sizes = {n: len(session_to_json(session(n))) for n in (1, 2, 3)}
    run.work()
    assert run.store_size() == sum(sizes.values())
    run.delete_sessions([session(1).id], to_trash=True)
    assert run.store_size() == sum(sizes.values())
    run.delete_sessions([session(2).id], to_trash=False)
    assert run.store_size() == sizes[1] + sizes[3]
    run.empty_trash(NOW + timedelta(days=1))
    assert run.store_size() == sizes[3]
