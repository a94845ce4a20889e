"""hl7core: the flight recorder of the lab interface.

This is the public door: all that a plugin, or a program that reads captures, imports.  Names are looked up when they
are first used, so that ``hl7core --help`` does not pay for what it does not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hl7core.contract import (
        CoreView,
        PacketSource,
        PluginSettings,
        Runtime,
        SourceRequest,
        SourceStats,
        State,
    )
    from hl7core.errors import (
        CaptureFileError,
        EngineBusy,
        EngineError,
        Hl7coreError,
        InterfaceMissing,
        PermissionMissing,
        PluginError,
        SessionRefused,
        SettingsError,
        SourceError,
        StoreError,
    )
    from hl7core.files import (
        CaptureFile,
    )
    from hl7core.hookspecs import (
        HOOK_API,
        hookimpl,
        hookspec,
    )
    from hl7core.model.cleanup import (
        CleanupReport,
    )
    from hl7core.model.delivery import (
        Delivery,
        DeliveryStatus,
        Receipt,
    )
    from hl7core.model.events import (
        CaptureChanged,
        CleanupSummary,
        Event,
        NoticeRaised,
        PacketsDropped,
        PluginChanged,
        RecoveryDone,
        Resync,
        SessionSaved,
        SessionsRemoved,
        SessionUnsaved,
        SessionUpdated,
        SettingsChanged,
        SubmissionProgress,
        SubmissionResult,
    )
    from hl7core.model.finding import (
        Finding,
        Severity,
    )
    from hl7core.model.frame import (
        Fault,
        Frame,
        FrameKind,
    )
    from hl7core.model.packet import (
        Endpoint,
        Interface,
        Packet,
        PacketBatch,
    )
    from hl7core.model.schema import (
        session_from_json,
        session_to_json,
    )
    from hl7core.model.session import (
        SESSION_ID,
        Direction,
        Element,
        ElementType,
        Ending,
        Message,
        OpenSession,
        Session,
        SessionQuery,
    )
    from hl7core.wire.decoder import (
        Decoder,
        DecoderOptions,
    )
    from hl7core.wire.framing import (
        Dialect,
        Framer,
    )
    from hl7core.wire.pcap import (
        CaptureReader,
        PcapngWriter,
    )

__version__ = "0.1.0"

__all__ = [
    "HOOK_API",
    "SESSION_ID",
    "CaptureChanged",
    "CaptureFile",
    "CaptureFileError",
    "CaptureReader",
    "CleanupReport",
    "CleanupSummary",
    "CoreView",
    "Decoder",
    "DecoderOptions",
    "Delivery",
    "DeliveryStatus",
    "Dialect",
    "Direction",
    "Element",
    "ElementType",
    "Ending",
    "Endpoint",
    "EngineBusy",
    "EngineError",
    "Event",
    "Fault",
    "Finding",
    "Frame",
    "FrameKind",
    "Framer",
    "Hl7coreError",
    "Interface",
    "InterfaceMissing",
    "Message",
    "NoticeRaised",
    "OpenSession",
    "Packet",
    "PacketBatch",
    "PacketSource",
    "PacketsDropped",
    "PcapngWriter",
    "PermissionMissing",
    "PluginChanged",
    "PluginError",
    "PluginSettings",
    "Receipt",
    "RecoveryDone",
    "Resync",
    "Runtime",
    "Session",
    "SessionQuery",
    "SessionRefused",
    "SessionSaved",
    "SessionUnsaved",
    "SessionUpdated",
    "SessionsRemoved",
    "SettingsChanged",
    "SettingsError",
    "Severity",
    "SourceError",
    "SourceRequest",
    "SourceStats",
    "State",
    "StoreError",
    "SubmissionProgress",
    "SubmissionResult",
    "__version__",
    "hookimpl",
    "hookspec",
    "session_from_json",
    "session_to_json",
]

_ROOMS = {
    "hl7core.contract": (
        "CoreView",
        "PacketSource",
        "PluginSettings",
        "Runtime",
        "SourceRequest",
        "SourceStats",
        "State",
    ),
    "hl7core.errors": (
        "CaptureFileError",
        "EngineBusy",
        "EngineError",
        "Hl7coreError",
        "InterfaceMissing",
        "PermissionMissing",
        "PluginError",
        "SessionRefused",
        "SettingsError",
        "SourceError",
        "StoreError",
    ),
    "hl7core.files": ("CaptureFile",),
    "hl7core.hookspecs": (
        "HOOK_API",
        "hookimpl",
        "hookspec",
    ),
    "hl7core.model.cleanup": ("CleanupReport",),
    "hl7core.model.delivery": (
        "Delivery",
        "DeliveryStatus",
        "Receipt",
    ),
    "hl7core.model.events": (
        "CaptureChanged",
        "CleanupSummary",
        "Event",
        "NoticeRaised",
        "PacketsDropped",
        "PluginChanged",
        "RecoveryDone",
        "Resync",
        "SessionSaved",
        "SessionUnsaved",
        "SessionUpdated",
        "SessionsRemoved",
        "SettingsChanged",
        "SubmissionProgress",
        "SubmissionResult",
    ),
    "hl7core.model.finding": (
        "Finding",
        "Severity",
    ),
    "hl7core.model.frame": (
        "Fault",
        "Frame",
        "FrameKind",
    ),
    "hl7core.model.packet": (
        "Endpoint",
        "Interface",
        "Packet",
        "PacketBatch",
    ),
    "hl7core.model.schema": (
        "session_from_json",
        "session_to_json",
    ),
    "hl7core.model.session": (
        "Direction",
        "Element",
        "ElementType",
        "Ending",
        "Message",
        "OpenSession",
        "SESSION_ID",
        "Session",
        "SessionQuery",
    ),
    "hl7core.wire.decoder": (
        "Decoder",
        "DecoderOptions",
    ),
    "hl7core.wire.framing": (
        "Dialect",
        "Framer",
    ),
    "hl7core.wire.pcap": (
        "CaptureReader",
        "PcapngWriter",
    ),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    room = _HOME.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value
