# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A small client of PostgreSQL's own protocol: log in with SCRAM, ask, read text. Standard library only.

What watches a host asks every database each minute, and tries every pooler twice as often; ``docker exec psql`` costs
some 0.15 s of the processor each time, this a few milliseconds. Nothing more is meant: no TLS (the way is the host's
own bridge or loopback), no parameters (statements are ours). Protocol 3.0, "Frontend/Backend Protocol" of PostgreSQL's
manual; SCRAM-SHA-256 is RFC 5802 and 7677. The password is never in what is raised.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import List, Optional, Tuple, Type

from ._errors import MultibaseError

_PROTOCOL = 196608
_LARGEST_MESSAGE = 1 << 24


class LoginFailed(MultibaseError):
    """The server did not let us in, or did not answer in time."""


class StatementFailed(MultibaseError):
    """The server refused a statement."""


@dataclass(frozen=True)
class Login:
    """Who logs in where. ``password`` is left out of what is shown."""

    host: str
    port: int
    user: str
    password: str
    database: str = "postgres"

    def __repr__(self) -> str:
        return "Login({0}@{1}:{2}/{3})".format(self.user, self.host, self.port, self.database)


class Scram:
    """One SCRAM-SHA-256 exchange, without channel binding. Raises LoginFailed."""

    def __init__(self, password: str, nonce: Optional[str] = None) -> None:
        # SASLprep leaves what is printable ASCII as it is; a password with more than that is sent as it stands.
        self._password = password.encode("utf-8")
        self._nonce = nonce if nonce is not None else base64.b64encode(secrets.token_bytes(18)).decode("ascii")
        self._first = "n=,r=" + self._nonce
        self._proven = b""

    def first(self) -> bytes:
        """Return the client's first message."""
        return ("n,," + self._first).encode("ascii")

    def final(self, challenge: bytes) -> bytes:
        """Return the client's final message for the server's first one."""
        text = challenge.decode("ascii", "replace")
        fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
        try:
            nonce, salt, rounds = fields["r"], base64.b64decode(fields["s"]), int(fields["i"])
        except (KeyError, ValueError):
            raise LoginFailed("the server's challenge makes no sense") from None
        if not nonce.startswith(self._nonce) or not 1 <= rounds <= 1000000:
            raise LoginFailed("the server's challenge is not for this login")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
        client = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
        server = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
        without_proof = "c=biws,r=" + nonce
        signed = ",".join((self._first, text, without_proof)).encode("ascii")
        signature = hmac.new(hashlib.sha256(client).digest(), signed, hashlib.sha256).digest()
        self._proven = hmac.new(server, signed, hashlib.sha256).digest()
        proof = bytes(one ^ other for one, other in zip(client, signature))
        return "{0},p={1}".format(without_proof, base64.b64encode(proof).decode("ascii")).encode("ascii")

    def check(self, final: bytes) -> None:
        """Check that the server knows the password too."""
        given = final.decode("ascii", "replace")
        expected = "v=" + base64.b64encode(self._proven).decode("ascii")
        if not hmac.compare_digest(given.encode("utf-8"), expected.encode("utf-8")):
            raise LoginFailed("the server does not know the password that it asks for")


class Connection:
    """A session. Everything together may take ``timeout`` seconds. To be used in a ``with`` statement."""

    def __init__(self, login: Login, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        try:
            self._socket = socket.create_connection((login.host, login.port), timeout=timeout)
        except OSError as error:
            raise LoginFailed("no connection to {0}:{1}: {2}".format(login.host, login.port, error)) from error
        self._unread = b""
        try:
            self._log_in(login)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, _kind: Optional[Type[BaseException]], _error: Optional[BaseException], _trace: Optional[TracebackType]
    ) -> None:
        with contextlib.suppress(OSError):
            self._send(b"X", b"")
        self._socket.close()

    def _remaining(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise LoginFailed("the server did not answer in time")
        return left

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.settimeout(self._remaining())
        self._socket.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._socket.settimeout(self._remaining())
            part = self._socket.recv(65536)
            if not part:
                raise LoginFailed("the server closed the connection")
            self._unread += part
        found, self._unread = self._unread[:size], self._unread[size:]
        return found

    def _message(self) -> Tuple[bytes, bytes]:
        head = self._exactly(5)
        (size,) = struct.unpack("!I", head[1:])
        if not 4 <= size <= _LARGEST_MESSAGE:
            raise LoginFailed("what answers there is no PostgreSQL server")
        return head[:1], self._exactly(size - 4)

    def _log_in(self, login: Login) -> None:
        words = ("user", login.user, "database", login.database, "application_name", "multibase:monitor")
        body = struct.pack("!I", _PROTOCOL) + b"".join(word.encode("utf-8") + b"\0" for word in words) + b"\0"
        try:
            self._send(b"", body)
            scram = Scram(login.password)
            while True:
                kind, body = self._message()
                if kind == b"E":
                    raise LoginFailed(_words(body))
                if kind == b"Z":
                    return
                if kind == b"R":
                    self._authenticate(scram, login, body)
        except OSError as error:
            raise LoginFailed("the server did not answer: {0}".format(error)) from error

    def _authenticate(self, scram: Scram, login: Login, body: bytes) -> None:
        (method,) = struct.unpack("!I", body[:4])
        if method == 10:
            if b"SCRAM-SHA-256" not in body[4:].split(b"\0"):
                raise LoginFailed("the server offers no way to log in that is known here")
            first = scram.first()
            self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
        elif method == 11:
            self._send(b"p", scram.final(body[4:]))
        elif method == 12:
            scram.check(body[4:])
        elif method == 5:
            # Poolers with a list of passwords may still ask in this way.
            inner = hashlib.md5((login.password + login.user).encode("utf-8")).hexdigest()  # noqa: S324  # the protocol's
            outer = hashlib.md5(inner.encode("ascii") + body[4:8]).hexdigest()  # noqa: S324
            self._send(b"p", ("md5" + outer).encode("ascii") + b"\0")
        elif method != 0:
            raise LoginFailed("the server asks for a way to log in that is not known here ({0})".format(method))

    def ask(self, statements: str) -> List[List[Optional[str]]]:
        """Run statements and return all rows that they give, as text. Raises StatementFailed."""
        rows: List[List[Optional[str]]] = []
        problem = ""
        try:
            self._send(b"Q", statements.encode("utf-8") + b"\0")
            while True:
                kind, body = self._message()
                if kind == b"D":
                    rows.append(_row(body))
                elif kind == b"E":
                    problem = _words(body)
                elif kind == b"Z":
                    break
        except OSError as error:
            raise StatementFailed("the server did not answer: {0}".format(error)) from error
        if problem:
            raise StatementFailed(problem)
        return rows


def _row(body: bytes) -> List[Optional[str]]:
    """Return the values of a DataRow."""
    (count,) = struct.unpack("!H", body[:2])
    position = 2
    values: List[Optional[str]] = []
    for _number in range(count):
        (size,) = struct.unpack("!i", body[position : position + 4])
        position += 4
        if size < 0:
            values.append(None)
        else:
            values.append(body[position : position + size].decode("utf-8", "replace"))
            position += size
    return values


def _words(body: bytes) -> str:
    """Return severity and message of an ErrorResponse; no detail, which may quote values."""
    fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
    return "{0}: {1}".format(fields.get(b"S", "ERROR"), fields.get(b"M", "no words"))[:300]
