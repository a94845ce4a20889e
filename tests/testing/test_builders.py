import asyncio
import inspect

import pytest

import hl7core.testing
from hl7core import Runtime, SessionQuery
from hl7core.contract import CoreView
from hl7core.model.session import SESSION_ID
from hl7core.testing import FakeRuntime
from hl7core.testing.builders import ANALYZER, LIS, START, make_message, make_session, session_id_for


@pytest.mark.parametrize("protocol", ["mllp", "lis01", "plain"])
def test_a_made_session_has_the_bytes_of_a_real_one(protocol):
    session = make_session(7, protocol=protocol)
    first = session.raw_of(next(e for e in session.elements if e.type == "message"))
    start, end = {"mllp": (b"\x0b", b"\x1c\r"), "lis01": (b"\x021", b"\r\n"), "plain": (b"\x02", b"\r\n")}[protocol]
    assert first.startswith(start)
    assert first.endswith(end)
    assert SESSION_ID.fullmatch(session.id)
    assert int(session.id.replace("-", "")[:12], 16) == session.start_ns // 1_000_000
    assert session.device == ANALYZER
    assert session.lis == LIS
    offsets = {}
    for element in session.elements:  # every byte of both streams, without a gap
        assert element.offset == offsets.get(element.direction, 0)
        offsets[element.direction] = element.offset + len(session.raw_of(element))


def test_numbers_make_different_sessions_in_order():
    sessions = [make_session(number) for number in range(20)]
    assert sessions == [make_session(number) for number in range(20)]
    assert len({s.id for s in sessions}) == len({s.messages[0].sha256 for s in sessions}) == 20
    assert sorted(sessions, key=lambda s: s.id) == sessions
    assert sessions[0].started_at == START


def test_fields_can_be_set():
    assert make_session(1, sensor="ward 7").sensor == "ward 7"
    assert make_session(1, start_ns=5_000_000).id.startswith("00000000-0005-7")
    assert b"S-77" in make_message(1, specimen="S-77").text
    assert session_id_for(0, "a") != session_id_for(0, "b")


def test_the_fake_runtime_offers_all_that_a_runtime_offers(tmp_path):
    wanted = {name: member for name, member in inspect.getmembers(Runtime, inspect.isfunction) if name[0] != "_"}
    for name, member in wanted.items():
        fake = getattr(FakeRuntime, name)
        assert list(inspect.signature(fake).parameters) == list(inspect.signature(member).parameters)
        assert inspect.iscoroutinefunction(fake) == inspect.iscoroutinefunction(member)
    runtime = FakeRuntime(tmp_path, retention_days=7)
    assert runtime.core() == CoreView(str(tmp_path), 7, True, "json_store", "", "", 0)
    session = make_session()
    runtime.held[session.id] = session
    assert runtime.call(runtime.sessions(SessionQuery())).result() == [session]
    assert asyncio.run(runtime.retry([session.id, "other"])) == [session.id]
    assert asyncio.run(runtime.delete([session.id])) == [session.id]
    assert runtime.state().sessions == 0
    cancel = runtime.every(None, lambda: None)
    assert len(runtime.jobs) == 1
    cancel()
    assert runtime.jobs == []


def test_every_name_of_the_testing_room_can_be_had():
    for name in hl7core.testing.__all__:
        assert getattr(hl7core.testing, name)
    with pytest.raises(AttributeError):
        assert hl7core.testing.nothing
