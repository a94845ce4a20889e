"""Fixtures for the tests of scapy_source."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from hl7core_plugins.scapy_source import plugin, source
from plugins.scapy_source.parts import MACHINE


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(plugin, "list_interfaces", lambda: MACHINE)
    monkeypatch.setattr(source, "list_interfaces", lambda: MACHINE)


@pytest.fixture
def capture_process(monkeypatch, tmp_path):
    """Let a script stand in for the capture process; it finds the configuration in ``order``."""

    def play(script: str) -> Path:
        path = tmp_path / "child.py"
        path.write_text(
            "import json, os, sys, time\norder = json.loads(sys.stdin.buffer.raw.readline())\n"
            "def tell(**what): os.write(2, json.dumps(what).encode() + b'\\n')\n" + textwrap.dedent(script)
        )
        monkeypatch.setattr(source, "CHILD", (sys.executable, str(path)))
        monkeypatch.setattr(source, "_BACKOFF", (0.05, 0.1))
        return path

    return play
