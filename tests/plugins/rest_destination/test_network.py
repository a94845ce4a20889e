"""Connections: which address is connected to, and what is known while it happens."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing, contextmanager

import httpcore
import pytest
from pydantic import SecretStr

from hl7core import DestinationUnreachable, Receipt
from hl7core.testing import HttpReceiver, make_session
from hl7core_plugins.rest_destination import RestDestination, RestSettings
from hl7core_plugins.rest_destination.network import Network, Phase, new_attempt
from plugins.rest_destination.parts import play, submitting
from plugins.rest_destination.tls_files import TlsFiles

NAME = "lis.example"


@pytest.fixture
def name_server(monkeypatch):
    """Answers for ``lis.example``: one list of addresses per look-up, the last one from then on."""

    class Answers(list):
        asked = 0

    answers = Answers()

    def getaddrinfo(host, port, *_args, **_more):
        assert host == NAME, "nothing else is looked up"
        answers.asked += 1
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        families = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in found]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port or 0)) for family, address in families]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@contextmanager
def listening(address, port=0):
    """A port that accepts connections and never reads from them."""
    with closing(socket.create_server((address, port))) as listener:
        yield listener


def port_of(listener):
    return listener.getsockname()[1]


@contextmanager
def black_hole(address, port):
    """A port on which no connection is ever accepted: its queue is full."""
    with socket.socket() as listener:
        listener.bind((address, port))
        listener.listen(0)
        filling = []
        for _ in range(4):
            filling.append(socket.socket())
            filling[-1].setblocking(False)
            filling[-1].connect_ex((address, port))
        try:
            yield
        finally:
            for connection in filling:
                connection.close()


# Addresses that are refused.


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_leads_to_a_metadata_address_gets_no_connection(monkeypatch, name_server, scheme):
    monkeypatch.setattr("hl7core_plugins.rest_destination.network.is_reserved", lambda host: host == "127.0.0.1")
    name_server.append(["127.0.0.1"])
    with HttpReceiver() as receiver:
        outcome = submitting(endpoint=f"{scheme}://{NAME}:{receiver.port}/")
        assert type(outcome) is DestinationUnreachable
        assert "link-local or cloud metadata address" in str(outcome)
        assert "allow_link_local" in str(outcome)
        assert receiver.connections == 0
        allowed = submitting(endpoint=f"http://{NAME}:{receiver.port}/", allow_link_local=True)
        assert allowed == Receipt()


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200"])
def test_nothing_is_sent_to_a_reserved_address(monkeypatch, name_server, address):
    async def connect_tcp(*_args, **_more):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    name_server.append([address])
    outcome = submitting(endpoint=f"http://{NAME}/")
    assert "link-local or cloud metadata address" in str(outcome)


def test_of_several_addresses_only_those_that_are_allowed_are_tried(monkeypatch, name_server):
    monkeypatch.setattr("hl7core_plugins.rest_destination.network.is_reserved", lambda host: host == "127.0.0.2")
    name_server.append(["127.0.0.2", "127.0.0.1"])
    with HttpReceiver(host="127.0.0.2") as refused, HttpReceiver() as receiver:
        receiver.close()
        with listening("127.0.0.1", refused.port) as other:
            outcome = submitting(endpoint=f"http://{NAME}:{refused.port}/", seconds=0.3)
            assert "(while waiting for the answer)" in str(outcome)
            other.settimeout(0)
            other.accept()[0].close()
        assert refused.connections == 0


def test_a_second_look_up_cannot_lead_elsewhere(monkeypatch, name_server):
    """DNS rebinding: the name server answers with a harmless address first, and with a forbidden one afterwards."""
    monkeypatch.setattr("hl7core_plugins.rest_destination.network.is_reserved", lambda host: host == "127.0.0.2")
    name_server.extend([["127.0.0.1"], ["127.0.0.2"]])
    with HttpReceiver() as receiver, listening("127.0.0.2", receiver.port) as forbidden:
        first = submitting(endpoint=f"http://{NAME}:{receiver.port}/")
        assert first == Receipt()
        assert name_server.asked == 1
        second = submitting(endpoint=f"http://{NAME}:{receiver.port}/")
        assert "link-local or cloud metadata address" in str(second)
        assert name_server.asked == 2
        forbidden.settimeout(0)
        with pytest.raises(BlockingIOError):
            forbidden.accept()


# Names with several addresses.


def test_the_next_address_is_tried_when_one_refuses(name_server):
    name_server.append(["127.0.0.2", "127.0.0.3", "127.0.0.1"])
    with HttpReceiver() as receiver:
        assert submitting(endpoint=f"http://{NAME}:{receiver.port}/") == Receipt()


def test_an_address_that_does_not_answer_delays_the_next_by_a_quarter_of_a_second(name_server):
    name_server.append(["127.0.0.2", "127.0.0.1"])
    with HttpReceiver() as receiver, black_hole("127.0.0.2", receiver.port):
        began = time.monotonic()
        assert submitting(endpoint=f"http://{NAME}:{receiver.port}/") == Receipt()
        assert 0.2 < time.monotonic() - began < 5


def test_if_every_address_refuses_the_reason_is_told(name_server):
    name_server.append(["127.0.0.2", "127.0.0.3"])
    with listening("127.0.0.1") as listener:
        port = port_of(listener)
    outcome = submitting(endpoint=f"http://{NAME}:{port}/")
    assert str(outcome) == f"http://{NAME}:{port}: connection refused (while connecting)"


def test_only_one_connection_stays_of_those_that_were_tried(name_server):
    name_server.append(["127.0.0.2", "127.0.0.1"])

    async def scene():
        network = Network(allow_reserved=True)
        with new_attempt():
            stream = await network.connect_tcp(NAME, port_of(slow))
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await stream.aclose()
        return others

    with listening("127.0.0.1") as slow, black_hole("127.0.0.2", port_of(slow)):
        assert asyncio.run(scene()) == []


def test_a_call_that_is_cancelled_leaves_no_attempt_to_connect(name_server):
    name_server.append(["127.0.0.2", "127.0.0.3"])

    async def scene(port):
        with new_attempt() as attempt:
            connecting = asyncio.ensure_future(Network(allow_reserved=True).connect_tcp(NAME, port))
            await asyncio.sleep(0.4)  # both are being tried
            assert attempt.phase is Phase.CONNECTING
        connecting.cancel()
        await asyncio.wait([connecting], timeout=5)
        assert connecting.cancelled()
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    with listening("127.0.0.1") as free:
        port = port_of(free)
    with black_hole("127.0.0.2", port), black_hole("127.0.0.3", port):
        assert asyncio.run(scene(port)) == []


# What the receiver is asked for.


def test_the_host_and_the_certificate_are_those_of_the_name_and_not_of_the_address(tmp_path, name_server):
    tls = TlsFiles(tmp_path)
    name_server.append(["127.0.0.1"])
    named = []
    context = tls.context(tls.named)
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    with HttpReceiver(context=context) as receiver:
        endpoint = f"https://{NAME}:{receiver.port}/"
        assert submitting(endpoint=endpoint, ca_file=str(tls.ca), auth_header=SecretStr("x")) == Receipt()
        assert receiver.requests[0].headers["host"] == f"{NAME}:{receiver.port}"
        assert named == [NAME]
    with HttpReceiver(context=tls.context(tls.server)) as receiver:  # its certificate is for 127.0.0.1 and localhost
        outcome = submitting(endpoint=f"https://{NAME}:{receiver.port}/", ca_file=str(tls.ca))
        assert "its certificate is not trusted" in str(outcome)
        assert not receiver.requests


def test_each_new_connection_looks_the_name_up_and_one_that_is_kept_does_not(name_server):
    name_server.append(["127.0.0.1"])

    async def scene(destination):
        for number in range(5):
            await destination.submit_session(make_session(number))

    with HttpReceiver() as receiver:
        play(scene, endpoint=f"http://{NAME}:{receiver.port}/")
    assert len(receiver.processed) == 5
    assert receiver.connections == name_server.asked == 1


# Stopping.


def test_a_stop_while_the_name_is_looked_up_makes_no_connection(monkeypatch):
    answer = threading.Event()

    def getaddrinfo(_host, _port, **_more):
        answer.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scene(port):
        destination = RestDestination()
        destination.configure(RestSettings(endpoint=f"http://{NAME}:{port}/"))
        attempt = asyncio.ensure_future(destination.submit_session(make_session(1)))
        await asyncio.sleep(0.1)
        await destination.stop()
        answer.set()
        with pytest.raises(DestinationUnreachable, match="stopped"):
            await attempt

    with listening("127.0.0.1") as listener:
        asyncio.run(scene(port_of(listener)))
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
