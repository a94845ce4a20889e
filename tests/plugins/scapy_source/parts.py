"""A machine with some interfaces, and a plugin that opens them."""

from __future__ import annotations

from hl7core import Interface, SourceRequest
from hl7core_plugins.scapy_source import LiveSource, ScapySource, ScapySourceSettings, interfaces

MACHINE = [
    Interface("lo", addresses=("127.0.0.1",)),
    Interface("eth0", addresses=("192.0.2.7",)),
    Interface("eth1", is_up=False),
    Interface("odd0", link_type=interfaces.UNKNOWN_LINK),
]


def opened(request: SourceRequest, **settings) -> LiveSource | None:
    scapy_source = ScapySource()
    scapy_source.configure(ScapySourceSettings(**settings))
    return scapy_source.open_source(request)
