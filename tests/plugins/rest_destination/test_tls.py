"""Whom we trust, and what we show: certificates."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from hl7core import DestinationUnreachable, Receipt, SettingsError
from hl7core.testing import HttpReceiver, make_session
from hl7core_plugins.rest_destination import RestSettings
from plugins.rest_destination.parts import SECRET, play, submitting


def test_a_receiver_of_ones_own_ca_is_trusted(tls):
    with HttpReceiver(context=tls.context(tls.server)) as receiver:
        assert submitting(endpoint=receiver.url, ca_file=str(tls.ca)) == Receipt()
    assert receiver.processed == [make_session(1).id]


@pytest.mark.parametrize("case", ["no ca_file", "another CA", "another name", "expired"])
def test_a_receiver_that_is_not_to_be_trusted_gets_nothing(tls, case):
    certificate = {"another name": tls.elsewhere, "expired": tls.expired}.get(case, tls.server)
    ca_file = {"no ca_file": "", "another CA": str(tls.other_ca)}.get(case, str(tls.ca))
    with HttpReceiver(context=tls.context(certificate)) as receiver:
        outcome = submitting(endpoint=receiver.url, ca_file=ca_file, auth_header=SecretStr(SECRET))
    assert type(outcome) is DestinationUnreachable
    assert "its certificate is not trusted" in str(outcome)
    assert not receiver.requests


def test_a_client_certificate_is_shown(tls):
    trust = {"ca_file": str(tls.ca)}
    with HttpReceiver(context=tls.context(tls.server, clients_of=tls.ca)) as receiver:
        shown = submitting(
            endpoint=receiver.url, client_certificate=str(tls.client), client_key=str(tls.key(tls.client)), **trust
        )
        assert shown == Receipt()
        assert type(submitting(endpoint=receiver.url, **trust)) is DestinationUnreachable
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"ca_file": "/no/such/file"}, "ca_file: the file cannot be read: No such file or directory"),
        ({"ca_file": "{key}"}, "ca_file: must be a file with CA certificates in PEM format"),
        ({"client_certificate": "/no/such/file"}, "client_certificate: the file cannot be read: No such file"),
        ({"client_certificate": "{client}", "client_key": "/no/such"}, "client_key: the file cannot be read"),
        (
            {"client_certificate": "{client}"},
            "client_certificate: client_certificate and client_key must be a certificate and its key",
        ),
        ({"client_certificate": "{client}", "client_key": "{other}"}, "must be a certificate and its key"),
        ({"client_certificate": "{client}", "client_key": "{encrypted}"}, "not encrypted"),
        ({"auth_header_file": "/no/such/file"}, "auth_header_file: the file cannot be read: No such file"),
        ({"auth_header_file": "{empty}"}, "auth_header_file: its first line must be one line of printable ASCII"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_what_was_in_force_stays(receiver, tls, tmp_path, settings, problem):
    (tmp_path / "empty").touch()
    files = {
        "key": tls.key(tls.ca), "client": tls.client, "other": tls.key(tls.server), "encrypted": tls.encrypted_key,
        "empty": tmp_path / "empty",
    }  # fmt: skip

    async def scene(destination):
        new = RestSettings(endpoint="https://lis.example/", **{k: v.format(**files) for k, v in settings.items()})
        with pytest.raises(SettingsError) as caught:
            destination.configure(new)
        assert caught.value.problems[0].startswith("plugins.rest_destination.")
        assert problem in str(caught.value)
        await destination.submit_session(make_session(1))

    play(scene, endpoint=receiver.url)
    assert len(receiver.processed) == 1
