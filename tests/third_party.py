"""Third-party plugins as real distributions, written or installed to a folder, and an engine that finds them there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shell import ENV, command

EXAMPLES = Path(__file__).parents[1] / "docs/examples"

_FEEDER = """
import threading
from hl7core import PluginSettings, SourceStats, hookimpl
from hl7core.testing import TcpTalk


class Feed:
    name = "feed"

    def __init__(self):
        self.over = threading.Event()

    def run(self, emit):
@@
    def stop(self):
        self.over.set()

    def stats(self):
        return SourceStats()

    def interfaces(self):
        return ()


class Feeder:
    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def open_source(self, request):
        return Feed()
"""


def feeder(run: str) -> str:
    """The code of a source plugin ``Feeder``: ``run`` is what it does with ``emit`` until ``self.over`` is set."""
    return _FEEDER.replace("@@", textwrap.indent(run.strip("\n"), "        ") + "\n")


def distribution(site: Path, name: str, code: str, points: dict[str, str]) -> None:
    """Lay a distribution out as an installer would."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{point} = {name}:{cls}" for point, cls in points.items()]
    (info / "entry_points.txt").write_text("[hl7core]\n" + "\n".join(lines) + "\n")


def install(site: Path, example: str) -> None:
    """Let pip install one of our examples in a folder."""
    command = [
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target",
        site, EXAMPLES / example,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def hl7core(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command with the distributions in ``site`` beside ours."""
    env = ENV | {"PYTHONPATH": str(site)}
    return subprocess.run(command(*arguments), env=env, capture_output=True, text=True, check=False)


class Running:
    """An engine in a process of its own, and commands beside it."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "settings.toml"
        self.settings.write_text(
            '[core]\noutput_folder = "data"\n\n[plugins.scapy_source]\nenabled = false\n\n'
            "[plugins.feeder]\nenabled = true\n"
        )
        self.site = site
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            command("--settings", self.settings, "run"), env=ENV | {"PYTHONPATH": str(site)}, stderr=self.log
        )

    def command(self, *arguments: str) -> str:
        return hl7core(self.site, "--settings", self.settings, *arguments).stdout

    def plugins(self) -> dict[str, dict]:
        return {row["name"]: row for row in map(json.loads, self.command("plugins", "list", "--json").splitlines())}

    def stored(self) -> list[Path]:
        return list((self.folder / "data/sessions").glob("*.json"))

    def wait(self, condition, seconds: float = 15) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, (self.folder / "log").read_text()[-3000:]
            assert self.process.poll() is None
            time.sleep(0.05)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@contextmanager
def running_with(site: Path, folder: Path) -> Iterator[Running]:
    """An engine with the plugins in ``site``; one that is still there in the end is killed."""
    engine = Running(site, folder)
    try:
        yield engine
    finally:
        if engine.process.poll() is None:
            engine.process.kill()
            engine.process.wait()
        engine.log.close()
