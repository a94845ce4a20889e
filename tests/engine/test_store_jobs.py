"""Jobs of the store thread: in order, and those that only read give way to saves."""

import threading

import pytest

from hl7core.engine.store_jobs import FAIR, StoreJobs
from hl7core.errors import EngineError, StoreError


class Desk:
    """Jobs, done on this thread, with the clock in our hands."""

    def __init__(self):
        self.seconds = 0.0
        self.jobs = StoreJobs(threading.Condition(), lambda: self.seconds)
        self.saves = []
        self.stopping = False

    def submit(self, work, *, gives_way=True):
        return self.jobs.submit(work, gives_way=gives_way)

    def give_way(self):
        self.jobs.give_way(lambda: self.saves.append(self.seconds), stopping=self.stopping)

    def reads(self, steps, each):
        """A job of ``steps`` steps that take ``each`` seconds."""

        def job():
            for _ in range(steps):
                self.seconds += each
                self.give_way()
            return steps

        return job

    def do_all(self):
        self.jobs.start_run()
        while self.jobs.run_next():
            pass


@pytest.fixture
def desk():
    return Desk()


def test_they_are_done_in_the_order_in_which_they_come(desk):
    done = []
    futures = [desk.submit(lambda n=n: done.append(n) or n) for n in range(5)]
    desk.do_all()
    assert [future.result(0) for future in futures] == done == list(range(5))


def test_what_a_job_raises_reaches_who_asked_for_it(desk):
    def broken():
        raise StoreError("the disk is gone")

    future = desk.submit(broken)
    desk.do_all()
    assert isinstance(future.exception(0), StoreError)


def test_a_long_job_gives_way_each_time_it_has_had_its_share(desk):
    future = desk.submit(desk.reads(1000, FAIR / 10))
    desk.do_all()
    assert future.result(0) == 1000
    gaps = [later - earlier for earlier, later in zip([0.0, *desk.saves], desk.saves, strict=False)]
    assert len(gaps) >= 90
    assert max(gaps) <= FAIR * 1.2


def test_a_short_job_is_done_at_one_go(desk):
    desk.submit(desk.reads(5, FAIR / 10))
    desk.do_all()
    assert desk.saves == []


def test_what_earlier_jobs_took_counts(desk):
    for _ in range(3):
        desk.submit(desk.reads(4, FAIR / 9.5))
    desk.do_all()
    assert len(desk.saves) == 1


def test_a_job_that_may_not_be_held_up_is_not(desk):
    future = desk.submit(desk.reads(100, FAIR), gives_way=False)
    desk.stopping = True
    desk.do_all()
    assert future.result(0) == 100
    assert desk.saves == []


def test_a_save_in_the_midst_of_a_job_is_not_held_up_in_its_turn(desk):
    nested = []

    def save():
        desk.seconds += FAIR * 2
        desk.jobs.give_way(lambda: nested.append(1), stopping=True)

    def job():
        desk.seconds += FAIR
        desk.jobs.give_way(save, stopping=False)
        desk.jobs.give_way(lambda: nested.append(2), stopping=False)  # its share begins anew after the save

    future = desk.submit(job)
    desk.do_all()
    assert future.exception(0) is None
    assert nested == []


def test_on_another_thread_nothing_is_given_way_to(desk):
    def job():
        desk.seconds += FAIR
        other = threading.Thread(target=desk.give_way)
        other.start()
        other.join()

    desk.submit(job)
    desk.do_all()
    desk.give_way()
    assert desk.saves == []


def test_when_the_engine_stops_a_long_job_is_given_up_and_a_short_one_is_not(desk):
    desk.stopping = True
    short, long = desk.submit(desk.reads(5, FAIR / 10)), desk.submit(desk.reads(5, FAIR))
    desk.do_all()
    assert short.result(0) == 5
    assert isinstance(long.exception(0), EngineError)


def test_what_a_job_makes_of_being_given_up_is_no_answer(desk):
    """One that asks several stores takes the failure of one for that store's trouble."""

    def job():
        desk.seconds += FAIR
        try:
            desk.give_way()
        except EngineError:
            return ["half of it"]

    desk.stopping = True
    future = desk.submit(job)
    desk.do_all()
    assert isinstance(future.exception(0), EngineError)
    desk.stopping = False
    following = desk.submit(lambda: 1)
    desk.do_all()
    assert following.result(0) == 1


def test_what_waits_when_they_are_closed_is_refused_and_so_is_what_comes_then(desk):
    waiting = desk.submit(lambda: 1)
    desk.jobs.close()
    for future in (waiting, desk.submit(lambda: 1)):
        assert isinstance(future.exception(0), EngineError)
    assert not desk.jobs.run_next()
