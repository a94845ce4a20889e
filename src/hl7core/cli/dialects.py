"""The dialects of enabled plugins, for commands that run no engine.

Only third-party plugins are loaded: the bundled ones have no dialects.  Of a plugin, only ``configure``,
``register_framers`` and the framers themselves run.  If one fails, its dialects are left out and it is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from hl7core.errors import Hl7coreError, PluginError
from hl7core.guard import contained, describe
from hl7core.plugin_host.guarded_framer import guarded_dialect
from hl7core.plugin_host.helper_thread import AnswerTimeout, HelperThread
from hl7core.plugin_host.registry import Registry
from hl7core.settings.reading import Settings
from hl7core.wire.detect import unknown_pins
from hl7core.wire.framing.framer import Dialect

__all__ = ["enabled_dialects", "pin_problems"]

_PATIENCE: Final = 30.0
"""Seconds that a dialect may take for one answer."""


def enabled_dialects(settings: Settings, warn: Callable[[str], None]) -> tuple[Dialect, ...]:
    """Return the dialects of the enabled plugins, guarded; ``warn`` is called with a sentence on each that fails."""
    registry = Registry(settings)
    found: list[Dialect] = []
    for name in registry.names():
        if registry.wanted(name) and not registry.info(name).bundled:
            try:
                found += _dialects_of(registry, name, warn)
            except Hl7coreError as error:
                warn(f"plugin {error}")
    return tuple(found)


def pin_problems(settings: Settings, dialects: Sequence[Dialect]) -> list[str]:
    """Return a sentence for each protocol that ``core.protocols`` names and nothing here can decode."""
    return unknown_pins(settings.core.decoder_options(), dialects)


def _dialects_of(registry: Registry, name: str, warn: Callable[[str], None]) -> list[Dialect]:
    plugin = registry.load(name)
    if "register_framers" not in registry.info(name).hooks:
        return []

    helper = HelperThread(name)

    def ask(function: Callable[[], Any]) -> Any:
        try:
            return helper.ask(function, seconds=_PATIENCE)
        except AnswerTimeout:
            warn(f"plugin {name}: its dialect has not answered for {_PATIENCE:.0f} seconds and is left out")
            raise

    def report(error: BaseException) -> None:
        if not contained(error):
            raise error
        warn(f"plugin {name}: its dialect failed: {describe(error)}")

    try:
        configure = getattr(plugin, "configure", None)
        if configure is not None:
            ask(lambda: configure(registry.settings_of(name)))
        offered = ask(lambda: list(plugin.register_framers() or ()))  # type: ignore[attr-defined]  # among its hooks
    except AnswerTimeout:
        return []
    except Exception as error:  # noqa: BLE001 - a plugin's failure affects no other plugin
        raise PluginError(f"{name}: {describe(error)}") from None
    if not all(isinstance(item, Dialect) for item in offered):
        raise PluginError(f"{name}: register_framers must yield Dialect values")
    return [guarded_dialect(item, report, ask) for item in offered]
