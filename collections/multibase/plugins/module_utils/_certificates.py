# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Certificates of the proxy's sites: reading and checking them, self-signed ones, and orders for certbot."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ._errors import LibraryMissing, MultibaseError
from ._proxy import covers

# A self-signed certificate is made anew when it has less than this left, in days.
RENEWAL_DAYS = 30
_SELF_SIGNED_DAYS = 365
SELF_SIGNED_ISSUER = "O=Multibase self-signed"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_CERTBOT_LINE = re.compile(r"[^\x00-\x1f\x7f]*\Z")
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. ``expires`` and ``begins`` are UTC."""

    names: Tuple[str, ...]
    begins: datetime.datetime
    expires: datetime.datetime
    public_key: bytes
    issuer: str = ""


@dataclass(frozen=True)
class Acme:
    """How certificates are ordered. ``dns`` is empty for a challenge by HTTP."""

    directory: str
    email: str
    agreed: bool
    webroot: str
    eab_kid: str
    eab_hmac_key: str
    dns: Mapping[str, Any]
    wildcards: Tuple[str, ...]


def _library() -> Any:
    try:
        from cryptography import x509
    except ImportError as error:
        raise LibraryMissing(
            "the proxy needs Python's cryptography library on this host: install python3-cryptography (the role "
            "multibase_host does)"
        ) from error
    return x509


def _utc(certificate: Any, field: str) -> datetime.datetime:
    """Return a time of a certificate; older libraries know it without a zone only."""
    aware = getattr(certificate, field + "_utc", None)
    if aware is not None:
        return aware  # type: ignore[no-any-return]
    return getattr(certificate, field).replace(tzinfo=datetime.timezone.utc)  # type: ignore[no-any-return]


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def read(content: bytes) -> Certificate:
    """Return what the first certificate of a PEM file says. Raises MultibaseError when it is none.

    Names are those of the extension only: a common name counts for no browser, and ACME leaves it out.
    """
    x509 = _library()
    found = _PEM.search(content)
    if not found:
        raise MultibaseError("it holds no certificate in PEM form")
    try:
        certificate = x509.load_pem_x509_certificate(found.group(0) + b"\n")
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = tuple(extension.value.get_values_for_type(x509.DNSName))
        except x509.ExtensionNotFound:
            names = ()
        return Certificate(
            names=names,
            begins=_utc(certificate, "not_valid_before"),
            expires=_utc(certificate, "not_valid_after"),
            public_key=_public(certificate.public_key()),
            issuer=certificate.issuer.rfc4514_string(),
        )
    except ValueError as error:
        raise MultibaseError("its certificate cannot be read") from error


def key_problem(key: bytes, certificate: Certificate) -> Optional[str]:
    """Say why a key does not go with a certificate, or return None. Nothing of the key is in what is said."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        return "the key is encrypted with a password, which nginx could not ask for"
    except (ValueError, UnsupportedAlgorithm):
        return "the key is no private key in PEM form"
    if _public(private.public_key()) != certificate.public_key:
        return "the key belongs to another certificate"
    if isinstance(private, RSAPrivateKey) and private.key_size < 2048:
        return "the key is an RSA key of {0} bits; at least 2048 are needed".format(private.key_size)
    return None


def problem(certificate: Certificate, domains: Sequence[str], now: datetime.datetime) -> Optional[str]:
    """Say why a certificate is not good for a site, or return None."""
    if certificate.expires <= now:
        return "the certificate expired on {0:%Y-%m-%d}".format(certificate.expires)
    if certificate.begins > now:
        return "the certificate is good from {0:%Y-%m-%d %H:%M} UTC only".format(certificate.begins)
    missing = [domain for domain in domains if not covers(certificate.names, domain)]
    if missing:
        return "the certificate is for {0} and not for {1}".format(
            ", ".join(certificate.names) or "no name", ", ".join(missing)
        )
    return None


def self_signed(domains: Sequence[str], now: datetime.datetime) -> Tuple[bytes, bytes]:
    """Return certificate and key in PEM form for the given names (ECDSA P-256)."""
    x509 = _library()
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.ORGANIZATION_NAME, SELF_SIGNED_ISSUER[2:])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_SELF_SIGNED_DAYS, hours=-1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def lineage(site: str, domains: Sequence[str], acme: Acme) -> Tuple[str, Tuple[str, ...]]:
    """Return the name of the certificate of a site at certbot, and the names that it is for.

    Sites below a wildcard share its certificate, so that a hundred instances are one order. No instance can have the
    name of another's certificate: in the names of instances are neither dots nor the underscore that the panel's and
    ARA's begin with.
    """
    for parent in acme.wildcards:
        if all(covers(("*." + parent, parent), domain) for domain in domains):
            return "multibase-wildcard-" + parent, ("*." + parent, parent)
    return "multibase-" + site, tuple(domains)


def acme_problem(acme: Acme) -> Optional[str]:
    """Say what is missing before a certificate can be ordered, or return None."""
    if not acme.agreed:
        return "the certificate authority's terms were not agreed to: set multibase_proxy_acme_agree_tos"
    if not acme.directory.startswith("https://") or not _CERTBOT_LINE.match(acme.directory):
        return "{0!r} is no https:// address of an ACME directory".format(acme.directory)
    if bool(acme.eab_kid) != bool(acme.eab_hmac_key):
        return "an external account needs both, its key identifier and its HMAC key"
    if acme.wildcards and not acme.dns:
        return "a wildcard certificate needs a challenge by DNS: set multibase_proxy_acme_dns"
    return None


def certbot_settings(name: str, domains: Sequence[str], acme: Acme, anew: bool) -> str:
    """Return the file of settings for one order. In a file, because the key of an external account is a secret."""
    settings: Dict[str, str] = {
        "server": acme.directory,
        "agree-tos": "true",
        "non-interactive": "true",
        "cert-name": name,
        "domains": ",".join(domains),
        "key-type": "ecdsa",
        "elliptic-curve": "secp256r1",
        "renew-with-new-domains": "true",
        "force-renewal" if anew else "keep-until-expiring": "true",
    }
    if acme.email:
        settings["email"] = acme.email
        settings["no-eff-email"] = "true"
    else:
        settings["register-unsafely-without-email"] = "true"
    if acme.eab_kid:
        settings["eab-kid"] = acme.eab_kid
        settings["eab-hmac-key"] = acme.eab_hmac_key
    plugin = str(acme.dns.get("plugin", ""))
    if not plugin:
        settings["authenticator"] = "webroot"
        settings["webroot-path"] = acme.webroot
    elif plugin == "manual":
        settings["authenticator"] = "manual"
        settings["preferred-challenges"] = "dns"
        for key in ("auth_hook", "cleanup_hook"):
            if acme.dns.get(key):
                settings["manual-" + key.replace("_", "-")] = str(acme.dns[key])
    else:
        settings["authenticator"] = "dns-" + plugin
        if acme.dns.get("credentials"):
            settings["dns-{0}-credentials".format(plugin)] = str(acme.dns["credentials"])
        if acme.dns.get("propagation_seconds"):
            settings["dns-{0}-propagation-seconds".format(plugin)] = str(acme.dns["propagation_seconds"])
    for key, value in settings.items():
        if not _CERTBOT_LINE.match(value):
            raise MultibaseError("the setting {0} for certbot holds control characters".format(key))
    return "".join("{0} = {1}\n".format(key, value) for key, value in settings.items())


def dns_problem(domain: str, found: Sequence[str], ours: Sequence[str]) -> Optional[str]:
    """Say why a challenge by HTTP would not reach this host, or return None.

    All addresses must be ours: the authority asks any of them, and prefers IPv6.
    """
    if not found:
        return "the name {0} has no address".format(domain)
    others = sorted(set(found) - set(ours))
    if others:
        return (
            "{0} leads to {1}, which is not this host ({2}). Correct the name's records, or name the public addresses "
            "of the host in multibase_proxy_addresses".format(
                domain, ", ".join(others), ", ".join(ours) or "none known"
            )
        )
    return None


def renewal_server(text: str) -> str:
    """Return the ACME directory that certbot's renewal file of a certificate names, or an empty text."""
    found = re.search(r"^server\s*=\s*(\S+)\s*$", text, re.MULTILINE)
    return found.group(1) if found else ""


def said(output: str) -> str:
    """Return of certbot's output the lines that say what went wrong, short enough for a message."""
    lines: List[str] = []
    going_on = False
    for line in output.splitlines():
        text = line.strip()
        told = re.match(
            r"(Detail|Type|Domain|Hint|Error|An unexpected|urn:|Some challenges|There were|Service busy)", text
        )
        # "An unexpected error occurred:" is the title of the line below it.
        if text and (told or going_on):
            lines.append(text)
            going_on = text.endswith(":")
    return " / ".join(lines or [line.strip() for line in output.splitlines() if line.strip()][-4:])[:1500]
