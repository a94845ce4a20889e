"""Every way in which there is no answer, and what is said of it."""

from __future__ import annotations

import pytest

from hl7core import DestinationUnreachable, Receipt
from hl7core.testing import HttpReceiver
from hl7core.testing.receiver import drops, says
from plugins.rest_destination.parts import check_outcome, silent_port, submitting

NO_ANSWER = {
    "reset before it was processed": (drops(processed=False), DestinationUnreachable, "connection"),
    "reset after it was processed": (drops(), DestinationUnreachable, "connection"),
    "closed before it was processed": (drops(processed=False, reset=False), DestinationUnreachable, "closed the connection"),
    "closed after it was processed": (drops(reset=False), DestinationUnreachable, "closed the connection"),
    "reset in the middle of the headers": (says(b"HTTP/1.1 200 OK\r\nCont", reset=True), DestinationUnreachable, ""),
    "cut in the middle of the headers": (says(b"HTTP/1.1 200 OK\r\nCont"), DestinationUnreachable, ""),
    "cut in the middle of the body": (
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), DestinationUnreachable, "reading the answer",
    ),
    "cut in the middle of a chunk": (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"), DestinationUnreachable, "",
    ),
    "a chunk of no length": (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{"), DestinationUnreachable, "",
    ),
    "more than it announced": (says(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"1"}HTTP/1.1 500'), Receipt, "1"),
    "two lengths": (
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), DestinationUnreachable, "not valid HTTP",
    ),
    "101, though nobody asked to upgrade": (
        says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), DestinationUnreachable, "not valid HTTP",
    ),
    "HTTP/0.9": (says(b"<html>hello</html>\r\n"), DestinationUnreachable, "before it answered"),
    "the greeting of a mail server": (says(b"220 mail.example ESMTP\r\n\r\n"), DestinationUnreachable, "not valid HTTP"),
    "HTTP/2 without being asked": (says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), DestinationUnreachable, "not valid HTTP"),
    "a status of letters": (says(b"HTTP/1.1 OK\r\n\r\n"), DestinationUnreachable, "not valid HTTP"),
    "random bytes": (says(bytes(range(256)) * 8), DestinationUnreachable, "not valid HTTP"),
    "headers without end": (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000), DestinationUnreachable, "not valid HTTP"),
}  # fmt: skip


@pytest.mark.parametrize("row", NO_ANSWER)
def test_each_way_in_which_there_is_no_whole_answer_leaves_the_session_pending(row):
    check_outcome(*NO_ANSWER[row])


def test_nobody_listens():
    with silent_port() as port:
        pass
    outcome = submitting(endpoint=f"http://127.0.0.1:{port}/")
    assert type(outcome) is DestinationUnreachable
    assert str(outcome) == f"http://127.0.0.1:{port}: connection refused (while connecting)"


def test_a_name_that_does_not_exist():
    outcome = submitting(endpoint="http://no-such-host.invalid/sessions?token=CANARY")
    assert type(outcome) is DestinationUnreachable
    assert str(outcome) == "http://no-such-host.invalid: the host name cannot be looked up"


def test_a_receiver_that_speaks_no_tls():
    with HttpReceiver() as receiver:
        receiver.behaviour = lambda turn: turn.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        outcome = submitting(endpoint=receiver.url.replace("http:", "https:"))
    assert type(outcome) is DestinationUnreachable
    assert "the TLS handshake failed" in str(outcome)
