"""Looking up names: off the event loop, once at a time."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from hl7core.testing import make_session
from hl7core_plugins.rest_destination.resolver import Resolver
from plugins.rest_destination.parts import LIMIT, play


def answering(monkeypatch, answer):
    """Let every look-up call ``answer(host)``; return the hosts that were looked up."""
    asked = []

    def getaddrinfo(host, *_args, **_more):
        asked.append(host)
        return answer(host)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_an_address_needs_no_look_up(monkeypatch):
    asked = answering(monkeypatch, lambda _: [])
    for address in ("127.0.0.1", "::1", "fe80::1%eth0"):
        assert asyncio.run(Resolver().addresses(address)) == [address]
    assert asked == []


def test_the_addresses_come_in_the_systems_order_each_once_with_its_zone(monkeypatch):
    found = [("fe80::1", 0, 0, 2), ("2001:db8::1", 0, 0, 0), ("192.0.2.7", 0), ("192.0.2.7", 0)]
    answering(monkeypatch, lambda _: [(0, 0, 0, "", address) for address in found])
    assert asyncio.run(Resolver().addresses("lis.example")) == ["fe80::1%2", "2001:db8::1", "192.0.2.7"]


def test_those_who_ask_at_once_share_one_look_up_and_those_who_ask_later_get_a_new_one(monkeypatch):
    asked = answering(monkeypatch, lambda _: [(0, 0, 0, "", ("192.0.2.7", 0))])

    async def scene():
        resolver = Resolver()
        found = await asyncio.gather(*(resolver.addresses("lis.example") for _ in range(9)))
        return [*found, await resolver.addresses("lis.example")]

    assert asyncio.run(scene()) == [["192.0.2.7"]] * 10
    assert asked == ["lis.example"] * 2


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".example", "a..b"])
def test_a_name_that_cannot_be_looked_up_is_an_error_of_the_system(host):
    with pytest.raises(socket.gaierror):
        asyncio.run(Resolver().addresses(host))


def test_a_name_server_that_never_answers_costs_one_thread_and_keeps_nobody(monkeypatch):
    hung = threading.Event()
    answering(monkeypatch, lambda _: hung.wait(30) and [])
    before = threading.active_count()

    async def scene(destination):
        calls = [destination.submit_session(make_session(number)) for number in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True), threading.active_count()

    try:  # it returns although the look-up still hangs
        outcomes, threads = play(scene, seconds=LIMIT, endpoint="http://lis.example/", concurrency=5)
    finally:
        hung.set()
    assert all("(while looking up the host name)" in str(outcome) for outcome in outcomes)
    assert threads <= before + 1
