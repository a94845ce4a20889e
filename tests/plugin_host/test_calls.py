import logging

from fakes import session
from plugin_host.parts import NOW, PACKET, Clock, service


def test_ten_errors_within_a_minute_take_a_listener_out_of_service():
    clock = Clock()

    def fail(self):
        raise ValueError("canary")

    with service({"bad": {"on_packet": fail}}, clock=clock) as dispatch:
        (listen,) = dispatch.packet_listeners()
        for _ in range(9):
            listen([PACKET])
        clock.now += 61
        for _ in range(9):
            listen([PACKET])
        assert dispatch.registry.running() == ("bad",)
        listen([PACKET])
        assert dispatch.registry.running() == ()
        assert dispatch.packet_listeners() == ()
        info = dispatch.registry.info("bad")
        assert str(info.state) == "failed"
        assert info.error.startswith("taken out of service after 10 errors within a minute; on_packet: ValueError at")
        assert dispatch.changes[-1].state == "failed"


def test_an_error_is_logged_once_a_minute(caplog):
    clock = Clock()

    def fail(self):
        raise ValueError("canary")

    with service({"bad": {"cleanup": fail}}, clock=clock) as dispatch:
        caplog.clear()
        for _ in range(5):
            dispatch.cleanup(NOW, False)
        clock.now += 60
        dispatch.cleanup(NOW, False)
        lines = [record.message for record in caplog.records]
        assert len(lines) == 2
        assert lines[0].startswith("plugin bad: cleanup: ValueError at test_calls.py:")
        assert lines[1].endswith("(and 4 more like it since the last report)")


def test_the_trace_names_hook_plugin_and_time_and_no_argument(monkeypatch, caplog):
    monkeypatch.setenv("HL7CORE_TRACE_HOOKS", "1")
    caplog.set_level(logging.INFO, "hl7core.hooks")
    with service({"a": {"persist_session": lambda self: "/secret/place"}}) as dispatch:
        dispatch.stores.persist("a", [session(5)], False)
    (line,) = [record.message for record in caplog.records if record.name == "hl7core.hooks"]
    assert line.startswith("persist_session a ")
    assert line.endswith(" ms")
    assert "00000005" not in line
