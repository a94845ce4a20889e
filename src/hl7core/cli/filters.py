"""The filters of ``sessions list`` and ``sessions export``: the options, and the query that they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import SessionQuery

__all__ = ["time_of", "with_filters"]

_TEXTS: Final = {
    "device": ("IP", "Only this analyzer's address."),
    "lis": ("IP", "Only this LIS's address."),
    "specimen": ("ID", "Only sessions with this specimen id."),
    "patient": ("ID", "Only sessions with this patient id."),
    "control-id": ("ID", "Only sessions with this message control id."),
    "finding": ("CODE", "Only sessions with a finding of this code."),
    "text": ("TEXT", "Only sessions with this text in a message."),
}


def with_filters(command: Callable[..., int]) -> Callable[..., int]:
    """Add the filter options to ``command``, which is called with ``query``."""

    @click.option(
        "--status",
        type=click.Choice([str(status) for status in DeliveryStatus]),
        multiple=True,
        help="Only sessions with this submission status. Repeat for several.",
    )
    @click.option(
        "--since", metavar="TIME", help="Only sessions that began at or after TIME (2026-11-20T08:00, local time)."
    )
    @click.option("--until", metavar="TIME", help="Only sessions that began before TIME.")
    @functools.wraps(command)
    def wrapped(*args: Any, status: tuple[str, ...], since: str | None, until: str | None, **given: Any) -> int:
        texts = {name.replace("-", "_"): given.pop(name.replace("-", "_")) for name in _TEXTS}
        for name in ("specimen", "patient"):  # ids have no blanks around them
            texts[name] = texts[name].strip()
        query = SessionQuery(
            status=tuple(DeliveryStatus(name) for name in status),
            since=time_of(since, "--since"),
            until=time_of(until, "--until"),
            **texts,
        )
        return command(*args, query=query, **given)

    for name, (metavar, help_) in reversed(_TEXTS.items()):
        wrapped = click.option(f"--{name}", default="", metavar=metavar, help=help_)(wrapped)
    return wrapped


def time_of(text: str | None, option: str) -> datetime | None:
    """Return ``text`` (ISO 8601, local time unless it has a zone) as UTC, None if empty.  Raises click.UsageError."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.UsageError(f"{option} takes a time such as 2026-11-20 or 2026-11-20T08:00") from None
