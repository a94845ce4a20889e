"""The pace of a replay: each packet is due as long after the first as it was captured after it."""

from engine.parts import START_NS, noise
from hl7core.engine.replay.pace import Pace, sliced
from hl7core.model.packet import PacketBatch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def at(*seconds):
    """A batch with a packet at each of these times."""
    packets = [next(noise(1, time_ns=START_NS + int(second * 1e9)).packets()) for second in seconds]
    return PacketBatch.of(packets, number=7)


def played(pace, clock, batch):
    """Play a batch; return when each part came, in seconds since the start, and the times of its packets."""
    found = []
    for wait, part in pace.split(batch):
        clock.now += wait
        found.append((round(clock.now - 100, 3), [(time - START_NS) / 1e9 for time in part.times]))
    return found


def test_each_packet_comes_when_it_is_due():
    clock = Clock()
    pace = Pace(clock)
    assert played(pace, clock, at(0, 0.001, 2, 3.5)) == [(0, [0, 0.001]), (2, [2]), (3.5, [3.5])]
    assert played(pace, clock, at(3.5, 4)) == [(3.5, [3.5]), (4, [4])]


def test_what_is_late_or_from_the_past_comes_at_once():
    clock = Clock()
    pace = Pace(clock)
    played(pace, clock, at(0))
    clock.now += 10
    assert played(pace, clock, at(1, 0.5, 9, 12)) == [(10, [1, 0.5, 9]), (12, [12])]


def test_while_it_is_held_up_nothing_becomes_due():
    clock = Clock()
    pace = Pace(clock)
    played(pace, clock, at(0))
    clock.now += 60
    pace.delay(60)
    assert played(pace, clock, at(1, 2)) == [(61, [1]), (62, [2])]


def test_the_next_file_begins_at_once_whatever_its_year():
    clock = Clock()
    pace = Pace(clock)
    played(pace, clock, at(0))
    pace.restart()
    year = 365 * 86400
    assert played(pace, clock, at(year, year + 1)) == [(0, [year]), (1, [year + 1])]


def test_a_slice_is_a_batch_of_its_own():
    batch = at(0, 1, 2)._replace(skipped=5)
    assert sliced(batch, 0, 3) is batch
    first, rest = sliced(batch, 0, 1), sliced(batch, 1, 3)
    assert [*first.packets(), *rest.packets()] == [*batch.packets()]
    assert (first.number, first.skipped) == (7, 5)
    assert (rest.number, rest.skipped) == (8, 0)
