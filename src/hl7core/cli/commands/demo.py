"""``hl7core demo``: a simulated lab talks; hl7core captures, stores and submits the conversations."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

from hl7core.cli import exit_codes
from hl7core.cli.demo.receiver import DemoReceiver
from hl7core.cli.demo.simulators import Heard, Script, converse, scripts
from hl7core.cli.demo.source import DemoSource
from hl7core.cli.output.text import colourful, columns, counted, headline
from hl7core.contract import SourceRequest
from hl7core.engine.engine import Engine
from hl7core.errors import SourceError
from hl7core.model.events import SubmissionResult
from hl7core.model.session import ElementType, Session
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core demo                       run for 20 seconds
  hl7core demo --seconds 5
  hl7core demo --keep                run until Ctrl-C
  hl7core demo --folder /tmp/demo    save the sessions there
"""
_ROUND_PAUSE = 1.5
_PACE = 0.04


@click.command("demo", epilog=_EPILOG)
@click.option("--seconds", type=click.FloatRange(min=1), default=20.0, show_default=True, help="How long to run.")
@click.option("--keep", is_flag=True, help="Run until Ctrl-C.")
@click.option("--folder", default="hl7core-demo", show_default=True, metavar="FOLDER", help="Where to save sessions.")
@click.option("--no-live", is_flag=True, help="Do not capture; decode simulated packets, as without privileges.")
def command(seconds: float, keep: bool, folder: str, no_live: bool) -> int:
    """Show hl7core at work, without root, a server or a network.

    Simulated analyzers and a LIS talk over the loopback interface: LIS01 with a frame that is refused and repeated, the
    plain variant, and MLLP with a message that is never answered.  If this process may capture, their packets are
    captured; if not, the same bytes are decoded from simulated packets.  Each session is stored and submitted to the
    demo's own receiver.  Your sessions and settings are not touched.
    """
    if logging.getLogger().level >= logging.WARNING:
        logging.getLogger("hl7core").setLevel(logging.CRITICAL)  # the demo itself reports what matters
    return asyncio.run(_Demo(Path(folder).absolute(), seconds, keep=keep).run(live=not no_live))


class _Demo:
    def __init__(self, folder: Path, seconds: float, *, keep: bool) -> None:
        self.folder = folder
        self.seconds = seconds
        self.keep = keep
        self.said: dict[str, int] = {}
        self.seen: dict[str, Session] = {}
        self.submitted: set[str] = set()
        self.early: list[SubmissionResult] = []
        self.receiver = DemoReceiver()
        self.stop = threading.Event()
        self.failure = ""
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]

    async def run(self, *, live: bool) -> int:
        async with self.receiver:
            return await self._run(live=live)

    async def _run(self, *, live: bool) -> int:
        ports = [listener.getsockname()[1] for listener in self.listeners]
        _say(click.style("hl7core demo", bold=True) + ": three analyzers and a LIS, all simulated")
        engine = await self._live(ports) if live else None
        captured = engine is not None
        if engine is None:
            engine = self._engine(SourceRequest(configured=False), stream=True)
            await engine.start()
        why = "this process may not capture" if live else "--no-live"
        how = "captured live on the loopback interface" if captured else f"simulated ({why})"
        _say(f"packets   {how}")
        _say(f"sessions  {self.folder / 'sessions'}")
        _say(f"receiver  {self.receiver.url} (the demo's own; set yours in plugins.rest_destination.endpoint)\n")
        begun, interrupted = time.monotonic(), False
        view = asyncio.create_task(self._view(engine))
        try:
            await asyncio.to_thread(self._converse, _unheard if captured else DemoSource.hear)
            await self._wait_until_submitted(engine)
        except asyncio.CancelledError:
            interrupted = not self.keep  # with --keep this is the normal end
        finally:
            self.stop.set()
            await engine.stop()
            await view
            for listener in self.listeners:
                listener.close()
        code = self._summary(time.monotonic() - begun)
        return exit_codes.INTERRUPTED if interrupted else code

    def _engine(self, request: SourceRequest, *, stream: bool) -> Engine:
        settings = Settings(
            core=CoreSettings(output_folder=str(self.folder)),
            plugins={
                "demo_source": {"enabled": stream},
                "scapy_source": {"enabled": not stream},
                "rest_destination": {"enabled": True, "endpoint": self.receiver.url},
            },
            root=Path.cwd(),
        )
        own = EntryPoint("demo_source", "hl7core.cli.demo.source:DemoSource", "hl7core")
        found = (*entry_points(group="hl7core"), *entry_points(group="hl7core.off"), own)
        return Engine(settings, request=request, entry_points=found)

    async def _live(self, ports: Sequence[int]) -> Engine | None:
        """Return an engine that captures the loopback interface, or None if this process may not."""
        bpf = "tcp and host 127.0.0.1 and (" + " or ".join(f"port {port}" for port in ports) + ")"
        loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "")
        if not loopback:
            return None
        engine = self._engine(SourceRequest(interfaces=(loopback,), bpf=bpf, configured=False), stream=False)
        try:
            await engine.start()
        except SourceError:
            await engine.stop()
            return None
        until = time.monotonic() + 8
        while time.monotonic() < until and not engine.stopping:
            if engine.state().packets:
                return engine
            await asyncio.to_thread(self._knock)
            await asyncio.sleep(0.1)
        await engine.stop()
        return None

    def _knock(self) -> None:
        """Open and close a connection, so that there is a packet to see."""
        with socket.create_connection(self.listeners[0].getsockname(), timeout=2):
            self.listeners[0].accept()[0].close()

    def _converse(self, hear: Callable[[Heard], None]) -> None:
        until = time.monotonic() + self.seconds
        number = 0
        while not self.stop.is_set():
            number += 1
            for script, listener in zip(scripts(number), self.listeners, strict=True):
                self._play(script, listener, hear)
            if not self.keep and time.monotonic() + _ROUND_PAUSE >= until:
                return
            self.stop.wait(_ROUND_PAUSE)

    def _play(self, script: Script, listener: socket.socket, hear: Callable[[Heard], None]) -> None:
        try:
            converse(script, hear, listener=listener, pace=_PACE, stopped=self.stop)
        except OSError as error:
            self.failure = f"the simulated conversation broke: {error.strerror or type(error).__name__}"
            self.stop.set()
        else:
            self.said[script.title] = self.said.get(script.title, 0) + 1

    async def _view(self, engine: Engine) -> None:
        async for item in engine.follow():
            if isinstance(item, Session):
                self.seen[item.id] = item
                _say(headline(item, width=columns(sys.stdout)))
            elif isinstance(item, SubmissionResult):
                self.early.append(item)
            for result in [result for result in self.early if result.session_id in self.seen]:
                self.early.remove(result)  # its event may come before the session itself
                self._submitted(result)

    def _submitted(self, result: SubmissionResult) -> None:
        now = datetime.now().astimezone()
        when = click.style(f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}", dim=True)
        if result.success:
            self.submitted.add(result.session_id)
            _say(f"{click.style('→', fg='cyan')} {when}  submitted    session {result.session_id}")
        else:
            _say(f"{click.style('✘', fg='red')} {when}  rejected     session {result.session_id}: {result.error}")

    async def _wait_until_submitted(self, engine: Engine) -> None:
        """Wait until every conversation was seen, saved and submitted, a few seconds at most."""
        until = time.monotonic() + 6
        while time.monotonic() < until:
            if len(self.seen) >= sum(self.said.values()) and self.seen.keys() <= self.submitted:
                return
            await asyncio.sleep(0.05)

    def _summary(self, took: float) -> int:
        stored = sum(1 for id_ in self.seen if (self.folder / "sessions" / f"{id_}.json").exists())
        sessions = list(self.seen.values())
        protocols = Counter(session.protocol for session in sessions)
        refused = sum(e.type is ElementType.NAK for s in sessions for e in s.elements)
        unanswered = sum(not session.is_complete for session in sessions)
        said = sum(self.said.values())
        _say("")
        submitted = len(self.seen.keys() & self.submitted)
        _say(
            f"{counted(said, 'conversation')} in {took:.0f} s, {len(sessions)} recorded, {stored} stored,"
            f" submitted {submitted} of {len(sessions)}"
        )
        _say("  " + ", ".join(f"{count} {name}" for name, count in sorted(protocols.items())))
        _say(f"  {counted(refused, 'frame')} refused and repeated, {counted(unanswered, 'message')} never answered")
        problem = self.failure
        if not problem and not said:
            problem = "no conversation took place"
        if not problem and (len(sessions) != said or stored != said):
            problem = "not every conversation was recorded and stored"
        if not problem and (submitted != said or not self.seen.keys() <= self.receiver.received.keys()):
            problem = "not every session was submitted to the receiver"
        if problem:
            click.echo(f"hl7core: {problem}", err=True)
            return exit_codes.ERROR
        show = next((session for session in sessions if session.protocol == "lis01"), sessions[0])
        _say("\nLook at one:")
        _say(f"  HL7CORE_CORE__OUTPUT_FOLDER={self.folder} hl7core sessions show {show.id}")
        _say("Before you capture your own:  hl7core doctor")
        return exit_codes.OK


def _unheard(_heard: Heard) -> None:
    """Live: the packets themselves show what was said."""


def _say(text: str) -> None:
    click.echo(text, color=colourful(sys.stdout))
