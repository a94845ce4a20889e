"""What is sent: a session as JSON, and the key by which the receiver knows it again.

The law: the same session gives the same key at every attempt, and nothing is sent but the fields of the page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from hl7core import Session, session_to_json

__all__ = ["FIELDS", "body_of", "body_of_several", "key_of"]

FIELDS: Final = ("sessionId", "startTime", "endTime", "deviceIP", "lisIP", "messages", "messageInfo")
"""What a session's object holds, in this order; ``performer`` follows if there is one."""


def body_of(session: Session, performer: str = "") -> bytes:
    """Return the JSON object of ``session``.  Raises SessionRefused if some text of it is not Unicode."""
    return _encoded(_object(session, performer))


def body_of_several(sessions: Sequence[Session], performer: str = "") -> bytes:
    """Return the JSON array of the objects of ``sessions``, in order.  Raises SessionRefused like ``body_of``."""
    return _encoded([_object(session, performer) for session in sessions])


def key_of(sessions: Sequence[Session]) -> str:
    """Return the value of ``Idempotency-Key``, quotes included: the session's id; of several a hash of their ids."""
    if len(sessions) == 1:
        return f'"{sessions[0].id}"'
    return f'"{sha256(" ".join(session.id for session in sessions).encode()).hexdigest()}"'


def _object(session: Session, performer: str) -> dict[str, Any]:
    # The elements are the bulk of a session and are not sent: they are left out before they are written.
    whole = json.loads(session_to_json(session._replace(elements=(), findings=()), saved=False))
    made = {field: whole[field] for field in FIELDS}
    if performer:
        made["performer"] = performer
    return made


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
