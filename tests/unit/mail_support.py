# SPDX-License-Identifier: GPL-3.0-or-later
"""A real mail server of the tests' own, and a certificate that vouches for itself."""

from __future__ import annotations

import base64
import contextlib
import datetime
import email
import email.policy
import ipaddress
import socketserver
import ssl
import threading
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Iterator, List

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD = "canary-of-the-mail-server"


def make_certificate(directory: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(loopback, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "server.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path


class MailServer:
    """An SMTP server on 127.0.0.1: with STARTTLS, or with TLS from the start; it takes what is sent after a login."""

    def __init__(self, certificate: Path, tls: bool = False) -> None:
        self.certificate, self.tls = certificate, tls
        self.messages: List[EmailMessage] = []
        self.logins: List[str] = []
        # What was said before the connection was encrypted.
        self.open_words: List[str] = []
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    outer._talk(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()

    def _secure(self, connection: Any) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context.wrap_socket(connection, server_side=True)

    def _talk(self, connection: Any) -> None:
        encrypted = self.tls
        connection = self._secure(connection) if self.tls else connection
        stream = connection.makefile("rwb")

        def say(text: str) -> None:
            stream.write(text.encode() + b"\r\n")
            stream.flush()

        say("220 tests")
        trusted = False
        while True:
            line = stream.readline()
            if not line:
                return
            word = line.decode().split()[0].upper()
            if not encrypted:
                self.open_words.append(word)
            if word == "EHLO":
                say("250-tests")
                say("250 AUTH PLAIN" if encrypted else "250 STARTTLS")
            elif word == "STARTTLS":
                say("220 go on")
                connection, encrypted = self._secure(connection), True
                stream = connection.makefile("rwb")
            elif word == "AUTH":
                login = base64.b64decode(line.split()[2]).decode()
                self.logins.append(login)
                trusted = login == "\0multibase\0" + PASSWORD
                say("235 ok" if trusted else "535 no: " + line.decode().split()[2])
            elif word == "DATA" and (trusted or not encrypted):
                say("354 go on")
                raw = b"".join(iter(stream.readline, b".\r\n"))
                message = email.message_from_bytes(raw, policy=email.policy.default)
                assert isinstance(message, EmailMessage)
                self.messages.append(message)
                say("250 taken")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("530 log in first" if word == "DATA" else "250 ok")


@contextlib.contextmanager
def mail_server(directory: Path, tls: bool = False) -> Iterator[MailServer]:
    """Run a mail server with a certificate of its own."""
    server = MailServer(make_certificate(directory), tls)
    try:
        yield server
    finally:
        server.close()
