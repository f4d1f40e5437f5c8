# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own variables and secrets: where each ends, which names are refused, and that a secret is nowhere else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _settings, _spec
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Result
from ansible_collections.multibase.supabase.plugins.module_utils._settings import SETTINGS, USER_SECRETS, Setting
from ansible_collections.multibase.supabase.plugins.module_utils._spec import InstanceSpec, Layers
from unit.support import (
    PROPERTY,
    a_secret,
    assert_no_secret,
    converge,
    env_of,
    item,
    manifest_of,
    one_problem,
    release,
    snapshot,
)


def build(**options: Any) -> Tuple[InstanceSpec, List[str]]:
    return _spec.build({"name": "acme", **options}, Layers({}, {}), release())


def built(**options: Any) -> InstanceSpec:
    spec, problems = build(**options)
    assert problems == []
    return spec


def problems_of(**options: Any) -> List[str]:
    return build(**options)[1]


# Variables


def test_variables_go_where_they_are_put() -> None:
    spec = built(env={"MY_TAG": "v1", "functions": {"FLAGS": "a,b"}, "auth": {"GOTRUE_LOG_LEVEL": "debug"}})
    assert spec.variables == {
        "": {"MY_TAG": "v1"}, "functions": {"FLAGS": "a,b"}, "auth": {"GOTRUE_LOG_LEVEL": "debug"},
    }  # fmt: skip
    assert spec.declared["env"]["functions"] == {"FLAGS": "a,b"}, "no secret, so it is recorded"
    assert built().variables == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [("a b", "a b"), ("", ""), (5, "5"), (1.5, "1.5"), (True, "true"), (False, "false"), ("é$", "é$")],
)
def test_values_are_taken_as_text(value: Any, text: str) -> None:
    assert built(env={"X": value, "functions": {"Y": value}}).variables == {"": {"X": text}, "functions": {"Y": text}}
    assert built(secrets={"functions": {"Y": value}}).secrets == {"functions": {"Y": text}}


def test_options_of_a_service_are_among_its_variables() -> None:
    spec = built(auth={"mail": {"otp_expiry": 600}, "sessions": {"single_per_user": True}}, rest={"pool_size": 5})
    assert spec.variables == {
        "auth": {"GOTRUE_MAILER_OTP_EXP": "600", "GOTRUE_SESSIONS_SINGLE_PER_USER": "true"},
        "rest": {"PGRST_DB_POOL": "5"},
    }


def test_no_variable_of_the_env_file_can_be_set_by_the_user(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", gateway="kong", keys={"asymmetric": True, "opaque": True}))
    names = set(env_of(tmp_path, "acme")) | {"COMPOSE_PARALLEL_LIMIT", "DOCKER_HOST", "MULTIBASE_ANYTHING"}
    assert len(names) > 140
    for option in ("env", "secrets"):
        assert [name for name in sorted(names - set(USER_SECRETS)) if not problems_of(**{option: {name: "x"}})] == []
        for name in ("JWT_EXPIRY", "COMPOSE_FILE", "ANON_KEY", "DOCKER_HOST", "MULTIBASE_ANYTHING"):
            one_problem(problems_of(**{option: {name: "x"}}), option, r"\b{0}\b".format(name))


def test_no_variable_of_a_compose_file_can_be_set_by_the_user() -> None:
    assert set(release().environment) <= set(release().services)
    assert "GOTRUE_SITE_URL" in release().environment["auth"] and "KONG_DATABASE" in release().environment["api-gw"]
    for service, names in release().environment.items():
        for option in ("env", "secrets"):
            found = problems_of(**{option: {service: {name: "x" for name in names}}})
            assert len(found) == len(names)
            assert all("set by the Compose file" in problem and option + "." + service in problem for problem in found)


def test_a_refused_name_comes_with_the_option_that_sets_it() -> None:
    assert "auth.jwt_expiry" in one_problem(problems_of(env={"JWT_EXPIRY": "5"}), "JWT_EXPIRY")
    assert "smtp.password" in one_problem(problems_of(env={"SMTP_PASS": "5"}), "SMTP_PASS")
    assert "storage.file_size_limit" in one_problem(problems_of(env={"STORAGE_FILE_SIZE_LIMIT": "5"}), "STORAGE_FILE")


def test_a_variable_that_has_an_option_is_set_by_it() -> None:
    for setting in SETTINGS:
        if setting.service:
            problem = one_problem(problems_of(env={setting.service: {setting.variable: "1"}}), setting.variable)
            assert "use " + setting.option in problem
            # Another service may have one of this name.
            other = problems_of(env={"imgproxy": {setting.variable: "1"}})
            assert all("looks like a secret" in problem for problem in other), setting.variable


@pytest.mark.parametrize("name", ["STRIPE_KEY", "MY_PASSWORD", "GITHUB_TOKEN", "SESSION_SECRET", "aws_access_key"])
def test_names_that_look_like_a_secret_belong_among_the_secrets(name: str) -> None:
    assert "under secrets.functions" in one_problem(problems_of(env={"functions": {name: "canary"}}), name)
    problem = one_problem(problems_of(env={name: "canary"}), name)
    assert "under secrets," in problem and "canary" not in problem
    assert problems_of(secrets={"functions": {name: "canary"}}) == []


@pytest.mark.parametrize("option", ["env", "secrets"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nosuch": {"A": "canary"}}, "unknown service 'nosuch'"), ({"Functions": {"A": "canary"}}, "unknown service"),
        ({"functions": {"1A": "canary"}}, "'1A'"), ({"functions": {"A-B": "canary"}}, "'A-B'"),
        ({"functions": {"": "canary"}}, "''"), ({"functions": {5: "canary"}}, "5"), ({"A B": "canary"}, "'A B'"),
        ({"functions": {"A": ["canary"]}}, "A needs a text"), ({"functions": {"A": {"B": "canary"}}}, "A needs a text"),
        ({"functions": {"A": "canary\x00"}}, "A holds control characters"),
        ({"functions": {"A": "canary\r"}}, "A holds control characters"),
        ({"functions": {"A": "canary" * 30000}}, "A is longer"), ({"functions": {"A": "canary\ud800"}}, "A holds half"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_told_by_name_and_without_the_value(option: str, given: Dict[str, Any], said: str) -> None:
    found = problems_of(**{option: given})
    assert len(found) == 1 and said in found[0] and option in found[0], found
    assert "canary" not in found[0]


def test_an_unknown_service_is_told_with_those_that_there_are() -> None:
    for option in ("env", "secrets"):
        problem = one_problem(problems_of(**{option: {"nosuch": {"A": "b"}}}), "nosuch")
        assert all(service in problem for service in release().services)


# Secrets


def test_a_secret_is_taken_by_its_option_by_its_variable_and_by_its_service() -> None:
    for variable, setting in USER_SECRETS.items():
        value = a_secret(setting)
        ways = [with_option(setting, value), {"secrets": {variable: value}}]
        if setting.service:
            ways.append({"secrets": {setting.service: {variable: value}}})
        for options in ways:
            spec, problems = build(**options)
            assert problems == [] and spec.secrets == {setting.service: {variable: value}}, variable


def with_option(setting: Setting, value: str) -> Dict[str, Any]:
    """Options that give a secret, with what it is of no use without."""
    given: Dict[str, Any] = {}
    for kind, needed, text in (("auth.providers.", "client_id", "x"), ("auth.hooks.", "uri", "https://x.example/y")):
        if setting.option.startswith(kind):
            _settings.put_at(given, (*setting.path[:-1], needed), text)
    _settings.put_at(given, setting.path, value)
    return given


def test_a_secret_that_is_given_twice_must_be_the_same() -> None:
    for variable, setting in USER_SECRETS.items():
        given, same, other = with_option(setting, a_secret(setting)), a_secret(setting), a_secret(setting, "canary2")
        assert problems_of(**_spec.merge(given, {"secrets": {variable: same}})) == []
        problem = one_problem(problems_of(**_spec.merge(given, {"secrets": {variable: other}})), variable)
        assert "another value" in problem and setting.option in problem and "canary" not in problem


def test_a_secret_of_any_name_needs_a_service() -> None:
    assert built(secrets={"functions": {"STRIPE_KEY": "a"}, "auth": {"MY_KEY": "b"}}).secrets == {
        "functions": {"STRIPE_KEY": "a"}, "auth": {"MY_KEY": "b"},
    }  # fmt: skip
    problem = one_problem(problems_of(secrets={"STRIPE_KEY": "canary"}), "STRIPE_KEY")
    assert "functions: {STRIPE_KEY: ...}" in problem and "canary" not in problem


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SMTP_PASSWORD", "SMTP_PASS"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("GOTRUE_EXTERNAL_GITHUB_SECRT", "_GITHUB_SECRET"),
    ],
)
def test_a_name_that_is_nearly_one_comes_with_a_suggestion(name: str, meant: str) -> None:
    problem = one_problem(problems_of(secrets={name: "canary"}), name)
    assert "did you mean" in problem and meant in problem and "canary" not in problem


def test_ours_are_not_the_users_to_set() -> None:
    for name in (
        "POSTGRES_PASSWORD",
        "JWT_SECRET",
        "PGRST_JWT_SECRET",
        "ANON_KEY",
        "JWT_KEYS",
        "MULTIBASE_UNUSED_JWT_KEYS",
    ):
        assert "written by Multibase" in one_problem(problems_of(secrets={name: "canary"}), name)
    # What a service calls them counts as well.
    assert "Compose file" in one_problem(problems_of(secrets={"functions": {"JWT_SECRET": "x"}}), "JWT_SECRET")


NAMES = (
    "FOO",
    "GOTRUE_MAILER_OTP_EXP",
    "GOTRUE_EXTERNAL_GITHUB_SECRET",
    "GOTRUE_EXTERNAL_GITHUB_REDIRECT_URI",
    "SMTP_PASS",
)
few = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1", "2"]), max_size=3)


@PROPERTY
@given(few, few, few, st.booleans(), st.booleans())
def test_no_variable_is_written_twice_to_one_file(
    variables: Dict[str, str], secrets: Dict[str, str], more: Dict[str, str], option: bool, provider: bool
) -> None:
    auth: Dict[str, Any] = {"mail": {"otp_expiry": 600}} if option else {}
    if provider:
        auth["providers"] = {"github": {"client_id": "x", "secret": "1"}}
    spec, problems = build(auth=auth, env={"auth": variables}, secrets={"auth": secrets, **more})
    if not problems:
        twice = {place: set(spec.variables.get(place, {})) & set(names) for place, names in spec.secrets.items()}
        assert not any(twice.values()), twice


@PROPERTY
@given(
    st.dictionaries(
        st.sampled_from([*sorted(USER_SECRETS)[:5], "STRIPE_KEY", "JWT_SECRET", "1X", "nosuch", "functions", "auth"]),
        st.just("canary value")
        | st.dictionaries(st.sampled_from(["A", "JWT_SECRET", "1", "SMTP_PASS"]), st.just("canary x")),
        max_size=4,
    ),
    st.booleans(),
)
def test_no_problem_and_no_record_ever_holds_a_secret(secrets: Dict[str, Any], with_option: bool) -> None:
    options = {"smtp": {"password": "other canary"}} if with_option else {}
    spec, problems = build(secrets=secrets, **options)
    assert "canary" not in repr((problems, spec.options, spec.declared, spec.variables, spec.needed, spec.warnings))


def test_layers_of_secrets_merge_name_by_name() -> None:
    below = Layers(
        {"secrets": {"SMTP_PASS": "a", "functions": {"A": "1", "B": "1"}}},
        {"b": {"secrets": {"functions": {"B": "2"}}}},
    )
    declared = {"name": "x", "blueprint": "b", "secrets": {"functions": {"C": "3"}}}
    spec, problems = _spec.build(declared, below, release())
    assert problems == [] and spec.secrets == {"": {"SMTP_PASS": "a"}, "functions": {"A": "1", "B": "2", "C": "3"}}


# What is needed


NEEDED: Dict[str, Tuple[Dict[str, Any], str, Dict[str, Any]]] = {
    "provider": (
        {"auth": {"providers": {"github": {"client_id": "x"}}}}, "GOTRUE_EXTERNAL_GITHUB_SECRET",
        {"secrets": {"auth": {"GOTRUE_EXTERNAL_GITHUB_SECRET": "canary"}}},
    ),
    "captcha": (
        {"auth": {"captcha": {"enabled": True}}}, "GOTRUE_SECURITY_CAPTCHA_SECRET",
        {"auth": {"captcha": {"secret": "canary"}}},
    ),
    "saml": (
        {"auth": {"saml": {"enabled": True}}}, "GOTRUE_SAML_PRIVATE_KEY",
        {"secrets": {"GOTRUE_SAML_PRIVATE_KEY": "canary" * 20}},
    ),
    "key of a bucket": (
        {"storage": {"backend": "s3", "bucket": "b", "s3": {"endpoint": "https://s3.x", "secret_access_key": "x"}}},
        "STORAGE_S3_ACCESS_KEY_ID",
        {"storage": {"s3": {"access_key_id": "canary"}}},
    ),
    "secret of a bucket": (
        {"storage": {"backend": "s3", "bucket": "b", "s3": {"endpoint": "https://s3.x", "access_key_id": "x"}}},
        "STORAGE_S3_SECRET_ACCESS_KEY",
        {"secrets": {"STORAGE_S3_SECRET_ACCESS_KEY": "canary"}},
    ),
}  # fmt: skip


def instances_of(root: Path) -> Dict[str, Any]:
    """Everything below a root but the locks."""
    return {path: row for path, row in snapshot(root, times=True).items() if not path.startswith("state")}


@pytest.mark.parametrize("case", sorted(NEEDED))
@pytest.mark.parametrize("check_mode", [True, False])
def test_what_is_switched_on_needs_its_secret(tmp_path: Path, case: str, check_mode: bool) -> None:
    options, variable, secret = NEEDED[case]
    with pytest.raises(InvalidInput) as caught:
        converge(tmp_path, item("acme", **options), item("other"), check_mode=check_mode)
    problem = one_problem(caught.value.problems, "instance acme", variable)
    assert "secrets_from" in problem and len(caught.value.problems) == 1
    assert instances_of(tmp_path) == {}
    assert converge(tmp_path, item("acme", **_spec.merge(options, secret)), check_mode=check_mode)[0].changed


@pytest.mark.parametrize("case", sorted(NEEDED))
def test_a_secret_that_is_on_the_host_already_is_enough(tmp_path: Path, case: str) -> None:
    options, variable, secret = NEEDED[case]
    converge(tmp_path, item("acme", **_spec.merge(options, secret)))
    converge(tmp_path, item("acme", size="large"), keep_unmentioned=True)
    service = USER_SECRETS[variable].service
    assert "canary" in env_of(tmp_path, "acme", service)[variable]
    before = instances_of(tmp_path)
    with pytest.raises(InvalidInput, match=variable):
        converge(tmp_path, item("acme", **options))
    assert instances_of(tmp_path) == before


def test_a_bucket_at_amazon_needs_no_keys_where_the_machine_has_them(tmp_path: Path) -> None:
    assert converge(tmp_path, item("acme", storage={"backend": "s3", "bucket": "b"}))[0].changed
    assert env_of(tmp_path, "acme")["STORAGE_S3_ACCESS_KEY_ID"] == ""


def test_keys_of_a_bucket_that_somebody_put_into_the_env_file_are_enough(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    text = path.read_text()
    for name in ("STORAGE_S3_ACCESS_KEY_ID", "STORAGE_S3_SECRET_ACCESS_KEY"):
        text = text.replace("\n{0}=\n".format(name), "\n{0}=by-hand\n".format(name))
    path.write_text(text)
    s3 = item("acme", storage={"backend": "s3", "bucket": "b", "s3": {"endpoint": "https://s3.example.com"}})
    converge(tmp_path, s3)
    for _again in range(2):
        assert not converge(tmp_path, s3)[0].changed
        assert env_of(tmp_path, "acme")["STORAGE_S3_ACCESS_KEY_ID"] == "by-hand"


# On a host


STRIPE = {"functions": {"STRIPE_KEY": "canary-of-stripe"}}


def told(results: List[Result]) -> str:
    """Everything of results that can reach a user or a log."""
    return json.dumps([[result.as_dict(), result.diff, result.warnings] for result in results])


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def environment(root: Path, service: str = "functions") -> Path:
    return root / "projects" / "acme" / "env" / (service + ".env")


def test_environment_files_are_closed_and_there_only_when_there_is_something(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        converge(tmp_path, item("acme", secrets=STRIPE, env={"functions": {"FLAGS": "a"}, "auth": {"X": "y"}}))
    finally:
        os.umask(before)
    directory = tmp_path / "projects" / "acme" / "env"
    assert mode(directory) == 0o700 and sorted(os.listdir(directory)) == ["auth.env", "functions.env"]
    assert mode(directory / "functions.env") == mode(directory / "auth.env") == 0o600
    assert env_of(tmp_path, "acme", "functions") == {"FLAGS": "a", "STRIPE_KEY": "canary-of-stripe"}
    result = converge(tmp_path, item("acme", env={"functions": {"FLAGS": "a"}}))[0]
    assert env_of(tmp_path, "acme", "functions") == {"FLAGS": "a"}
    assert "removed env/auth.env" in result.actions and "changed env/functions.env" in result.actions
    result = converge(tmp_path, item("acme"))[0]
    assert "removed env/functions.env" in result.actions and os.listdir(directory) == []
    assert not converge(tmp_path, item("acme"))[0].changed


GITHUB = {"auth": {"providers": {"github": {"client_id": "x", "secret": "y"}}}}
BEHIND_A_PROXY = {"gateway": "kong", "limits": {"trusted_proxies": 1}}


@pytest.mark.parametrize("kind", ["env", "secrets"])
@pytest.mark.parametrize(
    ("options", "service", "name"),
    [
        (GITHUB, "auth", "GOTRUE_EXTERNAL_GITHUB_REDIRECT_URI"),
        (GITHUB, "auth", "GOTRUE_EXTERNAL_GITHUB_ENABLED"),
        (GITHUB, "auth", "GOTRUE_EXTERNAL_GITHUB_CLIENT_ID"),
        (BEHIND_A_PROXY, "api-gw", "KONG_TRUSTED_IPS"),
    ],
)
def test_a_variable_that_follows_from_others_is_not_written_twice(
    tmp_path: Path, kind: str, options: Dict[str, Any], service: str, name: str
) -> None:
    # Compose takes the last of two; to us the file would be damaged from then on.
    declared = item("acme", **options, **{kind: {service: {name: "mine"}}})
    try:
        converge(tmp_path, declared)
    except InvalidInput as error:
        assert name in str(error) and instances_of(tmp_path) == {}
        return
    lines = (tmp_path / "projects" / "acme" / "env" / (service + ".env")).read_text().splitlines()
    assert [line for line in lines if line.startswith(name + "=")] == [name + "=mine"]
    assert not converge(tmp_path, declared)[0].changed


def test_results_name_the_variables_that_the_user_set(tmp_path: Path) -> None:
    env = {"MY_TAG": "v1", "functions": {"B": "x", "A": "y"}}
    result = converge(tmp_path, item("acme", env=env, secrets=STRIPE))[0]
    assert result.as_dict()["env"] == {"": ["MY_TAG"], "functions": ["A", "B"]}
    assert manifest_of(tmp_path, "acme")["user_secrets"] == {"": [], "functions": ["STRIPE_KEY"]}


def test_a_secret_is_in_its_file_and_nowhere_else(tmp_path: Path) -> None:
    canaries = {"stripe": "canary-of-stripe", "mail": "canary of mail", "git": "canary-git"}
    declared = item(
        "acme",
        secrets={**STRIPE, "SMTP_PASS": "canary of mail"},
        auth={"providers": {"github": {"client_id": "x", "secret": "canary-git"}}},
    )
    results = converge(tmp_path, declared, check_mode=True, with_diff=True)
    results += converge(tmp_path, declared, with_diff=True)
    results += converge(tmp_path, {**declared, "size": "large", "env": {"functions": {"A": "b"}}}, with_diff=True)
    assert_no_secret(told(results), canaries, "results")
    holding: Dict[str, List[str]] = {name: [] for name in canaries}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            for name, value in canaries.items():
                if value in path.read_text(errors="replace"):
                    holding[name].append(path.relative_to(tmp_path / "projects" / "acme").as_posix())
    assert holding == {"stripe": ["env/functions.env"], "mail": [".env"], "git": ["env/auth.env"]}


def test_a_diff_shows_fingerprints_that_tell_secrets_apart(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", secrets=STRIPE, env={"functions": {"FLAGS": "old"}}))
    changed = item("acme", secrets={"functions": {"STRIPE_KEY": "canary-two"}}, env={"functions": {"FLAGS": "new"}})
    result = converge(tmp_path, changed, with_diff=True)[0]
    entry = next(entry for entry in result.diff if entry["after_header"].endswith("env/functions.env"))
    lines = [dict(line.split("=", 1) for line in entry[side].splitlines()) for side in ("before", "after")]
    assert [line["FLAGS"] for line in lines] == ["old", "new"]
    shown = [line["STRIPE_KEY"] for line in lines]
    assert shown[0] != shown[1] and all(text.startswith("fingerprint:") for text in shown)
    assert "canary" not in told([result])
    gone = converge(tmp_path, item("acme", env={"functions": {"FLAGS": "new"}}), with_diff=True)[0]
    assert "fingerprint:" in told([gone]) and "canary" not in told([gone])


def test_a_diff_never_shows_what_somebody_wrote_into_an_environment_file(tmp_path: Path) -> None:
    declared = item("acme", env={"functions": {"FLAGS": "a"}})
    converge(tmp_path, declared)
    environment(tmp_path).write_text(environment(tmp_path).read_text() + "OTHER_THING=canary by hand\n")
    result = converge(tmp_path, declared, with_diff=True)[0]
    assert result.changed and "canary" not in told([result])


def test_an_environment_file_of_the_user_is_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = environment(tmp_path, "auth")
    for text in ("GOTRUE_X=canary by hand\n", "# Secrets\nGOTRUE_X=canary by hand\n"):
        path.write_text(text)
        assert not converge(tmp_path, item("acme"))[0].changed
        with pytest.raises(InvalidInput) as caught:
            converge(tmp_path, item("acme", env={"auth": {"X": "y"}}))
        assert str(path) in str(caught.value) and "canary" not in str(caught.value)
        assert path.read_text() == text
    path.unlink()
    assert converge(tmp_path, item("acme", env={"auth": {"X": "y"}}))[0].changed


def test_a_secret_that_is_no_longer_declared_goes(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", secrets={**STRIPE, "OPENAI_API_KEY": "canary ai"}))
    converge(tmp_path, item("acme"))
    assert env_of(tmp_path, "acme", "functions") == {} and env_of(tmp_path, "acme")["OPENAI_API_KEY"] == ""
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or "canary" not in path.read_text(errors="replace"), path


def test_secrets_that_are_not_mentioned_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    secrets = {"functions": {"A_KEY": "a", "B_KEY": "b"}, "OPENAI_API_KEY": "ai", "GOTRUE_SMS_TEST_OTP": "1=2"}
    converge(tmp_path, item("acme", secrets=secrets))
    for _again in range(2):
        # Twice, so that what was kept is known to be the user's still.
        converge(tmp_path, item("acme", size="large", secrets={"functions": {"B_KEY": "new"}}), keep_unmentioned=True)
        assert env_of(tmp_path, "acme", "functions") == {"A_KEY": "a", "B_KEY": "new"}
        assert env_of(tmp_path, "acme", "auth") == {"GOTRUE_SMS_TEST_OTP": "1=2"}
        assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == "ai"
    converge(tmp_path, item("acme"))
    assert not any(env_of(tmp_path, "acme", service) for service in ("functions", "auth"))
    assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == ""


@pytest.mark.parametrize("keep", [True, False])
def test_a_secret_of_the_env_file_that_was_never_declared_stays(tmp_path: Path, keep: bool) -> None:
    declared = item("acme", secrets={"SMTP_PASS": "declared"})
    converge(tmp_path, declared)
    path = tmp_path / "projects" / "acme" / ".env"
    path.write_text(path.read_text().replace("OPENAI_API_KEY=\n", "OPENAI_API_KEY=by-hand\n"))
    for size in ("large", "small", "medium"):
        converge(tmp_path, {**declared, "size": size}, keep_unmentioned=keep)
        assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == "by-hand"
    converge(tmp_path, item("acme"))
    assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == "by-hand" and env_of(tmp_path, "acme")["SMTP_PASS"] == ""
    converge(tmp_path, item("acme", secrets={"OPENAI_API_KEY": "declared"}))
    assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == "declared"
    converge(tmp_path, item("acme"))
    assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == "", "declared once, so it goes when it no longer is"


def test_an_environment_file_that_was_edited_is_put_right(tmp_path: Path) -> None:
    declared = item("acme", secrets=STRIPE, env={"functions": {"FLAGS": "a"}})
    converge(tmp_path, declared)
    elsewhere = tmp_path / "elsewhere.env"
    elsewhere.write_text("FLAGS=other\n# End of the file\n")
    before = snapshot(tmp_path)
    path = environment(tmp_path)

    def reopened() -> None:
        path.chmod(0o644)

    def edited() -> None:
        path.write_text(path.read_text().replace("FLAGS=a", "FLAGS=b") + "MORE=x\n")

    def removed() -> None:
        path.unlink()

    def linked() -> None:
        path.unlink()
        path.symlink_to(elsewhere)

    def emptied() -> None:
        path.write_text("")

    for damage in (reopened, edited, removed, emptied, linked):
        damage()
        assert converge(tmp_path, declared, check_mode=True)[0].actions == ["changed env/functions.env"], (
            damage.__name__
        )
        assert converge(tmp_path, declared)[0].actions == ["changed env/functions.env"], damage.__name__
        assert snapshot(tmp_path) == before, damage.__name__


def test_of_files_that_nobody_recorded_those_of_a_killed_run_go_and_the_users_stay(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", secrets={"meta": {"X_KEY": "canary"}}))
    left = environment(tmp_path, "meta").read_bytes()
    converge(tmp_path, item("acme"))
    before = snapshot(tmp_path)
    environment(tmp_path, "meta").write_bytes(left)
    environment(tmp_path, "meta").chmod(0o600)
    result = converge(tmp_path, item("acme"), with_diff=True)[0]
    assert result.actions == ["removed env/meta.env"] and "canary" not in told([result])
    assert snapshot(tmp_path) == before
    for name in ("rest.env", "notes.txt"):
        (environment(tmp_path).parent / name).write_text("PGRST_LOG_LEVEL=info\\n")
    assert not converge(tmp_path, item("acme"))[0].changed
    assert environment(tmp_path, "rest").exists()


@pytest.mark.parametrize(
    "damage", [b"garbage canary", b"A=1\nA=canary\n", b"\xff\xfe", b"A='canary", b"\x00"], ids=repr
)
def test_a_damaged_environment_file_is_named(tmp_path: Path, damage: bytes) -> None:
    declared = item("acme", secrets=STRIPE)
    converge(tmp_path, declared, item("beta"))
    environment(tmp_path).write_bytes(damage)
    with pytest.raises(MultibaseError) as caught:
        converge(tmp_path, declared, item("beta", size="large"))
    assert "instance acme" in str(caught.value) and str(environment(tmp_path)) in str(caught.value)
    assert "canary" not in str(caught.value)
    assert environment(tmp_path).read_bytes() == damage
    assert not converge(tmp_path, item("beta"))[0].changed, "the others are none the worse"


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def edit(path: Path) -> None:
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("STRIPE_KEY=")))


def blank(path: Path) -> None:
    path.write_text(path.read_text().replace("STRIPE_KEY=canary-of-stripe", "STRIPE_KEY="))


@pytest.mark.parametrize("how", [lose, empty, edit, blank], ids=lambda how: how.__name__)
def test_a_lost_secret_is_named_where_it_is_to_be_kept(tmp_path: Path, how: Callable[[Path], None]) -> None:
    converge(tmp_path, item("acme", secrets={**STRIPE, "OPENAI_API_KEY": "ai"}))
    how(environment(tmp_path))
    before = instances_of(tmp_path)
    for check_mode in (True, False):
        with pytest.raises(InvalidInput) as caught:
            converge(tmp_path, item("acme", size="large"), keep_unmentioned=True, check_mode=check_mode)
        one_problem(
            caught.value.problems, "instance acme", str(environment(tmp_path)), "STRIPE_KEY", "give that secret"
        )
    assert instances_of(tmp_path) == before
    # Given again, all is well; and a declaration without it takes it back anyway.
    converge(tmp_path, item("acme", secrets=STRIPE), keep_unmentioned=True)
    assert env_of(tmp_path, "acme", "functions") == {"STRIPE_KEY": "canary-of-stripe"}


@pytest.mark.parametrize("keep", [True, False])
def test_an_environment_file_that_was_cut_off_is_named(tmp_path: Path, keep: bool) -> None:
    # Otherwise half a value would be kept as the whole one.
    converge(tmp_path, item("acme", secrets=STRIPE))
    path = environment(tmp_path)
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidInput) as caught:
            converge(tmp_path, item("acme", secrets={} if keep else STRIPE), keep_unmentioned=keep)
        assert "instance acme" in str(caught.value) and str(path) in str(caught.value)
        assert "canary" not in str(caught.value) and path.read_bytes() == whole[:size]


def test_a_mail_password_lost_from_the_env_file_is_named_where_it_is_to_be_kept(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", smtp={"host": "m", "password": "canary"}))
    path = tmp_path / "projects" / "acme" / ".env"
    path.write_text(path.read_text().replace("SMTP_PASS=canary\n", "SMTP_PASS=\n"))
    with pytest.raises(InvalidInput, match="SMTP_PASS"):
        converge(tmp_path, item("acme"), keep_unmentioned=True)
    converge(tmp_path, item("acme", smtp={"host": "m", "password": "again"}), keep_unmentioned=True)
    assert env_of(tmp_path, "acme")["SMTP_PASS"] == "again"
