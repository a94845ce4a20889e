"""Jobs for the store thread other than saving: run one after the other, in the order in which they were submitted.

A job that only reads may take long, so it *gives way*: once it has run for ``FAIR`` seconds, waiting sessions are saved
in the middle of it.  No other job is interrupted, because it relies on nothing changing meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, get_ident
from typing import Any, Final, NamedTuple, TypeVar

from hl7core.errors import EngineError

__all__ = ["FAIR", "JobCancelled", "StoreJobs"]

T = TypeVar("T")

FAIR: Final = 0.05
"""How many seconds a run of jobs may keep sessions from being saved."""
_STOPPED: Final = "the engine has stopped"


class JobCancelled(EngineError):  # noqa: N818 - named for what has happened
    """The engine is stopping, so the job in which this is raised is not needed any more."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: Future[Any]
    gives_way: bool


class StoreJobs:
    """The queue of jobs; ``changed`` is notified when one is submitted."""

    def __init__(self, changed: Condition, monotonic: Callable[[], float]) -> None:
        self._changed = changed
        self._monotonic = monotonic
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._began = 0.0  # when the current run of jobs began
        self._interruptible: int | None = None  # the thread whose job gives way
        self._cancelled = False

    def __bool__(self) -> bool:
        """Whether a job waits."""
        return bool(self._jobs)

    @property
    def spent(self) -> bool:
        """Whether the current run of jobs has used up its time."""
        return self._monotonic() - self._began >= FAIR

    @property
    def interruptible(self) -> bool:
        """Whether the current job gives way and has used up its time."""
        return self._interruptible is not None and self.spent

    def start_run(self) -> None:
        """Sessions were saved: a new run of jobs begins."""
        self._began = self._monotonic()

    def submit(self, work: Callable[[], T], *, gives_way: bool) -> Future[T]:
        """Add a job and return its future, which gets EngineError if the jobs are closed before the job is done."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(_stopped())
                return future
            self._jobs.append(_Job(work, future, gives_way))
            self._changed.notify_all()
        return future

    def run_next(self) -> bool:
        """Run the job that has waited longest; return false if there is none."""
        with self._changed:
            if not self._jobs:
                return False
            job = self._jobs.popleft()
        if job.future.set_running_or_notify_cancel():
            self._interruptible = get_ident() if job.gives_way else None
            self._cancelled = False
            try:
                result = job.work()
            except Exception as error:  # noqa: BLE001 - the caller gets it
                job.future.set_exception(_stopped() if self._cancelled else error)
            else:
                if self._cancelled:  # the result is incomplete
                    job.future.set_exception(_stopped())
                else:
                    job.future.set_result(result)
            finally:
                self._interruptible = None
        return True

    def give_way(self, save: Callable[[], object], *, stopping: bool) -> None:
        """Call ``save`` in the middle of the current job, if it gives way and has used up its time.

        Raises JobCancelled instead if the engine is ``stopping``.
        """
        thread = self._interruptible
        if thread is None or not self.spent or thread != get_ident():
            return
        if stopping:
            self._cancelled = True
            raise JobCancelled(_STOPPED)
        self._interruptible = None  # saving itself is not interrupted
        try:
            save()
        finally:
            self._interruptible = thread
            self.start_run()

    def close(self) -> None:
        """Accept no more jobs, and cancel those that wait."""
        with self._changed:
            self._closed = True
            jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_stopped())


def _stopped() -> EngineError:
    return EngineError(_STOPPED)
