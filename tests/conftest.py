"""What all tests have in common."""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that stalls for a second says nothing about a test: no promise here is about speed.
settings.register_profile("anywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anywhere")


def leave_home():
    """Give the tests, and what they start, an empty home: neither are your settings and sessions read, nor written.

    Only what pip was told (where packages come from) goes along, for the tests that install something.
    """
    config = Path(os.environ.pop("XDG_CONFIG_HOME", Path.home() / ".config"))
    if (pip := config / "pip/pip.conf").is_file():
        os.environ.setdefault("PIP_CONFIG_FILE", str(pip))
    for name in [name for name in os.environ if name.startswith(("HL7CORE_", "XDG_DATA_", "XDG_STATE_"))]:
        del os.environ[name]
    os.environ["HOME"] = tempfile.mkdtemp(prefix="hl7core-home-")
    atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


leave_home()


@pytest.fixture(autouse=True)
def _log_levels():
    """Restore the level of the package's logger: a command with a live view lowers it for its own process."""
    logger = logging.getLogger("hl7core")
    level = logger.level
    yield
    logger.setLevel(level)
