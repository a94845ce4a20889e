"""The compiled build: ``HL7CORE_COMPILE=1 pip install .`` makes a wheel whose decoder is machine code.

A build hook of hatchling (pyproject.toml names it), which runs mypyc over the rooms that every packet passes.  The law:
unless it is asked for, nothing changes, neither the wheel nor what building it takes; asked for, it compiles or the
build fails.  It compiles a copy: an object file beside the sources would be what an editable install runs from then on,
whatever is edited.  The sources stay in the wheel beside what was made of them, for tracebacks and readers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "HL7CORE_COMPILE"
REQUIRES = ("mypy[mypyc]>=2.4",)
ROOMS = (
    "model/frame.py", "model/packet.py", "model/schema.py", "model/session.py", "model/text.py",
    "wire/*.py", "wire/tls/records.py",
)  # fmt: skip
LEFT_OUT = (
    "wire/__init__.py", "wire/encrypted.py", "wire/pins.py",  # seldom run
    "wire/pcap_write.py", "wire/rebuild.py", "wire/talk.py",  # they make captures
)  # fmt: skip
OPTIONS = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")
_REMEDY = (
    f"A compiled build of hl7core needs a C compiler and Python's headers (Debian: apt install gcc python3-dev; "
    f"macOS: xcode-select --install).  Without {VARIABLE} the build is pure Python, and needs neither."
)
_TOLD = 4000


def asked() -> bool:
    """Say whether the environment asks for a compiled build.  Raises ValueError if it says something else."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE} is 1 (compile) or 0, not {value!r}")
    return value == "1"


class CompiledBuild(BuildHookInterface[Any]):
    def dependencies(self) -> list[str]:
        return [*REQUIRES] if asked() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not asked():
            return
        self._folder = TemporaryDirectory(prefix="hl7core-compiled-")
        top = Path(self._folder.name)
        package = top / "hl7core"
        shutil.copytree(
            Path(self.root) / "src" / "hl7core", package, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
        )
        left_out = {package / name for name in LEFT_OUT}
        found = {path for pattern in ROOMS for path in package.glob(pattern)} - left_out
        self.compile(top, sorted(str(path.relative_to(top)) for path in found))
        made = [path for pattern in ("*.so", "*.pyd") for path in top.rglob(pattern) if "build" not in path.parts]
        build_data["force_include"].update({str(path): str(path.relative_to(top)) for path in made})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def compile(self, top: Path, files: list[str]) -> None:
        command = (sys.executable, "-m", "mypyc", *OPTIONS, *files)
        environment = {"MYPYC_DEBUG_LEVEL": "0", **os.environ, "MYPYPATH": str(top)}
        done = subprocess.run(
            command, cwd=top, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            said = done.stdout.decode(errors="replace")[-_TOLD:]
            self.app.abort(f"{said}\nCompiling hl7core failed with exit code {done.returncode}.  {_REMEDY}")
