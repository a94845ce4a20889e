"""The house as a whole: names that must agree, and what the commands must not import."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def folders() -> set[str]:
    return {path.name for path in (ROOT / "plugins/hl7core_plugins").iterdir() if (path / "__init__.py").exists()}


def test_a_plugin_folder_is_an_entry_point_of_the_same_name():
    points = PROJECT["project"]["entry-points"]["hl7core"]
    assert set(points) == folders()
    assert all(value.startswith(f"hl7core_plugins.{name}:") for name, value in points.items())


def test_the_independence_contract_names_every_plugin():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    independence = next(contract for contract in contracts if contract["type"] == "independence")
    assert {name.removeprefix("hl7core_plugins.") for name in independence["modules"]} == folders()


def imported_by(*arguments: str) -> set[str]:
    script = (
        "import sys; sys.argv = ['hl7core', *sys.argv[1:]]\n"
        "from hl7core.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('IMPORTED', *sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["version"]])
def test_help_imports_nothing_heavy_and_no_plugin(arguments):
    modules = imported_by(*arguments)
    heavy = {
        "scapy",
        "hl7apy",
        "httpx",
        "pydantic",
        "dynaconf",
        "rich",
        "pluggy",
        "watchfiles",
        "hl7core_plugins",
        "orjson",
    }
    assert not modules & heavy


def test_reading_a_capture_imports_nothing_that_only_names_parts_of_messages(tmp_path):
    from hl7core.wire.pcap.synthetic_tcp import TcpTalk
    from hl7core.wire.pcap.writer import pcap_header, pcap_record

    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|A|B|C|D|||ORU^R01|M1|P|2.5\r\x1c\r")
    capture = tmp_path / "day.pcap"
    capture.write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets))
    assert not imported_by("read", str(capture), "-o", "messages") & {"hl7apy", "hl7core.hl7.names", "scapy"}


def test_every_public_name_is_there():
    import hl7core

    for name in hl7core.__all__:
        assert getattr(hl7core, name) is not None


def test_every_module_says_what_it_is_for():
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    assert files
    assert not [path for path in files if not path.read_text().lstrip().startswith(('"""', 'r"""'))]
