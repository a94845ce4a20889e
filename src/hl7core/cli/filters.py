"""The filters of ``sessions list`` and ``sessions export``: the same options, and the query that they amount to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import SessionQuery

__all__ = ["filtered", "time_of"]

_TEXTS: Final = {
    "device": ("IP", "The analyzer's address."),
    "lis": ("IP", "The LIS's address."),
    "specimen": ("ID", "A specimen id in one of its messages."),
    "patient": ("ID", "A patient id in one of its messages."),
    "control-id": ("ID", "The control id of one of its messages."),
    "finding": ("CODE", "The code of one of its findings."),
    "text": ("TEXT", "Text in one of its messages."),
}


def filtered(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the filters; it is called with ``query``."""

    @click.option(
        "--status",
        type=click.Choice([str(status) for status in DeliveryStatus]),
        multiple=True,
        help="Where it stands at its destinations; several times for several.",
    )
    @click.option("--since", metavar="TIME", help="Begun at or after (2026-11-20, 2026-11-20T08:00; local time).")
    @click.option("--until", metavar="TIME", help="Begun before.")
    @functools.wraps(command)
    def wrapped(*args: Any, status: tuple[str, ...], since: str | None, until: str | None, **given: Any) -> int:
        texts = {name.replace("-", "_"): given.pop(name.replace("-", "_")) for name in _TEXTS}
        for name in ("specimen", "patient"):  # no key has blanks around it
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
    """Return a time that a person gave in local time, or with its zone.  Raises click.UsageError."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.UsageError(f"{option} takes a time such as 2026-11-20 or 2026-11-20T08:00") from None
