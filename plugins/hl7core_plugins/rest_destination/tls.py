"""The TLS context: the trusted CAs and the client certificate, from the files that the settings name.

The law: certificates and host names are always verified; no setting turns that off.
"""

from __future__ import annotations

import ssl

from hl7core import SettingsError
from hl7core_plugins.rest_destination.settings import RestSettings

__all__ = ["context_for"]

_TABLE = "plugins.rest_destination"


def context_for(settings: RestSettings) -> ssl.SSLContext:
    """Return the context for ``settings``.  Raises SettingsError if a file cannot be used."""
    context = _trusting(settings.ca_file)
    if settings.client_certificate:
        _load_client_certificate(context, settings)
    return context


def _trusting(ca_file: str) -> ssl.SSLContext:
    if not ca_file:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise SettingsError(f"{_TABLE}.ca_file: must be a file with CA certificates in PEM format") from None
    except OSError as error:
        raise SettingsError(f"{_TABLE}.ca_file: the file cannot be read: {_reason(error)}") from None


def _load_client_certificate(context: ssl.SSLContext, settings: RestSettings) -> None:
    key = settings.client_key or settings.client_certificate
    for name, path in (("client_certificate", settings.client_certificate), ("client_key", key)):
        try:
            with open(path, "rb"):  # noqa: PTH123 - settings hold paths as str; this only checks that it opens
                pass
        except OSError as error:
            raise SettingsError(f"{_TABLE}.{name}: the file cannot be read: {_reason(error)}") from None
    try:
        # Without a password OpenSSL would ask for one on the terminal; an empty one refuses an encrypted key.
        context.load_cert_chain(settings.client_certificate, settings.client_key or None, password="")
    except (ssl.SSLError, OSError, ValueError):
        raise SettingsError(
            f"{_TABLE}.client_certificate: client_certificate and client_key must be a certificate and its key, in PEM"
            " format and not encrypted"
        ) from None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
