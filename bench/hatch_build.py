"""Hatchling's build hook (pyproject.toml names it): compiles the C extensions, each ``_native.pyx`` in src/hl7core.

The extensions are optional, so a failed compilation never fails an installation.  With a C compiler and Python's
headers the hook compiles; without them, or if the compiler fails, the build is pure Python, says so, and gives the same
answers more slowly.  ``HL7CORE_COMPILE=1`` requires the extensions: they compile or the build fails.
``HL7CORE_COMPILE=0`` builds a pure wheel for any platform.  An editable install keeps its extensions beside the source;
after a change of that source, run ``pip install -e .`` again (a test fails until then).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "HL7CORE_COMPILE"
REQUIRES = ("cython>=3.1", "setuptools>=70")
SOURCES = tuple(f"src/hl7core/{room}/_native.pyx" for room in ("hl7", "model", "wire"))
REMEDY = (
    "The C extensions need a C compiler and Python's headers (Debian: apt install gcc python3-dev; macOS: "
    "xcode-select --install)."
)
_QUOTED = 4000


def required() -> bool | None:
    """Return whether HL7CORE_COMPILE requires or forbids compiling; None if it is not set.  Raises ValueError."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE} must be 1 (compile or fail) or 0 (pure Python), not {value!r}")
    return None if not value else value == "1"


def has_compiler() -> bool:
    """Return whether a C compiler and Python's headers are installed."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "")
    return bool(compiler and shutil.which(compiler[0])) and Path(sysconfig.get_path("include"), "Python.h").is_file()


def parts_of(source: Path) -> list[Path]:
    """Return ``source`` and every .pxi file in ``src/hl7core`` that it may include."""
    return [source, *sorted(source.parents[1].glob("*/*.pxi"))]


def _beside(source: Path) -> Path:
    return source.with_name(source.stem + sysconfig.get_config_var("EXT_SUFFIX"))


class CompiledBuild(BuildHookInterface[Any]):
    def wanted(self) -> bool:
        ask = required()
        return has_compiler() if ask is None else ask

    def dependencies(self) -> list[str]:
        return [*REQUIRES] if self.wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sources = [Path(self.root, source) for source in SOURCES]
        if version == "editable":
            for source in sources:
                _beside(source).unlink(missing_ok=True)  # a stale extension would be imported
        if not self.wanted():
            return
        self._folder = TemporaryDirectory(prefix="hl7core-compiled-")
        try:
            folders = [Path(self._folder.name, str(number)) for number, _ in enumerate(sources)]
            with ThreadPoolExecutor() as pool:
                made = list(pool.map(self.compile, sources, folders))
        except subprocess.CalledProcessError as error:
            self._folder.cleanup()
            said = f"{error.stdout.decode(errors='replace')[-_QUOTED:]}\n{REMEDY}"
            if required():
                self.app.abort(f"{said}  Unset {VARIABLE} to build pure Python instead.")
            self.app.display_warning(f"{said}  This build of hl7core is pure Python: slower, with the same answers.")
            return
        for source, compiled in zip(sources, made, strict=True):
            if version == "editable":
                shutil.copy(compiled, _beside(source))
            else:
                place = f"hl7core/{source.parent.name}/{compiled.name}"
                build_data["force_include"][str(compiled)] = place
        if version != "editable":
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def compile(self, source: Path, folder: Path) -> Path:
        """Compile ``source`` in ``folder``; return the extension.  Raises CalledProcessError with the output."""
        module = f"hl7core.{source.parent.name}.{source.stem}"
        digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts_of(source))).hexdigest()
        folder.mkdir()
        script = f"""
import sys
from Cython.Compiler.Main import compile_single
from Cython.Compiler.Options import CompilationOptions
from setuptools import Distribution, Extension

result = compile_single({str(source)!r}, CompilationOptions(output_file="_native.c", language_level=3), {module!r})
if result.num_errors:
    sys.exit(1)
extension = Extension(
    {module!r}, ["_native.c"], define_macros=[("HL7CORE_SOURCE", '"{digest}"')],
    extra_compile_args=[] if sys.platform == "win32" else ["-O3", "-g0", "-w"],
)
command = Distribution({{"name": "hl7core", "ext_modules": [extension]}}).get_command_obj("build_ext")
command.build_lib, command.build_temp = "made", "temp"
command.ensure_finalized()
command.run()
"""
        command = (sys.executable, "-c", script)
        subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        (made,) = (folder / "made").rglob("_native*")
        return made
