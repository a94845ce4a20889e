"""The threads of plugins: each plugin has one that delivers its news, and one for each kind of question asked of it.

A slow plugin makes nobody else wait: its news queue is bounded, what does not fit is counted and reported by one
Resync, and the caller goes on without an answer that does not come in time.  All are daemon threads, so a plugin that
never returns cannot keep the process from ending.  A plugin out of service gets no more news, not even what was queued;
one that is suspended gets it afterwards.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from hl7core.model.events import Resync
from hl7core.plugin_host.calls import Calls, NotInService
from hl7core.plugin_host.helper_thread import HelperThread
from hl7core.plugin_host.hook_table import Impl, Impls
from hl7core.plugin_host.watchdog import Limit

__all__ = ["Lane", "NewsThread", "PluginThreads"]

_log = logging.getLogger(__name__)

NEWS: Final = ("on_session_complete", "on_event")
QUEUE: Final = 10_000
_SUSPENDED_POLL: Final = 0.2


class Lane(Enum):
    """For whom a plugin is asked; each lane of a plugin has a thread of its own, so that none waits for another."""

    DECODING = "decoding"
    SAVING = "saving"
    RULES = "rules"
    CLEANUP = "cleanup"
    CAPTURE = "capture"


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
                if self._calls.suspended(self.name):
                    self._changed.wait(_SUSPENDED_POLL)
                    continue
                hook, value = self._queue.popleft()
                self._working = True
            self._calls.notify(self._impls[hook], value)


class PluginThreads:
    """Keeps the threads of the plugins in service: starts one with its plugin, or when needed, and ends it with it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._news: dict[str, NewsThread] = {}
        self._helpers: dict[tuple[str, Lane], HelperThread] = {}
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
            for name, lane in [key for key in self._helpers if key[0] not in stayed]:
                helper = self._helpers.pop((name, lane))
                if lane is not Lane.DECODING:  # its framers go on with the connections that they have
                    helper.end()

    def publish(self, hook: str, value: Any) -> None:
        """Queue ``value`` for every plugin that implements ``hook``, one of NEWS; never waits."""
        for thread in tuple(self._news.values()):
            thread.put(hook, value)

    def helper(self, impl: Impl, lane: Lane) -> HelperThread:
        """Return the thread that asks the plugin of ``impl``.  Raises NotInService if that plugin has gone."""
        with self._lock:
            if self._closed or self._owners.get(impl.plugin) is not impl.owner:
                raise NotInService(f"{impl.plugin} is not in service")
            helper = self._helpers.get((impl.plugin, lane))
            if helper is None:
                helper = self._helpers[impl.plugin, lane] = HelperThread(f"{impl.plugin}-{lane.value}")
            return helper

    def ask(
        self, lane: Lane, impl: Impl, *values: Any, limit: Limit = Limit.QUARANTINE, seconds: float | None = None
    ) -> Any:
        """Call ``impl`` on its plugin's thread for ``lane``; return its answer, raise what it raises as an Exception.

        Raises AnswerTimeout after ``seconds`` (None: no limit) and when the watchdog abandons the call, as ``limit``
        says; NotInService if the plugin is not in service.
        """
        guard = self._calls.guard(impl, limit=limit)

        def call() -> Any:
            with guard:
                return impl(*values)

        return self.helper(impl, lane).ask(call, guard.running, seconds)

    def close(self, until: float) -> tuple[str, ...]:
        """Deliver the queued news, at most until the monotonic time ``until``, and end all threads.

        Returns the plugins that did not get all of theirs.
        """
        with self._lock:
            self._closed = True
            threads = list(self._news.values())
            helpers = [helper for (_, lane), helper in self._helpers.items() if lane is not Lane.DECODING]
            self._news, self._helpers = {}, {}
        late = tuple(thread.name for thread in threads if not thread.drain(until))
        for thread in threads:
            thread.end()
        for helper in helpers:
            helper.end()
        return late
