# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys: formats checked by other means than the code's own, and damage to any of them told by name.

The checks of signatures here are written from RFC 7515 and 7518 with the primitives of the cryptography library. They
share no code with what they check.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import string
import subprocess
import sys
import uuid
from typing import Any, Dict, List, Mapping
from unittest import mock

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _jwt, _keys, _secrets
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from unit.support import NOW, PROPERTY, REPOSITORY

BASE64URL = string.ascii_letters + string.digits + "-_"
FIVE_YEARS = 157_680_000
KEYS = (
    "ANON_KEY", "SERVICE_ROLE_KEY", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "JWT_KEYS", "JWT_JWKS",
    "ANON_KEY_ASYMMETRIC", "SERVICE_ROLE_KEY_ASYMMETRIC",
)  # fmt: skip
# One instance with everything on, made once: making is tested apart.
VALUES = _secrets.fill_in({}, NOW, asymmetric=True, opaque=True)


def decoded(text: str) -> bytes:
    assert set(text) <= set(BASE64URL), "base64url without padding"
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(text: str) -> int:
    data = decoded(text)
    assert len(data) == 32, "numbers of P-256 have 32 bytes, leading zeros included"
    return int.from_bytes(data, "big")


def public_numbers(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicNumbers:
    return ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1())


def independent_claims(token: str, jwk: Mapping[str, Any]) -> Dict[str, Any]:
    """Check an ES256 token as RFC 7515 and 7518 (3.4) say, with OpenSSL's ECDSA; raises InvalidSignature."""
    header, payload, signature = token.split(".")
    raw = decoded(signature)
    assert len(raw) == 64, "r and s, 32 bytes each; DER would have about 70"
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public_numbers(jwk).public_key().verify(der, (header + "." + payload).encode("ascii"), ec.ECDSA(SHA256()))
    assert json.loads(decoded(header)) == {"alg": "ES256", "typ": "JWT", "kid": jwk["kid"]}
    claims = json.loads(decoded(payload))
    assert isinstance(claims, dict)
    return claims


def checksum(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(b"supabase-self-hosted|" + text.encode()).digest()).decode()[:8]


# Asymmetric keys


def test_the_key_pair_is_what_upstreams_services_read() -> None:
    private, symmetric = json.loads(VALUES["JWT_KEYS"])
    kid = private["kid"]
    assert str(uuid.UUID(kid)) == kid and uuid.UUID(kid).version == 4
    expected = {
        "kty": "EC", "kid": kid, "use": "sig", "key_ops": ["sign", "verify"], "alg": "ES256", "ext": True,
        "crv": "P-256", "x": private["x"], "y": private["y"], "d": private["d"],
    }  # fmt: skip
    assert private == expected and list(private) == list(expected)
    # OpenSSL refuses numbers that do not belong together.
    key = ec.EllipticCurvePrivateNumbers(number(private["d"]), public_numbers(private)).private_key()
    assert key.public_key().public_numbers() == public_numbers(private)
    assert symmetric == {"kty": "oct", "k": symmetric["k"], "alg": "HS256"}
    assert decoded(symmetric["k"]) == VALUES["JWT_SECRET"].encode("utf-8")


def test_the_key_set_holds_the_public_half_only() -> None:
    private, symmetric = json.loads(VALUES["JWT_KEYS"])
    del private["d"]
    assert json.loads(VALUES["JWT_JWKS"]) == {"keys": [{**private, "key_ops": ["verify"]}, symmetric]}


def test_key_sets_stand_on_one_line_without_spaces() -> None:
    for name in ("JWT_KEYS", "JWT_JWKS"):
        assert not set(VALUES[name]) & set(" \n'$\\")


@pytest.mark.parametrize(
    ("name", "role"), [("ANON_KEY_ASYMMETRIC", "anon"), ("SERVICE_ROLE_KEY_ASYMMETRIC", "service_role")]
)
def test_asymmetric_api_keys_verify_elsewhere(name: str, role: str) -> None:
    public = json.loads(VALUES["JWT_JWKS"])["keys"][0]
    expected = {"role": role, "iss": "supabase", "iat": NOW, "exp": NOW + FIVE_YEARS}
    claims = independent_claims(VALUES[name], public)
    assert claims == expected and list(claims) == list(expected)
    other = json.loads(_keys.asymmetric_keys("s" * 40, NOW)["JWT_JWKS"])["keys"][0]
    with pytest.raises(InvalidSignature):
        independent_claims(VALUES[name], {**other, "kid": public["kid"]})


def test_no_two_pairs_are_alike() -> None:
    pairs = [json.loads(_keys.asymmetric_keys("s" * 40, NOW)["JWT_KEYS"])[0] for _index in range(50)]
    for member in ("kid", "d", "x", "y"):
        assert len({pair[member] for pair in pairs}) == 50


def test_short_numbers_keep_their_leading_zeros() -> None:
    # One number in 256 begins with a zero byte. As many signatures as it takes: 600 of them hold none once in 100 runs.
    private = _jwt.new_private_jwk()
    public = _jwt.public_jwk(private)
    short = 0
    for index in range(20000):
        token = _jwt.sign_es256({"n": index}, private)
        raw = decoded(token.split(".")[2])
        short += 0 in (raw[0], raw[32])
        assert independent_claims(token, public) == _jwt.verify_es256(token, public) == {"n": index}
        if short >= 3:
            break
    assert short
    small = next(jwk for jwk in iter(_jwt.new_private_jwk, None) if decoded(jwk["x"])[0] == 0)
    assert number(small["x"]) < 1 << 248
    assert _jwt.private_key(small).private_numbers().private_value == number(small["d"])


def test_a_signature_of_openssls_own_form_is_refused() -> None:
    private = _jwt.new_private_jwk()
    signed = _jwt.sign_es256({"role": "anon"}, private).rpartition(".")[0]
    der = _jwt.private_key(private).sign(signed.encode(), ec.ECDSA(SHA256()))
    with pytest.raises(ValueError, match="signature"):
        _jwt.verify_es256("{0}.{1}".format(signed, _jwt.encode(der)), _jwt.public_jwk(private))


def test_a_signature_with_a_zero_more_is_refused() -> None:
    # The same two numbers, another token.
    private = _jwt.new_private_jwk()
    signed, _dot, signature = _jwt.sign_es256({"role": "anon"}, private).rpartition(".")
    raw = decoded(signature)
    for longer in (b"\0" + raw, raw[:32] + b"\0" + raw[32:]):
        with pytest.raises(ValueError, match="signature"):
            _jwt.verify_es256("{0}.{1}".format(signed, _jwt.encode(longer)), _jwt.public_jwk(private))


def test_a_bottomless_token_is_refused() -> None:
    header, _dot, signature = _jwt.sign_jwt({}, "s").partition(".")
    with pytest.raises(ValueError, match="not a JSON Web Token"):
        _jwt.verify_jwt("{0}.{1}.{2}".format(header, _jwt.encode(b"[" * 100_000), signature.split(".")[1]), "s")


def test_tokens_of_another_kind_are_refused() -> None:
    private = _jwt.new_private_jwk()
    public = _jwt.public_jwk(private)
    secret = "s" * 40
    good = _jwt.sign_es256({"role": "anon"}, private)
    assert _jwt.verify_es256(good, public) == {"role": "anon"}
    for token in (
        "", "..", "x.y.z", _jwt.sign_jwt({"role": "anon"}, secret), good + "A", good[:-1], good + ".", "." + good,
        # The public half as if it were a shared secret, the old trick.
        _jwt.sign_jwt({"role": "anon"}, json.dumps(public)),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            _jwt.verify_es256(token, public)
    with pytest.raises(ValueError, match="another key"):
        _jwt.verify_es256(good, {**public, "kid": str(uuid.uuid4())})
    with pytest.raises(ValueError, match="signature"):
        _jwt.verify_es256(good, {**_jwt.public_jwk(_jwt.new_private_jwk()), "kid": public["kid"]})
    with pytest.raises(ValueError):
        _jwt.verify_jwt(good, secret)


def test_a_valid_signature_below_another_algorithms_name_is_refused() -> None:
    private = _jwt.new_private_jwk()
    for algorithm in ("none", "ES384", "HS512", None):
        header = json.dumps({"alg": algorithm, "typ": "JWT", "kid": private["kid"]}).encode()
        signed = "{0}.{1}".format(_jwt.encode(header), _jwt.encode(b'{"role":"anon"}'))
        der = _jwt.private_key(private).sign(signed.encode(), ec.ECDSA(SHA256()))
        raw = b"".join(half.to_bytes(32, "big") for half in utils.decode_dss_signature(der))
        with pytest.raises(ValueError, match="not an ES256 token"):
            _jwt.verify_es256("{0}.{1}".format(signed, _jwt.encode(raw)), _jwt.public_jwk(private))
        mac = hmac.new(b"s" * 40, signed.encode(), "sha256").digest()
        with pytest.raises(ValueError, match="not an HS256 token"):
            _jwt.verify_jwt("{0}.{1}".format(signed, _jwt.encode(mac)), "s" * 40)


@pytest.mark.parametrize("value", [None, "", 7, [], "P-521", "A" * 43, "_" * 43])
def test_a_key_with_another_member_is_refused(value: Any) -> None:
    private = _jwt.new_private_jwk()
    for read, jwk in ((_jwt.private_key, private), (_jwt.public_key, _jwt.public_jwk(private))):
        for member in jwk:
            if member == "kid" and value and isinstance(value, str):
                # Any name will do as long as all use it.
                assert read({**jwk, member: value})
                continue
            for damaged in ({**jwk, member: value}, {name: jwk[name] for name in jwk if name != member}):
                with pytest.raises(ValueError):
                    read(damaged)
        with pytest.raises(ValueError):
            read({**jwk, "more": value})
    for read, jwk in ((_jwt.private_key, _jwt.public_jwk(private)), (_jwt.public_key, private)):
        with pytest.raises(ValueError):
            read(jwk)


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for a host without python3-cryptography: None in sys.modules makes the import fail.
    for name in list(sys.modules):
        if name.split(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)
    plain = _secrets.fill_in({}, NOW, opaque=True)
    assert _secrets.problems(plain, NOW) == []
    for work in (lambda: _secrets.fill_in(plain, NOW, asymmetric=True), lambda: _secrets.problems(VALUES)):
        with pytest.raises(MultibaseError, match="install python3-cryptography"):
            work()


def test_the_library_is_imported_when_it_is_needed_only() -> None:
    program = (
        "import sys\nsys.modules['cryptography'] = None\n"
        "from ansible_collections.multibase.supabase.plugins.module_utils import _secrets\n"
        "assert _secrets.problems(_secrets.fill_in({}, 1), 1) == []\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY / "collections"), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


# Opaque keys


@pytest.mark.parametrize(
    ("name", "prefix"), [("SUPABASE_PUBLISHABLE_KEY", "sb_publishable_"), ("SUPABASE_SECRET_KEY", "sb_secret_")]
)
def test_opaque_keys_have_upstreams_shape(name: str, prefix: str) -> None:
    found = re.fullmatch(prefix + "([A-Za-z0-9_-]{22})_([A-Za-z0-9_-]{8})", VALUES[name])
    assert found
    assert found.group(2) == checksum(prefix + found.group(1))


def test_the_checksum_is_upstreams() -> None:
    # Computed by hand with sha256sum and base64: the checksum of a key of 22 times the letter A.
    key = "sb_publishable_" + 22 * "A"
    assert checksum(key) == "qcQJXLgl"
    assert _keys.opaque_key_problems("KEY", key + "_qcQJXLgl", "sb_publishable_") == []
    assert _keys.opaque_key_problems("KEY", key + "_qcQJXLgm", "sb_publishable_")


def test_opaque_keys_use_all_of_the_alphabet_at_every_place() -> None:
    keys = [_keys.opaque_key("sb_secret_")[len("sb_secret_") :][:22] for _index in range(3000)]
    assert len(set(keys)) == 3000
    for place in range(22):
        # With 64 equally likely characters one is missing in 3000 draws about once in 10^18 tries.
        assert {key[place] for key in keys} == set(BASE64URL), place


@pytest.mark.parametrize(
    "key",
    ["", "sb_secret_", "sb_", "x" * 41, 41 * "_", "sb_secret_" + 30 * "_", VALUES["SUPABASE_PUBLISHABLE_KEY"]],
    ids=range(7),
)
def test_what_is_no_opaque_key_is_refused(key: str) -> None:
    found = _keys.opaque_key_problems("SUPABASE_SECRET_KEY", key, "sb_secret_")
    assert found == ["SUPABASE_SECRET_KEY does not have the shape of such a key (sb_secret_...)"]


def test_damaged_opaque_keys_are_refused() -> None:
    key = VALUES["SUPABASE_SECRET_KEY"]
    assert _keys.opaque_key_problems("KEY", key, "sb_secret_") == []
    for damaged in (key + "A", key[:-1]):
        assert "shape" in _keys.opaque_key_problems("KEY", damaged, "sb_secret_")[0]
    for damaged in ("sb_secret_" + 31 * "_", "sb_secret_" + 31 * "ä", key[:32] + "-" + key[33:]):
        assert "damaged" in _keys.opaque_key_problems("KEY", damaged, "sb_secret_")[0]
    # A checksum that fits does not make a key of another kind one of this kind.
    other = "sb_sekret_" + 22 * "A"
    assert _keys.opaque_key_problems("KEY", "{0}_{1}".format(other, checksum(other)), "sb_secret_")


# Damage


def named(problems: List[str], name: str) -> bool:
    return any(re.search(r"\b{0}\b".format(name), problem) for problem in problems)


def no_values(problems: List[str], values: Mapping[str, str]) -> bool:
    shown = "\n".join(problems)
    return not any(len(value) > 8 and value in shown for value in _secrets.confidential_texts(values))


def test_the_whole_set_has_no_problems() -> None:
    assert _secrets.problems(VALUES, NOW) == []


@pytest.mark.parametrize("name", KEYS)
def test_any_changed_byte_of_any_key_is_told(name: str) -> None:
    value = VALUES[name]
    for place in range(len(value)):
        mask = (1, 2, 4, 64)[place % 4]
        changed = value[:place] + chr(ord(value[place]) ^ mask) + value[place + 1 :]
        found = _secrets.problems({**VALUES, name: changed})
        assert named(found, name), (place, mask, found)
        assert no_values(found, VALUES)


@pytest.mark.parametrize("name", KEYS)
def test_any_other_spelling_of_the_last_character_is_told(name: str) -> None:
    # Base64 leaves bits unused there; a lenient decoder takes up to 16 characters for the same bytes.
    for character in BASE64URL + "=+/ \n":
        if character != VALUES[name][-1]:
            assert named(_secrets.problems({**VALUES, name: VALUES[name][:-1] + character}), name), character


@PROPERTY
@given(st.sampled_from(KEYS), st.integers(0, 700), st.integers(0, 3), st.text(max_size=3))
def test_any_damage_is_told(name: str, place: int, length: int, text: str) -> None:
    value = VALUES[name]
    place %= len(value) + 1
    changed = value[:place] + text + value[place + length :]
    try:
        changed.encode("utf-8")
    except UnicodeEncodeError:
        return
    if changed == value:
        return
    found = _secrets.problems({**VALUES, name: changed})
    same_json = name in ("JWT_KEYS", "JWT_JWKS") and not text.strip(" \t\r\n") and not length
    assert same_json or named(found, name)
    assert no_values(found, VALUES)


NO_KEY_SETS = (
    "{}", "[]x", "null", "7", '"text"', "[1,2]", "[{},{}]", '{"keys":null}', '{"keys":[1,2]}', '{"keys":{}}', "NaN",
    '{"keys":[{},{}],"x":1}', '[{"kty":"EC"},{"kty":"oct"}]', "[null,null,null]", "\x00", "[" * 100_000,
)  # fmt: skip


@pytest.mark.parametrize("text", NO_KEY_SETS, ids=range(len(NO_KEY_SETS)))
@pytest.mark.parametrize("name", ["JWT_KEYS", "JWT_JWKS"])
def test_anything_else_than_a_key_set_is_told(name: str, text: str) -> None:
    assert named(_secrets.problems({**VALUES, name: text}), name)


def test_a_key_more_is_told() -> None:
    pair, key_set = json.loads(VALUES["JWT_KEYS"]), json.loads(VALUES["JWT_JWKS"])
    for name, more in (
        ("JWT_KEYS", [*pair, pair[1]]),
        ("JWT_KEYS", pair[:1]),
        ("JWT_KEYS", pair[::-1]),
        ("JWT_JWKS", {"keys": [*key_set["keys"], _jwt.public_jwk(_jwt.new_private_jwk())]}),
        ("JWT_JWKS", {**key_set, "more": []}),
        ("JWT_JWKS", {"keys": pair}),
    ):
        assert named(_secrets.problems({**VALUES, name: json.dumps(more)}), name), more


def test_a_changed_jwt_secret_is_told_for_everything_that_it_is_in() -> None:
    found = _secrets.problems({**VALUES, "JWT_SECRET": "n" * 48})
    assert len(found) == 4
    for name in ("ANON_KEY", "SERVICE_ROLE_KEY", "JWT_KEYS", "JWT_JWKS"):
        assert len([problem for problem in found if problem.startswith(name + " ") and "JWT_SECRET" in problem]) == 1


def test_keys_of_another_instance_are_told() -> None:
    other = _secrets.fill_in({}, NOW, asymmetric=True, opaque=True)
    for name in KEYS:
        if name not in _keys.OPAQUE_KEYS:
            assert named(_secrets.problems({**VALUES, name: other[name]}), name), name
    mixed = {**VALUES, **{name: other[name] for name in _keys.ASYMMETRIC_NAMES}}
    assert len(_secrets.problems(mixed)) == 2
    pair = {name: other[name] for name in ("JWT_KEYS", "ANON_KEY_ASYMMETRIC", "SERVICE_ROLE_KEY_ASYMMETRIC")}
    assert named(_secrets.problems({**VALUES, **pair}), "JWT_JWKS")


@pytest.mark.parametrize("change", [{"role": "service_role"}, {"role": None}, {"iss": "acme"}, {"iss": None}])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_keys_that_say_something_else_are_told(change: Dict[str, Any], asymmetric: bool) -> None:
    claims = {**_keys.claims_of("anon", NOW), **change}
    assert len(_signed_problems(claims, asymmetric)) == 1
    del claims[next(iter(change))]
    assert len(_signed_problems(claims, asymmetric)) == 1


@pytest.mark.parametrize("expiry", [None, True, "2030", 1e12, [NOW * 2]])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_keys_without_a_date_are_told(expiry: Any, asymmetric: bool) -> None:
    found = _signed_problems({**_keys.claims_of("anon", NOW), "exp": expiry}, asymmetric)
    assert len(found) == 1 and "expires" in found[0]


def _signed_problems(claims: Mapping[str, Any], asymmetric: bool) -> List[str]:
    name = "ANON_KEY_ASYMMETRIC" if asymmetric else "ANON_KEY"
    token = _jwt.sign_jwt(claims, VALUES["JWT_SECRET"])
    if asymmetric:
        token = _jwt.sign_es256(claims, json.loads(VALUES["JWT_KEYS"])[0])
    found = _secrets.problems({**VALUES, name: token}, NOW)
    assert all(problem.startswith(name + " ") for problem in found)
    return found


def test_expired_keys_are_told_to_those_who_say_what_time_it_is() -> None:
    end = NOW + FIVE_YEARS
    assert _secrets.problems(VALUES, end - 1) == []
    assert _secrets.problems(VALUES) == []
    late = _secrets.problems(VALUES, end)
    assert late == _secrets.expired(VALUES, end) == [
        "{0} has expired".format(name)
        for name in ("ANON_KEY", "SERVICE_ROLE_KEY", "ANON_KEY_ASYMMETRIC", "SERVICE_ROLE_KEY_ASYMMETRIC")
    ]  # fmt: skip
    unused = _secrets.variables(VALUES, asymmetric=False, opaque=False)
    assert len(_secrets.expired(unused, end)) == 2
    assert _secrets.expired({"ANON_KEY": "x.y.z"}, end) == []


def test_one_half_of_a_group_is_told() -> None:
    for name in ("SUPABASE_SECRET_KEY", "JWT_JWKS", "ANON_KEY_ASYMMETRIC"):
        found = _secrets.problems({key: value for key, value in VALUES.items() if key != name})
        assert len(found) == 1 and found[0].startswith(name + " is missing beside ")


# Cost


def test_checking_signs_nothing_and_makes_no_key() -> None:
    # It is done for every instance in every run; making a key or a signature there would be a mistake.
    with mock.patch.multiple(
        _keys, **{name: mock.Mock(side_effect=AssertionError) for name in ("new_private_jwk", "sign_es256", "sign_jwt")}
    ):
        assert _secrets.problems(VALUES) == []
        assert _secrets.fill_in(VALUES, NOW, asymmetric=True, opaque=True) == VALUES
