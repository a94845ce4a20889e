"""Checks whether the destinations can be reached: all are asked at once, and no session is submitted.

The law: it takes little more than ten seconds, whatever a destination does.  A destination's own message is quoted; of
any other error only the kind is named, because its text may hold patient data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from hl7core.cli.output.text import clean
from hl7core.contract import DestinationSettings
from hl7core.engine.engine import Engine
from hl7core.errors import DestinationUnreachable, SubmitError
from hl7core.guard import describe
from hl7core.settings.reading import Settings

__all__ = ["Reached", "ask_destinations"]

SECONDS: Final = 10.0


class Reached(NamedTuple):
    """The answer of one destination: ``state`` is ok, note or bad."""

    state: str
    found: str
    remedy: str = ""


def ask_destinations(settings: Settings, names: Sequence[str]) -> list[Reached]:
    """Ask the destinations ``names``, whose plugins can be loaded; return one answer for each."""
    engine = Engine(settings, only=names)  # never started: it is the runtime of the plugins
    with asyncio.Runner() as runner:
        return runner.run(_ask(engine, names))


async def _ask(engine: Engine, names: Sequence[str]) -> list[Reached]:
    await engine.registry.start(engine.runtime)
    try:
        return await asyncio.gather(*(_reached(engine, name) for name in names))
    finally:
        await engine.registry.stop()
        engine.dispatch.close(0)


async def _reached(engine: Engine, name: str) -> Reached:
    if name not in engine.registry.running():
        text = f"{name} does not start: {engine.registry.info(name).error}"
        return Reached("bad", clean(text), "correct its settings: hl7core settings check")
    settings = engine.registry.settings_of(name)
    if isinstance(settings, DestinationSettings) and not settings.active:
        return Reached("note", f"{name} is inactive: its settings name no receiver")
    try:
        answer = await engine.dispatch.reach(name, SECONDS)
    except DestinationUnreachable as error:
        remedy = f"check that it is running, and check [plugins.{name}]; sessions wait and are sent later"
        return Reached("bad", clean(f"{name} cannot be reached: {error}"), remedy)
    except SubmitError as error:
        found = clean(f"{name} answers to a request without a session: {error}")
        return Reached("note", found, f"check [plugins.{name}], unless it accepts sessions all the same")
    except Exception as error:  # noqa: BLE001 - a plugin's failure affects no other plugin
        return Reached("bad", clean(f"{name} cannot be asked: {describe(error)}"), "report it to the plugin's author")
    if answer is None:
        return Reached("note", f"{name} cannot be checked without submitting a session", "hl7core submit status")
    return Reached("ok", clean(f"{name}: {answer}"))
