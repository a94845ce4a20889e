from hypothesis import given
from hypothesis import strategies as st

from hl7core.contract import SourceStats
from hl7core.engine.capture.running_source import RunningSource
from hl7core.model.packet import Interface, Packet, PacketBatch
from hl7core.testing import FakeSource
from plugin_host.parts import wait_for


def batch(*times):
    return PacketBatch.of([Packet(b"%d" % t, t, 10, Interface("eth0")) for t in times])


class Fixed:
    """A source that emits what it has and ends."""

    name = "fixed"
    listening = True

    def __init__(self, *batches):
        self.batches = batches

    def run(self, emit):
        for one in self.batches:
            emit(one)

    def stop(self):
        """It ends by itself."""

    def stats(self):
        return SourceStats()

    def interfaces(self):
        return ()


def times_of(batches):
    return [time_ns for one in batches for time_ns in one.times]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 50), st.integers(1, 7), st.integers(1, 7))
def test_of_two_sources_that_hear_the_same_each_packet_is_taken_once_and_in_order(times, moment, size, other):
    times.sort()

    def cut(size):
        return [batch(*times[at : at + size]) for at in range(0, len(times), size)]

    taken = []
    old = RunningSource("p", Fixed(*cut(size)), taken.append, lambda _one: None)
    new = RunningSource("p", Fixed(*cut(other)), taken.append, lambda _one: None)
    old.end_at(moment)
    new.start(held=True)
    assert new.join(10)
    assert taken == []
    old.start()
    assert old.join(10)
    new.release(moment)
    assert times_of(taken) == times
    assert [bytes(p.data) for one in taken for p in one.packets()] == [b"%d" % t for t in times]


def test_what_comes_long_after_the_moment_is_handed_on_as_it_is():
    taken = []
    late = batch(10_000_000_000, 10_000_000_001)
    one = RunningSource("p", Fixed(batch(5, 7), late, batch(3)), taken.append, lambda _one: None)
    one.start(held=True)
    assert one.join(10)
    one.release(6)
    assert times_of(taken) == [7, 10_000_000_000, 10_000_000_001, 3]
    assert taken[1] is late


def test_a_source_that_cannot_say_whether_it_listens_counts_as_listening():
    one = RunningSource("p", FakeSource(), lambda _batch: None, lambda _one: None)
    assert (one.tells, one.listening) == (False, True)


def test_an_error_of_a_source_is_kept_and_its_end_reported():
    ended = []

    class Fails(Fixed):
        def run(self, emit):
            raise SystemExit("canary")

    one = RunningSource("p", Fails(), lambda _batch: None, ended.append)
    one.start()
    wait_for(lambda: ended == [one])
    assert "canary" not in str(one.error)
