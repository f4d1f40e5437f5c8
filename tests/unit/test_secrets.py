# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: lengths and alphabet, tokens checked by another library, nothing ever replaced, nothing shown."""

from __future__ import annotations

import ast
import base64
import json
import string
from collections import Counter
from typing import Any, Dict, List

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _secrets
from unit.support import NOW, PLUGINS, PROPERTY

LENGTHS = {
    "REALTIME_DB_ENC_KEY": 16, "VAULT_ENC_KEY": 32, "S3_PROTOCOL_ACCESS_KEY_ID": 32,
    "S3_PROTOCOL_ACCESS_KEY_SECRET": 64,
}  # fmt: skip
AT_LEAST = {
    "POSTGRES_PASSWORD": 22, "JWT_SECRET": 32, "DASHBOARD_PASSWORD": 22, "SECRET_KEY_BASE": 64,
    "PG_META_CRYPTO_KEY": 32,
}  # fmt: skip
DEMO_SECRET = "your-super-secret-jwt-token-with-at-least-32-characters-long"


def independent_claims(token: str, secret: str) -> Dict[str, Any]:
    """Check a token as RFC 7515 and 7519 say, with OpenSSL's HMAC; raises InvalidSignature."""
    header, payload, signature = token.split(".")
    for part in (header, payload, signature):
        assert set(part) <= set(string.ascii_letters + string.digits + "-_"), "base64url without padding"
    mac = HMAC(secret.encode("utf-8"), SHA256())
    mac.update("{0}.{1}".format(header, payload).encode("ascii"))
    mac.verify(base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)))
    assert json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))) == {"alg": "HS256", "typ": "JWT"}
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert isinstance(claims, dict)
    return claims


def test_lengths_and_alphabet() -> None:
    values = _secrets.fill_in({}, NOW)
    assert set(values) == {*LENGTHS, *AT_LEAST, "ANON_KEY", "SERVICE_ROLE_KEY"}
    for name, length in LENGTHS.items():
        assert len(values[name]) == length, name
    for name, length in AT_LEAST.items():
        assert len(values[name]) >= length, name
    for name in (*LENGTHS, *AT_LEAST):
        assert set(values[name]) <= set(string.ascii_letters + string.digits), name


def test_nothing_repeats_in_a_thousand_instances() -> None:
    seen: Counter[str] = Counter()
    for _index in range(1000):
        values = _secrets.fill_in({name: "x" * 40 for name in _secrets.API_KEYS}, NOW)
        seen.update(value for name, value in values.items() if name not in _secrets.API_KEYS)
    assert seen.most_common(1)[0][1] == 1


def test_every_letter_is_equally_likely() -> None:
    counts = Counter(_secrets.random_secret(62_000))
    assert set(counts) == set(string.ascii_letters + string.digits)
    # Chi-square with 61 degrees of freedom; 150 is passed by chance once in a billion runs.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 150


def python_files() -> List[Any]:
    return sorted(PLUGINS.rglob("*.py"))


def test_nothing_imports_random() -> None:
    assert len(python_files()) > 20
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: List[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *[alias.name for alias in node.names]]
            assert not {"random", "numpy"} & {module.split(".")[0] for module in modules}, path


@pytest.mark.parametrize(("name", "role"), [("ANON_KEY", "anon"), ("SERVICE_ROLE_KEY", "service_role")])
def test_api_keys_verify_elsewhere(name: str, role: str) -> None:
    values = _secrets.fill_in({}, NOW)
    assert independent_claims(values[name], values["JWT_SECRET"]) == {
        "role": role, "iss": "supabase", "iat": NOW, "exp": NOW + 157_680_000,
    }  # fmt: skip
    with pytest.raises(InvalidSignature):
        independent_claims(values[name], _secrets.fill_in({}, NOW)["JWT_SECRET"])


def test_keys_fit_their_own_instance_only() -> None:
    sets = [_secrets.fill_in({}, NOW) for _index in range(4)]
    for mine in sets:
        for other in sets:
            mixed = {**mine, "JWT_SECRET": other["JWT_SECRET"]}
            assert bool(_secrets.problems(mixed)) is (mine is not other)


def test_tampered_tokens_are_refused() -> None:
    secret = "s" * 40
    token = _secrets.api_key("anon", secret, NOW)
    header, payload, signature = token.split(".")

    def encoded(data: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()

    forged = encoded({"role": "service_role", "iss": "supabase", "iat": NOW, "exp": NOW * 2})
    bad = [
        "", ".", "..", "a.b.c", token + ".x", header + "." + payload, header + "." + payload + ".",
        header + "." + forged + "." + signature,
        encoded({"alg": "none", "typ": "JWT"}) + "." + payload + ".",
        encoded({"alg": "none"}) + "." + payload + "." + signature,
        encoded([1]) + "." + payload + "." + signature, header + "." + encoded("x") + "." + signature,
        token[:-4] + "AAAA", "ä.ö.ü", "\x00", token.replace(".", ","),
    ]  # fmt: skip
    for text in bad:
        with pytest.raises(ValueError):
            _secrets.verify_jwt(text, secret)
    assert _secrets.verify_jwt(token, secret)["role"] == "anon"


@PROPERTY
@given(st.text(max_size=60))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(ValueError):
        _secrets.verify_jwt(text, "secret")


@PROPERTY
@given(st.text(min_size=1, max_size=40), st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)))
def test_what_is_signed_verifies(secret: str, claims: Dict[str, Any]) -> None:
    if not _encodable(secret):
        return
    token = _secrets.sign_jwt(claims, secret)
    assert independent_claims(token, secret) == claims
    assert _secrets.verify_jwt(token, secret) == claims


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("name", [*LENGTHS, *AT_LEAST, "ANON_KEY", "SERVICE_ROLE_KEY"])
def test_what_exists_is_never_replaced(name: str) -> None:
    first = _secrets.fill_in({}, NOW)
    assert _secrets.fill_in(first, NOW + 10_000) == first
    kept = _secrets.fill_in({name: "mine" if name not in _secrets.API_KEYS else first[name]}, NOW)
    assert kept[name] == ("mine" if name not in _secrets.API_KEYS else first[name])
    missing = {key: value for key, value in first.items() if key != name}
    again = _secrets.fill_in(missing, NOW)
    assert {key: again[key] for key in missing} == missing
    assert again[name]


def test_a_whole_set_has_no_problems() -> None:
    assert _secrets.problems(_secrets.fill_in({}, NOW)) == []


def test_the_demonstration_keys_are_refused() -> None:
    demo = {
        role: _secrets.sign_jwt(
            {"role": role, "iss": "supabase-demo", "iat": 1641769200, "exp": 1799535600}, DEMO_SECRET
        )
        for role in ("anon", "service_role")
    }
    values = {
        **_secrets.fill_in({}, NOW),
        "JWT_SECRET": DEMO_SECRET, "ANON_KEY": demo["anon"], "SERVICE_ROLE_KEY": demo["service_role"],
    }  # fmt: skip
    found = _secrets.problems(values)
    assert len([problem for problem in found if "demonstration" in problem]) == 2
    assert any("ANON_KEY" in problem for problem in found) and any("SERVICE_ROLE_KEY" in problem for problem in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REALTIME_DB_ENC_KEY", "x" * 15), ("REALTIME_DB_ENC_KEY", "x" * 17), ("VAULT_ENC_KEY", "x" * 31),
        ("VAULT_ENC_KEY", ""), ("JWT_SECRET", "x" * 31), ("ANON_KEY", "x.y.z"), ("SERVICE_ROLE_KEY", ""),
    ],
)  # fmt: skip
def test_unusable_values_are_named_and_not_shown(name: str, value: str) -> None:
    values = {**_secrets.fill_in({}, NOW), name: value}
    found = _secrets.problems(values)
    assert any(name in problem for problem in found)
    for problem in found:
        assert not any(secret in problem for secret in values.values() if len(secret) > 8)


def test_swapped_roles_are_refused() -> None:
    values = _secrets.fill_in({}, NOW)
    values["ANON_KEY"], values["SERVICE_ROLE_KEY"] = values["SERVICE_ROLE_KEY"], values["ANON_KEY"]
    assert len(_secrets.problems(values)) == 2


def test_fingerprints_are_salted() -> None:
    one = _secrets.fingerprint("secret", "salt-1")
    assert one == _secrets.fingerprint("secret", "salt-1")
    assert one != _secrets.fingerprint("secret", "salt-2")
    assert one != _secrets.fingerprint("secreT", "salt-1")
    assert "secret" not in one
    # Not the plain digest that a table of common passwords would give away.
    import hashlib

    for plain in (b"secret", b"salt-1secret", b"secretsalt-1"):
        assert hashlib.sha256(plain).hexdigest()[:8] not in one


def test_fingerprints_do_not_tell_the_length() -> None:
    assert len({len(_secrets.fingerprint("x" * length, "salt")) for length in (0, 1, 10, 1000)}) == 1
