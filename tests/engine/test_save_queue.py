"""The save queue: what is due, and when a failed save is repeated."""

from engine.parts import session
from hl7core.engine.ledger import Ledger
from hl7core.engine.session_memory import Limits


def test_what_is_in_flight_is_not_taken_twice():
    ledger = Ledger(Limits())
    ledger.add([session(1)])
    assert ledger.claim_due(10, 0.0)
    assert ledger.claim_due(10, 0.0) == []


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
