"""The contract of stores: a plain one keeps it, what it cannot promise is skipped, and each broken promise is noticed."""

from __future__ import annotations

import pytest

from hl7core import Hl7coreError, StoreError
from hl7core.hl7.query import matches, sort_key
from hl7core.model.cleanup import CleanupReport
from hl7core.model.schema import at_stored_precision
from hl7core.testing import StoreContract

SHELVES = {}


class Shelf:
    """A store in memory: what lies in a folder's name is there again for the next store of that name."""

    def __init__(self, folder):
        self.held, self.trash = SHELVES.setdefault(str(folder), ({}, {}))

    def stop(self):
        pass

    def persist_session(self, session, replace):
        if len(session.id) != 36 or set(session.id) - set("0123456789abcdef-"):
            raise StoreError("that is no id")
        if replace or session.id not in self.held:
            self.held[session.id] = at_stored_precision(session)
        return f"shelf/{session.id}"

    def load_sessions(self, query):
        found = sorted((one for one in list(self.held.values()) if matches(one, query)), key=sort_key)
        if query.newest_first:
            found.reverse()
        return found[: query.limit]

    def delete_sessions(self, ids, to_trash, deleted_at):
        gone = [one for one in dict.fromkeys(ids) if one in self.held]
        for one in gone:
            session = self.held.pop(one)
            if to_trash:
                self.trash[one] = (session, deleted_at)
        return gone

    def restore_sessions(self, ids):
        back = [one for one in dict.fromkeys(ids) if one in self.trash and one not in self.held]
        for one in back:
            self.held[one] = self.trash.pop(one)[0]
        return back

    def empty_trash(self, before, limit):
        gone = [one for one, (_, since) in self.trash.items() if since < before][:limit]
        for one in gone:
            del self.trash[one]
        return CleanupReport(deleted=len(gone), freed=1000 * len(gone), in_trash=len(self.trash))


class ShelfContract(StoreContract):
    shelf = Shelf

    def make_store(self, folder):
        return self.shelf(folder)


PROMISES = sorted(
    name
    for name in dir(ShelfContract)
    if name.startswith("test_") and not any(word in name for word in ("kill_9", "disk", "folder", "clock"))
)


@pytest.mark.parametrize("promise", PROMISES)
def test_a_plain_store_keeps_what_it_can_promise(promise, tmp_path):
    getattr(ShelfContract(), promise)(tmp_path)


def test_what_a_store_cannot_promise_is_skipped_with_the_reason(tmp_path):
    for promise, hook in (
        ("test_a_group_is_saved_one_entry_a_session", "persist_sessions"),
        ("test_the_trash_says_what_lies_in_it_and_since_when", "list_trash"),
        ("test_its_size_grows_by_saving_and_shrinks_by_throwing_away", "store_size"),
    ):
        with pytest.raises(pytest.skip.Exception, match=f"this store has no {hook}"):
            getattr(ShelfContract(), promise)(tmp_path)


class Full(Shelf):
    def persist_session(self, session, replace):
        if len(self.held) >= 30:
            raise StoreError("full")
        return super().persist_session(session, replace)


class Leaky(Shelf):
    def persist_session(self, session, replace):
        if len(self.held) >= 3:
            return "nowhere"
        return super().persist_session(session, replace)


class Jealous(Shelf):
    def persist_session(self, session, replace):
        return super().persist_session(session, replace=True)


class Grave(Shelf):
    def restore_sessions(self, ids):
        return list(ids)


class Rude(Shelf):
    def restore_sessions(self, ids):
        back = [one for one in dict.fromkeys(ids) if one in self.trash]
        self.held.update((one, self.trash.pop(one)[0]) for one in back)
        return back


class Greedy(Shelf):
    def load_sessions(self, query):
        return super().load_sessions(query._replace(limit=10**9))


class Blunt(Shelf):
    def load_sessions(self, query):
        return super().load_sessions(query._replace(specimen=query.specimen and query.specimen.strip()[:5]))


@pytest.mark.parametrize(
    ("shelf", "promise"),
    [
        (Full, "test_who_reads_while_others_save_sees_whole_sessions"),
        (Leaky, "test_who_reads_while_others_save_sees_whole_sessions"),
        (Leaky, "test_what_is_saved_comes_back_equal"),
        (Jealous, "test_without_replace_what_is_stored_stays"),
        (Grave, "test_the_trash_gives_back"),
        (Rude, "test_restoring_never_overwrites"),
        (Greedy, "test_paging_yields_each_session_once"),
        (Blunt, "test_a_search_finds_exactly_what_matches_says"),
    ],
)
def test_a_broken_promise_is_noticed(shelf, promise, tmp_path):
    contract = ShelfContract()
    contract.shelf = shelf
    with pytest.raises((AssertionError, KeyError, Hl7coreError)):
        getattr(contract, promise)(tmp_path)


class Nameless(Shelf):
    """What it saves has no place that could be named."""

    def persist_session(self, session, replace):
        super().persist_session(session, replace)


class AllOrNothing(Shelf):
    """It saves groups in one transaction, and says in its own words why that failed."""

    full = False

    def persist_sessions(self, sessions, replace):
        if self.full:
            raise StoreError("quota reached")
        return [self.persist_session(session, replace) for session in sessions]


@pytest.mark.parametrize(
    "promise", ["test_what_is_saved_comes_back_equal", "test_without_replace_what_is_stored_stays"]
)
def test_a_store_need_not_say_where_a_session_lives(promise, tmp_path):
    contract = ShelfContract()
    contract.shelf = Nameless
    getattr(contract, promise)(tmp_path)


def test_a_group_may_fail_as_a_whole_by_raising(tmp_path):
    contract = ShelfContract()
    store = AllOrNothing(tmp_path)
    sessions = contract.fill(store, 2)
    store.full = True
    outcomes = contract.save(store, sessions)
    assert [str(outcome) for outcome in outcomes] == ["quota reached"] * 2
    assert all(isinstance(outcome, StoreError) for outcome in outcomes)
