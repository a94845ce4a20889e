"""A session's state: what only a save or a submission adds to it, and how people change it.

Every function takes a session and returns another one; only the ledger replaces the old by the new.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.session import Session

__all__ = ["carried", "ignore", "renewed", "retry", "size_of", "stamp", "unignore", "with_deliveries"]


def size_of(session: Session) -> int:
    """Estimate the memory that a session takes, in bytes."""
    size = 1000
    for message in session.messages:
        size += 400 + len(message.text)
    for element in session.elements:
        size += 300 + len(element.before) + len(element.content) + len(element.after)
    return size


def with_deliveries(session: Session, names: Sequence[str]) -> Session:
    """Add a pending Delivery for each of ``names`` that has none."""
    known = {delivery.name for delivery in session.deliveries}
    made = tuple(Delivery(name) for name in names if name not in known)
    return session._replace(deliveries=session.deliveries + made) if made else session


def stamp(session: Session, now: datetime, retention_days: int, destinations: Sequence[str]) -> Session:
    """Return ``session`` as it is to be saved at ``now``.

    Retention counts from the first save.  The first save also adds a Delivery for each of ``destinations``.
    """
    first = session.first_saved_at
    if first is None:
        session = with_deliveries(session, destinations)
    return session._replace(
        first_saved_at=first or now,
        saved_at=now,
        persisted_until=(first or now) + timedelta(days=retention_days),
        retention_days=retention_days,
    )


def renewed(session: Session, now: datetime, retention_days: int) -> Session:
    """Return ``session`` with the expiry that a save at ``now`` gives it; the same object if that does not differ."""
    first = session.first_saved_at or now
    until = first + timedelta(days=retention_days)
    if until == session.persisted_until:
        return session
    return session._replace(first_saved_at=first, saved_at=now, persisted_until=until, retention_days=retention_days)


def carried(session: Session, base: Session, *, status: bool = True) -> Session:
    """Return ``session`` with what only a save or a submission adds (``status``: both) taken from ``base``."""
    session = session._replace(
        first_saved_at=base.first_saved_at,
        saved_at=base.saved_at,
        persisted_until=base.persisted_until,
        retention_days=base.retention_days,
    )
    return session._replace(deliveries=base.deliveries, ignored=base.ignored) if status else session


def retry(session: Session) -> Session:
    """Make a session pending again at each destination, with no attempts."""
    return session._replace(
        deliveries=tuple(d if d.status is DeliveryStatus.IGNORED else Delivery(d.name) for d in session.deliveries)
    )


def ignore(session: Session) -> Session:
    """Mark a session as never to be submitted."""
    return session._replace(ignored=True)


def unignore(session: Session) -> Session:
    """Undo ``ignore``."""
    return session._replace(ignored=False)
