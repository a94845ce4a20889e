"""The queue of one destination, which is given the time: who is next, and when it is left alone."""

import random

import pytest

from hl7core.engine.outbox.queue import Batch, DestinationQueue
from hl7core.engine.outbox.rules import Disposition, Failure, Outcome

SENT = Outcome(Disposition.SENT)
REJECTED = Outcome(Disposition.REJECTED, error="HTTP 422")
AGAIN = Outcome(Disposition.RETRY, Failure.UNREACHABLE, "refused", 1.0)
LATER = Outcome(Disposition.NEXT_CYCLE, Failure.UNREACHABLE, "refused", 300.0)
FAILED = Outcome(Disposition.FAILED, Failure.BROKEN, "HTTP 503")
UNAUTHORIZED = Outcome(Disposition.FAILED, Failure.UNAUTHORIZED, "HTTP 401")


def asked(seconds, disposition=Disposition.RETRY):
    return Outcome(disposition, Failure.BUSY, "HTTP 429", max(1.0, seconds), seconds)


def line_of(*names, **options):
    queue = DestinationQueue(**options)
    for number, name in enumerate(names):
        queue.add((number, name))
    return queue


def names(batches):
    return [[session_id for _, session_id in batch.keys] for batch in batches]


def end(queue, batch, outcome, now):
    for _, session_id in batch.keys:
        queue.record(session_id, outcome, now, probe=batch.probe)
    queue.attempt_over()


def paused(outcome=LATER, *, extra=()):
    """A queue that three sessions in a row have paused at 0."""
    queue = line_of("a", "b", "c", *extra, concurrency=3)
    for batch in queue.next_batches(0):
        end(queue, batch, outcome, 0)
    assert queue.paused
    return queue


def test_the_oldest_goes_first_however_they_came():
    queue = DestinationQueue(concurrency=5)
    for start in random.sample(range(5), 5):
        queue.add((start, f"s{start}"))
    assert names(queue.next_batches(0)) == [["s0"], ["s1"], ["s2"], ["s3"], ["s4"]]


def test_never_more_at_once_than_allowed():
    queue = line_of(*"abcdef", concurrency=2)
    first = queue.next_batches(0)
    assert names(first) == [["a"], ["b"]]
    assert queue.next_batches(0) == []
    assert queue.wake_at() is None
    end(queue, first[0], SENT, 0)
    assert names(queue.next_batches(0)) == [["c"]]


def test_what_is_in_flight_is_not_queued_twice():
    queue = line_of("a")
    queue.next_batches(0)
    assert not queue.add((0, "a"))
    assert queue.next_batches(0) == []
    queue.drop(["a"])
    assert not queue.add((0, "a"))
    assert queue.next_batches(0) == []
    assert (len(queue), queue.in_flight) == (0, 1)


def test_what_was_dropped_in_flight_does_not_come_back():
    queue = line_of("a")
    (batch,) = queue.next_batches(0)
    queue.drop(["a"])
    end(queue, batch, AGAIN, 0)
    assert "a" not in queue
    assert queue.next_batches(10) == []


def test_one_that_waits_for_its_next_attempt_holds_up_nobody():
    queue = line_of("a", "b", concurrency=1)
    (batch,) = queue.next_batches(0)
    end(queue, batch, AGAIN, 0)
    (batch,) = queue.next_batches(0)
    assert names([batch]) == [["b"]]
    end(queue, batch, SENT, 0)
    assert queue.next_batches(0.9) == []
    assert queue.wake_at() == 1.0
    assert names(queue.next_batches(1.0)) == [["a"]]


def test_several_go_together_if_the_destination_takes_them():
    queue = line_of(*"abcde", concurrency=2, batch_size=2)
    assert names(queue.next_batches(0)) == [["a", "b"], ["c", "d"]]
    assert (len(queue), queue.in_flight) == (1, 4)


def test_after_a_group_was_refused_as_a_whole_each_goes_alone():
    queue = line_of(*"abc", concurrency=3, batch_size=3)
    (batch,) = queue.next_batches(0)
    for session_id in "abc":
        queue.put_back(session_id, 0, alone=True)
    queue.attempt_over()
    queue.add((9, "d"))
    queue.add((10, "e"))
    assert batch.keys == ((0, "a"), (1, "b"), (2, "c"))
    assert names(queue.next_batches(0)) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("outcome", [LATER, FAILED, asked(0, Disposition.NEXT_CYCLE)])
def test_three_sessions_in_a_row_that_end_in_trouble_pause_it(outcome):
    queue = line_of(*"abcdef", concurrency=1)
    for count in (1, 2, 3):
        (batch,) = queue.next_batches(0)
        end(queue, batch, outcome, 0)
        assert queue.paused is (count == 3)
    assert queue.failure is outcome.failure
    assert queue.next_batches(59.9) == []
    assert queue.wake_at() == 60


def test_attempts_that_are_not_the_last_do_not_pause_it():
    queue = line_of(*"abcdef", concurrency=6)
    for batch in queue.next_batches(0):
        end(queue, batch, AGAIN, 0)
    assert not queue.paused


@pytest.mark.parametrize("good", [SENT, REJECTED])
def test_an_answer_in_between_starts_the_row_anew(good):
    queue = line_of(*"abcdef", concurrency=1)
    for outcome in (LATER, LATER, good, LATER, LATER):
        (batch,) = queue.next_batches(0)
        end(queue, batch, outcome, 0)
    assert not queue.paused


def test_one_session_alone_that_fails_cycle_after_cycle_pauses_it_too():
    queue = line_of("a")
    now = 0.0
    for _ in range(3):
        (batch,) = queue.next_batches(now)
        end(queue, batch, LATER, now)
        now += 300
    assert queue.paused


def test_refused_credentials_pause_it_at_once():
    queue = line_of(*"ab", concurrency=1)
    (batch,) = queue.next_batches(0)
    end(queue, batch, UNAUTHORIZED, 0)
    assert queue.paused
    assert "a" not in queue
    assert queue.next_batches(59) == []


def test_a_paused_destination_is_tried_with_one_session_after_a_minute_then_ever_less_often():
    queue = paused(extra="defghij")
    times = []
    now = 0.0
    for _ in range(8):
        now = queue.wake_at()
        batches = queue.next_batches(now)
        assert len(batches) == 1
        assert batches[0].probe
        assert queue.next_batches(now) == []
        times.append(now)
        end(queue, batches[0], LATER, now)
    assert [b - a for a, b in zip([0, *times], times, strict=False)] == [60, 120, 240, 480, 900, 900, 900, 900]


def test_a_failed_try_takes_another_session_next_time():
    queue = paused(extra="d")
    seen = []
    for _ in range(4):
        now = queue.wake_at()
        (batch,) = queue.next_batches(now)
        seen += names([batch])[0]
        end(queue, batch, FAILED, now)
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert len(queue) == 4  # it counts on the destination alone


@pytest.mark.parametrize("good", [SENT, REJECTED])
def test_an_answer_resumes_it_and_everything_goes_on(good):
    queue = paused()
    (batch,) = queue.next_batches(60)
    end(queue, batch, good, 60)
    assert not queue.paused
    assert not queue.failure
    assert names(queue.next_batches(60)) == [["b"], ["c"]]


def test_the_next_pause_begins_with_a_minute_again():
    queue = paused(extra="defgh")
    for now in (60, 180):
        (batch,) = queue.next_batches(now)
        end(queue, batch, LATER, now)
    (batch,) = queue.next_batches(420)
    end(queue, batch, SENT, 420)
    for _ in range(3):
        end(queue, queue.next_batches(421)[0], FAILED, 421)
        if queue.paused:
            break
    assert queue.paused
    assert queue.probe_at == 481


def test_a_person_may_have_it_tried_at_once():
    queue = paused()
    queue.expedite(5.0, ["a"])
    assert len(queue.next_batches(5.0)) == 1


def test_what_waits_for_the_next_cycle_is_due_when_a_person_asks():
    queue = line_of("a")
    (batch,) = queue.next_batches(0)
    end(queue, batch, LATER, 0)
    assert queue.next_batches(1) == []
    queue.expedite(1)
    assert names(queue.next_batches(1)) == [["a"]]


def test_no_session_goes_before_the_time_that_the_destination_asked_for_has_passed():
    queue = line_of(*"abc", concurrency=1)
    (batch,) = queue.next_batches(0)
    end(queue, batch, asked(30), 0)
    queue.expedite(1)
    assert queue.next_batches(29.9) == []
    assert queue.wake_at() == 30
    assert names(queue.next_batches(30)) == [["b"]]


def test_one_for_which_it_asks_again_and_again_holds_up_nobody_else():
    queue = line_of(*"abcd", concurrency=1)
    (batch,) = queue.next_batches(0)
    end(queue, batch, asked(30), 0)
    for name in "bc":
        (batch,) = queue.next_batches(30)
        assert names([batch]) == [[name]]
        end(queue, batch, SENT, 30)
    (batch,) = queue.next_batches(31)
    assert names([batch]) == [["a"]]
    end(queue, batch, asked(3600), 31)
    assert names(queue.next_batches(31)) == [["d"]]


def test_a_try_keeps_to_what_the_destination_asked_for():
    queue = paused()
    (batch,) = queue.next_batches(60)
    end(queue, batch, asked(1800), 60)
    queue.expedite(61)
    assert queue.next_batches(1859) == []
    assert len(queue.next_batches(1860)) == 1


def test_a_late_good_answer_ends_the_pause():
    queue = line_of(*"abcd", concurrency=4)
    batches = queue.next_batches(0)
    for batch in batches[:3]:
        end(queue, batch, LATER, 0)
    assert queue.next_batches(60) == []  # the fourth is still in flight
    end(queue, batches[3], SENT, 61)
    assert not queue.paused


def test_it_is_busy_while_something_is_tried_soon():
    queue = line_of("a", "b", concurrency=1)
    (batch,) = queue.next_batches(0)
    assert queue.busy(0, 60)
    end(queue, batch, AGAIN, 0)
    assert queue.busy(0, 60)
    end(queue, queue.next_batches(0)[0], SENT, 0)
    end(queue, queue.next_batches(1)[0], LATER, 1)
    assert not queue.busy(1, 60)
    assert len(queue) == 1


def test_many_that_come_and_go_leave_nothing_behind():
    queue = DestinationQueue(concurrency=1)
    for start in range(5000):
        queue.add((start, f"s{start}"), due=1000.0)
    queue.drop([f"s{start}" for start in range(5000)])
    assert len(queue) == 0
    assert queue.wake_at() is None
    assert len(queue._waiting) + len(queue._ready) <= 1000


def test_whatever_happens_each_is_in_flight_once_and_none_is_forgotten():
    draw = random.Random(7)
    queue = DestinationQueue(concurrency=3, batch_size=2)
    flying: list[Batch] = []
    inside: set[str] = set()
    now = 0.0
    for step in range(20_000):
        now += draw.random() * 20
        what = draw.random()
        if what < 0.25:
            inside.add(f"s{step}")
            queue.add((draw.randrange(100), f"s{step}"), now + draw.choice((0.0, 5.0)))
        elif what < 0.65:
            flying += queue.next_batches(now)
        elif what < 0.7:
            gone = draw.sample(sorted(inside), min(2, len(inside)))
            queue.drop(gone)
            inside -= set(gone)
        elif what < 0.72:
            queue.expedite(now)
        elif flying:
            batch = flying.pop(draw.randrange(len(flying)))
            for _, session_id in batch.keys:
                outcome = draw.choice((SENT, SENT, REJECTED, AGAIN, LATER, FAILED, UNAUTHORIZED, asked(40)))
                if outcome.disposition in (Disposition.SENT, Disposition.REJECTED) or (
                    outcome.disposition is Disposition.FAILED and not batch.probe
                ):
                    inside.discard(session_id)
                queue.record(session_id, outcome, now, probe=batch.probe)
            queue.attempt_over()
        in_flight = [key[1] for batch in flying for key in batch.keys]
        assert len(in_flight) == len(set(in_flight)) == queue.in_flight
        assert len(flying) <= 3
        assert inside <= set(queue.ids())
    while inside:
        for batch in flying:
            end(queue, batch, SENT, now)
            inside -= {key[1] for key in batch.keys}
        now = max(now, queue.wake_at() or now)
        flying = queue.next_batches(now)
        assert flying or not inside


# Off and on again.


def test_nothing_stands_against_a_destination_that_was_switched_off_and_on_again():
    queue = paused(extra="def")
    (probe,) = queue.next_batches(60)
    end(queue, probe, asked(3600), 60)
    assert queue.next_batches(120) == []
    queue.reset()
    assert (queue.paused, queue.failure, queue.hold_until) == (False, Failure.NONE, 0.0)
    batches = queue.next_batches(120)
    assert len(batches) == 3
    for batch in batches[:2]:
        end(queue, batch, LATER, 120)
    assert not queue.paused, "two in a row, counted from the beginning"


def test_its_refusals_are_counted_from_the_beginning():
    queue = line_of(*"abc", concurrency=3)
    for batch in queue.next_batches(0):
        end(queue, batch, REJECTED, 0)
    assert queue.rejected_in_a_row == 3
    queue.reset()
    assert queue.rejected_in_a_row == 0


# Another interval.


def test_a_shorter_interval_reaches_what_waits_for_its_next_cycle():
    queue = line_of("a", concurrency=1)
    end(queue, queue.next_batches(0)[0], LATER, 0)
    queue.set_interval(60, 20)
    assert queue.next_batches(59) == []
    assert names(queue.next_batches(60)) == [["a"]]


def test_a_longer_interval_does_too():
    queue = line_of("a", concurrency=1)
    end(queue, queue.next_batches(0)[0], LATER, 0)
    queue.set_interval(3600, 20)
    assert queue.next_batches(3599) == []
    assert names(queue.next_batches(3600)) == [["a"]]


def test_what_the_destination_asked_for_is_kept_whatever_the_interval():
    queue = line_of("a", concurrency=1)
    end(queue, queue.next_batches(0)[0], asked(120, Disposition.NEXT_CYCLE)._replace(delay=300), 0)
    queue.set_interval(60, 20)
    assert queue.next_batches(119) == []
    assert names(queue.next_batches(121)) == [["a"]]


def test_the_waits_within_a_cycle_have_nothing_to_do_with_the_interval():
    queue = line_of("a", concurrency=1)
    end(queue, queue.next_batches(0)[0], AGAIN._replace(delay=900.0), 0)
    queue.set_interval(60, 1)
    assert queue.next_batches(899) == []
    assert names(queue.next_batches(900)) == [["a"]]


def test_a_wait_that_an_earlier_run_left_in_the_store_is_shortened():
    queue = DestinationQueue()
    queue.add((1, "a"), 3000.0)
    queue.set_interval(60, 20)
    assert names(queue.next_batches(80)) == [["a"]]
    queue.add((2, "b"), 90.0)
    queue.set_interval(600, 20)
    assert names(queue.next_batches(90)) == [["b"]]
