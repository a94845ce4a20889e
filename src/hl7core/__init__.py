"""hl7core: the flight recorder of the lab interface.

This is the public door: all that a plugin, or a program that reads captures, imports.  Names are looked up when they
are first used, so that ``hl7core --help`` does not pay for what it does not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hl7core.bpf import check_filter
    from hl7core.contract import (
        CoreView,
        DestinationSettings,
        ListeningSource,
        PacketSource,
        PluginSettings,
        Runtime,
        SourceRequest,
        SourceStats,
        State,
    )
    from hl7core.errors import (
        CaptureFileError,
        DestinationBroken,
        DestinationBusy,
        DestinationUnauthorized,
        DestinationUnreachable,
        EngineBusy,
        EngineError,
        Hl7coreError,
        InterfaceMissing,
        PermissionMissing,
        PluginError,
        SessionRefused,
        SessionRejected,
        SettingsError,
        SourceError,
        StoreError,
        SubmitError,
    )
    from hl7core.files import (
        CaptureFile,
    )
    from hl7core.hl7.keys import (
        SearchKeys,
        search_keys,
    )
    from hl7core.hl7.names import (
        MessageNames,
    )
    from hl7core.hl7.query import (
        matches,
        sort_key,
    )
    from hl7core.hl7.tree import (
        MessageLine,
        MessagePart,
        MessageTree,
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
        CleanupProgress,
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
    from hl7core.model.replay import (
        ReplayReport,
    )
    from hl7core.model.schema import (
        SCHEMA_VERSION,
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
    from hl7core.model.stored import (
        schema_version_of,
        session_from_json,
    )
    from hl7core.wire.decoder import (
        Decoder,
        DecoderOptions,
    )
    from hl7core.wire.framing.framer import (
        Dialect,
        Framer,
    )
    from hl7core.wire.pcap.reader import (
        CaptureReader,
        PcapngWriter,
    )

__version__ = "0.1.0"

__all__ = [
    "HOOK_API",
    "SCHEMA_VERSION",
    "SESSION_ID",
    "CaptureChanged",
    "CaptureFile",
    "CaptureFileError",
    "CaptureReader",
    "CleanupProgress",
    "CleanupReport",
    "CleanupSummary",
    "CoreView",
    "Decoder",
    "DecoderOptions",
    "Delivery",
    "DeliveryStatus",
    "DestinationBroken",
    "DestinationBusy",
    "DestinationSettings",
    "DestinationUnauthorized",
    "DestinationUnreachable",
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
    "ListeningSource",
    "Message",
    "MessageLine",
    "MessageNames",
    "MessagePart",
    "MessageTree",
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
    "ReplayReport",
    "Resync",
    "Runtime",
    "SearchKeys",
    "Session",
    "SessionQuery",
    "SessionRefused",
    "SessionRejected",
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
    "SubmitError",
    "__version__",
    "check_filter",
    "hookimpl",
    "hookspec",
    "matches",
    "schema_version_of",
    "search_keys",
    "session_from_json",
    "session_to_json",
    "sort_key",
]

_ROOMS = {
    "hl7core.bpf": ("check_filter",),
    "hl7core.contract": (
        "CoreView",
        "DestinationSettings",
        "ListeningSource",
        "PacketSource",
        "PluginSettings",
        "Runtime",
        "SourceRequest",
        "SourceStats",
        "State",
    ),
    "hl7core.errors": (
        "CaptureFileError",
        "DestinationBroken",
        "DestinationBusy",
        "DestinationUnauthorized",
        "DestinationUnreachable",
        "EngineBusy",
        "EngineError",
        "Hl7coreError",
        "InterfaceMissing",
        "PermissionMissing",
        "PluginError",
        "SessionRefused",
        "SessionRejected",
        "SettingsError",
        "SourceError",
        "StoreError",
        "SubmitError",
    ),
    "hl7core.files": ("CaptureFile",),
    "hl7core.hookspecs": (
        "HOOK_API",
        "hookimpl",
        "hookspec",
    ),
    "hl7core.hl7.keys": (
        "SearchKeys",
        "search_keys",
    ),
    "hl7core.hl7.names": ("MessageNames",),
    "hl7core.hl7.query": (
        "matches",
        "sort_key",
    ),
    "hl7core.hl7.tree": (
        "MessageLine",
        "MessagePart",
        "MessageTree",
    ),
    "hl7core.model.cleanup": ("CleanupReport",),
    "hl7core.model.delivery": (
        "Delivery",
        "DeliveryStatus",
        "Receipt",
    ),
    "hl7core.model.events": (
        "CaptureChanged",
        "CleanupProgress",
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
    "hl7core.model.replay": ("ReplayReport",),
    "hl7core.model.schema": (
        "SCHEMA_VERSION",
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
    "hl7core.model.stored": (
        "schema_version_of",
        "session_from_json",
    ),
    "hl7core.wire.decoder": (
        "Decoder",
        "DecoderOptions",
    ),
    "hl7core.wire.framing.framer": (
        "Dialect",
        "Framer",
    ),
    "hl7core.wire.pcap.reader": (
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
