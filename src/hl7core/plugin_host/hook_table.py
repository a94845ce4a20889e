"""The hook table: who implements which hook now.

It follows the registry by its ``generation``: while that number stays the same, looking up a hook is looking into a
dict.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

import pluggy

from hl7core import hookspecs
from hl7core.plugin_host.registry import Registry

__all__ = ["HookTable", "Impl", "Impls"]


class Impl(NamedTuple):
    """One plugin's implementation of one hook.

    ``owner`` is the plugin object.  ``takes`` are the positions, among the arguments that the hook offers, of those
    that the implementation takes.
    """

    plugin: str
    hook: str
    function: Callable[..., Any]
    takes: tuple[int, ...]
    owner: object

    @classmethod
    def of(cls, hook: str, found: pluggy.HookImpl, offered: tuple[str, ...]) -> Impl:
        """Make one of what pluggy knows; a parameter with a default is filled too, if the hook offers it."""
        more = takewhile(lambda name: name in offered, found.kwargnames)
        takes = tuple(offered.index(name) for name in (*found.argnames, *more))
        return cls(found.plugin_name, hook, found.function, takes, found.plugin)

    def __call__(self, *values: Any) -> Any:
        """Call it with those of ``values``, the hook's arguments in order, that it takes."""
        return self.function(*[values[index] for index in self.takes])


Impls = Mapping[str, tuple[Impl, ...]]
"""The implementations of each hook, in the order in which the settings name the plugins."""


class HookTable:
    """Looks up implementations of the core's hooks; ``on_change`` is called with the table each time it changes."""

    def __init__(self, registry: Registry, on_change: Callable[[Impls], None]) -> None:
        self._registry = registry
        self._on_change = on_change
        self._lock = threading.Lock()
        self._generation = -1
        self._impls: dict[str, tuple[Impl, ...]] = {}

    def all(self, hook: str) -> tuple[Impl, ...]:
        """Return the implementations of ``hook`` in the order of the settings."""
        self.refresh()
        return self._impls.get(hook, ())

    def of(self, plugin: str, hook: str) -> Impl | None:
        """Return how ``plugin`` implements ``hook``, None if it does not."""
        return next((impl for impl in self.all(hook) if impl.plugin == plugin), None)

    def in_service(self, plugin: str) -> bool:
        """Return whether ``plugin`` is registered, whatever it implements."""
        return self._registry.pm.has_plugin(plugin)

    def refresh(self) -> None:
        """Rebuild the table if a plugin has come or gone since the last call."""
        if self._generation == self._registry.generation:
            return
        with self._lock:
            generation = self._registry.generation
            if self._generation == generation:
                return
            order = {name: place for place, name in enumerate(self._registry.names())}
            impls: dict[str, tuple[Impl, ...]] = {}
            for hook, caller in dict(vars(self._registry.pm.hook)).items():  # a plugin that is loaded may add hooks
                if hook in vars(hookspecs) and isinstance(caller, pluggy.HookCaller) and caller.spec is not None:
                    offered = tuple(caller.spec.argnames)
                    found = [Impl.of(hook, impl, offered) for impl in caller.get_hookimpls()]
                    impls[hook] = tuple(sorted(found, key=lambda impl: order[impl.plugin]))
            self._impls = impls
            self._on_change(impls)
            self._generation = generation
