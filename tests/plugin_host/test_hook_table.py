import asyncio

from fakes import registry
from hl7core.hookspecs import hookimpl
from hl7core.plugin_host.hook_table import HookTable
from plugin_host.parts import NOW, PACKET, RUNTIME, service


def test_a_listener_comes_and_goes_with_its_plugin_and_the_generation_says_so():
    heard = []
    with service({"one": {"on_packet": lambda self, packet: heard.append(packet)}}) as dispatch:
        (listen,) = dispatch.packet_listeners()
        before = dispatch.generation
        assert dispatch.packet_listeners()[0] is listen
        asyncio.run(dispatch.registry.disable("one"))
        assert dispatch.generation != before
        listen([PACKET])
        assert heard == []
        assert dispatch.packet_listeners() == ()


def test_a_listener_may_take_no_argument():
    heard = []
    with service({"one": {"on_packet": lambda self: heard.append(1)}}) as dispatch:
        dispatch.packet_listeners()[0]([PACKET])
    assert heard == [1]


def test_a_parameter_with_a_default_is_filled_if_the_hook_offers_it():
    def remove(self, ids, to_trash, deleted_at=None, note="mine"):
        assert (to_trash, deleted_at, note) == (True, NOW, "mine")
        return ids

    with service({"a": {"delete_sessions": remove}}) as dispatch:
        assert dispatch.stores.delete("a", ["x"], True, NOW) == ["x"]


def test_the_table_is_rebuilt_only_when_a_plugin_comes_or_goes():
    kinds = {name: type("Plugin", (), {"on_event": hookimpl(lambda self, event: None)}) for name in ("a", "b")}
    made, rebuilt = registry(kinds, {"b": {"enabled": True}, "a": {"enabled": True}}), []
    table = HookTable(made, rebuilt.append)
    asyncio.run(made.start(RUNTIME))
    assert [impl.plugin for impl in table.all("on_event")] == list(made.names())
    assert table.of("a", "on_event").owner is made.pm.get_plugin("a")
    assert len(rebuilt) == 1
    asyncio.run(made.disable("a"))
    assert (table.of("a", "on_event"), table.in_service("a"), table.in_service("b")) == (None, False, True)
    assert [impl.plugin for impl in rebuilt[-1]["on_event"]] == ["b"]
    assert len(rebuilt) == 2
