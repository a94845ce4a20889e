"""Every hook that the core calls.

The name is the contract: ``on_*`` is news, a bare verb is work, ``register_*`` contributes and is asked once when the
plugin is enabled.  A hook's docstring is its documentation: ``docs/plugin_hooks.md`` is held against it by a test.
Implementations may take fewer arguments than the hook offers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime
from types import ModuleType

import pluggy

from hl7core.contract import PacketSource, PluginSettings, Runtime, SourceRequest
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import Receipt
from hl7core.model.events import Event
from hl7core.model.finding import Finding
from hl7core.model.packet import Interface, Packet
from hl7core.model.session import Session, SessionQuery
from hl7core.wire.framing.framer import Dialect

__all__ = ["HOOK_API", "PROJECT", "hookimpl", "hookspec"]

PROJECT = "hl7core"
HOOK_API = "1.0"
"""The version of this set of hooks: a new hook or argument raises the second number, a removed one the first."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# The brief's six.


@hookspec
def on_packet(packet: Packet) -> None:
    """Hear of a packet as it was captured, ahead of reassembly.

    Runs on the decoder thread: it delays the capture, so be quick.  While nobody implements it, it costs nothing.
    """


@hookspec
def on_session_complete(session: Session) -> None:
    """Hear of a session that has ended; ``session.ending`` says how.

    Called once a session, before it is stored, on the plugin's own news thread.  When an acknowledgement joins it
    later, it is called again with ``session.revision`` raised.
    """


@hookspec
def persist_session(session: Session, replace: bool) -> str | None:
    """Save a session and return where it now lives; once this returns, it survives a power cut.

    ``replace`` false: an id already stored is left as it is (so a capture read twice never resets a status).
    Implemented by stores; only the store of record is asked.  Raise StoreError: the session waits and is tried again.
    """


@hookspec
def load_sessions(query: SessionQuery) -> list[Session] | None:
    """Return at most ``query.limit`` sessions that fit, in the query's order.

    What cannot be read is logged and skipped.  A store that is long at it calls ``runtime.give_way()`` meanwhile.
    """


@hookspec
def submit_session(session: Session) -> Receipt | Awaitable[Receipt]:
    """Hand a session on: ONE attempt.  ``session.id`` is the idempotency key; the outbox repeats.

    ``async def`` runs on the event loop, ``def`` on a worker thread; either has ``timeout`` seconds of the settings.
    Return once the destination has the session for good.  Else raise a kind of SubmitError, which says what becomes of
    the session; whatever else is raised counts as DestinationBroken, its text not quoted.
    """


@hookspec
def submit_sessions(sessions: Sequence[Session]) -> list[Receipt | Exception] | Awaitable[list[Receipt | Exception]]:
    """Hand several on in one attempt (optional): one entry a session, in order, its receipt or why it failed.

    Called instead of ``submit_session`` when ``batch_size`` of the settings is over 1 and more than one is due.  If it
    raises SessionRejected, or what counts as DestinationBroken, each is then handed on by itself.
    """


@hookspec
def reach_destination(seconds: float) -> str | Awaitable[str]:
    """Find out whether the destination can be reached, and hand no session on (optional); say what answered.

    ``hl7core doctor`` calls it, in a process of its own, between ``start`` and ``stop``; it has ``seconds``.  Raise
    DestinationUnreachable if nothing answers; another kind of SubmitError if something does, but not as it should.
    """


@hookspec
def cleanup(now: datetime, dry_run: bool, confirmed: bool) -> CleanupReport:
    """Throw away what should go and say what went; with ``dry_run`` only say it.  Runs on a worker thread.

    ``confirmed``: a person has said yes to it, so what looks wrong about the clock is no reason to wait.
    """


# What else a store answers: all on the store thread, in order, and only the store that holds the session is asked.


@hookspec
def persist_sessions(sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
    """Save several at once (optional): one entry a session, in order, where it lives or why it could not be saved."""


@hookspec
def delete_sessions(ids: Sequence[str], to_trash: bool, deleted_at: datetime) -> list[str]:
    """Remove sessions and return the ids that were removed; a missing one is no error.

    ``deleted_at`` is the time under which they lie in the trash: one cleanup deletes in parts, all with one time.
    """


@hookspec
def restore_sessions(ids: Sequence[str]) -> list[str]:
    """Bring sessions back from the trash and return the ids that came back."""


@hookspec
def empty_trash(before: datetime, limit: int) -> CleanupReport:
    """Throw away for good what went to the trash before that time, at most ``limit`` sessions in one call.

    Called again while it has thrown away so many: ``in_trash``, what is left there, is asked of the last call alone.  A
    store that is quick at it need not take ``limit``.
    """


@hookspec
def list_trash() -> list[tuple[str, datetime]]:
    """Return the ids of the sessions in the trash and when each went there, the oldest first (optional)."""


@hookspec
def store_size() -> int:
    """Return the bytes on disk that the stored sessions take, the trash included (optional).

    What deletion for good gives back must show in it at once, even where the file itself stays large.
    """


@hookspec
def before_persist(session: Session) -> Session | None:
    """Change what is saved (redact, encrypt): return another session, or None for no change.

    Any plugin may implement it; they run on the store thread in the order of the settings.  If one raises, nothing is
    stored and the session is tried again.  The id must stay.
    """


# Lifecycle.


@hookspec
def register_settings() -> type[PluginSettings]:
    """Return the model of ``[plugins.NAME]``."""


@hookspec
def configure(settings: PluginSettings) -> None:
    """Take settings, before ``start`` and at each change.  Raise SettingsError: the old ones stay in force."""


@hookspec
def start(runtime: Runtime) -> Awaitable[None] | None:
    """Begin; ``runtime`` is the only handle on the engine."""


@hookspec
def stop() -> Awaitable[None] | None:
    """End within 10 seconds; no hook of the plugin is called any more."""


# Seams.


@hookspec
def open_source(request: SourceRequest) -> PacketSource | None:
    """Return a source for ``request``, or None if it is for another plugin.  Raises SourceError."""


@hookspec
def list_interfaces() -> list[Interface]:
    """Return the interfaces that this source could capture on, without opening any."""


@hookspec
def register_framers() -> Iterable[Dialect]:
    """Contribute framings of your own (a vendor's dialect); detection tries them."""


@hookspec
def diagnose(session: Session) -> Iterable[Finding]:
    """Say what is wrong with a session."""


@hookspec
def on_event(event: Event) -> None:
    """Hear everything that a dashboard shows, on the plugin's own news thread."""


@hookspec
def register_hookspecs() -> ModuleType:
    """Return a module of hooks of your own: the caller of a hook specifies it."""
