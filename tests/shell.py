"""Running ``hl7core`` as from a shell: in a process of its own, without hl7core variables in its environment."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

ENV = {name: value for name, value in os.environ.items() if not name.startswith("HL7CORE_")}


def command(*arguments):
    """The command line of ``hl7core ARGUMENTS``."""
    return [sys.executable, "-m", "hl7core", *map(str, arguments)]


def hl7core(*arguments, cwd, prefix=(), **env):
    """Run ``hl7core`` in ``cwd``, which is also its home; return its exit code and output."""
    return subprocess.run(
        [*prefix, *command(*arguments)],
        capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL,
        env=ENV | {"HOME": str(cwd)} | env,
    )  # fmt: skip


@contextmanager
def engine(cwd, *options, **env):
    """A running engine that captures nothing, started with ``hl7core run OPTIONS``."""
    nothing = {"HOME": str(cwd), "HL7CORE_PLUGINS__SCAPY_SOURCE__ENABLED": "false"}
    process = subprocess.Popen(command("run", *options), cwd=cwd, stderr=subprocess.DEVNULL, env=ENV | nothing | env)
    try:
        until = time.monotonic() + 30
        while not (cwd / "docs/control.sock").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(20)
