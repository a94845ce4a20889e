"""Queries: all that is given must fit."""

from datetime import timedelta

import pytest

from engine.parts import session
from hl7core.hl7.query import matches, sort_key
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.session import SessionQuery

HL7 = b"MSH|^~\\&|A\rPID|1||4711^^^LAB~0815\rSPM|1|S-9^F\rOBR|1|P1|F1\r"
ASTM = b"H|\\^&\rP|1|P-77\rO|1|S-1^2\r"
ONE = session(1, text=HL7)._replace(
    deliveries=(Delivery("lab"), Delivery("mirror", DeliveryStatus.SUBMITTED)),
    findings=(Finding("odd", Severity.INFO, "odd"),),
)
AT = ONE.started_at
EXPIRED = ONE._replace(persisted_until=AT)


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (SessionQuery(), True),
        (SessionQuery(ids=(ONE.id,)), True),
        (SessionQuery(ids=("other",)), False),
        (SessionQuery(status=(DeliveryStatus.PENDING,)), True),
        (SessionQuery(status=(DeliveryStatus.FAILED,)), False),
        (SessionQuery(device="10.0.0.5", lis="10.0.0.9", protocol="mllp"), True),
        (SessionQuery(device="10.0.0.9"), False),
        (SessionQuery(protocol="lis01"), False),
        (SessionQuery(since=AT, until=AT + timedelta(seconds=1)), True),
        (SessionQuery(until=AT), False),
        (SessionQuery(since=AT + timedelta(seconds=1)), False),
        (SessionQuery(patient="4711", specimen="S-9"), True),
        (SessionQuery(patient="0815", specimen="F1"), True),
        (SessionQuery(patient="471"), False),
        (SessionQuery(specimen="nope"), False),
        (SessionQuery(control_id="C1", finding="odd", text="LAB~08"), True),
        (SessionQuery(control_id="C"), False),
        (SessionQuery(finding="even"), False),
        (SessionQuery(text="zzz"), False),
        (SessionQuery(pending_for="lab"), True),
        (SessionQuery(pending_for="mirror"), False),
        (SessionQuery(expired_at=AT), False),
        (SessionQuery(after=sort_key(ONE)), False),
        (SessionQuery(after=(AT - timedelta(seconds=1), "")), True),
        (SessionQuery(after=(AT + timedelta(seconds=1), ""), newest_first=True), True),
    ],
)
def test_a_query_takes_what_fits_all_of_it(query, fits):
    assert matches(ONE, query) is fits


def test_expired_is_what_was_to_be_kept_until_before_that_time():
    assert matches(EXPIRED, SessionQuery(expired_at=AT + timedelta(seconds=1)))
    assert not matches(EXPIRED, SessionQuery(expired_at=AT))


def test_astm_records_say_patient_and_specimen_too():
    one = session(1, text=ASTM)
    assert matches(one, SessionQuery(patient="P-77", specimen="S-1"))
