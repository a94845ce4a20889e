"""The control socket: commands in, answers out, and nothing that comes in ends the engine."""

import contextlib
import itertools
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from engine.parts import Store, exchange, poll
from hl7core.engine.control.client import ControlClient
from hl7core.engine.control.protocol import MAX_REQUEST
from hl7core.errors import SettingsError
from hl7core.testing.harness import EngineHarness


def raw(harness, data: bytes) -> list[dict]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(harness.engine.folder / "control.sock"))
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        with peer.makefile("rb") as answer:
            return [json.loads(line) for line in answer]


def test_ping_and_state_say_what_runs(running, client):
    assert client.call("ping") == {"pid": os.getpid(), "folder": str(running.engine.folder)}
    state = client.call("state")
    assert state["running"]
    assert state["sources"]["fake0"]["received"] == 0
    assert client.call("settings_problems") == []


def test_plugins_are_listed_and_switched_in_the_settings(running, client):
    def listener():
        return next(info for info in client.call("plugins") if info["name"] == "listener")

    assert listener()["state"] == "enabled"
    client.call("disable", name="listener")
    assert listener()["state"] == "disabled"
    assert "enabled = false" in running.path.read_text()
    client.call("enable", name="listener")
    assert listener()["state"] == "enabled"


def test_settings_are_changed_or_refused_by_name(running, client):
    client.call("change_settings", changes={"core.retention_days": 7})
    assert running.engine.settings.core.retention_days == 7
    with pytest.raises(SettingsError) as refused:
        client.call("change_settings", changes={"core.retention_days": 0})
    assert "core.retention_days" in refused.value.problems[0]


def test_capture_is_steered(running, client):
    assert [interface["name"] for interface in client.call("interfaces")] == ["fake0"]
    client.call("pause")
    assert client.call("state")["paused"]
    client.call("resume")
    client.call("stop_capture")
    assert not client.call("state")["capturing"]
    client.call("start_capture", interfaces=["fake0"])
    assert client.call("state")["capturing"]
    client.call("clear")


def test_a_follower_that_does_not_read_holds_nothing_up(running):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(running.engine.folder / "control.sock"))
        peer.sendall(b'{"do":"follow"}\n')
        for number in range(3000):
            running.feed(exchange(f"A{number}"))
        poll(lambda: len(running.store.held) == 3000, timeout=30)


def test_stop_ends_the_engine_and_says_so_first(running):
    with ControlClient(running.engine.folder).connect() as client:
        assert client.call("stop") == os.getpid()
    running.join()
    assert ControlClient(running.engine.folder).connect() is None


HOSTILE = [
    b"\n",
    b"null\n",
    b"[1]\n",
    b"\xff\xfe\x00\n",
    b'{"do":' + b"[" * 100_000 + b"\n",
    b'{"do":{}}\n',
    b'{"do":"_answer"}\n',
    b'{"do":"retry","ids":"all"}\n',
    b'{"do":"retry","ids":["../../etc/passwd"]}\n',
    b'{"do":"retry","ids":[1]}\n',
    b'{"do":"delete","ids":[],"to_trash":"no"}\n',
    b'{"do":"sessions","query":7}\n',
    b'{"do":"sessions","query":{"nope":1}}\n',
    b'{"do":"sessions","query":{"limit":-1}}\n',
    b'{"do":"sessions","query":{"limit":true}}\n',
    b'{"do":"sessions","query":{"since":1e300}}\n',
    b'{"do":"sessions","query":{"since":NaN}}\n',
    b'{"do":"sessions","query":{"after":[]}}\n',
    b'{"do":"sessions","query":{"after":"xx"}}\n',
    b'{"do":"sessions","query":{"status":["lost"]}}\n',
    b'{"do":"sessions","query":{"ids":"abc"}}\n',
    b'{"do":"change_settings","changes":{"core":{"store":1}}}\n',
    b'{"do":"enable","name":"../x"}\n',
    b'{"do":"start_capture","interfaces":{"a":1}}\n',
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_comes_in_is_answered_and_the_engine_goes_on(running, data):
    (answer,) = raw(running, data)
    assert answer["ok"] is False
    assert answer["error"]
    assert raw(running, b'{"do":"ping"}\n')[0]["ok"]


def test_a_request_without_end_is_refused_and_cut_off(running):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(running.engine.folder / "control.sock"))
        try:
            for _ in range(3 * MAX_REQUEST // 65536):
                peer.sendall(b"x" * 65536)
        except OSError:
            pass
    assert raw(running, b'{"do":"ping"}\n')[0]["ok"]


def test_who_hangs_up_in_the_middle_disturbs_nobody(running):
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(running.engine.folder / "control.sock"))
            peer.sendall(b'{"do":"follow"}\n{"do":"pi')
    poll(lambda: raw(running, b'{"do":"ping"}\n')[0]["ok"])


def test_more_commands_than_it_serves_are_told_so(running):
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(running.engine.folder / "control.sock"))
        poll(lambda: len(running.engine.control._clients) == 64)
        assert "already serving" in raw(running, b'{"do":"ping"}\n')[0]["error"]
    poll(lambda: raw(running, b'{"do":"ping"}\n')[0]["ok"])


def test_a_folder_whose_path_is_too_long_for_a_socket_is_served_too(tmp_path):
    folder = tmp_path.joinpath(*itertools.repeat("long-folder-name", 8))
    with EngineHarness(folder, {"memory_store": Store()}, settings={"core.store": "memory_store"}) as harness:
        pointer = harness.engine.folder / "control.path"
        place = Path(pointer.read_text().strip())
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        with ControlClient(harness.engine.folder).connect() as client:
            assert client.call("ping")["pid"] == os.getpid()
    assert not pointer.exists()
    assert not place.parent.exists()


def test_only_our_own_user_and_root_are_heard(running, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr("hl7core.engine.control.server._PEER", FakePeer())
    with pytest.raises(ConnectionError):
        raw(running, b'{"do":"ping"}\n')


class FakePeer:
    size = 12

    def unpack(self, _data):
        return 1, 4711, 4711
