# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Secrets of an instance: what there is, how each is made and checked, and how one is shown without being shown.

Lengths follow upstream's generator (self-hosted 0.8.2). All values are letters and digits only, because upstream pastes
several of them unescaped into URLs and templates.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import string
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

ALPHABET = string.ascii_letters + string.digits
# Upstream's lifetime of the API keys: five years of 365 days, in seconds.
API_KEY_LIFETIME = 5 * 365 * 24 * 3600
API_KEY_ISSUER = "supabase"
DEMO_ISSUER = "supabase-demo"


@dataclass(frozen=True)
class SecretSpec:
    """A random secret: the name of its variable and how many letters and digits it has."""

    name: str
    length: int


# REALTIME_DB_ENC_KEY is used raw as an AES-128 key and must have exactly 16 characters: 95 bits of entropy, where
# upstream has 64.
# Every other has at least 190 bits.
RANDOM_SECRETS: Tuple[SecretSpec, ...] = (
    SecretSpec("POSTGRES_PASSWORD", 32),
    SecretSpec("JWT_SECRET", 48),
    SecretSpec("DASHBOARD_PASSWORD", 32),
    SecretSpec("SECRET_KEY_BASE", 64),
    SecretSpec("REALTIME_DB_ENC_KEY", 16),
    SecretSpec("VAULT_ENC_KEY", 32),
    SecretSpec("PG_META_CRYPTO_KEY", 32),
    SecretSpec("S3_PROTOCOL_ACCESS_KEY_ID", 32),
    SecretSpec("S3_PROTOCOL_ACCESS_KEY_SECRET", 64),
)
# API keys: the variable and the role that the key stands for. They are signed with JWT_SECRET.
API_KEYS: Dict[str, str] = {"ANON_KEY": "anon", "SERVICE_ROLE_KEY": "service_role"}
GENERATED_NAMES: Tuple[str, ...] = tuple(spec.name for spec in RANDOM_SECRETS) + tuple(API_KEYS)
# What the user brings; it is kept like ours, never made up.
USER_NAMES: Tuple[str, ...] = ("SMTP_PASS", "OPENAI_API_KEY")
# Variables that repeat a secret under another name.
DERIVED_NAMES: Tuple[str, ...] = ("PGRST_JWT_SECRET",)
SECRET_NAMES = frozenset(GENERATED_NAMES + USER_NAMES + DERIVED_NAMES)


def random_secret(length: int) -> str:
    """Return ``length`` letters and digits from the operating system's generator (5.95 bits each)."""
    return "".join(secrets.choice(ALPHABET) for _index in range(length))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign_jwt(claims: Mapping[str, Any], secret: str) -> str:
    """Return a JSON Web Token with ``claims``, signed HS256 with the UTF-8 bytes of ``secret`` (RFC 7515, 7519)."""
    header = _encode(json.dumps({"alg": "HS256", "typ": "JWT"}, separators=(",", ":")).encode("utf-8"))
    payload = _encode(json.dumps(dict(claims), separators=(",", ":")).encode("utf-8"))
    signed = "{0}.{1}".format(header, payload)
    signature = hmac.new(secret.encode("utf-8"), signed.encode("ascii"), hashlib.sha256).digest()
    return "{0}.{1}".format(signed, _encode(signature))


def verify_jwt(token: str, secret: str) -> Dict[str, Any]:
    """Return the claims of ``token``. Raises ValueError when it is no HS256 token signed with ``secret``."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not a JSON Web Token")
    try:
        header, claims, signature = json.loads(_decode(parts[0])), json.loads(_decode(parts[1])), _decode(parts[2])
    except (ValueError, binascii.Error) as error:
        raise ValueError("not a JSON Web Token") from error
    if not isinstance(header, dict) or header.get("alg") != "HS256" or not isinstance(claims, dict):
        raise ValueError("not an HS256 token")
    signed = "{0}.{1}".format(parts[0], parts[1]).encode("utf-8")
    if not hmac.compare_digest(signature, hmac.new(secret.encode("utf-8"), signed, hashlib.sha256).digest()):
        raise ValueError("the signature does not match the secret")
    return claims


def api_key(role: str, secret: str, now: int) -> str:
    """Return the API key of ``role`` (``anon`` or ``service_role``), valid for five years from ``now`` (Unix time)."""
    claims = {"role": role, "iss": API_KEY_ISSUER, "iat": now, "exp": now + API_KEY_LIFETIME}
    return sign_jwt(claims, secret)


def fill_in(existing: Mapping[str, str], now: int) -> Dict[str, str]:
    """Return all generated secrets: those in ``existing`` as they are, the missing ones newly made.

    ``now`` is Unix time in seconds. An existing value is never replaced.
    """
    values: Dict[str, str] = {}
    for spec in RANDOM_SECRETS:
        values[spec.name] = existing.get(spec.name) or random_secret(spec.length)
    for name, role in API_KEYS.items():
        values[name] = existing.get(name) or api_key(role, values["JWT_SECRET"], now)
    return values


def problems(values: Mapping[str, str]) -> List[str]:
    """Say what is wrong with a set of secrets: lengths that services insist on, keys that do not verify, demo keys."""
    found: List[str] = []
    for name, length in (("REALTIME_DB_ENC_KEY", 16), ("VAULT_ENC_KEY", 32)):
        if len(values.get(name, "")) != length:
            found.append("{0} must have exactly {1} characters".format(name, length))
    if len(values.get("JWT_SECRET", "")) < 32:
        found.append("JWT_SECRET must have at least 32 characters")
    for name, role in API_KEYS.items():
        try:
            claims = verify_jwt(values.get(name, ""), values.get("JWT_SECRET", ""))
        except ValueError as error:
            found.append("{0} does not verify with this instance's JWT_SECRET: {1}".format(name, error))
            continue
        if claims.get("iss") == DEMO_ISSUER:
            found.append("{0} is a public demonstration key".format(name))
        if claims.get("role") != role:
            found.append("{0} is a key for the role {1!r}, not {2!r}".format(name, claims.get("role"), role))
    return found


def fingerprint(value: str, salt: str) -> str:
    """Return what may be shown of a secret: 12 hex digits of an HMAC under the instance's own salt."""
    digest = hmac.new(salt.encode("utf-8"), value.encode("utf-8"), hashlib.sha256).hexdigest()
    return "fingerprint:" + digest[:12]
