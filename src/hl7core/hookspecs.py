"""The hooks: every function that the core calls in a plugin.

The name says what kind of hook it is: ``on_*`` delivers news, a bare verb does work, and ``register_*`` contributes
something when the plugin is loaded.  A hook's docstring is its documentation: ``docs/plugin_hooks.md`` is generated
from it.

An implementation is a method marked ``@hookimpl``.  It may take fewer arguments than the hook offers.
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


# The life of a session: captured, ended, saved, read back, handed on, cleaned up.


@hookspec
def on_packet(packet: Packet) -> None:
    """Called for every captured packet, before TCP reassembly.

    Runs on a thread of the plugin's own, and decoding waits for it, so be quick: packets may be lost meanwhile.  If no
    plugin implements this hook, it has no cost.  The packets of a replay (``hl7core replay``) come here too, among
    those captured live, so their times go back and forth.
    """


@hookspec
def on_session_complete(session: Session) -> None:
    """Called when a session has ended, before it is stored.  ``session.ending`` says how it ended.

    Called once per session.  If an acknowledgement joins the session later, it is called again with a higher
    ``session.revision``.

    Runs on the plugin's own news thread, so it delays nothing else.
    """


@hookspec
def persist_session(session: Session, replace: bool) -> str | None:
    """Save one session.  Implemented by stores.

    Only one store is asked: the store of record for a new session, the store that holds it for a changed one.
    ``replace`` false means: if this id is already stored, leave the stored session as it is.  A capture that is read
    twice therefore never resets a status.

    Return where the session now lives, for people and logs (a path, a table), or None.  Once this returns, the session
    must survive a power cut.  Raise ``StoreError`` if it cannot be saved: the session stays in memory and is retried.
    Raise ``SessionRefused`` if it is not a valid session, for example if its id does not match ``hl7core.SESSION_ID``.

    Runs on the plugin's saving thread.
    """


@hookspec
def load_sessions(query: SessionQuery) -> list[Session] | None:
    """Return the stored sessions that match ``query``, at most ``query.limit``.  Implemented by stores.

    A session matches if ``hl7core.matches(session, query)`` is true.  Sort by ``hl7core.sort_key``, in reverse if
    ``query.newest_first``.  Callers page with ``query.after``.  Log and skip what cannot be read; raise ``StoreError``
    if the store itself cannot be read.

    Runs on the plugin's saving thread.  If it may take long, call ``runtime.give_way()`` between steps.
    """


@hookspec
def submit_session(session: Session) -> Receipt | Awaitable[Receipt]:
    """Hand one session to the destination: ONE attempt.  Implemented by destinations.

    Every active destination is asked, independently of the others.  ``session.id`` is the idempotency key: the same
    session may come again, for example after a lost answer.  Do not retry; the outbox does that.

    Return a ``Receipt`` once the destination has safely stored the session.  Otherwise raise a kind of ``SubmitError``:
    the kind decides what happens to the session.  Any other exception counts as ``DestinationBroken``, and its text is
    not shown.

    ``async def`` runs on the event loop, ``def`` on a worker thread.  An attempt has ``timeout`` seconds (a setting).
    """


@hookspec
def submit_sessions(sessions: Sequence[Session]) -> list[Receipt | Exception] | Awaitable[list[Receipt | Exception]]:
    """Hand several sessions to the destination in one attempt (optional).

    Called instead of ``submit_session`` if the setting ``batch_size`` is over 1 and more than one session is due.

    Return one entry per session, in order: its ``Receipt``, or the exception that says why it failed.  If the whole
    attempt raises ``SessionRejected``, ``DestinationBroken`` or an exception that counts as such, each session is then
    submitted on its own.

    Threads and timeout as for ``submit_session``.
    """


@hookspec
def reach_destination(seconds: float) -> str | Awaitable[str]:
    """Check that the destination can be reached, without handing it a session (optional).

    Return one line about who answered.  Raise ``DestinationUnreachable`` if nothing answers, another kind of
    ``SubmitError`` if something answers but not as it should.

    Called by ``hl7core doctor``, in its own process, between ``start`` and ``stop``.  It has ``seconds`` to answer.
    Threads as for ``submit_session``.
    """


@hookspec
def cleanup(now: datetime, dry_run: bool, confirmed: bool) -> CleanupReport:
    """Delete what should be deleted, and return a report.

    ``now`` is the time of the cleanup (aware, UTC).  With ``dry_run``, only report what would be deleted.
    ``confirmed`` is true if a person has confirmed the cleanup: then do not hold back because the clock looks wrong.

    All plugins that implement it are called, one after the other, on a worker thread.  If one raises, its report is
    missing and a notice says so.
    """


# The rest of a store.  All of it runs on one thread of the plugin's own, one call at a time; the engine waits for it.


@hookspec
def persist_sessions(sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
    """Save several sessions at once (optional; otherwise ``persist_session`` is called for each).

    ``replace`` as in ``persist_session``.  Return one entry per session, in order: where it now lives (a text), or the
    exception that says why it could not be saved; a session that is refused does not affect the others.  Sessions with
    a location must survive a power cut.  If an id comes twice, the later session counts.  Raise ``StoreError`` if the
    group fails as a whole: then none of it counts as saved, and its sessions are retried one at a time.

    Runs on the plugin's saving thread.
    """


@hookspec
def delete_sessions(ids: Sequence[str], to_trash: bool, deleted_at: datetime) -> list[str]:
    """Delete sessions and return the ids that were deleted.  A missing session is not an error.

    With ``to_trash``, move them to the trash, filed under the time ``deleted_at`` (aware, UTC); otherwise delete them
    permanently.  A cleanup deletes in several calls, all with the same ``deleted_at``.  Raise ``StoreError`` if a
    session cannot be deleted.

    Runs on the plugin's saving thread.
    """


@hookspec
def restore_sessions(ids: Sequence[str]) -> list[str]:
    """Bring sessions back from the trash and return the ids that came back.

    A session that has been stored again in the meantime stays as it is.  Raise ``StoreError`` if the trash cannot be
    read.

    Runs on the plugin's saving thread.
    """


@hookspec
def empty_trash(before: datetime, limit: int) -> CleanupReport:
    """Permanently delete what went to the trash before that time, at most ``limit`` sessions per call.

    Called again as long as a call deletes ``limit`` sessions.  The report's ``in_trash``, the number of sessions left
    in the trash, is only used of the last call.  A store that is fast at this may leave out the argument ``limit``.

    Runs on the plugin's saving thread.
    """


@hookspec
def list_trash() -> list[tuple[str, datetime]]:
    """Return the sessions in the trash as (id, when it went there), oldest first (optional).

    The times are aware, UTC.  Runs on the plugin's saving thread.
    """


@hookspec
def store_size() -> int:
    """Return how many bytes on disk the stored sessions take, trash included (optional).

    Space freed by a permanent deletion must show at once, even if the file itself does not shrink.

    Runs on the plugin's saving thread.  If it may take long, call ``runtime.give_way()`` between steps.
    """


@hookspec
def before_persist(session: Session) -> Session | None:
    """Change what is saved, for example redact or encrypt it.  Any plugin may implement this.

    Return the session to save, or None for no change.  Its id must stay the same.  If an implementation raises, the
    session is not stored; it stays in memory and is retried.  The plugin is required: while it is enabled and does not
    run, nothing is saved, unless its table says ``required = false``.

    Called before every save, on the plugin's saving thread; plugins are asked in the order of their tables in the
    settings.
    """


# Lifecycle.


@hookspec
def register_settings() -> type[PluginSettings]:
    """Return the model of the plugin's table ``[plugins.NAME]``.

    Called when the plugin is loaded.  Without this hook the table has only ``enabled``.
    """


@hookspec
def configure(settings: PluginSettings) -> None:
    """Receive the settings.  Called before ``start``, and again whenever the plugin's table changes.

    ``settings`` is an instance of the model from ``register_settings``.  Raise ``SettingsError`` to refuse it: the
    previous settings stay in force.

    Runs on a worker thread and has 30 seconds.
    """


@hookspec
def start(runtime: Runtime) -> Awaitable[None] | None:
    """Start working.  Called once, after ``configure`` and before any hook outside this section.

    ``runtime`` is the plugin's only access to the engine.  If this raises, the plugin is FAILED and its other hooks are
    not called.

    ``async def`` runs on the event loop, ``def`` on a worker thread.  It has 30 seconds.
    """


@hookspec
def stop() -> Awaitable[None] | None:
    """Stop working and release everything.  Called once; no other hook is called after it.

    Calls that were running have ended, or have had 10 seconds to end.

    ``async def`` runs on the event loop, ``def`` on a worker thread.  It has 10 seconds.
    """


# Extension points.


@hookspec
def open_source(request: SourceRequest) -> PacketSource | None:
    """Return a source for the requested packets, or None if the request is for another plugin.

    Called whenever a capture starts.  Raise ``SourceError`` (``PermissionMissing``, ``InterfaceMissing``) if the
    packets cannot be had.

    Runs on a worker thread.  The core then calls the source's ``run`` on a thread of its own.
    """


@hookspec
def list_interfaces() -> list[Interface]:
    """Return the interfaces that this plugin could capture on, without opening them.

    Runs on a worker thread.
    """


@hookspec
def register_framers() -> Iterable[Dialect]:
    """Contribute framings, such as a vendor's dialect.  Detection asks them before the built-in ones.

    Called when plugins come, go or change their settings.  The dialects apply to connections that begin from then on.
    Their framers run on a thread of the plugin's own, and decoding waits for them, so they must be quick.
    ``hl7core read`` calls this hook without ``start``.
    """


@hookspec
def diagnose(session: Session) -> Iterable[Finding]:
    """Return what is wrong with a session that has ended.  The findings of all plugins are stored with it.

    Called before the session is saved, and again if an acknowledgement joined it later.

    Runs on a thread of the plugin's own.  After 5 seconds the session is saved without these findings.
    """


@hookspec
def on_event(event: Event) -> None:
    """Called for every event of the engine: everything that a dashboard would show, without message content.

    If the plugin's queue overflows, it gets one ``Resync`` with the number of calls it missed.

    Runs on the plugin's own news thread.
    """


@hookspec
def register_hookspecs() -> ModuleType:
    """Return a module with hooks of your own, marked ``@hookspec``, for other plugins to implement.

    Called when the plugin is loaded.  The plugin that specifies a hook also calls it.
    """
