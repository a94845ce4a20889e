"""The demo's receiver, as a destination meets it."""

import asyncio
import json

from hl7core.cli.demo.receiver import DemoReceiver


def exchange(*requests):
    """Send raw requests over one connection; return the receiver and what came back."""

    async def life():
        async with DemoReceiver() as receiver:
            host, port = receiver.url.removeprefix("http://").partition("/")[0].split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            answers = b""
            for request in requests:
                writer.write(request)
            writer.write_eof()
            answers = await reader.read()
            writer.close()
            await writer.wait_closed()
            return receiver, answers

    return asyncio.run(life())


def post(body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"POST /sessions HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)


def test_what_it_acknowledged_it_has_and_counts_once():
    receiver, answers = exchange(post({"sessionId": "a"}), post({"sessionId": "b"}), post({"sessionId": "a"}))
    assert answers.count(b"HTTP/1.1 201 Created") == 3
    assert answers.count(b'{"id": "demo-1"}') == 2
    assert list(receiver.received) == ["a", "b"]


def test_what_is_no_session_is_refused():
    receiver, answers = exchange(post(["sessionId"]), post({"sessionId": 7}))
    assert answers.count(b"HTTP/1.1 400 Bad Request") == 2
    assert not receiver.received


def test_what_is_no_request_gets_no_answer_and_breaks_nothing():
    for nonsense in (
        b"\x00" * 100_000,
        b"GET / HTTP/1.1\r\n\r\n",
        post(b"{"),
        post(b"{}")[:-1],
        b"POST / HTTP/1.1\r\n",
    ):
        receiver, answers = exchange(nonsense)
        assert answers == b""
        assert not receiver.received


def test_a_connection_that_stays_open_does_not_keep_it_from_closing():
    async def life():
        async with DemoReceiver() as receiver:
            host, port = receiver.url.removeprefix("http://").partition("/")[0].split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(post({"sessionId": "a"}))
            await reader.readuntil(b"}")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()

    asyncio.run(life())
