"""A destination that is away for a day: a session a second, and nobody waits."""

import asyncio
import random
from pathlib import Path

import pytest

from engine.outbox.outage import World, in_no_time
from engine.parts import session
from fakes import settings
from hl7core.engine.session_state import retry
from hl7core.errors import DestinationBroken, DestinationUnreachable
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.session import SessionQuery


def memory() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(("hours", "batch"), [(24, 50), (2, 1)], ids=["a day", "two hours, one by one"])
@pytest.mark.parametrize(
    "error", [DestinationUnreachable("connection refused"), DestinationBroken("HTTP 503")], ids=["refused", "503"]
)
def test_after_an_outage_everything_is_delivered_with_few_attempts_and_little_memory(error, hours, batch):
    count = hours * 3600

    async def day():
        world = World(asyncio.get_running_loop(), {"receiver": {"batch_size": batch}})
        world.receiver.error = error
        before, most = memory(), 0
        await world.start()
        for minute in range(0, count, 60):
            world.capture(range(minute, minute + 60))
            await asyncio.sleep(60)
            most = max(most, memory())
        tries = world.receiver.tries
        world.receiver.error = None
        back = world.loop.time()
        while world.store.pending:
            await asyncio.sleep(1)
            assert world.loop.time() < back + 900 + count / 50, "it sends less than 50 a second"
        failed = world.stores.load(SessionQuery(status=(DeliveryStatus.FAILED,), limit=count))
        ids = [session.id for session in failed]
        await world.change(ids, retry)
        world.outbox.expedite(ids)
        await asyncio.sleep(30)
        most = max(most, memory())
        await world.stop()
        return world, tries, len(failed), most - before

    world, tries, failed, most = in_no_time(day())
    assert world.store.counts() == {DeliveryStatus.SUBMITTED: count}
    assert set(world.receiver.took.values()) == {1}
    assert max(world.store.held[i][1][0].attempts for i in world.store.held) <= 20
    assert failed <= 4 if isinstance(error, DestinationBroken) else failed == 0
    assert tries < 400
    assert most < 300e6


def test_a_receiver_that_loses_its_answers_gets_everything_and_nothing_twice_by_id():
    async def day():
        world = World(asyncio.get_running_loop(), {"receiver": {"concurrency": 10}})
        draw = random.Random(3)
        world.receiver.lose = lambda: draw.random() < 0.1
        await world.start()
        world.capture(range(5000))
        while world.store.pending:
            world.outbox.wake()
            await asyncio.sleep(60)
            await world.outbox.submit_now()
        await world.stop()
        return world

    world = in_no_time(day())
    assert world.store.counts() == {DeliveryStatus.SUBMITTED: 5000}
    assert len(world.receiver.took) == 5000
    assert sum(world.receiver.took.values()) > 5000  # some came again, with the same id


def test_one_session_on_a_quiet_day_is_not_tried_without_end_either():
    async def day():
        world = World(asyncio.get_running_loop())
        world.receiver.error = DestinationUnreachable("connection refused")
        await world.start()
        world.capture([1])
        await asyncio.sleep(86_400)
        (held,) = world.store.held.values()
        tries, attempts = world.receiver.tries, held[1][0].attempts
        world.receiver.error = None
        await asyncio.sleep(901)
        await world.stop()
        return world, tries, attempts

    world, tries, attempts = in_no_time(day())
    assert attempts == 9  # three cycles of three, then the destination was paused
    assert tries < 9 + 24 * 4 + 8
    assert world.store.counts() == {DeliveryStatus.SUBMITTED: 1}


def test_what_nobody_told_of_is_found_at_the_next_interval():
    async def hours():
        world = World(asyncio.get_running_loop())
        await world.start()
        await asyncio.sleep(10)
        world.store.persist_session(
            session(3)._replace(first_saved_at=world.now(), deliveries=(Delivery("receiver"),)), replace=False
        )
        await asyncio.sleep(280)
        before = len(world.receiver.took)
        await asyncio.sleep(20)
        await world.stop()
        return before, len(world.receiver.took)

    assert in_no_time(hours()) == (0, 1)


def test_a_session_that_is_refused_cycle_after_cycle_does_not_hold_up_the_others():
    async def hours():
        world = World(asyncio.get_running_loop())
        world.receiver.poison = {session(0).id}
        await world.start()
        for minute in range(120):
            world.capture([minute])
            await asyncio.sleep(60)
        await world.stop()
        return world

    world = in_no_time(hours())
    assert world.store.counts() == {DeliveryStatus.SUBMITTED: 119, DeliveryStatus.PENDING: 1}
    assert world.receiver.tries < 119 + 3 * 26


@pytest.mark.parametrize(("before", "after", "tried"), [(60, 1, 62), (1, 60, 3602)])
def test_a_changed_interval_counts_for_the_cycle_that_runs_and_for_what_waits_for_the_next(before, after, tried):
    """A session that is refused by itself, and one that nobody told of: both wait for the next cycle."""

    async def hours():
        table = {"interval_minutes": before, "max_retries": 1}
        world = World(asyncio.get_running_loop(), {"receiver": table})
        world.receiver.poison = {session(0).id}
        await world.start()
        await asyncio.sleep(1)
        world.capture([0])
        await asyncio.sleep(1)
        world.store.persist_session(
            session(3)._replace(first_saved_at=world.now(), deliveries=(Delivery("receiver"),)), replace=False
        )
        tables = {name: {"enabled": True} for name in ("store", "receiver")}
        await world.registry.apply(
            settings(tables | {"receiver": {**table, "enabled": True, "interval_minutes": after}})
        )
        world.receiver.poison = set()
        times = {}
        while len(times) < 2:
            await asyncio.sleep(1)
            for session_id in world.receiver.took:
                times.setdefault(session_id, asyncio.get_running_loop().time())
        await world.stop()
        return times

    times = in_no_time(hours())
    assert set(times) == {session(0).id, session(3).id}
    assert all(abs(at - tried) < 5 for at in times.values()), times
