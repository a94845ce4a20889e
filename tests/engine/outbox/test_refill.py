"""The refill: which sessions come into the queues, and what happens when the store cannot be searched."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from engine.parts import session
from hl7core.contract import DestinationSettings
from hl7core.engine.outbox import refill as refill_module
from hl7core.engine.outbox.destination import Destination
from hl7core.engine.outbox.refill import Refill
from hl7core.errors import StoreError
from hl7core.model.delivery import Delivery

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


class Records:
    """A store that answers ``page``, or raises it."""

    sound = True

    def __init__(self, page=()):
        self.page = page
        self.asked = []

    async def load(self, query):
        self.asked.append(query)
        if isinstance(self.page, Exception):
            raise self.page
        return list(self.page)

    async def change(self, ids, how):
        return [one.id for one in self.page if one.id in ids and how(one) != one]


class World:
    """A refill at the time ``clock``, over a store that answers ``page``; ``looks`` counts the searches that ended."""

    def __init__(self, page=()):
        self.clock = 0.0
        self.looks = 0
        self.records = Records(page)
        self.refill = Refill(self.records, now=lambda: EPOCH, clock=lambda: self.clock, searched=self._looked)
        self.destination = Destination("dest")
        self.destination.activate(EPOCH)

    def _looked(self):
        self.looks += 1

    def look(self):
        assert self.refill.wanted(self.destination, self.clock)
        self.destination.searching = True
        asyncio.run(self.refill.read_page(self.destination, DestinationSettings()))


def stored(number, **delivery):
    return session(number)._replace(first_saved_at=EPOCH, deliveries=(Delivery("dest", **delivery),))


@pytest.mark.parametrize("error", [StoreError("down"), ValueError("canary")])
def test_a_search_that_fails_is_made_again_later_and_not_at_once(error, caplog):
    world = World(error)
    world.look()
    assert world.looks == 1
    assert not world.destination.searching
    assert world.destination.searched.is_set(), "nobody waits for what does not come"
    assert not world.refill.wanted(world.destination, world.clock)
    assert "canary" not in caplog.text
    world.clock = 20.0
    world.records.page = [stored(1)]
    world.look()
    assert world.destination.queue.ids() == [stored(1).id]


def test_what_waits_for_its_next_attempt_is_due_then_and_never_later_than_in_an_hour():
    soon, never = stored(1, next_at=EPOCH + timedelta(seconds=30)), stored(2, next_at=EPOCH + timedelta(days=9))
    world = World([soon, never])
    world.look()
    queue = world.destination.queue
    assert (queue.next_batches(29), len(queue.next_batches(30))) == ([], 1)
    assert (queue.next_batches(3599), len(queue.next_batches(3600))) == ([], 1)


def test_what_comes_to_a_full_line_is_found_later(monkeypatch):
    monkeypatch.setattr(refill_module, "CAPACITY", 2)
    world = World()
    while not world.destination.search.over:
        world.look()
    for number in range(3):
        world.refill.add_saved(world.destination, (number, f"s{number}"), None)
    assert world.destination.queue.ids() == ["s0", "s1"]
    assert not world.destination.search.over
    assert world.refill.wanted(world.destination, world.clock)


def test_pending_sessions_of_before_are_taken_up_once_and_only_if_that_is_wanted():
    world = World()
    world.look()
    assert world.destination.search.in_backlog
    world.records.page = [session(1)._replace(first_saved_at=EPOCH - timedelta(days=1)), stored(2)]
    world.look()
    assert world.destination.queue.ids() == [session(1).id]
