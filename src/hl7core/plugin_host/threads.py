"""The threads of plugins: each plugin has one that delivers its news and one that asks it questions.

A slow plugin makes nobody else wait: its news queue is bounded, what does not fit is counted and reported by one
Resync, and the caller goes on without an answer that does not come in time.  All are daemon threads, so a plugin that
never returns cannot keep the process from ending.  A plugin out of service gets no more news, not even what was queued.
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
from hl7core.plugin_host.calls import Calls, NotInService
from hl7core.plugin_host.hook_table import Impl, Impls

__all__ = ["AnswerTimeout", "HelperThread", "NewsThread", "PluginThreads"]

_log = logging.getLogger(__name__)

NEWS: Final = ("on_session_complete", "on_event")
QUEUE: Final = 10_000

T = TypeVar("T")


class NewsThread:
    """Delivers news to one plugin, in order; ``impls`` are its implementations by hook."""

    def __init__(self, name: str, impls: Mapping[str, Impl], calls: Calls, size: int = QUEUE) -> None:
        self.name = name
        self._impls = impls
        self._calls = calls
        self._size = size
        self._queue: deque[tuple[str, Any]] = deque()
        self._missed = 0
        self._working = False
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=f"hl7core-news-{name}", daemon=True).start()

    def put(self, hook: str, value: Any) -> None:
        """Queue news for ``hook``; never waits."""
        if hook not in self._impls:
            return
        with self._changed:
            if self._ended:
                return
            if len(self._queue) >= self._size:
                if not self._missed:
                    _log.warning(
                        "plugin %s is slow: its queue of %d news items is full, some are lost", self.name, self._size
                    )
                self._missed += 1
                return
            self._report_missed()
            self._queue.append((hook, value))
            self._changed.notify_all()

    def drain(self, until: float) -> bool:
        """Wait until the queue is empty, at most until the monotonic time ``until``; return whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._ended or not (self._queue or self._working or self._missed),
                max(0.0, until - time.monotonic()),
            )

    def end(self) -> None:
        """Deliver nothing more; a call that is running is not waited for."""
        with self._changed:
            self._ended = True
            self._queue.clear()
            self._changed.notify_all()

    def _report_missed(self) -> None:
        if self._missed and "on_event" in self._impls:
            self._queue.append(("on_event", Resync(self._missed)))
        self._missed = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                self._working = False
                if not self._queue and self._missed:
                    self._report_missed()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ended or self._queue)
                if self._ended:
                    return
                hook, value = self._queue.popleft()
                self._working = True
            self._calls.notify(self._impls[hook], value)


class AnswerTimeout(Exception):  # noqa: N818 - named like TimeoutError's kin elsewhere: what happened
    """The plugin did not answer in time."""


class HelperThread:
    """Asks one plugin, and waits a limited time for each answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._questions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self._overdue = False
        self._ending = threading.Lock()
        self._ended = False
        threading.Thread(target=self._run, name=f"hl7core-ask-{name}", daemon=True).start()

    def ask(self, question: Callable[[], T], seconds: float) -> T:
        """Return what ``question`` returns, or raise what it raises.

        Raises AnswerTimeout after ``seconds``, and at once while an earlier answer is overdue; NotInService after
        ``end``.
        """
        until = time.monotonic() + seconds
        if self._overdue or not self._one_at_a_time.acquire(timeout=seconds):
            raise AnswerTimeout
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                answer.set_exception(error)
            finally:
                self._overdue = False
                self._one_at_a_time.release()

        with self._ending:
            if self._ended:  # the thread no longer answers
                self._one_at_a_time.release()
                raise NotInService(f"{self.name} is not in service")
            self._questions.put(work)
        try:
            return answer.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            if answer.done():  # the plugin raised it
                raise
            self._overdue = True
            raise AnswerTimeout from None

    def end(self) -> None:
        """Answer the questions asked so far and no others."""
        with self._ending:
            self._ended = True
            self._questions.put(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            question()


class PluginThreads:
    """Keeps the threads of the plugins in service: starts one with its plugin, or when needed, and ends it with it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._news: dict[str, NewsThread] = {}
        self._helpers: dict[str, HelperThread] = {}
        self._owners: dict[str, object] = {}
        self._closed = False

    def follow(self, impls: Impls) -> None:
        """End the threads of plugins that went, and start the news threads of those that came."""
        listening: dict[str, dict[str, Impl]] = {}
        for hook in NEWS:
            for impl in impls.get(hook, ()):
                listening.setdefault(impl.plugin, {})[hook] = impl
        owners = {impl.plugin: impl.owner for found in impls.values() for impl in found}
        with self._lock:
            before, self._owners = self._owners, owners
            stayed = {name for name, owner in owners.items() if before.get(name) is owner}
            kept: dict[str, NewsThread] = {}
            for name, thread in self._news.items():
                if name in listening and name in stayed:
                    kept[name] = thread
                else:
                    thread.end()
            if not self._closed:
                for name, own in listening.items():
                    if name not in kept:
                        kept[name] = NewsThread(name, own, self._calls)
            self._news = kept
            for name in self._helpers.keys() - stayed:
                self._helpers.pop(name).end()

    def publish(self, hook: str, value: Any) -> None:
        """Queue ``value`` for every plugin that implements ``hook``, one of NEWS; never waits."""
        for thread in tuple(self._news.values()):
            thread.put(hook, value)

    def helper(self, impl: Impl) -> HelperThread:
        """Return the thread that asks the plugin of ``impl``.  Raises NotInService if that plugin has gone."""
        with self._lock:
            if self._closed or self._owners.get(impl.plugin) is not impl.owner:
                raise NotInService(f"{impl.plugin} is not in service")
            helper = self._helpers.get(impl.plugin)
            if helper is None:
                helper = self._helpers[impl.plugin] = HelperThread(impl.plugin)
            return helper

    def close(self, until: float) -> tuple[str, ...]:
        """Deliver the queued news, at most until the monotonic time ``until``, and end all threads.

        Returns the plugins that did not get all of theirs.
        """
        with self._lock:
            self._closed = True
            threads, helpers = list(self._news.values()), list(self._helpers.values())
            self._news, self._helpers = {}, {}
        late = tuple(thread.name for thread in threads if not thread.drain(until))
        for thread in threads:
            thread.end()
        for helper in helpers:
            helper.end()
        return late
