# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""JSON Web Tokens and the keys that sign them: HS256 with a shared secret, ES256 with a P-256 key pair.

Sources: RFC 7515 (signatures), 7517 and 7518 (keys), 7519 (tokens), in the compact form. ES256 needs the cryptography
library, 3.3 (Debian 11) or newer; it is imported when first needed, because a host without asymmetric keys may lack it.

A key is a JSON Web Key as plain data. Everything that verifies takes one spelling only: base64url without padding whose
spare bits are zero, as an encoder writes it. Decoders that take more would let changed text pass for the same token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from typing import TYPE_CHECKING, Any, Dict, Mapping, Tuple

from ._errors import LibraryMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

Jwk = Dict[str, Any]

# Bytes of one coordinate of P-256, of its private number, and of each half of an ES256 signature.
_NUMBER = 32


def encode(data: bytes) -> str:
    """Return ``data`` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return what ``encode`` wrote as ``text``. Raises ValueError for any other spelling."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise ValueError("not base64url") from error
    if encode(data) != text:
        raise ValueError("not base64url")
    return data


def compact(data: Any) -> str:
    """Return ``data`` as JSON without spaces, members in their order."""
    return json.dumps(data, separators=(",", ":"))


def _unsigned(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    return "{0}.{1}".format(encode(compact(header).encode("utf-8")), encode(compact(dict(claims)).encode("utf-8")))


def _object(part: str) -> Dict[str, Any]:
    data = json.loads(decode(part).decode("utf-8"))
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return data


def _split(token: str) -> Tuple[Dict[str, Any], Dict[str, Any], bytes, bytes]:
    """Return header, claims, what of the token is signed, and the signature. Raises ValueError."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not a JSON Web Token")
    try:
        signature = decode(parts[2])
        header, claims = _object(parts[0]), _object(parts[1])
    except (ValueError, RecursionError) as error:
        raise ValueError("not a JSON Web Token") from error
    return header, claims, "{0}.{1}".format(parts[0], parts[1]).encode("ascii"), signature


def unverified_claims(token: str) -> Dict[str, Any]:
    """Return what ``token`` claims, whoever signed it. Raises ValueError when it is no token."""
    return _split(token)[1]


# HS256


def sign_jwt(claims: Mapping[str, Any], secret: str) -> str:
    """Return a token with ``claims``, signed HS256 with the UTF-8 bytes of ``secret`` (not base64-decoded)."""
    unsigned = _unsigned({"alg": "HS256", "typ": "JWT"}, claims)
    return "{0}.{1}".format(unsigned, encode(_mac(secret, unsigned.encode("ascii"))))


def verify_jwt(token: str, secret: str) -> Dict[str, Any]:
    """Return the claims of ``token``. Raises ValueError when it is no HS256 token signed with ``secret``."""
    header, claims, signed, signature = _split(token)
    if header.get("alg") != "HS256":
        raise ValueError("not an HS256 token")
    if not hmac.compare_digest(signature, _mac(secret, signed)):
        raise ValueError("the signature does not match")
    return claims


def _mac(secret: str, signed: bytes) -> bytes:
    return hmac.new(secret.encode("utf-8"), signed, hashlib.sha256).digest()


def symmetric_jwk(secret: str) -> Jwk:
    """Return an HS256 secret as a JSON Web Key. It carries the secret."""
    return {"kty": "oct", "k": encode(secret.encode("utf-8")), "alg": "HS256"}


# ES256


def _elliptic() -> Any:
    """Return cryptography's module of elliptic curves. Raises LibraryMissing when the library is not there."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise LibraryMissing(
            "asymmetric keys need Python's cryptography library on this host: install python3-cryptography (the role "
            "multibase_host does)"
        ) from error
    return ec


def new_private_jwk() -> Jwk:
    """Return a new P-256 key pair, its ``kid`` a random UUID, with the members and their order as upstream has them."""
    ec = _elliptic()
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    return _ec_jwk(
        str(uuid.uuid4()), numbers.public_numbers.x, numbers.public_numbers.y, ["sign", "verify"], numbers.private_value
    )


def public_jwk(private: Jwk) -> Jwk:
    """Return the public half of a key pair."""
    public = {name: value for name, value in private.items() if name != "d"}
    public["key_ops"] = ["verify"]
    return public


def _ec_jwk(kid: str, x: int, y: int, operations: Any, d: int = 0) -> Jwk:
    jwk: Jwk = {"kty": "EC", "kid": kid, "use": "sig", "key_ops": operations, "alg": "ES256", "ext": True}
    jwk.update({"crv": "P-256", "x": _number(x), "y": _number(y)})
    if d:
        jwk["d"] = _number(d)
    return jwk


def _number(value: int) -> str:
    return encode(value.to_bytes(_NUMBER, "big"))


def _read_number(jwk: Any, name: str) -> int:
    text = jwk.get(name) if isinstance(jwk, dict) else None
    if not isinstance(text, str):
        raise ValueError("not an ES256 key")
    return int.from_bytes(decode(text), "big")


def _key_id(jwk: Jwk) -> str:
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not kid:
        raise ValueError("not an ES256 key")
    return kid


def private_key(jwk: Any) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a key pair. Raises ValueError unless it is one as ``new_private_jwk`` makes them.

    Its public half must be the one that belongs to its private half.
    """
    ec = _elliptic()
    d = _read_number(jwk, "d")
    try:
        key = ec.derive_private_key(d, ec.SECP256R1())
    except ValueError as error:
        raise ValueError("not an ES256 key") from error
    point = key.public_key().public_numbers()
    if jwk != _ec_jwk(_key_id(jwk), point.x, point.y, ["sign", "verify"], d):
        raise ValueError("its private and its public half do not belong together")
    return key  # type: ignore[no-any-return]  # the library is imported late


def public_key(jwk: Any) -> ec.EllipticCurvePublicKey:
    """Return the key of a public half. Raises ValueError unless it is one as ``public_jwk`` makes them."""
    ec = _elliptic()
    x, y = _read_number(jwk, "x"), _read_number(jwk, "y")
    if jwk != _ec_jwk(_key_id(jwk), x, y, ["verify"]):
        raise ValueError("not the public half of an ES256 key")
    try:
        numbers = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
        return numbers.public_key()  # type: ignore[no-any-return]  # the library is imported late
    except ValueError as error:
        raise ValueError("not the public half of an ES256 key") from error


def sign_es256(claims: Mapping[str, Any], private: Jwk) -> str:
    """Return a token with ``claims``, signed ES256; its header names the key. Raises ValueError for no key pair."""
    key = private_key(private)
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    unsigned = _unsigned({"alg": "ES256", "typ": "JWT", "kid": private["kid"]}, claims)
    der = key.sign(unsigned.encode("ascii"), _elliptic().ECDSA(SHA256()))
    # RFC 7518, 3.4: the two numbers one behind the other (IEEE P1363), not OpenSSL's DER.
    halves = b"".join(half.to_bytes(_NUMBER, "big") for half in decode_dss_signature(der))
    return "{0}.{1}".format(unsigned, encode(halves))


def verify_es256(token: str, public: Jwk) -> Dict[str, Any]:
    """Return the claims of ``token``. Raises ValueError when it is no ES256 token signed by the owner of ``public``."""
    key = public_key(public)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    header, claims, signed, signature = _split(token)
    if header.get("alg") != "ES256":
        raise ValueError("not an ES256 token")
    if header.get("kid") != public["kid"]:
        raise ValueError("it names another key")
    if len(signature) != 2 * _NUMBER:
        raise ValueError("the signature does not match")
    der = encode_dss_signature(int.from_bytes(signature[:_NUMBER], "big"), int.from_bytes(signature[_NUMBER:], "big"))
    try:
        key.verify(der, signed, _elliptic().ECDSA(SHA256()))
    except InvalidSignature as error:
        raise ValueError("the signature does not match") from error
    return claims
