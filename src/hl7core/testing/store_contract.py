"""What every store must do, as a class of tests to inherit from.

::

    class TestMyStore(StoreContract):
        def make_store(self, folder):
            store = MyStore()
            store.configure(MyStoreSettings())
            store.start(FakeRuntime(folder))
            return store

Made again on the same folder, a store must hold what it held.  ``damage`` may be overridden to spoil what is stored of
a session, so that the promise about damaged entries is tested too.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hl7core.errors import StoreError
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.schema import at_stored_precision
from hl7core.model.session import Ending, Session, SessionQuery
from hl7core.testing.builders import make_message, make_session

__all__ = ["StoreContract"]

_NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


class StoreContract(ABC):
    """Inherit, define ``make_store``, and pytest does the rest."""

    @abstractmethod
    def make_store(self, folder: Path) -> Any:
        """Return a store plugin, configured and started, that keeps its data in ``folder``."""

    def damage(self, store: Any, session_id: str) -> bool:
        """Spoil what is stored of a session; false if that cannot be done."""
        return False

    # Helpers.

    def load(self, store: Any, **query: Any) -> list[Session]:
        """Return what ``store`` holds that fits."""
        return list(store.load_sessions(SessionQuery(**query)) or ())

    def fill(self, store: Any, count: int = 5, **fields: Any) -> list[Session]:
        """Save ``count`` sessions and return them, oldest first."""
        sessions = [at_stored_precision(make_session(number, **fields)) for number in range(1, count + 1)]
        for session in sessions:
            store.persist_session(session, replace=False)
        return sessions

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
        for session_id in ("../../etc/passwd", "", "x" * 36, "0" * 37):
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
        assert ids(expired_at=_NOW) == [first.id]
        assert ids(limit=2) == every[:2]
        assert ids(limit=0) == []
        assert ids(device="198.51.100.7", protocol="lis01") == []

    def test_a_damaged_entry_does_not_hide_the_rest(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second, third = self.fill(store, 3)
        if not self.damage(store, second.id):
            return
        assert self.load(store) == [first, third]
        store.stop()
        again = self.make_store(tmp_path)
        assert self.load(again) == [first, third]
        again.persist_session(second, replace=False)
        assert self.load(again) == [first, second, third]

    # Deleting.

    def test_deleted_is_gone_and_a_missing_one_is_no_error(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        unknown = make_session(99).id
        assert _same(store.delete_sessions([first.id, unknown], to_trash=False), [first.id])
        assert self.load(store) == [second]
        assert _same(store.restore_sessions([first.id]), [])

    def test_the_trash_gives_back(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        assert _same(store.delete_sessions([first.id], to_trash=True), [first.id])
        assert self.load(store) == [second]
        store.stop()
        store = self.make_store(tmp_path)
        assert self.load(store) == [second]
        assert _same(store.restore_sessions([first.id, second.id, make_session(9).id]), [first.id])
        assert self.load(store) == [first, second]

    def test_restoring_never_overwrites(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        store.delete_sessions([session.id], to_trash=True)
        newer = session._replace(ignored=True)
        store.persist_session(newer, replace=False)
        assert _same(store.restore_sessions([session.id]), [])
        assert self.load(store) == [newer]

    def test_one_session_deleted_twice_comes_back_as_it_was_last(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        session = self.fill(store, 1)[0]
        for version in (session, session._replace(ignored=True)):
            store.persist_session(version, replace=True)
            assert _same(store.delete_sessions([session.id], to_trash=True), [session.id])
        assert _same(store.restore_sessions([session.id]), [session.id])
        assert self.load(store) == [session._replace(ignored=True)]

    def test_an_emptied_trash_gives_nothing_back(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        first, second = self.fill(store, 2)
        store.delete_sessions([first.id], to_trash=True)
        long_ago = datetime(2000, 1, 1, tzinfo=UTC)
        report = store.empty_trash(long_ago)
        assert (report.deleted, report.in_trash) == (0, 1)
        report = store.empty_trash(datetime(2900, 1, 1, tzinfo=UTC))
        assert (report.deleted, report.in_trash, report.failed) == (1, 0, 0)
        assert report.freed > 0
        assert _same(store.restore_sessions([first.id]), [])
        assert self.load(store) == [second]


def _same(found: Sequence[str] | None, wanted: list[str]) -> bool:
    return list(found or ()) == wanted


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
                Delivery("rest", DeliveryStatus.FAILED, 3, _NOW, None, "HTTP 500"),
                Delivery("other", DeliveryStatus.SUBMITTED, 1, None, _NOW),
            ),
            first_saved_at=_NOW,
            saved_at=_NOW + timedelta(hours=1),
            persisted_until=_NOW + timedelta(days=30),
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
            persisted_until=_NOW - timedelta(hours=1),
        ),
        second._replace(
            messages=(second.messages[0]._replace(text=text), second.messages[1]),
            device=Endpoint("198.51.100.7", 5000),
            deliveries=(Delivery("rest", DeliveryStatus.SUBMITTED, 1, None, _NOW),),
            persisted_until=_NOW,
        ),
        third._replace(lis=Endpoint("198.51.100.8", 2575), deliveries=(Delivery("rest", DeliveryStatus.FAILED, 3),)),
        fourth._replace(deliveries=(Delivery("rest"),)),
    ]
