# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: lengths and alphabet, tokens checked by another library, nothing ever replaced, nothing shown.

The asymmetric and the opaque keys themselves are tested in test_keys.py; here is what becomes of them when they are
switched on and off.
"""

from __future__ import annotations

import ast
import base64
import json
import math
import string
from collections import Counter
from typing import Any, Dict, List, Tuple

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile, _keys, _secrets
from unit.support import NOW, PLUGINS, PROPERTY

LENGTHS = {
    "REALTIME_DB_ENC_KEY": 16, "VAULT_ENC_KEY": 32, "S3_PROTOCOL_ACCESS_KEY_ID": 32,
    "S3_PROTOCOL_ACCESS_KEY_SECRET": 64,
}  # fmt: skip
AT_LEAST = {
    "POSTGRES_PASSWORD": 22, "JWT_SECRET": 32, "DASHBOARD_PASSWORD": 22, "SECRET_KEY_BASE": 64,
    "PG_META_CRYPTO_KEY": 32, "LOGFLARE_PUBLIC_ACCESS_TOKEN": 32, "LOGFLARE_PRIVATE_ACCESS_TOKEN": 32,
}  # fmt: skip
OPAQUE = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY")
ASYMMETRIC = ("JWT_KEYS", "JWT_JWKS", "ANON_KEY_ASYMMETRIC", "SERVICE_ROLE_KEY_ASYMMETRIC")
OFF = {**{name: "" for name in OPAQUE + ASYMMETRIC}, "JWT_KEYS": "[]", "JWT_JWKS": '{"keys":[]}'}
# What upstream publishes: its .env.example (self-hosted), and the stack of its command line tool.
EXAMPLE_SECRET = "your-super-secret-jwt-token-with-at-least-32-characters-long"
TOOL_SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
PUBLIC = [
    ("JWT_SECRET", EXAMPLE_SECRET),
    ("JWT_SECRET", TOOL_SECRET),
    ("POSTGRES_PASSWORD", "your-super-secret-and-long-postgres-password"),
    ("POSTGRES_PASSWORD", "postgres"),
    ("DASHBOARD_PASSWORD", "this_password_is_insecure_and_should_be_updated"),
    ("SECRET_KEY_BASE", "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq"),
    ("SECRET_KEY_BASE", "EAx3IQ/wRG1v47ZD4NE4/9RzBI8Jmil3x0yhcW4V2NHBP6c2iPIzwjofi2Ep4HIG"),
    ("REALTIME_DB_ENC_KEY", "supabaserealtime"),
    ("VAULT_ENC_KEY", "your-32-character-encryption-key"),
    ("VAULT_ENC_KEY", "your-encryption-key-32-chars-min"),
    ("VAULT_ENC_KEY", "12345678901234567890123456789032"),
    ("PG_META_CRYPTO_KEY", "your-encryption-key-32-chars-min"),
    ("LOGFLARE_PUBLIC_ACCESS_TOKEN", "your-super-secret-and-long-logflare-key"),
    ("LOGFLARE_PUBLIC_ACCESS_TOKEN", "your-super-secret-and-long-logflare-key-public"),
    ("LOGFLARE_PRIVATE_ACCESS_TOKEN", "your-super-secret-and-long-logflare-key-private"),
    ("S3_PROTOCOL_ACCESS_KEY_ID", "625729a08b95bf1b7ff351a663f3a23c"),
    ("S3_PROTOCOL_ACCESS_KEY_SECRET", "850181e4652dd023b7a98c58ae0d2d34bd487ee0cc3254aed6eda37307425907"),
    ("SUPABASE_PUBLISHABLE_KEY", "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"),
    ("SUPABASE_SECRET_KEY", "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"),
]
# One instance with everything on, made once: making is tested apart.
WHOLE = _secrets.fill_in({}, NOW, asymmetric=True, opaque=True)


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


def test_entropy() -> None:
    for spec in _secrets.RANDOM_SECRETS:
        bits = spec.length * math.log2(len(set(_secrets.ALPHABET)))
        # The one exception: 16 characters, used raw as an AES key.
        assert bits >= (95 if spec.name == "REALTIME_DB_ENC_KEY" else 128), spec.name
    assert len(set(_secrets.ALPHABET)) == len(_secrets.ALPHABET) == 62
    assert _keys.OPAQUE_LENGTH * math.log2(64) >= 128


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


def public_keys() -> List[Tuple[str, str, str]]:
    """The published API keys, made again from what they say: variable, key, the secret that signed it."""
    found = []
    for name, role in (("ANON_KEY", "anon"), ("SERVICE_ROLE_KEY", "service_role")):
        members = ('"role": "{0}"', '"iss": "supabase-demo"', '"iat": 1641769200', '"exp": 1799535600')
        example = "{{  \n    " + ",\n    ".join(members) + "\n}}"
        tool = '{{"iss":"supabase-demo","role":"{0}","exp":1983812996}}'
        for text, secret in ((example, EXAMPLE_SECRET), (tool, TOOL_SECRET)):
            parts = ['{"alg":"HS256","typ":"JWT"}', text.format(role)]
            signed = ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)
            mac = HMAC(secret.encode(), SHA256())
            mac.update(signed.encode())
            found.append((name, signed + "." + base64.urlsafe_b64encode(mac.finalize()).rstrip(b"=").decode(), secret))
    return found


def test_the_published_keys_are_what_we_take_them_for() -> None:
    # How the four end, as published: were they made wrong above, the tests below would look for other keys.
    ends = {key[-12:] for _name, key, _secret in public_keys()}
    assert ends == {"2BBNWN8Bu4GE", "cbo7X36XVt4Q", "ilDMblYTn_I0", "sn3W0YpN81IU"}


@pytest.mark.parametrize(("name", "key", "secret"), public_keys(), ids=range(4))
def test_the_public_keys_are_refused(name: str, key: str, secret: str) -> None:
    values = _secrets.fill_in({}, NOW)
    alone = _secrets.problems({**values, name: key})
    assert alone == ["{0} is a public demonstration value that everybody knows".format(name)]
    with_secret = _secrets.problems({**values, "JWT_SECRET": secret, name: key})
    assert any(name in problem and "public" in problem for problem in with_secret)
    assert any("JWT_SECRET is a public" in problem for problem in with_secret)


@pytest.mark.parametrize(("name", "value"), PUBLIC)
@pytest.mark.parametrize("place", ["", "MULTIBASE_UNUSED_"])
def test_public_secrets_are_refused(name: str, value: str, place: str) -> None:
    if place and name not in OPAQUE:
        place = ""
    values = dict(_secrets.variables(WHOLE, asymmetric=True, opaque=not place))
    values[place + name] = value
    assert any(problem.startswith(place + name + " is a public") for problem in _secrets.problems(values))
    assert not any(value in problem for problem in _secrets.problems(values))


def test_the_public_key_pair_is_refused() -> None:
    private = json.loads(WHOLE["JWT_KEYS"])
    private[0]["d"] = "dIhR8wywJlqlua4y_yMq2SLhlFXDZJBCvFrY1DCHyVU"
    assert "JWT_KEYS is a public demonstration value that everybody knows" in _secrets.problems(
        {**WHOLE, "JWT_KEYS": json.dumps(private)}
    )


def test_keys_of_the_demonstration_issuer_are_refused() -> None:
    values = _secrets.fill_in({}, NOW)
    claims = {"role": "anon", "iss": "supabase-demo", "iat": NOW, "exp": NOW + 1}
    found = _secrets.problems({**values, "ANON_KEY": _secrets.sign_jwt(claims, values["JWT_SECRET"])})
    assert found == ["ANON_KEY is a public demonstration key"]


def test_the_users_own_secrets_are_not_judged() -> None:
    values = {**_secrets.fill_in({}, NOW), "SMTP_PASS": "postgres", "STORAGE_S3_SECRET_ACCESS_KEY": "postgres"}
    assert _secrets.problems(values) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REALTIME_DB_ENC_KEY", "x" * 15), ("REALTIME_DB_ENC_KEY", "x" * 17), ("VAULT_ENC_KEY", "x" * 31),
        ("VAULT_ENC_KEY", ""), ("JWT_SECRET", "x" * 31), ("ANON_KEY", "x.y.z"), ("SERVICE_ROLE_KEY", ""),
        ("SECRET_KEY_BASE", "x" * 63), ("PG_META_CRYPTO_KEY", "x" * 31), ("LOGFLARE_PUBLIC_ACCESS_TOKEN", "x" * 31),
        ("LOGFLARE_PRIVATE_ACCESS_TOKEN", "x" * 31),
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


# Older instances


def test_secrets_that_an_older_instance_lacks_are_made_and_not_missed() -> None:
    new = ("LOGFLARE_PUBLIC_ACCESS_TOKEN", "LOGFLARE_PRIVATE_ACCESS_TOKEN")
    older = {name: value for name, value in _secrets.fill_in({}, NOW).items() if name not in new}
    assert _secrets.problems(older, NOW) == []
    filled = _secrets.fill_in(older, NOW)
    assert {name: filled[name] for name in older} == older
    assert all(len(filled[name]) == 48 for name in new) and _secrets.problems(filled) == []


def test_the_two_tokens_for_logs_differ() -> None:
    values = _secrets.fill_in({}, NOW)
    same = {**values, "LOGFLARE_PUBLIC_ACCESS_TOKEN": values["LOGFLARE_PRIVATE_ACCESS_TOKEN"]}
    assert _secrets.problems(same) == ["LOGFLARE_PUBLIC_ACCESS_TOKEN and LOGFLARE_PRIVATE_ACCESS_TOKEN must differ"]


# Switching keys on and off


def written(values: Dict[str, str]) -> Dict[str, str]:
    """What is read from a file with these variables."""
    return _envfile.parse(_envfile.render([("Secrets", values)]))


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("opaque", [False, True])
def test_what_is_switched_on_is_there_and_nothing_else(asymmetric: bool, opaque: bool) -> None:
    made = _secrets.fill_in({}, NOW, asymmetric=asymmetric, opaque=opaque)
    on = (ASYMMETRIC if asymmetric else ()) + (OPAQUE if opaque else ())
    assert set(made) == {*_secrets.GENERATED_NAMES, *on}
    values = _secrets.variables(made, asymmetric=asymmetric, opaque=opaque)
    for name in ASYMMETRIC + OPAQUE:
        assert (values[name] == OFF[name]) is (name not in on), name
    assert values["PGRST_JWT_SECRET"] == values["JWT_JWKS" if asymmetric else "JWT_SECRET"]
    assert not [name for name in values if "UNUSED" in name]
    assert set(values) == {
        *_secrets.GENERATED_NAMES, *ASYMMETRIC, *OPAQUE, *_secrets.USER_NAMES, "PGRST_JWT_SECRET"
    }  # fmt: skip
    assert _secrets.problems(values, NOW) == [] and _secrets.problems(written(values), NOW) == []


def test_the_users_own_are_empty_when_missing() -> None:
    values = _secrets.variables({**WHOLE, "SMTP_PASS": "p"}, asymmetric=False, opaque=False)
    assert {name: values[name] for name in _secrets.USER_NAMES} == {
        "SMTP_PASS": "p", "OPENAI_API_KEY": "", "STORAGE_S3_ACCESS_KEY_ID": "", "STORAGE_S3_SECRET_ACCESS_KEY": "",
    }  # fmt: skip


def test_switched_off_keys_stand_apart_and_come_back() -> None:
    off = _secrets.variables(WHOLE, asymmetric=False, opaque=False)
    for name in ASYMMETRIC + OPAQUE:
        assert off[name] == OFF[name] and off["MULTIBASE_UNUSED_" + name] == WHOLE[name]
    assert off["PGRST_JWT_SECRET"] == WHOLE["JWT_SECRET"]
    assert _secrets.problems(off, NOW) == []
    back = _secrets.fill_in(written(off), NOW + 1000, asymmetric=True, opaque=True)
    assert back == WHOLE
    on = _secrets.variables(back, asymmetric=True, opaque=True)
    assert not [name for name in on if "UNUSED" in name]


@PROPERTY
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_no_key_is_ever_lost_or_made_twice(switches: List[Tuple[bool, bool]]) -> None:
    first: Dict[str, str] = {}
    variables: Dict[str, str] = {}
    for number, (asymmetric, opaque) in enumerate(switches):
        made = _secrets.fill_in(variables, NOW + number, asymmetric=asymmetric, opaque=opaque)
        for name, value in made.items():
            assert first.setdefault(name, value) == value, name
        assert set(made) == set(first)
        variables = written(_secrets.variables(made, asymmetric=asymmetric, opaque=opaque))
        assert _secrets.problems(variables, NOW) == []
        assert _secrets.read_back(variables) == made
        assert {name for name in ASYMMETRIC if variables[name] != OFF[name]} == set(ASYMMETRIC if asymmetric else ())
        assert {name for name in OPAQUE if variables[name]} == set(OPAQUE if opaque else ())


def test_emptied_unused_keys_are_given_up() -> None:
    off = _secrets.variables(WHOLE, asymmetric=False, opaque=False)
    emptied = {**off, **{"MULTIBASE_UNUSED_" + name: "" for name in OPAQUE}}
    assert _secrets.problems(emptied) == []
    made = _secrets.fill_in(emptied, NOW, asymmetric=True, opaque=True)
    for name in OPAQUE:
        assert made[name] != WHOLE[name]
    for name in ASYMMETRIC:
        assert made[name] == WHOLE[name]


@pytest.mark.parametrize("name", ASYMMETRIC + OPAQUE)
def test_damage_to_an_unused_key_is_told_by_the_name_that_it_has(name: str) -> None:
    off = _secrets.variables(WHOLE, asymmetric=False, opaque=False)
    unused = "MULTIBASE_UNUSED_" + name
    value = off[unused]
    for changed in (value[:-1], value[:20] + ("A" if value[20] != "A" else "B") + value[21:]):
        found = _secrets.problems({**off, unused: changed})
        assert any(unused in problem for problem in found), found
        assert not any(len(secret) > 8 and secret in problem for secret in off.values() for problem in found)
    lost = _secrets.problems({**off, unused: ""})
    assert len(lost) == 1 and lost[0].startswith(name + " is missing beside MULTIBASE_UNUSED_")
    both = _secrets.problems({**_secrets.variables(WHOLE, asymmetric=True, opaque=True), unused: value})
    assert both == ["{0} is set, and so is {1}; one of the two must be empty".format(name, unused)]


@pytest.mark.parametrize("name", ASYMMETRIC + OPAQUE)
def test_half_a_group_is_never_completed_silently(name: str) -> None:
    values = {key: value for key, value in WHOLE.items() if key != name}
    again = _secrets.fill_in(values, NOW, asymmetric=True, opaque=True)
    assert again == values
    variables = _secrets.variables(again, asymmetric=True, opaque=True)
    assert variables[name] == OFF[name]
    assert len([problem for problem in _secrets.problems(variables) if name + " is missing" in problem]) == 1


# What others ask


def test_every_variable_with_a_secret_is_known_as_one() -> None:
    for asymmetric in (False, True):
        values = _secrets.variables(WHOLE, asymmetric=asymmetric, opaque=asymmetric)
        assert set(values) <= _secrets.SECRET_NAMES
    unused = {"MULTIBASE_UNUSED_" + name for name in (*ASYMMETRIC, *OPAQUE, "POSTGRES_PASSWORD")}
    assert unused == set(_secrets.UNUSED_NAMES)


def test_the_password_of_the_own_database_is_put_aside_and_comes_back() -> None:
    own = _secrets.fill_in({}, NOW)
    away = _secrets.with_database(own, "elsewhere", external=True)
    assert away["POSTGRES_PASSWORD"] == "elsewhere"
    written = _secrets.variables(away, asymmetric=False, opaque=False)
    assert own["POSTGRES_PASSWORD"] in _secrets.confidential_texts(written)
    # A run that does not give the password again keeps it; one that changes it keeps what was put aside.
    for password, expected in ((None, "elsewhere"), ("another", "another")):
        again = _secrets.with_database(_secrets.fill_in(written, NOW), password, external=True)
        assert again["POSTGRES_PASSWORD"] == expected
        back = _secrets.with_database(_secrets.fill_in(again, NOW), None, external=False)
        assert back == own


def test_a_file_that_was_cut_off_lacks_the_last_variable() -> None:
    for asymmetric in (False, True):
        names = list(_secrets.variables(WHOLE, asymmetric=asymmetric, opaque=False))
        assert names[-1] == "PGRST_JWT_SECRET" and names[-2] in _secrets.USER_NAMES


def test_only_what_is_used_is_in_use() -> None:
    on = _secrets.variables({**WHOLE, "SMTP_PASS": "p"}, asymmetric=True, opaque=True)
    assert _secrets.in_use(on) == WHOLE
    off = _secrets.variables(WHOLE, asymmetric=False, opaque=False)
    assert _secrets.in_use(off) == {name: WHOLE[name] for name in _secrets.GENERATED_NAMES}


@pytest.mark.parametrize("on", [False, True])
def test_confidential_are_all_secrets_and_what_is_inside_them(on: bool) -> None:
    values = {**_secrets.variables({**WHOLE, "SMTP_PASS": "p"}, asymmetric=on, opaque=on), "SITE_URL": "https://x"}
    texts = _secrets.confidential_texts(values)
    private, symmetric = json.loads(WHOLE["JWT_KEYS"])
    assert texts == {*WHOLE.values(), "p", private["d"], symmetric["k"]}
    assert not texts & {"", "[]", '{"keys":[]}', "https://x"}


def test_damaged_key_sets_are_confidential_all_the_same() -> None:
    for text in ("[", "{}", "[1]", '[{"d":1}]'):
        assert _secrets.confidential_texts({"JWT_KEYS": text}) == {text}
