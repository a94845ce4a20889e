"""The ledger: the sessions in memory, and what becomes of them when they are decoded again, saved or changed."""

from datetime import timedelta

from engine.parts import session
from engine.rooms import NOW, save, stamped
from hl7core.engine.ledger import Ledger
from hl7core.engine.session_memory import Limits
from hl7core.engine.session_state import ignore
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.session import SessionQuery


def test_a_new_session_is_news_and_waits_to_be_saved_without_replacing_anything():
    ledger = Ledger(Limits())
    assert ledger.add([session(1)]) == [session(1)]
    (one,) = stamped(ledger)
    assert not one.replace
    assert one.store == "json_store"
    assert ledger.unsaved == 1
    ledger.saved(one)
    assert ledger.unsaved == 0


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


def test_what_waits_and_what_was_lost_can_be_asked_by_id():
    ledger = Ledger(Limits(unsaved_sessions=2))
    one, two, three = session(1), session(2), session(3)
    ledger.add([one, two])
    assert ledger.filled == 1.0
    assert ledger.waiting([one.id, two.id, three.id]) == {one.id, two.id}
    ledger.add([three])
    assert ledger.lost_among([one.id, two.id, three.id]) == {one.id}
    assert ledger.waiting([one.id, three.id]) == {three.id}


def test_it_is_as_full_as_the_fuller_of_its_two_limits():
    ledger = Ledger(Limits(unsaved_sessions=1000, memory_bytes=100_000))
    ledger.add([session(1, text=b"x" * 50_000)])
    assert ledger.filled > 0.5
    save(ledger)
    assert ledger.filled == 0
