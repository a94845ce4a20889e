"""The compiled build is there for who asks, and costs nobody else anything.  What it makes: tests/compiled.sh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from hl7core.cli.version import is_compiled

ROOT = Path(__file__).parent.parent


def hook():
    builder = WheelBuilder(str(ROOT))
    return builder.get_build_hooks(str(ROOT))["custom"]


@pytest.mark.parametrize("value", [None, "", "0"])
def test_unless_it_is_asked_for_the_wheel_is_pure_and_needs_nothing_more(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("HL7CORE_COMPILE", raising=False)
    else:
        monkeypatch.setenv("HL7CORE_COMPILE", value)
    builder = WheelBuilder(str(ROOT))
    data = builder.get_default_build_data()
    before = json.dumps(data)
    hook().initialize("standard", data)
    assert json.dumps(data) == before
    assert builder.config.dependencies == []


def test_asked_for_it_needs_mypyc_to_build(monkeypatch):
    monkeypatch.setenv("HL7CORE_COMPILE", "1")
    (needed,) = WheelBuilder(str(ROOT)).config.dependencies
    assert needed.startswith("mypy[mypyc]")


def test_an_editable_install_is_never_compiled(monkeypatch):
    monkeypatch.setenv("HL7CORE_COMPILE", "1")
    data = WheelBuilder(str(ROOT)).get_default_build_data()
    before = json.dumps(data)
    hook().initialize("editable", data)
    assert json.dumps(data) == before


def test_another_word_than_1_or_0_is_refused(monkeypatch):
    monkeypatch.setenv("HL7CORE_COMPILE", "yes")
    with pytest.raises(ValueError, match="HL7CORE_COMPILE is 1"):
        hook().initialize("standard", {})


def test_a_compile_that_fails_fails_the_build_and_says_what_it_needs(tmp_path, capfd):
    (tmp_path / "broken.py").write_text("what(: int\n")
    with pytest.raises(SystemExit) as ended:
        hook().compile(tmp_path, ["broken.py"])
    said = "".join(capfd.readouterr())
    assert ended.value.code == 1
    assert "needs a C compiler and Python's headers" in said
    assert "Without HL7CORE_COMPILE the build is pure Python" in said


def test_every_room_that_it_names_is_there():
    names = hook().initialize.__globals__
    package = ROOT / "src" / "hl7core"
    assert all(list(package.glob(pattern)) for pattern in (*names["ROOMS"], *names["LEFT_OUT"]))


def test_the_version_says_whether_the_decoder_is_compiled(tmp_path):
    run = [sys.executable, "-m", "hl7core", "version"]
    text = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    answer = json.loads(subprocess.run([*run, "--json"], capture_output=True, check=True, cwd=tmp_path).stdout)
    assert answer["compiled"] is is_compiled()
    assert ("compiled" in text) is is_compiled()
