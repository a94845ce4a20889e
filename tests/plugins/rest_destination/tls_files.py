"""Certificates to test with, made by the openssl command: nothing that signs lies in the tree."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class TlsFiles:
    """A CA, a receiver's and a client's certificate of it, another CA, and some that are not to be trusted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = self._authority("ca")
        self.other_ca = self._authority("other")
        self.server = self._certificate("server", "IP:127.0.0.1,DNS:localhost")
        self.named = self._certificate("named", "DNS:lis.example")
        self.elsewhere = self._certificate("elsewhere", "DNS:elsewhere.example")
        self.expired = self._certificate("expired", "IP:127.0.0.1", days="-1")
        self.client = self._certificate("client", "DNS:sensor.example")
        self.encrypted_key = folder / "encrypted.key"
        self._openssl("rsa", "-aes256", "-in", folder / "client.key", "-out", self.encrypted_key, "-passout", "pass:x")

    def key(self, certificate: Path) -> Path:
        return certificate.with_suffix(".key")

    def context(self, certificate: Path, *, clients_of: Path | None = None) -> ssl.SSLContext:
        """What a receiver listens with; ``clients_of``: it demands a client certificate of that CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, self.key(certificate))
        if clients_of is not None:
            context.load_verify_locations(clients_of)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _authority(self, name: str) -> Path:
        certificate = self.folder / f"{name}.pem"
        self._openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", self.key(certificate), "-out", certificate,
        )  # fmt: skip
        return certificate

    def _certificate(self, name: str, names: str, *, days: str = "2") -> Path:
        certificate, request = self.folder / f"{name}.pem", self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        self._openssl(
            "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", self.key(certificate), "-out", request,
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key(self.ca), "-CAcreateserial",
            "-days", days, "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return certificate

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
