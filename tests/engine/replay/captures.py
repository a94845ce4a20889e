"""Capture files to replay, and plugins that hear them."""

from __future__ import annotations

from engine.parts import poll
from hl7core import PluginSettings, Receipt, hookimpl
from hl7core.wire.pcap.reader import PcapngWriter


def write(path, *batches):
    """Write a capture file; return its path as text."""
    writer = PcapngWriter()
    path.write_bytes(writer.header("test", [batches[0].interface]) + b"".join(map(writer.batch, batches)))
    return str(path)


class PacketListener:
    """Hears every packet."""

    def __init__(self) -> None:
        self.times: list[int] = []

    @hookimpl
    def on_packet(self, packet):
        self.times.append(packet.time_ns)


class Destination:
    """Accepts every session."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    @hookimpl
    def register_settings(self):
        from hl7core import DestinationSettings

        return DestinationSettings

    @hookimpl
    def submit_session(self, session):
        self.ids.append(session.id)
        return Receipt()


class Switch:
    """A plugin that does nothing: enabling it changes which plugins there are."""

    @hookimpl
    def register_settings(self):
        return PluginSettings


def replayed(harness, *files, **options):
    """Replay files to the end; return the final report."""
    return harness.call(harness.runtime.replay([str(file) for file in files], **options), timeout=60)


def begun(harness, *files, speed="max"):
    """Begin a replay; return it."""

    async def begin():
        return harness.engine.replays.begin([str(file) for file in files], speed=speed)

    return harness.call(begin())


def ended(replay):
    """Wait until a replay has ended; return its final report."""
    poll(lambda: not replay.running, 30)
    return replay.report()
