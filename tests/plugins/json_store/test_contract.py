"""json_store keeps the contract of stores."""

from __future__ import annotations

from hl7core import session_from_json
from hl7core.testing import FakeRuntime, StoreContract
from plugins.json_store.parts import NOW, OLD, files_in, started


class TestContract(StoreContract):
    def make_store(self, folder):
        return started(folder)

    def damage(self, store, session_id):
        path = store.folder / f"{session_id}.json"
        path.write_bytes(path.read_bytes()[:-40])
        return True

    def make_guest(self, folder):
        return started(folder, FakeRuntime(folder, now=NOW, owner=False))

    def make_newer(self, store, session_id):
        path = store.folder / f"{session_id}.json"
        path.write_bytes(path.read_bytes().replace(b'"version":"2.', b'"more":1,"version":"3.'))

    def make_older(self, folder):
        data = (OLD / "predecessor-session-1.json").read_bytes()
        (folder / "sessions").mkdir(mode=0o700)
        (folder / "sessions" / "session-1.json").write_bytes(data)
        return [session_from_json(data, now=NOW)]

    def check_rest(self, store):
        found = {f"{session_id}.json" for session_id in store.session_ids()}
        assert {name for name in files_in(store.folder) if not name.startswith(".")} == found
