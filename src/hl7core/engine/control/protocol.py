"""The protocol of ``control.sock``: one JSON object per line, both ways.

A request is ``{"do": name, ...arguments}``.  The answer is any number of ``{"item": ...}`` lines and one last line,
``{"ok": true, "result": ...}`` or ``{"ok": false, "kind": error class, "error": text}``.  Sessions are in their stored
schema; times are unix milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from hl7core import errors
from hl7core.errors import EngineError, Hl7coreError, SettingsError
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.events import CleanupSummary, Event
from hl7core.model.session import SESSION_ID, SessionQuery

__all__ = [
    "CONTROL_NAME",
    "MAX_REQUEST",
    "MAX_RESPONSE",
    "POINTER_NAME",
    "Request",
    "error_from_line",
    "error_to_line",
    "event_to_json",
    "flag_in",
    "ids_in",
    "line_of",
    "millis_of",
    "query_from_json",
    "query_to_json",
    "request_from_line",
    "table_in",
    "text_in",
    "texts_in",
    "time_of",
]

CONTROL_NAME: Final = "control.sock"
POINTER_NAME: Final = "control.path"
MAX_REQUEST: Final = 1 << 20
MAX_RESPONSE: Final = 64 << 20
"""Large enough for a session with the largest message that the default settings allow."""

Request = dict[str, Any]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES: Final = ("since", "until", "expired_at")
_TEXTS: Final = ("device", "lis", "protocol", "specimen", "patient", "control_id", "finding", "text", "pending_for")


def line_of(value: Mapping[str, Any]) -> bytes:
    """Return ``value`` as one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def error_to_line(error: Exception) -> bytes:
    """Return the last line for ``error``; a foreign exception is named by its class alone."""
    ours = isinstance(error, Hl7coreError)
    reply: dict[str, Any] = {
        "ok": False,
        "kind": type(error).__name__ if ours else "EngineError",
        "error": str(error) if ours else f"the engine failed ({type(error).__name__})",
    }
    if isinstance(error, SettingsError):
        reply["problems"] = list(error.problems)
    if isinstance(error, errors.PermissionMissing):
        reply["remedy"] = error.remedy
    if isinstance(error, errors.InterfaceMissing):
        reply["name"], reply["existing"] = error.name, list(error.existing)
    return line_of(reply)


def error_from_line(reply: Mapping[str, Any]) -> Hl7coreError:
    """Return the error in a last line."""
    text = str(reply.get("error", "the engine refused the request"))
    match reply.get("kind"):
        case "SettingsError":
            return SettingsError(*map(str, reply.get("problems", [text])))
        case "PermissionMissing":
            return errors.PermissionMissing(text, remedy=str(reply.get("remedy", "")))
        case "InterfaceMissing":
            return errors.InterfaceMissing(
                str(reply.get("name", "")), existing=tuple(map(str, reply.get("existing", ())))
            )
        case "SourceError":
            return errors.SourceError(text)
        case "StoreError":
            return errors.StoreError(text)
        case "PluginError":
            return errors.PluginError(text)
    return EngineError(text)


def query_to_json(query: SessionQuery) -> dict[str, Any]:
    """Return ``query`` as JSON, without default values."""
    made: dict[str, Any] = {}
    for name, value in query._asdict().items():
        if value == SessionQuery._field_defaults[name]:
            continue
        made[name] = [_plain(value[0]), value[1]] if name == "after" else _plain(value)
    return made


def query_from_json(data: Any) -> SessionQuery:
    """Return the query in ``data``.  Raises EngineError naming the wrong field."""
    if not isinstance(data, Mapping):
        raise EngineError("query: must be an object")
    unknown = sorted(set(data) - set(SessionQuery._fields))
    if unknown:
        raise EngineError(f"query: unknown field {unknown[0][:50]!r}")
    made: dict[str, Any] = {}
    try:
        for name, value in data.items():
            made[name] = _field(name, value)
    except (TypeError, ValueError, OverflowError, LookupError):
        raise EngineError(f"query.{name}: invalid value") from None
    return SessionQuery(**made)


def _field(name: str, value: Any) -> Any:
    if name in _TIMES:
        return time_of(value)
    if name in _TEXTS:
        return _typed(value, str)
    match name:
        case "ids":
            return tuple(_typed(item, str) for item in _typed(value, list))
        case "status":
            return tuple(DeliveryStatus(item) for item in _typed(value, list))
        case "after":
            return (time_of(value[0]), _typed(value[1], str))
        case "newest_first":
            return _typed(value, bool)
    if isinstance(value, bool) or _typed(value, int) < 1:
        raise ValueError(name)
    return value


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


def millis_of(time: datetime) -> float:
    """Return a time as unix milliseconds."""
    return (time - _EPOCH) / timedelta(milliseconds=1)


def time_of(value: Any) -> datetime:
    """Return the time for unix milliseconds.  Raises TypeError or OverflowError if ``value`` is not a time."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("time")
    return _EPOCH + timedelta(milliseconds=value)


def event_to_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON: ``{"event": class name, ...fields in camelCase}``."""
    if isinstance(event, CleanupSummary):
        fields = _summary(event)
    else:
        fields = {_camel(field.name): _plain(getattr(event, field.name)) for field in dataclasses.fields(event)}
    return {"event": type(event).__name__, **fields}


def _summary(summary: CleanupSummary) -> dict[str, Any]:
    report = summary.report
    return {
        "filesDeleted": report.deleted,
        "bytesFreed": report.freed,
        "filesInTrash": report.in_trash,
        "startTime": _plain(summary.start_time),
        "endTime": _plain(summary.end_time),
        "dryRun": report.dry_run,
        "kept": dict(report.kept),
        "failed": report.failed,
        "emptied": report.emptied,
        "halted": report.halted,
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return millis_of(value)
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "_asdict"):
        return {_camel(name): _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


# The arguments of a request: each function raises EngineError naming the wrong argument.


def request_from_line(line: bytes) -> Request:
    """Return the request in ``line``.  Raises EngineError if it is not one."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise EngineError("a request must be one JSON object per line")
    return request


def ids_in(request: Request) -> list[str]:
    """Return the session ids of ``request``."""
    ids = texts_in(request, "ids")
    for session_id in ids:
        if not SESSION_ID.fullmatch(session_id):
            raise EngineError("ids: must be session ids")
    return ids


def texts_in(request: Request, name: str) -> list[str]:
    """Return a list of strings, empty if the argument is missing."""
    value = request.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise EngineError(f"{name}: must be a list of strings")
    return value


def text_in(request: Request, name: str, default: str | None = None) -> str:
    """Return a string; with ``default`` None it is required."""
    value = request.get(name, default)
    if not isinstance(value, str):
        raise EngineError(f"{name}: must be a string")
    return value


def flag_in(request: Request, name: str, *, default: bool) -> bool:
    """Return a boolean."""
    value = request.get(name, default)
    if not isinstance(value, bool):
        raise EngineError(f"{name}: must be true or false")
    return value


def table_in(request: Request, name: str) -> dict[str, Any]:
    """Return an object."""
    value = request.get(name)
    if not isinstance(value, dict):
        raise EngineError(f"{name}: must be an object")
    return value
