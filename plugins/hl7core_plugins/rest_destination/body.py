"""What is sent: a session as JSON, and its idempotency key.

The law: a session has the same key at every attempt, and only the fields in ``docs/rest_destination.md`` are sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from hl7core import Session, session_to_json

__all__ = ["FIELDS", "body_of", "body_of_several", "key_of"]

FIELDS: Final = ("sessionId", "startTime", "endTime", "deviceIP", "lisIP", "messages", "messageInfo")
"""The fields of a session's object, in order; ``performer`` follows if it is set."""


def body_of(session: Session, performer: str = "") -> bytes:
    """Return ``session`` as a JSON object, in UTF-8.  Raises SessionRefused if a text in it is not valid Unicode."""
    return _encoded(_object(session, performer))


def body_of_several(sessions: Sequence[Session], performer: str = "") -> bytes:
    """Return ``sessions`` as a JSON array of objects, in order.  Raises SessionRefused like ``body_of``."""
    return _encoded([_object(session, performer) for session in sessions])


def key_of(sessions: Sequence[Session]) -> str:
    """Return the value of ``Idempotency-Key``, quotes included: the session's id, or a hash of several ids."""
    if len(sessions) == 1:
        return f'"{sessions[0].id}"'
    return f'"{sha256(" ".join(session.id for session in sessions).encode()).hexdigest()}"'


def _object(session: Session, performer: str) -> dict[str, Any]:
    # The elements are most of a session and are not sent: they are removed before it is written.
    whole = json.loads(session_to_json(session._replace(elements=(), findings=()), saved=False))
    made = {field: whole[field] for field in FIELDS}
    if performer:
        made["performer"] = performer
    return made


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
