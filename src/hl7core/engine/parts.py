"""What an engine is assembled from, for the rooms that work with many of its parts, and what is in force in it.

``engine.py`` builds both; nobody else writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from hl7core.engine.capture.intake import Intake
from hl7core.engine.capture.sources import Sources
from hl7core.engine.decoding import Decoding
from hl7core.engine.keeper import Keeper
from hl7core.engine.ledger import Ledger
from hl7core.engine.lock import EngineLock
from hl7core.engine.news import News
from hl7core.engine.outbox.outbox import Outbox
from hl7core.engine.stores import AttachedStores
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.registry import Registry
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings

__all__ = ["InForce", "Parts"]


class InForce(NamedTuple):
    """What the engine goes by now.

    ``settings`` were applied last; ``record`` is the store of record, which differs from ``settings.core.store`` while
    that one cannot take over; ``problems`` says what was refused of the settings, one sentence each.
    """

    settings: Settings
    record: str
    problems: tuple[str, ...] = ()

    @property
    def core(self) -> CoreSettings:
        """The settings of ``[core]``."""
        return self.settings.core


@dataclass(frozen=True, slots=True)
class Parts:
    """The rooms of one engine.

    ``folder`` is its data folder, ``sensor`` its name as a sensor, ``now`` its wall clock (aware, UTC); ``in_force``
    returns what it goes by now.
    """

    folder: Path
    sensor: str
    now: Callable[[], datetime]
    in_force: Callable[[], InForce]
    lock: EngineLock
    registry: Registry
    dispatch: Dispatch
    news: News
    ledger: Ledger
    stores: AttachedStores
    keeper: Keeper
    outbox: Outbox
    intake: Intake
    decoding: Decoding
    sources: Sources
