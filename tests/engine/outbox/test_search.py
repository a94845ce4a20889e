"""Which page to read next."""

from engine.parts import session
from hl7core.engine.outbox.search import PAGE, Search
from hl7core.model.delivery import DeliveryStatus

FULL = [session(number) for number in range(PAGE)]
SHORT = FULL[:3]


def pages(search, *answers):
    """Answer the search's questions; return them."""
    asked = []
    for answer in answers:
        asked.append(search.query())
        search.advance(answer)
    return asked


def over():
    search = Search("dest")
    pages(search, [], [])
    assert search.over
    return search


def test_it_goes_on_behind_the_last_session_of_a_full_page():
    first, second = pages(Search("dest"), FULL, SHORT)
    assert (first.pending_for, first.after) == ("dest", None)
    assert second.after == (FULL[-1].started_at, FULL[-1].id)


def test_what_is_not_yet_meant_for_the_destination_comes_last():
    search = Search("dest")
    *_, backlog = pages(search, FULL, SHORT, FULL)
    assert (backlog.pending_for, backlog.status, backlog.after) == ("", (DeliveryStatus.PENDING,), None)
    assert search.in_backlog
    search.advance([])
    assert search.over


def test_another_search_leaves_the_backlog_alone_unless_asked():
    search = over()
    search.restart()
    pages(search, SHORT)
    assert search.over
    search.restart(backlog=True)
    pages(search, SHORT)
    assert search.in_backlog


def test_one_that_is_asked_for_meanwhile_follows():
    search = Search("dest")
    pages(search, FULL)
    search.restart()
    search.restart()
    pages(search, SHORT, [])
    assert not search.over
    (again,) = pages(search, [])
    assert (again.pending_for, again.after) == ("dest", None)
    assert search.over
