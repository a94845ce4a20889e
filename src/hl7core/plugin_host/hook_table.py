"""The switchboard: who implements which hook now, and the threads that belong to plugins.

It follows the registry by its ``generation``: as long as that number stands, looking up a hook is looking into a dict.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pluggy

from hl7core import hookspecs
from hl7core.errors import StoreError
from hl7core.model.events import PluginChanged
from hl7core.plugin_host.calls import Calls, HookCost, Impl
from hl7core.plugin_host.registry import Registry
from hl7core.plugin_host.threads import HelperThread, NewsThread

__all__ = ["Switchboard"]

NEWS: Final = ("on_session_complete", "on_event")


class Switchboard:
    """Connects the dispatch with the plugins that ``registry`` has in service.

    ``on_change`` hears of every change of a plugin's state, and of its errors, on whichever thread they happen.
    """

    def __init__(
        self,
        registry: Registry,
        on_change: Callable[[PluginChanged], None] = lambda _change: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self.calls = Calls(registry, clock)
        registry.busy = self.calls.watchdog.busy
        registry.listen(on_change)
        self._lock = threading.Lock()
        self._generation = -1
        self._table: dict[str, tuple[Impl, ...]] = {}
        self._news: dict[str, NewsThread] = {}
        self._helpers: dict[str, HelperThread] = {}
        self._submitting: Counter[str] = Counter()
        self._listeners: tuple[Callable[[Any], None], ...] = ()
        self._closed = False

    @property
    def generation(self) -> int:
        """Changes whenever a plugin comes or goes: then ask for ``packet_listeners`` and ``dialects`` again."""
        return self._registry.generation

    def costs(self) -> tuple[HookCost, ...]:
        """Return what every hook of every plugin has cost so far, the dearest first."""
        return self.calls.costs()

    def close(self, seconds: float = 5.0) -> tuple[str, ...]:
        """Bring what news are queued, for so long at most, then no more; name the plugins that did not hear all."""
        until = time.monotonic() + seconds
        with self._lock:
            self._closed = True
            threads, helpers = list(self._news.values()), list(self._helpers.values())
            self._news, self._helpers = {}, {}
        late = tuple(thread.name for thread in threads if not thread.drain(until))
        for thread in threads:
            thread.end()
        for helper in helpers:
            helper.end()
        self.calls.watchdog.close()
        return late

    def _publish(self, hook: str, value: Any) -> None:
        self._refresh()
        for thread in tuple(self._news.values()):
            thread.put(hook, value)

    def _listening(self) -> tuple[Callable[[Any], None], ...]:
        self._refresh()
        return self._listeners

    def _impls(self, hook: str) -> tuple[Impl, ...]:
        self._refresh()
        return self._table.get(hook, ())

    def _impl(self, hook: str, store: str) -> Impl:
        for impl in self._impls(hook):
            if impl.plugin == store:
                return impl
        if store in self._registry.running():
            raise StoreError(f"{store} does not implement {hook}")
        raise StoreError(f"the store {store} is not in service")

    def _helper(self, impl: Impl) -> HelperThread:
        with self._lock:
            helper = self._helpers.get(impl.plugin)
            if helper is None or helper.owner is not impl.owner:
                helper = self._helpers[impl.plugin] = HelperThread(impl.plugin, impl.owner)
            return helper

    def _refresh(self) -> None:
        """Take up the plugins that came and let go of those that went."""
        if self._generation == self._registry.generation:
            return
        with self._lock:
            generation = self._registry.generation
            if self._generation == generation:
                return
            order = {name: place for place, name in enumerate(self._registry.names())}
            table: dict[str, tuple[Impl, ...]] = {}
            for hook, caller in dict(vars(self._registry.pm.hook)).items():  # a plugin that loads may add to them
                if hook in vars(hookspecs) and isinstance(caller, pluggy.HookCaller) and caller.spec is not None:
                    offered = tuple(caller.spec.argnames)
                    found = [Impl.of(hook, impl, offered) for impl in caller.get_hookimpls()]
                    table[hook] = tuple(sorted(found, key=lambda impl: order[impl.plugin]))
            self._table = table
            self._listeners = self.calls.listeners(table.get("on_packet", ()))
            self._retune(table)
            self._generation = generation

    def _retune(self, table: dict[str, tuple[Impl, ...]]) -> None:
        wanted: dict[str, dict[str, Impl]] = {}
        for hook in NEWS:
            for impl in table.get(hook, ()):
                wanted.setdefault(impl.plugin, {})[hook] = impl
        kept: dict[str, NewsThread] = {}
        for name, thread in self._news.items():
            if name in wanted and next(iter(wanted[name].values())).owner is thread.owner:
                kept[name] = thread
            else:
                thread.end()
        if not self._closed:
            for name, impls in wanted.items():
                if name not in kept:
                    kept[name] = NewsThread(name, impls, self.calls)
        self._news = kept
        for name, helper in list(self._helpers.items()):
            if self._registry.pm.get_plugin(name) is not helper.owner:
                self._helpers.pop(name).end()
