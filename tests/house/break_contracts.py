"""Breaks each import contract on purpose, in a copy of the tree, and demands that lint-imports notices.

Run by hand or by CI, where the linter is installed: ``python tests/house/break_contracts.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

# contract: (file to add a line to, the line that breaks it)
BREAKS = {
    "Floors: data and imports flow one way": ("src/hl7core/model/frame.py", "import hl7core.engine.engine"),
    "Plugin host: each module on its floor": (
        "src/hl7core/plugin_host/registry.py",
        "import hl7core.plugin_host.calls",
    ),
    "Settings: reading and writing know the model, not each other": (
        "src/hl7core/settings/file.py",
        "import hl7core.settings.reading",
    ),
    "Engine: each module on its floor": ("src/hl7core/engine/runtime.py", "import hl7core.engine.engine"),
    "Outbox: each module on its floor": ("src/hl7core/engine/outbox/rules.py", "import hl7core.engine.outbox.queue"),
    "Capture: each module on its floor": (
        "src/hl7core/engine/capture/intake.py",
        "import hl7core.engine.capture.sources",
    ),
    "Replay: each module on its floor": ("src/hl7core/engine/replay/pace.py", "import hl7core.engine.replay.replay"),
    "Control socket: each module on its floor": (
        "src/hl7core/engine/control/protocol.py",
        "import hl7core.engine.control.client",
    ),
    "Floors of wire: from packets to sessions": ("src/hl7core/wire/connection.py", "import hl7core.wire.detect"),
    "Commands stand on what they share": ("src/hl7core/cli/output/text.py", "import hl7core.cli.commands.read"),
    "The core knows no plugin": ("src/hl7core/engine/engine.py", "import hl7core_plugins.json_store"),
    "A bundled plugin uses the public door alone": (
        "plugins/hl7core_plugins/file_source/__init__.py",
        "import hl7core.wire.decoder",
    ),
    "Plugins do not know each other": (
        "plugins/hl7core_plugins/file_source/__init__.py",
        "import hl7core_plugins.json_store",
    ),
    "Only scapy_source imports scapy": ("plugins/hl7core_plugins/json_store/__init__.py", "import scapy.config"),
    "Nothing but the optional decryption of TLS needs cryptography": (
        "src/hl7core/wire/detect.py",
        "import cryptography",
    ),
    "Only rest_destination imports httpx and httpcore": ("src/hl7core/cli/commands/demo.py", "import httpx"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter on the copy in ``folder``."""
    paths = os.pathsep.join((str(folder / "src"), str(folder / "plugins")))
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder, env=os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def main() -> int:
    """Break one contract after the other; return how many went unnoticed."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    names = {contract["name"] for contract in contracts}
    unnoticed = [f"no way to break {name!r} is known" for name in sorted(names - set(BREAKS))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("src", "plugins"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        sound = lint(folder)
        if sound.returncode:
            unnoticed.append(f"the tree itself breaks a contract:\n{sound.stdout}{sound.stderr}")
        for name, (file, line) in BREAKS.items():
            path = folder / file
            text = path.read_text()
            path.write_text(f"{text}\n{line}\n")
            result = lint(folder)
            path.write_text(text)
            if result.returncode and f"{name} BROKEN" in result.stdout:
                print(f"noticed: {name}")
            else:
                unnoticed.append(f"unnoticed: {name}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    print("\n".join(unnoticed))
    return len(unnoticed)


if __name__ == "__main__":
    sys.exit(main())
