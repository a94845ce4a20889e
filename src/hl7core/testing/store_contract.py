"""What every store must do, as a class of tests to inherit from.

::

    class TestMyStore(StoreContract):
        def make_store(self, folder):
            store = MyStore()
            store.configure(MyStoreSettings())
            store.start(FakeRuntime(folder))
            return store

Made again on the same folder, a store must hold what it held.  More is tested if you override more: ``make_guest`` (a
store beside a running engine), ``damage`` (spoil what is stored of a session), ``make_older`` and ``make_newer`` (data
of another version), ``small_disk`` (where to fill a disk up) and ``check_rest`` (what must hold after a crash).  What a
store cannot promise is skipped with the reason.

``kills`` and ``saves`` say how hard kill -9 is tried.  The class must stand at the top level of its module, which a
process of its own imports.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from hl7core.errors import StoreError
from hl7core.hl7.query import matches, sort_key
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.schema import at_stored_precision
from hl7core.model.session import Ending, Session, SessionQuery
from hl7core.testing.builders import make_message, make_session
from hl7core.testing.store_base import NOW
from hl7core.testing.store_disasters import StoreDisasters

__all__ = ["StoreContract"]

_NO_IDS: Final = ("../../etc/passwd", "", "x" * 36, "0" * 37, "%", "*", "0" * 35 + "\n", "/" + "0" * 35, "\0" * 36)


class StoreContract(StoreDisasters):
    """Inherit, define ``make_store``, and pytest does the rest."""

    # Saving.

    def test_what_is_saved_comes_back_equal(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = [at_stored_precision(s) for s in _of_all_kinds()]
        for session in sessions:
            assert isinstance(store.persist_session(session, replace=False), str)
        assert sorted(self.load(store), key=lambda s: s.id) == sorted(sessions, key=lambda s: s.id)

    def test_it_is_still_there_in_the_next_run(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = self.fill(store)
        store.stop()
        assert self.load(self.make_store(tmp_path)) == sessions

    def test_a_second_save_replaces_the_first(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        changed = session._replace(ignored=True)
        store.persist_session(changed, replace=True)
        assert self.load(store) == [changed]

    def test_without_replace_what_is_stored_stays(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        where = store.persist_session(session._replace(ignored=True), replace=False)
        assert isinstance(where, str)
        assert self.load(store) == [session]

    def test_a_group_is_saved_one_entry_a_session(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        if not hasattr(store, "persist_sessions"):
            return
        sessions = [at_stored_precision(make_session(number)) for number in range(1, 21)]
        outcomes = store.persist_sessions([*sessions, sessions[0]._replace(ignored=True)], replace=True)
        assert len(outcomes) == 21
        assert all(isinstance(outcome, str) for outcome in outcomes)
        assert self.load(store) == [sessions[0]._replace(ignored=True), *sessions[1:]]

    def test_an_invalid_session_is_refused_and_the_others_are_saved(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        good = at_stored_precision(make_session(1))
        for session_id in _NO_IDS:
            try:
                store.persist_session(good._replace(id=session_id), replace=True)
            except StoreError:
                continue
            raise AssertionError(f"the id {session_id!r} was taken")
        if hasattr(store, "persist_sessions"):
            bad, fine = store.persist_sessions([good._replace(id="no id"), good], replace=False)
            assert isinstance(bad, StoreError)
            assert isinstance(fine, str)
            assert self.load(store) == [good]

    def test_saves_from_many_threads_leave_one_whole_session(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = at_stored_precision(make_session(1))
        versions = [session._replace(sensor=f"sensor {n}" * (n + 1)) for n in range(24)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda version: store.persist_session(version, replace=True), versions))
        found = self.load(store)
        assert len(found) == 1
        assert found[0] in versions

    def test_what_was_saved_last_is_what_every_search_goes_by(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first = at_stored_precision(make_session(1)._replace(deliveries=(Delivery("rest"),)))
        sent = first._replace(deliveries=(Delivery("rest", DeliveryStatus.SUBMITTED, 1, None, NOW),))
        store.persist_session(first, replace=False)
        assert self.load(store, pending_for="rest", status=(DeliveryStatus.PENDING,)) == [first]
        store.persist_session(sent, replace=True)
        assert self.load(store, pending_for="rest") == self.load(store, status=(DeliveryStatus.PENDING,)) == []
        assert self.load(store, status=(DeliveryStatus.SUBMITTED,), specimen="S-0001") == [sent]
        other = make_message(1, specimen="S-0777", time_ns=first.messages[0].time_ns)
        element = first.elements[0]._replace(span=(0, len(other.text)))
        corrected = sent._replace(messages=(other, first.messages[1]), elements=(element, first.elements[1]))
        store.persist_session(corrected, replace=True)
        assert self.load(store, specimen="S-0001") == []
        assert self.load(store, specimen="S-0777") == [corrected]
        store.stop()
        assert self.load(self.make_store(tmp_path), specimen="S-0777") == [corrected]

    def test_who_reads_while_others_save_sees_whole_sessions(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = [at_stored_precision(make_session(number)) for number in range(1, 61)]
        over = threading.Event()

        def read() -> bool:
            seen = 0
            while not over.is_set() or seen < len(sessions):
                found = self.load(store, limit=100)
                assert found == [session for session in sessions if session in found]
                assert len(found) >= seen
                seen = len(found)
            return True

        with ThreadPoolExecutor(6) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                groups = [sessions[at : at + 5] for at in range(0, 60, 5)]
                outcomes = list(pool.map(lambda group: self.save(store, group), groups))
            finally:
                over.set()
            assert all(isinstance(outcome, str) for group in outcomes for outcome in group)
            assert all(reader.result() for reader in readers)

    def test_a_guest_adds_sessions_and_overwrites_none(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first = self.fill(store, 1)[0]
        guest = self.make_guest(tmp_path)
        added = [at_stored_precision(make_session(number)) for number in range(2, 30)]
        with ThreadPoolExecutor(2) as pool:
            theirs = pool.submit(self.save, guest, [first._replace(ignored=True), *added[::2]])
            ours = pool.submit(self.save, store, added[1::2])
            assert all(isinstance(outcome, str) for outcome in (*theirs.result(), *ours.result()))
        assert self.load(store) == self.load(guest) == [first, *added]
        assert self.load(store, specimen="S-0002") == [added[0]]
        guest.stop()
        changed = added[0]._replace(ignored=True)
        store.persist_session(changed, replace=True)
        assert self.load(store, ids=(changed.id,)) == [changed]
        store.stop()
        again = self.make_store(tmp_path)
        assert self.load(again) == [first, changed, *added[1:]]

    # Loading.

    def test_an_empty_store_holds_nothing(self, tmp_path: Path) -> None:
        assert self.load(self.make_store(tmp_path / "not" / "there" / "yet")) == []

    def test_order_is_by_start_either_way_round(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = [at_stored_precision(make_session(number)) for number in (3, 1, 5, 2, 4)]
        for session in sessions:
            store.persist_session(session, replace=False)
        ordered = sorted(sessions, key=lambda s: (s.started_at, s.id))
        assert self.load(store) == ordered
        assert self.load(store, newest_first=True) == ordered[::-1]

    def test_paging_yields_each_session_once(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        start_ns = make_session(1).start_ns
        sessions = self.fill(store, 7)
        for number in range(8, 14):  # these start in one millisecond
            session = at_stored_precision(make_session(number, start_ns=start_ns + (number % 3) * 1000))
            store.persist_session(session, replace=False)
            sessions.append(session)
        for newest_first in (False, True):
            ordered = sorted(sessions, key=lambda s: (s.started_at, s.id), reverse=newest_first)
            paged: list[Session] = []
            after = None
            while page := self.load(store, limit=3, after=after, newest_first=newest_first):
                assert len(page) <= 3
                paged += page
                after = (page[-1].started_at, page[-1].id)
            assert paged == ordered

    def test_every_field_of_a_query_selects(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = [at_stored_precision(s) for s in _different()]
        for session in sessions:
            store.persist_session(session, replace=False)
        first, second, third, fourth = sessions

        def ids(**query: Any) -> list[str]:
            return [session.id for session in self.load(store, **query)]

        every = [s.id for s in sessions]
        assert ids(ids=(third.id, first.id)) == [first.id, third.id]
        assert ids(ids=("00000000-0000-0000-0000-000000000000",)) == []
        assert ids(status=(DeliveryStatus.SUBMITTED,)) == [second.id]
        assert ids(status=(DeliveryStatus.FAILED, DeliveryStatus.IGNORED)) == [third.id, fourth.id]
        assert ids(device="198.51.100.7") == [second.id]
        assert ids(lis="198.51.100.8") == [third.id]
        assert ids(protocol="lis01") == [fourth.id]
        assert ids(since=second.started_at, until=fourth.started_at) == [second.id, third.id]
        assert ids(specimen="S-0001") == [first.id]
        assert ids(specimen="S-0004") == [fourth.id]
        assert ids(specimen="S-000") == []
        assert ids(patient="P-0002") == [second.id]
        assert ids(patient="P-0004") == [fourth.id]
        assert ids(control_id="M000003") == [third.id]
        assert ids(finding="slow-answer") == [first.id]
        assert ids(text='"quoted" Größe') == [second.id]
        assert ids(text="MSA|AA|") == every[:3]
        assert ids(pending_for="rest") == [first.id]
        assert ids(expired_at=NOW) == [first.id]
        assert ids(limit=2) == every[:2]
        assert ids(limit=0) == []
        assert ids(device="198.51.100.7", protocol="lis01") == []

    def test_a_search_finds_exactly_what_matches_says(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = [at_stored_precision(session) for session in _odd()]
        assert all(isinstance(outcome, str) for outcome in self.save(store, sessions))
        words = {word for _, value in _ODD for word in (value, value.strip(), value[:200], value[:3], "")}
        words |= {"S", "%", "_", "'", "--", "S-0001' OR '1'='1", "\ud800", "x" * 300, "LAB", "M000001", "slow", "rest"}
        for field in (
            "specimen",
            "patient",
            "control_id",
            "finding",
            "text",
            "device",
            "lis",
            "protocol",
            "pending_for",
        ):
            for word in sorted(words):
                asked: dict[str, Any] = {field: word}
                query = SessionQuery(**asked)
                wanted = sorted((s for s in sessions if matches(s, query)), key=sort_key)
                assert self.load(store, **asked) == wanted, (field, word)
        both = SessionQuery(specimen="S-0003", patient="P-0003", control_id="M000003", text="TEST")
        assert self.load(store, **both._asdict()) == [s for s in sessions if matches(s, both)] != []

    def test_many_ids_are_found_at_once(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = self.fill(store, 3)
        unknown = [make_session(number).id for number in range(10, 2510)]
        ids = (sessions[2].id, *unknown, sessions[0].id, sessions[0].id, *_NO_IDS)
        assert self.load(store, ids=ids, limit=5000) == [sessions[0], sessions[2]]
        assert self.load(store, ids=ids, limit=1, newest_first=True) == [sessions[2]]

    def test_the_expired_are_those_whose_time_is_over(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        hours = (-2, None, -1, 0, 1, -3)
        sessions = [
            at_stored_precision(make_session(n))._replace(
                persisted_until=None if h is None else NOW + timedelta(hours=h)
            )
            for n, h in enumerate(hours, 1)
        ]
        assert all(isinstance(outcome, str) for outcome in self.save(store, sessions))
        expired = [sessions[0], sessions[2], sessions[5]]
        assert self.load(store, expired_at=NOW) == expired
        assert self.load(store, expired_at=NOW, newest_first=True, limit=2) == expired[:0:-1]
        behind = (expired[0].started_at, expired[0].id)
        assert self.load(store, expired_at=NOW, after=behind) == expired[1:]
        assert self.load(store, expired_at=datetime(2000, 1, 1, tzinfo=UTC)) == []
        kept = expired[0]._replace(persisted_until=NOW + timedelta(days=1))
        store.persist_session(kept, replace=True)
        assert self.load(store, expired_at=NOW) == expired[1:]

    # Deleting.

    def test_deleted_is_gone_and_a_missing_one_is_no_error(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        unknown = make_session(99).id
        assert self.delete(store, [first.id, unknown, first.id], to_trash=False) == [first.id]
        assert self.load(store) == [second]
        assert self.load(store, specimen="S-0001") == []
        assert self.restore(store, first.id) == []

    def test_the_trash_gives_back(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        assert self.delete(store, [first.id], to_trash=True) == [first.id]
        assert self.load(store) == [second]
        assert self.load(store, specimen="S-0001") == self.load(store, ids=(first.id,)) == []
        store.stop()
        store = self.make_store(tmp_path)
        assert self.load(store) == [second]
        assert self.restore(store, first.id, second.id, make_session(9).id) == [first.id]
        assert self.load(store) == [first, second]
        assert self.load(store, specimen="S-0001") == [first]

    def test_restoring_never_overwrites(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        self.delete(store, [session.id], to_trash=True)
        newer = session._replace(ignored=True)
        store.persist_session(newer, replace=False)
        assert self.restore(store, session.id) == []
        assert self.load(store) == [newer]

    def test_one_session_deleted_twice_comes_back_as_it_was_last(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        for version in (session, session._replace(ignored=True)):
            store.persist_session(version, replace=True)
            assert self.delete(store, [session.id], to_trash=True) == [session.id]
        assert self.restore(store, session.id) == [session.id]
        assert self.load(store) == [session._replace(ignored=True)]

    def test_an_emptied_trash_gives_nothing_back(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        self.delete(store, [first.id], to_trash=True)
        report = self.empty(store, datetime(2000, 1, 1, tzinfo=UTC))
        assert (report.deleted, report.in_trash) == (0, 1)
        report = self.empty(store, datetime(2900, 1, 1, tzinfo=UTC))
        assert (report.deleted, report.in_trash, report.failed) == (1, 0, 0)
        assert report.freed > 0
        assert self.restore(store, first.id) == []
        assert self.load(store) == [second]

    def test_the_trash_says_what_lies_in_it_and_since_when(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        self.has(store, "list_trash")
        first, second, third = self.fill(store, 3)
        later = NOW + timedelta(hours=1)
        self.delete(store, [third.id], to_trash=True)
        self.delete(store, [first.id], to_trash=True, deleted_at=later)
        self.delete(store, [second.id], to_trash=False)
        assert list(store.list_trash()) == [(third.id, NOW), (first.id, later)]
        assert self.empty(store, later).deleted == 1
        assert list(store.list_trash()) == [(first.id, later)]
        assert self.restore(store, first.id) == [first.id]
        assert list(store.list_trash()) == []

    def test_the_trash_is_emptied_in_parts_until_all_is_gone(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = self.fill(store, 7)
        self.delete(store, [session.id for session in sessions], to_trash=True)
        deleted = 0
        while count := self.empty(store, NOW + timedelta(days=1), limit=3).deleted:
            deleted += count
        assert deleted == 7
        assert self.restore(store, *(session.id for session in sessions)) == []

    def test_ids_from_outside_lead_nowhere(self, tmp_path: Path) -> None:
        outside = tmp_path / f"{make_session(1).id}.json"
        outside.write_text("not yours")
        store = self.make_store(tmp_path / "a" / "b")
        session = self.fill(store, 2)[1]
        hostile = (*_NO_IDS, f"../{session.id}", f"../../{make_session(1).id}", str(outside.with_suffix("")))
        for to_trash in (True, False):
            assert self.delete(store, hostile, to_trash=to_trash) == []
        assert self.restore(store, *hostile) == []
        assert self.load(store, ids=hostile) == []
        assert outside.read_text() == "not yours"
        assert len(self.load(store)) == 2

    def test_its_size_grows_by_saving_and_shrinks_by_throwing_away(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        self.has(store, "store_size")
        empty = store.store_size()
        sessions = [at_stored_precision(make_session(number)) for number in range(1, 201)]
        assert all(isinstance(outcome, str) for outcome in self.save(store, sessions))
        full = store.store_size()
        assert full - empty > sum(len(session.messages[0].text) for session in sessions)
        self.delete(store, [session.id for session in sessions[20:]], to_trash=True)
        assert store.store_size() > full * 0.9
        self.empty(store, NOW + timedelta(days=1))
        assert store.store_size() - empty < (full - empty) / 4
        self.delete(store, [session.id for session in sessions], to_trash=False)
        assert store.store_size() - empty < (full - empty) / 10


_ODD: Final = (
    ("specimen", "S 1"),
    ("specimen", "100%_off"),
    ("specimen", "O'Brien\"; DROP TABLE sessions; --"),
    ("specimen", "Ä-Größe"),
    ("patient", "漢字-7"),
    ("patient", "P\\T\\1"),
    ("patient", "*?[a-z]"),
    ("specimen", "S" * 250),
    ("patient", "\U0001f9ea-\x7f"),
    ("specimen", "a/b\tc"),
)


def _odd() -> list[Session]:
    """Return sessions with identifiers that a careless search would trip over, and a few usual ones."""
    sessions = [make_session(number) for number in range(1, 5)]
    for number, (field, value) in enumerate(_ODD, 5):
        base = make_session(number)
        names: dict[str, Any] = {field: value}
        message = make_message(number, time_ns=base.start_ns, **names)
        message = message._replace(control_id=value, charset="UNICODE UTF-8")
        element = base.elements[0]._replace(span=(0, len(message.text)))
        session = base._replace(messages=(message, base.messages[1]), elements=(element, base.elements[1]))
        sessions.append(session._replace(findings=(Finding(value, Severity.INFO, "odd"),), protocol=value[:20]))
    return sessions


def _of_all_kinds() -> list[Session]:
    """Return sessions that use every field there is."""
    session = make_session(4)
    odd = bytes(range(256)) * 2
    element = session.elements[0]._replace(
        message=None, span=(0, 0), content=odd, faults=(Fault("no-end", 7),), late=True, missing=3
    )
    return [
        make_session(1),
        make_session(2, protocol="lis01"),
        make_session(3, protocol="plain"),
        session._replace(
            elements=(element, *session.elements[1:]),
            messages=(make_message(4, text=odd, charset="8859/1", complete=False), session.messages[1]),
            is_complete=False,
            ending=Ending.GAPPED,
            sensor="ward 7",
            findings=(Finding("gap", Severity.ERROR, "3 bytes were not captured", 0, 7),),
            deliveries=(
                Delivery("rest", DeliveryStatus.FAILED, 3, NOW, None, "HTTP 500"),
                Delivery("other", DeliveryStatus.SUBMITTED, 1, None, NOW),
            ),
            first_saved_at=NOW,
            saved_at=NOW + timedelta(hours=1),
            persisted_until=NOW + timedelta(days=30),
            retention_days=30,
            revision=2,
        ),
    ]


def _different() -> list[Session]:
    """Return four sessions that differ in whatever a query can ask for."""
    first, second, third = (make_session(number) for number in (1, 2, 3))
    fourth = make_session(4, protocol="lis01", ignored=True)
    text = second.messages[0].text + 'NTE|1||"quoted" Größe\r'.encode()
    return [
        first._replace(
            deliveries=(Delivery("rest"), Delivery("other", DeliveryStatus.SUBMITTED)),
            findings=(Finding("slow-answer", Severity.WARNING, "the answer took 20 s"),),
            persisted_until=NOW - timedelta(hours=1),
        ),
        second._replace(
            messages=(second.messages[0]._replace(text=text), second.messages[1]),
            device=Endpoint("198.51.100.7", 5000),
            deliveries=(Delivery("rest", DeliveryStatus.SUBMITTED, 1, None, NOW),),
            persisted_until=NOW,
        ),
        third._replace(lis=Endpoint("198.51.100.8", 2575), deliveries=(Delivery("rest", DeliveryStatus.FAILED, 3),)),
        fourth._replace(deliveries=(Delivery("rest"),)),
    ]
