"""Jobs for the store thread other than saving: done in the order in which they come, one after the other.

A job that only reads may take long, so it *gives way*: once it has had its share of the time, what waits to be saved is
saved in the midst of it.  No other job is ever held up, for it relies on nothing changing meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, get_ident
from typing import Any, Final, NamedTuple, TypeVar

from hl7core.errors import EngineError

__all__ = ["FAIR", "GivenUp", "StoreJobs"]

T = TypeVar("T")

FAIR: Final = 0.05
"""For so many seconds at most a run of jobs keeps sessions from being saved."""
_STOPPED: Final = "the engine has stopped"


class GivenUp(EngineError):  # noqa: N818 - named for what has happened
    """The job in which it is raised is not wanted any more: the engine stops."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: Future[Any]
    gives_way: bool


class StoreJobs:
    """The queue of jobs; ``changed`` is notified when one comes."""

    def __init__(self, changed: Condition, monotonic: Callable[[], float]) -> None:
        self._changed = changed
        self._monotonic = monotonic
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._began = 0.0  # the present run of jobs
        self._held_up_by: int | None = None  # the thread whose job may be held up
        self._given_up = False

    def __bool__(self) -> bool:
        """Whether a job waits."""
        return bool(self._jobs)

    @property
    def spent(self) -> bool:
        """Whether the run of jobs has had its share of the time."""
        return self._monotonic() - self._began >= FAIR

    def begin_run(self) -> None:
        """Sessions had their turn: a run of jobs begins."""
        self._began = self._monotonic()

    def submit(self, work: Callable[[], T], *, gives_way: bool) -> Future[T]:
        """Take a job; its future has EngineError if the jobs are closed before it is done."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(_stopped())
                return future
            self._jobs.append(_Job(work, future, gives_way))
            self._changed.notify_all()
        return future

    def do_next(self) -> bool:
        """Do the job that has waited longest; false if none waits."""
        with self._changed:
            if not self._jobs:
                return False
            job = self._jobs.popleft()
        if job.future.set_running_or_notify_cancel():
            self._held_up_by = get_ident() if job.gives_way else None
            self._given_up = False
            try:
                result = job.work()
            except Exception as error:  # noqa: BLE001 - who asked for it is told
                job.future.set_exception(_stopped() if self._given_up else error)
            else:
                if self._given_up:  # what came of it is not whole
                    job.future.set_exception(_stopped())
                else:
                    job.future.set_result(result)
            finally:
                self._held_up_by = None
        return True

    def give_way(self, save: Callable[[], object], *, stopping: bool) -> None:
        """``save`` in the midst of the present job, if it may be held up and has had its share.

        Raises GivenUp if that is so and the engine is ``stopping``.
        """
        thread = self._held_up_by
        if thread is None or not self.spent or thread != get_ident():
            return
        if stopping:
            self._given_up = True
            raise GivenUp(_STOPPED)
        self._held_up_by = None  # what a store does to save is not held up in its turn
        try:
            save()
        finally:
            self._held_up_by = thread
            self.begin_run()

    def close(self) -> None:
        """Take no more jobs, and refuse those that wait."""
        with self._changed:
            self._closed = True
            jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_stopped())


def _stopped() -> EngineError:
    return EngineError(_STOPPED)
