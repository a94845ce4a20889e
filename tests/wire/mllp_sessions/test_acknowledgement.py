"""The acknowledgement rule, and that the fast path and the C extension follow it."""

from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.packet import PacketBatch
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.mllp_sessions.acknowledgement import canonical, completes, completing
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.mllp_sessions.test_pairing import ask, reply
from wire.test_native import pure

VALUES = ("", "AL", "SU", "NE", "ER", "XX")
CODES = ("AA", "AE", "AR", "CA", "CE", "CR", "", "OK", "CX")
codes_ = st.lists(st.sampled_from(CODES), max_size=4).map(tuple)
values = st.sampled_from(VALUES)


@pytest.mark.parametrize(
    ("accept", "application", "codes", "complete"),
    [
        # Original mode: the application acknowledgement, whatever it says.
        ("", "", (), False),
        ("", "", ("AA",), True),
        ("", "", ("AE",), True),
        ("", "", ("AR",), True),
        ("", "", ("CA",), False),
        ("", "", ("CE",), False),
        ("", "", ("CA", "AA"), True),
        # Nothing is asked for, or only on error: the end of the request.
        ("NE", "NE", (), True),
        ("NE", "", (), True),
        ("", "NE", (), True),
        ("ER", "ER", (), True),
        ("NE", "ER", (), True),
        # The accept acknowledgement alone.
        ("AL", "NE", (), False),
        ("AL", "NE", ("CA",), True),
        ("AL", "NE", ("AA",), True),
        ("SU", "", ("CR",), True),
        # The application acknowledgement alone.
        ("NE", "AL", ("CA",), False),
        ("NE", "AL", ("CA", "AE"), True),
        ("ER", "AL", ("CE",), True),
        # Both.
        ("AL", "AL", ("CA",), False),
        ("AL", "AL", ("AA",), False),
        ("AL", "AL", ("AA", "CA"), True),
        ("AL", "SU", ("CA", "AR"), True),
        ("AL", "AL", ("CE",), True),
        # Values that the tables do not list.
        ("XX", "NE", (), False),
        ("XX", "XX", ("CA",), True),
        ("XX", "AL", ("CA",), False),
        ("AL", "AL", ("OK", "CX"), True),
        ("", "", ("CX",), False),
    ],
)
def test_an_exchange_is_complete_once_what_it_asks_for_has_come(accept, application, codes, complete):
    assert completes(accept, application, codes) is complete


@given(values, values, codes_, st.sampled_from(CODES))
def test_what_is_complete_stays_so(accept, application, codes, code):
    assert completes(accept, application, (*codes, code)) >= completes(accept, application, codes)


@given(values, values, codes_)
def test_an_unknown_code_counts_as_the_one_that_it_is_taken_for(accept, application, codes):
    assert completes(accept, application, codes) is completes(accept, application, tuple(map(canonical, codes)))


@given(values, values, st.sampled_from(CODES))
def test_the_tables_hold_what_the_rule_says_of_one_code(accept, application, code):
    assert completing(accept, application).get(code) in (completes(accept, application, (code,)), None)


@given(values, values, codes_)
@settings(deadline=None)
def test_the_slow_path_the_fast_path_and_the_c_extension_follow_the_rule(accept, application, codes):
    talk = TcpTalk()
    talk.open()
    for number in ("0", "00"):  # with the fast path ready, and the roles of the two ends settled
        talk.opener(ask(number))
        talk.acceptor(reply(number))
    batches = []
    at = 0
    for said in [ask("1", accept, application), *(reply("1", code) for code in codes)]:
        (talk.acceptor if batches else talk.opener)(said)
        batches.append(PacketBatch.of(talk.packets[at:]))
        at = len(talk.packets)
    ways = [(pure(), {"watch_messages": True}), (pure(), {}), (nullcontext(), {})]
    expected = next((n for n in range(len(codes) + 1) if completes(accept, application, codes[:n])), None)
    for way, options in ways:
        with way:
            assert _after(batches, **options) == expected


def _after(batches: list[PacketBatch], **options: bool) -> int | None:
    """Return how many acknowledgements of the last request had come when its session was told as complete."""
    decoder = Decoder(DecoderOptions(**options))
    for number, batch in enumerate(batches):
        for session in decoder.feed(batch):
            if session.is_complete and session.messages[0].control_id == "1":
                return number
    return None
