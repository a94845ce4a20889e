"""A redactor that does not run keeps every command from saving, with or without a running engine."""

import shutil
from pathlib import Path

import pytest

from third_party import distribution, hl7core

CAPTURE = Path(__file__).parent / "captures" / "ack_late.pcap"
REDACTOR = """
from hl7core import PluginSettings, hookimpl


class Redactor:
    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def before_persist(self, session):
        {body}
"""


@pytest.fixture
def place(tmp_path):
    """A folder whose settings enable the redactor, and what writes its code."""
    site = tmp_path / "site"
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "settings.toml").write_text("[plugins.redactor]\nenabled = true\n")

    def write(body):
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir()
        distribution(site, "redactor", REDACTOR.format(body=body), {"redactor": "Redactor"})

    def run(*arguments):
        return hl7core(site, "--settings", folder / "settings.toml", *arguments)

    return folder, write, run


def stored(folder):
    return list((folder / "docs" / "sessions").glob("*.json"))


def test_read_store_and_imports_end_with_1_while_a_required_redactor_fails_and_save_nothing(place):
    folder, write, run = place
    write("raise ValueError('canary')")
    made = run("read", "--store", CAPTURE)
    assert made.returncode == 1, made.stderr
    assert "nothing is saved, because the required plugin redactor" in made.stderr
    assert "canary" not in made.stderr
    assert stored(folder) == []


def test_one_that_cannot_be_loaded_any_more_keeps_them_from_saving_too_until_a_person_lifts_it(place):
    folder, write, run = place
    write("return None")
    assert run("read", "--store", CAPTURE).returncode == 0
    there = stored(folder)
    assert there
    lines = folder / "day.jsonl"
    lines.write_bytes(b"".join(path.read_bytes().replace(b"\n", b"") + b"\n" for path in there))
    for path in there:
        path.unlink()
    write("return None\n\nraise ImportError('gone')")
    for arguments in (("read", "--store", CAPTURE), ("sessions", "import", lines)):
        made = run(*arguments)
        assert made.returncode == 1, made.stderr
        assert "the required plugin redactor" in made.stderr
        assert stored(folder) == []
    assert "the required plugin redactor cannot be loaded" in run("doctor").stdout
    (folder / "settings.toml").write_text("[plugins.redactor]\nenabled = true\nrequired = false\n")
    assert run("read", "--store", CAPTURE).returncode == 0
    assert stored(folder)
