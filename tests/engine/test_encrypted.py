"""What the engine says of connections that it cannot read, and of pins that nobody speaks."""

from hl7core.testing import EngineHarness, TcpTalk
from tls_peers import TlsTalk


def test_an_encrypted_connection_is_counted_and_told_once(tmp_path):
    with EngineHarness(tmp_path / "data") as harness:
        for number in range(3):
            tls = TlsTalk(tmp_path, talk=TcpTalk(opener=("10.0.0.5", 40000 + number)))
            tls.open()
            tls.opener(b"\x0bMSH|^~\\&|A\r\x1c\r")
            harness.feed(tls.talk.batch())
            harness.wait_decoded()
            harness.wait_for(lambda: "tls" in dict(harness.state().notices))
        assert dict(harness.state().counters)["tls"] == 3
        assert dict(harness.state().notices)["tls"] == (
            "connection 10.0.0.5:40000-10.0.0.9:2575 is encrypted (TLS):"
            " hl7core read FILE --keylog KEYS reads a capture of it if its keys were logged"
        )
        assert harness.sessions() == []


def test_a_pin_to_what_nobody_speaks_is_told_and_detection_decides_there(tmp_path):
    with EngineHarness(tmp_path, settings={"core.protocols": ":2575=nobody"}) as harness:
        assert "core.protocols: unknown protocol nobody" in dict(harness.state().notices)["protocols"]
        talk = TcpTalk()
        talk.open()
        talk.opener(b"\x0bMSH|^~\\&|A|||||ORU^R01|M1|P|2.5\r\x1c\r")
        talk.close()
        harness.feed(talk.batch())
        harness.wait_for(harness.sessions)
        assert harness.sessions()[0].protocol == "mllp"
