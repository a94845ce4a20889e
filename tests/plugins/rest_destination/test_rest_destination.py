"""What is sent, to whom, over what, and what is never told."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import socket
import subprocess
import sys

import pytest
from pydantic import SecretStr

from hl7core import (
    DestinationUnauthorized,
    DestinationUnreachable,
    Receipt,
    SessionRejected,
    SettingsError,
    SubmitError,
    __version__,
    session_to_json,
)
from hl7core.settings.model import validate_table
from hl7core.testing import FakeRuntime, HttpReceiver, make_message, make_session
from hl7core.testing.receiver import drops, hangs, receives
from hl7core_plugins.rest_destination import RestDestination, RestSettings
from plugins.rest_destination.tls_files import TlsFiles

SECRET = "Bearer SECRET-CANARY-8f3a"
PATIENT = "CANARY^PATIENT"


@pytest.fixture
def receiver():
    with HttpReceiver() as opened:
        yield opened


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return TlsFiles(tmp_path_factory.mktemp("tls"))


def play(scene, **settings):
    """Run ``scene(destination)`` with a destination that has these settings; return what it returns."""

    async def life():
        destination = RestDestination()
        destination.configure(RestSettings(**settings))
        try:
            return await scene(destination)
        finally:
            await destination.stop()

    return asyncio.run(life())


def submitting(session=None, **settings):
    """Hand one session on and return the receipt, or the error that was raised."""

    async def scene(destination):
        try:
            return await destination.submit_session(session or make_session(1))
        except SubmitError as error:
            return error

    return play(scene, **settings)


# The request.


def test_the_body_has_the_fields_of_the_page_and_no_others(receiver):
    session = make_session(1, protocol="lis01")
    submitting(session, endpoint=receiver.url)
    (request,) = receiver.requests
    stored = json.loads(session_to_json(session))
    fields = ["sessionId", "startTime", "endTime", "deviceIP", "lisIP", "messages", "messageInfo"]
    assert list(request.json) == fields
    assert request.json == {field: stored[field] for field in fields}
    assert request.json["messages"][0].startswith("H|")
    assert (request.method, request.target) == ("POST", "/sessions")


def test_the_headers_name_the_session_and_us(receiver):
    session = make_session(1)
    submitting(session, endpoint=receiver.url + "?site=7&x=%2F")
    (request,) = receiver.requests
    assert request.headers["idempotency-key"] == f'"{session.id}"'
    assert request.headers["user-agent"] == f"hl7core/{__version__}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.target == "/sessions?site=7&x=%2F"
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers


def test_the_performer_goes_along(receiver):
    submitting(endpoint=receiver.url, performer="Organization/lab-7 (Größe)")
    assert receiver.requests[0].json["performer"] == "Organization/lab-7 (Größe)"


def test_bytes_that_are_no_text_arrive_exactly(receiver):
    data = bytes(range(256)) * 2000  # more than is made on the event loop
    submitting(make_session(1, messages=(make_message(1, text=data),), elements=()), endpoint=receiver.url)
    body = receiver.requests[0].json
    assert body["messages"][0].encode(body["messageInfo"][0]["encoding"]) == data


def test_what_cannot_be_written_as_json_is_rejected_and_not_quoted(receiver):
    broken = make_session(1, messages=(make_message(1, control_id="CANARY\ud800"),))
    outcome = submitting(broken, endpoint=receiver.url)
    assert type(outcome) is SessionRejected
    assert "CANARY" not in str(outcome)
    assert not receiver.requests


def test_one_connection_serves_many_sessions(receiver):
    async def scene(destination):
        for number in range(20):
            await destination.submit_session(make_session(number))

    play(scene, endpoint=receiver.url)
    assert receiver.connections == 1
    assert len(receiver.processed) == 20


def test_no_more_connections_than_attempts_allowed(receiver):
    async def scene(destination):
        await asyncio.gather(*(destination.submit_session(make_session(number)) for number in range(30)))

    play(scene, endpoint=receiver.url, concurrency=3)
    assert receiver.connections <= 3


def test_cookies_are_not_kept(receiver):
    receiver.behaviour = receives(headers={"Set-Cookie": "session=abc; Path=/"})

    async def scene(destination):
        for number in range(2):
            await destination.submit_session(make_session(number))

    play(scene, endpoint=receiver.url)
    assert not any("cookie" in request.headers for request in receiver.requests)


# Several in one POST.


def test_a_group_is_one_post_with_an_array(receiver):
    sessions = [make_session(number) for number in range(3)]
    receiver.script = [receives(207, b'[{"status": 201, "id": "a"}, {"status": 422}, {"status": 200}]')]

    async def scene(destination):
        return await destination.submit_sessions(sessions)

    first, second, third = play(scene, endpoint=receiver.url, batch_size=10, performer="lab")
    (request,) = receiver.requests
    assert [item["sessionId"] for item in request.json] == [session.id for session in sessions]
    assert all(item["performer"] == "lab" for item in request.json)
    assert (first, third) == (Receipt("a"), Receipt())
    assert type(second) is SessionRejected


def test_a_group_keeps_its_key_and_another_group_has_another(receiver):
    sessions = [make_session(number) for number in range(4)]

    async def scene(destination):
        for group in (sessions[:3], sessions[:3], sessions[1:]):
            await destination.submit_sessions(group)

    play(scene, endpoint=receiver.url, batch_size=10)
    first, again, other = (request.key for request in receiver.requests)
    assert first == again != other


def test_a_receiver_of_groups_gets_an_array_of_one_too(receiver):
    receiver.script = [receives(207, b"[409]"), receives(207, b'[{"status": 201, "reference": "r"}]')]
    outcome = submitting(endpoint=receiver.url, batch_size=10)
    assert "HTTP 409" in str(outcome)
    assert submitting(endpoint=receiver.url, batch_size=10) == Receipt("r")
    assert all(isinstance(request.json, list) for request in receiver.requests)
    assert {request.key for request in receiver.requests} == {make_session(1).id}


def test_a_refused_group_raises_so_that_each_is_handed_on_alone(receiver):
    receiver.behaviour = receives(413)

    async def scene(destination):
        with pytest.raises(SessionRejected, match="413"):
            await destination.submit_sessions([make_session(number) for number in range(3)])

    play(scene, endpoint=receiver.url, batch_size=10)


# The secret.


@pytest.mark.parametrize("value", [SECRET, "Basic dXNlcjpwYXNz"])
def test_the_header_goes_along_as_it_stands(receiver, value):
    submitting(endpoint=receiver.url, auth_header=SecretStr(value))
    assert receiver.requests[0].headers["authorization"] == value


def test_the_header_in_a_file_may_change_between_two_attempts(receiver, tmp_path):
    file = tmp_path / "token"
    file.write_text("Bearer one\nsecond line\n")
    outcomes = []

    async def scene(destination):
        await destination.submit_session(make_session(1))
        file.write_text("Bearer two")
        await destination.submit_session(make_session(2))
        for spoil in (lambda: file.write_bytes(b"\xff\xfe\n"), lambda: file.write_text("\n"), file.unlink):
            spoil()
            with pytest.raises(DestinationUnreachable, match="auth_header_file: ") as caught:
                await destination.submit_session(make_session(3))
            outcomes.append(str(caught.value))

    play(scene, endpoint=receiver.url, auth_header_file=str(file))
    assert [request.headers["authorization"] for request in receiver.requests] == ["Bearer one", "Bearer two"]
    assert "No such file" in outcomes[-1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_never_gets_the_secret(receiver, status):
    with HttpReceiver() as elsewhere:
        receiver.behaviour = receives(status, headers={"Location": elsewhere.url})
        outcome = submitting(endpoint=receiver.url, auth_header=SecretStr(SECRET))
    assert type(outcome) is SessionRejected
    assert elsewhere.connections == 0
    assert len(receiver.requests) == 1


def test_no_secret_and_no_patient_is_told_anywhere(receiver, caplog, capfd, tmp_path, tls):
    caplog.set_level(logging.DEBUG)
    session = make_session(1, messages=(make_message(1, patient=PATIENT),))
    told = []
    secret = {"auth_header": SecretStr(SECRET)}
    url = receiver.url + "?token=SECRET-CANARY-query"
    for behaviour in (
        receives(), receives(400, b"bad: " + PATIENT.encode()), receives(401), receives(429), receives(500), drops(),
        receives(302, headers={"Location": "/?token=SECRET-CANARY"}), lambda turn: turn.write(PATIENT.encode() * 9),
    ):  # fmt: skip
        receiver.script = [behaviour]
        told.append(submitting(session, endpoint=url, **secret))
    file = tmp_path / "token"
    file.write_text(SECRET)
    told += [
        submitting(session, **settings)
        for settings in (
            {"endpoint": url.replace("http:", "https:"), "timeout": 1, **secret},
            {"endpoint": "http://no-such-host.invalid/?token=SECRET-CANARY", **secret},
            {"endpoint": url, "auth_header_file": str(file)},
            {"endpoint": url, "proxy": "http://127.0.0.1:1", "proxy_auth": SecretStr("user:SECRET-CANARY"), **secret},
        )
    ]
    told.append(RestSettings(endpoint=receiver.url, **secret))
    for text in [repr(item) + str(item) for item in told] + [caplog.text, *capfd.readouterr()]:
        assert "CANARY" not in text
    assert len([error for error in told if isinstance(error, SubmitError)]) == 10
    for error in told:
        if isinstance(error, SubmitError):  # it keeps nobody alive who knows more
            assert error.__cause__ is None
            assert error.__context__ is None


def test_a_secret_over_plain_http_is_warned_of_but_not_on_this_machine(caplog):
    secret = {"auth_header": SecretStr(SECRET)}
    for endpoint in ("http://127.0.0.1:1/", "http://localhost/", "http://[::1]/", "https://lis.example/"):
        RestDestination().configure(RestSettings(endpoint=endpoint, **secret))
    assert not caplog.records
    RestDestination().configure(RestSettings(endpoint="http://lis.example/", **secret))
    assert "unencrypted" in caplog.text
    assert "CANARY" not in caplog.text


# TLS.


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
        ({"client_certificate": "{client}"}, "client_certificate: it and client_key must be a certificate and its key"),
        ({"client_certificate": "{client}", "client_key": "{other}"}, "must be a certificate and its key"),
        ({"client_certificate": "{client}", "client_key": "{encrypted}"}, "the key not encrypted"),
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


# Proxies.


def test_the_environments_proxy_is_not_used(receiver, monkeypatch):
    with HttpReceiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
        assert submitting(endpoint=receiver.url) == Receipt()
    assert proxy.connections == 0


def test_a_proxy_that_is_asked_for_is_used(receiver):
    with HttpReceiver() as proxy:
        outcome = submitting(
            endpoint=receiver.url, proxy=f"http://127.0.0.1:{proxy.port}", proxy_auth=SecretStr("me:pass")
        )
    assert outcome == Receipt()
    assert proxy.requests[0].target == receiver.url
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
    assert not receiver.requests


def test_a_proxy_that_refuses_leaves_the_session_pending():
    with HttpReceiver() as proxy:
        proxy.behaviour = receives(407)
        there = {"proxy": f"http://127.0.0.1:{proxy.port}", "auth_header": SecretStr(SECRET)}
        plain = submitting(endpoint="http://lis.example/", **there)
        tunnel = submitting(endpoint="https://lis.example/", **there)
    assert type(plain) is type(tunnel) is DestinationUnreachable
    assert "the proxy" in str(plain)
    assert "the proxy" in str(tunnel)
    assert proxy.requests[1].method == "CONNECT"
    assert proxy.requests[1].target == "lis.example:443"
    assert "authorization" not in proxy.requests[1].headers


# Settings.


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"endpoint": "lis.example"}, "endpoint: must be empty (off) or a URL as in"),
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
        ({"endpoint": "http://me:CANARY@lis.example/"}, "endpoint: must not hold a user or password"),
        ({"endpoint": "http://lis.example/#part"}, "endpoint: must not hold a fragment"),
        ({"endpoint": "http://169.254.169.254/latest"}, "endpoint must not be a link-local or cloud metadata address"),
        ({"endpoint": "http://[fe80::1]/"}, "endpoint must not be a link-local"),
        ({"endpoint": "http://[::ffff:169.254.169.254]/"}, "endpoint must not be a link-local"),
        ({"endpoint": 7}, "endpoint: must be text"),
        ({"auth_header": "Bearer CANARY\nX-More: y"}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "Bearer CANARY\r"}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "Bearer CANARY\u00e9"}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "  "}, "auth_header must be one line of printable ASCII"),
        ({"auth_header": "Bearer CANARY", "auth_header_file": "/x"}, "give one of them"),
        ({"auth_header": 12}, "auth_header: must be text"),
        ({"auth_header_file": "a\0b"}, "auth_header_file: must be a path"),
        ({"performer": "a\nb"}, "performer: must be one line of printable text"),
        ({"performer": "x" * 201}, "performer: "),
        ({"client_key": "/x"}, "client_key is of no use without client_certificate"),
        ({"proxy": "socks5://proxy.example"}, "proxy: must be empty (none) or a URL as in"),
        ({"proxy": "http://me:CANARY@proxy.example"}, "proxy: must not hold a user or password"),
        ({"proxy_auth": "me:CANARY"}, "proxy_auth is of no use without proxy"),
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


def test_without_an_endpoint_it_says_once_that_it_is_off(caplog):
    caplog.set_level(logging.INFO)

    async def scene(destination):
        destination.configure(RestSettings(concurrency=3))
        with pytest.raises(DestinationUnreachable, match="no endpoint"):
            await destination.submit_session(make_session(1))

    play(scene)
    assert caplog.text.count("has no endpoint") == 1


@pytest.mark.parametrize(("endpoint", "imported"), [("", False), ("https://lis.example/", True)])
def test_httpx_is_imported_only_for_an_endpoint(endpoint, imported):
    script = (
        "import sys\nfrom hl7core_plugins.rest_destination import RestDestination, RestSettings\n"
        f"RestDestination().configure(RestSettings(endpoint={endpoint!r}))\nprint('httpx' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(imported)


# Its life.


def test_new_settings_close_the_old_connections_when_they_are_idle(receiver, tmp_path):
    async def scene(destination):
        loop = asyncio.get_running_loop()
        runtime = FakeRuntime(tmp_path)
        runtime.call = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
        destination.start(runtime)
        await destination.submit_session(make_session(1))
        receiver.script = [hangs()]
        hanging = asyncio.ensure_future(destination.submit_session(make_session(2)))
        while len(receiver.requests) < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(destination.configure, RestSettings(endpoint=receiver.url, performer="new"))
        await destination.submit_session(make_session(3))
        assert not hanging.done()  # it ends as it began
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert destination._retired == []
        await destination.submit_session(make_session(4))

    play(scene, endpoint=receiver.url)
    assert "performer" not in receiver.requests[1].json
    assert all(request.json["performer"] == "new" for request in receiver.requests[2:])
    assert receiver.connections == 2


def test_a_stop_ends_what_is_under_way(receiver):
    async def scene(destination):
        receiver.behaviour = hangs()
        hanging = asyncio.ensure_future(destination.submit_session(make_session(1)))
        while not receiver.requests:
            await asyncio.sleep(0.01)
        await destination.stop()
        (ended,) = await asyncio.wait_for(asyncio.gather(hanging, return_exceptions=True), 10)
        assert isinstance(ended, DestinationUnreachable)
        with pytest.raises(DestinationUnreachable, match="stopped"):
            await destination.submit_session(make_session(2))

    play(scene, endpoint=receiver.url, timeout=60)


def test_a_large_session_goes_out_by_the_settings_it_began_with(receiver, monkeypatch):
    monkeypatch.setattr("hl7core_plugins.rest_destination._LARGE", 0)  # so that every body is made off the event loop

    async def scene(destination):
        await destination.submit_session(make_session(1))
        attempt = asyncio.ensure_future(destination.submit_session(make_session(2)))
        await asyncio.sleep(0)
        destination.configure(RestSettings(endpoint=receiver.url, performer="new"))
        await destination._settle()
        assert await attempt == Receipt()
        assert destination._retired == []

    play(scene, endpoint=receiver.url)
    assert "performer" not in receiver.requests[1].json


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_call_that_is_cancelled_while_it_connects_leaves_no_connection(scheme):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def scene(destination):
            attempt = asyncio.ensure_future(destination.submit_session(make_session(1)))
            connection, _ = await asyncio.to_thread(listener.accept)
            connection.settimeout(10)
            await asyncio.to_thread(connection.recv, 1)
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            with connection:
                while await asyncio.to_thread(connection.recv, 65_536):
                    pass  # until it is closed: not when something collects it, but now

        gc.disable()
        try:
            play(scene, endpoint=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/", timeout=60)
        finally:
            gc.enable()


def test_10_000_sends_to_a_receiver_that_loses_a_third_of_its_answers(receiver):
    """None is lost, and none is doubled once the receiver has looked at the ids."""
    draw = random.Random(5)
    draws = [draw.random() < 1 / 3 for _ in range(100_000)]
    lose, take = drops(), receives()
    receiver.next = lambda: lose if draws.pop() else take
    template = make_session(1)
    sessions = [template._replace(id=make_session(1, start_ns=template.start_ns + n * 10**6).id) for n in range(10_000)]
    waiting = list(reversed(sessions))
    attempts = []

    async def scene(destination):
        async def one_after_the_other():
            while waiting:
                session = waiting.pop()
                for attempt in range(1, 100):
                    try:
                        await destination.submit_session(session)
                    except DestinationUnreachable:
                        continue
                    attempts.append(attempt)
                    break

        await asyncio.gather(*(one_after_the_other() for _ in range(10)))

    play(scene, endpoint=receiver.url, concurrency=10)
    assert len(attempts) == 10_000
    assert len(receiver.processed) == sum(attempts) > 14_000
    assert set(receiver.processed) == {session.id for session in sessions}
    bodies = {(request.key, request.body) for request in receiver.requests}
    assert len(bodies) == 10_000  # so by the key or by sessionId, what came again is the same
    assert all(key == json.loads(body)["sessionId"] for key, body in bodies)


def test_one_that_is_not_allowed_says_so_in_words(receiver):
    receiver.behaviour = receives(401)
    outcome = submitting(endpoint=receiver.url)
    assert type(outcome) is DestinationUnauthorized
    assert str(outcome) == "HTTP 401: it does not accept auth_header"
