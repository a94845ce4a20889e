"""Searches: the files are the truth, whatever the index has."""

from __future__ import annotations

import json
import logging
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hl7core import (
    Delivery,
    DeliveryStatus,
    SessionQuery,
    StoreError,
    matches,
    session_from_json,
    session_to_json,
    sort_key,
)
from hl7core_plugins.json_store import files, layout
from plugins.json_store.parts import NOW, OLD, Run, index_file, loaded, path_of, rewrite, save, session


def test_a_damaged_file_is_logged_once_and_stays_where_it_is(store, caplog):
    store.persist_sessions([session(1), session(2)], replace=False)
    damaged = store.folder / f"{session(1).id}.json"
    damaged.write_text('{"sessionId": "SECRET^PATIENT"')
    assert loaded(store) == loaded(store) == [session(2)]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert str(damaged) in lines[0]
    assert "SECRET" not in caplog.text
    assert damaged.exists()


def test_a_file_under_another_sessions_name_is_skipped(store):
    (store.folder / f"{session(1).id}.json").write_bytes(session_to_json(session(2)))
    assert loaded(store) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_file_never_passes_for_a_save(store, content):
    for replace in (False, True):
        path = store.folder / f"{session(1).id}.json"
        path.write_bytes(content)
        store.persist_session(session(1), replace=replace)
        assert loaded(store, ids=(session(1).id,)) == [session(1)]
        path.write_bytes(content)
        assert all(isinstance(o, str) for o in store.persist_sessions([session(n) for n in (1, 2, 3)], replace=replace))
        assert loaded(store) == [session(n) for n in (1, 2, 3)]


def test_ids_that_name_no_time_are_in_order_too(store):
    ids = [f"{n:08x}-0000-4000-8000-000000000000" for n in (5, 3, 4, 1, 2)]
    sessions = [session(n, id=ids[n]) for n in range(5)]
    store.persist_sessions(sessions, replace=False)
    lying = [session(n, id=f"0190000{9 - n}-0000-7000-8000-000000000000") for n in range(5, 8)]
    store.persist_sessions(lying, replace=False)
    assert loaded(store) == sessions + lying
    assert loaded(store, newest_first=True, limit=4) == (sessions + lying)[:-5:-1]
    assert loaded(store, since=sessions[2].started_at, until=lying[1].started_at) == [*sessions[2:], lying[0]]


def test_a_listing_opens_no_more_files_than_it_needs(store, monkeypatch):
    store.persist_sessions([session(n) for n in range(50)], replace=False)
    opened = []
    look = files.look
    monkeypatch.setattr(files, "look", lambda path: (opened.append(path), look(path))[1])
    assert loaded(store, newest_first=True, limit=3) == [session(n) for n in (49, 48, 47)]
    assert len(opened) == 3
    middle = session(25)
    assert loaded(store, after=(middle.started_at, middle.id), limit=2) == [session(26), session(27)]
    assert len(opened) <= 3 + 3
    assert loaded(store, since=session(48).started_at) == [session(48), session(49)]
    assert len(opened) <= 3 + 3 + 2


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


QUERIES = [
    {"specimen": "S-0001"}, {"patient": "P-0002"}, {"control_id": "M000003"}, {"status": (DeliveryStatus.IGNORED,)},
    {"status": (DeliveryStatus.PENDING,), "newest_first": True, "limit": 2}, {"protocol": "lis01"}, {"text": "S-0004"},
    {"expired_at": NOW}, {"device": "192.0.2.10", "specimen": "S-0002"}, {"pending_for": "rest"},
]  # fmt: skip
MOVES = ["save", "save", "save", "group", "replace", "edit", "copy in", "remove", "cut off", "link", "trash", "restore",
         "lose index", "tear index", "work", "next run", "guest", "search"]  # fmt: skip


@pytest.mark.usefixtures("trusting")
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
