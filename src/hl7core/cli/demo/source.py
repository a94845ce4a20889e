"""The demo's source of packets where live capture is not possible: it makes packets of what the simulated lab says."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

from hl7core.cli.demo.simulators import Heard
from hl7core.contract import PacketSource, PluginSettings, SourceRequest, SourceStats
from hl7core.hookspecs import hookimpl
from hl7core.model.packet import Interface, PacketBatch
from hl7core.wire.pcap.synthetic_tcp import TcpTalk

__all__ = ["DemoSource"]


class _Stream:
    """The packets that a capture would have had, made from what was said on the simulated connections."""

    name = "demo"

    def __init__(self, said: queue.SimpleQueue[Heard | None]) -> None:
        self._said = said
        self._packets = 0

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Emit packets of what is said, until ``stop``."""
        talks: dict[tuple[str, int], TcpTalk] = {}
        for heard in iter(self._said.get, None):
            talk = talks.setdefault(
                heard.opener, TcpTalk(heard.opener, heard.acceptor, interface=Interface("demo"), step_ns=20_000)
            )
            talk.time_ns = time.time_ns()
            if heard.closing:
                talk.close()
                del talks[heard.opener]
            elif heard.speaker is None:
                talk.open()
            elif heard.speaker == 0:
                talk.opener(heard.data)
            else:
                talk.acceptor(heard.data)
            batch = talk.batch()
            talk.packets.clear()
            self._packets += batch.count
            emit(batch)

    def stop(self) -> None:
        """End ``run``."""
        self._said.put(None)

    def stats(self) -> SourceStats:
        """Return how many packets were made."""
        return SourceStats(received=self._packets)

    def interfaces(self) -> Sequence[Interface]:
        """Return the interface that the packets are said to be from."""
        return (Interface("demo"),)


class DemoSource:
    """The source plugin of the demo, used like any other."""

    said: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()

    @classmethod
    def hear(cls, heard: Heard) -> None:
        """Add what was said."""
        cls.said.put(heard)

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.demo_source]``."""
        return PluginSettings

    @hookimpl
    def open_source(self, request: SourceRequest) -> PacketSource | None:
        """Return the packets of the simulated lab, None for a request to read files."""
        return None if request.files else _Stream(self.said)
