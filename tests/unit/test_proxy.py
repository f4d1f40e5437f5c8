# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sites a proxy has, what nginx is told of them, their certificates, and who may log in."""

from __future__ import annotations

import configparser
import datetime
import grp
import importlib
import os
import re
import stat
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _certificates, _nginx, _people, _proxy
from ansible_collections.multibase.supabase.plugins.module_utils._errors import (
    InvalidInput,
    MultibaseError,
    StateCorrupt,
)

PEOPLE_MODULE = importlib.import_module("ansible_collections.multibase.supabase.plugins.modules.people")
PROXY_MODULE = importlib.import_module("ansible_collections.multibase.supabase.plugins.modules.proxy")
NOW = datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.timezone.utc)
DEFAULTS = _proxy.Defaults("acme", "people", "/etc/nginx/multibase/own")


def instance(name: str, url: str = "", **more: Any) -> Dict[str, Any]:
    """An instance as the module hands it on; its domain is NAME.example.com."""
    return {
        "name": name, "url": url or "https://{0}.example.com".format(name), "port": 20000, "bind_address": "127.0.0.1",
        "studio": True, "dashboard_user": "supabase", **more,
    }  # fmt: skip


def plan(
    *instances: Mapping[str, Any], own: Mapping[str, Any] = {}, live: Mapping[str, Sequence[str]] = {}, **extra: str
) -> _proxy.Plan:
    return _proxy.plan(instances, extra, own, DEFAULTS, live)


# Which sites there are


@pytest.mark.parametrize(
    ("domain", "good"),
    [
        ("acme.example.com", True), ("a.bc", True), ("xn--bcher-kva.example", True), ("1.example.com", True),
        ("localhost", False), ("Acme.example.com", False), ("acme.example.com.", False), (".example.com", False),
        ("a..b.com", False), ("-a.example.com", False), ("a-.example.com", False), ("*.example.com", False),
        ("a_b.example.com", False), ("192.0.2.1", False), ("bücher.example", False), ("a.example.com\n", False),
        ("a.example.com; return 200", False), ("$host.example.com", False), ("x" * 64 + ".example.com", False),
        (".".join(["x" * 60] * 5), False), ("", False), (None, False), (5, False),
    ],
)  # fmt: skip
def test_names_of_sites(domain: Any, good: bool) -> None:
    assert (_proxy.domain_problem(domain) is None) is good


@given(st.text(max_size=40))
def test_nothing_that_nginx_reads_as_its_own_is_a_name_or_a_path(text: str) -> None:
    if _proxy.domain_problem(text) is None:
        assert re.fullmatch(r"[a-z0-9.-]+", text)
    if _proxy.path_problem(text) is None:
        assert re.fullmatch(r"/[A-Za-z0-9._/-]*", text) and ".." not in text.split("/")


def test_each_instance_with_a_domain_has_a_site() -> None:
    made = plan(
        instance("beta", bind_address="0.0.0.0"),
        instance("acme", bind_address="::1", port=20010),
        instance("none", "http://127.0.0.1:20020"),
        instance("local", "http://localhost:20030"),
        _panel="panel.example.com=/opt/multibase/www/panel",
    )
    assert made.problems == {}
    assert [(site.name, site.kind, site.domain, site.upstream) for site in made.sites] == [
        ("_panel", "panel", "panel.example.com", "/opt/multibase/www/panel"),
        ("acme", "instance", "acme.example.com", "[::1]:20010"),
        ("beta", "instance", "beta.example.com", "127.0.0.1:20000"),
    ]


def test_a_domain_is_whose_it_is_already() -> None:
    url = "https://same.example.com"
    first = plan(instance("acme", url), instance("beta", url))
    assert [site.name for site in first.sites] == ["acme"] and "domain of acme" in first.problems["beta"]
    later = plan(instance("acme", url), instance("beta", url), live={"beta": ["same.example.com"]})
    assert [site.name for site in later.sites] == ["beta"] and "domain of beta" in later.problems["acme"]
    alias = plan(instance("acme"), instance("beta"), own={"beta": {"aliases": ["acme.example.com"]}})
    assert list(alias.problems) == ["beta"]


def test_a_live_site_with_a_mistake_keeps_its_domains() -> None:
    same = "https://same.example.com"
    wrong = {"beta": {"certificate": "free"}}
    live = {"beta": ["same.example.com"]}
    made = plan(instance("acme", same), instance("beta", same), own=wrong, live=live)
    assert made.sites == [] and "free" in made.problems["beta"]
    assert "same.example.com is the domain of beta already" in made.problems["acme"]
    # Also one whose manifest cannot be read, and one that was to move; not one that is to have no site any more.
    broken = {"name": "beta", "problem": "its manifest is damaged"}
    assert plan(instance("acme", same), broken, live=live).sites == []
    assert plan(instance("acme", same), instance("beta"), own=wrong, live=live).sites == []
    gone = plan(instance("acme", same), instance("beta"), own={"beta": {"enabled": False}}, live=live)
    assert [site.name for site in gone.sites] == ["acme"]


def test_who_may_not_move_stays_where_others_wanted_to_go() -> None:
    live = {"acme": ["acme.example.com"], "gamma": ["gamma.example.com"]}
    # gamma wants acme's domain and does not get it; so beta, which comes first, does not get gamma's.
    made = plan(
        instance("acme"), instance("beta", "https://gamma.example.com"), instance("gamma", "https://acme.example.com"),
        live=live,
    )  # fmt: skip
    assert [site.name for site in made.sites] == ["acme"]
    assert "domain of acme" in made.problems["gamma"] and "domain of gamma" in made.problems["beta"]
    swapped = plan(
        instance("acme", "https://gamma.example.com"), instance("gamma", "https://acme.example.com"), live=live
    )
    assert swapped.problems == {} and len(swapped.sites) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"colour": 1}, "no setting colour"),
        ("yes", "no dictionary"),
        ({"certificate": "free"}, "none of acme, own, self_signed, none"),
        ({"studio_auth": "all"}, "none of people, gateway"),
        ({"aliases": ["x y.example.com"]}, "no domain name"),
        ({"aliases": "b.example.com"}, "are lists"),
        ({"studio_allow_from": ["10.0.0.0/99"]}, "no address or network"),
        ({"certificate": "own", "key_file": "/etc/../x"}, "no absolute path"),
        ({"certificate": "own", "key_file": "/a; include /etc/shadow"}, "no absolute path"),
    ],
)
def test_mistakes_of_one_site_are_its_own(settings: Any, words: str) -> None:
    made = plan(instance("acme"), instance("beta"), own={"acme": settings})
    assert [site.name for site in made.sites] == ["beta"]
    assert words in made.problems["acme"]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("10.0.0.0/8", True), ("192.0.2.1", True), ("2001:db8::/32", True), ("fe80::1%eth0; return 200", False),
        ("fe80::1%a\n}", False), ("10.0.0.0/255.0.0.0", False), ("10.0.0.0/99", False), ("5", False), (5, False),
        (True, False), ("", False), ("all", False),
    ],
)  # fmt: skip
def test_networks_hold_nothing_for_nginx_but_themselves(text: Any, good: bool) -> None:
    assert (_proxy.network_problem(text) is None) is good


@pytest.mark.parametrize(
    ("enabled", "sites"),
    [
        (True, 1), ("true", 1), ("Yes", 1), ("y", 1), ("on", 1), (1, 1), ("1", 1), ("t", 1),
        (False, 0), ("false", 0), ("No", 0), ("n", 0), ("off", 0), (0, 0), ("0", 0), ("f", 0),
    ],
)  # fmt: skip
def test_a_site_is_on_or_off_as_ansible_writes_it(enabled: Any, sites: int) -> None:
    made = plan(instance("acme"), own={"acme": {"enabled": enabled}})
    assert (len(made.sites), made.problems) == (sites, {})


@pytest.mark.parametrize("enabled", ["", "maybe", None, 2, [], "{{ on }}"])
def test_what_is_neither_on_nor_off_is_refused_and_takes_nothing_away(enabled: Any) -> None:
    made = plan(instance("acme"), own={"acme": {"enabled": enabled}})
    assert made.sites == [] and "is neither true nor false" in made.problems["acme"]


@pytest.mark.parametrize(
    ("given", "agreed"), [(True, True), ("true", True), ("yes", True), (False, False), ("false", False)]
)
def test_terms_are_agreed_to_as_ansible_writes_it(given: Any, agreed: bool) -> None:
    assert PROXY_MODULE._acme({"agree_tos": given}, "", "/w").agreed is agreed


@pytest.mark.parametrize("key", ["agree_tos", "check_dns"])
def test_neither_agreed_nor_not_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match=key + " of acme 'perhaps' is neither true nor false"):
        PROXY_MODULE._acme({key: "perhaps"}, "", "/w")


def test_plain_http_has_to_be_meant() -> None:
    url = "http://acme.example.com"
    assert "http://" in plan(instance("acme", url)).problems["acme"]
    (site,) = plan(instance("acme", url), own={"acme": {"certificate": "none"}}).sites
    assert site.scheme == "http"
    assert plan(instance("acme"), own={"acme": {"enabled": False}}) == _proxy.Plan()


# What nginx is told


SETTINGS = _nginx.Settings(
    version=(1, 26, 3), ipv6=True, http_port=80, https_port=443, webroot="/opt/multibase/www/acme", trusted=(),
    proxy_protocol=False, hsts_seconds=63072000, hsts_subdomains=False, body_size="100m", requests_per_second=100,
    burst=400, auth_per_minute=10, auth_burst=20, login_per_minute=5, login_burst=10, connections=500,
)  # fmt: skip
FILES = _nginx.Files("/etc/nginx/multibase/a.pem", "/etc/nginx/multibase/a.key")


def balanced(text: str) -> bool:
    bare = re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|#.*", "", text)
    return bare.count("{") == bare.count("}") and not [
        line for line in bare.splitlines() if line.strip() and not line.strip().endswith((";", "{", "}"))
        and "log_format" not in line and not line.startswith(("log_format", " " * 4))
    ]  # fmt: skip


def test_a_site_forwards_to_its_own_instance_only() -> None:
    (site,) = plan(instance("acme", port=20040)).sites
    text = _nginx.render_site(site, SETTINGS, FILES)
    assert re.findall(r"^\s*server ([0-9.:]+)", text, re.MULTILINE) == ["127.0.0.1:20040"]
    assert set(re.findall(r"server_name ([^;]+);", text)) == {"acme.example.com"}
    assert "ssl_certificate /etc/nginx/multibase/a.pem;" in text and "ssl_certificate_key" in text
    assert 'Strict-Transport-Security "max-age=63072000"' in text and "return 308" in text
    # Forwarded are the name of the site and the address of the connection, never what a client says of itself.
    assert "$proxy_add_x_forwarded_for" not in text and "$http_host" not in text and "Host $host" not in text
    assert balanced(text)


def test_without_a_certificate_nothing_is_said_of_tls() -> None:
    (site,) = plan(instance("acme", "http://acme.example.com"), own={"acme": {"certificate": "none"}}).sites
    text = _nginx.render_site(site, SETTINGS, None)
    assert "ssl_certificate" not in text and "add_header Strict-Transport-Security" not in text


def test_limits_and_logins_are_shared_by_all_sites() -> None:
    text = _nginx.render_base(SETTINGS, "http { include /etc/nginx/conf.d/*.conf; }", None)
    assert "zone=multibase_auth:10m rate=10r/m;" in text and "zone=multibase_all:10m rate=100r/s;" in text
    assert "ssl_reject_handshake on;" in text
    # Keys may stand in queries: the log has none.
    (form,) = re.findall(r"log_format multibase (.*?);", text, re.DOTALL)
    assert "$request " not in form and "$request_uri" not in form and "$args" not in form and "$http_" not in form


def test_the_configuration_that_is_tested_is_the_one_that_includes_ours() -> None:
    assert _nginx.staged_main("http {\n  include /etc/nginx/conf.d/*.conf;\n}\n", [], "/new.conf")
    assert _nginx.staged_main("http {\n}\n", [], "/new.conf") is None


# Certificates


def pair(domains: List[str], now: datetime.datetime = NOW) -> Any:
    return _certificates.self_signed(domains, now)


def test_a_self_signed_certificate_is_good_for_its_site() -> None:
    certificate, key = pair(["acme.example.com", "www.example.com"])
    read = _certificates.read(certificate)
    assert read.names == ("acme.example.com", "www.example.com") and read.issuer == _certificates.SELF_SIGNED_ISSUER
    assert _certificates.key_problem(key, read) is None
    assert _certificates.problem(read, ["acme.example.com"], NOW) is None
    made = x509.load_pem_x509_certificate(certificate)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_what_a_certificate_is_not_good_for() -> None:
    certificate, key = pair(["*.example.com"])
    read = _certificates.read(certificate)
    for days, domains, words in (
        (0, ["a.b.example.com"], "not for a.b.example.com"),
        (0, ["example.com"], "not for example.com"),
        (400, ["acme.example.com"], "expired on 2027"),
        (-2, ["acme.example.com"], "good from"),
    ):
        told = _certificates.problem(read, domains, NOW + datetime.timedelta(days=days))
        assert told and words in told
    assert _certificates.problem(read, ["acme.example.com"], NOW) is None
    other = pair(["x.example.com"])[1]
    assert _certificates.key_problem(other, read) == "the key belongs to another certificate"
    locked = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    assert "encrypted" in str(_certificates.key_problem(locked, read))
    assert "no private key" in str(_certificates.key_problem(b"nothing", read))
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(MultibaseError):
            _certificates.read(content)


def acme(**more: Any) -> _certificates.Acme:
    fields: Dict[str, Any] = {
        "directory": _certificates.LETS_ENCRYPT, "email": "a@example.com", "agreed": True, "webroot": "/w",
        "eab_kid": "", "eab_hmac_key": "", "dns": {}, "wildcards": (), **more,
    }  # fmt: skip
    return _certificates.Acme(**fields)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"agreed": False}, "agree_tos"),
        ({"directory": "http://ca.example.com/d"}, "no https://"),
        ({"eab_kid": "k"}, "needs both"),
        ({"wildcards": ("example.com",)}, "by DNS"),
        ({"wildcards": ("example.com",), "dns": {"plugin": "cloudflare"}}, None),
    ],
)
def test_what_an_order_needs(changes: Dict[str, Any], words: Any) -> None:
    told = _certificates.acme_problem(acme(**changes))
    assert told is None if words is None else words in str(told)


def test_settings_of_an_order_are_read_as_they_were_meant() -> None:
    order = acme(eab_kid="k", eab_hmac_key="h")
    text = _certificates.certbot_settings("multibase-acme", ["a.example.com"], order, False)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string("[x]\n" + text)
    told = dict(parser["x"])
    assert told["cert-name"] == "multibase-acme" and told["domains"] == "a.example.com"
    assert told["authenticator"] == "webroot" and told["eab-hmac-key"] == "h" and "force-renewal" not in told
    with pytest.raises(MultibaseError) as caught:
        _certificates.certbot_settings("n", ["a.example.com"], acme(eab_kid="k", eab_hmac_key="se\ncret"), False)
    assert "cret" not in str(caught.value)


def test_sites_below_a_wildcard_share_one_order() -> None:
    wild = acme(wildcards=("example.com",), dns={"plugin": "manual"})
    shared = ("multibase-wildcard-example.com", ("*.example.com", "example.com"))
    assert _certificates.lineage("acme", ["acme.example.com"], wild) == shared
    assert _certificates.lineage("acme", ["acme.example.com", "acme.org"], wild)[0] == "multibase-acme"


def test_no_two_sites_share_an_order_that_is_not_for_both() -> None:
    plain, wild = acme(), acme(wildcards=("example.com",), dns={"plugin": "manual"})
    sites = [_proxy.PANEL, _proxy.ARA, "panel", "ara", "wildcard", "wildcard-example-com"]
    names = [_certificates.lineage(name, [name.strip("_") + ".example.org"], plain)[0] for name in sites]
    names.append(_certificates.lineage("acme", ["acme.example.com"], wild)[0])
    assert len(set(names)) == len(names)
    # What certbot has of instances already stays theirs.
    assert names[2:4] == ["multibase-panel", "multibase-ara"]


@pytest.mark.parametrize(
    ("found", "good"),
    [(["192.0.2.1"], True), (["192.0.2.1", "2001:db8::1"], False), ([], False), (["192.0.2.9"], False)],
)
def test_a_name_has_to_lead_here(found: List[str], good: bool) -> None:
    assert (_certificates.dns_problem("a.example.com", found, ["192.0.2.1"]) is None) is good


# People


def test_hashes_are_bcrypts_and_checked_by_another_library() -> None:
    password = _people.make_password()
    hashed = _people.hash_password(password)
    assert hashed.startswith("$2y$12$") and _people.hash_problem(hashed) is None
    assert bcrypt.checkpw(password.encode(), hashed.encode()) and not bcrypt.checkpw(b"other", hashed.encode())
    assert len(password) == 32 and password != _people.make_password()


HASH = "$2y$12$" + "a" * 53


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "-a", "a b", "x" * 65, None, "ä"])
def test_names_that_would_break_the_file_are_refused(name: Any) -> None:
    with pytest.raises(InvalidInput):
        _people.change({}, name, HASH, False)


@pytest.mark.parametrize("hashed", ["", "secret", "$2y$10$" + "a" * 53, HASH + "\nroot:x", "$6$" + "a" * 53])
def test_weak_and_strange_hashes_are_refused_and_not_shown(hashed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _people.change({}, "alice", hashed, False)
    assert not hashed or hashed not in str(caught.value)


def test_who_is_there_is_replaced_only_on_purpose() -> None:
    people = _people.change({}, "alice", HASH, False)
    with pytest.raises(InvalidInput):
        _people.change(people, "alice", HASH, False)
    other = HASH[:-1] + "b"
    assert _people.change(people, "alice", other, True) == {"alice": other} and people == {"alice": HASH}


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "people.htpasswd"
    assert _people.read(str(path)) is None
    people = {"bob": HASH, "alice": HASH[:-1] + "b"}
    _people.write(str(path), people, 0)
    assert _people.read(str(path)) == people and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["people.htpasswd"]
    path.write_text("alice\n")
    with pytest.raises(StateCorrupt, match="line 1"):
        _people.read(str(path))


def test_one_name_with_two_hashes_is_told_of_and_no_hash_is_shown() -> None:
    other = HASH[:-1] + "b"
    with pytest.raises(StateCorrupt, match=r"/people, line 4: alice is there already, in line 1.*remove one") as caught:
        _people.parse("alice:{0}\n# note\nbob:{0}\nalice:{1}\n".format(HASH, other), "/people")
    assert HASH not in str(caught.value) and other not in str(caught.value)


def ask_people(tmp_path: Path, state: str, name: str = "", check_mode: bool = False, **more: Any) -> Dict[str, Any]:
    """Call the module's function as the module does; its group is the one of whoever runs the tests."""
    params = {
        "root": str(tmp_path / "root"), "path": str(tmp_path / "nginx" / "people.htpasswd"), "state": state,
        "name": name, "group": grp.getgrgid(os.getgid()).gr_name, "hash": "", "force": False, **more,
    }  # fmt: skip
    answer: Dict[str, Any] = PEOPLE_MODULE.manage(params, check_mode)
    return answer


@pytest.mark.parametrize("check_mode", [True, False])
def test_removing_somebody_where_nobody_is_yet_changes_nothing(tmp_path: Path, check_mode: bool) -> None:
    # On a host without nginx, and so without its group, too.
    told = ask_people(tmp_path, "absent", "ann", check_mode, group="no-such-group")
    assert told == {
        "changed": False, "people": [], "results": [{"name": "ann", "changed": False, "password_file": ""}],
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_first_person_is_made_once_and_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", lambda *_args: None)
    monkeypatch.setattr(_nginx, "LOGIN_CACHE", str(tmp_path / "cache"))
    assert not ask_people(tmp_path, "absent", "admin")["changed"]
    with pytest.raises(InvalidInput, match="no-such-group"):
        ask_people(tmp_path, "initial", "admin", group="no-such-group")
    assert list(tmp_path.iterdir()) == [], "no password that nobody can log in with"
    assert ask_people(tmp_path, "initial", "admin", True)["changed"] and list(tmp_path.iterdir()) == []
    made = ask_people(tmp_path, "initial", "admin")
    assert made["changed"] and made["people"] == ["admin"]
    password = Path(made["results"][0]["password_file"])
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert not ask_people(tmp_path, "initial", "admin")["changed"]
    assert ask_people(tmp_path, "absent", "admin")["changed"] and not password.exists()
    # An empty file is one too.
    assert not ask_people(tmp_path, "initial", "admin")["changed"]
    assert ask_people(tmp_path, "listed")["people"] == []
