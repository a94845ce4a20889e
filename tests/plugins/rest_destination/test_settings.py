"""The table ``[plugins.rest_destination]``."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from hl7core import SettingsError
from hl7core.settings.validation import validate_table
from hl7core_plugins.rest_destination import RestDestination, RestSettings
from plugins.rest_destination.parts import SECRET


def test_a_secret_over_plain_http_is_warned_of_but_not_on_this_machine(caplog):
    secret = {"auth_header": SecretStr(SECRET)}
    for endpoint in ("http://127.0.0.1:1/", "http://localhost/", "http://[::1]/", "https://lis.example/"):
        RestDestination().configure(RestSettings(endpoint=endpoint, **secret))
    assert not caplog.records
    RestDestination().configure(RestSettings(endpoint="http://lis.example/", **secret))
    assert "unencrypted" in caplog.text
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"endpoint": "lis.example"}, "endpoint: must be empty (off) or a URL such as"),
        ({"endpoint": "ftp://lis.example/"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "file:///etc/passwd"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http:///sessions"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://lis.example:0/"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://lis.example:99999/"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://lis.example:port/"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://[::1/"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://lis example/"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://lis.example/\nX: y"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://lis.example/" + "x" * 2048}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "@jinja {{x}}"}, "endpoint: must be empty (off) or a URL"),
        ({"endpoint": "http://me:CANARY@lis.example/"}, "endpoint: must not contain a user or password"),
        ({"endpoint": "http://lis.example/#part"}, "endpoint: must not contain a fragment"),
        ({"endpoint": "http://169.254.169.254/latest"}, "endpoint must not be a link-local or cloud metadata address"),
        ({"endpoint": "http://[fe80::1]/"}, "endpoint must not be a link-local"),
        ({"endpoint": "http://[::ffff:169.254.169.254]/"}, "endpoint must not be a link-local"),
        ({"endpoint": 7}, "endpoint: must be text"),
        ({"auth_header": "Bearer CANARY\nX-More: y"}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "Bearer CANARY\r"}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "Bearer CANARY\u00e9"}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "  "}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "Bearer CANARY", "auth_header_file": "/x"}, "cannot both be set"),
        ({"auth_header": 12}, "auth_header: must be text"),
        ({"auth_header_file": "a\0b"}, "auth_header_file: must be a path"),
        ({"performer": "a\nb"}, "performer: must be one line of printable text"),
        ({"performer": "x" * 201}, "performer: "),
        ({"client_key": "/x"}, "client_key needs client_certificate"),
        ({"proxy": "socks5://proxy.example"}, "proxy: must be empty (none) or a URL such as"),
        ({"proxy": "http://me:CANARY@proxy.example"}, "proxy: must not contain a user or password"),
        ({"proxy_auth": "me:CANARY"}, "proxy_auth needs proxy"),
        ({"proxy": "http://proxy.example", "proxy_auth": "CANARY"}, 'proxy_auth must be "user:password"'),
        ({"concurrency": 0}, "concurrency: must be at least 1 and at most 10"),
        ({"concurrency": 11}, "concurrency: must be at least 1 and at most 10"),
        ({"max_retries": 0}, "max_retries: must be at least 1 and at most 20"),
        ({"interval_minutes": 61}, "interval_minutes: must be at least 1 and at most 60"),
        ({"timeout": 0}, "timeout: must be at least 1"),
        ({"batch_size": 101}, "batch_size: must be at least 1 and at most 100"),
        ({"endpiont": "http://lis.example/"}, "endpiont: no such setting; did you mean endpoint?"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_rule_and_never_quoted(table, problem):
    with pytest.raises(SettingsError) as caught:
        validate_table(RestSettings, "plugins.rest_destination", table)
    (text,) = caught.value.problems
    assert text.startswith("plugins.rest_destination")
    assert problem in text
    assert "CANARY" not in text


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "  ", "http://lis.example", "https://lis.example:8443/a/b?c=d", "http://10.1.0.7:8080/",
        "http://[2001:db8::7]:80/", "https://prüfung.example/", " https://lis.example/ ",
    ],
)  # fmt: skip
def test_a_sound_endpoint_is_taken(endpoint):
    settings = RestSettings(endpoint=endpoint)
    assert settings.endpoint == endpoint.strip()
    assert settings.active == bool(endpoint.strip())
    RestDestination().configure(settings)


def test_a_host_that_no_name_server_could_know_is_refused(receiver):
    with pytest.raises(SettingsError, match=r"plugins.rest_destination.endpoint: must be a URL with a valid host name"):
        RestDestination().configure(RestSettings(endpoint="http://\u2603.xn--\u00e4.example/"))
