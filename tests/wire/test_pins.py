"""What ``[core] protocols`` may say."""

from __future__ import annotations

import pytest

from hl7core.errors import SettingsError
from hl7core.model.packet import Endpoint
from hl7core.settings.model import CoreSettings
from hl7core.settings.validation import validate_table
from hl7core.wire.connection import DecoderOptions
from hl7core.wire.pins import Pin, parse_pins, pinned
from wire.first_bytes import LIS01_SESSION, sessions


@pytest.mark.parametrize(
    ("text", "pins"),
    [
        ("", ()),
        ("10.1.2.3:4000=lis01, :2575=mllp", (Pin("10.1.2.3", 4000, "lis01"), Pin("", 2575, "mllp"))),
        ("10.1.2.3 = plain,", (Pin("10.1.2.3", 0, "plain"),)),
        ("10.2.0.7/24=mllp", (Pin("10.2.0.0/24", 0, "mllp"),)),
        ("10.2.0.0/24:4000=fixed_frames", (Pin("10.2.0.0/24", 4000, "fixed_frames"),)),
        ("[fd00::7]:4000=lis01", (Pin("fd00::7", 4000, "lis01"),)),
        ("fd00::7=lis01, [FD00:0::8]=mllp", (Pin("fd00::7", 0, "lis01"), Pin("fd00::8", 0, "mllp"))),
    ],
)
def test_pairs_of_place_and_protocol_are_read(text, pins):
    assert parse_pins(text) == pins


@pytest.mark.parametrize(
    "text",
    ["mllp", "=mllp", ":=mllp", ":0=mllp", ":65536=mllp", "host:1=mllp", "10.0.0.256=mllp", "10.0.0.1:x=mllp",
     "10.0.0.1=", "10.0.0.1=MLLP", "10.0.0.1:1=mllp=lis01", "10.0.0.1:1=mllp :2=lis01", "[10.0.0.1=mllp"],
)  # fmt: skip
def test_what_is_none_is_refused_with_the_rule(text):
    with pytest.raises(SettingsError, match=r"core\.protocols: must be empty, or PLACE=PROTOCOL pairs"):
        validate_table(CoreSettings, "core", {"protocols": text})


def test_the_settings_reach_the_decoder():
    core = validate_table(CoreSettings, "core", {"protocols": ":2575=mllp", "idle_timeout": 60})
    assert core.decoder_options().protocols == (Pin("", 2575, "mllp"),)
    assert core.decoder_options().idle_ns == 60 * 10**9


def test_either_end_may_be_the_place():
    ends = (Endpoint("10.0.0.5", 50000), Endpoint("10.0.0.9", 4000))
    for pin in (Pin("10.0.0.5", 0, "x"), Pin("10.0.0.9", 4000, "x"), Pin("", 4000, "x"), Pin("10.0.0.0/8", 0, "x")):
        assert pinned([pin], ends) == "x"
    for pin in (Pin("10.0.0.5", 4000, "x"), Pin("", 4001, "x"), Pin("10.0.0.10", 0, "x"), Pin("fd00::/8", 0, "x")):
        assert pinned([pin], ends) == ""


@pytest.mark.parametrize(
    ("pin", "protocol"),
    [
        (Pin("10.0.0.9", 4000, "plain"), "plain"),
        (Pin("10.0.0.0/24", 0, "plain"), "plain"),
        (Pin("10.0.0.9", 4001, "plain"), "lis01"),
        (Pin("10.0.1.0/24", 0, "plain"), "lis01"),
        (Pin("", 4000, "nobody's"), "lis01"),
    ],
)
def test_a_pin_fits_an_address_a_network_a_port_or_both(pin, protocol):
    found, _ = sessions([(0, LIS01_SESSION[0]), (1, LIS01_SESSION[1])], DecoderOptions(protocols=(pin,)))
    assert {s.protocol for s in found} == {protocol}


def test_the_first_pin_that_fits_holds():
    pins = (Pin("10.0.0.9", 0, "plain"), Pin("", 4000, "mllp"))
    found, _ = sessions([(0, LIS01_SESSION[0]), (1, LIS01_SESSION[1])], DecoderOptions(protocols=pins))
    assert {s.protocol for s in found} == {"plain"}
