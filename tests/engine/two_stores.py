"""An engine with two stores."""

from dataclasses import dataclass

from engine.parts import Listener, Store
from hl7core.hookspecs import hookimpl
from hl7core.model.session import SessionQuery
from hl7core.testing.harness import EngineHarness


class Watched(Store):
    """It notes every session that it was ever given."""

    def __init__(self):
        super().__init__()
        self.given = []
        self.forgetful = self.clinging = False

    @hookimpl
    def persist_session(self, session, replace):
        self.given.append(session.id)
        if self.forgetful:
            return "nowhere"
        return super().persist_session(session, replace)

    @hookimpl
    def persist_sessions(self, sessions, replace):
        self.given += [session.id for session in sessions]
        return super().persist_sessions(sessions, replace)

    @hookimpl
    def delete_sessions(self, ids, to_trash, deleted_at):
        if self.clinging:
            return []
        removed = super().delete_sessions(ids, to_trash, deleted_at)
        for session_id in removed if not to_trash else ():
            del self.trash[session_id]
        return removed


@dataclass
class Two:
    harness: EngineHarness
    old: Watched
    new: Watched
    listener: Listener

    def go_to(self, name):
        self.harness.call(self.harness.runtime.change_settings({"core.store": name}))

    def write(self, text):
        self.harness.path.write_text(text)

    def ids(self, **query):
        return [session.id for session in self.harness.sessions(SessionQuery(**query))]
