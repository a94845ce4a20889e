"""The interfaces of this machine."""

from __future__ import annotations

import sys

from hl7core import Interface
from hl7core_plugins.scapy_source import LiveSource, ScapySource, interfaces
from plugins.scapy_source.parts import MACHINE


class TestInterfaces:
    def test_the_loopback_is_listed_with_its_address_state_and_link_layer(self):
        loopback = next(entry for entry in ScapySource().list_interfaces() if "127.0.0.1" in entry.addresses)
        assert loopback.is_up
        assert "loopback" in loopback.description
        if sys.platform == "linux":
            assert loopback.link_type == interfaces.ETHERNET

    def test_the_capture_process_can_list_them_where_the_system_library_cannot(self):
        theirs = {entry.name: entry.addresses for entry in interfaces._ask_scapy()}
        ours = {entry.name: entry.addresses for entry in interfaces.list_interfaces()}
        assert theirs.keys() == ours.keys()
        assert all(set(theirs[name]) == set(ours[name]) for name in ours)

    def test_a_source_names_its_interfaces_also_one_that_is_gone(self, machine):
        assert LiveSource(["eth0", "eth5"]).interfaces() == [MACHINE[1], Interface("eth5", is_up=False)]
