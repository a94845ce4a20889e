"""The index file: it may be lost, torn or in the way, and grows a little at a time."""

from __future__ import annotations

import logging
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from hl7core import session_to_json
from hl7core_plugins.json_store import files, index, layout
from plugins.json_store.parts import NOW, Run, index_file, path_of, save, session


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


@pytest.mark.usefixtures("trusting")
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
        "25 of 25 stored sessions are not in the index yet; reading them now",
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
