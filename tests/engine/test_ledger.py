"""The ledger: what is in memory, what waits to be saved, and what a session's life says."""

from datetime import UTC, datetime, timedelta

from engine.parts import session
from hl7core.engine.ledger import Ledger
from hl7core.engine.session_memory import Limits
from hl7core.engine.session_state import ignore, retry, unignore
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.session import SessionQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stamped(ledger, *, now=NOW, days=30, destinations=(), limit=100):
    ids = ledger.claim_due(limit, 0.0)
    return ledger.stamp(ids, now=now, retention_days=days, store="json_store", destinations=destinations)


def save(ledger, **options):
    made = stamped(ledger, **options)
    for one in made:
        ledger.saved(one)
    return made


def test_a_new_session_is_news_and_waits_to_be_saved_without_replacing_anything():
    ledger = Ledger(Limits())
    assert ledger.add([session(1)]) == [session(1)]
    (one,) = stamped(ledger)
    assert not one.replace
    assert one.store == "json_store"
    assert ledger.unsaved == 1
    ledger.saved(one)
    assert ledger.unsaved == 0


def test_what_is_in_flight_is_not_taken_twice():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    assert ledger.claim_due(10, 0.0)
    assert ledger.claim_due(10, 0.0) == []


def test_a_life_counts_from_the_first_save_and_a_later_save_uses_todays_days():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    save(ledger, days=30)
    ledger.add([session(1, revision=1)])
    (second,) = save(ledger, now=NOW + timedelta(days=5), days=10)
    assert second.session.first_saved_at == NOW
    assert second.session.saved_at == NOW + timedelta(days=5)
    assert second.session.persisted_until == NOW + timedelta(days=10)
    assert second.session.retention_days == 10


def test_a_delivery_is_made_for_each_active_destination_at_the_first_save_only():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    (first,) = save(ledger, destinations=("lab", "mirror"))
    assert first.session.deliveries == (Delivery("lab"), Delivery("mirror"))
    ledger.add([session(1, revision=1)])
    (second,) = save(ledger, destinations=("lab", "mirror", "late"))
    assert [d.name for d in second.session.deliveries] == ["lab", "mirror"]


def test_a_late_acknowledgement_replaces_and_keeps_what_became_of_the_session():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    save(ledger, destinations=("lab",))
    ledger.change([session(1).id], lambda s: s._replace(ignored=True))
    (told,) = ledger.add([session(1, revision=1)])
    assert told.revision == 1
    assert told.ignored
    (one,) = save(ledger)
    assert one.replace
    assert one.session.first_saved_at == NOW
    assert one.session.deliveries == (Delivery("lab"),)


def test_a_session_decoded_again_in_one_run_is_no_news_and_is_not_saved_again():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    save(ledger)
    assert ledger.add([session(1)]) == []
    assert ledger.unsaved == 0
    assert ledger.repeated == 1


def test_a_session_stored_in_an_earlier_run_is_not_reset_when_it_is_decoded_again():
    stored = session(1)._replace(
        deliveries=(Delivery("lab", DeliveryStatus.SUBMITTED, 1),), first_saved_at=NOW, saved_at=NOW
    )
    ledger = Ledger(Limits())
    ledger.fill([stored], "json_store")
    assert ledger.add([session(1)]) == [stored]
    assert ledger.unsaved == 0
    assert ledger.get(stored.id).status is DeliveryStatus.SUBMITTED


def test_what_the_store_turns_out_to_hold_of_a_changed_session_is_taken_over_before_the_save():
    ledger = Ledger(Limits())
    ledger.add([session(1, revision=1)])
    ids = ledger.claim_due(10, 0.0)
    assert ledger.without_base(ids, changed_only=True) == ids
    stored = session(1)._replace(
        deliveries=(Delivery("lab", DeliveryStatus.SUBMITTED),), first_saved_at=NOW - timedelta(days=9)
    )
    ledger.fill([stored], "old_store")
    (one,) = ledger.stamp(ids, now=NOW, retention_days=30, store="json_store", destinations=("lab",))
    assert one.store == "old_store"
    assert one.replace
    assert one.session.revision == 1
    assert one.session.status is DeliveryStatus.SUBMITTED
    assert one.session.first_saved_at == NOW - timedelta(days=9)


def test_a_change_during_a_save_is_saved_again_and_its_first_save_counts():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    (one,) = stamped(ledger, destinations=("lab",))
    ledger.change([session(1).id], ignore)
    ledger.saved(one)
    assert ledger.unsaved == 1
    (again,) = save(ledger, now=NOW + timedelta(days=1), destinations=("lab",))
    assert again.replace
    assert again.session.ignored
    assert again.session.first_saved_at == NOW
    assert again.session.deliveries == (Delivery("lab"),)


def test_only_saved_sessions_are_forgotten_the_oldest_first():
    ledger = Ledger(Limits(memory_sessions=3))
    ledger.add([session(number) for number in (5, 1, 4, 2, 3)])
    assert len(ledger) == 5
    save(ledger)
    assert len(ledger) == 3
    assert session(1).id not in ledger
    assert session(5).id in ledger


def test_memory_is_bounded_in_bytes_too():
    ledger = Ledger(Limits(memory_bytes=100_000))
    for number in range(1, 20):
        ledger.add([session(number, text=b"x" * 20_000)])
        save(ledger)
    assert 1 < len(ledger) < 6


def test_past_the_bound_the_oldest_unsaved_are_given_up_counted_and_named():
    lost = []
    ledger = Ledger(Limits(unsaved_sessions=3), on_lost=lost.extend)
    ledger.add([session(number) for number in range(1, 6)])
    assert lost == [session(1).id, session(2).id]
    assert ledger.lost == 2
    assert ledger.unsaved == 3


def test_packets_that_can_wait_make_no_session_go_and_are_asked_to_wait_in_time():
    ledger = Ledger(Limits(unsaved_sessions=4, finite=True))
    ledger.add([session(1)])
    assert not ledger.pressed
    ledger.add([session(number) for number in range(2, 9)])
    assert ledger.pressed
    assert ledger.unsaved == 8
    assert ledger.lost == 0


def test_a_failed_save_waits_ever_longer_and_the_others_come_first():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    first = session(1).id
    waits = []
    now = 0.0
    for _ in range(9):
        assert ledger.claim_due(10, now) == [first]
        ledger.failed(first, now)
        waits.append(ledger.next_due() - now)
        now = ledger.next_due()
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[-1] == 30.0
    ledger.add([session(2)])
    assert ledger.claim_due(1, now) == [session(2).id]


def test_while_nothing_is_saved_nothing_waits_and_memory_stays_bounded():
    ledger = Ledger(Limits(memory_sessions=2, saving=False))
    ledger.add([session(number) for number in range(1, 5)])
    assert ledger.unsaved == 0
    assert len(ledger) == 2


def test_a_deleted_session_is_not_revived_by_a_late_acknowledgement():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    save(ledger)
    assert ledger.remove([session(1).id]) == [session(1).id]
    assert ledger.add([session(1, revision=1)]) == []
    assert ledger.unsaved == 0


def test_clear_forgets_what_is_stored_and_keeps_what_is_not():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    save(ledger)
    ledger.add([session(2)])
    assert ledger.clear() == 1
    assert session(2).id in ledger
    assert session(1).id not in ledger


def test_findings_are_added_once_to_the_value_they_were_found_in():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    (one,) = ledger.undiagnosed([session(1).id])
    ledger.diagnosed(one, [Finding("odd", Severity.INFO, "odd")])
    assert ledger.undiagnosed([session(1).id]) == []
    assert [finding.code for finding in ledger.get(session(1).id).findings] == ["odd"]


def test_memory_answers_for_what_no_store_holds_as_it_is_now():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    save(ledger)
    ledger.add([session(2)])
    found, ruling = ledger.newer(SessionQuery())
    assert [s.id for s in found] == [session(2).id]
    assert ruling == set()
    ledger.change([session(1).id], ignore)
    found, ruling = ledger.newer(SessionQuery(status=(DeliveryStatus.IGNORED,)))
    assert [s.id for s in found] == [session(1).id]
    assert ruling == {session(1).id}


def test_retry_ignore_and_unignore_say_what_they_do():
    failed = session(1)._replace(
        deliveries=(Delivery("lab", DeliveryStatus.FAILED, 3, error="no"), Delivery("b", DeliveryStatus.SUBMITTED, 1))
    )
    again = retry(failed)
    assert again.deliveries == (Delivery("lab"), Delivery("b"))
    assert ignore(failed).status is DeliveryStatus.IGNORED
    assert unignore(ignore(failed)).status is DeliveryStatus.FAILED
