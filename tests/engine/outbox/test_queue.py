"""Who is next: the line, told what time it is."""

import random

import pytest

from hl7core.engine.outbox.queue import Line, Turn
from hl7core.engine.outbox.rules import Fate, Outcome, Trouble

SENT = Outcome(Fate.SENT)
REJECTED = Outcome(Fate.REJECTED, error="HTTP 422")
AGAIN = Outcome(Fate.AGAIN, Trouble.UNREACHABLE, "refused", 1.0)
LATER = Outcome(Fate.LATER, Trouble.UNREACHABLE, "refused", 300.0)
FAILED = Outcome(Fate.FAILED, Trouble.BROKEN, "HTTP 503")
UNAUTHORIZED = Outcome(Fate.FAILED, Trouble.UNAUTHORIZED, "HTTP 401")


def asked(seconds, fate=Fate.AGAIN):
    return Outcome(fate, Trouble.BUSY, "HTTP 429", max(1.0, seconds), seconds)


def line_of(*names, **options):
    line = Line(**options)
    for number, name in enumerate(names):
        line.add((number, name))
    return line


def names(turns):
    return [[session_id for _, session_id in turn.keys] for turn in turns]


def end(line, turn, outcome, now):
    for _, session_id in turn.keys:
        line.settle(session_id, outcome, now, probe=turn.probe)
    line.landed()


def paused(outcome=LATER, *, extra=()):
    """A line that three sessions in a row have paused at 0."""
    line = line_of("a", "b", "c", *extra, concurrency=3)
    for turn in line.take(0):
        end(line, turn, outcome, 0)
    assert line.paused
    return line


def test_the_oldest_goes_first_however_they_came():
    line = Line(concurrency=5)
    for start in random.sample(range(5), 5):
        line.add((start, f"s{start}"))
    assert names(line.take(0)) == [["s0"], ["s1"], ["s2"], ["s3"], ["s4"]]


def test_never_more_at_once_than_allowed():
    line = line_of(*"abcdef", concurrency=2)
    first = line.take(0)
    assert names(first) == [["a"], ["b"]]
    assert line.take(0) == []
    assert line.wake_at() is None
    end(line, first[0], SENT, 0)
    assert names(line.take(0)) == [["c"]]


def test_what_is_in_flight_is_not_queued_twice():
    line = line_of("a")
    line.take(0)
    assert not line.add((0, "a"))
    assert line.take(0) == []
    line.drop(["a"])
    assert not line.add((0, "a"))
    assert line.take(0) == []
    assert (len(line), line.in_flight) == (0, 1)


def test_what_was_dropped_in_flight_does_not_come_back():
    line = line_of("a")
    (turn,) = line.take(0)
    line.drop(["a"])
    end(line, turn, AGAIN, 0)
    assert "a" not in line
    assert line.take(10) == []


def test_one_that_waits_for_its_next_attempt_holds_up_nobody():
    line = line_of("a", "b", concurrency=1)
    (turn,) = line.take(0)
    end(line, turn, AGAIN, 0)
    (turn,) = line.take(0)
    assert names([turn]) == [["b"]]
    end(line, turn, SENT, 0)
    assert line.take(0.9) == []
    assert line.wake_at() == 1.0
    assert names(line.take(1.0)) == [["a"]]


def test_several_go_together_if_the_destination_takes_them():
    line = line_of(*"abcde", concurrency=2, batch=2)
    assert names(line.take(0)) == [["a", "b"], ["c", "d"]]
    assert (len(line), line.in_flight) == (1, 4)


def test_after_a_group_was_refused_as_a_whole_each_goes_alone():
    line = line_of(*"abc", concurrency=3, batch=3)
    (turn,) = line.take(0)
    for session_id in "abc":
        line.put_back(session_id, 0, alone=True)
    line.landed()
    line.add((9, "d"))
    line.add((10, "e"))
    assert turn.keys == ((0, "a"), (1, "b"), (2, "c"))
    assert names(line.take(0)) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("outcome", [LATER, FAILED, asked(0, Fate.LATER)])
def test_three_sessions_in_a_row_that_end_in_trouble_pause_it(outcome):
    line = line_of(*"abcdef", concurrency=1)
    for count in (1, 2, 3):
        (turn,) = line.take(0)
        end(line, turn, outcome, 0)
        assert line.paused is (count == 3)
    assert line.trouble is outcome.trouble
    assert line.take(59.9) == []
    assert line.wake_at() == 60


def test_attempts_that_are_not_the_last_do_not_pause_it():
    line = line_of(*"abcdef", concurrency=6)
    for turn in line.take(0):
        end(line, turn, AGAIN, 0)
    assert not line.paused


@pytest.mark.parametrize("good", [SENT, REJECTED])
def test_an_answer_in_between_starts_the_row_anew(good):
    line = line_of(*"abcdef", concurrency=1)
    for outcome in (LATER, LATER, good, LATER, LATER):
        (turn,) = line.take(0)
        end(line, turn, outcome, 0)
    assert not line.paused


def test_one_session_alone_that_fails_cycle_after_cycle_pauses_it_too():
    line = line_of("a")
    now = 0.0
    for _ in range(3):
        (turn,) = line.take(now)
        end(line, turn, LATER, now)
        now += 300
    assert line.paused


def test_refused_credentials_pause_it_at_once():
    line = line_of(*"ab", concurrency=1)
    (turn,) = line.take(0)
    end(line, turn, UNAUTHORIZED, 0)
    assert line.paused
    assert "a" not in line
    assert line.take(59) == []


def test_a_paused_destination_is_tried_with_one_session_after_a_minute_then_ever_less_often():
    line = paused(extra="defghij")
    times = []
    now = 0.0
    for _ in range(8):
        now = line.wake_at()
        turns = line.take(now)
        assert len(turns) == 1
        assert turns[0].probe
        assert line.take(now) == []
        times.append(now)
        end(line, turns[0], LATER, now)
    assert [b - a for a, b in zip([0, *times], times, strict=False)] == [60, 120, 240, 480, 900, 900, 900, 900]


def test_a_failed_try_takes_another_session_next_time():
    line = paused(extra="d")
    seen = []
    for _ in range(4):
        now = line.wake_at()
        (turn,) = line.take(now)
        seen += names([turn])[0]
        end(line, turn, FAILED, now)
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert len(line) == 4  # it counts on the destination alone


@pytest.mark.parametrize("good", [SENT, REJECTED])
def test_an_answer_resumes_it_and_everything_goes_on(good):
    line = paused()
    (turn,) = line.take(60)
    end(line, turn, good, 60)
    assert not line.paused
    assert not line.trouble
    assert names(line.take(60)) == [["b"], ["c"]]


def test_the_next_pause_begins_with_a_minute_again():
    line = paused(extra="defgh")
    for now in (60, 180):
        (turn,) = line.take(now)
        end(line, turn, LATER, now)
    (turn,) = line.take(420)
    end(line, turn, SENT, 420)
    for _ in range(3):
        end(line, line.take(421)[0], FAILED, 421)
        if line.paused:
            break
    assert line.paused
    assert line.probe_at == 481


def test_a_person_may_have_it_tried_at_once():
    line = paused()
    line.hurry(5.0, ["a"])
    assert len(line.take(5.0)) == 1


def test_what_waits_for_the_next_cycle_is_due_when_a_person_asks():
    line = line_of("a")
    (turn,) = line.take(0)
    end(line, turn, LATER, 0)
    assert line.take(1) == []
    line.hurry(1)
    assert names(line.take(1)) == [["a"]]


def test_no_session_goes_before_the_time_that_the_destination_asked_for_has_passed():
    line = line_of(*"abc", concurrency=1)
    (turn,) = line.take(0)
    end(line, turn, asked(30), 0)
    line.hurry(1)
    assert line.take(29.9) == []
    assert line.wake_at() == 30
    assert names(line.take(30)) == [["b"]]


def test_one_for_which_it_asks_again_and_again_holds_up_nobody_else():
    line = line_of(*"abcd", concurrency=1)
    (turn,) = line.take(0)
    end(line, turn, asked(30), 0)
    for name in "bc":
        (turn,) = line.take(30)
        assert names([turn]) == [[name]]
        end(line, turn, SENT, 30)
    (turn,) = line.take(31)
    assert names([turn]) == [["a"]]
    end(line, turn, asked(3600), 31)
    assert names(line.take(31)) == [["d"]]


def test_a_try_keeps_to_what_the_destination_asked_for():
    line = paused()
    (turn,) = line.take(60)
    end(line, turn, asked(1800), 60)
    line.hurry(61)
    assert line.take(1859) == []
    assert len(line.take(1860)) == 1


def test_a_late_good_answer_ends_the_pause():
    line = line_of(*"abcd", concurrency=4)
    turns = line.take(0)
    for turn in turns[:3]:
        end(line, turn, LATER, 0)
    assert line.take(60) == []  # the fourth is still in flight
    end(line, turns[3], SENT, 61)
    assert not line.paused


def test_it_is_busy_while_something_is_tried_soon():
    line = line_of("a", "b", concurrency=1)
    (turn,) = line.take(0)
    assert line.busy(0, 60)
    end(line, turn, AGAIN, 0)
    assert line.busy(0, 60)
    end(line, line.take(0)[0], SENT, 0)
    end(line, line.take(1)[0], LATER, 1)
    assert not line.busy(1, 60)
    assert len(line) == 1


def test_many_that_come_and_go_leave_nothing_behind():
    line = Line(concurrency=1)
    for start in range(5000):
        line.add((start, f"s{start}"), due=1000.0)
    line.drop([f"s{start}" for start in range(5000)])
    assert len(line) == 0
    assert line.wake_at() is None
    assert len(line._waiting) + len(line._ready) <= 1000


def test_whatever_happens_each_is_in_flight_once_and_none_is_forgotten():
    draw = random.Random(7)
    line = Line(concurrency=3, batch=2)
    flying: list[Turn] = []
    inside: set[str] = set()
    now = 0.0
    for step in range(20_000):
        now += draw.random() * 20
        what = draw.random()
        if what < 0.25:
            inside.add(f"s{step}")
            line.add((draw.randrange(100), f"s{step}"), now + draw.choice((0.0, 5.0)))
        elif what < 0.65:
            flying += line.take(now)
        elif what < 0.7:
            gone = draw.sample(sorted(inside), min(2, len(inside)))
            line.drop(gone)
            inside -= set(gone)
        elif what < 0.72:
            line.hurry(now)
        elif flying:
            turn = flying.pop(draw.randrange(len(flying)))
            for _, session_id in turn.keys:
                outcome = draw.choice((SENT, SENT, REJECTED, AGAIN, LATER, FAILED, UNAUTHORIZED, asked(40)))
                if outcome.fate in (Fate.SENT, Fate.REJECTED) or (outcome.fate is Fate.FAILED and not turn.probe):
                    inside.discard(session_id)
                line.settle(session_id, outcome, now, probe=turn.probe)
            line.landed()
        in_flight = [key[1] for turn in flying for key in turn.keys]
        assert len(in_flight) == len(set(in_flight)) == line.in_flight
        assert len(flying) <= 3
        assert inside <= set(line.ids())
    while inside:
        for turn in flying:
            end(line, turn, SENT, now)
            inside -= {key[1] for key in turn.keys}
        now = max(now, line.wake_at() or now)
        flying = line.take(now)
        assert flying or not inside


# Off and on again.


def test_nothing_stands_against_a_destination_that_was_switched_off_and_on_again():
    line = paused(extra="def")
    (probe,) = line.take(60)
    end(line, probe, asked(3600), 60)
    assert line.take(120) == []
    line.begin_anew()
    assert (line.paused, line.trouble, line.hold_until) == (False, Trouble.NONE, 0.0)
    turns = line.take(120)
    assert len(turns) == 3
    for turn in turns[:2]:
        end(line, turn, LATER, 120)
    assert not line.paused, "two in a row, counted from the beginning"


def test_its_refusals_are_counted_from_the_beginning():
    line = line_of(*"abc", concurrency=3)
    for turn in line.take(0):
        end(line, turn, REJECTED, 0)
    assert line.rejected_in_a_row == 3
    line.begin_anew()
    assert line.rejected_in_a_row == 0
