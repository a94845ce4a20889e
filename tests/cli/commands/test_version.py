"""``hl7core version``."""

import json

from hl7core import HOOK_API
from shell import hl7core


def test_version_as_json_names_what_it_runs_on(tmp_path):
    answer = json.loads(hl7core("version", "--json", cwd=tmp_path).stdout)
    assert answer["hl7core"]
    assert answer["hookApi"] == HOOK_API
    assert "scapy" in answer["libraries"]
