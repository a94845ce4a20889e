"""Which interfaces a request means."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hl7core import Interface, InterfaceMissing, PacketSource, SourceError, SourceRequest
from hl7core_plugins.scapy_source import ScapySource, ScapySourceSettings, plugin
from plugins.scapy_source.parts import opened


class TestWhichPackets:
    def test_capture_files_are_for_another_plugin(self, machine):
        assert opened(SourceRequest(files=("day.pcap",))) is None

    def test_a_live_request_yields_a_packet_source(self, machine):
        assert isinstance(opened(SourceRequest()), PacketSource)

    def test_without_a_name_every_interface_that_is_up_and_can_be_captured_is_meant(self, machine):
        assert opened(SourceRequest()).name == "lo, eth0"
        assert opened(SourceRequest(interfaces=("any",))).name == "lo, eth0"

    def test_the_settings_name_interfaces_separated_by_commas(self, machine):
        assert opened(SourceRequest(), interfaces=" eth0 ,eth1,").name == "eth0, eth1"

    def test_what_a_person_asks_for_wins_over_the_settings(self, machine):
        asked = SourceRequest(interfaces=("lo",), bpf="tcp port 1", default_bpf="tcp port 3")
        found = opened(asked, interfaces="eth0", bpf="tcp port 2")
        assert (found.name, found._order["bpf"]) == ("lo", "tcp port 1")

    def test_the_filter_is_the_persons_else_the_settings_else_the_default(self, machine):
        assert opened(SourceRequest(default_bpf="tcp port 3"), bpf="tcp port 2")._order["bpf"] == "tcp port 2"
        assert opened(SourceRequest(default_bpf="tcp port 3"))._order["bpf"] == "tcp port 3"

    def test_an_interface_that_does_not_exist_is_refused_with_those_that_do(self, machine):
        with pytest.raises(InterfaceMissing, match="no interface 'eth9'") as refused:
            opened(SourceRequest(interfaces=("eth9",)))
        assert refused.value.existing == ("lo", "eth0", "eth1", "odd0")

    def test_a_machine_with_no_interface_up_is_told_so(self, monkeypatch):
        monkeypatch.setattr(plugin, "list_interfaces", lambda: [Interface("eth1", is_up=False)])
        with pytest.raises(SourceError, match="no interface is up"):
            opened(SourceRequest())

    def test_promiscuous_mode_needs_both_the_request_and_the_settings(self, machine):
        assert opened(SourceRequest())._order["promiscuous"] is True
        assert opened(SourceRequest(promiscuous=False))._order["promiscuous"] is False
        assert opened(SourceRequest(), promiscuous=False)._order["promiscuous"] is False

    @pytest.mark.parametrize("wrong", [{"snaplen": 10}, {"snaplen": 262_145}, {"buffer_mib": 0}, {"iface": "eth0"}])
    def test_settings_out_of_bounds_are_refused(self, wrong):
        with pytest.raises(ValueError):
            ScapySourceSettings(**wrong)


def test_a_filter_that_does_not_compile_is_refused_with_the_settings():
    with pytest.raises(ValidationError, match="capture filter 'tcp prot 5' is not valid"):
        ScapySourceSettings(bpf="tcp prot 5")
    assert ScapySourceSettings(bpf="tcp port 5").bpf == "tcp port 5"


def test_an_interface_that_the_settings_name_is_waited_for_and_one_that_a_person_names_must_exist():
    live = ScapySource()
    live.configure(ScapySourceSettings(interfaces="lo, never0"))
    source = live.open_source(SourceRequest())
    assert source.name == "lo, never0"
    with pytest.raises(InterfaceMissing):
        live.open_source(SourceRequest(interfaces=("never0",), configured=False))
