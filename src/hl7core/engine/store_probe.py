"""The store probe: before a store becomes the store of record, one test session is written, read back and deleted.

The test session has a reserved id.  If a crash leaves it in the store, no query of the engine returns it, and the next
start or probe deletes it.
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

__all__ = ["PROBE_ID", "probe_store", "remove_probe"]

logger = logging.getLogger(__name__)

PROBE_ID: Final = "00000000-0000-7000-8000-00000000feed"
"""No captured session has this id: its time is the start of 1970."""

_NOBODY: Final = Endpoint("0.0.0.0", 0)  # noqa: S104 - a placeholder, nothing is bound
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


def probe_store(dispatch: Dispatch, store: str) -> None:
    """Write the test session to ``store``, read it back and delete it.  Raises StoreError if a step fails."""
    (outcome,) = dispatch.stores.persist_as_is(store, [_PROBE], replace=True)
    if isinstance(outcome, Exception):
        raise outcome
    found = dispatch.stores.load(store, SessionQuery(ids=(PROBE_ID,), limit=1))
    same = [one for one in found if session_to_json(at_stored_precision(one)) == session_to_json(_PROBE)]
    removed = _delete(dispatch, store)
    if not same:
        raise StoreError(f"{store} does not return what was written to it")
    if PROBE_ID not in removed:
        raise StoreError(f"{store} does not delete what was written to it")


def remove_probe(dispatch: Dispatch, store: str) -> None:
    """Delete the test session from ``store`` if a crash left it there."""
    try:
        if dispatch.stores.load(store, SessionQuery(ids=(PROBE_ID,), limit=1)):
            _delete(dispatch, store)
    except StoreError as error:  # readers never see it, so this can wait for the next start
        logger.debug("%s cannot be searched for an old probe: %s", store, describe(error))


def _delete(dispatch: Dispatch, store: str) -> list[str]:
    return dispatch.stores.delete(store, [PROBE_ID], to_trash=False, deleted_at=datetime.now(UTC))
