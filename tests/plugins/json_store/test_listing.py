"""Whoever turns pages pays for what is on them, and misses nothing that this store saves meanwhile."""

import os
import shutil
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.parts import exchange
from hl7core import Delivery, DeliveryStatus, SessionQuery, StoreError, session_to_json
from hl7core.engine.store_jobs import FAIR
from hl7core.model.schema import at_stored_precision
from hl7core.testing import EngineHarness, FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, files, index, layout

NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)
DAY = timedelta(days=1)
EVERYTHING = SessionQuery()
EXPIRED = SessionQuery(expired_at=NOW)


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    """Trust files that changed a moment ago: a test cannot wait for two seconds each time."""
    monkeypatch.setattr(layout, "JUST_NOW_NS", 0)


class Run:
    """A store in a run of its own, its clock for listings in our hands."""

    def __init__(self, folder, *, owner=True):
        self.runtime = FakeRuntime(folder, now=NOW, owner=owner)
        self.store = JsonStore()
        self.store.start(self.runtime)
        self.work = self.runtime.jobs[0][1]
        self.seconds = 0.0
        self.listings._clock = lambda: self.seconds

    def __getattr__(self, name):
        return getattr(self.store, name)

    @property
    def listings(self):
        return self.store._open.reading.listings

    def page(self, query, after=None, limit=10):
        return self.load_sessions(query._replace(limit=limit, after=key(after) if after else None))


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def cost(monkeypatch):
    """How often a folder was listed, and files were read."""
    counted = Counter()
    scandir, look = os.scandir, files.look
    monkeypatch.setattr(os, "scandir", lambda folder: (counted.update(["listed"]), scandir(folder))[1])
    monkeypatch.setattr(files, "look", lambda path: (counted.update(["read"]), look(path))[1])
    return counted


def key(one):
    return (one.started_at, one.id)


def session(number, *, old=True, waits=False, **fields):
    return at_stored_precision(
        make_session(
            number,
            persisted_until=NOW + (-DAY if old else DAY),
            deliveries=(Delivery("rest", DeliveryStatus.PENDING if waits else DeliveryStatus.SUBMITTED),),
            **fields,
        )
    )


def save(run, *sessions, replace=False):
    assert all(isinstance(place, str) for place in run.persist_sessions(sessions, replace=replace))
    return list(sessions)


def by_hand(run, one):
    (run.folder / f"{one.id}.json").write_bytes(session_to_json(one))


def pages(run, query, limit=10):
    """Yield page after page, as the core asks for them."""
    after = None
    while True:
        page = run.page(query, after, limit)
        yield page
        if len(page) < limit:
            return
        after = page[-1]


def ids(*sessions):
    return [one.id for one in sessions]


# What it costs.


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("query", [EVERYTHING, EXPIRED, SessionQuery(text="MSA|AA"), SessionQuery(pending_for="rest")])
def test_turning_pages_lists_the_folder_twice_and_reads_each_file_once(run, cost, query, newest_first):
    query = query._replace(newest_first=newest_first)
    for count in (100, 400):
        save(run, *(session(number, waits=True) for number in range(count)))
        run.work()
        cost.clear()
        found = [one for page in pages(run, query) for one in page]
        assert len(found) == count
        assert cost["listed"] <= 2
        assert cost["read"] <= count + count / 10  # the last of a page is looked at again by the next


@pytest.mark.parametrize("to_trash", [True, False])
def test_a_cleanup_lists_the_folder_as_often_for_many_sessions_as_for_few(run, cost, to_trash):
    listed = []
    for count in (50, 500):
        save(run, *(session(number) for number in range(count)), session(1000, old=False))
        cost.clear()
        taken = []
        for page in pages(run, EXPIRED):
            taken += run.delete_sessions(ids(*page), to_trash=to_trash, deleted_at=NOW)
        assert len(taken) == count
        assert cost["read"] < 2 * count
        listed.append(cost["listed"])
        assert ids(*run.page(EVERYTHING)) == ids(session(1000))
    assert listed[0] == listed[1] <= 3


def test_a_first_page_leaves_nothing_behind(run):
    save(run, *(session(number) for number in range(50)))
    run.page(EVERYTHING)
    run.page(EXPIRED)
    assert not run.listings._kept


def test_a_query_may_name_what_it_wants_in_lists(run):
    old = save(run, *(session(number) for number in range(30)))
    query = SessionQuery(ids=ids(*old[5:]), status=[DeliveryStatus.SUBMITTED])
    assert ids(*(one for page in pages(run, query) for one in page)) == ids(*old[5:])


def test_what_serves_no_more_is_let_go(run):
    save(run, *(session(number) for number in range(50)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    assert len(run.listings._kept) == 1
    run.work()
    assert len(run.listings._kept) == 1
    run.seconds += 31
    run.work()
    assert not run.listings._kept
    assert ids(*next(walk)) == ids(*(session(number) for number in range(20, 30)))
    assert len([one for page in walk for one in page]) == 20
    assert not run.listings._kept, "the last page was turned"


def test_so_many_queries_at_once_go_on_in_listings_of_theirs(run):
    save(run, *(session(number) for number in range(60)))
    walks = [pages(run, EVERYTHING._replace(until=NOW + DAY * n), 10) for n in range(1, 8)]
    for _ in range(6):
        for walk in walks:
            assert len(next(walk)) == 10
        assert len(run.listings._kept) <= 4


def test_a_listing_that_took_long_serves_long(run, monkeypatch, cost):
    save(run, *(session(number) for number in range(100)))
    names = layout.Layout.names
    monkeypatch.setattr(
        layout.Layout, "names", lambda self: (setattr(run, "seconds", run.seconds + 10), names(self))[1]
    )
    walk = pages(run, EVERYTHING)
    next(walk), next(walk)
    cost.clear()
    run.seconds += 195
    next(walk)
    assert cost["listed"] == 0
    run.seconds += 10
    next(walk)
    assert cost["listed"] == 1


# What changes while pages are turned.


def test_what_is_edited_or_taken_away_by_hand_is_met_as_it_is(run, caplog):
    old = save(run, *(session(number) for number in range(50)))
    walk = pages(run, EXPIRED)
    first = [*next(walk), *next(walk)]
    (run.folder / f"{old[25].id}.json").unlink()
    by_hand(run, session(26, old=False))
    (run.folder / f"{old[27].id}.json").write_bytes(b"{")
    assert ids(*first, *next(walk), *next(walk), *next(walk)) == ids(*old[:25], *old[28:])
    assert [record.levelname for record in caplog.records if "cannot be" in record.getMessage()] == ["ERROR"]


def test_text_is_looked_for_in_what_a_file_holds_now(run):
    old = save(run, *(session(number) for number in range(50)))
    run.work()
    walk = pages(run, SessionQuery(text="MSA|AA"))
    found = [*next(walk), *next(walk)]
    path = run.folder / f"{old[30].id}.json"
    path.write_bytes(path.read_bytes().replace(b"MSA|AA", b"MSA\\u007cAA"))  # JSON may be written otherwise
    assert ids(*found, *(one for page in walk for one in page)) == ids(*old)


def test_what_is_added_by_hand_is_found_by_the_next_query_and_by_this_one_in_half_a_minute(run):
    old = save(run, *(session(number) for number in range(0, 100, 2)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    added = session(45)
    by_hand(run, added)
    assert ids(*run.page(EXPIRED, limit=100)) == ids(*sorted([*old, added], key=key))
    assert ids(*next(walk)) == ids(*old[20:30])
    later = session(75)
    by_hand(run, later)
    run.seconds += 31
    assert ids(*next(walk), *next(walk)) == ids(*old[30:38], later, *old[38:49])


def test_what_another_process_adds_is_found_likewise(run, tmp_path):
    save(run, *(session(number) for number in range(50)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    guest = Run(tmp_path, owner=False)
    save(guest, session(60))
    guest.stop()
    run.seconds += 31
    assert ids(*(one for page in walk for one in page))[-2:] == ids(session(49), session(60))


def test_what_this_store_saves_meanwhile_is_on_its_page(run):
    save(run, *(session(number, old=number != 44) for number in range(0, 100, 2)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    save(run, session(41), session(3))  # one behind where we are, one before
    save(run, session(44), replace=True)  # it did not fit before
    save(run, session(46, old=False), replace=True)  # it does not fit any more
    assert ids(*next(walk)) == ids(*(session(number) for number in (40, 41, 42, 44, 48, 50, 52, 54, 56, 58)))


def test_what_is_saved_while_the_folder_is_listed_is_on_its_page(run):
    save(run, *(session(number) for number in range(0, 60, 2)))
    first = run.page(EXPIRED)
    fresh = [session(41), session(43)]
    run.runtime.between = lambda: fresh and save(run, fresh.pop())
    second = run.page(EXPIRED, first[-1])
    run.runtime.between = lambda: None
    third = run.page(EXPIRED, second[-1])
    assert not fresh
    there = sorted([*range(20, 60, 2), 41, 43])
    assert ids(*second, *third) == ids(*(session(number) for number in there[:20]))


def test_what_is_restored_meanwhile_is_on_its_page(run):
    old = save(run, *(session(number) for number in range(50)))
    run.delete_sessions(ids(old[35]), to_trash=True, deleted_at=NOW)
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    run.restore_sessions(ids(old[35]))
    assert ids(*(one for page in walk for one in page)) == ids(*old[20:])


def test_a_session_whose_start_is_changed_is_on_the_page_of_its_start(run):
    odd = [
        session(number, id=f"{number:08x}-0000-4000-8000-000000000000", start_ns=session(number).start_ns)
        for number in range(50)
    ]
    save(run, *odd)
    walk = pages(run, EXPIRED)
    found = [*next(walk), *next(walk)]
    moved = odd[25]._replace(start_ns=odd[45].start_ns + 1_000_000, end_ns=odd[45].end_ns + 1_000_000)
    save(run, moved, replace=True)
    found += [one for page in walk for one in page]
    assert ids(*found) == ids(*odd[:25], *odd[26:46], moved, *odd[46:])


def test_another_folder_in_the_place_of_ours_is_listed_anew(run, tmp_path):
    save(run, *(session(number) for number in range(50)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    shutil.copytree(run.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*-0000001e*"))
    run.folder.rename(tmp_path / "away")
    (tmp_path / "copy").rename(run.folder)
    by_hand(run, session(60))
    assert ids(*(one for page in walk for one in page))[-1] == session(60).id


def test_a_folder_that_cannot_be_listed_any_more_is_one_error(run, tmp_path, caplog):
    save(run, *(session(number) for number in range(50)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    run.folder.rename(tmp_path / "away")
    run.folder.write_text("in the way")
    with pytest.raises(StoreError, match="cannot be listed"):
        next(walk)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_folder_that_is_gone_holds_nothing(run, tmp_path):
    save(run, *(session(number) for number in range(50)))
    walk = pages(run, EXPIRED)
    next(walk), next(walk)
    shutil.rmtree(run.folder)
    assert list(walk) == [[]]


MOVES = ["save", "save", "replace", "replace", "trash", "delete", "restore", "by hand away", "work", "lose index"]
QUERIES = [
    EVERYTHING,
    EXPIRED,
    SessionQuery(pending_for="rest"),
    SessionQuery(text="S-00"),
    SessionQuery(protocol="mllp"),
]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.sampled_from(QUERIES),
    newest_first=st.booleans(),
    limit=st.integers(1, 6),
    moves=st.lists(
        st.lists(
            st.tuples(st.sampled_from(MOVES), st.integers(0, 30), st.booleans(), st.booleans(), st.booleans()),
            max_size=4,
        ),
        max_size=20,
    ),
)
def test_however_the_store_changes_a_kept_listing_gives_what_a_new_one_gives(
    tmp_path_factory, query, newest_first, limit, moves
):
    folder = tmp_path_factory.mktemp("store")
    run = Run(folder)
    save(run, *(session(number, waits=bool(number % 3)) for number in range(0, 30, 2)))
    query = query._replace(newest_first=newest_first)
    after = None
    for step in [*moves, []]:
        page = run.page(query, after, limit)
        kept = dict(run.listings._kept)
        run.listings.forget()
        assert page == run.page(query, after, limit)
        run.listings._kept.clear()
        run.listings._kept.update(kept)
        if len(page) < limit:
            break
        after = page[-1]
        for move, number, old, waits, same_time in step:
            start = {"start_ns": session(number // 2).start_ns} if same_time and number % 5 == 0 else {}
            made = session(number, old=old, waits=waits, **start)
            if move in ("save", "replace"):
                run.persist_sessions([made], replace=move == "replace")
            elif move in ("trash", "delete"):
                run.delete_sessions([made.id], to_trash=move == "trash")
            elif move == "restore":
                run.restore_sessions([made.id])
            elif move == "by hand away":
                (run.folder / f"{made.id}.json").unlink(missing_ok=True)
            elif move == "work":
                run.work()
            elif move == "lose index":
                shutil.rmtree(folder / "index", ignore_errors=True)
    run.stop()
    shutil.rmtree(folder)


# Saves go on meanwhile.


def test_between_any_two_files_that_it_reads_it_gives_way(run, cost, tmp_path):
    for number in range(60):
        by_hand(run, session(number))
    gaves = []
    run.runtime.between = lambda: gaves.append(cost["read"])
    assert run.load_sessions(SessionQuery(specimen="none")) == []
    assert cost["read"] == 60
    assert set(range(60)) <= set(gaves)


@pytest.mark.parametrize(
    "ask", [lambda s: s.load_sessions(EXPIRED), lambda s: s.store_size(), lambda s: s.session_ids()]
)
def test_while_it_lists_many_names_it_gives_way(run, ask):
    for number in range(1100):
        (run.folder / f"{session(number).id}.json").touch()
    given = []
    run.runtime.between = lambda: given.append(1)
    ask(run.store)
    assert len(given) >= 2


def test_what_is_saved_in_the_midst_of_a_query_is_safe_and_stays(run):
    for number in range(30):
        by_hand(run, session(number))
    fresh = [session(number) for number in range(40, 60)]
    run.runtime.between = lambda: fresh and save(run, fresh.pop())
    assert ids(*run.load_sessions(EXPIRED))[:30] == ids(*(session(number) for number in range(30)))
    run.runtime.between = lambda: None
    assert ids(*run.load_sessions(EXPIRED)) == ids(*(session(number) for number in (*range(30), *range(40, 60))))


def test_a_save_does_not_wait_for_whoever_writes_the_index(run, monkeypatch):
    monkeypatch.setattr(index, "_MOST_NOTES", 3)
    made = run.store._open.index
    with made._writing:
        save(run, *(session(number) for number in range(10)))
        assert len(run.page(EXPIRED)) == 10
    run.work()
    assert made.known() == {session(number).id for number in range(10)}


def test_in_an_engine_a_save_does_not_wait_for_the_first_query_that_reads_everything(tmp_path, monkeypatch):
    folder = tmp_path / "docs" / "sessions"
    folder.mkdir(parents=True, mode=0o700)
    for one in (session(number) for number in range(200)):
        (folder / f"{one.id}.json").write_bytes(session_to_json(one))
    monkeypatch.setattr(index.Index, "work", lambda _self: None)  # or it might be quicker than the query
    look, read, there = files.look, [], []

    def slow(path):
        if threading.current_thread().name == "hl7core-ask-json_store-saving":
            read.append(path)
            if len(read) == 100:
                h.feed(exchange("LIVE"))
                h.wait_for(lambda: h.state().unsaved)
                time.sleep(FAIR)  # reading has had its share
            if len(read) > 110:
                there.append(len(list(folder.glob("*.json"))))
        return look(path)

    with EngineHarness(tmp_path, {"json_store": JsonStore}) as h:
        assert len(h.sessions()) == 200  # what the start reads is read
        monkeypatch.setattr(files, "look", slow)
        assert h.sessions(SessionQuery(control_id="LIVE")) == []  # it came after the query
        assert len(read) == 200
        assert there[0] == 201, "it was saved while the query went on"
        assert len(h.sessions(SessionQuery(control_id="LIVE"))) == 1
