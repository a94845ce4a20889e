"""The probe: one session written, read back and deleted before a store becomes the store of record."""

import pytest

from engine.parts import Store, exchange, poll
from hl7core.engine.store_probe import PROBE_ID
from hl7core.errors import SettingsError
from hl7core.model.session import SessionQuery
from hl7core.testing.harness import EngineHarness


def test_the_new_store_is_probed_with_one_write_that_leaves_nothing(two):
    two.go_to("new_store")
    assert two.new.given == [PROBE_ID]
    assert not two.new.held
    assert not two.new.trash
    assert two.harness.engine.record == "new_store"


@pytest.mark.parametrize("trouble", ["down", "forgetful", "clinging", "unreadable"])
def test_a_store_that_fails_its_probe_leaves_the_old_one_in_force_and_says_why(two, trouble):
    setattr(two.new, trouble, True)
    with pytest.raises(SettingsError, match=r"core\.store: new_store cannot be written to \(.+\); old_store stays"):
        two.go_to("new_store")
    assert two.harness.engine.record == "old_store"
    assert '"old_store"' in two.harness.path.read_text()
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    assert set(two.new.given) <= {PROBE_ID}
    assert PROBE_ID not in two.ids()


def test_what_a_crash_leaves_of_a_probe_is_never_seen_and_goes_at_the_next_start(tmp_path):
    from hl7core.engine.store_probe import _PROBE

    store = Store()
    with EngineHarness(tmp_path, {"one_store": store}, settings={"core.store": "one_store"}) as harness:
        poll(lambda: harness.engine.keeper.submit(lambda: True).result(5))  # what a start sweeps is swept
        store.held[PROBE_ID] = _PROBE
        assert harness.sessions() == []
        assert harness.sessions(SessionQuery(ids=(PROBE_ID,))) == []
        assert harness.call(harness.runtime.ignore([PROBE_ID])) == []
    with EngineHarness(tmp_path, {"one_store": store}, settings={"core.store": "one_store"}):
        poll(lambda: not store.held)
