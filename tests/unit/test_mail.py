# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail as a real server receives it, and what is never sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _mail
from unit.mail_support import PASSWORD, MailServer, mail_server

NOW = 1_790_000_000.0
BASE: Dict[str, Any] = {
    "host": "127.0.0.1",
    "from": "multibase@example.com",
    "to": ["ann@example.com", "bo@example.com"],
}
LOGIN = {"user": "multibase", "password": PASSWORD}
PAGE = _mail.Attachment("report.html", "text/html", "<p>ünïcode &amp; more</p>\n" * 200)


def settings(server: MailServer, **more: Any) -> Dict[str, Any]:
    security = "tls" if server.tls else "starttls"
    return {**BASE, **LOGIN, "port": server.port, "ca_file": str(server.certificate), "security": security, **more}


def message(subject: str = "All is well") -> Any:
    return _mail.compose(BASE, subject, "Nothing needs attention.\n", [PAGE], NOW)


@pytest.mark.parametrize("tls", [False, True])
def test_a_mail_arrives_whole_after_a_login_over_tls(tmp_path: Path, tls: bool) -> None:
    with mail_server(tmp_path, tls) as server:
        _mail.send(settings(server), message())
    (got,) = server.messages
    assert (got["Subject"], got["From"], got["To"]) == (
        "All is well", "multibase@example.com", "ann@example.com, bo@example.com",
    )  # fmt: skip
    assert got.get_body().get_content().splitlines() == ["Nothing needs attention."]
    (attached,) = got.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("report.html", "text/html")
    assert attached.get_payload(decode=True).decode() == PAGE.text
    assert server.logins == ["\0multibase\0" + PASSWORD]
    assert server.open_words == ([] if tls else ["EHLO", "STARTTLS"])


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_nobody_vouches_for_gets_nothing(tmp_path: Path, tls: bool) -> None:
    with mail_server(tmp_path, tls) as server, pytest.raises(_mail.NotSent, match="certificate") as caught:
        _mail.send(settings(server, ca_file=""), message())
    assert server.logins == [] and server.messages == [] and "AUTH" not in server.open_words
    assert PASSWORD not in str(caught.value)


def test_a_refused_login_tells_no_password(tmp_path: Path) -> None:
    with mail_server(tmp_path) as server, pytest.raises(_mail.NotSent) as caught:
        _mail.send(settings(server, password="another canary"), message())
    assert str(caught.value) == f"127.0.0.1:{server.port}: the server refused user and password (status 535)"
    assert caught.value.__cause__ is None and server.messages == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with mail_server(tmp_path) as server:
        gone = settings(server)
    with pytest.raises(_mail.NotSent, match=rf"127\.0\.0\.1:{server.port}: ConnectionRefusedError"):
        _mail.send(gone, message())


def test_a_server_without_starttls_gets_nothing(tmp_path: Path) -> None:
    """One with TLS from the start: it waits for a handshake, and the client for its greeting."""
    with mail_server(tmp_path, tls=True) as server, pytest.raises(_mail.NotSent):
        unsafe = settings(server, security="starttls")
        _mail.TIMEOUT, before = 2.0, _mail.TIMEOUT
        try:
            _mail.send(unsafe, message())
        finally:
            _mail.TIMEOUT = before
    assert server.logins == [] and server.messages == []


def test_a_relay_of_ones_own_may_go_without_tls_and_without_a_password(tmp_path: Path) -> None:
    with mail_server(tmp_path) as server:
        _mail.send({**BASE, "port": server.port, "security": "none"}, message())
    assert len(server.messages) == 1 and server.logins == []


def test_ends_of_lines_in_a_subject_add_no_header() -> None:
    made = message("beta\r\nBcc: eve@example.com\n\nx")
    assert made["Subject"] == "beta Bcc: eve@example.com x" and made["Bcc"] is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        (LOGIN, None),
        ({"host": None}, "host: must be text"),
        ({"host": ""}, "host: is empty"),
        ({"to": []}, "to: names nobody"),
        ({"to": "ann@example.com"}, "to: must be a list"),
        ({"to": ["ann"]}, "to: needs addresses such as operators@example.com"),
        ({"from": "a@b\nBcc: c@d"}, "from: needs addresses such as operators@example.com"),
        ({"port": True}, "port: must be a number"),
        ({"security": "maybe"}, "security: must be one of starttls, tls, none"),
        ({**LOGIN, "security": "none"}, "security: a password would travel in the open; use starttls or tls"),
        ({"password": PASSWORD}, "user: is missing, and there is a password"),
        ({"passwort": PASSWORD}, "passwort: there is no such option; there are ca_file, from, host, password, port, "),
    ],
)
def test_settings_that_cannot_be(change: Dict[str, Any], problem: Optional[str]) -> None:
    found = _mail.problems({**BASE, **change})
    assert [one[: len(problem or "")] for one in found] == ([] if problem is None else [problem])
    assert PASSWORD not in "".join(found)


def test_all_that_is_missing_is_told_at_once() -> None:
    assert _mail.problems({}) == ["host: is missing", "from: is missing", "to: is missing"]
    assert _mail.problems([1]) == ["must be a dictionary"]
