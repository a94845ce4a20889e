"""Replays: capture files through the plugins of a running engine, beside what it captures."""

import asyncio
import gzip
import importlib.util
import os
import threading
from itertools import chain
from pathlib import Path

import pytest

from engine.parts import START_NS, exchange, noise, poll
from engine.replay.captures import Switch, begun, ended, replayed, write
from hl7core import CaptureChanged, CaptureFile, Decoder, DecoderOptions, PacketSource, hookimpl
from hl7core.contract import SourceStats
from hl7core.engine.control.client import ControlClient
from hl7core.errors import EngineError
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.packet import PacketBatch
from hl7core.testing import TcpTalk

YEAR = 365 * 86400
ROOT = Path(__file__).parents[3]
CAPTURES = ROOT / "tests/captures"


def day(path, count=20, *, seconds=0.01, first=0.0):
    """A file with so many exchanges, ``seconds`` apart."""
    return write(path, *[exchange(f"C{number}", seconds=first + number * seconds) for number in range(count)])


def halves(control_id, *, seconds=0.0):
    """The request and the answer of one exchange, as two batches."""
    whole = list(exchange(control_id, seconds=seconds).packets())
    return PacketBatch.of(whole[:4]), PacketBatch.of(whole[4:])


def submitted(harness):
    """How many stored sessions are known to be submitted."""
    deliveries = [delivery for session in list(harness.store.held.values()) for delivery in session.deliveries]
    return sum(delivery.status is DeliveryStatus.SUBMITTED for delivery in deliveries)


# What a replay does.


def test_its_sessions_go_through_every_plugin_with_the_times_of_their_packets(lab, tmp_path):
    harness = lab()
    report = replayed(harness, day(tmp_path / "day.pcapng"))
    assert (report.state, report.sessions, report.saved, report.known, report.problems) == ("done", 20, 20, 0, ())
    assert len(harness.store.held) == 20
    assert {session.start_ns // 10**9 for session in harness.store.held.values()} == {START_NS // 10**9}
    poll(lambda: len(harness.listener.sessions) == 20)
    assert len(harness.heard.times) == report.packets
    assert min(harness.heard.times) == START_NS
    poll(lambda: len(harness.destination.ids) == 20)
    assert report.position == report.size > 0


def test_what_is_stored_already_is_counted_and_neither_saved_told_nor_submitted_again(lab, tmp_path):
    harness = lab()
    file = day(tmp_path / "day.pcapng")
    replayed(harness, file)
    poll(lambda: submitted(harness) == 20)
    harness.call(harness.runtime.clear())  # the store alone knows them
    before, attempts = dict(harness.store.held), harness.store.attempts
    report = replayed(harness, file)
    assert (report.sessions, report.saved, report.known) == (20, 0, 20)
    assert harness.store.held == before
    assert harness.store.attempts == attempts
    harness.call(harness.runtime.submit_now())
    assert len(harness.destination.ids) == 20
    assert len(harness.listener.sessions) == 20


def test_a_session_that_was_captured_live_too_is_one_session(lab, tmp_path):
    harness = lab()
    both = exchange("BOTH")
    harness.feed(both)
    harness.wait_for(lambda: len(harness.store.held) == 1)
    report = replayed(harness, write(tmp_path / "both.pcapng", both, exchange("NEW")))
    assert (report.sessions, report.saved, report.known) == (2, 1, 1)
    assert len(harness.store.held) == 2


def test_a_session_that_waits_to_be_saved_is_known_too(lab, tmp_path):
    harness = lab()
    both = exchange("BOTH")
    harness.store.down = True
    harness.feed(both)
    harness.wait_for(lambda: harness.engine.keeper.stuck)
    replay = begun(harness, write(tmp_path / "both.pcapng", both))
    report = ended(replay)
    assert (report.sessions, report.known, report.saved, report.waiting) == (1, 1, 0, 0)
    harness.store.down = False


@pytest.mark.parametrize("years", [-1, 1])
def test_a_live_conversation_stays_open_while_a_file_of_another_year_is_replayed(lab, tmp_path, years):
    harness = lab()
    request, answer = halves("LIVE")
    harness.feed(request)
    harness.wait_decoded()
    replayed(harness, day(tmp_path / "day.pcapng", first=years * YEAR))
    assert len(harness.store.held) == 20
    harness.feed(answer)
    harness.wait_for(lambda: len(harness.store.held) == 21)
    assert all(session.is_complete for session in harness.store.held.values())


def test_several_files_are_one_capture(lab, tmp_path):
    harness = lab()
    first, second = halves("CUT")
    report = replayed(harness, write(tmp_path / "1.pcapng", first), write(tmp_path / "2.pcapng", second))
    assert report.sessions == 1
    assert next(iter(harness.store.held.values())).is_complete


def test_the_live_source_goes_on_and_is_not_taken_for_the_files(lab, tmp_path):
    harness = lab()
    replayed(harness, day(tmp_path / "day.pcapng"))
    assert harness.state().capturing
    assert not [e for e in harness.listener.of(CaptureChanged) if e.state == "stopped"]
    harness.feed(exchange("LIVE"))
    harness.wait_for(lambda: len(harness.store.held) == 21)


def test_at_speed_1_packets_come_at_their_own_pace(lab, tmp_path):
    harness = lab()
    replay = begun(harness, day(tmp_path / "slow.pcapng", 2, seconds=YEAR), speed="1")
    poll(lambda: len(harness.store.held) == 1)
    assert replay.running
    replay.stop()
    assert ended(replay).state == "stopped"


def test_while_live_packets_wait_it_waits(lab, tmp_path):
    harness = lab()
    release = threading.Event()
    harness.engine.intake.put_work(lambda: release.wait(30))  # live decoding is busy
    harness.feed(exchange("LIVE"))
    poll(lambda: not harness.engine.intake.idle)
    replay = begun(harness, day(tmp_path / "day.pcapng", 1))
    assert not replay._stopped.wait(0.1)
    assert replay.report().packets == 0
    release.set()
    assert ended(replay).saved == 1
    assert len(harness.store.held) == 2


# What is wrong with files.


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_replayed(lab, tmp_path):
    harness = lab()
    (tmp_path / "text.pcap").write_text("this is no capture, but it is long enough to look like one")
    missing, text, good = tmp_path / "missing.pcap", tmp_path / "text.pcap", day(tmp_path / "good.pcapng")
    report = replayed(harness, missing, text, good, tmp_path)
    assert [file for file, _ in report.problems] == [str(missing), str(text), str(tmp_path)]
    assert "no such file" in report.problems[0][1]
    assert "not a capture file" in report.problems[1][1]
    assert "folder" in report.problems[2][1]
    assert report.saved == 20


def test_of_a_damaged_file_everything_before_the_damage_is_kept(lab, tmp_path):
    harness = lab()
    data = Path(day(tmp_path / "whole.pcapng")).read_bytes()
    cut = tmp_path / "cut.pcapng.gz"
    cut.write_bytes(gzip.compress(data)[:-200])
    report = replayed(harness, cut)
    assert "cut.pcapng.gz: damaged at packet" in report.problems[0][1]
    assert 0 < report.saved == len(harness.store.held)


def test_a_file_that_changes_meanwhile_is_reported(lab, tmp_path):
    harness = lab()
    file = tmp_path / "grows.pcapng"
    replay = begun(harness, day(file, 20, seconds=0.1), speed="1")
    poll(lambda: harness.store.held)
    with file.open("ab") as more:
        more.write(b"\0")
    assert "changed while it was replayed" in dict(ended(replay).problems)[str(file)]
    assert len(harness.store.held) == 20


def test_a_pipe_is_refused_because_its_writer_might_never_come(lab, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    report = replayed(lab(), tmp_path / "pipe")
    assert "not a regular file" in report.problems[0][1]


def test_paths_must_be_absolute_and_speeds_known(lab):
    harness = lab()
    with pytest.raises(EngineError, match="absolute path"):
        replayed(harness, "day.pcap")
    with pytest.raises(EngineError, match="1 or max"):
        replayed(harness, "/day.pcap", speed="2")
    with pytest.raises(EngineError, match="at least one"):
        replayed(harness)


# The store.


def test_while_the_store_is_down_it_waits_and_takes_little_memory_and_then_goes_on(lab, tmp_path):
    harness = lab(**{"core.unsaved_sessions": 100})
    harness.store.down = True
    replay = begun(harness, day(tmp_path / "day.pcapng", 1000))
    poll(lambda: "disk is full" in replay.report().detail, 30)
    assert replay.report().state == "waiting"
    assert harness.state().unsaved <= 20  # a tenth, and a tenth added at once
    harness.store.down = False
    report = ended(replay)
    assert (report.saved, report.lost, report.waiting) == (1000, 0, 0)
    assert len(harness.store.held) == 1000


def test_a_store_that_stays_down_is_named_at_the_end_and_the_sessions_wait_in_memory(lab, tmp_path):
    harness = lab()
    harness.store.down = True
    report = ended(begun(harness, day(tmp_path / "day.pcapng", 3)))
    assert (report.state, report.sessions, report.saved, report.waiting) == ("done", 3, 0, 3)
    assert "disk is full" in report.detail
    harness.store.down = False
    poll(lambda: len(harness.store.held) == 3, 40)


def test_while_stored_sessions_cannot_be_read_nothing_is_taken_for_new(lab, tmp_path):
    harness = lab()
    harness.store.unreadable = True
    replay = begun(harness, day(tmp_path / "day.pcapng"))
    poll(lambda: replay.report().state == "waiting")
    assert "the disk is gone" in replay.report().detail
    assert not harness.listener.sessions
    harness.store.unreadable = False
    assert ended(replay).saved == 20


def test_what_the_store_refuses_is_not_waited_for_for_ever(lab, tmp_path):
    harness = lab()
    file = day(tmp_path / "day.pcapng", 3)
    replayed(harness, file)
    poll(lambda: submitted(harness) == 3)
    refused = next(iter(harness.store.held))
    del harness.store.held[refused]
    harness.call(harness.runtime.clear())
    harness.store.refused.add(refused)
    report = replayed(harness, file)
    assert (report.known, report.saved, report.waiting) == (2, 0, 1)
    assert "no session" in report.detail


def test_while_nothing_is_saved_plugins_hear_the_sessions_and_it_says_so(lab, tmp_path):
    harness = lab(**{"core.enable_persistence": False})
    report = replayed(harness, day(tmp_path / "day.pcapng"))
    assert (report.sessions, report.saved, report.unsaved, report.waiting) == (20, 0, 20, 0)
    poll(lambda: len(harness.listener.sessions) == 20)


# Whoever asks for it, and the engine.


def test_it_stops_when_asked_and_a_second_replay_gets_the_cut_conversations_whole(lab, tmp_path):
    harness = lab()
    request, answer = halves("CUT", seconds=1)
    rest = answer._replace(times=[time + YEAR * 10**9 for time in answer.times])
    file = write(tmp_path / "day.pcapng", exchange("A"), request, rest)
    replay = begun(harness, file, speed="1")
    poll(lambda: len(harness.store.held) == 1)
    poll(lambda: replay.report().packets > 7)
    replay.stop()
    report = ended(replay)
    assert (report.state, report.saved, report.dropped) == ("stopped", 1, 1)
    assert len(harness.store.held) == 1
    again = write(tmp_path / "again.pcapng", exchange("B"), request, answer)
    assert replayed(harness, again).saved == 2
    assert all(session.is_complete for session in harness.store.held.values())


def test_cancelling_the_call_stops_it(lab, tmp_path):
    harness = lab()
    file = day(tmp_path / "slow.pcapng", 2, seconds=YEAR)
    future = asyncio.run_coroutine_threadsafe(harness.runtime.replay([file], speed="1"), harness.engine.loop)
    poll(lambda: harness.store.held)
    replay = harness.engine.replays._current
    future.cancel()
    assert ended(replay).state == "stopped"


def test_a_client_that_leaves_stops_it(lab, tmp_path):
    harness = lab()
    file = day(tmp_path / "slow.pcapng", 2, seconds=YEAR)
    with ControlClient(harness.engine.folder).connect() as client:
        next(client.replay([file], speed="1"))
    assert ended(harness.engine.replays._current).state == "stopped"


def test_a_client_may_ask_on_after_a_replay_and_interrupt_one(lab, tmp_path, caplog):
    harness = lab()
    file, slow = day(tmp_path / "day.pcapng"), day(tmp_path / "slow.pcapng", 2, seconds=YEAR)
    with ControlClient(harness.engine.folder).connect() as client:
        assert list(client.replay([file]))[-1].saved == 20
        assert client.call("ping")["folder"] == str(harness.engine.folder)
        reports = client.replay([slow], speed="1")
        next(reports)
        client.interrupt()
        assert list(reports)[-1].state == "stopped"
    assert "asyncio" not in {record.name for record in caplog.records}


def test_one_replay_at_a_time(lab, tmp_path):
    harness = lab()
    file = day(tmp_path / "slow.pcapng", 2, seconds=YEAR)
    replay = begun(harness, file, speed="1")
    with pytest.raises(EngineError, match="already running"):
        begun(harness, file)
    replay.stop()
    ended(replay)
    assert replayed(harness, day(tmp_path / "day.pcapng", 1)).saved == 1


def test_while_the_engine_is_paused_it_waits(lab, tmp_path):
    harness = lab()
    harness.call(harness.runtime.pause())
    replay = begun(harness, day(tmp_path / "day.pcapng"))
    poll(lambda: replay.report().state == "paused")
    assert not harness.store.held
    harness.call(harness.runtime.resume())
    assert ended(replay).saved == 20


def test_a_pause_is_told_even_while_the_next_packet_is_not_due(lab, tmp_path):
    harness = lab()
    replay = begun(harness, day(tmp_path / "slow.pcapng", 2, seconds=YEAR), speed="1")
    poll(lambda: harness.store.held)
    harness.call(harness.runtime.pause())
    poll(lambda: replay.report().state == "paused")
    harness.call(harness.runtime.resume())
    poll(lambda: replay.report().state == "reading")
    replay.stop()
    ended(replay)


def test_when_the_engine_stops_what_was_decoded_is_saved(lab, tmp_path):
    harness = lab()
    begun(harness, day(tmp_path / "slow.pcapng", 2, seconds=YEAR), speed="1")
    poll(lambda: harness.listener.sessions)
    harness.stop()
    assert len(harness.store.held) == 1
    assert harness.engine.unsaved == []


def test_when_the_engine_stops_while_the_store_is_down_it_stops_in_time(lab, tmp_path):
    harness = lab(**{"core.unsaved_sessions": 20})
    harness.store.down = True
    replay = begun(harness, day(tmp_path / "day.pcapng", 500))
    poll(lambda: replay.report().state == "waiting", 30)
    harness.stop()
    assert not replay.running


def test_without_a_plugin_that_reads_files_it_says_which_to_enable(lab, tmp_path):
    harness = lab(**{"plugins.file_source.enabled": False})
    report = replayed(harness, day(tmp_path / "day.pcapng"))
    assert "hl7core plugins enable file_source" in report.problems[0][1]


def test_when_the_plugin_that_reads_the_file_is_disabled_meanwhile_it_says_so(lab, tmp_path):
    harness = lab()
    replay = begun(harness, day(tmp_path / "slow.pcapng", 2, seconds=YEAR), speed="1")
    poll(lambda: harness.store.held)
    harness.call(harness.runtime.change_settings({"plugins.file_source.enabled": False}))
    report = ended(replay)
    assert report.state == "done"
    assert "the plugin file_source, which reads it, is disabled" in report.problems[0][1]
    assert len(harness.store.held) == 1


def test_settings_and_plugins_that_change_meanwhile_apply_to_what_follows(lab, tmp_path):
    harness = lab({"switch": Switch()})
    replay = begun(harness, day(tmp_path / "slow.pcapng", 400, seconds=0.05), speed="1")
    poll(lambda: harness.store.held)
    assert replay._decoding._decoder.options.lis_port == 0
    harness.call(harness.runtime.change_settings({"core.lis_port": 1}))
    poll(lambda: replay._decoding._decoder.options.lis_port == 1)
    heard = len(harness.heard.times)
    harness.call(harness.runtime.change_settings({"plugins.heard.enabled": False}))
    poll(lambda: len(harness.store.held) > 30)
    assert len(harness.heard.times) < heard + 7 * 20
    replay.stop()
    ended(replay)


class Rude:
    """A source that ends in its own way."""

    name = "rude"

    def __init__(self, error) -> None:
        self.error = error

    def run(self, emit):
        raise self.error

    def stop(self):
        pass

    def stats(self):
        return SourceStats(size=1)

    def interfaces(self):
        return ()


class RudePlugin:
    def __init__(self, error) -> None:
        self.error = error

    @hookimpl
    def open_source(self, request):
        return Rude(self.error) if request.files else None


@pytest.mark.parametrize("error", [SystemExit(1), ValueError("PID|1||secret")])
def test_a_source_that_raises_ends_its_file_alone_and_quotes_nothing(lab, tmp_path, error):
    assert isinstance(Rude(error), PacketSource)
    harness = lab({"a_rude": RudePlugin(error)}, **{"plugins.file_source.enabled": False})
    report = replayed(harness, day(tmp_path / "day.pcapng"))
    assert len(report.problems) == 1
    assert "secret" not in report.problems[0][1]
    harness.feed(noise(1))
    harness.wait_decoded()


def test_it_finds_the_same_sessions_as_the_decoder_alone(lab):
    harness = lab()
    files = sorted(str(path) for path in CAPTURES.glob("*.pcap*"))
    assert files
    for file in files:
        decoder, found = Decoder(DecoderOptions(sensor="test")), {}
        with CaptureFile(file) as capture:
            batches = [decoder.feed(batch) for batch in capture]
        for session in chain(*batches, decoder.end()):
            found[session.id] = session
        before = set(harness.store.held)
        report = replayed(harness, file)
        assert report.saved + report.known == report.sessions
        for session_id in found.keys() - before:
            stored = harness.store.held[session_id]
            assert (stored.elements, stored.messages, stored.ending) == (
                found[session_id].elements, found[session_id].messages, found[session_id].ending
            )  # fmt: skip
        assert harness.store.held.keys() == before | found.keys()


class Fixed:
    """A plugin with a dialect of its own."""

    @hookimpl
    def register_framers(self):
        place = ROOT / "docs/examples/hl7core-fixed-frames/src/hl7core_fixed_frames/__init__.py"
        spec = importlib.util.spec_from_file_location("fixed_frames_example", place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return [module.dialect()]


def test_a_plugins_dialect_decodes_it_too(lab, tmp_path):
    result = b"\x02R" + b"S-0001".ljust(10) + b"GLU".ljust(6) + b"5.4".rjust(10) + b"mmol/l" + b"\x03"
    talk = TcpTalk()
    talk.open()
    talk.opener(result)
    talk.acceptor(b"\x06")
    talk.opener(b"\x02E" + b" " * 32 + b"\x03")
    file = write(tmp_path / "fixed.pcapng", talk.batch())
    harness = lab({"fixed": Fixed()})
    assert replayed(harness, file).sessions == 1
    assert [session.protocol for session in harness.store.held.values()] == ["fixed_frames"]
