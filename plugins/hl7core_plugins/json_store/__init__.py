"""The default store: one JSON file per session, no database needed.

The law: once ``persist_session`` has returned, the session survives a power cut; before that, what was stored earlier
is still there, complete.  Sessions are saved, deleted and restored one after the other, so two saves of one id never
interfere.  No log line and no error contains a session's content.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import Field

from hl7core import (
    SESSION_ID,
    CleanupReport,
    Hl7coreError,
    PluginSettings,
    RecoveryDone,
    Runtime,
    Session,
    SessionQuery,
    SessionRefused,
    StoreError,
    hookimpl,
    session_from_json,
    session_to_json,
)
from hl7core_plugins.json_store import files, recovery, trash
from hl7core_plugins.json_store.group import Piece, save_group
from hl7core_plugins.json_store.index import Index
from hl7core_plugins.json_store.layout import Layout, told
from hl7core_plugins.json_store.reading import Reading
from hl7core_plugins.json_store.versions import CURRENT, major_of

__all__ = ["JsonStore", "JsonStoreSettings"]

logger = logging.getLogger(__name__)

_WORK_PERIOD: Final = timedelta(seconds=1)
"""How often the index is updated."""


class JsonStoreSettings(PluginSettings):
    """The table ``[plugins.json_store]``."""

    enabled: bool = Field(default=True, description="Store each session as a JSON file.")


@dataclass(frozen=True, slots=True)
class _Open:
    """What exists between ``start`` and ``stop``."""

    layout: Layout
    runtime: Runtime
    index: Index
    reading: Reading
    end_work: Callable[[], None]


class JsonStore:
    """Keeps sessions in ``{output_folder}/sessions/{id}.json``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: _Open | None = None
        self._unsure: set[str] = set()  # their last save may or may not be on the disk

    # Its life.

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.json_store]``."""
        return JsonStoreSettings

    @hookimpl
    def configure(self, settings: PluginSettings) -> None:
        """Apply ``settings``: there is nothing to set except whether the plugin is enabled."""

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Find the folder; its owner recovers what a crash left and brings old files up.

        Stored data never make it fail.
        """
        layout = Layout(runtime.core().output_folder, runtime.give_way)
        owner = runtime.core().owner
        index = Index(layout, owner=owner, give_way=runtime.give_way)
        reading = Reading(layout, index, runtime.give_way)

        def work() -> None:
            reading.listings.tidy()
            index.work()

        with self._lock:
            self._open = _Open(layout, runtime, index, reading, runtime.every(_WORK_PERIOD, work))
            try:
                layout.prepare()
            except StoreError as error:  # each save says so too, and works once the folder can be used
                logger.error("%s", error)  # noqa: TRY400
            if not owner:  # files that another process is writing look like what a crash left
                return
            done = recovery.put_right(layout, runtime.now(), lambda: _known(index))
        runtime.publish(RecoveryDone("json_store", done.recovered, done.cleaned))

    @hookimpl
    def stop(self) -> None:
        """Stop; every session reported as saved is on the disk."""
        with self._lock:
            ended, self._open = self._open, None
        if ended is not None:
            ended.end_work()
            ended.index.flush()

    # Saving.

    @hookimpl
    def persist_session(self, session: Session, replace: bool) -> str | None:
        """Save one session durably and return its path.  Raises StoreError, or SessionRefused if it is not valid."""
        outcome = self.persist_sessions([session], replace)[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @hookimpl
    def persist_sessions(self, sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
        """Save several sessions with one flush; return for each, in order, its path or why it was not saved."""
        outcomes: list[str | Exception] = []
        with self._lock:
            try:
                layout, reading = self._ready()
            except StoreError as error:
                return [error for _ in sessions]
            pieces: dict[int, Piece] = {}
            taken: set[str] = set()
            again: list[int] = []  # a second session of the same id comes after the first
            for index, session in enumerate(sessions):
                try:
                    piece = self._piece(layout, session, replace)
                except Exception as error:  # noqa: BLE001 - told as this session's outcome, the others are saved
                    outcomes.append(error if isinstance(error, StoreError) else _refused(session, error))
                    continue
                outcomes.append(str(piece.final))
                if not piece.data:
                    continue  # stored already, and to be left as it is
                if piece.session_id in taken:
                    again.append(index)
                else:
                    taken.add(piece.session_id)
                    pieces[index] = piece
            for index, saved in zip(pieces, save_group(list(pieces.values()), layout.give_way), strict=True):
                piece = pieces[index]
                if isinstance(saved, OSError):
                    self._unsure.add(piece.session_id)
                    reading.listings.forget()
                    outcomes[index] = told(saved, f"session {piece.session_id} cannot be saved in {layout.sessions}")
                    continue
                self._unsure.discard(piece.session_id)
                logger.info("saved session %s in %s", piece.session_id, piece.final)
                if saved:
                    reading.stored(sessions[index], piece.final, saved)
            for index in again:
                outcomes[index] = self.persist_sessions([sessions[index]], replace)[0]
        return outcomes

    def _piece(self, layout: Layout, session: Session, replace: bool) -> Piece:
        """Return what is to be written, without data if nothing is.  Raises StoreError or SessionRefused."""
        if not isinstance(session, Session) or SESSION_ID.fullmatch(session.id) is None:
            raise SessionRefused("the object to save is not a session with a valid id")
        with _telling(f"session {session.id} cannot be saved in {layout.sessions}"):
            final = layout.path_of(session.id)
            stored = files.read(final) if files.is_file(final) else None
        if stored is not None:
            version = major_of(stored)
            if version is not None and version > CURRENT:
                if replace:
                    raise StoreError(f"session {session.id} was stored by a newer version and is not rewritten")
                return Piece(session.id, final, b"", replace)
            if not replace and session.id not in self._unsure and _holds(stored, session.id):
                return Piece(session.id, final, b"", replace)
        data = session_to_json(session)
        session_from_json(data)  # what is saved can be read
        return Piece(session.id, final, data, replace or stored is not None)

    @hookimpl
    def load_sessions(self, query: SessionQuery) -> list[Session]:
        """Return at most ``query.limit`` matching sessions, in its order; damaged ones are logged and skipped.

        Raises StoreError if the folder cannot be listed.
        """
        opened = self._started()
        layout = opened.layout
        with self._lock:
            layout.check()
            try:
                layout.prepare()
            except StoreError as error:  # what cannot be made holds nothing; what cannot be read is told below
                logger.warning("%s", error)
        with _telling(f"the stored sessions in {layout.sessions} cannot be listed"):
            return opened.reading.load(query, opened.runtime.now())

    # Deleting.

    @hookimpl
    def delete_sessions(self, ids: Sequence[str], to_trash: bool, deleted_at: datetime | None = None) -> list[str]:
        """Remove sessions and return the ids that were removed.  Raises StoreError if the trash cannot be used.

        ``deleted_at`` (None: now) names the folder of the trash that they go to.
        """
        with self._lock:
            opened = self._started()
            opened.layout.check()
            removed = trash.remove(opened.layout, ids, deleted_at or opened.runtime.now(), to_trash=to_trash)
            self._unsure.difference_update(removed)
        return removed

    @hookimpl
    def restore_sessions(self, ids: Sequence[str]) -> list[str]:
        """Restore sessions from the trash and return the ids that were restored."""
        with self._lock:
            layout, reading = self._ready()
            reading.listings.forget()
            return trash.restore(layout, ids)

    @hookimpl
    def empty_trash(self, before: datetime, limit: int = sys.maxsize) -> CleanupReport:
        """Delete permanently what went to the trash before that time, at most ``limit`` sessions."""
        with self._lock:
            return trash.empty(self._started().layout, before, limit)

    @hookimpl
    def list_trash(self) -> list[tuple[str, datetime]]:
        """Return the ids of the sessions in the trash and when each went there, the oldest first."""
        with self._lock:
            return trash.entries(self._started().layout)

    @hookimpl
    def store_size(self) -> int:
        """Return the size in bytes of all stored sessions, trash included.  Raises StoreError."""
        with self._lock:
            layout = self._started().layout
            layout.check()
        with _telling(f"the stored sessions in {layout.sessions} cannot be listed"):
            return layout.size() + trash.size(layout)

    # For whoever holds the plugin itself.

    @property
    def folder(self) -> Path:
        """The folder of the sessions.  Raises StoreError before ``start``."""
        return self._started().layout.sessions

    def session_exists(self, session_id: str) -> bool:
        """Return whether a session is stored.  Raises StoreError if the folder cannot be read."""
        with _telling(f"session {session_id} cannot be looked up"):
            return SESSION_ID.fullmatch(session_id) is not None and files.is_file(
                self._started().layout.path_of(session_id)
            )

    def session_ids(self) -> list[str]:
        """Return the ids of all stored sessions, sorted.  Raises StoreError if they cannot be listed."""
        with _telling("the stored sessions cannot be listed"):
            return sorted(self._started().layout.names())

    def _started(self) -> _Open:
        if self._open is None:
            raise StoreError("json_store has not been started")
        return self._open

    def _ready(self) -> tuple[Layout, Reading]:
        opened = self._started()
        opened.layout.prepare()
        return opened.layout, opened.reading


def _known(index: Index) -> set[str]:
    try:
        return index.known()
    except OSError as error:  # then all are looked at
        logger.warning("the stored sessions cannot be listed: %s", error.strerror)
        return set()


@contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise told(error, what) from error


def _refused(session: object, error: Exception) -> SessionRefused:
    """Return the error for a session with values of the wrong type; it names only the cause's type and no value."""
    name = session.id if isinstance(session, Session) else "?"
    return SessionRefused(f"session {name} is not valid ({type(error).__name__})")


def _holds(data: bytes, session_id: str) -> bool:
    """Return whether the session can be read from ``data``."""
    try:
        return session_from_json(data).id == session_id
    except Hl7coreError:
        return False
