# SPDX-License-Identifier: GPL-3.0-or-later
"""The small client of PostgreSQL's protocol: the example of RFC 7677, and servers that misbehave (stand-ins).

A real server answers it in tests/integration/test_stats_engine.py.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Callable, Iterator, List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._postgres import (
    Connection,
    Login,
    LoginFailed,
    Scram,
    StatementFailed,
)

CANARY = "canary-password"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_the_exchange_of_the_rfc() -> None:
    scram = Scram("pencil", nonce="rOprNGfwEbeRWgbNEkqO")
    # The RFC names the user in it; PostgreSQL takes the name from the startup message and wants none here.
    assert scram.first() == b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
    final = scram.final(SERVER_FIRST)
    assert final.startswith(b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=")
    with pytest.raises(LoginFailed):
        scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=")


def test_the_proof_of_the_rfc() -> None:
    scram = Scram("pencil", nonce="rOprNGfwEbeRWgbNEkqO")
    scram._first = "n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert scram.final(SERVER_FIRST).endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=other,s=AAAA,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO1,s=AAAA,i=99999999",
        b"r=rOprNGfwEbeRWgbNEkqO1,s=AAAA,i=x",
    ],
)
def test_challenges_that_are_none(challenge: bytes) -> None:
    with pytest.raises(LoginFailed):
        Scram("pencil", nonce="rOprNGfwEbeRWgbNEkqO").final(challenge)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


READY = message(b"R", struct.pack("!I", 0)) + message(b"Z", b"I")
Serve = Callable[[Callable[[socket.socket], None]], Login]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a stand-in of a server that does what a test says with its only client."""
    listeners: List[socket.socket] = []

    def start(behave: Callable[[socket.socket], None]) -> Login:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            client, _address = listener.accept()
            with client:
                behave(client)

        threading.Thread(target=run, daemon=True).start()
        return Login("127.0.0.1", listener.getsockname()[1], "postgres", CANARY)

    yield start
    for listener in listeners:
        listener.close()


def answer(*parts: bytes) -> Callable[[socket.socket], None]:
    def behave(client: socket.socket) -> None:
        for part in parts:
            client.recv(4096)
            client.sendall(part)
        client.recv(4096)

    return behave


def test_rows_are_text_and_nothing_is_none(serve: Serve) -> None:
    row = struct.pack("!H", 3) + struct.pack("!i", 2) + b"42" + struct.pack("!i", -1) + struct.pack("!i", 0)
    answers = message(b"T", b"\0\0") + message(b"D", row) + message(b"C", b"SELECT 1\0") + message(b"Z", b"I")
    with Connection(serve(answer(READY, answers)), 5) as connection:
        assert connection.ask("SELECT 42, NULL, ''") == [["42", None, ""]]


def test_errors_are_told_without_their_details(serve: Serve) -> None:
    fields = b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey (mail)=(someone) exists\0\0"
    login = serve(answer(READY, message(b"E", fields) + message(b"Z", b"I")))
    with Connection(login, 5) as connection, pytest.raises(StatementFailed, match=r"ERROR: duplicate key\Z"):
        connection.ask("INSERT")


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (answer(message(b"E", b"SFATAL\0Mpassword authentication failed\0\0")), "password authentication failed"),
        (answer(message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256-PLUS\0\0")), "no way to log in"),
        (answer(message(b"R", struct.pack("!I", 3))), "not known here"),
        (answer(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no PostgreSQL server"),
        (lambda client: client.close(), "closed"),
    ],
    ids=["refused", "binding", "cleartext", "http", "closed"],
)
def test_who_does_not_let_us_in(serve: Serve, behave: Callable[[socket.socket], None], words: str) -> None:
    with pytest.raises(LoginFailed) as caught:
        Connection(serve(behave), 5)
    assert words in str(caught.value) or "did not answer" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(serve: Serve) -> None:
    with pytest.raises(LoginFailed, match="answer"):
        Connection(serve(lambda client: threading.Event().wait(3) and None), 0.3)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(LoginFailed, match="no connection"):
        Connection(Login("127.0.0.1", port, "postgres", CANARY), 1)


def test_a_login_shows_no_password() -> None:
    assert CANARY not in repr(Login("127.0.0.1", 5432, "postgres", CANARY))
