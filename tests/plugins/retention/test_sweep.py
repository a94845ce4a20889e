"""What a cleanup deletes, and in which order."""

from __future__ import annotations

from hl7core import CleanupProgress, Delivery, StoreError, session_to_json
from hl7core.testing import FakeRuntime
from hl7core_plugins.retention import sweep
from plugins.retention.parts import DAY, FAILED, HOUR, NOW, PENDING, SUBMITTED, expired, session


def test_what_has_expired_goes_to_the_trash_and_the_rest_stays(desk):
    d = desk().start()
    old, young = expired(1), session(2)
    d.hold(old, young)
    report = d.clean()
    assert d.held == [young.id]
    assert list(d.runtime.trashed) == [old.id]
    assert (report.deleted, report.in_trash, report.failed, report.halted) == (1, 1, 0, "")
    assert report.freed == len(session_to_json(old))


def test_one_cleanup_lies_in_the_trash_under_one_time(desk):
    d = desk().start()
    d.hold(*(expired(number) for number in range(1, 351)))
    d.clean()
    assert not d.held
    assert {when for _, when in d.runtime.trashed.values()} == {NOW}
    assert len(d.asked("delete")) == 4


def test_a_cleanup_goes_by_small_steps_and_tells_how_far_it_is(desk):
    d = desk().start()
    d.hold(*(expired(number) for number in range(1, 251)))
    d.clean()
    assert all(len(ids) <= 100 for ids, _ in d.asked("delete"))
    assert all(query.limit <= 500 for (query,) in d.asked("sessions"))
    assert [event.deleted for event in d.of(CleanupProgress)] == [100, 200, 250]


def test_a_dry_run_reports_and_deletes_nothing(desk):
    d = desk().start()
    d.hold(*(expired(number) for number in range(1, 151)), session(200))
    before = d.held
    report = d.clean(dry_run=True)
    assert (report.deleted, report.dry_run, report.in_trash) == (150, True, 0)
    assert report.freed > 0
    assert d.held == before
    assert not d.asked("delete")
    assert not d.asked("empty_trash")


def test_with_the_setting_dry_run_every_cleanup_is_one(desk):
    d = desk(dry_run=True).start()
    d.hold(expired(1))
    assert d.clean(confirmed=True).dry_run
    assert len(d.held) == 1
    d.configure(dry_run=False)
    assert d.clean().deleted == 1


def test_dry_run_switched_on_ends_a_cleanup_at_its_next_step(desk):
    class Switching(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            d.configure(dry_run=True)
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Switching).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert report.deleted == 100
    assert "dry_run" in report.halted
    assert len(d.held) == 200


def test_a_deletion_that_fails_does_not_stop_the_rest_and_is_counted(desk):
    class Stubborn(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            if expired(150).id in ids:
                raise StoreError("the trash is full")
            return await super().delete(
                [i for i in ids if i != expired(1).id], to_trash=to_trash, deleted_at=deleted_at
            )

    d = desk(runtime=Stubborn).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert (report.deleted, report.failed) == (199, 101)
    assert len(d.held) == 101


def test_what_somebody_else_has_deleted_is_no_failure(desk):
    class Raced(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            self.held.pop(expired(1).id)
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Raced).start()
    d.hold(expired(1), expired(2))
    report = d.clean()
    assert (report.deleted, report.failed) == (1, 0)


def test_nothing_stored_is_fine(desk):
    report = desk().start().clean()
    assert report == report._replace(deleted=0, failed=0, halted="", in_trash=0)


def test_what_an_active_destination_waits_for_is_kept_for_its_grace_and_counted(desk):
    d = desk(destinations=("rest",), pending_grace_days=30).start()
    within = session(1, until=NOW - 30 * DAY, status=PENDING)
    beyond = session(2, until=NOW - 30 * DAY - HOUR, status=PENDING)
    d.hold(within, beyond, expired(3, status=SUBMITTED))
    report = d.clean()
    assert d.held == [within.id]
    assert report.deleted == 2
    assert report.kept == (("still pending, within the grace period of 30 days", 1),)


def test_a_destination_that_is_not_active_protects_nothing(desk):
    d = desk(destinations=("other",)).start()
    d.hold(expired(1, status=PENDING), expired(2))
    assert d.clean().deleted == 2


def test_an_ignored_session_is_not_awaited(desk):
    d = desk(destinations=("rest",)).start()
    d.hold(expired(1, status=PENDING, ignored=True))
    assert d.clean().deleted == 1


def test_what_failed_at_one_destination_and_waits_at_another_is_kept(desk):
    d = desk(destinations=("rest", "lab")).start()
    d.hold(expired(1)._replace(deliveries=(Delivery("rest", FAILED), Delivery("lab"))))
    assert d.clean().deleted == 0


def test_a_shorter_grace_counts_at_once(desk):
    d = desk(destinations=("rest",)).start()
    d.hold(session(1, until=NOW - 2 * DAY, status=PENDING))
    assert d.clean().deleted == 0
    d.configure(pending_grace_days=1)
    assert d.clean().deleted == 1


def test_the_trash_is_emptied_after_its_days(desk):
    d = desk(trash_days=7).start()
    for number, age in ((1, 8 * DAY), (2, 7 * DAY), (3, HOUR)):
        d.runtime.trashed[expired(number).id] = (expired(number), NOW - age)
    report = d.clean()
    assert sorted(d.runtime.trashed) == [expired(2).id, expired(3).id]
    assert (report.emptied, report.in_trash, report.deleted) == (1, 2, 0)
    d.configure(trash_days=0)
    assert d.clean().emptied == 2


def test_a_dry_run_counts_what_the_trash_would_lose(desk):
    d = desk().start()
    d.runtime.trashed[expired(1).id] = (expired(1), NOW - 8 * DAY)
    report = d.clean(dry_run=True)
    assert (report.emptied, report.in_trash) == (1, 1)
    assert d.runtime.trashed


def test_a_trash_that_cannot_be_emptied_does_not_stop_the_rest(desk, caplog):
    class Stuck(FakeRuntime):
        async def empty_trash(self, before):
            raise StoreError("the disk is read-only")

    d = desk(runtime=Stuck).start()
    d.hold(expired(1))
    report = d.clean()
    assert (report.deleted, report.failed) == (1, 1)
    assert "the disk is read-only" in caplog.text


def size_of(*sessions):
    return sum(len(session_to_json(one)) for one in sessions)


def test_over_the_bound_the_oldest_submitted_go_first_and_for_good(desk):
    d = desk().start()
    sessions = [session(number, status=SUBMITTED) for number in range(1, 11)]
    d.hold(*sessions)
    d.configure(max_disk=size_of(*sessions[4:]))
    report = d.clean()
    assert d.held == [one.id for one in sessions[4:]]
    assert (report.deleted, report.kept) == (4, ())
    assert not d.runtime.trashed
    assert d.notices("retention-disk")[-1][1]


def test_the_order_is_submitted_ignored_waited_for_by_nobody_failed(desk):
    d = desk(destinations=("rest",)).start()
    kinds = [
        session(1, status=FAILED),
        session(2, status=PENDING, name="gone"),
        session(3, status=PENDING, ignored=True),
        session(4, status=SUBMITTED),
    ]
    d.hold(*kinds)
    gone = []
    while d.runtime.held:
        d.configure(max_disk=max(1, size_of(*d.runtime.held.values()) - 1))
        before = set(d.held)
        d.clean()
        gone += sorted(before - set(d.held))
        if len(gone) == 4:
            break
    assert gone == [one.id for one in reversed(kinds)]


def test_what_is_still_to_be_sent_is_never_deleted_to_free_disk(desk):
    d = desk(destinations=("rest",), max_disk=1).start()
    waiting = [session(number, status=PENDING) for number in range(1, 151)]
    d.hold(*waiting, session(200, status=SUBMITTED))
    report = d.clean()
    assert d.held == [one.id for one in waiting]
    assert report.deleted == 1
    assert dict(report.kept) == {"still pending, so not deleted to free disk space": 150}
    ((text, resolved),) = d.notices("retention-disk")
    assert "max_disk" in text
    assert not resolved


def test_the_trash_goes_before_any_session_does_and_only_as_far_as_needed(desk):
    d = desk().start()
    for number in range(1, 4):
        d.runtime.trashed[session(number).id] = (session(number), NOW - number * HOUR)
    d.hold(session(9, status=SUBMITTED))
    d.configure(max_disk=size_of(session(1), session(9, status=SUBMITTED)) + 10)
    report = d.clean()
    assert list(d.runtime.trashed) == [session(1).id]
    assert (report.emptied, report.deleted) == (2, 0)
    assert len(d.held) == 1


def test_under_the_bound_nothing_goes(desk):
    d = desk(max_disk="1GB").start()
    d.hold(*(session(number, status=SUBMITTED) for number in range(1, 11)))
    assert d.clean().deleted == 0


def test_a_dry_run_says_what_the_bound_would_cost(desk):
    d = desk().start()
    sessions = [session(number, status=SUBMITTED) for number in range(1, 11)]
    d.hold(*sessions)
    d.configure(max_disk=size_of(*sessions[4:]))
    assert d.clean(dry_run=True).deleted == 4
    assert len(d.held) == 10


def test_a_store_whose_size_does_not_fall_is_not_emptied_for_it(desk):
    class Lying(FakeRuntime):
        async def store_size(self):
            return 1 << 40

    d = desk(runtime=Lying, max_disk=1000).start()
    d.hold(*(session(number, status=SUBMITTED) for number in range(1, 2501)))
    report = d.clean()
    assert report.deleted <= 1100
    assert "freed no disk space" in d.notices("retention-disk")[-1][0]


def test_the_more_has_to_go_the_less_often_it_is_measured(desk, monkeypatch):
    """A store of files looks at all of them to say its size."""
    monkeypatch.setattr(sweep, "_MEASURE", 50)
    monkeypatch.setattr(sweep, "BATCH", 10)
    measured = []
    for count in (200, 800):
        d = desk().start()
        sessions = [session(number, status=SUBMITTED) for number in range(1, count + 101)]
        d.hold(*sessions)
        d.configure(max_disk=size_of(*sessions[count:]))
        assert d.clean().deleted == count
        measured.append(len(d.asked("store_size")))
    assert measured[1] <= measured[0] + 4


def test_a_store_in_which_more_is_freed_than_was_thought_keeps_the_rest(desk, monkeypatch):
    class Large(FakeRuntime):
        async def store_size(self):
            return 3 * await super().store_size()

    monkeypatch.setattr(sweep, "_MEASURE", 50)
    monkeypatch.setattr(sweep, "BATCH", 10)
    d = desk(runtime=Large).start()
    sessions = [session(number, status=SUBMITTED) for number in range(1, 901)]
    d.hold(*sessions)
    d.configure(max_disk=3 * size_of(*sessions[600:]))
    assert 600 <= d.clean().deleted <= 600 + 50 + 10


def test_a_store_that_cannot_say_its_size_is_told_of(desk):
    class Silent(FakeRuntime):
        async def store_size(self):
            raise StoreError("mine does not implement store_size")

    d = desk(runtime=Silent, max_disk=1).start()
    d.hold(session(1, status=SUBMITTED), expired(2))
    assert d.clean().deleted == 1
    assert "mine does not implement store_size" in d.notices("retention-disk")[-1][0]
