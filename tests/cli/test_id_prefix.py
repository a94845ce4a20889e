"""Finding a session by the first letters of its id."""

from datetime import timedelta

import pytest

from hl7core.cli.id_prefix import MANY, find_by_prefix, span_of
from hl7core.hl7.query import matches, sort_key
from hl7core.testing import make_session


class Stored:
    """Stored sessions, over a few sessions; it notes what it was asked."""

    def __init__(self, sessions):
        self.held = sorted(sessions, key=sort_key)
        self.asked = []

    def sessions(self, query):
        self.asked.append(query)
        yield from [session for session in self.held if matches(session, query)][: query.limit]


SESSIONS = [make_session(number) for number in range(1, 6)]


@pytest.mark.parametrize("length", [36, 22, 14, 13, 12, 11])
def test_a_session_is_found_by_its_id_or_its_first_letters(length):
    for session in SESSIONS:
        access = Stored(SESSIONS)
        assert find_by_prefix(access, session.id[:length]) == [session]
        assert find_by_prefix(access, f" {session.id[:length].upper()} ") == [session]


@pytest.mark.parametrize("length", [1, 4, 8, 9, 12, 13, 20])
def test_only_the_time_that_the_letters_name_is_read(length):
    session = SESSIONS[2]
    access = Stored(SESSIONS)
    assert session in find_by_prefix(access, session.id[:length])
    (query, *more) = access.asked
    assert not more
    assert query.since <= session.started_at < query.until
    assert query.until - query.since == timedelta(
        milliseconds=16 ** (12 - min(12, len(session.id[:length].replace("-", ""))))
    )


def test_what_is_no_part_of_an_id_is_looked_for_nowhere():
    access = Stored(SESSIONS)
    assert (
        find_by_prefix(access, "zz")
        == find_by_prefix(access, "")
        == find_by_prefix(access, "../../etc")
        == access.asked
        == []
    )


def test_an_id_that_names_another_time_is_found_too():
    odd = make_session(9, id="ffffffff-0000-4000-8000-000000000000")
    assert find_by_prefix(Stored([*SESSIONS, odd]), "ffff") == [odd]


def test_of_many_only_so_many_are_looked_for_as_are_named():
    assert len(find_by_prefix(Stored([make_session(number) for number in range(30)]), "0")) == MANY + 1


def test_the_end_of_the_calendar_is_no_bound():
    assert span_of("ffff").until is None
