"""Sessions of every kind that the model allows."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.session import Direction, Element, ElementType, Ending, Message, Session
from hl7core.testing import make_message

times_ns = st.integers(0, 2**42 * 1_000_000 - 1)  # until the year 2109
moments = st.none() | st.integers(0, 8_000_000_000_000_000).map(
    lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
frame_bytes = st.sampled_from([b"", b"\x0b", b"\x1c\r", b"\x02", b"\r\n", b"\x021"]) | st.binary(max_size=6)
protocols = st.sampled_from(["mllp", "lis01", "plain"]) | words
charsets = st.sampled_from(
    ["", "UNICODE UTF-8", "8859/1", "8859/2", "ASCII", "UNICODE UTF-16", "ISO IR87", "UTF-7", "nonsense"]
)
payload = (
    st.binary(max_size=60)
    | words.map(str.encode)
    | words.map(lambda text: text.encode("utf-16"))
    | st.sampled_from(
        [make_message(1).text, "Größe".encode("latin-1"), '\x00\x01\r\n\t"\\/\x7f\u2028'.encode(), b"+2AA-"]
    )
)
messages = st.builds(
    Message,
    text=payload,
    direction=st.sampled_from(Direction),
    protocol=protocols,
    time_ns=times_ns,
    control_id=words,
    message_type=words,
    charset=charsets,
    complete=st.booleans(),
    ack_code=words,
    reply_to=st.none() | words,
)
deliveries = st.builds(
    Delivery,
    name=words,
    status=st.sampled_from(DeliveryStatus),
    attempts=st.integers(0, 1000),
    next_at=moments,
    submitted_at=moments,
    error=words,
)
findings = st.builds(
    Finding,
    code=words,
    severity=st.sampled_from(Severity),
    text=words,
    element=st.none() | st.integers(0, 99),
    offset=st.none() | st.integers(0, 2**40),
)


@st.composite
def elements(draw, held):
    fields = {
        "time_ns": draw(times_ns),
        "direction": draw(st.sampled_from(Direction)),
        "type": draw(st.sampled_from(ElementType)),
        "offset": draw(st.integers(0, 2**50)),
        "before": draw(frame_bytes),
        "after": draw(frame_bytes),
        "faults": tuple(draw(st.lists(st.builds(Fault, words, st.integers(0, 2**50)), max_size=2))),
        "late": draw(st.booleans()),
        "missing": draw(st.sampled_from([0, 0, 7])),
    }
    if held and draw(st.booleans()):
        index = draw(st.integers(0, len(held) - 1))
        start = draw(st.integers(0, len(held[index].text)))
        span = (start, draw(st.integers(start, len(held[index].text))))
        return Element(**fields, message=index, span=span)
    return Element(**fields, content=draw(payload))


@st.composite
def sessions(draw):
    held = tuple(draw(st.lists(messages, max_size=3)))
    port = st.integers(0, 65535)
    return Session(
        id=str(draw(st.uuids())),
        start_ns=draw(times_ns),
        end_ns=draw(times_ns),
        device=Endpoint(draw(words), draw(port)),
        lis=Endpoint(draw(words), draw(port)),
        elements=tuple(draw(st.lists(elements(held), max_size=4))),
        messages=held,
        is_complete=draw(st.booleans()),
        protocol=draw(protocols),
        ending=draw(st.sampled_from(Ending)),
        connection=draw(words),
        sensor=draw(words),
        findings=tuple(draw(st.lists(findings, max_size=2))),
        deliveries=tuple(draw(st.lists(deliveries, max_size=3, unique_by=lambda d: d.name))),
        ignored=draw(st.booleans()),
        first_saved_at=draw(moments),
        saved_at=draw(moments),
        persisted_until=draw(moments),
        retention_days=draw(st.none() | st.integers(1, 365)),
        revision=draw(st.integers(0, 3)),
    )
