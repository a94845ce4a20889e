"""What the index keeps of a session: searches read no file that it rules out."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from hl7core import Delivery, DeliveryStatus, Endpoint, Finding, Severity
from hl7core.model.schema import session_to_dict
from hl7core_plugins.json_store import index
from plugins.json_store.parts import NOW, Run, index_file, loaded, path_of, rewrite, save, session


def test_a_search_reads_what_separators_the_message_declares(store):
    text = "MSH*$~\\&*A\rPID*1**P-77$$$LAB~P-78**X\rSPM*1*S-88$7\r"
    base = session(1)
    message = base.messages[0]._replace(text=text.encode())
    element = base.elements[0]._replace(span=(0, len(text)))
    odd = base._replace(elements=(element, base.elements[1]), messages=(message, base.messages[1]))
    store.persist_session(odd, replace=False)
    for query in ({"patient": "P-77"}, {"patient": "P-78"}, {"patient": "P-77$$$LAB~P-78"}, {"specimen": "S-88"}):
        assert loaded(store, **query) == [odd]
    assert loaded(store, patient="P-7") == []


@pytest.mark.parametrize(
    "query",
    [{"specimen": "S-0007"}, {"patient": "P-0007"}, {"patient": "P-0007^^^LAB"}, {"control_id": "M000007"},
     {"device": "198.51.100.7"}, {"pending_for": "rest"}, {"status": (DeliveryStatus.FAILED,)},
     {"finding": "slow"}, {"expired_at": NOW}, {"text": "S-0007"}],
    ids=lambda query: next(iter(query)),
)  # fmt: skip
def test_a_search_reads_the_sessions_that_fit_and_no_others(run, tmp_path, opened, query):
    save(run, *range(7), *range(8, 30))
    wanted = session(7)._replace(
        device=Endpoint("198.51.100.7", 5000),
        deliveries=(Delivery("rest"), Delivery("other", DeliveryStatus.FAILED)),
        findings=(Finding("slow", Severity.WARNING, "it took long"),),
        persisted_until=NOW - timedelta(milliseconds=1),
    )
    run.persist_session(wanted, replace=False)
    run.stop()
    again = Run(tmp_path)
    opened.clear()
    assert again.find(**query) == [wanted.id]
    if "text" not in query:  # which is looked for in the bytes of each
        assert opened == [wanted.id]
    assert again.find(device="198.51.100.7", protocol="lis01") == []


def test_text_is_found_however_a_person_has_written_it_down(run):
    message = session(1).messages[0]
    text = message.text + 'NTE|1||Größe "A" & <B>\r'.encode()
    sessions = [session(n) for n in (1, 2, 3)]
    sessions = [s._replace(messages=(message._replace(text=text), s.messages[1])) for s in sessions]
    run.persist_sessions(sessions, replace=False)
    rewrite(path_of(run, 2), json.dumps(session_to_dict(sessions[1], saved=True), separators=(",", ":")).encode())
    rewrite(path_of(run, 3), json.dumps(session_to_dict(sessions[2], saved=True), indent=1).encode())
    for wanted in ("Größe", '"A" & <B>', "NTE|1||Gr"):
        for _ in range(2):
            assert run.find(text=wanted) == [s.id for s in sessions]
    assert run.find(text="Grösse") == []


def test_a_row_that_was_cut_off_costs_no_more_than_itself(run, tmp_path, opened):
    save(run, *range(5))
    run.work()
    path = index_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    save(run, 7)
    run.stop()
    opened.clear()
    again = Run(tmp_path)
    assert again.find(specimen="S-0007") == [session(7).id]
    assert sorted(opened) == [session(4).id, session(7).id]


def test_rows_of_no_use_are_dropped_by_the_owner_alone(run, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(index, "_SPARE_ROWS", 5)
    run.work()
    save(run, *range(10))
    for revision in range(1, 5):
        run.persist_sessions([session(n, revision=revision) for n in range(10)], replace=True)
    run.delete_sessions([session(9).id], to_trash=False)
    run.stop()
    made = index_file(tmp_path)
    foreign = made.with_name("sessions-0-0.0.1.index")
    foreign.write_bytes(b"of another version")
    before = made.read_bytes()
    guest = Run(tmp_path, owner=False)
    guest.work()
    assert (made.read_bytes(), foreign.exists()) == (before, True)
    guest.stop()
    owner = Run(tmp_path)
    owner.work()
    assert not foreign.exists()
    after = made.read_bytes()
    assert (before.count(b" =\n"), after.count(b" =\n")) == (50, 9)
    assert session(9).id.encode() not in after
    opened.clear()
    assert owner.find(specimen="S-0003") == [session(3).id]
    assert opened == [session(3).id]
