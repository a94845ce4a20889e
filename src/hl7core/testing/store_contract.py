"""The tests that every store must pass, as a class to inherit from.

::

    class TestMyStore(StoreContract):
        def make_store(self, folder):
            store = MyStore()
            store.configure(MyStoreSettings())
            store.start(FakeRuntime(folder))
            return store

A second store made on the same folder must have the sessions of the first.  More is tested if you override more:
``make_guest`` (a store beside a running engine), ``damage`` (damage the data of a session), ``make_older`` and
``make_newer`` (data of other versions), ``small_disk`` (a disk to fill up) and ``check_rest`` (what must hold after a
crash).  Tests of what is not overridden are skipped, with the reason.

``kills`` and ``saves`` set how often kill -9 is tried.  The class must be at the top level of its module, since another
process imports it.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hl7core.errors import StoreError
from hl7core.hl7.query import matches, sort_key
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.schema import at_stored_precision
from hl7core.model.session import Session, SessionQuery
from hl7core.testing.builders import make_message, make_session
from hl7core.testing.store_base import NOW
from hl7core.testing.store_deleting import StoreDeleting
from hl7core.testing.store_disasters import StoreDisasters
from hl7core.testing.store_samples import (
    NO_IDS,
    ODD,
    different_sessions,
    odd_sessions,
    sessions_of_all_kinds,
)

__all__ = ["StoreContract"]


class StoreContract(StoreDeleting, StoreDisasters):
    """Inherit, define ``make_store``, and pytest does the rest."""

    # Saving.

    def test_what_is_saved_comes_back_equal(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        sessions = [at_stored_precision(s) for s in sessions_of_all_kinds()]
        for session in sessions:
            assert isinstance(store.persist_session(session, replace=False), str | None)
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
        assert isinstance(where, str | None)
        assert self.load(store) == [session]

    def test_a_group_is_saved_one_entry_a_session(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        self.has(store, "persist_sessions")
        sessions = [at_stored_precision(make_session(number)) for number in range(1, 21)]
        outcomes = store.persist_sessions([*sessions, sessions[0]._replace(ignored=True)], replace=True)
        assert len(outcomes) == 21
        assert all(isinstance(outcome, str) for outcome in outcomes)
        assert self.load(store) == [sessions[0]._replace(ignored=True), *sessions[1:]]

    def test_an_invalid_session_is_refused_and_the_others_are_saved(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        good = at_stored_precision(make_session(1))
        for session_id in NO_IDS:
            try:
                store.persist_session(good._replace(id=session_id), replace=True)
            except StoreError:
                continue
            raise AssertionError(f"the store accepted {session_id!r} as an id")
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

        def read() -> int:
            seen = 0
            while True:
                last = over.is_set()
                found = self.load(store, limit=100)
                assert found == [session for session in sessions if session in found]
                assert len(found) >= seen
                seen = len(found)
                if last:
                    return seen

        with ThreadPoolExecutor(6) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                groups = [sessions[at : at + 5] for at in range(0, 60, 5)]
                outcomes = list(pool.map(lambda group: self.save(store, group), groups))
            finally:
                over.set()
            assert all(isinstance(outcome, str) for group in outcomes for outcome in group)
            assert [reader.result() for reader in readers] == [len(sessions)] * 2

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
        for number in range(8, 14):  # these start in the same millisecond
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
        sessions = [at_stored_precision(s) for s in different_sessions()]
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
        sessions = [at_stored_precision(session) for session in odd_sessions()]
        assert all(isinstance(outcome, str) for outcome in self.save(store, sessions))
        words = {word for _, value in ODD for word in (value, value.strip(), value[:200], value[:3], "")}
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
        ids = (sessions[2].id, *unknown, sessions[0].id, sessions[0].id, *NO_IDS)
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
