"""What the tests of the plugin host share: plugins that note what happens to them, and a dispatch over plugins."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from types import SimpleNamespace

from pydantic import Field, SecretStr

from fakes import registry
from hl7core.contract import PluginSettings, SourceStats
from hl7core.hookspecs import hookimpl
from hl7core.model.events import NoticeRaised
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Frame, FrameKind
from hl7core.model.packet import Interface, Packet
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.wire.framing.framer import Dialect

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PACKET = Packet(b"x", 1, 1, Interface())
RUNTIME = SimpleNamespace(name="runtime")
ERRORS = [
    ValueError("canary"),
    SystemExit("canary"),
    GeneratorExit("canary"),
    StopIteration("canary"),
    asyncio.CancelledError("canary"),
]
FINDING = Finding("odd", Severity.INFO, "odd")


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def service(plugins, tables=None, clock=time.monotonic):
    """A dispatch over running plugins, given as classes or as dicts of hooks; ``changes`` collects the changes of state."""
    kinds = {
        name: kind if isinstance(kind, type) else type("Plugin", (), {hook: hookimpl(do) for hook, do in kind.items()})
        for name, kind in plugins.items()
    }
    made = registry(kinds, tables)
    changes = []
    dispatch = Dispatch(made, changes.append, clock)
    dispatch.changes = changes
    dispatch.registry = made
    asyncio.run(made.start(RUNTIME))
    assert all(str(info.state) == "enabled" for info in made.infos() if info.enabled), made.infos()
    try:
        yield dispatch
    finally:
        dispatch.close(0)


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.002)


def notice(number):
    return NoticeRaised(str(number), "text")


class Source:
    """The least that counts as a packet source."""

    name = "fake"

    def run(self, emit):
        """Emit nothing."""

    def stop(self):
        """Nothing to stop."""

    def stats(self):
        return SourceStats()

    def interfaces(self):
        return ()


def dialect(**changes):
    made = Dialect("vendor", lambda opener, other: 3, lambda largest, offset: Lines(offset), turns=True)
    return made._replace(**changes)


class Lines:
    """A framer of lines."""

    name = "vendor"

    def __init__(self, offset):
        self.start = offset
        self.data = b""

    @property
    def pending(self):
        return len(self.data)

    def feed(self, data):
        self.data += data
        frames = []
        while b"\n" in self.data:
            raw, _, self.data = self.data.partition(b"\n")
            frames.append(Frame(FrameKind.BLOCK, self.start, raw + b"\n"))
            self.start += len(raw) + 1
        return frames

    def skip(self, count):
        frames = [*self.close(), Frame(FrameKind.GAP, self.start, b"", missing=count)]
        self.start += count
        return frames

    def settle(self):
        return []

    def close(self):
        raw, self.data = self.data, b""
        frames = [Frame(FrameKind.STRAY, self.start, raw)] if raw else []
        self.start += len(raw)
        return frames


class Options(PluginSettings):
    """A table."""

    level: int = Field(1, ge=1, le=9, description="How much.")
    token: SecretStr = Field(SecretStr(""), description="Hidden.")


class Diary:
    """A plugin that notes what happens to it; ``log`` is the class's, since each enabling makes a new object."""

    def __init_subclass__(cls):
        cls.log = []

    @hookimpl
    def register_settings(self):
        return Options

    @hookimpl
    def configure(self, settings):
        self.log.append(f"configure {settings.level}")

    @hookimpl
    def start(self, runtime):
        self.log.append(f"start {runtime.name}")

    @hookimpl
    def stop(self):
        self.log.append("stop")

    @hookimpl
    def on_event(self, event):
        self.log.append(event)


def diary(**members):
    return type("Plugin", (Diary,), members)


def states(registry):
    return {info.name: str(info.state) for info in registry.infos()}
