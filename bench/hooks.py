"""Measures what hooks add to decoding: without a plugin that wants packets, and with one.

    python bench/hooks.py                     half a minute; decodes traffic a (bench/traffic.py) from memory
    python bench/hooks.py --runs 200 --check

"the decoder alone" only feeds the batches to a Decoder.  "the engine's way" asks before each batch, as the engine does,
which enabled plugins want every packet; none of the bundled ones does.  "pluggy, a call a packet" is the cost of
offering each packet to all plugins.  "one plugin wants them" has one that receives each packet and does nothing.  The
cost of the hooks is measured separately and added to that of decoding, since the difference between two complete runs
would drown in other load.  Each figure is the minimum processor time of ``--runs`` short runs, which take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import traffic
from run import Goal

from hl7core import hookimpl
from hl7core.files import CaptureFile
from hl7core.model.packet import Packet, PacketBatch
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.registry import Registry
from hl7core.settings import reading as settings
from hl7core.testing import FakeRuntime
from hl7core.wire.decoder import Decoder

ALONE, ENGINE, EACH, ONE = (
    "the decoder alone", "the engine's way", "pluggy, a call a packet", "one plugin wants them",
)  # fmt: skip


class Listener:
    """A plugin that receives every packet."""

    @hookimpl
    def on_packet(self, packet: Packet) -> None:
        """Receive a packet."""


def service(folder: Path, entry_points: list[EntryPoint] | None = None) -> tuple[Registry, Dispatch]:
    """Return a registry of plugins in service, the bundled ones or those named, and a dispatch over them."""
    overrides = {"core.output_folder": str(folder), "plugins.listener.enabled": True}
    registry = Registry(settings.read(None, overrides), entry_points=entry_points)
    asyncio.run(registry.start(FakeRuntime(folder)))
    return registry, Dispatch(registry)


def race(batches: list[PacketBatch], runs: int) -> dict[str, float]:
    """Return the minimum processor time in seconds for each way of handling the batches."""
    with tempfile.TemporaryDirectory() as folder:
        registry, bundled = service(Path(folder))
        _, one = service(Path(folder), [EntryPoint("listener", f"{__name__}:Listener", "hl7core")])
        if bundled.packet_listeners() or len(one.packet_listeners()) != 1:
            raise SystemExit("the enabled plugins are not the expected ones")
        hook = registry.pm.hook.on_packet

        def asked(dispatch: Dispatch) -> Callable[[PacketBatch], object]:
            def take(batch: PacketBatch) -> None:
                listeners = dispatch.packet_listeners()
                if listeners:
                    packets = tuple(batch.packets())
                    for listener in listeners:
                        listener(packets)

            return take

        def each(batch: PacketBatch) -> None:
            for packet in batch.packets():
                hook(packet=packet)

        costs: dict[str, float] = {}
        for _ in range(runs):
            for name, work in ((ALONE, Decoder().feed), (ENGINE, asked(bundled)), (EACH, each), (ONE, asked(one))):
                began = time.process_time()
                for batch in batches:
                    work(batch)
                took = time.process_time() - began
                costs[name] = min(took, costs.get(name, took))
        for dispatch in (bundled, one):
            dispatch.close(0)
    return {name: cost if name == ALONE else cost + costs[ALONE] for name, cost in costs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.02, metavar="F", help="fraction of traffic a (default 0.02)")
    parser.add_argument(
        "--runs", type=int, default=60, metavar="N", help="runs of each; the minimum counts (default 60)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if the floor is missed")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs is at least 1")
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "a.pcap"
        packets = traffic.write("a", capture, scale=options.scale)["packets"]
        batches = list(CaptureFile(str(capture)))
    print(f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs; least of {options.runs}")
    costs = race(batches, options.runs)
    print(f"\n   {'':26} {'us a packet':>12} {'of alone':>9}")
    for name, cost in costs.items():
        print(f"   {name:26} {cost / int(str(packets)) * 1e6:12.3f} {cost / costs[ALONE]:8.3f}x")
    goal = Goal("hooks that nobody implements", costs[ENGINE] / costs[ALONE], 1.03, "x", at_least=False)
    verdict = "met" if goal.met else "MISSED"
    print(
        f"\ngoals\n   {goal.what:30} {goal.measured:6.3f}{goal.unit} floor: at most {goal.floor}{goal.unit}  {verdict}"
    )
    return 1 if options.check and not goal.met else 0


if __name__ == "__main__":
    sys.exit(main())
