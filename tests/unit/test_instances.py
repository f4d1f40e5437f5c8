# SPDX-License-Identifier: GPL-3.0-or-later
"""Convergence of instances in a directory: what is written when, what is kept for ever, and being killed anywhere.

Where an Engine is needed, ``support.FakeDocker`` stands in for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _keys, _secrets
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import (
    InvalidInput,
    LockTimeout,
    MultibaseError,
    StateCorrupt,
)
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Result
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
from ansible_collections.multibase.supabase.plugins.module_utils._ports import parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import Capacity
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import parse_pool
from unit.support import (
    FakeDocker,
    assert_no_secret,
    bundle,
    converge,
    count_operations,
    env_of,
    item,
    killed_at,
    leftovers,
    manifest_of,
    one_problem,
    quiet_host,
    registry_of,
    release,
    request,
    secrets_of,
    snapshot,
)

SMTP = {"host": "mail.example.com", "user": "acme", "password": 'canary $ "mail" #word'}
# As much as one instance can have at once.
EVERYTHING: Dict[str, Any] = {
    "gateway": "kong",
    "keys": {"asymmetric": True, "opaque": True},
    "services": {"analytics": True, "vector": True, "pgbouncer": True, "supavisor": False},
    "expose": ["analytics", "postgres", "studio"],
    "size": {"cpus": 1.5, "memory": "3g"},
    "cpu_burst": False,
    "smtp": SMTP,
    "limits": {"requests_per_second": 5, "allow_from": ["192.0.2.0/24"]},
    "storage": {
        "backend": "s3", "bucket": "files", "s3": {"access_key_id": "canary key", "secret_access_key": "canary s3"},
    },
    "auth": {
        "mail": {"otp_expiry": 600}, "providers": {"github": {"client_id": "x", "secret": "canary git"}},
        "hooks": {"send_sms": {"uri": "pg-functions://postgres/public/send"}},
    },
    "environment": "production",
    "labels": {"team": "a"},
    "env": {"MY_TAG": "v1", "functions": {"FLAGS": "a b"}},
    "secrets": {"OPENAI_API_KEY": "canary ai", "functions": {"STRIPE_KEY": 'canary "stripe" $x'}},
}  # fmt: skip


def without_locks(found: Dict[str, Any]) -> Dict[str, Any]:
    return {path: row for path, row in found.items() if not path.startswith("state")}


def changed_paths(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def only(results: List[Result]) -> Result:
    assert len(results) == 1
    return results[0]


def shown(results: List[Result]) -> str:
    """Everything of results that can reach a user or a log."""
    return json.dumps([[result.as_dict(), result.diff, result.warnings] for result in results])


def problems_of(call: Callable[[], Any]) -> str:
    with pytest.raises(MultibaseError) as caught:
        call()
    return str(caught.value)


# Creating and changing


def test_a_new_instance(tmp_path: Path) -> None:
    result = only(converge(tmp_path, item("acme")))
    assert result.changed and result.actions == ["created"] and result.state == "present"
    assert result.ports == {"gateway_http": 20000, "pooler_session": 20003, "pooler_transaction": 20004}
    assert result.urls["api"] == "http://127.0.0.1:20000"
    assert result.directory == str(tmp_path / "projects" / "acme")
    project = tmp_path / "projects" / "acme"
    for path in release().directories:
        assert (project / path).is_dir(), path
    for path in (*release().files, ".env", "instance.json", "volumes/api/envoy.json"):
        assert (project / path).is_file(), path
    assert registry_of(tmp_path) == {
        "acme": {"port_base": 20000, "subnet": "10.213.0.0/26", "project": "multibase-acme"},
    }
    assert leftovers(tmp_path) == []


def test_modes(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        converge(tmp_path, item("acme"))
    finally:
        os.umask(before)
    project = tmp_path / "projects" / "acme"
    assert stat.S_IMODE(project.stat().st_mode) == 0o700
    for path in [project, *project.rglob("*")]:
        relative, mode = path.relative_to(project).as_posix(), stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir():
            expected = 0o700 if relative in (".", "env", "volumes/db/data") else 0o755
        else:
            expected = 0o600 if relative in (".env", "instance.json") else 0o644
        assert mode == expected, relative
    assert stat.S_IMODE((tmp_path / "registry.json").stat().st_mode) == 0o600


def test_the_same_again_touches_nothing(tmp_path: Path) -> None:
    items = [
        item("acme", smtp=SMTP, expose=["studio"]), item("beta", size="small", services={"studio": False}),
        item("gamma", **EVERYTHING),
    ]  # fmt: skip
    converge(tmp_path, *items)
    before = snapshot(tmp_path, times=True)
    for result in converge(tmp_path, *items, with_diff=True):
        assert not result.changed and result.actions == [] and result.diff == []
    assert snapshot(tmp_path, times=True) == before


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"size": "large"}, {".env"}),
        ({"health_interval": "5s"}, {".env"}),
        ({"public_url": "https://acme.example.com"}, {".env", "volumes/api/envoy.json"}),
        ({"cors_origins": ["https://x.example"]}, {".env", "volumes/api/envoy.json"}),
        ({"dashboard_username": "admin"}, {".env", "volumes/api/envoy.json"}),
        ({"services": {"realtime": False}}, {".env", "volumes/api/envoy.json"}),
        ({"expose": ["studio"]}, {".env"}),
        ({"smtp": SMTP}, {".env"}),
        ({"image_set": "sandbox"}, {".env"}),
        ({"size": {"cpus": 1.5, "memory": "3g"}}, {".env"}),
        ({"cpu_burst": False}, {".env"}),
        ({"environment": "production", "labels": {"team": "a"}}, set()),
        ({"env": {"MY_TAG": "v1"}}, {".env"}),
        ({"env": {"functions": {"FLAGS": "a"}}}, {"env/functions.env"}),
        ({"auth": {"mail": {"otp_expiry": 600}}}, {"env/auth.env"}),
        ({"secrets": {"functions": {"STRIPE_KEY": "x"}}}, {"env/functions.env"}),
        ({"limits": {"requests_per_second": 5}}, {".env", "volumes/api/envoy.json"}),
        ({"services": {"analytics": True, "vector": True}}, {".env"}),
        ({"services": {"pgbouncer": True, "supavisor": False}}, {".env"}),
        ({"database": {"version": 15}}, {".env"}),
        ({"keys": {"opaque": True}}, {".env", "volumes/api/envoy.json"}),
        # To the gateway they are only what opaque keys are exchanged for.
        ({"keys": {"asymmetric": True}}, {".env"}),
        ({"keys": {"asymmetric": True, "opaque": True}}, {".env", "volumes/api/envoy.json"}),
    ],
)  # fmt: skip
def test_one_option_changes_its_files_only(tmp_path: Path, options: Dict[str, Any], files: set[str]) -> None:
    converge(tmp_path, item("acme"), item("other"))
    before, secrets = snapshot(tmp_path), secrets_of(tmp_path, "acme")
    results = converge(tmp_path, item("acme", **options), item("other"))
    assert [result.changed for result in results] == [True, False]
    paths = changed_paths(before, snapshot(tmp_path))
    assert set(paths) == {"projects/acme/" + name for name in {*files, "instance.json"}}
    assert sorted(results[0].actions) == sorted("changed " + name for name in {*files, "instance.json"})
    after = secrets_of(tmp_path, "acme")
    # What REST verifies with is another set of keys when there is a pair.
    kept = [name for name in secrets if name != "PGRST_JWT_SECRET"]
    assert {name: after[name] for name in kept} == {name: secrets[name] for name in kept}
    assert not only(converge(tmp_path, item("acme", **options))).changed
    assert leftovers(tmp_path) == []


def test_ports_subnet_secrets_and_salt_stay_for_life(tmp_path: Path) -> None:
    converge(tmp_path, item("a"), item("b"))
    row, secrets, salt = registry_of(tmp_path)["b"], secrets_of(tmp_path, "b"), manifest_of(tmp_path, "b")["salt"]
    converge(tmp_path, item("a", state="absent"), confirmed=frozenset({"a"}))
    for changes in (
        {"ports": parse_port_range("30000-30100")}, {"subnet_pool": parse_pool("10.99.0.0/16")}, {"now": 1_900_000_000},
    ):  # fmt: skip
        assert not only(converge(tmp_path, item("b"), **changes)).changed
    assert registry_of(tmp_path) == {"b": row}
    assert secrets_of(tmp_path, "b") == secrets and manifest_of(tmp_path, "b")["salt"] == salt


def test_no_two_instances_share_a_secret_or_salt(tmp_path: Path) -> None:
    converge(tmp_path, *[item("i{0}".format(number)) for number in range(5)])
    values = [secrets_of(tmp_path, "i{0}".format(number)) for number in range(5)]
    for name in values[0]:
        assert len({value[name] for value in values}) == 5, name
    assert len({manifest_of(tmp_path, "i{0}".format(number))["salt"] for number in range(5)}) == 5


def test_a_file_that_was_damaged_or_opened_is_put_right(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    before = snapshot(tmp_path)
    project = tmp_path / "projects" / "acme"
    (project / "docker-compose.yml").write_text("half")
    (project / "volumes/api/envoy.json").unlink()
    (project / ".env").chmod(0o644)
    (project / "overlays/start-interval.yml").unlink()
    (project / "overlays/start-interval.yml").symlink_to("/etc/passwd")
    shutil.rmtree(project / "volumes/snippets")
    result = only(converge(tmp_path, item("acme")))
    assert result.changed and len(result.actions) == 5, result.actions
    assert snapshot(tmp_path) == before


def test_an_opened_project_directory_is_closed_again(tmp_path: Path) -> None:
    # Files below it are 0644 because containers read them; only the directory keeps the host's users out.
    converge(tmp_path, item("acme"))
    (tmp_path / "projects" / "acme").chmod(0o755)
    assert only(converge(tmp_path, item("acme"), check_mode=True)).changed
    assert only(converge(tmp_path, item("acme"))).changed
    assert stat.S_IMODE((tmp_path / "projects" / "acme").stat().st_mode) == 0o700
    assert not only(converge(tmp_path, item("acme"))).changed


def test_data_and_the_users_files_are_left_alone(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    project = tmp_path / "projects" / "acme"
    (project / "volumes/db/data/PG_VERSION").write_text("17")
    (project / "volumes/db/data").chmod(0o750)
    (project / "volumes/functions/hello/index.ts").write_text("// mine")
    (project / "volumes/functions/mine").mkdir()
    (project / "docker-compose.override.yml").write_text("services: {}\n")
    mine = {
        name: snapshot(project)[name]
        for name in (
            "volumes/db/data", "volumes/db/data/PG_VERSION", "volumes/functions/hello/index.ts",
            "volumes/functions/mine",
            "docker-compose.override.yml",
        )
    }  # fmt: skip
    converge(tmp_path, item("acme", size="large"))
    converge(tmp_path, item("acme"))
    assert {name: snapshot(project)[name] for name in mine} == mine
    assert env_of(tmp_path, "acme")["COMPOSE_FILE"].endswith(":docker-compose.override.yml")


def test_lines_added_by_hand_are_kept_as_they_are(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    lines = ["PLAIN=mine", 'QUOTED="a \\"b\\" $ c"', "FROM_ANOTHER=${MULTIBASE_INSTANCE}-x", "SINGLE='$HOME'"]
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    converge(tmp_path, item("acme", size="large"))
    text = path.read_text()
    assert "PLAIN=mine\n" in text
    # A reference to another variable still is one: Compose fills it in.
    assert "FROM_ANOTHER=${MULTIBASE_INSTANCE}-x\n" in text or 'FROM_ANOTHER="${MULTIBASE_INSTANCE}-x"\n' in text
    assert "SINGLE='$HOME'\n" in text or 'SINGLE="\\$HOME"\n' in text
    assert not only(converge(tmp_path, item("acme", size="large"))).changed


@pytest.mark.parametrize("line", ['CR="a\\rb"', "CR=a\rb", 'TAB="a\tb"', 'BELL="a\x07"', "DEL=a\x7f"], ids=ascii)
def test_strange_lines_added_by_hand_are_kept_or_refused(tmp_path: Path, line: str) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    with open(path, "a", newline="") as stream:
        stream.write(line + "\n")
    before = path.read_bytes()
    try:
        converge(tmp_path, item("acme", size="large"))
    except MultibaseError as error:
        assert "acme" in str(error) and str(path) in str(error)
        assert path.read_bytes() == before
    else:
        assert line.partition("=")[0] + "=" in path.read_text()


BY_HAND = """
# Mine, all of them.
FIRST=1

# The second one refers to the first.
SECOND="${FIRST} \\$ and more"   # so it is quoted
export THIRD='as it is'
# COMMENTED_OUT=x
"""


def test_lines_and_comments_added_by_hand_keep_their_order_through_changes(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    ours = path.read_text()
    path.write_text(ours + BY_HAND)
    for options in (
        {"size": "large"}, {"keys": {"opaque": True}}, {"env": {"MY_TAG": "v1"}}, {"env": {}}, {"gateway": "kong"},
        {"services": {"analytics": True}, "smtp": SMTP}, {},
    ):  # fmt: skip
        converge(tmp_path, item("acme", **options))
        kept = path.read_text().partition("# Added by hand; kept as it is\n")[2]
        assert kept == BY_HAND.lstrip("\n"), options
        assert not only(converge(tmp_path, item("acme", **options))).changed
    assert not {"FIRST", "SECOND", "THIRD"} & set(manifest_of(tmp_path, "acme")["variables"])
    path.write_text(path.read_text().replace("FIRST=1\n", "FIRST=2\n"))
    converge(tmp_path, item("acme", size="small"))
    assert "\nFIRST=2\n" in path.read_text()


def test_lines_added_between_ours_are_kept_behind_them(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    ours = path.read_text()
    first, second = "\nJWT_EXPIRY=3600\n", "\nSITE_URL="
    assert first in ours and second in ours
    path.write_text(ours.replace(first, first + "# why\nMINE=1\n").replace(second, "\nALSO_MINE=2" + second))
    converge(tmp_path, item("acme"))
    text = path.read_text()
    head, _heading, kept = text.partition("\n# Added by hand; kept as it is\n")
    assert head == ours.rstrip("\n") + "\n"
    assert sorted(line for line in kept.splitlines() if line) == ["# why", "ALSO_MINE=2", "MINE=1"]
    assert kept.index("# why\nMINE=1") >= 0
    assert not only(converge(tmp_path, item("acme"))).changed


def test_a_variable_of_env_that_is_no_longer_declared_goes(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", env={"MY_TAG": "v1", "OTHER": "x"}))
    converge(tmp_path, item("acme", env={"OTHER": "x"}))
    assert "MY_TAG" not in env_of(tmp_path, "acme") and env_of(tmp_path, "acme")["OTHER"] == "x"
    converge(tmp_path, item("acme", env={"MORE": "y"}), keep_unmentioned=True)
    assert {"OTHER", "MORE"} <= set(env_of(tmp_path, "acme"))


def test_a_password_changed_by_hand_is_kept_with_a_warning(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    old = secrets_of(tmp_path, "acme")["DASHBOARD_PASSWORD"]
    path.write_text(path.read_text().replace(old, "chosen-by-hand-0123456789"))
    result = only(converge(tmp_path, item("acme")))
    assert secrets_of(tmp_path, "acme")["DASHBOARD_PASSWORD"] == "chosen-by-hand-0123456789"
    assert len(result.warnings) == 1 and "DASHBOARD_PASSWORD" in result.warnings[0] and "acme" in result.warnings[0]
    assert "chosen-by-hand" not in shown([result]) and old not in shown([result])
    again = only(converge(tmp_path, item("acme")))
    assert not again.changed and again.warnings == []


def test_a_key_that_the_user_put_in_is_kept(tmp_path: Path) -> None:
    # No option sets it, so only the user can have.
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    path.write_text(path.read_text().replace("OPENAI_API_KEY=\n", "OPENAI_API_KEY=sk-mine\n"))
    converge(tmp_path, item("acme"))
    converge(tmp_path, item("acme", size="large"))
    assert env_of(tmp_path, "acme")["OPENAI_API_KEY"] == "sk-mine"


def test_the_mail_password_is_written_changed_kept_and_taken_back(tmp_path: Path) -> None:
    def password() -> str:
        return env_of(tmp_path, "acme")["SMTP_PASS"]

    converge(tmp_path, item("acme", smtp={**SMTP, "password": "first"}))
    assert password() == "first"
    assert only(converge(tmp_path, item("acme", smtp={**SMTP, "password": "second"}))).changed
    assert password() == "second"
    converge(tmp_path, item("acme", size="large"), keep_unmentioned=True)
    assert password() == "second" and env_of(tmp_path, "acme")["SMTP_HOST"] == "mail.example.com"
    converge(tmp_path, item("acme"))
    assert password() == "" and env_of(tmp_path, "acme")["SMTP_HOST"] == ""


def test_studio_on_a_port_of_its_own_comes_with_a_warning(tmp_path: Path) -> None:
    result = only(converge(tmp_path, item("acme", expose=["studio"])))
    assert any("acme" in warning and "tudio" in warning for warning in result.warnings)
    assert only(converge(tmp_path, item("beta"))).warnings == []


def test_analytics_on_a_port_of_its_own_comes_with_a_warning(tmp_path: Path) -> None:
    result = only(converge(tmp_path, item("acme", services={"analytics": True}, expose=["analytics"])))
    assert any("acme" in warning and "Analytics" in warning and "20006" in warning for warning in result.warnings)


def test_every_origin_and_any_redirect_come_with_a_warning(tmp_path: Path) -> None:
    result = only(converge(tmp_path, item("acme", cors_origins=["*"], redirect_urls=["https://**", "https://ok/**"])))
    assert len(result.warnings) == 2
    assert any("cors_origins" in warning for warning in result.warnings)
    assert any("redirect_urls 'https://**'" in warning or "https://**" in warning for warning in result.warnings)


def test_fewer_processors_than_the_size_has_are_reported(tmp_path: Path) -> None:
    result = only(converge(tmp_path, item("acme", size="large"), cpus=2))
    assert env_of(tmp_path, "acme")["MULTIBASE_CPUS_DB"] == "2.00"
    assert any("acme" in warning and "2" in warning for warning in result.warnings)
    assert only(converge(tmp_path, item("beta", size="large"), cpus=8)).warnings == []


def test_results_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    names = ["zeta", "alpha", "mid"]
    assert [result.name for result in converge(tmp_path, *[item(name) for name in names])] == names
    mixed = [
        item("mid"),
        item("zeta", state="absent"),
        item("new"),
        item("alpha", state="absent"),
        item("gone", state="absent"),
    ]
    results = converge(tmp_path, *mixed, confirmed=frozenset({"zeta", "alpha", "gone"}))
    assert [result.name for result in results] == ["mid", "zeta", "new", "alpha", "gone"]
    assert [result.changed for result in results] == [False, True, True, True, False]


def test_nothing_asked_for_writes_nothing(tmp_path: Path) -> None:
    assert converge(tmp_path / "root") == []
    assert not (tmp_path / "root").exists()


# Check mode and diff


CHECKS: Dict[str, Any] = {
    "new": lambda: [item("new", smtp=SMTP)],
    "new, everything": lambda: [item("new", **EVERYTHING)],
    "changed": lambda: [item("acme", size="large", smtp=SMTP, expose=["studio"])],
    "everything": lambda: [item("acme", **{**EVERYTHING, "storage": {}})],
    "unchanged": lambda: [item("acme"), item("beta")],
    "deleted": lambda: [item("beta", state="absent")],
    "mixed": lambda: [item("new"), item("acme", public_url="https://x.example"), item("beta", state="absent")],
}


@pytest.mark.parametrize("case", sorted(CHECKS))
def test_check_mode_writes_nothing_and_says_what_a_run_does(tmp_path: Path, case: str) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    confirmed = frozenset({"beta"})
    before = snapshot(tmp_path, times=True)
    engine = Engine(FakeDocker())
    checked = converge(tmp_path, *CHECKS[case](), confirmed=confirmed, check_mode=True, with_diff=True, engine=engine)
    assert snapshot(tmp_path, times=True) == before
    done = converge(tmp_path, *CHECKS[case](), confirmed=confirmed, with_diff=True, engine=engine)
    assert [result.as_dict() for result in checked] == [result.as_dict() for result in done]
    again = converge(tmp_path, *CHECKS[case](), confirmed=confirmed, check_mode=True, engine=engine)
    assert not any(result.changed for result in again)


def test_check_mode_on_a_virgin_host_creates_nothing(tmp_path: Path) -> None:
    root = tmp_path / "opt" / "multibase"
    items = [item("acme"), item("beta"), item("gone", state="absent")]
    results = converge(root, *items, check_mode=True, with_diff=True, confirmed=frozenset({"gone"}))
    assert [result.changed for result in results] == [True, True, False]
    assert os.listdir(tmp_path) == []


def test_check_mode_waits_for_nobody(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    with exclusive(str(tmp_path / "state" / "locks" / "_registry.lock"), 0):
        assert not only(converge(tmp_path, item("acme"), check_mode=True, lock_timeout=0)).changed
        with pytest.raises(LockTimeout):
            converge(tmp_path, item("acme"), lock_timeout=0)


def sensitive(root: Path, name: str) -> Dict[str, str]:
    """Everything of an instance that a diff must not show: secrets, and what the gateway's file makes of them."""
    values = dict(secrets_of(root, name))
    digest = hashlib.sha1(values["DASHBOARD_PASSWORD"].encode(), usedforsecurity=False).digest()
    values["hash of DASHBOARD_PASSWORD"] = base64.b64encode(digest).decode()
    for key in ("ANON_KEY", "SERVICE_ROLE_KEY"):
        values["signature of " + key] = values[key].split(".")[2]
    return values


def test_the_diff_of_a_new_instance_shows_names_and_no_secret(tmp_path: Path) -> None:
    result = only(converge(tmp_path, item("acme", smtp=SMTP), with_diff=True))
    text = shown([result])
    assert_no_secret(text, {**sensitive(tmp_path, "acme"), "SMTP": SMTP["password"], "part": "canary"}, "diff")
    assert "POSTGRES_PASSWORD=" in text and "SUPABASE_PUBLIC_URL=http://127.0.0.1:20000" in text
    assert "docker-compose.yml" in text and "volumes/api/envoy.json" in text


def test_the_diff_of_a_change_shows_what_changed_and_no_secret(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", smtp=SMTP))
    old = sensitive(tmp_path, "acme")
    new_mail = {**SMTP, "password": "other canary", "host": "new.example.com"}
    result = only(
        converge(tmp_path, item("acme", smtp=new_mail, public_url="https://acme.example.com"), with_diff=True)
    )
    text = shown([result])
    assert_no_secret(
        text, {**old, **{"new " + name: value for name, value in sensitive(tmp_path, "acme").items()}}, "diff"
    )
    assert_no_secret(text, {"old mail": "canary", "new mail": "other canary"}, "diff")
    entries = {os.path.basename(entry["after_header"]): entry for entry in result.diff}
    assert set(entries) == {".env", "envoy.json", "instance.json"}
    assert "SMTP_HOST=mail.example.com" in entries[".env"]["before"]
    assert "SMTP_HOST=new.example.com" in entries[".env"]["after"]
    old_line, new_line = (
        next(line for line in entries[".env"][side].splitlines() if line.startswith("SMTP_PASS="))
        for side in ("before", "after")
    )
    assert "fingerprint" in old_line and "fingerprint" in new_line and old_line != new_line
    same = [
        next(line for line in entries[".env"][side].splitlines() if line.startswith("POSTGRES_PASSWORD="))
        for side in ("before", "after")
    ]
    assert same[0] == same[1]


def test_the_diff_of_a_changed_dashboard_password_shows_neither_hash(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    old = sensitive(tmp_path, "acme")
    path = tmp_path / "projects" / "acme" / ".env"
    path.write_text(path.read_text().replace(old["DASHBOARD_PASSWORD"], "chosen-by-hand-0123456789"))
    result = only(converge(tmp_path, item("acme"), with_diff=True))
    assert any(entry["after_header"].endswith("envoy.json") for entry in result.diff)
    assert_no_secret(shown([result]), old, "diff")
    assert_no_secret(shown([result]), sensitive(tmp_path, "acme"), "diff")


def test_the_diff_of_changed_keys_shows_neither(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    old = sensitive(tmp_path, "acme")
    other = secrets_of(tmp_path, "beta")
    path = tmp_path / "projects" / "acme" / ".env"
    text = path.read_text()
    for name in ("JWT_SECRET", "ANON_KEY", "SERVICE_ROLE_KEY"):
        text = text.replace(old[name], other[name])
    path.write_text(text)
    result = only(converge(tmp_path, item("acme"), with_diff=True))
    assert_no_secret(shown([result]), old, "diff")
    assert_no_secret(shown([result]), sensitive(tmp_path, "acme"), "diff")


@pytest.mark.parametrize(
    "line", ["GOTRUE_EXTERNAL_GITHUB_SECRET={0}", "MY_PASSWORD={0}", "SMS_API_TOKEN={0}", "AWS_ACCESS_KEY={0}"]
)
def test_the_diff_hides_secrets_added_by_hand(tmp_path: Path, line: str) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    path.write_text(path.read_text() + line.format("canaryvalue") + "\n")
    result = only(converge(tmp_path, item("acme", size="large"), with_diff=True))
    assert result.diff and "canaryvalue" not in shown([result])


def test_the_diff_hides_secrets_within_other_values(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path, secrets = tmp_path / "projects" / "acme" / ".env", secrets_of(tmp_path, "acme")
    path.write_text(path.read_text() + "MY_URL=postgres://me:{0}@db/x\n".format(secrets["POSTGRES_PASSWORD"]))
    result = only(converge(tmp_path, item("acme", size="large"), with_diff=True))
    assert "MY_URL=" in shown([result])
    assert_no_secret(shown([result]), secrets, "diff")


def test_no_diff_unless_asked_for(tmp_path: Path) -> None:
    assert only(converge(tmp_path, item("acme"))).diff == []


def test_results_never_hold_a_secret(tmp_path: Path) -> None:
    results = converge(tmp_path, item("acme", smtp=SMTP, expose=["postgres", "studio"]))
    assert_no_secret(shown(results), {**sensitive(tmp_path, "acme"), "mail": SMTP["password"]}, "result")


@pytest.mark.parametrize("gateway", ["envoy", "kong"])
@pytest.mark.parametrize(
    "new", ["chosen-by-hand-0123456789", 'chosen "by" hand \\ 0123456789'], ids=["plain", "quoted"]
)
def test_no_diff_shows_a_password_that_the_gateways_file_had_or_gets(tmp_path: Path, gateway: str, new: str) -> None:
    declared = item("acme", gateway=gateway, keys={"opaque": True})
    converge(tmp_path, declared)
    old = sensitive(tmp_path, "acme")
    path = tmp_path / "projects" / "acme" / ".env"
    written = new if new.isascii() and " " not in new else json.dumps(new)
    path.write_text(path.read_text().replace(old["DASHBOARD_PASSWORD"], written))
    result = only(converge(tmp_path, declared, with_diff=True))
    assert any(entry["after_header"].endswith(gateway + ".json") for entry in result.diff)
    text = "\n".join(entry[side] for entry in result.diff for side in ("before", "after"))
    assert_no_secret(text, {**old, "new": new, "new in JSON": json.dumps(new)[1:-1]}, "diff")
    assert "by hand" not in text and "by-hand" not in text


def test_the_diff_of_another_gateway_shows_no_secret(tmp_path: Path) -> None:
    keys = {"asymmetric": True, "opaque": True}
    converge(tmp_path, item("acme", gateway="kong", keys=keys))
    values = {**sensitive(tmp_path, "acme"), **{name: env_of(tmp_path, "acme")[name] for name in OPTIONAL_KEYS}}
    result = only(converge(tmp_path, item("acme", keys=keys), with_diff=True))
    assert {"changed volumes/api/envoy.json", "removed volumes/api/kong.json"} <= set(result.actions)
    assert_no_secret(shown([result]), values, "diff")
    assert os.listdir(tmp_path / "projects/acme/volumes/api") == ["envoy.json"]
    result = only(converge(tmp_path, item("acme", gateway="kong", keys=keys), with_diff=True))
    assert {"changed volumes/api/kong.json", "removed volumes/api/envoy.json"} <= set(result.actions)
    assert_no_secret(shown([result]), values, "diff")


# Keys


def keys_of(root: Path) -> Dict[str, str]:
    variables = env_of(root, "acme")
    return {name: variables[name] for name in OPTIONAL_KEYS}


@pytest.mark.parametrize("group", ["opaque", "asymmetric"])
def test_keys_that_are_switched_off_are_kept_and_come_back(tmp_path: Path, group: str) -> None:
    on, off = item("acme", keys={group: True}), item("acme")
    names = [name for name in OPTIONAL_KEYS if name.startswith("SUPABASE_") is (group == "opaque")]
    converge(tmp_path, off)
    before, empty = secrets_of(tmp_path, "acme"), keys_of(tmp_path)
    assert not any(name.startswith("MULTIBASE_UNUSED_") for name in env_of(tmp_path, "acme"))
    converge(tmp_path, on)
    made = keys_of(tmp_path)
    assert all(made[name] != empty[name] for name in names)
    assert {name: made[name] for name in OPTIONAL_KEYS if name not in names} == {
        name: empty[name] for name in OPTIONAL_KEYS if name not in names
    }
    assert set(manifest_of(tmp_path, "acme")["secrets"]) == {*GENERATED, *names}
    assert not only(converge(tmp_path, on)).changed
    converge(tmp_path, off)
    variables = env_of(tmp_path, "acme")
    assert keys_of(tmp_path) == empty
    assert {name: variables["MULTIBASE_UNUSED_" + name] for name in names} == {name: made[name] for name in names}
    assert not only(converge(tmp_path, off)).changed
    result = only(converge(tmp_path, on, with_diff=True))
    assert keys_of(tmp_path) == made, "clients may carry them"
    assert_no_secret(shown([result]), {name: made[name] for name in names}, "diff")
    assert not any(name.startswith("MULTIBASE_UNUSED_") for name in env_of(tmp_path, "acme"))
    after = secrets_of(tmp_path, "acme")
    ours = [name for name in before if name != "PGRST_JWT_SECRET"]
    assert {name: after[name] for name in ours} == {name: before[name] for name in ours}


def test_what_rest_verifies_with_follows_the_keys(tmp_path: Path) -> None:
    for keys, source in (({}, "JWT_SECRET"), ({"asymmetric": True}, "JWT_JWKS"), ({"opaque": True}, "JWT_SECRET")):
        converge(tmp_path, item("acme", keys=keys))
        variables = env_of(tmp_path, "acme")
        assert variables["PGRST_JWT_SECRET"] == variables[source]


@pytest.mark.parametrize(
    "lost",
    [
        ["SUPABASE_SECRET_KEY"], ["SUPABASE_SECRET_KEY", "SUPABASE_PUBLISHABLE_KEY"], ["JWT_JWKS"],
        ["JWT_KEYS", "JWT_JWKS", "ANON_KEY_ASYMMETRIC", "SERVICE_ROLE_KEY_ASYMMETRIC"], ["POSTGRES_PASSWORD"],
    ],
    ids=", ".join,
)  # fmt: skip
def test_lost_secrets_that_are_unused_at_the_moment_are_refused_by_name(tmp_path: Path, lost: List[str]) -> None:
    converge(tmp_path, item("acme", keys={"opaque": True, "asymmetric": True}))
    declared = item("acme", database=ELSEWHERE)
    converge(tmp_path, declared)
    path = tmp_path / "projects" / "acme" / ".env"
    names = ["MULTIBASE_UNUSED_" + name for name in lost]
    lines = path.read_text().splitlines(keepends=True)
    damaged = "".join(line for line in lines if line.partition("=")[0] not in names)
    assert len(damaged.splitlines()) == len(lines) - len(names)
    path.write_text(damaged)
    problem = problems_of(lambda: converge(tmp_path, declared))
    assert str(path) in problem and all(name in problem for name in lost)
    assert path.read_text() == damaged


BAD_KEYS: Dict[str, Any] = {
    "ANON_KEY": ("api_key", lambda role, _secret, now: _secrets.sign_jwt({"role": role, "exp": now + 9}, "x" * 40), {}),
    "SUPABASE_SECRET_KEY": ("opaque_key", lambda prefix: prefix + "A" * 22 + "_canary00", {"opaque": True}),
    "JWT_KEYS": (
        "asymmetric_keys", lambda _secret, now: _keys.asymmetric_keys("another secret of forty characters, or so", now),
        {"asymmetric": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_KEYS))
@pytest.mark.parametrize("existing", [False, True])
def test_a_key_that_does_not_verify_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, existing: bool
) -> None:
    function, replacement, keys = BAD_KEYS[name]
    if existing:
        # What has to be made in an instance that is there are only keys that are switched on.
        if not keys:
            return
        converge(tmp_path, item("acme"), item("other"))
    before = without_locks(snapshot(tmp_path, times=True))
    monkeypatch.setattr(_secrets, function, replacement)
    for check_mode in (True, False):
        with pytest.raises(InvalidInput) as caught:
            converge(tmp_path, item("acme", keys=keys), item("other"), check_mode=check_mode)
        text = str(caught.value)
        assert "instance acme: " in text and name in text and "canary" not in text and "eyJ" not in text
        assert without_locks(snapshot(tmp_path, times=True)) == before
    monkeypatch.undo()
    assert only(converge(tmp_path, item("acme", keys=keys))).changed


def test_without_the_library_for_asymmetric_keys_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converge(tmp_path, item("acme"))
    before = without_locks(snapshot(tmp_path, times=True))
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    problem = problems_of(lambda: converge(tmp_path, item("beta"), item("acme", keys={"asymmetric": True})))
    assert "python3-cryptography" in problem and "instance acme" in problem
    assert without_locks(snapshot(tmp_path, times=True)) == before
    # A host that was only checked may not have it yet.
    checked = only(converge(tmp_path, item("acme", keys={"asymmetric": True}), check_mode=True, with_diff=True))
    assert checked.changed and without_locks(snapshot(tmp_path, times=True)) == before
    assert only(converge(tmp_path, item("acme", keys={"opaque": True}))).changed, "those need no library"


# What would part an instance from its data


def test_data_of_another_version_of_postgres_is_not_started_on(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    (tmp_path / "projects/acme/volumes/db/data/PG_VERSION").write_text("17\n")
    before = without_locks(snapshot(tmp_path, times=True))
    older = item("acme", database={"version": 15})
    for check_mode in (True, False):
        with pytest.raises(InvalidInput) as caught:
            converge(tmp_path, older, item("beta", size="large"), check_mode=check_mode)
        assert one_problem(caught.value.problems, "instance acme", "database.version 15", "version 17")
        assert without_locks(snapshot(tmp_path, times=True)) == before
    # An instance that never ran has no data yet.
    assert only(converge(tmp_path, item("beta", database={"version": 15}))).changed
    (tmp_path / "projects/beta/volumes/db/data/PG_VERSION").write_text("15\n")
    assert not only(converge(tmp_path, item("beta", database={"version": 15}))).changed
    assert "database.version 17" in problems_of(lambda: converge(tmp_path, item("beta")))


S3 = {"access_key_id": "x", "secret_access_key": "y"}


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        ({"bucket": "other"}, "storage.bucket 'other'"), ({"tenant_id": "other"}, "storage.tenant_id 'other'"),
        ({"backend": "s3", "bucket": "files", "s3": S3}, "storage.backend s3"),
    ],
    ids=["bucket", "tenant", "backend"],
)  # fmt: skip
def test_files_that_would_no_longer_be_found_keep_storage_where_it_is(
    tmp_path: Path, storage: Dict[str, Any], named: str
) -> None:
    converge(tmp_path, item("acme"), item("empty"))
    (tmp_path / "projects/acme/volumes/storage/stub").mkdir()
    before = without_locks(snapshot(tmp_path, times=True))
    for check_mode in (True, False):
        with pytest.raises(InvalidInput) as caught:
            converge(tmp_path, item("acme", storage=storage), check_mode=check_mode)
        assert "no longer be found" in one_problem(caught.value.problems, "instance acme", named)
        assert without_locks(snapshot(tmp_path, times=True)) == before
    assert only(converge(tmp_path, item("empty", storage=storage))).changed, "without files it may move"
    assert only(converge(tmp_path, item("acme", storage={"file_size_limit": 5}))).changed


@pytest.mark.parametrize(
    "change", [{"bucket": "other"}, {"tenant_id": "other"}, {"backend": "file", "bucket": "stub"}], ids=repr
)
def test_nobody_can_tell_from_here_that_a_bucket_is_empty(tmp_path: Path, change: Dict[str, Any]) -> None:
    storage = {"backend": "s3", "bucket": "files", "s3": S3}
    converge(tmp_path, item("acme", storage=storage))
    assert "no longer be found" in problems_of(lambda: converge(tmp_path, item("acme", storage={**storage, **change})))
    assert only(converge(tmp_path, item("acme", storage={**storage, "s3": {**S3, "allow_tags": False}}))).changed


ELSEWHERE = {"host": "db.example.com", "password": "canary-password"}


def test_a_database_elsewhere_has_the_password_that_it_has(tmp_path: Path) -> None:
    problem = problems_of(lambda: converge(tmp_path, item("acme", database={"host": "db.example.com"})))
    assert "instance acme" in problem and "database.password" in problem
    result = only(converge(tmp_path, item("acme", database=ELSEWHERE), with_diff=True))
    assert env_of(tmp_path, "acme")["POSTGRES_PASSWORD"] == "canary-password" and "canary" not in shown([result])
    assert not only(converge(tmp_path, item("acme", database=ELSEWHERE))).changed
    # It is kept like any other that is in the .env.
    assert not only(converge(tmp_path, item("acme", database={"host": "db.example.com"}))).changed
    changed = {**ELSEWHERE, "password": "another-canary"}
    result = only(converge(tmp_path, item("acme", database=changed), with_diff=True))
    assert env_of(tmp_path, "acme")["POSTGRES_PASSWORD"] == "another-canary" and "canary" not in shown([result])
    assert result.warnings == []


def test_the_password_of_its_own_database_comes_back_with_it(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    (tmp_path / "projects/acme/volumes/db/data/PG_VERSION").write_text("17\n")
    own = env_of(tmp_path, "acme")["POSTGRES_PASSWORD"]
    problem = problems_of(lambda: converge(tmp_path, item("acme", database={"host": "db.example.com"})))
    assert "database.password" in problem, "the generated one is not that of a database elsewhere"
    result = only(converge(tmp_path, item("acme", database=ELSEWHERE), with_diff=True))
    assert env_of(tmp_path, "acme")["POSTGRES_PASSWORD"] == "canary-password"
    assert own not in shown([result]) and "canary" not in shown([result])
    converge(tmp_path, item("acme", database={**ELSEWHERE, "password": "another-canary"}))
    assert not only(converge(tmp_path, item("acme", database={"host": "db.example.com"}))).changed
    result = only(converge(tmp_path, item("acme"), with_diff=True))
    assert env_of(tmp_path, "acme")["POSTGRES_PASSWORD"] == own
    assert own not in shown([result]) and "canary" not in shown([result]) and result.warnings == []
    assert "canary" not in (tmp_path / "projects/acme/.env").read_text()
    assert not only(converge(tmp_path, item("acme"))).changed
    # One that began with a database elsewhere gets a password of its own with a database of its own.
    converge(tmp_path, item("beta", database=ELSEWHERE))
    converge(tmp_path, item("beta"))
    assert len(env_of(tmp_path, "beta")["POSTGRES_PASSWORD"]) == 32


def test_a_database_in_the_instance_keeps_its_password_and_name(tmp_path: Path) -> None:
    # The roles in it have the password that they were made with, and the data is in the database of that name.
    converge(tmp_path, item("acme"))
    (tmp_path / "projects/acme/volumes/db/data/PG_VERSION").write_text("17\n")
    before = env_of(tmp_path, "acme")
    for database in ({"password": "canary-password"}, {"name": "other"}):
        try:
            converge(tmp_path, item("acme", database=database))
        except InvalidInput as error:
            assert "instance acme" in str(error) and "database" in str(error) and "canary" not in str(error)
        after = env_of(tmp_path, "acme")
        for name in ("POSTGRES_PASSWORD", "POSTGRES_DB"):
            assert after[name] == before[name], (database, name)


# What the host can bear


def host(memory: int, cpus: int = 4, cpu_factor: float = 0, memory_factor: float = 1) -> Dict[str, Any]:
    return {"capacity": Capacity(cpus=cpus, memory=memory, cpu_factor=cpu_factor, memory_factor=memory_factor)}


def test_a_host_is_not_promised_more_than_it_may_be(tmp_path: Path) -> None:
    converge(tmp_path, item("a"), item("b"), **host(8192))
    before = without_locks(snapshot(tmp_path, times=True))
    for items in (
        [item("c", size="small")],
        [item("a", size="large")],
        [item("a"), item("b", size="large"), item("c")],
    ):
        for check_mode in (True, False):
            problem = problems_of(lambda i=items, c=check_mode: converge(tmp_path, *i, **host(8192), check_mode=c))
            first, heading, *rows = problem.splitlines()
            assert "overcommit_memory" in first and heading.split() == ["INSTANCE", "CPUS", "MEMORY"]
            # Those that are not in this run count too.
            assert {row.split()[0] for row in rows} == {"a", "b", "all", *[entry["name"] for entry in items]}
            assert without_locks(snapshot(tmp_path, times=True)) == before
    assert ("new" in problem) and not any("new" in row for row in rows if row.startswith(("a ", "b ")))
    converge(tmp_path, item("c", size="small"), **host(8192, memory_factor=1.25))
    converge(tmp_path, item("d", size="large"), **host(8192, memory_factor=0))


def test_processors_count_as_well(tmp_path: Path) -> None:
    problem = problems_of(lambda: converge(tmp_path, item("a"), item("b"), **host(99999, cpus=1, cpu_factor=3)))
    assert "processors: 4 wanted, 1 there, which may be promised 3 times (3)" in problem
    converge(tmp_path, item("a"), item("b", size={"cpus": 1, "memory": "4g"}), **host(99999, cpus=1, cpu_factor=3))


def test_a_host_that_is_promised_too_much_can_still_be_worked_on(tmp_path: Path) -> None:
    converge(tmp_path, item("a", size="large"), item("b", size="large"))
    little = host(4096)
    assert not any(
        result.changed for result in converge(tmp_path, item("a", size="large"), item("b", size="large"), **little)
    )
    assert only(converge(tmp_path, item("a", size="large", health_interval="5s"), **little)).changed
    assert only(converge(tmp_path, item("a", size="medium"), **little)).changed, "smaller"
    assert "memory" in problems_of(lambda: converge(tmp_path, item("a", size="large"), **little)), "larger again"
    gone = item("b", state="absent")
    engine = Engine(FakeDocker())
    assert only(converge(tmp_path, gone, confirmed=frozenset({"b"}), engine=engine, **little)).changed


def test_one_that_goes_makes_room_for_another(tmp_path: Path) -> None:
    converge(tmp_path, item("old", size="large"), **host(8192))
    converge(
        tmp_path, item("new", size="large"), item("old", state="absent"),
        confirmed=frozenset({"old"}), engine=Engine(FakeDocker()), **host(8192),
    )  # fmt: skip
    assert set(registry_of(tmp_path)) == {"new"}


def test_a_damaged_instance_does_not_keep_others_from_being_made(tmp_path: Path) -> None:
    converge(tmp_path, item("a"), item("b"))
    (tmp_path / "projects/a/instance.json").write_text("{")
    assert only(converge(tmp_path, item("c"), **host(8192))).changed


# Instances of earlier versions


# What 0.1.0 did not write yet, measured with it.
NEW_VARIABLES = (
    "ANALYTICS_PUBLISHED_PORT", "DOCKER_SOCKET_LOCATION", "IMGPROXY_MAX_SRC_RESOLUTION", "KONG_HTTPS_PORT",
    "LOGFLARE_PRIVATE_ACCESS_TOKEN", "LOGFLARE_PUBLIC_ACCESS_TOKEN", "MULTIBASE_CONFIG_VECTOR", "POSTGRES_HOST",
    "POSTGRES_PORT", "STORAGE_S3_ACCESS_KEY_ID", "STORAGE_S3_ALLOW_TAGS", "STORAGE_S3_ENDPOINT",
    "STORAGE_S3_FORCE_PATH_STYLE", "STORAGE_S3_SECRET_ACCESS_KEY",
)  # fmt: skip
NEW_VARIABLE = re.compile(r"MULTIBASE_(CPU_SHARES_|\w+_(ANALYTICS|PGBOUNCER|VECTOR)\Z)")
NEW_FIELDS = ("blueprint", "env", "environment", "labels", "overlays", "resources", "user_secrets")
OLD_OVERLAYS = {"overlays/expose-postgres.yml", "overlays/expose-studio.yml", "overlays/start-interval.yml"}


def age(root: Path, name: str) -> None:
    """Make of an instance what the first version of Multibase would have written."""
    project = root / "projects" / name
    manifest = manifest_of(root, name)

    def is_new(variable: str) -> bool:
        return variable in NEW_VARIABLES or bool(NEW_VARIABLE.match(variable))

    env = project / ".env"
    lines = env.read_text().splitlines(keepends=True)
    assert sum(is_new(line.partition("=")[0]) for line in lines) > 30
    env.write_text("".join(line for line in lines if not is_new(line.partition("=")[0])))
    for field in NEW_FIELDS:
        del manifest[field]
    for path in list(manifest["managed"]):
        directory = os.path.dirname(path)
        if directory == "volumes/logs" or (directory == "overlays" and path not in OLD_OVERLAYS):
            manifest["managed"].remove(path)
            (project / path).unlink()
    for directory in ("env", "volumes/logs"):
        (project / directory).rmdir()
    manifest["variables"] = [variable for variable in manifest["variables"] if not is_new(variable)]
    manifest["secrets"] = {key: value for key, value in manifest["secrets"].items() if not is_new(key)}
    path = project / "instance.json"
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("password", ["", "canary of mail"])
def test_an_instance_of_an_earlier_version_is_brought_up_without_loss(
    tmp_path: Path, keep: bool, password: str
) -> None:
    declared = item("acme", size="large", smtp={"host": "m", "password": password} if password else {})
    converge(tmp_path, declared, item("beta"))
    age(tmp_path, "acme")
    project = tmp_path / "projects" / "acme"
    env = project / ".env"
    env.write_text(env.read_text().replace("OPENAI_API_KEY=\n", "OPENAI_API_KEY=by-hand\n") + "# mine\nMINE=1\n")
    (project / "volumes/db/data/PG_VERSION").write_text("17\n")
    (project / "volumes/storage/stub").mkdir()
    before, row = env_of(tmp_path, "acme"), registry_of(tmp_path)["acme"]
    again = item("acme") if keep else declared
    checked = only(converge(tmp_path, again, keep_unmentioned=keep, check_mode=True, with_diff=True))
    result = only(converge(tmp_path, again, keep_unmentioned=keep, with_diff=True))
    assert checked.as_dict()["actions"] == result.actions and result.changed and result.warnings == []
    after = env_of(tmp_path, "acme")
    assert {name: after[name] for name in before if "_CONFIG_" not in name} == {
        name: value for name, value in before.items() if "_CONFIG_" not in name
    }
    assert len(after["LOGFLARE_PUBLIC_ACCESS_TOKEN"]) >= 32 and len(after["LOGFLARE_PRIVATE_ACCESS_TOKEN"]) >= 32
    assert registry_of(tmp_path)["acme"] == row
    assert env.read_text().endswith("\n# mine\nMINE=1\n")
    assert_no_secret(shown([result]), {**sensitive(tmp_path, "acme"), "by hand": "by-hand"}, "diff")
    assert not only(converge(tmp_path, again, keep_unmentioned=keep)).changed
    assert env_of(tmp_path, "acme") == after
    # Nothing was promised anew, so a host that is full is none the worse.
    age(tmp_path, "beta")
    assert only(converge(tmp_path, item("beta"), **host(1024))).changed


def test_killed_while_an_instance_is_brought_up(tmp_path: Path) -> None:
    def prepare(root: Path) -> None:
        converge(root, item("acme", smtp=SMTP))
        age(root, "acme")

    new = item("acme", smtp=SMTP, secrets={"functions": {"STRIPE_KEY": "x"}}, keys={"opaque": True})

    def check(root: Path, _before: Dict[str, Any], _found: Dict[str, Any]) -> None:
        assert not only(converge(root, new)).changed

    sweep(tmp_path, prepare, lambda root: converge(root, new), check, least=20)


# Ports and networks in use


def listening(port: int, family: int = socket.AF_INET, address: str = "127.0.0.1") -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen()
    return listener


def free_base() -> int:
    """A base of three blocks that nothing listens on."""
    for base in range(21000, 32000, 30):
        try:
            for port in range(base, base + 30):
                listening(port, address="0.0.0.0").close()
        except OSError:
            continue
        return base
    raise AssertionError("no free ports on this machine")


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]
)
def test_a_port_with_a_listener_is_skipped(tmp_path: Path, family: int, address: str) -> None:
    base = free_base()
    ports = parse_port_range("{0}-{1}".format(base, base + 29))
    try:
        listener = listening(base + 7, family, address)
    except OSError as error:
        # A machine without IPv6 has no such listeners.
        assert family == socket.AF_INET6, error
        return
    with listener:
        result = only(converge(tmp_path, item("acme"), ports=ports, real_host=True))
        assert result.ports["gateway_http"] == base + 10
        problem = problems_of(lambda: converge(tmp_path, item("beta", port_base=base), ports=ports, real_host=True))
        assert "instance beta" in problem and str(base + 7) in problem


def test_ports_of_running_and_stopped_containers_are_skipped(tmp_path: Path) -> None:
    docker = FakeDocker()
    docker.add("foreign", "web", Ports=[{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 20003, "Type": "tcp"}])
    stopped = docker.add("foreign", "old", state="exited", status="Exited (0) 3 days ago")
    docker.inspected[stopped["Id"]] = {
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20015"}], "81/tcp": None}},
    }
    created = docker.add("foreign", "new", state="created", status="Created")
    docker.inspected[created["Id"]] = {
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "20029"}]}}
    }
    gone = docker.add("foreign", "gone", state="exited", status="Exited")
    assert gone["Id"] not in docker.inspected
    result = only(converge(tmp_path, item("acme"), engine=Engine(docker)))
    assert result.ports["gateway_http"] == 20030
    problem = problems_of(lambda: converge(tmp_path, item("beta", port_base=20010), engine=Engine(docker)))
    assert "instance beta" in problem and "20015" in problem and "foreign-old-1" in problem


@pytest.mark.parametrize(
    "line",
    [
        "KONG_HTTP_PORT=20004", "API_GW_HTTP_PORT=127.0.0.1:20004", 'POSTGRES_PORT="20004"', "STUDIO_PORT='20004'",
        "  KONG_HTTPS_PORT = 20004  ", "POOLER_PROXY_PORT_TRANSACTION=20004\r", "KONG_HTTP_PORT=20004 # the gateway",
        "export KONG_HTTP_PORT=20004",
    ],
)  # fmt: skip
def test_ports_in_another_projects_env_are_skipped(tmp_path: Path, line: str) -> None:
    foreign = tmp_path / "projects" / "foreign"
    foreign.mkdir(parents=True)
    (foreign / ".env").write_text("# comment\nA=1\n{0}\nB=2\n".format(line), newline="")
    assert only(converge(tmp_path, item("acme"))).ports["gateway_http"] == 20010
    assert not only(converge(tmp_path, item("acme"))).changed


def test_networks_of_the_engine_are_avoided(tmp_path: Path) -> None:
    docker = FakeDocker()
    docker.network_rows = [
        {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.213.0.0/25"}, {"Subnet": "fd00::/64"}]}},
        {"Name": "y", "IPAM": {"Config": None}}, {"Name": "host", "IPAM": None}, {"Name": "z"},
    ]  # fmt: skip
    converge(tmp_path, item("acme"), item("beta"), engine=Engine(docker))
    assert [row["subnet"] for row in registry_of(tmp_path).values()] == ["10.213.0.128/26", "10.213.0.192/26"]


def test_a_wanted_block_goes_before_the_others(tmp_path: Path) -> None:
    converge(tmp_path, item("first"), item("wanting", port_base=20000), item("far", port_base=40000))
    bases = {name: row["port_base"] for name, row in registry_of(tmp_path).items()}
    assert bases == {"first": 20010, "wanting": 20000, "far": 40000}
    assert "instance late" in problems_of(lambda: converge(tmp_path, item("late", port_base=20000)))
    problem = problems_of(lambda: converge(tmp_path, item("first", port_base=20050)))
    assert "instance first" in problem and "20050" in problem and "20010" in problem
    assert converge(tmp_path, item("first", port_base=20010))[0].ports["gateway_http"] == 20010


def test_when_the_range_or_the_pool_is_full_nothing_is_written(tmp_path: Path) -> None:
    items = [item("a"), item("b"), item("c")]
    for changes in ({"ports": parse_port_range("20000-20019")}, {"subnet_pool": parse_pool("10.213.0.0/25")}):
        problem = problems_of(lambda changes=changes: converge(tmp_path, *items, **changes))
        assert "instance c" in problem
        assert not (tmp_path / "registry.json").exists() and not (tmp_path / "projects").exists()


def test_many_processes_get_disjoint_blocks(tmp_path: Path) -> None:
    children = []
    for letter in "xy":
        child = os.fork()
        if child == 0:
            code = 1
            try:
                converge(tmp_path, *[item("{0}{1}".format(letter, number)) for number in range(20)], lock_timeout=60)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    rows = registry_of(tmp_path)
    assert len(rows) == 40
    assert sorted(row["port_base"] for row in rows.values()) == list(range(20000, 20400, 10))
    assert len({row["subnet"] for row in rows.values()}) == 40
    passwords = {secrets_of(tmp_path, name)["POSTGRES_PASSWORD"] for name in rows}
    assert len(passwords) == 40 and leftovers(tmp_path) == []


def test_the_same_name_from_two_processes_has_one_creator(tmp_path: Path) -> None:
    reports = []
    for _index in range(2):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.write(writer, str(converge(tmp_path, item("acme"))[0].changed).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        reports.append((child, reader))
    answers = []
    for child, reader in reports:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        answers.append(os.read(reader, 10))
        os.close(reader)
    assert sorted(answers) == [b"False", b"True"]


# What is damaged is refused, not made anew


GENERATED = [
    "POSTGRES_PASSWORD", "JWT_SECRET", "ANON_KEY", "SERVICE_ROLE_KEY", "DASHBOARD_PASSWORD", "SECRET_KEY_BASE",
    "REALTIME_DB_ENC_KEY", "VAULT_ENC_KEY", "PG_META_CRYPTO_KEY", "S3_PROTOCOL_ACCESS_KEY_ID",
    "S3_PROTOCOL_ACCESS_KEY_SECRET", "LOGFLARE_PUBLIC_ACCESS_TOKEN", "LOGFLARE_PRIVATE_ACCESS_TOKEN",
]  # fmt: skip
OPTIONAL_KEYS = [
    "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "JWT_KEYS", "JWT_JWKS", "ANON_KEY_ASYMMETRIC",
    "SERVICE_ROLE_KEY_ASYMMETRIC",
]  # fmt: skip


@pytest.mark.parametrize("name", [*GENERATED, *OPTIONAL_KEYS])
@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_lost_secret_is_refused_by_name(tmp_path: Path, name: str, how: str) -> None:
    converge(tmp_path, item("acme", keys={"asymmetric": True, "opaque": True}))
    path, values = tmp_path / "projects" / "acme" / ".env", secrets_of(tmp_path, "acme")
    line = "{0}={1}\n".format(name, env_of(tmp_path, "acme")[name])
    assert "\n" + line in path.read_text()
    damaged = path.read_text().replace("\n" + line, "\n" if how == "removed" else "\n{0}=\n".format(name))
    path.write_text(damaged)
    for check_mode in (True, False):
        problem = problems_of(lambda mode=check_mode: converge(tmp_path, item("acme"), check_mode=mode))
        assert "acme" in problem and name in problem and str(path) in problem
        assert_no_secret(problem, values, "message")
    assert path.read_text() == damaged


def truncations(size: int) -> List[int]:
    return [0, 1, *range(7, size - 1, 97), size - 2]


def test_a_truncated_env_is_refused_or_nothing_is_lost(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", smtp=SMTP))
    path = tmp_path / "projects" / "acme" / ".env"
    whole, values = path.read_bytes(), secrets_of(tmp_path, "acme")
    mail = whole.index(b"SMTP_PASS=")
    refused = 0
    for size in [*truncations(len(whole)), mail, mail + 10, mail + 14, mail + 20]:
        path.write_bytes(whole[:size])
        try:
            converge(tmp_path, item("acme"), keep_unmentioned=True)
        except MultibaseError as error:
            refused += 1
            assert "acme" in str(error) and str(path) in str(error)
            assert_no_secret(str(error), values, "message")
            assert path.read_bytes() == whole[:size], "nothing was written"
        else:
            assert secrets_of(tmp_path, "acme") == values, "cut after {0} of {1} bytes".format(size, len(whole))
        path.write_bytes(whole)
    assert refused > 10


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x00" * 100, b"\xff\xfe", b"\xef\xbb\xbfA=1\n", b"garbage\n"],
    ids=["empty", "NUL", "no UTF-8", "byte order mark", "garbage"],
)
def test_a_damaged_env_is_refused(tmp_path: Path, damage: bytes) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    path = tmp_path / "projects" / "acme" / ".env"
    path.write_bytes(damage)
    problem = problems_of(lambda: converge(tmp_path, item("acme")))
    assert "acme" in problem and str(path) in problem
    assert path.read_bytes() == damage
    assert not only(converge(tmp_path, item("beta"))).changed


def test_a_missing_env_is_refused(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects" / "acme" / ".env"
    path.unlink()
    assert str(path) in problems_of(lambda: converge(tmp_path, item("acme")))
    assert not path.exists()


@pytest.mark.parametrize("kind", ["directory", "file", "link", "broken link", "filled"])
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    projects, elsewhere = tmp_path / "root" / "projects", tmp_path / "elsewhere"
    projects.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "shadow").write_text("precious")
    evil = projects / "evil"
    if kind == "directory":
        evil.mkdir()
    elif kind == "file":
        evil.write_text("x")
    elif kind == "filled":
        evil.mkdir()
        (evil / ".env").write_text("POSTGRES_PASSWORD=x\n")
    else:
        evil.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    before = snapshot(tmp_path)
    for state in ("present", "absent"):
        problem = problems_of(
            lambda state=state: converge(tmp_path / "root", item("evil", state), confirmed=frozenset({"evil"}))
        )
        assert "instance evil" in problem and str(evil) in problem
    after = snapshot(tmp_path)
    assert {path: row for path, row in after.items() if "/state" not in "/" + path} == before


def test_one_refused_instance_stops_the_others_before_the_first_write(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    (tmp_path / "projects" / "acme" / ".env").write_text("")
    (tmp_path / "projects" / "beta").mkdir()
    before = without_locks(snapshot(tmp_path, times=True))
    with pytest.raises(InvalidInput) as caught:
        converge(tmp_path, item("new"), item("acme"), item("beta"))
    assert len(caught.value.problems) == 2, "both at once"
    assert without_locks(snapshot(tmp_path, times=True)) == before


# Deleting


def test_deleting_needs_the_name_again(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    before = without_locks(snapshot(tmp_path, times=True))
    for confirmed in (frozenset(), frozenset({"beta"}), frozenset({"ACME", "acme "})):
        problem = problems_of(lambda names=confirmed: converge(tmp_path, item("acme", state="absent"), confirmed=names))
        assert "instance acme" in problem and "confirmed" in problem
    assert without_locks(snapshot(tmp_path, times=True)) == before


def test_deleting_takes_its_own_things_only(tmp_path: Path) -> None:
    converge(tmp_path, item("app"), item("app2"))
    (tmp_path / "state" / "app.json").write_text("{}")
    (tmp_path / "state" / "app2.json").write_text("{}")
    (tmp_path / "backups" / "app").mkdir(parents=True)
    other = {path: row for path, row in snapshot(tmp_path).items() if "app2" in path}
    with pytest.raises(InvalidInput, match="no Docker Engine answers"):
        converge(tmp_path, item("app", state="absent"), confirmed=frozenset({"app"}))
    engine = Engine(FakeDocker())
    result = only(converge(tmp_path, item("app", state="absent"), confirmed=frozenset({"app"}), engine=engine))
    assert result.changed and result.state == "absent" and result.actions == ["deleted"]
    after = snapshot(tmp_path)
    assert {path: row for path, row in after.items() if "app2" in path} == other
    assert not (tmp_path / "projects" / "app").exists() and not (tmp_path / "state" / "app.json").exists()
    assert set(registry_of(tmp_path)) == {"app2"} and (tmp_path / "backups" / "app").is_dir()
    again = only(converge(tmp_path, item("app", state="absent"), confirmed=frozenset({"app"})))
    assert not again.changed and again.actions == []


@pytest.mark.parametrize("kind", ["container", "stopped container", "network", "volume", "container by label only"])
def test_deleting_is_refused_while_the_engine_has_something(tmp_path: Path, kind: str) -> None:
    converge(tmp_path, item("app"), item("app2"))
    docker = FakeDocker()
    labels = {"com.docker.compose.project": "multibase-app", "io.multibase.instance": "app"}
    if kind == "container":
        docker.add("multibase-app", "db")
    elif kind == "stopped container":
        docker.add("multibase-app", "db", state="exited", status="Exited")
    elif kind == "container by label only":
        docker.add("elsewhere", "scratch", instance="app")
    elif kind == "network":
        docker.network_rows.append({"Name": "multibase-app_default", "Labels": labels})
    else:
        docker.volume_rows.append({"Name": "multibase-app_db-config", "Labels": labels})
    before = without_locks(snapshot(tmp_path))
    problem = problems_of(
        lambda: converge(tmp_path, item("app", state="absent"), confirmed=frozenset({"app"}), engine=Engine(docker))
    )
    assert "instance app" in problem and kind.split(" ")[-1 if kind.startswith("stopped") else 0] in problem
    assert without_locks(snapshot(tmp_path)) == before
    # What belongs to app is nothing to app2.
    assert only(
        converge(tmp_path, item("app2", state="absent"), confirmed=frozenset({"app2"}), engine=Engine(docker))
    ).changed


def test_a_deleted_instances_block_is_free_again_and_its_secrets_gone(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    values = secrets_of(tmp_path, "acme")
    converge(tmp_path, item("acme", state="absent"), confirmed=frozenset({"acme"}))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert_no_secret(path.read_text(errors="replace"), values, str(path))
    converge(tmp_path, item("acme"))
    assert registry_of(tmp_path)["acme"]["port_base"] == 20000
    assert not set(secrets_of(tmp_path, "acme").values()) & set(values.values())


def test_an_instance_with_a_damaged_env_can_be_deleted(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    (tmp_path / "projects" / "acme" / ".env").write_text("")
    assert only(converge(tmp_path, item("acme", state="absent"), confirmed=frozenset({"acme"}))).changed


# The Engine's version


@pytest.mark.parametrize(
    ("version", "listed"), [("20.10.24", False), ("24.0.9", False), ("25.0.0", True), ("29.1.2", True)]
)
def test_start_interval_only_where_the_engine_knows_it(tmp_path: Path, version: str, listed: bool) -> None:
    engine = Engine(FakeDocker(version))
    converge(tmp_path, item("acme"), engine=engine)
    assert ("start-interval" in env_of(tmp_path, "acme")["COMPOSE_FILE"]) is listed
    assert not only(converge(tmp_path, item("acme"), engine=engine)).changed
    # An Engine that is not there at the moment changes nothing.
    assert not only(converge(tmp_path, item("acme"), engine=None)).changed


# Killed anywhere


def rows(root: Path) -> Dict[str, Any]:
    """What an instance must never lose, from its own files."""
    found = {}
    for name in sorted(os.listdir(root / "projects")) if (root / "projects").is_dir() else []:
        if not name.startswith("."):
            env = env_of(root, name)
            found[name] = (manifest_of(root, name)["port_base"], env["MULTIBASE_SUBNET"], secrets_of(root, name))
    return found


def prepared(tmp_path: Path, prepare: Callable[[Path], Any]) -> Tuple[Path, Callable[[], None]]:
    """Prepare a root, and return it with a function that brings it back to that state (its path is in its files)."""
    root, copy = tmp_path / "root", tmp_path / "copy"
    root.mkdir()
    prepare(root)
    shutil.copytree(root, copy, symlinks=True)

    def reset() -> None:
        shutil.rmtree(root)
        shutil.copytree(copy, root, symlinks=True)

    return root, reset


def sweep(
    tmp_path: Path,
    prepare: Callable[[Path], Any],
    work: Callable[[Path], Any],
    after: Callable[[Path, Dict[str, Any], Dict[str, Any]], None],
    least: int,
) -> None:
    """Kill ``work`` before each of its operations, run it again undisturbed, and check.

    ``after`` gets the root, what was published before the kill and what was published right after it.
    """
    trial, reset = prepared(tmp_path, prepare)
    before = rows(trial)
    names = count_operations(lambda: work(trial))
    assert len(names) >= least and {"rename", "sync_filesystem"} <= set(names)
    complete = set(snapshot(trial))
    for number in range(1, len(names) + 1):
        reset()
        killed_at(number, lambda: work(trial))
        found = rows(trial)
        work(trial)
        where = "killed before operation {0} of {1} ({2})".format(number, len(names), names[number - 1])
        assert leftovers(trial) == [], where
        assert set(snapshot(trial)) == complete, where
        published = rows(trial)
        index = registry_of(trial)
        assert {name: (row["port_base"], row["subnet"]) for name, row in index.items()} == {
            name: entry[:2] for name, entry in published.items()
        }, where
        assert len({row["port_base"] for row in index.values()}) == len(index), where
        for name, entry in {**before, **found}.items():
            if name in published:
                assert published[name][:2] == entry[:2], where
                kept = {key: value for key, value in entry[2].items() if key in GENERATED}
                assert {key: published[name][2][key] for key in kept} == kept, where
        after(trial, before, found)


def nothing_more(_root: Path, _before: Dict[str, Any], _found: Dict[str, Any]) -> None:
    return


def test_killed_while_creating(tmp_path: Path) -> None:
    def check(root: Path, before: Dict[str, Any], found: Dict[str, Any]) -> None:
        assert set(before) <= set(found)
        assert not any(
            result.changed for result in converge(root, item("acme"), item("beta"), item("gamma", **EVERYTHING))
        )

    sweep(
        tmp_path,
        lambda root: converge(root, item("acme")),
        lambda root: converge(root, item("acme"), item("beta"), item("gamma", **EVERYTHING)),
        check,
        least=50,
    )


def test_killed_while_creating_the_very_first(tmp_path: Path) -> None:
    sweep(tmp_path, lambda _root: None, lambda root: converge(root, item("acme")), nothing_more, least=30)


def test_killed_while_changing(tmp_path: Path) -> None:
    variables = {"auth": {"OLD": "x"}, "functions": {"FLAGS": "old"}}
    old = item("acme", smtp=SMTP, env=variables, secrets={"functions": {"STRIPE_KEY": "first"}})
    new = item(
        "acme", smtp={**SMTP, "password": "second"}, public_url="https://x.example", size="large", gateway="kong",
        secrets={"functions": {"STRIPE_KEY": "second"}, "meta": {"X_KEY": "new"}}, keys={"opaque": True},
    )  # fmt: skip

    def check(root: Path, _before: Dict[str, Any], found: Dict[str, Any]) -> None:
        assert set(found) == {"acme", "beta"}
        assert env_of(root, "acme")["SMTP_PASS"] == "second"
        assert env_of(root, "acme", "functions") == {"STRIPE_KEY": "second"}
        assert env_of(root, "acme", "meta") == {"X_KEY": "new"}
        assert sorted(os.listdir(root / "projects/acme/env")) == ["functions.env", "meta.env"]
        assert os.listdir(root / "projects/acme/volumes/api") == ["kong.json"]
        assert not any(result.changed for result in converge(root, new, item("beta")))

    sweep(
        tmp_path,
        lambda root: converge(root, old, item("beta")),
        lambda root: converge(root, new, item("beta")),
        check,
        least=10,
    )


def test_killed_while_changing_and_then_changed_back(tmp_path: Path) -> None:
    old = item("acme", secrets={"functions": {"STRIPE_KEY": "first"}})
    new = item("acme", public_url="https://x.example", size="large", env={"auth": {"X": "y"}}, gateway="kong")
    trial, reset = prepared(tmp_path, lambda root: converge(root, old))
    before = without_locks(snapshot(trial))
    total = len(count_operations(lambda: converge(trial, new)))
    for number in range(1, total + 1):
        reset()
        killed_at(number, lambda: converge(trial, new))
        converge(trial, old)
        after = without_locks(snapshot(trial))
        assert changed_paths(before, after) == [], "killed before operation {0}".format(number)


def smaller_release() -> Dict[str, Any]:
    files = {path: text for path, text in bundle()["files"].items() if path != "overlays/expose-studio.yml"}
    return {"0.8.2": release_from_bundle("0.8.2", {"definition": bundle()["definition"], "files": files})}


def test_a_file_that_a_release_no_longer_has_is_removed(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    result = only(converge(tmp_path, item("acme"), releases=smaller_release()))
    assert result.changed and "removed overlays/expose-studio.yml" in result.actions
    assert not (tmp_path / "projects/acme/overlays/expose-studio.yml").exists()
    assert not only(converge(tmp_path, item("acme"), releases=smaller_release())).changed


def test_killed_while_changing_the_release(tmp_path: Path) -> None:
    sweep(
        tmp_path,
        lambda root: converge(root, item("acme")),
        lambda root: converge(root, item("acme"), releases=smaller_release()),
        nothing_more,
        least=5,
    )


def test_killed_while_deleting(tmp_path: Path) -> None:
    def prepare(root: Path) -> None:
        converge(root, item("acme"), item("beta"))
        (root / "state" / "acme.json").write_text("{}")

    def work(root: Path) -> None:
        absent = item("acme", state="absent")
        converge(root, absent, item("beta"), confirmed=frozenset({"acme"}), engine=Engine(FakeDocker()))

    def check(root: Path, before: Dict[str, Any], _found: Dict[str, Any]) -> None:
        published = rows(root)
        assert set(published) == {"beta"} and published["beta"] == before["beta"]
        assert not (root / "state" / "acme.json").exists(), "what was known of the old one is not the new one's"

    trial, reset = prepared(tmp_path, prepare)
    before = rows(trial)
    names = count_operations(lambda: work(trial))
    assert len(names) > 20
    for number in range(1, len(names) + 1):
        reset()
        killed_at(number, lambda: work(trial))
        found = rows(trial)
        assert "beta" in found
        work(trial)
        check(trial, before, found)
        assert leftovers(trial) == [] and set(registry_of(trial)) == {"beta"}


@pytest.mark.parametrize("name", ["rename", "mkdir", "write", "fsync"])
def test_an_error_of_the_filesystem_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    converge(tmp_path, item("acme"))
    before = rows(tmp_path)
    original = getattr(os, name)
    left = [2]

    def failing(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        return original(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, failing)
        try:
            converge(tmp_path, item("acme", size="large"), item("beta"))
        except OSError as error:
            assert error.errno == 28
    assert rows(tmp_path)["acme"][0] == before["acme"][0]
    converge(tmp_path, item("acme"), item("beta"))
    assert rows(tmp_path)["acme"] == before["acme"] and leftovers(tmp_path) == []


def test_a_run_that_waits_too_long_says_for_what(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "locks" / "_registry.lock"
    with exclusive(str(lock), 0):
        problem = problems_of(lambda: converge(tmp_path, item("acme"), lock_timeout=0))
    assert str(lock) in problem and not (tmp_path / "projects").exists()


def test_the_engine_is_asked_once_for_a_hundred_instances(tmp_path: Path) -> None:
    docker = FakeDocker()
    factory: List[Optional[Engine]] = []

    def engine() -> Engine:
        factory.append(None)
        return Engine(docker)

    with quiet_host():
        Converger(request(tmp_path), engine).run([item("i{0}".format(number)) for number in range(100)])
    assert len(factory) == 1 and docker.calls.count("containers") == 1


def test_damaged_manifests_are_not_guessed(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    (tmp_path / "projects/acme/instance.json").write_text("{")
    with pytest.raises((InvalidInput, StateCorrupt)):
        converge(tmp_path, item("acme"))
    assert (tmp_path / "projects/acme/instance.json").read_text() == "{"


@pytest.mark.parametrize("lost", ["volumes/db/data", "volumes/db/custom", "volumes/storage"])
def test_lost_data_is_not_made_anew(tmp_path: Path, lost: str) -> None:
    converge(tmp_path, item("acme"))
    directory = tmp_path / "projects" / "acme" / lost
    directory.rmdir()
    with pytest.raises(InvalidInput, match="is missing: put it back"):
        converge(tmp_path, item("acme", size="large"))
    assert not directory.exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    main = tmp_path / "projects" / "acme" / "volumes" / "functions" / "main"
    (main / "index.ts").unlink()
    main.rmdir()
    main.symlink_to(elsewhere)
    with pytest.raises(InvalidInput, match="symbolic link"):
        converge(tmp_path, item("acme", size="large"))
    assert list(elsewhere.iterdir()) == []


def test_an_instance_on_a_disk_of_its_own_is_not_deleted(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    place = tmp_path / "projects" / "acme"
    place.rename(tmp_path / "other-disk")
    place.symlink_to(tmp_path / "other-disk")
    with pytest.raises(InvalidInput, match="a link or a file system of its own"):
        converge(tmp_path, item("acme", state="absent"), confirmed=frozenset({"acme"}), engine=Engine(FakeDocker()))
    assert (tmp_path / "other-disk" / "instance.json").exists()
    assert not converge(tmp_path, item("beta"))[0].warnings


def test_deleting_waits_for_who_works_on_the_instance(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    held = exclusive(str(tmp_path / "state" / "locks" / "acme.lock"), 1)
    with held, pytest.raises(LockTimeout):
        converge(
            tmp_path,
            item("acme", state="absent"),
            confirmed=frozenset({"acme"}),
            engine=Engine(FakeDocker()),
            lock_timeout=0.2,
        )
    assert (tmp_path / "projects" / "acme" / "instance.json").exists()
