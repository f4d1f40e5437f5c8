# SPDX-License-Identifier: GPL-3.0-or-later
"""Specs: every mistake is found before the first write, at once, with instance, what was found and what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, FrozenSet, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile, _settings, _spec
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._services import enabled_services
from ansible_collections.multibase.supabase.plugins.module_utils._spec import InstanceSpec, Layers
from unit.support import (
    PROPERTY,
    SERVICES,
    a_secret,
    converge,
    env_of,
    item,
    manifest_of,
    one_problem,
    release,
    snapshot,
)

NOTHING_BELOW = Layers({}, {})
ALL_SERVICES = tuple(sorted((*SERVICES, "analytics", "pgbouncer", "vector")))


def built(declared: Dict[str, Any], below: Layers = NOTHING_BELOW) -> InstanceSpec:
    """Build a spec of which nothing is wrong."""
    spec, problems = _spec.build({"name": "acme", **declared}, below, release())
    assert problems == []
    return spec


def problems_of(**options: Any) -> List[str]:
    return _spec.build({"name": "acme", **options}, NOTHING_BELOW, release())[1]


def refused(root: Path, *items: Dict[str, Any], **changes: Any) -> List[str]:
    """Converge, expect a refusal before the first write, and return its problems."""
    before = snapshot(root, times=True)
    with pytest.raises(InvalidInput) as caught:
        converge(root, *items, **changes)
    assert snapshot(root, times=True) == before, "nothing was written"
    return caught.value.problems


# Merging


def test_later_layers_win_at_every_level() -> None:
    merged = _spec.merge({"a": 1, "d": {"x": 1, "y": 1}}, {"a": 2, "d": {"y": 2}}, {"d": {"z": 3}, "l": [1]}, {"l": []})
    assert merged == {"a": 2, "d": {"x": 1, "y": 2, "z": 3}, "l": []}


def test_merging_changes_none_of_its_layers() -> None:
    below, above = {"d": {"x": 1}}, {"d": {"y": 2}}
    merged = _spec.merge(below, above)
    merged["d"]["x"] = 9
    assert below == {"d": {"x": 1}} and above == {"d": {"y": 2}}


def test_the_defaults_survive_every_build() -> None:
    before = repr(_settings.DEFAULTS)
    below = Layers({"smtp": {"password": "canary"}, "labels": {"a": "b"}}, {"b": {"auth": {"jwt_expiry": 99}}})
    under = repr(below)
    built({"smtp": {"password": "canary", "host": "h"}, "rest": {"schemas": ["x"]}, "labels": {"c": "d"}}, below)
    built({"blueprint": "b", "auth": {"providers": {"github": {"client_id": "x"}}}}, below)
    assert repr(_settings.DEFAULTS) == before and repr(below) == under


def test_own_options_lie_over_the_users_defaults_over_ours() -> None:
    defaults = {"size": "small", "health_interval": "5s", "auth": {"disable_signup": True, "jwt_expiry": 60}}
    spec = built({"size": "large", "auth": {"jwt_expiry": 120}}, Layers(defaults, {}))
    assert spec.options["size"] == "large"
    assert spec.options["health_interval"] == "5s"
    assert spec.options["auth"]["jwt_expiry"] == 120
    assert spec.options["auth"]["disable_signup"] is True
    assert spec.options["auth"]["email_signup"] is True
    assert spec.options["bind_address"] == "127.0.0.1"
    # Only the instance's own options are recorded: the users' defaults may change for all instances later.
    assert spec.declared == {"size": "large", "auth": {"jwt_expiry": 120}}


def test_unset_options_are_no_options() -> None:
    unset = {"name": "a", "size": None, "smtp": {"host": "h", "port": None}, "expose": None, "images": {}}
    assert _spec.without_unset(unset) == {"name": "a", "smtp": {"host": "h"}, "images": {}}


def test_the_smtp_password_is_apart_from_options_and_record() -> None:
    given = {"smtp": {"host": "h", "password": "canary"}}
    spec = built(given)
    assert spec.secrets == {"": {"SMTP_PASS": "canary"}}
    assert "canary" not in repr(spec.options) and "canary" not in repr(spec.declared)
    assert spec.declared == {"smtp": {"host": "h"}}
    for below in (Layers(given, {}), Layers({"blueprint": "b"}, {"b": given})):
        assert built({}, below).secrets == {"": {"SMTP_PASS": "canary"}}
        assert "canary" not in repr((built({}, below).options, built({}, below).declared))
    assert built({}).secrets == {}


@pytest.mark.parametrize("option", [setting.option for setting in _settings.SETTINGS if setting.secret])
def test_no_secret_is_in_options_record_or_variables(option: str) -> None:
    setting = _settings.BY_OPTION[option]
    given: Dict[str, Any] = {}
    if option.startswith("auth.providers."):
        _settings.put_at(given, (*setting.path[:-1], "client_id"), "x")
    elif option.startswith("auth.hooks."):
        _settings.put_at(given, (*setting.path[:-1], "uri"), "https://x.example/hook")
    elif option.startswith("database."):
        _settings.put_at(given, ("database", "host"), "db.example.com")
    value: Any = {"functions": {"X": "canary"}} if option == "secrets" else a_secret(setting)
    _settings.put_at(given, setting.path, value)
    spec = built(given)
    assert "canary" not in repr((spec.options, spec.declared, spec.variables, spec.needed, spec.warnings))
    assert "canary" in repr(spec.secrets) or spec.database_password == value


# Layers


BLUEPRINTS = {
    "shop": {"name": "shop", "size": "large", "auth": {"jwt_expiry": 700}, "health_interval": "7s"},
    "nested": {"blueprint": "shop"},
    "empty": {},
}


def test_defaults_lie_under_the_blueprint_and_it_under_the_instance() -> None:
    defaults = {"size": "small", "health_interval": "5s", "environment": "staging", "auth": {"jwt_expiry": 60}}
    below = Layers({**defaults, "labels": {"team": "a"}}, BLUEPRINTS)
    spec = built({"blueprint": "shop", "health_interval": "9s", "labels": {"cost": "1"}}, below)
    assert spec.options["health_interval"] == "9s", "the instance's own"
    assert spec.options["size"] == "large" and spec.options["auth"]["jwt_expiry"] == 700, "the blueprint's"
    assert spec.options["environment"] == "staging", "the users' defaults where the blueprint says nothing"
    assert spec.options["labels"] == {"team": "a", "cost": "1"} and spec.options["bind_address"] == "127.0.0.1"
    assert (spec.size.memory, spec.size.cpus) == (8192, 4.0)
    assert spec.declared == {"blueprint": "shop", "health_interval": "9s", "labels": {"cost": "1"}}
    assert built({}, below).options["size"] == "small", "only who names a blueprint has it"


def test_a_blueprint_in_the_defaults_is_everybodys_who_names_no_other() -> None:
    below = Layers({"blueprint": "shop", "size": "small"}, {**BLUEPRINTS, "tiny": {"health_interval": "1s"}})
    assert built({}, below).options["size"] == "large" and built({}, below).options["blueprint"] == "shop"
    other = built({"blueprint": "tiny"}, below)
    assert (other.options["size"], other.options["health_interval"]) == ("small", "1s")
    none = built({"blueprint": ""}, below)
    assert (none.options["size"], none.options["health_interval"], none.options["blueprint"]) == ("small", "30s", "")


def test_a_blueprint_that_there_is_not_is_told_with_those_that_there_are() -> None:
    for declared, defaults in (({"blueprint": "ship"}, {}), ({}, {"blueprint": "ship"})):
        problems = _spec.build({"name": "a", **declared}, Layers(defaults, BLUEPRINTS), release())[1]
        assert one_problem(problems, "'ship'").endswith("there are: empty, nested, shop")
    assert "there are: none" in one_problem(problems_of(blueprint="ship"), "'ship'")


def test_a_blueprint_that_names_a_blueprint_is_refused() -> None:
    problems = _spec.build({"name": "a", "blueprint": "nested"}, Layers({}, BLUEPRINTS), release())[1]
    one_problem(problems, "nested", "names a blueprint itself")


def test_an_option_of_a_blueprint_is_checked_like_the_instances_own(tmp_path: Path) -> None:
    blueprints = {"bad": {"health_interval": "soon"}, "worse": {"size": "huge"}, "good": {}}
    found = refused(
        tmp_path,
        item("one", blueprint="bad"), item("two", blueprint="worse"), item("three", blueprint="good"),
        blueprints=blueprints,
    )  # fmt: skip
    one_problem(found, "instance one", "health_interval", "soon")
    one_problem(found, "instance two", "huge")
    assert len(found) == 2


def test_a_release_of_a_blueprint_decides(tmp_path: Path) -> None:
    found = refused(tmp_path, item("acme", blueprint="old"), blueprints={"old": {"release": "0.1"}})
    one_problem(found, "instance acme", r"'0\.1'", r"there are: 0\.8\.2")


def test_what_a_blueprint_says_changes_with_it_also_where_options_are_kept(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", blueprint="b", health_interval="9s"), blueprints={"b": {"size": "small"}})
    assert env_of(tmp_path, "acme")["MULTIBASE_CPUS_DB"] == "1.00" and manifest_of(tmp_path, "acme")["blueprint"] == "b"
    changed = {"b": {"size": "large", "health_interval": "1m", "auth": {"jwt_expiry": 555}}}
    converge(tmp_path, item("acme"), blueprints=changed, keep_unmentioned=True)
    variables = env_of(tmp_path, "acme")
    assert variables["MULTIBASE_CPUS_DB"] == "4.00" and variables["JWT_EXPIRY"] == "555"
    assert variables["MULTIBASE_HEALTH_INTERVAL"] == "9s", "its own, recorded, over the blueprint's"
    one_problem(refused(tmp_path, item("acme"), keep_unmentioned=True), "instance acme", "unknown blueprint 'b'")
    converge(tmp_path, item("acme"))
    assert env_of(tmp_path, "acme")["MULTIBASE_CPUS_DB"] == "2.00" and manifest_of(tmp_path, "acme")["blueprint"] == ""


def test_defaults_then_recorded_then_given(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", size="large", health_interval="10s", auth={"jwt_expiry": 120}))
    converge(
        tmp_path,
        item("acme", health_interval="20s", auth={"disable_signup": True}),
        defaults={"size": "small", "health_interval": "1m", "auth": {"jwt_expiry": 999, "email_signup": False}},
        keep_unmentioned=True,
    )
    variables = env_of(tmp_path, "acme")
    assert variables["MULTIBASE_HEALTH_INTERVAL"] == "20s", "given over recorded"
    assert variables["JWT_EXPIRY"] == "120", "recorded over defaults"
    assert variables["ENABLE_EMAIL_SIGNUP"] == "false", "defaults where neither is"
    assert variables["DISABLE_SIGNUP"] == "true"
    assert variables["MULTIBASE_CPUS_DB"] == "4.00", "the recorded size"


def test_without_keeping_the_recorded_options_go_back(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", health_interval="10s"))
    converge(tmp_path, item("acme"))
    assert env_of(tmp_path, "acme")["MULTIBASE_HEALTH_INTERVAL"] == "30s"


def test_kept_options_count_before_the_first_check(tmp_path: Path) -> None:
    # Studio needs meta. Studio is off already, so switching off meta is no mistake.
    converge(tmp_path, item("acme", services={"studio": False}))
    converge(tmp_path, item("acme", services={"meta": False}), keep_unmentioned=True)
    assert not {"studio", "meta"} & set(env_of(tmp_path, "acme")["COMPOSE_PROFILES"].split(","))


# Services


def enabled(choice: Dict[str, Any], external: bool = False) -> FrozenSet[str]:
    services, problems = enabled_services(choice, release(), external)
    assert problems == []
    return services


def test_everything_runs_unless_switched_off_but_for_what_is_off_by_default() -> None:
    assert release().off == {"analytics", "pgbouncer", "vector"}
    assert enabled({}) == frozenset(SERVICES)
    assert enabled({"storage": False, "imgproxy": "no", "rest": True}) == frozenset(SERVICES) - {"storage", "imgproxy"}
    assert enabled({"analytics": True}) == frozenset(SERVICES) | {"analytics"}
    assert enabled({"analytics": "yes", "vector": 1}) == frozenset(SERVICES) | {"analytics", "vector"}
    assert enabled({"analytics": False, "vector": "off", "pgbouncer": 0}) == frozenset(SERVICES)


@pytest.mark.parametrize(
    ("value", "on"),
    [(True, True), ("yes", True), ("on", True), (1, True), ("True", True), (False, False), ("off", False), (0, False)],
)
def test_truth_as_people_write_it(value: object, on: bool) -> None:
    assert ("realtime" in enabled({"realtime": value})) is on
    assert ("analytics" in enabled({"analytics": value})) is on


@pytest.mark.parametrize("value", ["maybe", "", 2, [], {"a": 1}, "nein"])
def test_what_is_neither_true_nor_false(value: object) -> None:
    problem = one_problem(problems_of(services={"realtime": value}), "realtime")
    assert repr(value) in problem and "true" in problem and "false" in problem


@pytest.mark.parametrize("service", ["db", "api-gw"])
def test_the_foundation_cannot_be_switched_off(service: str) -> None:
    assert service in one_problem(problems_of(services={service: False}), "cannot be switched off")
    assert problems_of(services={service: True}) == []


@pytest.mark.parametrize(
    ("choice", "service", "needed"),
    [
        ({"meta": False}, "studio", "meta"),
        ({"storage": False}, "imgproxy", "storage"),
        ({"vector": True}, "vector", "analytics"),
    ],
)
def test_a_service_that_lacks_another_says_why_and_what_would_help(
    choice: Dict[str, bool], service: str, needed: str
) -> None:
    problem = one_problem(problems_of(services=choice), needed)
    assert release().requires[service][needed] in problem, "the reason, as the release words it"
    assert "switch {0} on, or {1} off".format(needed, service) in problem
    for remedy in ({**choice, needed: True}, {**choice, service: False}):
        assert problems_of(services=remedy) == [], remedy


def test_who_needs_a_service_is_named_when_it_would_have_to_go_as_well() -> None:
    # Nothing of this release needs a service that needs another itself; one is made up.
    chained = dataclasses.replace(release(), requires={**release().requires, "auth": {"studio": "it says so"}})
    problems = enabled_services({"meta": False}, chained, external=False)[1]
    assert "switch meta on, or studio off together with auth, which needs it" in one_problem(problems, "studio")


def test_the_reasons_are_of_services_that_there_are() -> None:
    for service, needs in release().requires.items():
        assert service in release().weights and set(needs) <= set(release().weights)
        assert all(reason and reason[-1] not in ".," for reason in needs.values())


@PROPERTY
@given(st.dictionaries(st.sampled_from(ALL_SERVICES), st.booleans()), st.booleans())
def test_any_choice_passes_or_names_what_is_missing(choice: Dict[str, bool], external: bool) -> None:
    services, problems = enabled_services(choice, release(), external)
    off = {"analytics", "pgbouncer", "vector"} | ({"db"} if external else set())
    wanted = {service for service in ALL_SERVICES if choice.get(service, service not in off)}
    faults = set()
    for service in {"api-gw"} | (set() if external else {"db"}):
        if service not in wanted:
            faults.add((service, "cannot be switched off"))
    if external and choice.get("db"):
        faults.add(("db", "database.host"))
    for service, needed in (("studio", "meta"), ("imgproxy", "storage"), ("vector", "analytics")):
        if service in wanted and needed not in wanted:
            faults.add((service, needed))
    if {"pgbouncer", "supavisor"} <= wanted:
        faults.add(("pgbouncer", "supavisor"))
    assert len(problems) == len(faults), (problems, faults)
    for first, second in faults:
        one_problem(problems, first, second)
    if not problems:
        assert services == wanted - ({"db"} if external else set())


def test_an_unknown_service_is_named_with_those_that_exist() -> None:
    problem = one_problem(problems_of(services={"postgrest": False}), "postgrest")
    assert all(service in problem for service in ALL_SERVICES)


def test_pgbouncer_takes_the_place_of_supavisor() -> None:
    one_problem(problems_of(services={"pgbouncer": True}), "pgbouncer", "supavisor", "same port")
    assert built({"services": {"pgbouncer": True, "supavisor": False}}).services == (
        frozenset(SERVICES) - {"supavisor"} | {"pgbouncer"}
    )


def test_with_a_database_elsewhere_none_runs_here() -> None:
    outside = {"host": "db.example.com", "password": "abcdefgh-123"}
    spec = built({"database": outside})
    assert spec.services == frozenset(SERVICES) - {"db"} and spec.external_database
    assert built({"database": outside, "services": {"db": False}}).services == spec.services
    one_problem(problems_of(database=outside, services={"db": True}), "services.db", "database.host")
    one_problem(problems_of(database=outside, expose=["postgres"]), "expose", "postgres")
    assert not built({}).external_database


# Images


def test_images_of_the_alternatives() -> None:
    upstream = release().images["upstream"]
    assert built({}).images == upstream
    assert built({"gateway": "kong"}).images == {**upstream, "api-gw": "kong/kong:3.9.3"}
    assert built({"database": {"version": 15}}).images["db"] == "supabase/postgres:15.8.1.085"
    mirrored = built({"gateway": "kong", "image_registry": "mirror.example.com"}).images
    assert mirrored["api-gw"] == "mirror.example.com/kong/kong:3.9.3"
    # An external database is of whatever version it is.
    outside = {"host": "db.example.com", "password": "abcdefgh", "version": 15}
    assert built({"database": outside, "image_set": "sandbox"}).images["db"] == release().images["sandbox"]["db"]


@pytest.mark.parametrize(
    ("options", "service", "option"),
    [({"gateway": "kong"}, "api-gw", "gateway kong"), ({"database": {"version": 15}}, "db", "database.version 15")],
)
def test_an_image_set_without_an_alternative_says_where_to_name_one(
    options: Dict[str, Any], service: str, option: str
) -> None:
    problem = one_problem(problems_of(image_set="sandbox", **options), "sandbox")
    assert option in problem and "images." + service in problem
    assert problems_of(image_set="sandbox", images={service: "mine:1"}, **options) == []


def test_an_image_set_that_there_is_not() -> None:
    problem = one_problem(problems_of(image_set="downstream"), "image_set 'downstream'", "part of release")
    assert "sandbox, upstream" in problem


# Values


BAD_VALUES: Dict[str, List[Any]] = {
    "bind_address": ["localhost", "256.0.0.1", "", "::1", "fd00::1", "127.0.0.1:80", "0.0.0.0/0", "١٢٧.0.0.1"],
    "public_url": [
        "acme.example.com", "ftp://x", "https://", "//x", "https://u:p@x", "https://@x", "https://x?q=1", "https://x?",
        "https://x#f", "https://x#", "http://x:99999", "http://x:0", "http://[::1", "https://x y", "https://x\n",
        "https://x\x00y", "https://x/$HOME", "https://x`id`", "javascript:alert(1)", "https://bücher.example",
        "https://my_host.example", "https://-x-", "https://x/supabase", "https://\ud800",
    ],
    "site_url": [
        "acme.example.com", "https://", "https://u:p@x", "https://x?q=1", "https://x#f", "http://x:99999", "https://x\x00",
        "https://x\n", "http://[::1", "https://x y",
    ],
    "cors_origins": [
        ["acme.example.com"], ["https://x/"], ["https://x/path"], ["https://x?"], ["null"], [""], ["https://*.x"],
        ["*", "https://x"], ["https://ok", "https://x#"], ["https://bücher.example"], ["https://x\x00"],
    ],
    "redirect_urls": [["https://a,https://b"], ["a b"], [""], ["https://a\n"], ["https://a\x00b"], ["https://a\x1b"]],
    "health_interval": ["0s", "5", "5h", "-5s", "", "5 s", "1e3s", "999999s", "30s\n", "s"],
    "dashboard_username": ["", "a b", "a:b", "#a", "x" * 65, "ä", "a\n", "a\x00"],
    "image_registry": ["http://x", "x y", "x:99999999", "-x", "x$(id)", "x\n", "ä"],
    "images": [{"db": ""}, {"db": "x y"}, {"db": "-x"}, {"db": "x\ny"}, {"nosuch": "x:1"}, {"db": "$(id)"}],
    "auth": [
        {"jwt_expiry": 59}, {"jwt_expiry": 604801}, {"jwt_expiry": -1}, {"phone_signup": True},
        {"mail": {"otp_expiry": 59}}, {"mail": {"otp_length": 5}}, {"mail": {"max_frequency": "soon"}},
        {"mail": {"paths": {"invite": "auth"}}}, {"mail": {"paths": {"invite": "/a b"}}},
        {"mail": {"templates": {"invite": "file:///etc/passwd"}}}, {"mail": {"subjects": {"invite": "a\x07"}}},
        {"sessions": {"timebox": "1 day"}}, {"sessions": {"inactivity_timeout": "-8h"}},
        {"captcha": {"provider": "recaptcha"}},
        {"captcha": {"secret": "a\x00"}}, {"sms": {"provider": "pigeon"}}, {"sms": {"template": "a\x1bb"}},
        {"sms": {"otp_expiry": 5}}, {"password_min_length": 5}, {"rate_limits": {"otp": 0}},
        {"mfa": {"max_enrolled_factors": 0}}, {"saml": {"external_url": "idp"}},
        {"hooks": {"send_sms": {"uri": "pg-functions://postgres/f"}}}, {"hooks": {"send_sms": {"enabled": True}}},
        {"hooks": {"send_sms": {"uri": "ftp://x/y"}}}, {"hooks": {"send_sms": {"uri": "pg-functions://a/b/c d"}}},
        {"providers": {"github": {"enabled": True}}}, {"providers": {"github": {"secret": "canary"}}},
        {"saml": {"private_key": "canary"}}, {"hooks": {"send_sms": {"uri": "https://x/y", "secrets": "canary"}}},
        {"hooks": {"send_sms": {"uri": "http://x.example/y"}}},
        {"providers": {"github": {"client_id": "x", "secret": "y", "redirect_uri": "nowhere"}}},
        {"providers": {"keycloak": {"url": "keycloak.example"}}},
    ],
    "smtp": [
        {"port": 0}, {"port": 65536}, {"host": "a\x00"}, {"sender_name": "a\rb"}, {"user": "\x1b"},
        {"password": "a\x00"},
        {"password": "\ud800"}, {"host": "\ud800"},
    ],
    "studio": [{"organization": "a\x00"}, {"project": "\x7f"}, {"project": "\udfff"}, {"openai_api_key": "\x00"}],
    "pooler": [
        {"pool_size": 0}, {"max_clients": 0}, {"pool_size": 1001}, {"db_pool_size": 0}, {"tenant_id": "a b"},
        {"tenant_id": ".a"},
    ],
    "rest": [{"schemas": ["Public"]}, {"schemas": ["a b"]}, {"schemas": ["a,b"]}, {"schemas": [""]}, {"schemas": []},
             {"max_rows": 0}, {"extra_search_path": ["a;b"]}, {"pool_size": 0}],
    "realtime": [{"max_concurrent_users": 0}, {"db_pool_size": 1001}],
    "storage": [
        {"file_size_limit": 0}, {"file_size_limit": -5}, {"backend": "ftp"}, {"bucket": "a/b"}, {"bucket": "../x"},
        {"tenant_id": "a/b"}, {"region": "eu west"}, {"s3": {"endpoint": "s3.example.com"}}, {"backend": "s3"},
        {"backend": "s3", "s3": {"access_key_id": "x", "secret_access_key": "y"}},
        {"s3": {"secret_access_key": "\x00"}},
    ],
    "imgproxy": [{"max_megapixels": 0.5}, {"max_megapixels": 1001}],
    "database": [
        {"version": 16}, {"version": 0}, {"host": "a b"}, {"host": "-x"}, {"host": "postgres://x"}, {"port": 0},
        {"host": "x", "password": "short"}, {"host": "x", "password": "has space in it"},
        {"host": "x", "password": "semi/colon:and@"}, {"name": "Post gres"},
    ],
    "limits": [
        {"requests_per_second": -1}, {"requests_per_second": 1000001}, {"burst": 5}, {"trusted_proxies": 11},
        {"allow_from": ["example.com"]}, {"allow_from": ["192.0.2.7/24"]}, {"allow_from": ["192.0.2.0/33"]},
        {"allow_from": [""]},
    ],
    "domain": ["acme", "Acme.example.com", "https://acme.example.com", "acme.example.com/", "a b.c", "acme..com",
               "-a.example", "acme.example.com:8443", "b\u00fccher.example", "acme.example\n"],
    "docker_socket": ["docker.sock", "/var run/x", "/a\nb", "/a:b"],
    "environment": ["a b", "-x", "x" * 64, "production\n"],
    "labels": [{"a b": "c"}, {"a": {"b": "c"}}, {"a": ["b"]}, {"": "x"}],
    "size": ["huge", "", {}, {"cpus": 1}, {"memory": "2g"}, {"cpus": 0, "memory": "2g"},
             {"cpus": "many", "memory": "2g"}, {"cpus": 1, "memory": "2"},
             {"cpus": 1, "memory": "511m"}, {"cpus": 1, "memory": "2g", "disk": 1}, 4,
             {"cpus": float("nan"), "memory": "2g"}, {"cpus": 1, "memory": None}],
    "gateway": ["traefik"],
    "image_set": ["downstream"],
    "blueprint": ["nosuch"],
    "secrets_from": ["a\x00"],
    "env": [{"POSTGRES_DB": "x"}, {"MY_TOKEN": "x"}, {"nosuch": {"A": "x"}}, {"functions": {"A": "x\x00"}}],
    "secrets": [{"POSTGRES_PASSWORD": "x"}, {"STRIPE_KEY": "x"}, {"nosuch": {"A": "x"}}, {"functions": {"A": "x\x00"}}],
    "port_base": [20001, 0, -10, 65530, 70000],
    "services": [{"db": False}, {"nosuch": True}, {"meta": False}, {"pgbouncer": True}, {"vector": True}],
    "expose": [["analytics"]],
    "release": ["9.9.9", "../0.8.2", ""],
}  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in BAD_VALUES.items() for value in values], ids=ascii
)
def test_a_bad_value_is_refused_before_the_first_write(tmp_path: Path, option: str, value: Any) -> None:
    found = refused(tmp_path, item("acme", **{option: value}))
    assert found and all(problem.startswith("instance acme: ") for problem in found)
    assert any(option in problem or option.rstrip("s") in problem for problem in found), found


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("public_url", "https://acme.example.com"), ("public_url", "https://acme.example.com/"),
        ("public_url", "HTTPS://Acme.Example.com:8443"), ("public_url", "http://[::1]:8000"), ("public_url", "http://10.0.0.1"),
        ("site_url", "https://acme.example.com/app"), ("site_url", "http://localhost:3000/"),
        ("cors_origins", ["*"]), ("cors_origins", ["https://a.example", "http://localhost:3000"]), ("cors_origins", []),
        ("redirect_urls", ["https://a/**", "myapp://callback", "exp://x"]), ("bind_address", "0.0.0.0"),
        ("bind_address", "10.1.2.3"), ("health_interval", "2m"), ("image_registry", "registry.example.com:5000/mirror"),
        ("image_registry", "localhost:5000"), ("image_registry", "registry.example.com/"),
        ("images", {"db": "registry.example.com:5000/a/postgres:17@sha256:" + "0" * 64}),
        ("rest", {"schemas": ["public", "my_schema"]}), ("dashboard_username", "a.b_c@d-e"),
        ("studio", {"organization": "Ä \"quoted\" $HOME #1 \\ 'x' {{ 7*7 }}", "project": ""}),
        ("smtp", {"host": "mail.example.com", "user": "a@b", "password": "p@ss \"w$rd#\\", "sender_name": "Ä"}),
        ("port_base", 25000), ("expose", ["postgres", "studio"]),
        ("domain", "acme.example.com"), ("environment", "production"), ("labels", {"team": "a b", "number": 5}),
        ("size", {"cpus": 0.5, "memory": "512m"}), ("size", {"cpus": "1.5", "memory": "3GiB"}), ("cpu_burst", False),
        ("gateway", "kong"), ("keys", {"opaque": True, "asymmetric": True}),
        ("docker_socket", "/run/user/1000/docker.sock"), ("limits", {"requests_per_second": 50, "burst": 100}),
        ("limits", {"allow_from": ["192.0.2.0/24", "2001:db8::/32", "10.0.0.1"]}),
        ("database", {"host": "db.example.com", "password": "Ab.0_~-x", "port": 6432, "name": "postgres_2"}),
        ("database", {"version": 15}), ("database", {"host": "10.0.0.9", "password": "abcdefgh"}),
        ("storage", {"backend": "s3", "bucket": "files", "region": "eu-central-1",
                     "s3": {"access_key_id": "x", "secret_access_key": "y z"}}),
        ("auth", {"phone_signup": True, "sms": {"provider": "twilio", "twilio": {"auth_token": "x"}}}),
        ("auth", {"phone_signup": True, "hooks": {"send_sms": {"uri": "pg-functions://postgres/public/send"}}}),
        ("auth", {"hooks": {"send_email": {"uri": "https://x.example/mail", "secrets": "v1,whsec_" + "x" * 32}}}),
        ("auth", {"providers": {"google": {"client_id": "a,b", "secret": "c", "skip_nonce_check": True}}}),
        ("auth", {"providers": {"github": {"client_id": "x", "enabled": False}}}),
        ("auth", {"captcha": {"enabled": True, "provider": "hcaptcha", "secret": "x"}}),
        ("auth", {"mail": {"max_frequency": "1m30s", "paths": {"invite": "/welcome"}}}),
        ("auth", {"saml": {"enabled": True, "private_key": "MII" * 50}, "sms": {"template": "Code: {{ .Code }}"}}),
        ("imgproxy", {"max_megapixels": 50}), ("realtime", {"max_concurrent_users": 500}),
        ("env", {"MY_TAG": "v1", "functions": {"FLAGS": "a,b", "NUMBER": 5, "ON": True}, "auth": {"X": "y"}}),
        ("secrets", {"OPENAI_API_KEY": "sk", "functions": {"STRIPE_KEY": "x $y"}}),
        ("services", {"analytics": True, "vector": True}), ("services", {"pgbouncer": True, "supavisor": False}),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_good_value_is_taken(tmp_path: Path, option: str, value: Any) -> None:
    assert problems_of(**{option: value}) == []
    assert converge(tmp_path, item("acme", **{option: value}))[0].changed
    assert not converge(tmp_path, item("acme", **{option: value}))[0].changed


def test_exposing_what_is_switched_off() -> None:
    services = {"studio": False}
    assert "studio" in one_problem(problems_of(services=services, expose=["studio"]), "expose")
    assert problems_of(services=services, expose=["postgres"]) == []


def test_problems_never_show_the_password(tmp_path: Path) -> None:
    found = refused(tmp_path, item("acme", smtp={"password": "canary\x00", "port": 0}))
    assert not any("canary" in problem for problem in found)


text = st.text(st.characters(), max_size=30) | st.text(st.sampled_from("\"'\\$#=\n\r\x00{}:/@ a"), max_size=12)


@PROPERTY
@given(text, st.sampled_from(["organization", "project", "host", "user", "sender_name", "admin_email", "password"]))
def test_free_text_arrives_unchanged_or_is_refused(value: str, option: str) -> None:
    group = "studio" if option in ("organization", "project") else "smtp"
    spec, problems = _spec.build({"name": "acme", group: {option: value}}, NOTHING_BELOW, release())
    # The Compose files demand that an organization has a name.
    assert bool(problems) is bool(_envfile.value_problem(value) or (option == "organization" and not value))
    if problems:
        assert any(option in problem for problem in problems)
        return
    assert (spec.secrets[""]["SMTP_PASS"] if option == "password" else spec.options[group][option]) == value
    value.encode("utf-8")


# All at once


def test_every_mistake_of_every_instance_at_once(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        item("../x"),
        item("acme", services={"nosuch": True}, size="small", health_interval="soon", public_url="nowhere"),
        item("acme"),
        item("beta", release="9.9.9"),
        item("gamma", port_base=20005),
        item("delta", port_base=21000),
        item("epsilon", port_base=21000),
        item("zeta", state="absent"),
        item("all"),
    )
    one_problem(found, "number 1", r"\.\./x", "40 characters")
    one_problem(found, "instance acme", "nosuch", "supavisor")
    one_problem(found, "instance acme", "health_interval", "soon", "30s")
    one_problem(found, "instance acme", "public_url", "nowhere", "https://")
    one_problem(found, "instance acme", "twice", "2", "3")
    one_problem(found, "instance beta", r"9\.9\.9", r"0\.8\.2")
    one_problem(found, "instance gamma", "20005", "multiple of 10")
    one_problem(found, "instance epsilon", "21000", "delta")
    one_problem(found, "instance zeta", "confirmed")
    one_problem(found, "number 9", "all", "reserved")
    assert len(found) == 10


def test_a_duplicate_is_found_between_present_and_absent(tmp_path: Path) -> None:
    found = refused(tmp_path, item("acme"), item("acme", state="absent"), confirmed=frozenset({"acme"}))
    one_problem(found, "acme", "twice")


def test_an_option_of_the_defaults_is_checked_too(tmp_path: Path) -> None:
    found = refused(tmp_path, item("acme"), item("beta"), defaults={"health_interval": "soon"})
    assert {problem.split(":")[0] for problem in found} == {"instance acme", "instance beta"}


def test_one_bad_instance_stops_all_before_the_first_write(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    one_problem(refused(tmp_path, item("acme", size="large"), item("new"), item("bad", health_interval="x")), "bad")
    assert not (tmp_path / "projects" / "new").exists()
