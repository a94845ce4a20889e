"""For plugin authors: what hl7core's own tests use.  The extra ``hl7core[testing]`` brings what it imports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hl7core.testing.builders import make_message, make_session
    from hl7core.testing.destination_base import Mode, ReceivingEnd
    from hl7core.testing.destination_contract import DestinationContract
    from hl7core.testing.framer_contract import FramerContract
    from hl7core.testing.harness import EngineHarness, FakeSource
    from hl7core.testing.noise import NOISE
    from hl7core.testing.receiver import HttpReceiver
    from hl7core.testing.runtime import FakeRuntime
    from hl7core.testing.store_contract import StoreContract
    from hl7core.wire.pcap.synthetic_tcp import TcpTalk

__all__ = [
    "NOISE",
    "DestinationContract",
    "EngineHarness",
    "FakeRuntime",
    "FakeSource",
    "FramerContract",
    "HttpReceiver",
    "Mode",
    "ReceivingEnd",
    "StoreContract",
    "TcpTalk",
    "make_message",
    "make_session",
]

_HOME = {
    "NOISE": "hl7core.testing.noise",
    "DestinationContract": "hl7core.testing.destination_contract",
    "EngineHarness": "hl7core.testing.harness",
    "FakeRuntime": "hl7core.testing.runtime",
    "FakeSource": "hl7core.testing.harness",
    "FramerContract": "hl7core.testing.framer_contract",
    "HttpReceiver": "hl7core.testing.receiver",
    "Mode": "hl7core.testing.destination_base",
    "ReceivingEnd": "hl7core.testing.destination_base",
    "StoreContract": "hl7core.testing.store_contract",
    "TcpTalk": "hl7core.wire.pcap.synthetic_tcp",
    "make_message": "hl7core.testing.builders",
    "make_session": "hl7core.testing.builders",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
