"""Loading a plugin: import it, construct it, and check that it keeps the contract before it is registered.

pluggy would notice some violations later and some never: it calls an ``async def`` where it needs an answer, and never
calls a misspelt hook.
"""

from __future__ import annotations

import csv
import inspect
import site
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

import pluggy

from hl7core import hookspecs
from hl7core.contract import PluginSettings
from hl7core.errors import PluginError
from hl7core.guard import contained, describe
from hl7core.plugin_host.discovery import Record
from hl7core.settings.validation import nearest

__all__ = ["Loader"]

_MAY_BE_ASYNC: Final = frozenset({"submit_session", "submit_sessions", "reach_destination", "start", "stop"})
_MAY_YIELD: Final = frozenset({"diagnose", "register_framers"})


class Loader:
    """Loads plugins and returns their hooks; it remembers which plugin specified which hook."""

    def __init__(self, pm: pluggy.PluginManager) -> None:
        self._pm = pm
        self._owners: dict[str, str] = {}
        pm.add_hookspecs(hookspecs)

    def load(self, record: Record) -> object:
        """Load the plugin, enter it with its model and its hooks in ``record``, and return it.  Raises PluginError."""
        if record.plugin is not None:
            return record.plugin
        name = record.name
        began = time.perf_counter()
        try:
            plugin_class = _import(record)
            record.import_ms = (time.perf_counter() - began) * 1000
            record.hook_api = _stated_range(record, plugin_class)
            plugin = _construct(name, plugin_class)
            self._add_hookspecs(name, plugin)
            hooks = self._check_hooks(name, plugin)
            model = _model(name, self.hook(plugin, "register_settings")()) if "register_settings" in hooks else None
        except PluginError:
            raise
        except BaseException as error:
            if not contained(error):
                raise
            raise PluginError(f"{name}: cannot be loaded: {describe(error)}") from error
        record.hooks, record.plugin, record.model = hooks, plugin, model or PluginSettings
        return plugin

    def hook(self, plugin: object, hook: str, **offered: Any) -> Callable[[], Any]:
        """Return a function that calls ``hook`` of ``plugin`` with those arguments of ``offered`` that it takes."""
        function = next(function for name, function, _ in self._implementations(plugin) if name == hook)
        taken = inspect.signature(function).parameters
        arguments = {name: value for name, value in offered.items() if name in taken}
        return lambda: function(**arguments)

    def _implementations(self, plugin: object) -> Iterator[tuple[str, Any, pluggy.HookimplOpts]]:
        for attribute in dir(type(plugin)):
            if isinstance(inspect.getattr_static(plugin, attribute), property):
                continue
            options = self._pm.parse_hookimpl_opts(plugin, attribute)
            if options is not None:
                yield options["specname"] or attribute, getattr(plugin, attribute), options

    def _check_hooks(self, name: str, plugin: object) -> tuple[str, ...]:
        """Return the hooks that ``plugin`` implements, in the order of the specifications.  Raises PluginError."""
        places = {hook: place for place, hook in enumerate(vars(hookspecs))}
        known = [hook for hook in vars(self._pm.hook) if self._spec(hook) is not None]
        known.sort(key=lambda hook: places.get(hook, len(places)))
        found: set[str] = set()
        for hook, function, options in self._implementations(plugin):
            spec = self._spec(hook)
            if spec is not None:
                _check(name, hook, function, options, spec)
                found.add(hook)
            elif not options["optionalhook"]:
                raise PluginError(f"{name}: there is no hook {hook}{nearest(hook, known)}")
        return tuple(hook for hook in known if hook in found)

    def _spec(self, hook: str) -> tuple[str, ...] | None:
        """Return the arguments that ``hook`` offers, None if no such hook is specified."""
        caller = getattr(self._pm.hook, hook, None)
        if not isinstance(caller, pluggy.HookCaller) or caller.spec is None:
            return None
        return tuple(caller.spec.argnames)

    def _add_hookspecs(self, name: str, plugin: object) -> None:
        if not any(hook == "register_hookspecs" for hook, *_ in self._implementations(plugin)):
            return
        module = self.hook(plugin, "register_hookspecs")()
        if not isinstance(module, ModuleType):
            raise PluginError(f"{name}: register_hookspecs must return a module")
        hooks = [item for item in vars(module) if self._pm.parse_hookspec_opts(module, item) is not None]
        for hook in hooks:
            if self._spec(hook) is not None and self._owners.get(hook) != name:
                raise PluginError(f"{name}: a hook {hook} already exists")
        if not any(self._owners.get(hook) == name for hook in hooks):  # pluggy keeps specifications permanently
            self._pm.add_hookspecs(module)
            self._owners.update(dict.fromkeys(hooks, name))


def _import(record: Record) -> Any:
    """Import what the entry point names; what a failed import leaves behind is forgotten, so that it can be mended."""
    dist = record.entry_point.dist
    if record.late and not record.imported and dist is not None:
        files = [row[0] for row in csv.reader((dist.read_text("RECORD") or "").splitlines()) if row]
        for file in files:
            if file.endswith(".pth") and "/" not in file:  # an editable install: Python reads these when it starts
                site.addpackage(str(dist.locate_file("")), file, None)
    before = set(sys.modules)
    try:
        found = record.entry_point.load()
    except BaseException:
        package = record.entry_point.module.partition(".")[0]
        for module in set(sys.modules) - before:
            if module.partition(".")[0] == package:
                del sys.modules[module]
        raise
    record.imported = True
    return found


def _stated_range(record: Record, plugin_class: Any) -> str:
    """Return the range of hook APIs that the class states as ``hook_api``, "" if none.

    Raises PluginError if it is not a range, or if the hook API of this hl7core lies outside.
    """
    stated = getattr(plugin_class, "hook_api", None)
    if stated is None:
        return ""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # few plugins need it
    from packaging.version import Version

    name, example = record.name, 'write for example hook_api = ">=1.0,<2"'
    if not isinstance(stated, str) or not stated.strip():
        raise PluginError(f"{name}: its hook_api is not a text that states a range of versions; {example}")
    try:
        allowed = SpecifierSet(stated)
    except InvalidSpecifier:
        raise PluginError(f"{name}: its hook_api {stated[:60]!r} is not a range of versions; {example}") from None
    ours = Version(hookspecs.HOOK_API)
    if allowed.contains(ours, prereleases=True):
        return stated
    low = [Version(part.version.removesuffix(".*")) for part in allowed if part.operator in (">=", ">", "~=", "==")]
    package = record.package.name or "the plugin"
    if any(version > ours for version in low):
        remedy = f"upgrade hl7core, or install an older {package}"
    else:
        remedy = f"install a newer {package}, or an older hl7core"
    raise PluginError(f"{name}: needs hook API {stated}, and this hl7core has {hookspecs.HOOK_API}; {remedy}")


def _construct(name: str, plugin_class: Any) -> object:
    if not inspect.isclass(plugin_class):
        raise PluginError(f"{name}: its entry point must name a class")
    plugin: object = plugin_class()
    return plugin


def _check(name: str, hook: str, function: Any, options: pluggy.HookimplOpts, offered: tuple[str, ...]) -> None:
    if options["wrapper"] or options["hookwrapper"]:
        raise PluginError(f"{name}: {hook} must not be a wrapper: nothing may come between the core and a plugin")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in offered:
            raise PluginError(
                f"{name}: {hook} takes {parameter.name}; the hook offers {', '.join(offered) or 'no arguments'}"
            )
    if hook not in vars(hookspecs):
        return  # another plugin specified it, and decides whether it may be async
    if inspect.iscoroutinefunction(function) and hook not in _MAY_BE_ASYNC:
        raise PluginError(f"{name}: {hook} must be a plain def, not async def")
    if inspect.isasyncgenfunction(function) or (inspect.isgeneratorfunction(function) and hook not in _MAY_YIELD):
        raise PluginError(f"{name}: {hook} must return its answer, not yield it")


def _model(name: str, model: Any) -> type[PluginSettings]:
    if not (inspect.isclass(model) and issubclass(model, PluginSettings)):
        raise PluginError(f"{name}: register_settings must return a subclass of PluginSettings")
    return model
