import pytest

from fakes import session, settings
from hl7core.errors import StoreError
from hl7core.model.session import SessionQuery
from plugin_host.parts import ERRORS, NOW, service


def store(**hooks):
    return {"persist_session": lambda self, session, replace: f"{session.id[:8]} {replace}", **hooks}


def test_only_the_named_store_is_asked():
    with service({"a": store(), "b": store(persist_session=lambda self: "b")}) as dispatch:
        assert dispatch.stores.attached_stores() == ("a", "b")
        assert dispatch.stores.persist("b", [session()], True) == ["b"]
        assert dispatch.stores.persist("a", [session(3)], True) == ["00000003 True"]
        assert dispatch.stores.persist("a", [], True) == []


def test_a_store_that_is_missing_or_lacks_the_hook_is_an_error_in_every_entry():
    with service({"a": store(), "b": {"on_event": lambda self: None}}) as dispatch:
        entries = dispatch.stores.persist("gone", [session(1), session(2)], False)
        assert [str(entry) for entry in entries] == ["the store gone is not in service"] * 2
        assert str(dispatch.stores.persist("b", [session()], False)[0]) == "b does not implement persist_session"
        with pytest.raises(StoreError, match="a does not implement load_sessions"):
            dispatch.stores.load("a", SessionQuery())


def test_several_sessions_are_saved_by_the_group_commit_if_there_is_one():
    asked = []

    def several(self, sessions, replace):
        asked.append((len(sessions), replace))
        return ["x", StoreError("full"), ValueError("canary")]

    with service({"a": store(persist_sessions=several)}) as dispatch:
        entries = dispatch.stores.persist("a", [session(1), session(2), session(3)], True)
    assert asked == [(3, True)]
    assert entries[0] == "x"
    assert str(entries[1]) == "full"
    assert isinstance(entries[2], StoreError)
    assert str(entries[2]) == "a: persist_sessions: ValueError"


@pytest.mark.parametrize("answer", [None, [], ["a"], ["a", "b", "c"], ("a", "b"), "ab", [1, 2], 5])
def test_a_group_commit_that_returns_something_invalid_has_saved_nothing(answer):
    with service({"a": store(persist_sessions=lambda self: answer)}) as dispatch:
        entries = dispatch.stores.persist("a", [session(1), session(2)], True)
    assert [type(entry) for entry in entries] == [StoreError, StoreError]


def test_a_session_that_cannot_be_saved_does_not_affect_the_next():
    def persist(self, session, replace):
        if session.start_ns == 1:
            raise OSError(28, "canary")
        if session.start_ns == 2:
            raise StoreError("refused")
        if session.start_ns == 3:
            return 5
        return None

    with service({"a": store(persist_session=persist)}) as dispatch:
        entries = dispatch.stores.persist("a", [session(number) for number in range(1, 5)], False)
    assert "No space left" in str(entries[0])
    assert "canary" not in str(entries[0])
    assert str(entries[1]) == "refused"
    assert "must return where" in str(entries[2])
    assert entries[3] == ""


def test_before_persist_changes_what_is_saved_in_the_order_of_the_tables():
    saved = []
    kinds = {
        "a": {"before_persist": lambda self, session: session._replace(sensor=session.sensor + "a")},
        "b": {"before_persist": lambda self, session: session._replace(sensor=session.sensor + "b")},
        "c": {"before_persist": lambda self, session: None},
        "s": store(persist_session=lambda self, session: saved.append(session) or "x"),
    }
    tables = {name: {"enabled": True} for name in ("b", "c", "a", "s")}
    with service(kinds, tables) as dispatch:
        dispatch.registry.settings = settings(tables)
        dispatch.registry.generation += 1
        assert dispatch.stores.persist("s", [session()], False) == ["x"]
    assert saved == [session(sensor="ba")]


@pytest.mark.parametrize("error", [*ERRORS, None], ids=lambda error: type(error).__name__)
def test_a_session_that_could_not_be_prepared_is_not_saved(error):
    saved = []

    def prepare(self, session):
        if session.start_ns == 2:
            if error is None:
                return session._replace(id="another")
            raise error
        return None

    kinds = {
        "a": {"before_persist": prepare},
        "s": store(persist_session=lambda self, session: saved.append(session) or "x"),
    }
    with service(kinds) as dispatch:
        entries = dispatch.stores.persist("s", [session(1), session(2), session(3)], False)
    assert [entries[0], entries[2]] == ["x", "x"]
    assert isinstance(entries[1], StoreError)
    assert "canary" not in str(entries[1])
    assert saved == [session(1), session(3)]


@pytest.mark.parametrize(
    ("hook", "ask"),
    [
        ("load_sessions", lambda dispatch: dispatch.stores.load("a", SessionQuery())),
        ("delete_sessions", lambda dispatch: dispatch.stores.delete("a", ["x"], True, NOW)),
        ("restore_sessions", lambda dispatch: dispatch.stores.restore("a", ["x"])),
        ("empty_trash", lambda dispatch: dispatch.stores.empty_trash("a", NOW, 100)),
        ("list_trash", lambda dispatch: dispatch.stores.list_trash("a")),
    ],
)
@pytest.mark.parametrize("answer", [*ERRORS, 5, [1], "text"], ids=str)
def test_a_store_that_raises_or_returns_something_invalid_is_a_store_error(hook, ask, answer):
    def reply(self):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with service({"a": {hook: reply}}) as dispatch, pytest.raises(StoreError) as caught:
        ask(dispatch)
    assert "canary" not in str(caught.value)
    assert "a: " in str(caught.value)


@pytest.mark.parametrize("answer", [*ERRORS, -1, True, "text", None], ids=str)
def test_an_invalid_store_size_is_a_store_error(answer):
    def reply(self):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with service({"a": {"store_size": reply}}) as dispatch, pytest.raises(StoreError, match="a: "):
        dispatch.stores.store_size("a")


def test_an_optional_hook_that_a_store_lacks_is_a_store_error_that_names_it():
    with service({"a": {"load_sessions": lambda self, query: []}}) as dispatch:
        for hook, ask in (("list_trash", dispatch.stores.list_trash), ("store_size", dispatch.stores.store_size)):
            with pytest.raises(StoreError, match=f"a does not implement {hook}"):
                ask("a")


def test_a_store_without_sessions_may_return_none():
    with service({"a": {"load_sessions": lambda self: None}}) as dispatch:
        assert dispatch.stores.load("a", SessionQuery()) == []


def test_sessions_stored_before_are_saved_without_before_persist():
    kept = []

    def persist_session(self, session, replace):
        kept.append((session, replace))
        return "here"

    changer = {"before_persist": lambda self, session: session._replace(sensor="changed")}
    with service({"store": {"persist_session": persist_session}, "changer": changer}) as dispatch:
        assert dispatch.stores.persist_as_is("store", [session(1)], replace=False) == ["here"]
        assert dispatch.stores.persist("store", [session(2)], replace=True) == ["here"]
    assert kept == [(session(1), False), (session(2, sensor="changed"), True)]


def test_saving_as_is_to_a_missing_store_returns_an_error_entry():
    with service({}) as dispatch:
        (outcome,) = dispatch.stores.persist_as_is("nowhere", [session(1)], replace=False)
    assert isinstance(outcome, StoreError)
