"""For plugin authors: what hl7core's own tests use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hl7core.testing.builders import make_message, make_session
    from hl7core.testing.harness import EngineHarness, FakeSource
    from hl7core.testing.runtime import FakeRuntime
    from hl7core.testing.store_contract import StoreContract
    from hl7core.wire.talk import TcpTalk

__all__ = [
    "EngineHarness",
    "FakeRuntime",
    "FakeSource",
    "StoreContract",
    "TcpTalk",
    "make_message",
    "make_session",
]

_HOME = {
    "EngineHarness": "hl7core.testing.harness",
    "FakeRuntime": "hl7core.testing.runtime",
    "FakeSource": "hl7core.testing.harness",
    "StoreContract": "hl7core.testing.store_contract",
    "TcpTalk": "hl7core.wire.talk",
    "make_message": "hl7core.testing.builders",
    "make_session": "hl7core.testing.builders",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
