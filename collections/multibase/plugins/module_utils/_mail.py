# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Mail with attachments, through a server whose certificate is checked.

Settings are {host, from, to, port, security, user, password, ca_file}, as those of a channel of alerts. What is raised
never holds the password.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ._errors import MultibaseError

TIMEOUT = 30.0
SECURITY: Mapping[str, int] = {"starttls": 587, "tls": 465, "none": 25}
_ADDRESS = re.compile(r"[^\s@<>,;\x00-\x1f]+@[^\s@<>,;\x00-\x1f]+\Z")
_NEEDED: Dict[str, type] = {"host": str, "from": str, "to": list}
_OPTIONAL: Dict[str, type] = {"port": int, "security": str, "user": str, "password": str, "ca_file": str}
_WORDS = {str: "text", list: "a list", int: "a number"}


class NotSent(MultibaseError):
    """The server did not take a mail."""


class Attachment(NamedTuple):
    """A file of text; ``kind`` is its media type, as text/html."""

    name: str
    kind: str
    text: str


def problems(settings: Any) -> List[str]:
    """Return everything that is wrong with settings. Values are never shown: one may be a secret."""
    if not isinstance(settings, Mapping):
        return ["must be a dictionary"]
    known = {**_NEEDED, **_OPTIONAL}
    found = ["{0}: is missing".format(name) for name in _NEEDED if name not in settings]
    for name, value in settings.items():
        if name not in known:
            found.append("{0}: there is no such option; there are {1}".format(name, ", ".join(sorted(known))))
        elif not isinstance(value, known[name]) or isinstance(value, bool):
            found.append("{0}: must be {1}".format(name, _WORDS[known[name]]))
    if found:
        return found
    found += ["host: is empty"] if not settings["host"] else []
    found += ["to: names nobody"] if not settings["to"] else []
    for name, addresses in (("from", [settings["from"]]), ("to", settings["to"])):
        if not all(isinstance(address, str) and _ADDRESS.match(address) for address in addresses):
            found.append("{0}: needs addresses such as operators@example.com".format(name))
    security = settings.get("security", "starttls")
    if security not in SECURITY:
        found.append("security: must be one of {0}".format(", ".join(SECURITY)))
    elif security == "none" and settings.get("password"):
        found.append("security: a password would travel in the open; use starttls or tls")
    if bool(settings.get("password")) and not settings.get("user"):
        found.append("user: is missing, and there is a password")
    return found


def compose(
    settings: Mapping[str, Any], subject: str, body: str, attachments: Sequence[Attachment], now: float
) -> EmailMessage:
    """Return a mail of ``now`` (seconds since 1970); ends of lines in the subject become spaces."""
    message = EmailMessage()
    message["From"] = settings["from"]
    message["To"] = ", ".join(settings["to"])
    message["Subject"] = " ".join(subject.split())
    message["Date"] = formatdate(now)
    message["Message-ID"] = make_msgid(domain="multibase.invalid")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(body)
    for attachment in attachments:
        main, _slash, sub = attachment.kind.partition("/")
        message.add_attachment(attachment.text.encode("utf-8"), maintype=main, subtype=sub, filename=attachment.name)
    return message


def send(settings: Mapping[str, Any], message: EmailMessage) -> None:
    """Send a mail. Raises NotSent; nothing is sent over a connection that could not be made safe."""
    security = settings.get("security", "starttls")
    place: Tuple[str, int] = (settings["host"], int(settings.get("port") or SECURITY[security]))
    try:
        context = ssl.create_default_context(cafile=settings.get("ca_file") or None)
        if security == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(*place, timeout=TIMEOUT, context=context)
        else:
            client = smtplib.SMTP(*place, timeout=TIMEOUT)
        with client:
            if security == "starttls":
                client.starttls(context=context)
            if settings.get("user"):
                client.login(settings["user"], settings.get("password", ""))
            client.send_message(message)
    except (OSError, ValueError, smtplib.SMTPException) as error:
        raise NotSent("{0}:{1}: {2}".format(*place, _words(error, settings.get("password")))) from None


def _words(error: BaseException, password: Any) -> str:
    """Return what went wrong; a server may say again what it was told, in Base64 too."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "the server refused user and password (status {0})".format(error.smtp_code)
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        words = "{0} {1}".format(error.smtp_code, said)
    else:
        words = "{0}: {1}".format(type(error).__name__, error)
    return " ".join((words.replace(password, "***") if password else words).split())[:300]
