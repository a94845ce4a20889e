"""Two real TLS peers (OpenSSL at both ends) whose bytes go into a TcpTalk instead of a network, and their key log."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from hl7core.wire.pcap.synthetic_tcp import TcpTalk


def certificate(folder: Path) -> Path:
    """A certificate and its key in one file, made by the openssl command."""
    made = folder / "server.pem"
    if not made.exists():
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lis -keyout KEY -out CERT"
        paths = {"KEY": str(folder / "key.pem"), "CERT": str(folder / "cert.pem")}
        subprocess.run([paths.get(word, word) for word in command.split()], check=True, capture_output=True)
        made.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return made


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder))
    return context


def client_context(keys: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if keys is not None:
        context.keylog_filename = str(keys)
    return context


class TlsTalk:
    """A TLS conversation, said line by line, whose packets collect in ``talk``.

    ``version`` is "1.2" or "1.3", ``ciphers`` what OpenSSL calls the suites of TLS 1.2; the keys go to ``keys``.
    """

    def __init__(
        self, folder: Path, version: str = "1.3", ciphers: str = "", *, mss: int = 1460, talk: TcpTalk | None = None,
        session: ssl.SSLSession | None = None, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    ) -> None:  # fmt: skip
        self.keys = folder / "keys.log"
        self.talk = talk or TcpTalk()
        self.mss = mss
        self.contexts = contexts or (client_context(self.keys), server_context(folder))
        wanted = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
        for context in self.contexts:
            context.minimum_version = context.maximum_version = wanted
            if ciphers:
                context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        self.bios = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
        self.peers = [
            self.contexts[0].wrap_bio(*self.bios[0], session=session),
            self.contexts[1].wrap_bio(*self.bios[1], server_side=True),
        ]

    def open(self) -> None:
        """Shake hands, with TCP first."""
        self.talk.open()
        done = [False, False]
        while not all(done):
            for side in (0, 1):
                try:
                    self.peers[side].do_handshake()
                    done[side] = True
                except ssl.SSLWantReadError:
                    pass
                self.flush(side)

    def opener(self, data: bytes) -> None:
        self.say(0, data)

    def acceptor(self, data: bytes) -> None:
        self.say(1, data)

    def say(self, side: int, data: bytes) -> None:
        self.peers[side].write(data)
        self.flush(side)
        got = b""
        while len(got) < len(data):
            got += self.peers[1 - side].read(len(data) - len(got))
        assert got == data

    def lose(self, side: int, data: bytes) -> None:
        """A side says it, and the capture misses it."""
        self.peers[side].write(data)
        said = self.bios[side][1].read()
        self.bios[1 - side][0].write(said)
        self.talk.lose(side, said)
        self.peers[1 - side].read(len(data))

    def flush(self, side: int) -> None:
        said = self.bios[side][1].read()
        if said:
            (self.talk.opener if side == 0 else self.talk.acceptor)(said, mss=self.mss)
            self.bios[1 - side][0].write(said)

    def close(self) -> None:
        self.talk.close()
