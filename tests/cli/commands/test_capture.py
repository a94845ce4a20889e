"""``hl7core capture``: interfaces and privileges."""

import os
import shutil
import sys

import pytest

from shell import hl7core

ROOT_ON_LINUX = sys.platform == "linux" and os.geteuid() == 0


@pytest.mark.skipif(not ROOT_ON_LINUX, reason="opening a packet socket needs root on Linux")
def test_a_missing_interface_is_exit_7_and_lists_those_that_exist(tmp_path):
    run = hl7core("capture", "-i", "nope0", "--no-store", cwd=tmp_path)
    assert run.returncode == 7
    assert "lo" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.skipif(
    not ROOT_ON_LINUX or shutil.which("setpriv") is None, reason="taking rights away needs root and setpriv"
)
def test_missing_rights_are_exit_6_with_the_remedy(tmp_path):
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    run = hl7core("capture", "-i", "lo", "--no-store", cwd=tmp_path, prefix=prefix)
    assert run.returncode == 6, run.stderr
    assert "Capture rights" in run.stderr
    doctor = hl7core("doctor", cwd=tmp_path, prefix=prefix)
    assert doctor.returncode == 6
    assert "CAP_NET_RAW" in doctor.stdout


def test_interfaces_are_listed_without_rights(tmp_path):
    assert "127.0.0.1" in hl7core("capture", "-D", cwd=tmp_path).stdout


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    for path in (tmp_path / "missing" / "x.pcapng", tmp_path):
        run = hl7core("capture", "-c", "1", "-w", path, cwd=tmp_path)
        assert run.returncode == 1
        assert f"{path} cannot be written: " in run.stderr
        assert "Traceback" not in run.stderr
