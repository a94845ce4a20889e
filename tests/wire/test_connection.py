"""Connections: each limit is a setting."""

import pytest

from hl7core.settings.reading import CoreSettings


@pytest.mark.parametrize(
    "name", ["max_message", "max_connections", "reassembly_bytes", "idle_timeout", "ack_timeout", "silence"]
)
def test_each_bound_is_a_setting_with_a_description(name):
    field = CoreSettings.model_fields[name]
    assert field.description
    assert field.default > 0
