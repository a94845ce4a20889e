"""The connection pool, and proxies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from pydantic import SecretStr

from hl7core import DestinationUnreachable, Receipt
from hl7core.testing import HttpReceiver, make_session
from hl7core.testing.receiver import receives
from plugins.rest_destination.parts import SECRET, play, submitting


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


def tunnelling(opened):
    """Behave like a proxy that connects to ``opened``, whatever the host, and then only passes bytes on."""

    def behave(turn):
        request = turn.read()
        if request is None:
            return
        with socket.socket() as far:
            far.connect(("127.0.0.1", opened.port))
            turn.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=relay, args=(far, turn.connection))
            back.start()
            relay(turn.connection, far)
            back.join(20)

    return behave


def relay(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_tls_goes_through_the_proxy_to_the_receiver_whose_name_only_the_proxy_looks_up(tls, monkeypatch):
    def getaddrinfo(host, *_args, **_more):
        assert host == "proxy.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    with HttpReceiver(context=tls.context(tls.named)) as receiver, HttpReceiver() as proxy:
        proxy.behaviour = tunnelling(receiver)
        settings = {"ca_file": str(tls.ca), "proxy": f"http://proxy.example:{proxy.port}"}
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        taken = submitting(endpoint="https://lis.example/sessions", **settings)
        refused = submitting(endpoint="https://another.example/", **settings)
        monkeypatch.undo()
    assert taken == Receipt()
    assert "its certificate is not trusted" in str(refused)
    assert [request.target for request in proxy.requests] == ["lis.example:443", "another.example:443"]
    assert [request.target for request in receiver.requests] == ["/sessions"]
