"""Live capture from network interfaces, through scapy and libpcap, in a process of its own.

Law: the process that decodes never imports scapy and never touches a packet socket; the process that reads packets
has no privileges.  Three parts, each started by the one before it:

* the *parent* (:mod:`.source`), inside the engine, reads pcapng from a pipe;
* the *reader* (:mod:`.child`) first drops all privileges, then maps the ring that the kernel writes packets into and
  copies them to the pipe without parsing them;
* the *opener* (:mod:`.opener`) keeps only ``CAP_NET_RAW`` and is the only one to import scapy; it opens a socket when
  the reader names an interface, passes it on, and never reads from it.

Names here are imported when they are first used: the reader imports this package and must not load the settings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hl7core_plugins.scapy_source.interfaces import list_interfaces
    from hl7core_plugins.scapy_source.plugin import ScapySource, ScapySourceSettings
    from hl7core_plugins.scapy_source.source import LiveSource

__all__ = ["LiveSource", "ScapySource", "ScapySourceSettings", "list_interfaces"]

_HOME = {
    "LiveSource": "source",
    "ScapySource": "plugin",
    "ScapySourceSettings": "plugin",
    "list_interfaces": "interfaces",
}


def __getattr__(name: str) -> Any:
    room = _HOME.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)
