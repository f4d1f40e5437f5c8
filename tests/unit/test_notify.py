# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels: mail and webhooks received by real servers of the tests' own, over TLS."""

from __future__ import annotations

import base64
import datetime
import email
import email.policy
import hashlib
import hmac
import http.server
import ipaddress
import json
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.multibase.supabase.plugins.module_utils import _notify
from ansible_collections.multibase.supabase.plugins.module_utils._notify import NotDelivered

NOW = 1_795_700_000.0
CANARY = "canary-0123456789"
ALERT = {
    "id": "abc", "rule": "host_cpu", "severity": "critical", "instance": "acme", "subject": "", "state": "firing",
    "since": NOW, "value": 95.0, "threshold": 90, "message": "busy <b>&\r\nBcc: all@example.com", "acknowledged": None,
    "silenced_until": None,
}  # fmt: skip
EVENT = {"id": "abc-1-firing", "change": "firing", "host": "h1", "alert": ALERT}
MAIL = {
    "name": "ops",
    "kind": "mail",
    "host": "127.0.0.1",
    "from": "m@example.com",
    "to": ["a@example.com", "b@example.com"],
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Tuple[str, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that vouches for itself: its file, and a server's context with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    work = tmp_path_factory.mktemp("authority")
    path, both = work / "ca.pem", work / "both.pem"
    text = certificate.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(text)
    both.write_bytes(
        text
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return str(path), context


class MailServer:
    """A small SMTP server (RFC 5321) with STARTTLS or TLS, a login, and one message."""

    def __init__(self, context: ssl.SSLContext, tls: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context, self._tls = context, tls
        self.port = self._listener.getsockname()[1]
        self.recipients: List[str] = []
        self.login = ""
        self.encrypted = False
        self.message = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _address = self._listener.accept()
        try:
            if self._tls:
                connection = self._context.wrap_socket(connection, server_side=True)
                self.encrypted = True
            self._talk(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(b"220 test\r\n")
        stream = connection.makefile("rb")
        while True:
            line = stream.readline()
            verb = line[:4].upper()
            if not line or verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            if verb == b"STAR":
                connection.sendall(b"220 go\r\n")
                connection = self._context.wrap_socket(connection, server_side=True)
                self.encrypted = True
                stream = connection.makefile("rb")
            elif verb == b"EHLO":
                extension = b"AUTH PLAIN" if self.encrypted else b"STARTTLS"
                connection.sendall(b"250-test\r\n250 " + extension + b"\r\n")
            elif verb == b"AUTH":
                self.login = base64.b64decode(line.split()[2]).decode()
                good = self.login.endswith(CANARY)
                connection.sendall(b"235 ok\r\n" if good else b"535 wrong password " + self.login.encode() + b"\r\n")
            elif verb == b"DATA":
                connection.sendall(b"354 go\r\n")
                while not self.message.endswith(b"\r\n.\r\n"):
                    self.message += stream.readline()
                connection.sendall(b"250 taken\r\n")
            else:
                if verb == b"RCPT":
                    self.recipients.append(line.split(b"<")[1].split(b">")[0].decode())
                connection.sendall(b"250 ok\r\n")

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_is_received_over_tls(authority: Tuple[str, ssl.SSLContext], security: str) -> None:
    server = MailServer(authority[1], security == "tls")
    channel = {
        **MAIL,
        "port": server.port,
        "security": security,
        "user": "u",
        "password": CANARY,
        "ca_file": authority[0],
    }
    assert _notify.problems([channel]) == []
    _notify.send(channel, EVENT, NOW)
    server.close()
    assert server.encrypted and server.login == f"\0u\0{CANARY}"
    assert server.recipients == ["a@example.com", "b@example.com"]
    message = email.message_from_bytes(server.message, policy=email.policy.default)
    assert message["Subject"] == "CRITICAL acme on h1: busy <b>& Bcc: all@example.com"
    assert message["Bcc"] is None and message["X-Multibase-Event"] == "abc-1-firing"
    assert "host_cpu" in message.get_content() and CANARY not in server.message.decode()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_server_that_nobody_vouches_for_is_told_nothing(
    authority: Tuple[str, ssl.SSLContext], security: str
) -> None:
    server = MailServer(authority[1], security == "tls")
    with pytest.raises(NotDelivered, match="channel ops"):
        _notify.send({**MAIL, "port": server.port, "security": security, "user": "u", "password": CANARY}, EVENT, NOW)
    server.close()
    assert server.login == "" and server.message == b""


def test_what_a_mail_server_says_is_told_without_the_password(authority: Tuple[str, ssl.SSLContext]) -> None:
    server = MailServer(authority[1], tls=True)
    wrong = "wrong-" + CANARY[:-1]
    channel = {**MAIL, "port": server.port, "security": "tls", "user": "u", "password": wrong, "ca_file": authority[0]}
    with pytest.raises(NotDelivered, match="535") as caught:
        _notify.send(channel, EVENT, NOW)
    server.close()
    assert wrong not in str(caught.value) and caught.value.__cause__ is None


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes what is posted; answers with the status that the path ends with."""

    taken: List[Tuple[Dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(int(self.path.rsplit("/", 1)[1]))
        self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


Received = List[Tuple[Dict[str, str], bytes]]


@pytest.fixture
def hook(authority: Tuple[str, ssl.SSLContext]) -> Iterator[Tuple[str, Received]]:
    """A real HTTPS server: its address and what it received."""
    taken: Received = []
    server = http.server.HTTPServer(("127.0.0.1", 0), type("Handler", (Hook,), {"taken": taken}))
    server.socket = authority[1].wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()


def documented_check() -> Callable[..., bool]:
    """The function that the page tells users to check signatures with."""
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
    scope: Dict[str, Any] = {}
    exec(page.split("```python\n", 1)[1].split("```", 1)[0], scope)  # it is our own page
    return scope["is_genuine"]  # type: ignore[no-any-return]


def test_a_webhook_is_signed_as_the_page_says(
    hook: Tuple[str, Received], authority: Tuple[str, ssl.SSLContext]
) -> None:
    address, taken = hook
    channel = {"name": "pager", "kind": "webhook", "url": address + "/204", "secret": CANARY, "ca_file": authority[0],
               "headers": {"X-Team": "web"}}  # fmt: skip
    assert _notify.problems([channel]) == []
    _notify.send(channel, EVENT, NOW)
    ((headers, body),) = taken
    assert json.loads(body) == EVENT and headers["x-team"] == "web"
    named = {
        "X-Multibase-Timestamp": headers["x-multibase-timestamp"],
        "X-Multibase-Signature": headers["x-multibase-signature"],
    }
    assert documented_check()(named, body, CANARY)
    assert not documented_check()(named, body + b" ", CANARY) and not documented_check()(named, body, "other")
    signed = b"1795700000." + body
    assert headers["x-multibase-signature"] == "sha256=" + hmac.new(CANARY.encode(), signed, hashlib.sha256).hexdigest()
    assert CANARY.encode() not in body and CANARY not in str(headers)


def test_slack_gets_text_that_is_no_markup(hook: Tuple[str, Received], authority: Tuple[str, ssl.SSLContext]) -> None:
    address, taken = hook
    _notify.send({"name": "s", "kind": "slack", "url": address + "/200", "ca_file": authority[0]}, EVENT, NOW)
    assert json.loads(taken[0][1]) == {"text": "CRITICAL acme on h1: busy &lt;b&gt;&amp; Bcc: all@example.com"}


@pytest.mark.parametrize("status", [302, 400, 500])
def test_who_does_not_take_a_message_is_told_of_and_not_followed(
    hook: Tuple[str, Received], authority: Tuple[str, ssl.SSLContext], status: int
) -> None:
    address, taken = hook
    with pytest.raises(NotDelivered, match=f"channel s: it answered with status {status}"):
        _notify.send({"name": "s", "kind": "slack", "url": f"{address}/{status}", "ca_file": authority[0]}, EVENT, NOW)
    assert len(taken) == 1


def test_an_address_that_is_a_secret_is_in_no_error(hook: Tuple[str, Received]) -> None:
    for url in (f"{hook[0]}/{CANARY}/200", f"http://127.0.0.1:1/{CANARY}"):
        with pytest.raises(NotDelivered) as caught:
            _notify.send({"name": "s", "kind": "slack", "url": url}, EVENT, NOW)
        assert CANARY not in str(caught.value)
    assert hook[1] == [], "its certificate is nobody's"


def test_a_command_gets_the_event_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    out = tmp_path / "out"
    code = f"import os, sys; open({str(out)!r}, 'w').write(sys.stdin.read() + str('CANARY' in os.environ))"
    _notify.send({"name": "c", "kind": "command", "command": [sys.executable, "-c", code]}, EVENT, NOW)
    assert out.read_text() == json.dumps(EVENT) + "False"


@pytest.mark.parametrize(
    ("command", "words"), [(["false"], "ended with 1"), (["/nonexistent/program"], "FileNotFoundError")]
)
def test_a_command_that_fails_is_told(command: List[str], words: str) -> None:
    with pytest.raises(NotDelivered, match=words):
        _notify.send({"name": "c", "kind": "command", "command": command}, EVENT, NOW)


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_notify, "TIMEOUT", 0.2)
    with pytest.raises(NotDelivered, match="TimeoutExpired"):
        _notify.send({"name": "c", "kind": "command", "command": ["sleep", "30"]}, EVENT, NOW)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, True), ({"severities": ["warning"]}, False), ({"severities": ["critical"], "rules": ["host_cpu"]}, True),
     ({"instances": ["beta"]}, False), ({"instances": []}, True), ({"rules": ["disk_used"]}, False)],
)  # fmt: skip
def test_what_a_channel_wants(options: Dict[str, Any], wanted: bool) -> None:
    assert _notify.wants({**MAIL, **options}, EVENT) is wanted


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ("mail", ["channels: must be a list"]),
        ([3], ["channels[0]: must be"]),
        ([{"kind": "mail"}], ["channels[0].name", ".host: is missing", ".from: is missing", ".to: is missing"]),
        ([MAIL, MAIL], ["channels.ops: there are two"]),
        ([{"name": "x", "kind": "pigeon"}], ["channels.x.kind: must be one of mail, webhook, slack, command"]),
        ([{**MAIL, "hots": CANARY}], ["channels.ops.hots: a channel of kind mail has no such option"]),
        ([{**MAIL, "to": ["nobody", "a@b.example, c@d.example"]}], ["to[0]: is no address", "to[1]: is no address"]),
        ([{**MAIL, "to": []}], ["names nobody"]),
        ([{**MAIL, "port": "25"}], ["port: must be a number"]),
        ([{**MAIL, "security": "none", "password": CANARY}], ["travel in the open"]),
        ([{**MAIL, "severities": ["bad"], "rules": ["cpu"]}], ["there is no bad", "there is no cpu"]),
        ([{"name": "x", "kind": "webhook", "url": "ftp://" + CANARY}], ["url: must begin with https"]),
        ([{"name": "x", "kind": "webhook", "url": "https://h/", "headers": {"A": "b\r\nC: d"}}], ["A is no header"]),
        ([{"name": "x", "kind": "command", "command": "rm -rf /"}], ["command: must be a list"]),
        ([{"name": "x", "kind": "command", "command": []}], ["must be a list of a program"]),
    ],
)
def test_what_is_wrong_with_channels_is_told_together_and_without_values(channels: Any, words: List[str]) -> None:
    found = _notify.problems(channels)
    assert len(found) == len(words), found
    assert all(word in text for word, text in zip(words, found)), found
    assert CANARY not in "".join(found)


def test_a_channel_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(NotDelivered, match="no channel pager; there are: ops"):
        _notify.choose([MAIL], "pager")
    assert _notify.choose([MAIL], None) == [MAIL]
