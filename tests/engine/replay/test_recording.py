"""What becomes of a replay's sessions: known ones are counted, new ones wait for room, revisions join what is stored."""

from threading import Event

import pytest

from engine.parts import poll, session
from hl7core.engine.replay.recording import Recording


@pytest.fixture
def recorder(lab):
    """Makes a recording into a running engine with these settings."""

    def make(**settings):
        harness = lab(**settings)
        return harness, Recording(harness.engine.parts, Event())

    return make


def settled(recording):
    poll(lambda: recording.count_saved() or not recording.waiting)
    poll(lambda: not recording.waiting or recording.count_saved())


def test_each_session_is_counted_once_and_followed_until_it_is_saved(recorder):
    harness, recording = recorder()
    recording.add([session(1), session(2), session(1)])
    settled(recording)
    assert (recording.sessions, recording.saved, recording.known, recording.waiting) == (3, 2, 1, 0)
    assert set(harness.store.held) == {session(1).id, session(2).id}


def test_a_late_acknowledgement_joins_the_stored_session(recorder):
    harness, recording = recorder()
    first = session(1)
    late = first._replace(revision=1, elements=first.elements * 2)
    recording.add([first])
    settled(recording)
    recording.add([late])
    settled(recording)
    assert (recording.sessions, recording.saved, recording.known) == (1, 1, 0)
    poll(lambda: len(harness.store.held[first.id].elements) == 2)
    recording.add([first, late])  # as another replay decodes it
    assert (recording.saved, recording.known, recording.waiting) == (1, 1, 0)


def test_large_sessions_take_the_room_that_they_need(recorder):
    harness, recording = recorder(**{"core.memory_bytes": 4 << 20})
    harness.store.slow = 0.01
    recording.add([session(number, text=b"x" * 300_000) for number in range(40)])
    settled(recording)
    assert (recording.saved, recording.lost) == (40, 0)
    assert len(harness.store.held) == 40


def test_live_sessions_crowd_out_no_session_of_a_replay_unnoticed(recorder):
    harness, recording = recorder(**{"core.unsaved_sessions": 10})
    harness.store.down = True
    recording.add([session(1)])
    harness.engine._ended([session(number) for number in range(2, 20)])
    poll(lambda: recording.count_saved() or recording.lost)
    assert (recording.saved, recording.lost) == (0, 1)
    harness.store.down = False


def test_what_has_no_room_when_it_is_stopped_is_counted_and_costs_no_other_session_its_place(recorder):
    harness, recording = recorder(**{"core.unsaved_sessions": 10})
    harness.store.down = True
    recording._stopped.set()
    recording.add([session(number) for number in range(1, 30)])
    assert recording.dropped == 29 - recording.sessions
    assert harness.state().unsaved <= 2
    assert harness.engine.ledger.lost == 0
    harness.store.down = False
