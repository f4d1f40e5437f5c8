# SPDX-License-Identifier: GPL-3.0-or-later
"""Specs: every mistake is found before the first write, at once, with instance, what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _spec
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from unit.support import PROPERTY, SERVICES, converge, env_of, item, one_problem, release, snapshot


def problems_of(**options: Any) -> List[str]:
    return _spec.build({"name": "acme", **options}, {}, release())[1]


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
    before = repr(_spec.DEFAULTS)
    _spec.build({"name": "a", "smtp": {"password": "canary", "host": "h"}, "rest": {"schemas": ["x"]}}, {}, release())
    _spec.build({"name": "a"}, {"smtp": {"password": "canary"}}, release())
    assert repr(_spec.DEFAULTS) == before


def test_own_options_lie_over_the_users_defaults_over_ours() -> None:
    spec, problems = _spec.build(
        {"name": "a", "size": "large", "auth": {"jwt_expiry": 120}},
        {"size": "small", "health_interval": "5s", "auth": {"disable_signup": True, "jwt_expiry": 60}},
        release(),
    )
    assert problems == []
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
    spec, problems = _spec.build({"name": "a", "smtp": {"host": "h", "password": "canary"}}, {}, release())
    assert problems == [] and spec.smtp_password == "canary"
    assert "canary" not in repr(spec.options) and "canary" not in repr(spec.declared)
    assert _spec.build({"name": "a"}, {"smtp": {"password": "canary"}}, release())[0].smtp_password == "canary"
    assert _spec.build({"name": "a"}, {}, release())[0].smtp_password is None


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


def test_everything_runs_unless_switched_off() -> None:
    assert _spec.enabled_services({}, release()) == (frozenset(SERVICES), [])
    enabled, problems = _spec.enabled_services({"storage": False, "imgproxy": "no", "rest": True}, release())
    assert problems == [] and enabled == frozenset(SERVICES) - {"storage", "imgproxy"}


@pytest.mark.parametrize(
    ("value", "on"),
    [(True, True), ("yes", True), ("on", True), (1, True), ("True", True), (False, False), ("off", False), (0, False)],
)
def test_truth_as_people_write_it(value: object, on: bool) -> None:
    enabled, problems = _spec.enabled_services({"realtime": value}, release())
    assert problems == [] and ("realtime" in enabled) is on


@pytest.mark.parametrize("value", ["maybe", "", 2, [], {"a": 1}, "nein"])
def test_what_is_neither_true_nor_false(value: object) -> None:
    problem = one_problem(problems_of(services={"realtime": value}), "realtime")
    assert repr(value) in problem and "true" in problem and "false" in problem


@pytest.mark.parametrize("service", ["db", "api-gw"])
def test_the_foundation_cannot_be_switched_off(service: str) -> None:
    assert service in one_problem(problems_of(services={service: False}), "cannot be switched off")


def test_a_service_that_another_needs() -> None:
    problem = one_problem(problems_of(services={"meta": False}), "meta")
    assert "studio" in problem
    problem = one_problem(problems_of(services={"storage": False}), "storage")
    assert "imgproxy" in problem
    assert problems_of(services={"meta": False, "studio": False, "storage": False, "imgproxy": False}) == []


def test_an_unknown_service_is_named_with_those_that_exist() -> None:
    problem = one_problem(problems_of(services={"postgrest": False}), "postgrest")
    assert all(service in problem for service in SERVICES)


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
    "auth": [{"jwt_expiry": 59}, {"jwt_expiry": 604801}, {"jwt_expiry": -1}],
    "smtp": [
        {"port": 0}, {"port": 65536}, {"host": "a\x00"}, {"sender_name": "a\rb"}, {"user": "\x1b"},
        {"password": "a\x00"},
        {"password": "\ud800"}, {"host": "\ud800"},
    ],
    "studio": [{"organization": "a\x00"}, {"project": "\x7f"}, {"project": "\udfff"}],
    "pooler": [{"pool_size": 0}, {"max_clients": 0}, {"pool_size": 1001}],
    "rest": [{"schemas": ["Public"]}, {"schemas": ["a b"]}, {"schemas": ["a,b"]}, {"schemas": [""]}, {"schemas": []},
             {"max_rows": 0}],
    "storage": [{"file_size_limit": 0}, {"file_size_limit": -5}],
    "port_base": [20001, 0, -10, 65530, 70000],
    "services": [{"db": False}, {"nosuch": True}, {"meta": False}],
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
    spec, problems = _spec.build({"name": "acme", group: {option: value}}, {}, release())
    if problems:
        assert any(option in problem for problem in problems)
        return
    assert (spec.smtp_password if option == "password" else spec.options[group][option]) == value
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
