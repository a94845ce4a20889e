"""The C extension and the Python writer give the same JSON, whatever they are given."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model import native, schema
from hl7core.model.delivery import Delivery
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.session import Element, Message, Session
from hl7core.testing import make_session
from model.values import sessions

pytestmark = pytest.mark.skipif(native.SessionLine is None, reason="the C extensions are not installed")


def both(session, *, saved):
    """What Python writes and what the C extension writes: the line, the error, or None if it leaves it to Python."""

    def of(work):
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it is, both are to raise it
            return type(error)

    with patch.object(schema, "_extension", None):
        slow = of(lambda: schema.session_to_json(session, saved=saved))
    assert of(lambda: schema.session_to_json(session, saved=saved)) == slow
    return slow, of(lambda: schema._extension(session, saved))


@given(sessions(), st.booleans())
@settings(max_examples=300)
def test_lines_are_alike(session, saved):
    slow, fast = both(session, saved=saved)
    assert fast in (slow, None)


@pytest.mark.parametrize("protocol", ["mllp", "lis01", "plain"])
@pytest.mark.parametrize("saved", [False, True])
def test_what_comes_from_the_wire_is_not_left_to_python(protocol, saved):
    session = make_session(1, protocol=protocol)._replace(
        findings=(Finding("late", Severity.WARNING, "Größe", 0, 7),), deliveries=(Delivery("rest_destination"),)
    )
    slow, fast = both(session, saved=saved)
    assert fast == slow


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.binary(max_size=3), st.just([]),
    st.text(max_size=3), st.sampled_from(["\ud800", "x\ud800", (), (1,), (0, 1), (1, 0), (0, 1 << 40)]),
    st.builds(object),
)  # fmt: skip
PLACES = st.sampled_from((
    *((Session, name) for name in Session._fields),
    *((Message, name) for name in Message._fields),
    *((Element, name) for name in Element._fields),
    *((Delivery, name) for name in Delivery._fields),
    *((Finding, name) for name in Finding._fields),
    *((Fault, name) for name in Fault._fields),
    *((Endpoint, name) for name in Endpoint._fields),
))  # fmt: skip


def spoilt(value, place, odd):
    """``value``, and what it holds, with something odd in one kind of place."""
    kind, name = place
    if not isinstance(value, tuple):
        return value
    if type(value) is tuple:
        return tuple(spoilt(part, place, odd) for part in value)
    value = value._replace(**{field: spoilt(getattr(value, field), place, odd) for field in value._fields})
    return value._replace(**{name: odd}) if type(value) is kind else value


@given(sessions(), PLACES, ODD, st.booleans())
@settings(max_examples=1000)
def test_values_of_the_wrong_kind_are_left_to_python(session, place, odd, saved):
    slow, fast = both(spoilt(session, place, odd), saved=saved)
    assert fast in (slow, None)


@pytest.mark.parametrize("what", [None, (), object(), "x", (1,) * 20])
def test_what_is_no_session_is_left_to_python(what):
    assert schema._extension(what, True) is None
