"""The documentation says what the code does."""

import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hl7core import errors, hookspecs
from hl7core.cli.commands.settings import shipped
from hl7core.cli.main import _COMMANDS
from shell import ENV

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def reference():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hooks() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "hl7core_spec")]


def test_the_hooks_page_follows_from_the_specifications():
    assert (DOCS / "plugin_hooks.md").read_text() == reference().hooks_page()


def test_every_hook_has_a_section_and_an_example():
    page = (DOCS / "plugin_hooks.md").read_text()
    assert len(hooks()) >= 21
    for name in hooks():
        assert f"### {name}(" in page
        assert f"def {name}(self" in page


def test_the_six_hooks_of_a_sessions_life_exist():
    assert {
        "on_packet", "on_session_complete", "persist_session", "load_sessions", "submit_session", "cleanup",
    } <= set(hooks())  # fmt: skip


def test_every_example_takes_arguments_that_its_hook_offers():
    for name, code in reference().EXAMPLES.items():
        scope: dict = {}
        exec(f"class P:\n    {code.replace(chr(10), chr(10) + '    ')}", scope)
        offered = set(inspect.signature(getattr(hookspecs, name)).parameters)
        taken = set(inspect.signature(getattr(scope["P"], name)).parameters) - {"self"}
        assert taken <= offered, name


def test_the_settings_page_follows_from_the_models():
    assert (DOCS / "settings.md").read_text() == reference().settings_page()


def test_every_environment_variable_that_is_read_stands_on_the_settings_page():
    page = (DOCS / "settings.md").read_text()
    code = [path for room in ("src", "plugins") for path in (ROOT / room).rglob("*.py")]
    read = {
        name
        for path in code
        for name in re.findall(r"environ\b[^\n]{0,8}\"((?:HL7CORE|NO)_[A-Z_]+)\"", path.read_text())
    }
    assert {"HL7CORE_SETTINGS", "HL7CORE_TRACE_HOOKS", "HL7CORE_PURE", "NO_COLOR"} <= read
    assert {name for name in read if f"| `{name}` |" not in page} == set()


def test_the_trace_of_hooks_is_printed_as_the_page_shows_it(tmp_path):
    page = (DOCS / "plugin_hooks.md").read_text()
    (example,) = re.findall(r"\$ HL7CORE_TRACE_HOOKS=1 hl7core run\n((?:    .*\n)+)", page)
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO hl7core\.hooks: [a-z_]+ [a-z_]+ \d+\.\d ms"
    assert all(re.fullmatch(form, line.strip()) for line in example.splitlines())
    command = [sys.executable, "-m", "hl7core", "capture", "-i", "nope0"]  # quieter than ``run``, and still traced
    env = ENV | {"HL7CORE_TRACE_HOOKS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in done.stderr.splitlines() if "hl7core.hooks" in line]
    assert lines
    assert all(re.fullmatch(form, line) for line in lines)


def test_the_hook_api_of_the_page_is_the_public_one():
    from hl7core import HOOK_API

    assert f"This page describes hook API {HOOK_API}," in (DOCS / "plugin_hooks.md").read_text()


def test_the_shipped_settings_follow_from_the_models_and_change_nothing():
    text = (ROOT / "settings.toml").read_text()
    assert text == shipped()
    assert not any(tomllib.loads(text)["core"].values())


def test_the_lis01_diagram_is_drawn_from_its_table():
    assert reference().wire_diagram() in (DOCS / "wire.md").read_text()


def test_every_error_stands_in_the_tree():
    for name in errors.__all__:
        assert re.search(rf"[├└ ].*{name}|^{name}", errors.__doc__, re.MULTILINE), name


def test_what_contributing_names_exists_and_its_one_test_runs():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:src|tests|docs|plugins|bench)/[\w./-]*)`", page))
    named |= set(re.findall(r"^    pytest .*?(tests/\S+)", page, re.MULTILINE))
    assert {"src/hl7core/hookspecs.py", "tests/wire/framing/test_mllp.py", "docs/examples/"} <= named
    assert {path for path in named if not (ROOT / path).exists()} == set()
    for name in re.findall(r"`(\w+\.py)`", page):
        assert list((ROOT / "src").rglob(name)), name
    (one,) = re.findall(r"^    pytest (-n 0 \S+ -k \w+)", page, re.MULTILINE)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *one.split()]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", page)) <= set(extras)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in DOCS.glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/writing_plugins.md"])
def test_commands_in_the_documentation_exist(page):
    names = re.findall(r"^    (?:.*&& |.*\| )?(?:sudo )?hl7core ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert names
    assert set(names) <= set(_COMMANDS)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_library_example_runs(page, tmp_path, monkeypatch, capsys):
    from hl7core.wire.pcap.synthetic_tcp import TcpTalk
    from hl7core.wire.pcap.writer import pcap_header, pcap_record

    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|A|B|C|D|||ORU^R01|M1|P|2.5\r\x1c\r")
    (tmp_path / "day.pcap").write_bytes(
        pcap_header() + b"".join(pcap_record(packet.time_ns, packet.data) for packet in talk.packets)
    )
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(from hl7core import CaptureFile.*?)```", (ROOT / page).read_text(), re.DOTALL)
    exec(code, {})
    assert "['M1']" in capsys.readouterr().out


def test_the_dialects_suite_of_the_page_is_the_suite():
    from hl7core.testing import NOISE, FramerContract

    page = (DOCS / "writing_plugins.md").read_text()
    (code,) = re.findall(r"```python\n(from hl7core.testing import FramerContract.*?)```", page, re.DOTALL)
    scope: dict = {"MY_DIALECT": None}
    exec(code, scope)
    offered = {name for name in vars(scope["TestMyDialect"]) if not name.startswith("_")}
    assert offered == FramerContract.__abstractmethods__
    assert scope["TestMyDialect"]().conversation() == (b"\x02whole frame\x03", b"\x06")
    assert len(NOISE) >= 40
    assert (DOCS / "examples/hl7core-fixed-frames/pyproject.toml").exists()


def test_what_the_contracts_require_stands_on_the_page():
    from hl7core import FrameKind
    from hl7core.testing import Mode, StoreContract
    from hl7core.testing.destination_base import ReceivingEnd
    from hl7core.testing.destination_contract import _KINDS
    from hl7core.testing.store_base import StoreBase

    page = (DOCS / "writing_plugins.md").read_text()
    for kind in FrameKind:
        assert f"| `{kind.name}` |" in page
    for mode in Mode:
        (row,) = re.findall(rf"\| `{mode.name}` \|.*", page)
        assert mode not in _KINDS or f"`{_KINDS[mode].__name__}`" in row
    helpers = {"load", "fill", "save", "delete", "restore", "empty", "has"}
    may = {name for name in vars(StoreBase) if not name.startswith("_")} - helpers - StoreContract.__abstractmethods__
    assert may == set(re.findall(r"`(\w+)", page.split("| override |")[1].split("## ")[0])) & may
    (code,) = re.findall(
        r"```python\n(from hl7core.testing import DestinationContract, ReceivingEnd.*?)```", page, re.DOTALL
    )
    scope: dict = {}
    exec(code, scope)
    defined = {name for name in vars(scope["Folder"]) if not name.startswith("_")}
    assert defined == ReceivingEnd.__abstractmethods__


def test_the_plugin_of_the_page_is_a_plugin():
    from hl7core import PluginSettings

    (code,) = re.findall(
        r"```python\n(from hl7core import PluginSettings.*?)```", (DOCS / "writing_plugins.md").read_text(), re.DOTALL
    )
    scope: dict = {}
    exec(code, scope)
    assert issubclass(scope["Counter"]().register_settings(), PluginSettings)


def paths_named_in(page: str) -> set[str]:
    """Return the paths that a page names in backticks, and those in its tree, the first block of code."""
    named = set(re.findall(r"`([\w./]+\.(?:pyx?|pxi))`", page)) | set(re.findall(r"`((?:\w+/)+)`", page))
    folder = ""
    for line in page.split("```")[1].strip().splitlines():
        names = re.match(r"(?:[\w.]+(?:\.py|/) ?)+", line.strip())
        assert names, line
        folder = folder if line.startswith(" ") else ""
        named |= {folder + name for name in names[0].split()}
        folder = folder or (names[0].split()[0] if "/" in names[0] else "")
    return named


def test_every_path_in_the_architecture_exists():
    page = (DOCS / "architecture.md").read_text()
    named = paths_named_in(page)
    assert {"wire/mllp_sessions/", "engine/outbox/", "plugin_host/registry.py", "engine/capture/intake.py"} <= named
    roots = (ROOT, ROOT / "src/hl7core")
    optional = {"dynaconf_hooks.py"}  # a file that somebody may have, named to say that it is not run
    assert sorted(n for n in named - optional if not any((root / n).exists() for root in roots)) == []
