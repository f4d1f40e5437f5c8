# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Where alerts are told: mail, webhooks with a signature, Slack and what speaks like it, commands.

Settings are dictionaries, checked as a whole before they are used. What is raised names a channel and what went wrong,
never a password, a secret or an address that is one (Slack's).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import smtplib
import ssl
import subprocess
import urllib.error
import urllib.request
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from . import _process
from ._alert_rules import RULES, SEVERITIES
from ._errors import MultibaseError

TIMEOUT = 20.0
_ADDRESS = re.compile(r"[^\s@<>,;\x00-\x1f]+@[^\s@<>,;\x00-\x1f]+\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
# Of each kind: options that it needs, and those that it may have, with their types.
_SHARED: Dict[str, Tuple[type, ...]] = {"severities": (list,), "instances": (list,), "rules": (list,)}
_NEEDED: Dict[str, Dict[str, Tuple[type, ...]]] = {
    "mail": {"host": (str,), "from": (str,), "to": (list,)},
    "webhook": {"url": (str,)},
    "slack": {"url": (str,)},
    "command": {"command": (list,)},
}
_OPTIONAL: Dict[str, Dict[str, Tuple[type, ...]]] = {
    "mail": {"port": (int,), "security": (str,), "user": (str,), "password": (str,), "ca_file": (str,)},
    "webhook": {"secret": (str,), "headers": (dict,), "ca_file": (str,)},
    "slack": {"ca_file": (str,)},
    "command": {},
}


class NotDelivered(MultibaseError):
    """A channel did not take a message."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What was meant for one server is not told to another."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None


def problems(channels: Any) -> List[str]:
    """Return everything that is wrong with channels. Values are never shown: they may be secrets."""
    if not isinstance(channels, list):
        return ["channels: must be a list"]
    found: List[str] = []
    names: List[str] = []
    for number, channel in enumerate(channels):
        where = "channels[{0}]".format(number)
        if not isinstance(channel, Mapping):
            found.append("{0}: must be a dictionary".format(where))
            continue
        name, kind = channel.get("name"), channel.get("kind")
        if not isinstance(name, str) or not _NAME.match(name):
            found.append("{0}.name: must be letters, digits and . _ -".format(where))
        else:
            where = "channels.{0}".format(name)
            if name in names:
                found.append("{0}: there are two of this name".format(where))
            names.append(name)
        if not isinstance(kind, str) or kind not in _NEEDED:
            found.append("{0}.kind: must be one of {1}".format(where, ", ".join(_NEEDED)))
            continue
        found += _option_problems(where, kind, channel)
    return found


def _option_problems(where: str, kind: str, channel: Mapping[str, Any]) -> List[str]:
    known = {**_SHARED, **_NEEDED[kind], **_OPTIONAL[kind]}
    found = ["{0}.{1}: is missing".format(where, name) for name in _NEEDED[kind] if name not in channel]
    for name, value in channel.items():
        if name in ("name", "kind"):
            continue
        if name not in known:
            listed = ", ".join(sorted(known))
            found.append(
                "{0}.{1}: a channel of kind {2} has no such option; it has {3}".format(where, name, kind, listed)
            )
        elif not isinstance(value, known[name]) or isinstance(value, bool):
            found.append("{0}.{1}: must be {2}".format(where, name, _words(known[name][0])))
    if found:
        return found
    for name, words in (("severities", list(SEVERITIES)), ("rules", sorted(RULES))):
        unknown = [str(word) for word in channel.get(name, []) if word not in words]
        found += [
            "{0}.{1}: there is no {2}; there are {3}".format(where, name, word, ", ".join(words)) for word in unknown
        ]
    if kind == "mail":
        for number, address in enumerate([channel["from"], *channel["to"]]):
            if not isinstance(address, str) or not _ADDRESS.match(address):
                option = "from" if number == 0 else "to[{0}]".format(number - 1)
                found.append("{0}.{1}: is no address such as operators@example.com".format(where, option))
        if not channel["to"]:
            found.append("{0}.to: names nobody".format(where))
        if channel.get("security", "starttls") not in ("starttls", "tls", "none"):
            found.append("{0}.security: must be starttls, tls or none".format(where))
        elif channel.get("security") == "none" and channel.get("password"):
            found.append("{0}.security: a password would travel in the open; use starttls or tls".format(where))
    if kind in ("webhook", "slack"):
        parts = urlsplit(channel["url"])
        if parts.scheme not in ("https", "http") or not parts.hostname or re.search(r"[\s\x00-\x1f]", channel["url"]):
            found.append("{0}.url: must begin with https:// (or http:// inside your own network)".format(where))
    if kind == "webhook":
        for header, value in channel.get("headers", {}).items():
            if not isinstance(value, str) or re.search(r"[^A-Za-z0-9-]", str(header)) or re.search(r"[\r\n]", value):
                found.append("{0}.headers: {1} is no header".format(where, str(header)[:40]))
    if kind == "command" and (
        not channel["command"] or not all(isinstance(word, str) and "\0" not in word for word in channel["command"])
    ):
        found.append("{0}.command: must be a list of a program and its arguments".format(where))
    return found


def _words(kind: type) -> str:
    return {str: "text", list: "a list", int: "a number", dict: "a dictionary"}[kind]


def wants(channel: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether a channel is told of an event. An option that is empty or not there leaves nothing out."""
    alert = event["alert"]
    for option, member in (("severities", "severity"), ("instances", "instance"), ("rules", "rule")):
        if channel.get(option) and alert[member] not in channel[option]:
            return False
    return True


def title(event: Mapping[str, Any]) -> str:
    """Return one line about an event."""
    alert = event["alert"]
    place = "{0} on {1}".format(alert["instance"], event["host"]) if alert["instance"] else event["host"]
    word = {"firing": alert["severity"].upper(), "resolved": "RESOLVED", "test": "TEST"}[event["change"]]
    return " ".join("{0} {1}: {2}".format(word, place, alert["message"]).split())


def text(event: Mapping[str, Any]) -> str:
    """Return the body of a mail."""
    alert = event["alert"]
    lines = [
        title(event), "",
        "host:      {0}".format(event["host"]),
        "instance:  {0}".format(alert["instance"] or "-"),
        "rule:      {0}".format(alert["rule"]),
        "subject:   {0}".format(alert["subject"] or "-"),
        "value:     {0}".format(alert["value"]),
        "threshold: {0}".format(alert["threshold"]),
        "since:     {0}".format(formatdate(alert["since"] or 0, usegmt=True)),
        "alert:     {0}".format(alert["id"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a webhook: HMAC-SHA256 over timestamp, a dot and the body, in hexadecimal."""
    return hmac.new(secret.encode("utf-8"), timestamp.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()


def send(channel: Mapping[str, Any], event: Mapping[str, Any], now: float) -> None:
    """Tell a channel of an event: {id, change, host, alert}. Raises NotDelivered."""
    deliver = {"mail": _mail, "webhook": _webhook, "slack": _slack, "command": _command}[channel["kind"]]
    try:
        deliver(channel, event, now)
    except NotDelivered:
        raise
    except (OSError, ValueError, smtplib.SMTPException, subprocess.SubprocessError) as error:
        raise NotDelivered("channel {0}: {1}".format(channel["name"], _safe(error, channel))) from None


def _safe(error: BaseException, channel: Mapping[str, Any]) -> str:
    """Return what went wrong without what the channel keeps secret."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        words = "{0} {1}".format(error.smtp_code, said)
    elif isinstance(error, urllib.error.URLError):
        words = str(error.reason)
    else:
        words = "{0}: {1}".format(type(error).__name__, error)
    secrets = [channel.get("password"), channel.get("secret"), channel.get("url"), *channel.get("headers", {}).values()]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            words = words.replace(secret, "***")
    return " ".join(words.split())[:300]


def _context(channel: Mapping[str, Any]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=channel.get("ca_file"))


def _mail(channel: Mapping[str, Any], event: Mapping[str, Any], now: float) -> None:
    message = EmailMessage()
    message["From"] = channel["from"]
    message["To"] = ", ".join(channel["to"])
    message["Subject"] = title(event)[:180]
    message["Date"] = formatdate(now)
    message["Message-ID"] = make_msgid(domain="multibase.invalid")
    message["Auto-Submitted"] = "auto-generated"
    message["X-Multibase-Event"] = str(event["id"])
    message.set_content(text(event))
    security = channel.get("security", "starttls")
    port = int(channel.get("port") or {"tls": 465, "starttls": 587, "none": 25}[security])
    if security == "tls":
        client: smtplib.SMTP = smtplib.SMTP_SSL(channel["host"], port, timeout=TIMEOUT, context=_context(channel))
    else:
        client = smtplib.SMTP(channel["host"], port, timeout=TIMEOUT)
    with client:
        if security == "starttls":
            client.starttls(context=_context(channel))
        if channel.get("user"):
            client.login(channel["user"], channel.get("password", ""))
        client.send_message(message)


def _post(channel: Mapping[str, Any], body: bytes, headers: Mapping[str, str]) -> None:
    # Its scheme was checked: http or https.
    request = urllib.request.Request(channel["url"], data=body, headers=dict(headers), method="POST")  # noqa: S310
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=_context(channel)), urllib.request.ProxyHandler({}), _NoRedirects()
    )
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        error.close()
        status = error.code
    if not 200 <= status < 300:
        raise NotDelivered("channel {0}: it answered with status {1}".format(channel["name"], status))


def _webhook(channel: Mapping[str, Any], event: Mapping[str, Any], now: float) -> None:
    body = json.dumps(event, ensure_ascii=False, sort_keys=True).encode("utf-8")
    timestamp = str(int(now))
    headers = {
        **channel.get("headers", {}),
        "Content-Type": "application/json",
        "User-Agent": "multibase",
        "X-Multibase-Event": str(event["id"]),
        "X-Multibase-Timestamp": timestamp,
    }
    if channel.get("secret"):
        headers["X-Multibase-Signature"] = "sha256=" + signature(channel["secret"], timestamp, body)
    _post(channel, body, headers)


def _slack(channel: Mapping[str, Any], event: Mapping[str, Any], _now: float) -> None:
    words = title(event)
    # As Slack wants text that is not to be a link or a mention.
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(plain, escaped)
    _post(channel, json.dumps({"text": words}).encode("utf-8"), {"Content-Type": "application/json"})


def _command(channel: Mapping[str, Any], event: Mapping[str, Any], _now: float) -> None:
    done = subprocess.run(
        list(channel["command"]),
        input=json.dumps(event).encode("utf-8"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_process.clean_environment(),
        cwd="/",
        timeout=TIMEOUT,
        check=False,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise NotDelivered("channel {0}: the command ended with {1}".format(channel["name"], done.returncode))


def choose(channels: Sequence[Mapping[str, Any]], name: Optional[str]) -> List[Mapping[str, Any]]:
    """Return the channels of a name, or all. Raises NotDelivered, naming those that there are."""
    found = [channel for channel in channels if name is None or channel["name"] == name]
    if not found:
        there = ", ".join(str(channel["name"]) for channel in channels) or "none"
        raise NotDelivered("there is no channel {0}; there are: {1}".format(name or "at all", there))
    return found
