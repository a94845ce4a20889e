"""Fixtures for the tests of rest_destination."""

from __future__ import annotations

import pytest

from hl7core.testing import HttpReceiver
from plugins.rest_destination.tls_files import TlsFiles


@pytest.fixture
def receiver():
    with HttpReceiver() as opened:
        yield opened


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return TlsFiles(tmp_path_factory.mktemp("tls"))
