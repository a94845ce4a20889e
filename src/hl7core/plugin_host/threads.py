"""The threads that a plugin has to itself: one that brings it news, one that asks it questions.

A plugin that is slow makes nobody else wait: its news queue is bounded, what does not fit is counted and one Resync
stands for it, and an answer that does not come in time is done without.  All are daemons, so a plugin that never
returns cannot keep the process from ending; a plugin out of service hears nothing more, whatever was queued.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from hl7core.model.events import Resync
from hl7core.plugin_host.calls import Calls, Impl, NotInService

__all__ = ["HelperThread", "Late", "NewsThread"]

_log = logging.getLogger(__name__)

QUEUE: Final = 10_000

T = TypeVar("T")


class NewsThread:
    """Brings one plugin its news, in the order in which they came."""

    def __init__(self, name: str, impls: Mapping[str, Impl], calls: Calls, size: int = QUEUE) -> None:
        self.name = name
        self.owner = next(iter(impls.values())).owner
        self._impls = impls
        self._calls = calls
        self._size = size
        self._queue: deque[tuple[str, Any]] = deque()
        self._missed = 0
        self._working = False
        self._over = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=f"hl7core-news-{name}", daemon=True).start()

    def put(self, hook: str, value: Any) -> None:
        """Queue news for ``hook``; never waits."""
        if hook not in self._impls:
            return
        with self._changed:
            if self._over:
                return
            if len(self._queue) >= self._size:
                if not self._missed:
                    _log.warning(
                        "plugin %s is slow: its queue of %d news is full, some are lost", self.name, self._size
                    )
                self._missed += 1
                return
            self._catch_up()
            self._queue.append((hook, value))
            self._changed.notify_all()

    def drain(self, until: float) -> bool:
        """Wait, till ``until`` on the monotonic clock, for the queue to be worked off; say whether it was."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._over or not (self._queue or self._working or self._missed),
                max(0.0, until - time.monotonic()),
            )

    def end(self) -> None:
        """Bring no more news; a call that runs is not waited for."""
        with self._changed:
            self._over = True
            self._queue.clear()
            self._changed.notify_all()

    def _catch_up(self) -> None:
        if self._missed and "on_event" in self._impls:
            self._queue.append(("on_event", Resync(self._missed)))
        self._missed = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                self._working = False
                if not self._queue and self._missed:
                    self._catch_up()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._over or self._queue)
                if self._over:
                    return
                hook, value = self._queue.popleft()
                self._working = True
            self._calls.hear(self._impls[hook], value)


class Late(Exception):  # noqa: N818 - named for what is the matter
    """No answer in time."""


class HelperThread:
    """Asks one plugin, and waits only so long for the answer."""

    def __init__(self, name: str, owner: object) -> None:
        self.name = name
        self.owner = owner
        self._questions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._turn = threading.Lock()
        self._late = False
        self._door = threading.Lock()
        self._over = False
        threading.Thread(target=self._run, name=f"hl7core-ask-{name}", daemon=True).start()

    def ask(self, question: Callable[[], T], seconds: float) -> T:
        """Return what ``question`` returns, or raise what it raises; Late if that, or another still, takes too long.

        While an answer is late, nothing more is asked.  Raises NotInService at once after ``end``.
        """
        until = time.monotonic() + seconds
        if self._late or not self._turn.acquire(timeout=seconds):
            raise Late
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                answer.set_exception(error)
            finally:
                self._late = False
                self._turn.release()

        with self._door:
            if self._over:  # nobody is there any more who could answer
                self._turn.release()
                raise NotInService(f"{self.name} is not in service")
            self._questions.put(work)
        try:
            return answer.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            if answer.done():  # the plugin's own
                raise
            self._late = True
            raise Late from None

    def end(self) -> None:
        """Ask nothing more; what was asked before is still answered."""
        with self._door:
            self._over = True
            self._questions.put(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            question()
