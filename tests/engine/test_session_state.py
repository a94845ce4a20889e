"""A session's state: what a save adds, and how people change it."""

from datetime import timedelta

from engine.parts import session
from engine.rooms import NOW, save
from hl7core.engine.ledger import Ledger
from hl7core.engine.session_memory import Limits
from hl7core.engine.session_state import ignore, retry, unignore
from hl7core.model.delivery import Delivery, DeliveryStatus


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


def test_retry_ignore_and_unignore_say_what_they_do():
    failed = session(1)._replace(
        deliveries=(Delivery("lab", DeliveryStatus.FAILED, 3, error="no"), Delivery("b", DeliveryStatus.SUBMITTED, 1))
    )
    again = retry(failed)
    assert again.deliveries == (Delivery("lab"), Delivery("b"))
    assert ignore(failed).status is DeliveryStatus.IGNORED
    assert unignore(ignore(failed)).status is DeliveryStatus.FAILED
