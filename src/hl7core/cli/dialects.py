"""Dialects without an engine: what enabled plugins offer to ``read``, and what the settings may pin a connection to.

Only other people's plugins are loaded, the bundled ones bring no dialect.  Of a plugin nothing runs but ``configure``,
``register_framers`` and what that returns; one that fails costs its dialects, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hl7core.errors import Hl7coreError, PluginError
from hl7core.guard import contained, describe
from hl7core.plugin_host.guarded_framer import guarded_dialect
from hl7core.plugin_host.registry import Registry
from hl7core.settings.reading import Settings
from hl7core.wire.detect import unknown_pins
from hl7core.wire.framing.framer import Dialect

__all__ = ["enabled_dialects", "pin_problems"]


def enabled_dialects(settings: Settings, tell: Callable[[str], None]) -> tuple[Dialect, ...]:
    """Return the dialects of the enabled plugins, guarded; ``tell`` hears a sentence for each plugin that fails."""
    registry = Registry(settings)
    found: list[Dialect] = []
    for name in registry.names():
        if registry.wanted(name) and not registry.info(name).bundled:
            try:
                found += _offered(registry, name, tell)
            except Hl7coreError as error:
                tell(f"plugin {error}")
    return tuple(found)


def pin_problems(settings: Settings, dialects: Sequence[Dialect]) -> list[str]:
    """Say which protocols the settings pin places to that nobody speaks."""
    return unknown_pins(settings.core.decoder_options(), dialects)


def _offered(registry: Registry, name: str, tell: Callable[[str], None]) -> list[Dialect]:
    plugin = registry.load(name)
    if "register_framers" not in registry.info(name).hooks:
        return []

    def report(error: BaseException) -> None:
        if not contained(error):
            raise error
        tell(f"plugin {name}: its dialect failed: {describe(error)}")

    try:
        configure = getattr(plugin, "configure", None)
        if configure is not None:
            configure(registry.settings_of(name))
        offered = list(plugin.register_framers() or ())  # type: ignore[attr-defined]  # it is among its hooks
    except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
        raise PluginError(f"{name}: {describe(error)}") from None
    if not all(isinstance(item, Dialect) for item in offered):
        raise PluginError(f"{name}: register_framers must yield Dialect values")
    return [guarded_dialect(item, report) for item in offered]
