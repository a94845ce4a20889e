"""``hl7core submit``: submits pending sessions, through the running engine or an engine of the command's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from hl7core.cli import exit_codes
from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.progress import progress_of_sending
from hl7core.cli.session_access import all_sessions, engine_client, open_sessions, own_engine, plugins_with, stores_of
from hl7core.engine.outbox.status import DestinationStatus
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import SessionQuery

if TYPE_CHECKING:
    from hl7core.engine.control.client import ControlClient
    from hl7core.engine.engine import Engine

__all__ = ["command"]

_GLANCE: Final = 0.2
_COUNTED: Final = 10_000
"""At most so many sessions of a status are counted, because the store reads each; beyond, a "+" is shown."""
_TOUCHES: Final = {
    DeliveryStatus.PENDING: (DeliveryStatus.PENDING,),
    DeliveryStatus.FAILED: (
        DeliveryStatus.FAILED,
        DeliveryStatus.PENDING,
    ),  # it may be pending elsewhere
    DeliveryStatus.IGNORED: (DeliveryStatus.IGNORED,),
}
"""For each status of a session, the statuses that its counted deliveries may have."""


@click.group("submit", epilog="\b\nExamples:\n  hl7core submit now\n  hl7core submit status -o json")
def command() -> None:
    """Submit pending sessions, and show the state of the destinations."""


# Now.


@command.command(
    "now",
    short_help="Submit all pending sessions now.",
    epilog="\b\nExamples:\n  hl7core submit now",
)
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.pass_obj
def now(settings_path: str | None, no_progress: bool) -> int:
    """Submit all pending sessions now, without waiting for their next attempt, until all are sent or cannot be.

    The running engine does it if there is one; Ctrl-C stops the waiting, not the engine.  Exit code 0 if all were sent,
    3 if there was nothing to send, 4 if some failed or are still pending.
    """
    with _sender(settings_path) as sender:
        before = {one.name: one for one in sender.before}
        queued = sender.start()
        with progress_of_sending(shown=not no_progress) as step:
            while True:
                standing = [one for one in sender.statuses() if one.state != "inactive"]
                sent = sum(one.submitted - _of(before, one).submitted for one in standing)
                failed = sum(one.failed - _of(before, one).failed for one in standing)
                left = sum(one.queue + one.in_flight for one in standing)
                step(sent + failed, max(queued, sent + failed + left))
                if not any(one.busy for one in standing):
                    break
                sender.wait(_GLANCE)
    more = " or more" if any(one.more for one in standing) else ""
    if not (sent or failed or left or more):
        click.echo("nothing to send")
        return exit_codes.NOTHING
    click.echo(f"{sent} sent, {failed} failed, {left}{more} still pending")
    for one in standing:
        if one.queue and one.state != "idle":
            click.echo(f"{one.name}: {_state(one)}{_error(one)}", err=True)
    return exit_codes.PARTIAL if failed or left or more else exit_codes.OK


def _of(before: dict[str, DestinationStatus], one: DestinationStatus) -> DestinationStatus:
    return before.get(one.name, DestinationStatus(one.name, "inactive"))


# Status.


@command.command(
    "status",
    short_help="Show the state of each destination.",
    epilog="\b\nExamples:\n  hl7core submit status\n  hl7core submit status -o json",
)
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", help="Default: text.")
@click.pass_obj
def status(settings_path: str | None, output: str) -> int:
    """Show for each destination its state, how many sessions are pending, failed and ignored, and its last error.

    The counts "since the engine's start" are the running engine's.  The others are counted in the store, up to 10,000
    sessions of each status; "6,000+" means that there may be more.  In JSON, "atLeast" names such counts.
    """
    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is not None:
        with client:
            standing = client.submission()
    else:
        names = plugins_with(settings, "submit_session")
        standing = [DestinationStatus(name, "no engine runs") for name in names]
    if not standing:
        click.echo("no destination is enabled; see hl7core plugins list", err=True)
        return exit_codes.NOTHING
    counts, more = _counts(settings_path, [one.name for one in standing])
    if output == "json":
        click.echo(json.dumps([_json(one, counts[one.name], more) for one in standing]))
        return exit_codes.OK
    for one in standing:
        found = counts[one.name]
        click.echo(f"{one.name}: {_state(one)}{_error(one)}")
        click.echo(
            f"  in flight {one.in_flight}, "
            + ", ".join(f"{wanted} {found[wanted]:,}{'+' if wanted in more else ''}" for wanted in _TOUCHES)
        )
        if client is not None:
            click.echo(f"  since the engine's start: {one.submitted} submitted, {one.failed} failed")
    return exit_codes.OK


def _counts(
    settings_path: str | None, names: list[str]
) -> tuple[dict[str, Counter[DeliveryStatus]], set[DeliveryStatus]]:
    """Count the stored deliveries that are not submitted; also return the statuses of which there may be more."""
    counts: dict[str, Counter[DeliveryStatus]] = {name: Counter() for name in names}
    more: set[DeliveryStatus] = set()
    with open_sessions(settings_path) as access:
        for wanted, touched in _TOUCHES.items():
            for number, session in enumerate(all_sessions(access, SessionQuery(status=(wanted,)))):
                if number == _COUNTED:
                    more.update(touched)
                    break
                for delivery in session.deliveries:
                    if delivery.name in counts and delivery.status is not DeliveryStatus.SUBMITTED:
                        standing = DeliveryStatus.IGNORED if session.ignored else delivery.status
                        counts[delivery.name][standing] += 1
    return counts, more


def _state(one: DestinationStatus) -> str:
    until = one.until.astimezone().strftime("%H:%M:%S") if one.until is not None else ""
    texts = {
        "paused": f"paused, next attempt at {until}",
        "waiting": f"waiting until {until}, as it asked",
        "unsaved": "nothing is sent until sessions can be saved again",
        "inactive": "inactive: its settings name no receiver",
    }
    return texts.get(one.state, one.state)


def _error(one: DestinationStatus) -> str:
    return f" (last error: {one.error})" if one.error else ""


def _json(one: DestinationStatus, found: Counter[DeliveryStatus], more: set[DeliveryStatus]) -> dict[str, Any]:
    return {
        "destination": one.name,
        "state": one.state,
        "until": None if one.until is None else one.until.timestamp() * 1000,
        "queueSize": one.queue,
        "inFlight": one.in_flight,
        "pending": found[DeliveryStatus.PENDING],
        "failed": found[DeliveryStatus.FAILED],
        "ignored": found[DeliveryStatus.IGNORED],
        "atLeast": [status for status in _TOUCHES if status in more],
        "submittedSinceStart": one.submitted,
        "failedSinceStart": one.failed,
        "lastError": one.error,
    }


# The engine that submits.


class _Sender(Protocol):
    before: list[DestinationStatus]

    def start(self) -> int:
        """Start submitting everything; return how many sessions are known to be pending."""

    def statuses(self) -> list[DestinationStatus]:
        """Return the state of each destination."""

    def wait(self, seconds: float) -> None:
        """Let the submitting go on for ``seconds``."""


class _Remote:
    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self.before = client.submission()

    def start(self) -> int:
        return self._client.submit_now()

    def statuses(self) -> list[DestinationStatus]:
        return self._client.submission()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class _Own:
    def __init__(self, runner: asyncio.Runner, engine: Engine) -> None:
        self._runner = runner
        self._engine = engine
        self.before: list[DestinationStatus] = []

    def start(self) -> int:
        return self._runner.run(self._engine.runtime.submit_now())

    def statuses(self) -> list[DestinationStatus]:
        return self._engine.outbox.status()

    def wait(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))


@contextmanager
def _sender(settings_path: str | None) -> Iterator[_Sender]:
    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is not None:
        with client:
            yield _Remote(client)
        return
    plugins = (*stores_of(settings), *plugins_with(settings, "submit_session", "before_persist"))
    with own_engine(settings, plugins, hand_on=True) as (runner, engine):
        yield _Own(runner, engine)
