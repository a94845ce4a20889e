"""The live view: sessions on stdout, what goes wrong on stderr."""

import asyncio
import json

import pytest

from hl7core.cli.output.live_view import show_live, warning_text
from hl7core.model.events import (
    CaptureChanged,
    NoticeRaised,
    PacketsDropped,
    PluginChanged,
    Resync,
    SessionUnsaved,
    SettingsChanged,
)
from hl7core.testing import make_session


class Follower:
    """News that has come in several parts, then the end."""

    def __init__(self, *parts):
        self.parts = [*parts, []]

    async def several(self):
        return self.parts.pop(0)


SESSIONS = [make_session(1), make_session(2)]
LOST = PacketsDropped("kernel", "scapy_source", 7, 7)


def test_sessions_go_to_stdout_and_warnings_to_stderr(capfd):
    asyncio.run(show_live(Follower([SESSIONS[0], LOST], [SESSIONS[1]]), "jsonl"))
    out, err = capfd.readouterr()
    assert [json.loads(line)["sessionId"] for line in out.splitlines()] == [session.id for session in SESSIONS]
    assert err == "7 packets of scapy_source lost (kernel)\n"


def test_without_a_format_nothing_is_shown(capfd):
    asyncio.run(show_live(Follower([SESSIONS[0], LOST]), None))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (NoticeRaised("disk", "the disk is full"), "the disk is full"),
        (NoticeRaised("disk", "the disk is full", resolved=True), "resolved: the disk is full"),
        (PluginChanged("mail", "failed", "no route"), "plugin mail failed: no route"),
        (PluginChanged("mail", "quarantined", "30 s"), "plugin mail is quarantined: 30 s"),
        (PluginChanged("mail", "enabled"), ""),
        (SettingsChanged(problems=("core.store: none",)), "core.store: none"),
        (SettingsChanged(), ""),
        (CaptureChanged("scapy_source", "stopped", "eth0 is gone"), "scapy_source stopped: eth0 is gone"),
        (Resync(3), "3 lines were left out of this view; no session was lost"),
        (SessionUnsaved("id", "full", 1), ""),
    ],
)
def test_an_event_that_a_person_should_know_of_is_one_sentence(event, text):
    said = warning_text(event)
    assert said.endswith(text) if text else said == ""


def test_a_capture_that_has_started_is_named(capsys):
    asyncio.run(show_live(Follower([CaptureChanged("eth0", "started")]), "jsonl"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "capturing on eth0\n")
