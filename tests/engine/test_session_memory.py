"""The sessions in memory: which are forgotten, in which order."""

from engine.parts import session
from engine.rooms import save
from hl7core.engine.ledger import Ledger
from hl7core.engine.session_memory import Limits


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
