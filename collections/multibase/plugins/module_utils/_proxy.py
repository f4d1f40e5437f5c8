# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Which sites the proxy of a host has: from instances and settings to checked data. Pure; `_nginx` makes text of it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ._values import as_boolean

CERTIFICATES = ("acme", "own", "self_signed", "none")
STUDIO_AUTH = ("people", "gateway")
# No instance can have these names: they begin with a letter.
PANEL = "_panel"
ARA = "_ara"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(r"(?=.{4,253}\Z)(?:" + _LABEL + r"\.)+(?=[a-z0-9-]*[a-z])" + _LABEL + r"\Z")
# What stands unquoted in nginx's configuration: nothing that it, or a shell, reads as anything else.
_PATH = re.compile(r"/[A-Za-z0-9._/-]{0,254}\Z")
# ipaddress takes a zone after %, with anything in it, and a bare number.
_NETWORK = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?\Z")
_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104
_OPTIONS = frozenset(
    ("aliases", "certificate", "certificate_file", "key_file", "studio_auth", "studio_allow_from", "enabled")
)


@dataclass(frozen=True)
class Site:
    """One site: a server for its ``domains``, the first of which is its address.

    ``kind`` is instance, panel or ara; ``upstream`` is ADDRESS:PORT, the path of a socket, or the directory of the
    panel. ``certificate_file`` and ``key_file`` are of the user's own certificate only.
    """

    name: str
    kind: str
    domains: Tuple[str, ...]
    upstream: str
    certificate: str
    studio: bool = False
    studio_auth: str = "people"
    studio_allow_from: Tuple[str, ...] = ()
    dashboard_user: str = ""
    scheme: str = "https"
    certificate_file: str = ""
    key_file: str = ""

    @property
    def domain(self) -> str:
        """The name that clients use."""
        return self.domains[0]


@dataclass
class Plan:
    """The sites of a host, and by name of a site, what keeps it from being one."""

    sites: List[Site] = field(default_factory=list)
    problems: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """Settings of all sites."""

    certificate: str
    studio_auth: str
    own_directory: str


def domain_problem(domain: str) -> Optional[str]:
    """Say why ``domain`` is no name for a site, or return None. Names outside ASCII are wanted as xn--."""
    if isinstance(domain, str) and _DOMAIN.match(domain):
        return None
    return "{0!r} is no domain name such as acme.example.com (small letters, digits, hyphens)".format(domain)


def path_problem(path: str) -> Optional[str]:
    """Say why ``path`` cannot stand in nginx's configuration, or return None."""
    if isinstance(path, str) and _PATH.match(path) and ".." not in path.split("/"):
        return None
    return "{0!r} is no absolute path of letters, digits and . _ - /".format(path)


def network_problem(text: str) -> Optional[str]:
    """Say why ``text`` is no address or network, or return None."""
    try:
        if isinstance(text, str) and _NETWORK.match(text):
            ipaddress.ip_network(text, strict=False)
            return None
    except ValueError:
        pass
    return "{0!r} is no address or network such as 10.0.0.0/8".format(text)


def covers(names: Sequence[str], domain: str) -> bool:
    """Whether a certificate for ``names`` is good for ``domain``; a star stands for one label (RFC 6125)."""
    return domain in names or "*." + domain.partition(".")[2] in names


def _own(name: str, given: Any) -> Tuple[Dict[str, Any], List[str]]:
    """Return the settings of one site and what is wrong with their shape."""
    if not isinstance(given, Mapping):
        return {}, ["its settings are no dictionary"]
    unknown = sorted(set(map(str, given)) - _OPTIONS)
    wrong = ["there is no setting {0}; there are {1}".format(", ".join(unknown), ", ".join(sorted(_OPTIONS)))]
    return dict(given), wrong if unknown else []


def _address(instance: Mapping[str, Any]) -> str:
    address = str(instance["bind_address"])
    address = "127.0.0.1" if address in _ANYWHERE else address
    return "{0}:{1}".format("[{0}]".format(address) if ":" in address else address, int(instance["port"]))


def _host(url: str) -> Tuple[str, str]:
    """Return scheme and host name of a URL; no host where it is an address or none at all."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return parts.scheme, host if "." in host else ""
    return parts.scheme, ""


def plan(
    instances: Sequence[Mapping[str, Any]],
    extra: Mapping[str, str],
    own: Mapping[str, Any],
    defaults: Defaults,
    live: Mapping[str, Sequence[str]],
) -> Plan:
    """Return the sites of a host.

    ``instances`` have name, url, port, bind_address, studio and dashboard_user; one without a domain name in its url
    has no site. ``extra`` are the domains of PANEL and ARA with the place behind them as DOMAIN=PLACE texts, ``own``
    the settings of single sites (several hosts may share them, so a name may be of another host). A domain that two
    want is the one's that has it already (``live``), else the first's; a site that has a problem keeps what it has.
    """
    made = Plan()
    candidates: List[Site] = []
    for name, target in extra.items():
        domain, _separator, place = target.partition("=")
        kind = "panel" if name == PANEL else "ara"
        _add(made, candidates, name, kind, "https", domain, place, {}, own.get(name, {}), defaults)
    for instance in sorted(instances, key=lambda entry: str(entry["name"])):
        name = str(instance["name"])
        if instance.get("problem"):
            made.problems[name] = str(instance["problem"])
            continue
        scheme, domain = _host(str(instance["url"]))
        if domain:
            _add(
                made, candidates, name, "instance", scheme, domain, _address(instance), instance, own.get(name, {}),
                defaults,
            )  # fmt: skip
    # Whoever has a domain already comes first.
    holders = {domain: name for name, domains in live.items() for domain in domains}
    candidates.sort(key=lambda site: any(holders.get(domain) == site.name for domain in site.domains), reverse=True)
    # Sites that will not be what was declared go on serving what is live; one may keep another from moving.
    stuck = set(made.problems)
    while True:
        sites, lost = _share_out(candidates, {domain: name for name in sorted(stuck) for domain in live.get(name, ())})
        if stuck.issuperset(lost):
            break
        stuck.update(lost)
    made.problems.update(lost)
    made.sites = sorted(sites, key=lambda site: site.name)
    return made


def _share_out(candidates: Sequence[Site], kept: Mapping[str, str]) -> Tuple[List[Site], Dict[str, str]]:
    """Return the sites that get all their domains, in the order given, and what keeps the others from being sites.

    ``kept`` are domains that are served already by sites that stay what they are.
    """
    sites: List[Site] = []
    lost: Dict[str, str] = {}
    taken = dict(kept)
    for site in candidates:
        others = {domain: taken[domain] for domain in site.domains if taken.get(domain, site.name) != site.name}
        if others:
            lost[site.name] = "{0} is the domain of {1} already{2}".format(
                ", ".join(others),
                ", ".join(sorted(set(others.values()))),
                ", which keeps it until its own mistake is mended" if set(others) & set(kept) else "",
            )
            continue
        taken.update({domain: site.name for domain in site.domains})
        sites.append(site)
    return sites, lost


def _add(
    made: Plan,
    candidates: List[Site],
    name: str,
    kind: str,
    scheme: str,
    domain: str,
    upstream: str,
    instance: Mapping[str, Any],
    given: Any,
    defaults: Defaults,
) -> None:
    settings, wrong = _own(name, given)
    given_enabled = settings.get("enabled", True)
    enabled = as_boolean(given_enabled)
    if enabled is False:
        return
    if enabled is None:
        wrong.append("enabled {0!r} is neither true nor false".format(given_enabled))
    certificate = settings.get("certificate", defaults.certificate)
    studio_auth = settings.get("studio_auth", defaults.studio_auth)
    aliases, allowed = settings.get("aliases", []), settings.get("studio_allow_from", [])
    for key, value, choices in (
        ("certificate", certificate, CERTIFICATES),
        ("studio_auth", studio_auth, STUDIO_AUTH),
    ):
        if value not in choices:
            wrong.append("{0} {1!r} is none of {2}".format(key, value, ", ".join(choices)))
    if not isinstance(aliases, (list, tuple)) or not isinstance(allowed, (list, tuple)):
        wrong.append("aliases and studio_allow_from are lists")
        aliases, allowed = [], []
    domains = [domain, *(alias for alias in aliases if alias != domain)]
    wrong += [problem for problem in map(domain_problem, domains) if problem]
    wrong += [problem for problem in map(network_problem, allowed) if problem]
    files = [str(settings.get(key, "")) for key in ("certificate_file", "key_file")]
    if certificate == "own":
        directory = "{0}/{1}".format(defaults.own_directory, name)
        files = [files[0] or directory + "/fullchain.pem", files[1] or directory + "/privkey.pem"]
        wrong += [problem for problem in map(path_problem, files) if problem]
    if scheme != "https" and certificate != "none":
        wrong.append(
            "its address begins with http://, and the site would send clients on to https://; give it a domain or a "
            "public_url with https://, or set certificate to none where plain HTTP is meant"
        )
    if kind != "instance":
        wrong += [problem for problem in [path_problem(upstream)] if problem]
    if wrong:
        made.problems[name] = "; ".join(wrong)
        return
    candidates.append(
        Site(
            name=name,
            kind=kind,
            domains=tuple(dict.fromkeys(domains)),
            upstream=upstream,
            certificate=certificate,
            studio=bool(instance.get("studio", False)),
            studio_auth=studio_auth,
            studio_allow_from=tuple(map(str, allowed)),
            dashboard_user=str(instance.get("dashboard_user", "")),
            scheme=scheme,
            certificate_file=files[0] if certificate == "own" else "",
            key_file=files[1] if certificate == "own" else "",
        )
    )
