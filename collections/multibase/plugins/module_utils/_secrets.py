# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Secrets of an instance: what there is, how each is made and checked, and how one is shown without being shown.

Lengths follow upstream's generator (self-hosted 0.8.2). All random values are letters and digits only, because upstream
pastes several of them unescaped into URLs and templates.

Two groups of keys are made on demand: the asymmetric ones and the opaque ones. What was made stays for good: switched
off, it is kept in the ``.env`` under another name (MULTIBASE_UNUSED_...), because clients may carry it, and comes back
when the group is switched on again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Set, Tuple

from ._jwt import sign_jwt, verify_jwt
from ._keys import (
    API_KEYS,
    ASYMMETRIC_API_KEYS,
    ASYMMETRIC_NAMES,
    OPAQUE_KEYS,
    api_key,
    api_key_problems,
    asymmetric_keys,
    asymmetric_problems,
    has_expired,
    opaque_key,
    opaque_key_problems,
    private_parts,
)

__all__ = [
    "DERIVED_NAMES",
    "GENERATED_NAMES",
    "MADE_NAMES",
    "OPTIONAL_NAMES",
    "RANDOM_SECRETS",
    "SECRET_NAMES",
    "UNUSED_NAMES",
    "USER_NAMES",
    "confidential_texts",
    "expired",
    "fill_in",
    "fingerprint",
    "in_use",
    "problems",
    "random_secret",
    "read_back",
    "sign_jwt",
    "variables",
    "verify_jwt",
]

ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class SecretSpec:
    """A random secret: the name of its variable and how many letters and digits it has."""

    name: str
    length: int


# At 5.95 bits a character every one has at least 190 bits, but for REALTIME_DB_ENC_KEY: Realtime uses its characters
# raw as an AES-128 key, so there are exactly 16, which makes 95 bits (upstream: 64). With all that can be printed it
# would be 105 and would need quoting; 128 would take bytes that no environment variable carries as one character.
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
    SecretSpec("LOGFLARE_PUBLIC_ACCESS_TOKEN", 48),
    SecretSpec("LOGFLARE_PRIVATE_ACCESS_TOKEN", 48),
)
# What services insist on, in characters.
_EXACT_LENGTHS = {"REALTIME_DB_ENC_KEY": 16, "VAULT_ENC_KEY": 32}
_MINIMUM_LENGTHS = {"JWT_SECRET": 32, "SECRET_KEY_BASE": 64, "PG_META_CRYPTO_KEY": 32}
# Instances that were made before these were introduced do not have them yet.
_LOG_TOKENS = ("LOGFLARE_PUBLIC_ACCESS_TOKEN", "LOGFLARE_PRIVATE_ACCESS_TOKEN")
_LOG_TOKEN_MINIMUM = 32

GENERATED_NAMES: Tuple[str, ...] = tuple(spec.name for spec in RANDOM_SECRETS) + tuple(API_KEYS)
# Made when they are switched on, and what stands in their place while they are not. Each group is whole or not there.
_GROUPS: Tuple[Tuple[str, ...], ...] = (tuple(OPAQUE_KEYS), ASYMMETRIC_NAMES)
OPTIONAL_NAMES: Tuple[str, ...] = tuple(name for group in _GROUPS for name in group)
MADE_NAMES: Tuple[str, ...] = GENERATED_NAMES + OPTIONAL_NAMES
_OFF: Dict[str, str] = {**{name: "" for name in OPTIONAL_NAMES}, "JWT_KEYS": "[]", "JWT_JWKS": '{"keys":[]}'}
_UNUSED: Dict[str, str] = {name: "MULTIBASE_UNUSED_" + name for name in OPTIONAL_NAMES}
# The password of an instance's own database while it uses one elsewhere.
OWN_DATABASE_PASSWORD = "MULTIBASE_UNUSED_POSTGRES_PASSWORD"  # noqa: S105 - the name of a variable
UNUSED_NAMES: Tuple[str, ...] = (*_UNUSED.values(), OWN_DATABASE_PASSWORD)
# What the user brings; it is kept like ours, never made up.
USER_NAMES: Tuple[str, ...] = (
    "SMTP_PASS", "OPENAI_API_KEY", "STORAGE_S3_ACCESS_KEY_ID", "STORAGE_S3_SECRET_ACCESS_KEY",
)  # fmt: skip
# Variables that repeat a secret under another name.
DERIVED_NAMES: Tuple[str, ...] = ("PGRST_JWT_SECRET",)
SECRET_NAMES = frozenset(MADE_NAMES + UNUSED_NAMES + USER_NAMES + DERIVED_NAMES)

# SHA-256 of secrets that everybody knows: those of upstream's .env.example, now and in earlier releases, and those of
# the stack that Supabase's command line tool starts.
_PUBLIC_DIGESTS = frozenset(
    (
        # JWT_SECRET, ANON_KEY, SERVICE_ROLE_KEY
        "1453cea2dc3799e9026e42b3e465e455256d5a149582e4c5b92d4c8d604731a2",
        "fc6a5e9ae75f9160dacd38844789d90a04c85c29c3c95c8c8c6e9da3f58c2365",
        "2359b281e1fa0ec38bb10316e2b0e3a7b960fe5d271ee75a4735ff1b313a222c",
        "a064b502e61d27e94b8717290e5e1b32e36720e9fbdf952ec81a84c07128cb37",
        "bf1725a8f98bea37e88618702e725ba84bd8acdb2647c5e0ed638bfd685791cf",
        "70541e07fd4f900b66e289f5be55c85f9bef1def4924a5b0c518c45ea1688c12",
        # SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY, private number in JWT_KEYS
        "9705102db0d5f99ee08daa19a73e510d9877a2a9add9369da247cbbe6c2a0140",
        "c85debb55f2f204d868cc1552c42faa143b4c675f61363ab040dd50b5b5304cd",
        "68a3c0689dd52919680c1d3f4a606714b44e2c0c75287fcbfec9908af6ad8b40",
        # POSTGRES_PASSWORD, DASHBOARD_PASSWORD
        "53d3eb3d9500cdcdbbe39c030eb2959438bcc459d5de9380db2a3c85b5de5360",
        "a942b37ccfaf5a813b1432caa209a43b9d144e47ad0de1549c289c253e556cd5",
        "80d1c192cf2210c5282179cc9989f4be2e9b24605daabe1bc7da10fd9ed842ed",
        # SECRET_KEY_BASE
        "52f004438faf780274c9c95f79d1cf39d2355fbcf035899fc0242b1437f30df3",
        "94228124c289844e33dbf484c2e2a47ed30c72ea2dd96b1b3acfda90246a286c",
        # REALTIME_DB_ENC_KEY, VAULT_ENC_KEY, PG_META_CRYPTO_KEY
        "9fa03fc1cd78ff85aec9f901f9383bf5c3dfbee93c7da7d5b9f526898a9d7a84",
        "0a53c0992edae8ceb04c7a32ee47b49ad0b229c17b073e8c24683111c843d45e",
        "627507f04b33fb434001b83fa1d73b39c7d9a88f2b9a3aec652527a7f0ea571a",
        "dd4344345192b48fc9d6359620d255b61559d62557f855f1bc5ff49a58543521",
        # LOGFLARE_PUBLIC_ACCESS_TOKEN, LOGFLARE_PRIVATE_ACCESS_TOKEN
        "a51986d52a4109b0a31bd6cf76780b978e415c37e02fe9e4a7a67963028cbd3f",
        "4feb5df17e31da658971467f079e9dfa946712c0281386fe631830bdfa1e7332",
        "272b1f97285638be545049c9d56ed0c07b252faf0d47867068482d2b2374a2a9",
        # S3_PROTOCOL_ACCESS_KEY_ID, S3_PROTOCOL_ACCESS_KEY_SECRET
        "b0f3a96ded759f6c5f13d27881ffcbfd7821fd6bb5858b0ab819e7a187e46452",
        "7f59edafa4d502ca0156b8fddf28394634d77b1843838b5783a7c9c95fcbd32f",
    )
)


def random_secret(length: int) -> str:
    """Return ``length`` letters and digits from the operating system's generator (5.95 bits each)."""
    return "".join(secrets.choice(ALPHABET) for _index in range(length))


def _place(values: Mapping[str, str], name: str) -> Optional[str]:
    """Return the name under which an optional key stands in ``values``: its own, that of an unused one, or None."""
    if values.get(name, "") not in ("", _OFF[name]):
        return name
    return _UNUSED[name] if values.get(_UNUSED[name]) else None


def read_back(values: Mapping[str, str]) -> Dict[str, str]:
    """Return the secrets in the variables of a ``.env``, each under its own name, also when it is unused.

    Left out are those that are empty or switched off without ever having been made, and what is derived.
    """
    found = {name: values[name] for name in GENERATED_NAMES + USER_NAMES if values.get(name)}
    for name in OPTIONAL_NAMES:
        place = _place(values, name)
        if place is not None:
            found[name] = values[place]
    if values.get(OWN_DATABASE_PASSWORD):
        found[OWN_DATABASE_PASSWORD] = values[OWN_DATABASE_PASSWORD]
    return found


def with_database(values: Mapping[str, str], password: Optional[str], external: bool) -> Dict[str, str]:
    """Return the secrets of an instance whose database is elsewhere (``external``), or its own.

    ``password`` is that of the database elsewhere, None when it is not given again. The password of the instance's own
    database is put aside while it is not used, and comes back with it: the data directory knows no other.
    """
    result = {name: value for name, value in values.items() if name != OWN_DATABASE_PASSWORD}
    own = values.get(OWN_DATABASE_PASSWORD)
    if not external:
        result["POSTGRES_PASSWORD"] = own or values["POSTGRES_PASSWORD"]
        return result
    result[OWN_DATABASE_PASSWORD] = own or values["POSTGRES_PASSWORD"]
    result["POSTGRES_PASSWORD"] = values["POSTGRES_PASSWORD"] if password is None else password
    return result


def fill_in(existing: Mapping[str, str], now: int, asymmetric: bool = False, opaque: bool = False) -> Dict[str, str]:
    """Return all generated secrets: those in ``existing`` as they are, the missing ones newly made.

    ``existing`` may be the variables of a ``.env``. ``now`` is Unix time in seconds. An existing value is never
    replaced. Keys of a group that is not switched on are returned when they were made earlier; ``variables`` puts them
    where they belong. A group of which a part is missing stays as it is, for ``problems`` to name.

    Raises MultibaseError when asymmetric keys are to be made on a host without the cryptography library.
    """
    kept = read_back(existing)
    values = {spec.name: kept.get(spec.name) or random_secret(spec.length) for spec in RANDOM_SECRETS}
    for name, role in API_KEYS.items():
        values[name] = kept.get(name) or api_key(role, values["JWT_SECRET"], now)
    values.update({name: kept[name] for name in (*OPTIONAL_NAMES, OWN_DATABASE_PASSWORD) if name in kept})
    if opaque and not any(name in kept for name in OPAQUE_KEYS):
        values.update({name: opaque_key(prefix) for name, prefix in OPAQUE_KEYS.items()})
    if asymmetric and not any(name in kept for name in ASYMMETRIC_NAMES):
        values.update(asymmetric_keys(values["JWT_SECRET"], now))
    return values


def variables(values: Mapping[str, str], asymmetric: bool, opaque: bool) -> Dict[str, str]:
    """Return the variables of a ``.env`` that carry secrets, in the order in which they are written.

    ``values`` is what ``fill_in`` returned, with the user's own. Keys that are made but not switched on stand under the
    name for unused ones; that name is there only then. What comes last is derived: a file that was cut off lacks it.
    """
    found = {name: values[name] for name in GENERATED_NAMES}
    for names, switched_on in zip(_GROUPS, (opaque, asymmetric)):
        for name in names:
            found[name] = values.get(name, _OFF[name]) if switched_on else _OFF[name]
        if not switched_on:
            found.update({_UNUSED[name]: values[name] for name in names if values.get(name)})
    if values.get(OWN_DATABASE_PASSWORD):
        found[OWN_DATABASE_PASSWORD] = values[OWN_DATABASE_PASSWORD]
    found.update({name: values.get(name, "") for name in USER_NAMES})
    found["PGRST_JWT_SECRET"] = found["JWT_JWKS"] if asymmetric else found["JWT_SECRET"]
    return found


def in_use(values: Mapping[str, str]) -> Dict[str, str]:
    """Return of the variables of a ``.env`` the generated secrets that services use: none that is unused or off."""
    found = {name: values[name] for name in GENERATED_NAMES if values.get(name)}
    found.update({name: values[name] for name in OPTIONAL_NAMES if _place(values, name) == name})
    return found


def put_aside(values: Mapping[str, str]) -> Dict[str, str]:
    """Return the secrets of a ``.env`` that are unused at the moment, each under its own name."""
    places = {**_UNUSED, "POSTGRES_PASSWORD": OWN_DATABASE_PASSWORD}
    return {name: values[place] for name, place in places.items() if values.get(place)}


def is_aside(values: Mapping[str, str], name: str) -> bool:
    """Whether a secret stands among the variables of a ``.env`` as one that is unused at the moment."""
    return name in put_aside(values)


def is_kept(values: Mapping[str, str], name: str) -> bool:
    """Whether a secret that was in use is still in the variables of a ``.env``, as such or put aside as unused."""
    if name in OPTIONAL_NAMES:
        return _place(values, name) is not None
    return bool(values.get(name))


def confidential_texts(values: Mapping[str, str]) -> Set[str]:
    """Return every text of an instance's variables that must not be shown: secrets, and what is secret inside them.

    What stands for keys that are switched off is not among them: it is no secret, and stands in many a file.
    """
    found = {values[name] for name in SECRET_NAMES if values.get(name) and values[name] != _OFF.get(name)}
    for name in ("JWT_KEYS", _UNUSED["JWT_KEYS"]):
        found.update(private_parts(values.get(name, "")))
    return found


def problems(values: Mapping[str, str], now: Optional[int] = None) -> List[str]:
    """Say what is wrong with a set of secrets (variables of a ``.env``, or what ``fill_in`` returned).

    These are: lengths that services insist on, keys that do not verify with the secret or key that they belong to,
    wrong roles and issuers, values that are public, and, when ``now`` (Unix time) is given, what ``expired`` tells.
    Raises MultibaseError when there are asymmetric keys, but no cryptography library to verify them with.
    """
    found = _length_problems(values)
    public = _public_names(values)
    found += ["{0} is a public demonstration value that everybody knows".format(name) for name in public]
    secret = values.get("JWT_SECRET", "")
    for name, role in API_KEYS.items():
        if name not in public:
            found += api_key_problems(name, values.get(name, ""), role, secret)
    for names in _GROUPS:
        found += _group_problems(names, values, secret)
    return found + ([] if now is None else expired(values, now))


def expired(values: Mapping[str, str], now: int) -> List[str]:
    """Say which API keys have expired at ``now`` (Unix time in seconds); unused ones do not matter."""
    names = [*API_KEYS, *ASYMMETRIC_API_KEYS]
    return ["{0} has expired".format(name) for name in names if has_expired(values.get(name, ""), now)]


def _length_problems(values: Mapping[str, str]) -> List[str]:
    found = [
        "{0} must have exactly {1} characters".format(name, length)
        for name, length in _EXACT_LENGTHS.items()
        if len(values.get(name, "")) != length
    ]
    minimum = {**_MINIMUM_LENGTHS, **{name: _LOG_TOKEN_MINIMUM for name in _LOG_TOKENS if values.get(name)}}
    found += [
        "{0} must have at least {1} characters".format(name, length)
        for name, length in minimum.items()
        if len(values.get(name, "")) < length
    ]
    tokens = [values.get(name) for name in _LOG_TOKENS]
    if tokens[0] and tokens[0] == tokens[1]:
        found.append("{0} and {1} must differ".format(*_LOG_TOKENS))
    return found


def _public_names(values: Mapping[str, str]) -> List[str]:
    """Return the names of secrets that everybody knows. The user's own belong to others, who judge them themselves."""
    found = [
        name for name in MADE_NAMES + UNUSED_NAMES if values.get(name) and _digest(values[name]) in _PUBLIC_DIGESTS
    ]
    for name in ("JWT_KEYS", _UNUSED["JWT_KEYS"]):
        if any(_digest(part) in _PUBLIC_DIGESTS for part in private_parts(values.get(name, ""))):
            found.append(name)
    return found


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8")).hexdigest()


def _group_problems(names: Tuple[str, ...], values: Mapping[str, str], secret: str) -> List[str]:
    """Say what is wrong with a group of optional keys, used or not, telling each by the name under which it stands."""
    places = {name: _place(values, name) for name in names}
    labels = {name: place for name, place in places.items() if place is not None}
    if not labels:
        return []
    found = [
        "{0} is set, and so is {1}; one of the two must be empty".format(name, _UNUSED[name])
        for name, label in labels.items()
        if label == name and values.get(_UNUSED[name])
    ]
    missing = [name for name in names if name not in labels]
    if missing:
        found.append("{0} is missing beside {1}".format(", ".join(missing), ", ".join(labels.values())))
        return found
    kept = {name: values[label] for name, label in labels.items()}
    if names == ASYMMETRIC_NAMES:
        return found + asymmetric_problems(kept, labels, secret)
    for name, prefix in OPAQUE_KEYS.items():
        found += opaque_key_problems(labels[name], kept[name], prefix)
    return found


def fingerprint(value: str, salt: str) -> str:
    """Return what may be shown of a secret: 12 hex digits of an HMAC under the instance's own salt."""
    digest = hmac.new(salt.encode("utf-8"), value.encode("utf-8"), hashlib.sha256).hexdigest()
    return "fingerprint:" + digest[:12]
