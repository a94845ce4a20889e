"""What every answer means: one row each."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from hl7core import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    Receipt,
    SessionRejected,
)
from hl7core.testing import HttpReceiver, make_session
from hl7core.testing.receiver import answer_bytes, hangs, receives, says
from hl7core_plugins.rest_destination.answers import MEANING, Answer, meaning_of, meanings_of, retry_after
from plugins.rest_destination.parts import check_outcome, submitting


def test_one_that_is_not_allowed_says_so_in_words(receiver):
    receiver.behaviour = receives(401)
    outcome = submitting(endpoint=receiver.url)
    assert type(outcome) is DestinationUnauthorized
    assert str(outcome) == "HTTP 401: the receiver does not accept auth_header"


NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)
DOCS = Path(__file__).parents[3] / "docs"


def endless(turn):
    """Answer 200 with a body that never ends, as fast as it goes."""
    turn.read()
    turn.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not turn.stopped.is_set():
        turn.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")


ACCEPTED = (Receipt, "")
ROWS = {
    "200": (receives(200), *ACCEPTED),
    "200 with a page": (receives(200, b"<html>welcome</html>", {"Content-Type": "text/html"}), *ACCEPTED),
    "200 chunked": (
        says(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"id":"7"\r\n1\r\n}\r\n0\r\n\r\n'),
        Receipt,
        "7",
    ),
    "200 until the connection ends": (says(b'HTTP/1.1 200 OK\r\n\r\n{"id": 12}'), Receipt, "12"),
    "200 of HTTP/1.0": (says(b"HTTP/1.0 200 OK\r\n\r\n"), *ACCEPTED),
    "200 after 100 and 103": (
        says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + answer_bytes(200)),
        *ACCEPTED,
    ),
    "200 with a huge body": (receives(200, b'{"id": "' + b"x" * 5_000_000 + b'"}'), *ACCEPTED),
    "200 with an endless body": (endless, *ACCEPTED),
    "200 with a gzip bomb": (
        receives(200, gzip.compress(b"0" * 50_000_000, 9), {"Content-Encoding": "gzip"}),
        *ACCEPTED,
    ),
    "200 with broken JSON": (receives(200, b'{"id": '), *ACCEPTED),
    "200 with deep JSON": (receives(200, b"[" * 60_000), *ACCEPTED),
    "200 with a cookie": (receives(200, headers={"Set-Cookie": "a=b"}), *ACCEPTED),
    "201 with an id": (receives(201, b'{"id": "abc-1"}'), Receipt, "abc-1"),
    "201 with a reference": (receives(201, b'{"reference": "Bundle/7"}'), Receipt, "Bundle/7"),
    "201 with a Location": (receives(201, headers={"Location": "/sessions/9"}), Receipt, "/sessions/9"),
    "201 with an id that is too long": (receives(201, '{"id": "' + "x" * 201 + '"}'), *ACCEPTED),
    "201 with an id that cannot be printed": (receives(201, b'{"id": "a\\u001b[31m"}'), *ACCEPTED),
    "202": (receives(202), *ACCEPTED),
    "204": (receives(204), *ACCEPTED),
    "206": (receives(206), *ACCEPTED),
    "207 to a single session": (receives(207, b"[201]"), *ACCEPTED),
    "299": (receives(299), *ACCEPTED),
    "300": (receives(300), SessionRejected, "HTTP 300"),
    "301": (receives(301, headers={"Location": "/other"}), SessionRejected, "redirects are not followed"),
    "302": (receives(302, headers={"Location": "/other"}), SessionRejected, "redirects are not followed"),
    "304": (receives(304), SessionRejected, "HTTP 304"),
    "307": (receives(307, headers={"Location": "/other"}), SessionRejected, "redirects are not followed"),
    "308": (receives(308, headers={"Location": "/other"}), SessionRejected, "redirects are not followed"),
    "400": (receives(400), SessionRejected, "HTTP 400"),
    "400 whose body never ends": (
        hangs(first=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nno"),
        SessionRejected,
        "HTTP 400",
    ),
    "401": (receives(401), DestinationUnauthorized, "auth_header"),
    "402": (receives(402), SessionRejected, "HTTP 402"),
    "403": (receives(403), DestinationUnauthorized, "HTTP 403"),
    "404": (receives(404), SessionRejected, "check endpoint"),
    "405": (receives(405), SessionRejected, "HTTP 405"),
    "407 though there is no proxy": (receives(407), SessionRejected, "HTTP 407"),
    "408": (receives(408), DestinationBusy, "HTTP 408"),
    "409": (receives(409), DestinationBusy, "HTTP 409"),
    "410": (receives(410), SessionRejected, "HTTP 410"),
    "411": (receives(411), SessionRejected, "HTTP 411"),
    "413": (receives(413), SessionRejected, "too large"),
    "415": (receives(415), SessionRejected, "HTTP 415"),
    "418": (receives(418), SessionRejected, "HTTP 418"),
    "421": (receives(421), SessionRejected, "HTTP 421"),
    "422": (receives(422), SessionRejected, "HTTP 422"),
    "425": (receives(425), DestinationBusy, "HTTP 425"),
    "429": (receives(429), DestinationBusy, "HTTP 429"),
    "451": (receives(451), SessionRejected, "HTTP 451"),
    "499": (receives(499), SessionRejected, "HTTP 499"),
    "500": (receives(500), DestinationBroken, "HTTP 500"),
    "500 with a traceback": (receives(500, b"Traceback: CANARY-PATIENT" * 9000), DestinationBroken, "HTTP 500"),
    "501": (receives(501), DestinationBroken, "HTTP 501"),
    "502": (receives(502), DestinationBroken, "HTTP 502"),
    "503": (receives(503), DestinationBroken, "HTTP 503"),
    "504": (receives(504), DestinationBroken, "HTTP 504"),
    "505": (receives(505), DestinationBroken, "HTTP 505"),
    "507": (receives(507), DestinationBroken, "HTTP 507"),
    "599": (receives(599), DestinationBroken, "HTTP 599"),
    "600": (receives(600), DestinationBroken, "not a valid HTTP status"),
    "999": (receives(999), DestinationBroken, "not a valid HTTP status"),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_answer_has_one_meaning(row):
    check_outcome(*ROWS[row])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("7", 7), (" 120 ", 120), ("3600", 3600), ("86400", 3600), ("9" * 5000, 3600),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=9), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), 3600),
        ("Saturday, 03-Jan-26 12:00:30 GMT", 30),
        ("Sat Jan  3 12:00:10 2026", 10),
        ("", None), ("-5", None), ("1.5", None), ("soon", None), ("\u0663", None), ("Sat, 99 Jan 2026", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 3600),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(text, seconds):
    assert retry_after({"retry-after": text}, NOW) == seconds


def test_a_date_is_measured_by_the_receivers_own_clock():
    theirs = NOW + timedelta(days=400)  # one of the two clocks is wrong
    headers = {
        "retry-after": format_datetime(theirs + timedelta(seconds=20), usegmt=True),
        "date": format_datetime(theirs, usegmt=True),
    }
    assert retry_after(headers, NOW) == 20
    assert retry_after({**headers, "date": "nonsense"}, NOW) == 3600


@pytest.mark.parametrize(("status", "kind"), [(429, DestinationBusy), (503, DestinationBroken), (409, DestinationBusy)])
def test_retry_after_is_handed_on(status, kind):
    with HttpReceiver() as receiver:
        receiver.behaviour = receives(status, headers={"Retry-After": "11"})
        outcome = submitting(endpoint=receiver.url)
    assert type(outcome) is kind
    assert outcome.retry_after == 11


IDS = [make_session(number).id for number in range(3)]


def told(body, status=207):
    meanings = meanings_of(IDS, Answer(status, {}, body.encode()), NOW)
    return None if meanings is None else [type(meaning).__name__ for meaning in meanings]


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ("[201, 400, 503]", ["Receipt", "SessionRejected", "DestinationBroken"]),
        ('[{"status": 201, "id": "a"}, {"status": 429}, 200]', ["Receipt", "DestinationBusy", "Receipt"]),
        (
            '[{"sessionId": "%s", "status": 401}, {"sessionId": "%s", "status": 200},'  # noqa: UP031
            ' {"sessionId": "%s", "status": 422}]' % (IDS[2], IDS[0], IDS[1]),
            ["Receipt", "SessionRejected", "DestinationUnauthorized"],
        ),
        ("[201, 400]", None), ("[]", None), ("{}", None), ("", None), ("nonsense", None), ("[201, 201, true]", None),
        ('[201, 201, "400"]', None), ("[201, 201, {}]", None), ("[201, 201, 201.5]", None),
    ],
)  # fmt: skip
def test_an_array_of_statuses_speaks_of_each_session_and_nothing_else_does(body, kinds):
    assert told(body) == kinds


def test_a_refused_group_is_refused_whole_whatever_its_body_says():
    assert told("[201, 201, 201]", status=500) is None


def test_through_a_proxy_407_is_the_proxys_refusal_and_not_the_sessions():
    meaning = meaning_of(Answer(407, {}), NOW, through_proxy=True)
    assert type(meaning) is DestinationUnreachable


def test_the_page_has_the_whole_table():
    page = (DOCS / "rest_destination.md").read_text()
    for status, (kind, text) in MEANING.items():
        name = kind.__name__ if kind else "submitted"
        assert f"| {status} | {name} | {text} |" in page
