"""What several tests of commands use."""

import pytest

from hl7core.testing import HttpReceiver


@pytest.fixture
def receiver(tmp_path):
    """A receiver that accepts sessions; the settings in ``tmp_path`` name it."""
    with HttpReceiver() as receiver:
        endpoint = f'[plugins.rest_destination]\nendpoint = "{receiver.url}"\nmax_retries = 1\n'
        (tmp_path / "settings.toml").write_text(endpoint)
        yield receiver
