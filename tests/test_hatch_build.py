"""The build compiles the C extensions where it can, and a failed compilation never fails an installation."""

import hashlib
import json
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from hl7core.cli.commands.version import is_compiled

ROOT = Path(__file__).parent.parent
CLEARED = {**dict.fromkeys(("CC", "HL7CORE_COMPILE", "HL7CORE_PURE"))}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)


def builder():
    return WheelBuilder(str(ROOT))


def hook():
    return builder().get_build_hooks(str(ROOT))["custom"]


def built(version="standard"):
    data = builder().get_default_build_data()
    own = hook()
    own.initialize(version, data)
    own.finalize(version, data, "")
    return data


def broken(monkeypatch, tmp_path):
    """A build hook whose source does not compile."""
    source = tmp_path / "_native.pyx"
    source.write_text("cdef what(:\n")
    names = hook().initialize.__globals__
    monkeypatch.setitem(names, "SOURCES", [str(source)])
    own = hook()
    monkeypatch.setitem(own.initialize.__globals__, "SOURCES", [str(source)])
    return own


def test_without_a_compiler_the_wheel_is_pure_and_has_no_build_dependencies(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert builder().config.dependencies == []
    assert json.dumps(built()) == json.dumps(builder().get_default_build_data())


def test_compile_0_gives_a_wheel_for_any_platform(monkeypatch):
    monkeypatch.setenv("HL7CORE_COMPILE", "0")
    assert builder().config.dependencies == []
    assert json.dumps(built()) == json.dumps(builder().get_default_build_data())


def test_compile_1_requires_the_compilers_whatever_is_installed(monkeypatch):
    monkeypatch.setenv("HL7CORE_COMPILE", "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert [needed.split(">")[0] for needed in builder().config.dependencies] == ["cython", "setuptools"]


def test_any_value_but_1_and_0_is_refused(monkeypatch):
    monkeypatch.setenv("HL7CORE_COMPILE", "yes")
    with pytest.raises(ValueError, match="HL7CORE_COMPILE must be 1"):
        hook().wanted()


def test_a_failed_compilation_leaves_a_pure_build_that_says_so(monkeypatch, tmp_path, capfd):
    own = broken(monkeypatch, tmp_path)
    monkeypatch.setattr(type(own), "wanted", lambda _: True)
    data = builder().get_default_build_data()
    own.initialize("standard", data)
    assert json.dumps(data) == json.dumps(builder().get_default_build_data())
    said = "".join(capfd.readouterr())
    assert "need a C compiler and Python's headers" in said
    assert "This build of hl7core is pure Python" in said


def test_a_failed_compilation_fails_the_build_with_compile_1(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("HL7CORE_COMPILE", "1")
    own = broken(monkeypatch, tmp_path)
    with pytest.raises(SystemExit) as ended:
        own.initialize("standard", {})
    assert ended.value.code == 1
    assert "need a C compiler and Python's headers" in "".join(capfd.readouterr())


def test_an_editable_install_never_keeps_a_stale_extension(monkeypatch, tmp_path):
    own = broken(monkeypatch, tmp_path)
    old = tmp_path / ("_native" + sysconfig.get_config_var("EXT_SUFFIX"))
    old.write_bytes(b"of yesterday")
    monkeypatch.setenv("HL7CORE_COMPILE", "0")
    own.initialize("editable", {})
    assert not old.exists()


@pytest.mark.skipif(not is_compiled(), reason="the C extensions are not installed")
@pytest.mark.parametrize("room", ["hl7", "model", "wire"])
def test_the_extensions_are_built_from_this_source(room):
    parts = hook().initialize.__globals__["parts_of"](ROOT / f"src/hl7core/{room}/_native.pyx")
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert digest == import_module(f"hl7core.{room}._native").SOURCE, "the extension is stale: run pip install -e ."


@pytest.mark.parametrize(("pure", "compiled"), [("0", is_compiled()), ("1", False)])
def test_version_tells_whether_the_decoder_is_compiled(monkeypatch, tmp_path, pure, compiled):
    monkeypatch.setenv("HL7CORE_PURE", pure)
    run = [sys.executable, "-m", "hl7core", "version"]
    text = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    answer = json.loads(subprocess.run([*run, "--json"], capture_output=True, check=True, cwd=tmp_path).stdout)
    assert answer["compiled"] is compiled
    assert ("compiled" in text) is compiled
