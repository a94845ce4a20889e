"""The probe: one session of our own that is written, read back and deleted, before a store becomes that of record.

It has a reserved id.  If a crash comes between its writing and its deletion it stays in the store, but no query of the
engine ever returns it, and the next start or probe deletes it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

from hl7core.errors import StoreError
from hl7core.guard import describe
from hl7core.model.packet import Endpoint
from hl7core.model.schema import at_stored_precision, session_to_json
from hl7core.model.session import Direction, Element, ElementType, Ending, Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch

__all__ = ["PROBE_ID", "probe", "sweep"]

logger = logging.getLogger(__name__)

PROBE_ID: Final = "00000000-0000-7000-8000-00000000feed"
"""No captured session has it: its time is the beginning of 1970."""

_NOBODY: Final = Endpoint("0.0.0.0", 0)  # noqa: S104 - nobody's address, nothing is bound
_PROBE: Final = Session(
    id=PROBE_ID,
    start_ns=0,
    end_ns=0,
    device=_NOBODY,
    lis=_NOBODY,
    elements=(Element(0, Direction.FROM_DEVICE, ElementType.START, 0, content=b"\x05"),),
    messages=(),
    is_complete=False,
    protocol="plain",
    ending=Ending.STOPPED,
    ignored=True,
)


def probe(dispatch: Dispatch, store: str) -> None:
    """Write the probe to ``store``, read it back and delete it.  Raises StoreError if any of it fails."""
    (outcome,) = dispatch.stores.persist_as_is(store, [_PROBE], replace=True)
    if isinstance(outcome, Exception):
        raise outcome
    found = dispatch.stores.load(store, SessionQuery(ids=(PROBE_ID,), limit=1))
    same = [one for one in found if session_to_json(at_stored_precision(one)) == session_to_json(_PROBE)]
    removed = _delete(dispatch, store)
    if not same:
        raise StoreError(f"{store} does not give back what was written to it")
    if PROBE_ID not in removed:
        raise StoreError(f"{store} does not delete what was written to it")


def sweep(dispatch: Dispatch, store: str) -> None:
    """Delete a probe that a crash has left in ``store``."""
    try:
        if dispatch.stores.load(store, SessionQuery(ids=(PROBE_ID,), limit=1)):
            _delete(dispatch, store)
    except StoreError as error:  # it is hidden all the same
        logger.debug("no look for an old probe in %s: %s", store, describe(error))


def _delete(dispatch: Dispatch, store: str) -> list[str]:
    return dispatch.stores.delete(store, [PROBE_ID], to_trash=False, deleted_at=datetime.now(UTC))
