"""The table ``[plugins.rest_destination]``, and the rules for its values.

The law: no message about an invalid value quotes it.  Values that name a file (a CA, a certificate) are checked when
the settings are applied, in :mod:`hl7core_plugins.rest_destination.tls`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from hl7core import DestinationSettings

__all__ = ["HEADER_RULE", "RestSettings", "is_header_value", "is_reserved", "origin_of"]

HEADER_RULE: Final = 'must be one line of printable ASCII, such as "Bearer abc" or "Basic abc"'
_ENDPOINT_RULE: Final = 'must be empty (off) or a URL such as "https://lis.example/sessions"'
_PROXY_RULE: Final = 'must be empty (none) or a URL such as "http://proxy.example:3128"'
_LONGEST_URL: Final = 2048
_METADATA: Final = frozenset({"fd00:ec2::254", "100.100.100.200"})
"""Cloud metadata services, which serve a machine its secrets, other than the link-local 169.254.169.254."""


class RestSettings(DestinationSettings):
    """The table ``[plugins.rest_destination]``."""

    enabled: bool = Field(default=True, description="POST each session to endpoint, if it is set.")
    endpoint: str = Field(default="", description="The URL to POST sessions to. Empty: off.")
    auth_header: SecretStr = Field(
        default=SecretStr(""),
        description='The complete value of the Authorization header, such as "Bearer abc".',
    )
    auth_header_file: str = Field(
        default="",
        description="A file whose first line is the value of the Authorization header. Read at each attempt.",
    )
    performer: str = Field(
        default="",
        max_length=200,
        description="Who captured the sessions: a reference sent in the field performer. Empty: not sent.",
    )
    ca_file: str = Field(
        default="", description="CA certificates (PEM) to trust instead of the system's. Empty: the system's."
    )
    client_certificate: str = Field(default="", description="The client certificate (PEM) for the receiver.")
    client_key: str = Field(
        default="",
        description="The client certificate's key (PEM, not encrypted). Empty: it is in the certificate's file.",
    )
    proxy: str = Field(
        default="", description="The HTTP proxy to use. Empty: none; proxies in the environment are ignored."
    )
    proxy_auth: SecretStr = Field(
        default=SecretStr(""), description='User and password for the proxy, such as "user:password".'
    )
    allow_link_local: bool = Field(
        default=False,
        description="Whether sessions may go to a link-local or cloud metadata address (169.254.169.254).",
    )

    @property
    def active(self) -> bool:
        """Whether there is an endpoint to send to."""
        return bool(self.endpoint)

    @field_validator("endpoint")
    @classmethod
    def _is_endpoint(cls, value: str) -> str:
        if not value.strip():
            return ""
        parts = _split(value, _ENDPOINT_RULE)
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not contain a user or password: use auth_header")
        if parts.fragment or value.rstrip().endswith("#"):
            raise ValueError("must not contain a fragment (#...)")
        return value.strip()

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, value: str) -> str:
        if not value.strip():
            return ""
        parts = _split(value, _PROXY_RULE)
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not contain a user or password: use proxy_auth")
        return value.strip()

    @field_validator("performer")
    @classmethod
    def _is_performer(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("must be one line of printable text")
        return value.strip()

    @field_validator("auth_header_file", "ca_file", "client_certificate", "client_key")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("must be a path")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Check the secrets too: of a secret field's own validator the user would only see "not valid"."""
        if self.auth_header.get_secret_value() and not is_header_value(self.auth_header.get_secret_value()):
            raise ValueError(f"auth_header {HEADER_RULE} (a secret, so not shown)")
        if self.auth_header.get_secret_value() and self.auth_header_file:
            raise ValueError("auth_header and auth_header_file cannot both be set")
        secret = self.proxy_auth.get_secret_value()
        if secret and not (is_header_value(secret) and ":" in secret):
            raise ValueError('proxy_auth must be "user:password", one line of printable ASCII (not shown)')
        if secret and not self.proxy:
            raise ValueError("proxy_auth needs proxy")
        if self.client_key and not self.client_certificate:
            raise ValueError("client_key needs client_certificate")
        if self.endpoint and not self.allow_link_local and is_reserved(urlsplit(self.endpoint).hostname or ""):
            raise ValueError(
                "endpoint must not be a link-local or cloud metadata address, unless allow_link_local is true"
            )
        return self


def is_header_value(text: str) -> bool:
    """Return whether ``text`` can be the value of a header: printable ASCII on one line, not blank."""
    return text.isascii() and text.isprintable() and bool(text.strip())


def is_reserved(host: str) -> bool:
    """Return whether ``host`` is a link-local or cloud metadata address; a name is neither."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or str(mapped) in _METADATA


def origin_of(url: str) -> str:
    """Return scheme, host and port of ``url``, which may be logged: a path or query may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _split(value: str, rule: str) -> SplitResult:
    text = value.strip()
    if len(text) > _LONGEST_URL or not text.isprintable() or re.search(r"[\s\\<>\"{}|^`]", text):
        raise ValueError(rule)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(rule) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(rule)
    return parts
