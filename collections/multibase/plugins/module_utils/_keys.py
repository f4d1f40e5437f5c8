# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The API keys of an instance: what each is, how it is made, and what can be wrong with it.

Formats follow upstream's scripts (self-hosted 0.8.2). Keys are handed about as variables (name -> value). Whatever is
found wrong is told in sentences that name the variable and never show a value.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ._jwt import (
    compact,
    encode,
    new_private_jwk,
    private_key,
    public_jwk,
    public_key,
    sign_es256,
    sign_jwt,
    symmetric_jwk,
    unverified_claims,
    verify_es256,
    verify_jwt,
)

# Upstream's lifetime of the API keys: five years of 365 days, in seconds.
API_KEY_LIFETIME = 5 * 365 * 24 * 3600
API_KEY_ISSUER = "supabase"
DEMO_ISSUER = "supabase-demo"

# Variable -> the role that the key stands for. These are signed with JWT_SECRET ...
API_KEYS: Dict[str, str] = {"ANON_KEY": "anon", "SERVICE_ROLE_KEY": "service_role"}
# ... and these with the ES256 key pair. Only the gateway knows them.
ASYMMETRIC_API_KEYS: Dict[str, str] = {"ANON_KEY_ASYMMETRIC": "anon", "SERVICE_ROLE_KEY_ASYMMETRIC": "service_role"}
ASYMMETRIC_NAMES: Tuple[str, ...] = ("JWT_KEYS", "JWT_JWKS", *ASYMMETRIC_API_KEYS)
# Variable -> what the key begins with.
OPAQUE_KEYS: Dict[str, str] = {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_", "SUPABASE_SECRET_KEY": "sb_secret_"}

# Characters of base64url, 6 bits each: 132 bits.
OPAQUE_LENGTH = 22
_CHECKSUM_LENGTH = 8
# Upstream's name for any project that it does not host itself; part of what the checksum is made of.
_PROJECT = "supabase-self-hosted"


def claims_of(role: str, now: int) -> Dict[str, Any]:
    """Return the claims of an API key that is valid for five years from ``now`` (Unix time in seconds)."""
    return {"role": role, "iss": API_KEY_ISSUER, "iat": now, "exp": now + API_KEY_LIFETIME}


def api_key(role: str, secret: str, now: int) -> str:
    """Return the API key of ``role`` (``anon`` or ``service_role``), signed with JWT_SECRET."""
    return sign_jwt(claims_of(role, now), secret)


def asymmetric_keys(secret: str, now: int) -> Dict[str, str]:
    """Return a new key pair as the variables that carry it, with the API keys that it signs.

    ``secret`` is JWT_SECRET: both key sets hold it as well, so that tokens signed with it stay valid. JWT_KEYS (for
    Auth, which signs) is an array, JWT_JWKS (for those who verify) an object. Raises MultibaseError without the
    cryptography library.
    """
    private = new_private_jwk()
    values = {
        "JWT_KEYS": compact([private, symmetric_jwk(secret)]),
        "JWT_JWKS": compact({"keys": [public_jwk(private), symmetric_jwk(secret)]}),
    }
    for name, role in ASYMMETRIC_API_KEYS.items():
        values[name] = sign_es256(claims_of(role, now), private)
    return values


def opaque_key(prefix: str) -> str:
    """Return a new opaque key: the prefix, 22 random characters, an underscore and a checksum of 8."""
    key = prefix + encode(secrets.token_bytes(17))[:OPAQUE_LENGTH]
    return "{0}_{1}".format(key, _checksum(key))


def _checksum(key: str) -> str:
    digest = hashlib.sha256("{0}|{1}".format(_PROJECT, key).encode("utf-8")).digest()
    return encode(digest)[:_CHECKSUM_LENGTH]


# What can be wrong


def api_key_problems(name: str, token: str, role: str, secret: str) -> List[str]:
    """Say what is wrong with an API key that JWT_SECRET signs. It may have expired."""
    try:
        claims = verify_jwt(token, secret)
    except ValueError as error:
        return ["{0} does not verify with this instance's JWT_SECRET: {1}".format(name, error)]
    return _claims_problems(name, claims, role)


def _claims_problems(name: str, claims: Mapping[str, Any], role: str) -> List[str]:
    found: List[str] = []
    issuer = claims.get("iss")
    if issuer == DEMO_ISSUER:
        found.append("{0} is a public demonstration key".format(name))
    elif issuer != API_KEY_ISSUER:
        found.append("{0} was not issued by {1!r}".format(name, API_KEY_ISSUER))
    if claims.get("role") != role:
        found.append("{0} is a key for the role {1!r}, not {2!r}".format(name, claims.get("role"), role))
    if _expiry(claims) is None:
        found.append("{0} does not say when it expires".format(name))
    return found


def _expiry(claims: Mapping[str, Any]) -> Optional[int]:
    expiry = claims.get("exp")
    return expiry if isinstance(expiry, int) and not isinstance(expiry, bool) else None


def has_expired(token: str, now: int) -> bool:
    """Tell whether an API key is of no use any more at ``now`` (Unix time). What cannot be read has not expired."""
    try:
        expiry = _expiry(unverified_claims(token))
    except ValueError:
        return False
    return expiry is not None and expiry <= now


def opaque_key_problems(name: str, key: str, prefix: str) -> List[str]:
    """Say what is wrong with an opaque key."""
    body, checksum = key[: len(prefix) + OPAQUE_LENGTH], key[len(prefix) + OPAQUE_LENGTH :]
    # What is random may hold underscores: only places tell the parts from each other.
    if not key.startswith(prefix) or len(checksum) != 1 + _CHECKSUM_LENGTH:
        return ["{0} does not have the shape of such a key ({1}...)".format(name, prefix)]
    if checksum != "_" + _checksum(body):
        return ["{0} is damaged: its checksum does not fit".format(name)]
    return []


def asymmetric_problems(values: Mapping[str, str], labels: Mapping[str, str], secret: str) -> List[str]:
    """Say what is wrong with a key pair and what belongs to it; ``values`` holds all of ``ASYMMETRIC_NAMES``.

    ``labels`` are the names to be told for them, ``secret`` is JWT_SECRET. The API keys may have expired.
    """
    found: List[str] = []
    private: Any = None
    try:
        pair, symmetric = _two_keys(_json(values["JWT_KEYS"]))
        private_key(pair)
        private = pair
        found += _symmetric_problems(labels["JWT_KEYS"], symmetric, secret)
    except ValueError as error:
        found.append("{0} is not a key pair as Multibase makes it: {1}".format(labels["JWT_KEYS"], error))
    try:
        key_set = _json(values["JWT_JWKS"])
        public, symmetric = _two_keys(key_set["keys"] if isinstance(key_set, dict) and [*key_set] == ["keys"] else None)
        public_key(public)
        found += _symmetric_problems(labels["JWT_JWKS"], symmetric, secret)
    except ValueError as error:
        found.append("{0} is not a key set as Multibase makes it: {1}".format(labels["JWT_JWKS"], error))
        return found
    if private is not None and public != public_jwk(private):
        found.append(
            "{0} does not hold the public half of the key in {1}".format(labels["JWT_JWKS"], labels["JWT_KEYS"])
        )
    for name, role in ASYMMETRIC_API_KEYS.items():
        try:
            claims = verify_es256(values[name], public)
        except ValueError as error:
            found.append("{0} does not verify with the key in {1}: {2}".format(labels[name], labels["JWT_JWKS"], error))
            continue
        found += _claims_problems(labels[name], claims, role)
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        # Not told what the reader found: it may quote the text.
        raise ValueError("not JSON") from error


def _two_keys(keys: Any) -> Tuple[Any, Any]:
    if not isinstance(keys, list) or len(keys) != 2:
        raise ValueError("not an ES256 key and a symmetric one")
    return keys[0], keys[1]


def _symmetric_problems(name: str, jwk: Any, secret: str) -> List[str]:
    if jwk == symmetric_jwk(secret):
        return []
    return ["{0} holds another symmetric key than this instance's JWT_SECRET".format(name)]


def private_parts(keys: str) -> List[str]:
    """Return the secret texts inside a value of JWT_KEYS, which programs may print apart from the rest."""
    try:
        found = _json(keys)
    except ValueError:
        return []
    jwks = [jwk for jwk in found if isinstance(jwk, dict)] if isinstance(found, list) else []
    texts = [jwk.get(member) for jwk in jwks for member in ("d", "k")]
    return [text for text in texts if isinstance(text, str)]
