"""The default store: a JSON file a session, no database server needed.

The law: once ``persist_session`` has returned, the session survives a power cut; until then it says nothing, and what
was stored before is still there, whole.  Saves, deletions and restorations are done one after the other, so two saves
of one id never cross.  No log line and no error holds content.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

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
from hl7core_plugins.json_store.layout import Layout, told
from hl7core_plugins.json_store.reading import Reading
from hl7core_plugins.json_store.versions import CURRENT, major_of

__all__ = ["JsonStore", "JsonStoreSettings"]

logger = logging.getLogger(__name__)


class JsonStoreSettings(PluginSettings):
    """The table ``[plugins.json_store]``."""

    enabled: bool = Field(default=True, description="Keep each session in a JSON file of its own.")


class JsonStore:
    """Keeps sessions in ``{output_folder}/sessions/{id}.json``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._layout: Layout | None = None
        self._runtime: Runtime | None = None
        self._unsure: set[str] = set()  # their last save may or may not be on the disk
        self._reading = Reading()

    # Its life.

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.json_store]``."""
        return JsonStoreSettings

    @hookimpl
    def configure(self, settings: PluginSettings) -> None:
        """Take settings: there is nothing to set but whether it is enabled."""

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Find the folder; its owner recovers what a crash left and brings old files up.

        Stored data never make it fail.
        """
        layout = Layout(runtime.core().output_folder)
        with self._lock:
            self._runtime = runtime
            self._layout = layout
            try:
                layout.prepare()
            except StoreError as error:  # each save says so too, and works once the folder can be used
                logger.error("%s", error)  # noqa: TRY400
            if not runtime.core().owner:  # another process's files in the making look like what a crash left
                return
            done = recovery.recover(layout)
            recovery.migrate(layout, runtime.now())
        runtime.publish(RecoveryDone("json_store", done.recovered, done.cleaned))

    @hookimpl
    def stop(self) -> None:
        """End; what was told as saved is on the disk."""
        with self._lock:
            self._layout = self._runtime = None

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
        """Save several with one flush to the disk; one entry each, in order: its path, or why it was not saved."""
        outcomes: list[str | Exception] = []
        with self._lock:
            try:
                layout = self._ready()
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
            self._save(layout, sessions, pieces, outcomes)
            for index in again:
                outcomes[index] = self.persist_sessions([sessions[index]], replace)[0]
        return outcomes

    def _save(
        self, layout: Layout, sessions: Sequence[Session], pieces: dict[int, Piece], outcomes: list[str | Exception]
    ) -> None:
        for (index, piece), error in zip(pieces.items(), save_group(list(pieces.values())), strict=True):
            if error is None:
                self._unsure.discard(piece.session_id)
                self._reading.stored(sessions[index])
                logger.info("saved session %s in %s", piece.session_id, piece.final)
            else:
                self._unsure.add(piece.session_id)
                outcomes[index] = told(error, f"session {piece.session_id} cannot be saved in {layout.sessions}")

    def _piece(self, layout: Layout, session: Session, replace: bool) -> Piece:
        """Return what is to be written, without data if nothing is.  Raises StoreError or SessionRefused."""
        if not isinstance(session, Session) or SESSION_ID.fullmatch(session.id) is None:
            raise SessionRefused("what should be saved is no session with a valid id")
        with _telling(f"session {session.id} cannot be saved in {layout.sessions}"):
            final = layout.path_of(session.id)
            stored = files.read(final) if files.is_file(final) else None
        if stored is not None:
            version = major_of(stored)
            if version is not None and version > CURRENT:
                if replace:
                    raise StoreError(f"session {session.id} was stored by a newer version and is never rewritten")
                return Piece(session.id, final, b"", replace)
            if not replace and session.id not in self._unsure and _is_whole(stored):
                return Piece(session.id, final, b"", replace)
        data = session_to_json(session)
        session_from_json(data)  # what is saved can be read
        return Piece(session.id, final, data, replace or stored is not None)

    @hookimpl
    def load_sessions(self, query: SessionQuery) -> list[Session]:
        """Return at most ``query.limit`` sessions that fit, in its order; what cannot be read is logged and skipped.

        Raises StoreError if the folder cannot be listed.
        """
        layout, runtime = self._started()
        with self._lock:
            try:
                layout.prepare()
            except StoreError as error:  # what cannot be made holds nothing; what cannot be read is told below
                logger.warning("%s", error)
        with _telling(f"the stored sessions in {layout.sessions} cannot be listed"):
            return self._reading.load(layout, query, runtime.now())

    # Deleting.

    @hookimpl
    def delete_sessions(self, ids: Sequence[str], to_trash: bool) -> list[str]:
        """Remove sessions and return the ids that were removed.  Raises StoreError if the trash cannot be used."""
        with self._lock:
            layout, runtime = self._started()
            removed = trash.remove(layout, ids, runtime.now(), to_trash=to_trash)
            self._unsure.difference_update(removed)
        return removed

    @hookimpl
    def restore_sessions(self, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash and return the ids that came back."""
        with self._lock:
            return trash.restore(self._ready(), ids)

    @hookimpl
    def empty_trash(self, before: datetime) -> CleanupReport:
        """Throw away for good what went to the trash before that time."""
        with self._lock:
            return trash.empty(self._started()[0], before)

    # For whoever holds the plugin itself.

    @property
    def folder(self) -> Path:
        """Where the sessions lie.  Raises StoreError before ``start``."""
        return self._started()[0].sessions

    def session_exists(self, session_id: str) -> bool:
        """Say whether a session is stored.  Raises StoreError if that cannot be told."""
        with _telling(f"session {session_id} cannot be looked up"):
            return SESSION_ID.fullmatch(session_id) is not None and files.is_file(
                self._started()[0].path_of(session_id)
            )

    def session_ids(self) -> list[str]:
        """Return the ids of all stored sessions, sorted.  Raises StoreError if they cannot be listed."""
        with _telling("the stored sessions cannot be listed"):
            return sorted(self._started()[0].names())

    def _started(self) -> tuple[Layout, Runtime]:
        layout, runtime = self._layout, self._runtime
        if layout is None or runtime is None:
            raise StoreError("json_store has not been started")
        return layout, runtime

    def _ready(self) -> Layout:
        layout, _ = self._started()
        layout.prepare()
        return layout


@contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise told(error, what) from error


def _refused(session: object, error: Exception) -> SessionRefused:
    """Say that a session has values of the wrong kind; the error may quote them, so only its kind is said."""
    name = session.id if isinstance(session, Session) else "?"
    return SessionRefused(f"session {name} is not valid ({type(error).__name__})")


def _is_whole(data: bytes) -> bool:
    try:
        session_from_json(data)
    except Hl7coreError:
        return False
    return True
