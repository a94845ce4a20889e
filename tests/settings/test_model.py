import pytest

from hl7core.settings.model import CoreSettings
from settings.tables import problems


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[core]\nlis_address = '10.0.0.1, host'", "core.lis_address: must be empty, or IP addresses"),
        ("[core]\nack_marker = 5", "core: start_marker, ack_marker and end_marker must differ"),
    ],
)
def test_addresses_and_markers_that_break_a_rule_are_refused_with_the_rule(file, text, sentence):
    file.write_text(text)
    found = problems(file)
    assert len(found) == 1, found
    assert sentence in found[0]
    assert "canary" not in found[0]


def test_the_decoder_gets_nanoseconds_and_addresses_one_by_one():
    core = CoreSettings(ack_timeout=1.5, silence=2, idle_timeout=3, device_address=" 10.0.0.1, 10.1.0.0/16,")
    options = core.decoder_options("ward")
    assert (options.ack_timeout_ns, options.silence_ns, options.idle_ns) == (
        1_500_000_000,
        2_000_000_000,
        3_000_000_000,
    )
    assert (options.device_addresses, options.lis_addresses) == (("10.0.0.1", "10.1.0.0/16"), ())
    assert options.sensor == "ward"
