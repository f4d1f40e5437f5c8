# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies over what, and what a host is asked to bear, where several instances and layers meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _jwt
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, LibraryMissing
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import Capacity
from unit.support import converge, env_of, item, manifest_of


@pytest.mark.parametrize(
    ("below", "own"),
    [
        ({"smtp": {"password": "below"}}, {"secrets": {"SMTP_PASS": "own"}}),
        ({"secrets": {"SMTP_PASS": "below"}}, {"smtp": {"password": "own"}}),
        ({"secrets": {"SMTP_PASS": "below"}}, {"secrets": {"SMTP_PASS": "own"}}),
    ],
)
def test_a_secret_is_overridden_whatever_way_it_is_given(
    tmp_path: Path, below: Dict[str, Any], own: Dict[str, Any]
) -> None:
    converge(tmp_path, item("acme", **own), item("beta"), defaults=below)
    assert env_of(tmp_path, "acme")["SMTP_PASS"] == "own" and env_of(tmp_path, "beta")["SMTP_PASS"] == "below"


def test_a_providers_secret_in_the_defaults_switches_nothing_on(tmp_path: Path) -> None:
    defaults = {"secrets": {"GOTRUE_EXTERNAL_GITHUB_SECRET": "canary"}}
    github = {"auth": {"providers": {"github": {"client_id": "one"}}}}
    converge(tmp_path, item("acme", **github), item("beta"), defaults=defaults)
    assert env_of(tmp_path, "acme", "auth")["GOTRUE_EXTERNAL_GITHUB_ENABLED"] == "true"
    assert "GOTRUE_EXTERNAL_GITHUB_ENABLED" not in env_of(tmp_path, "beta", "auth")


def test_a_variable_moves_from_env_to_secrets_in_one_call(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", env={"functions": {"FLAG": "open"}}))
    converge(tmp_path, item("acme", secrets={"functions": {"FLAG": "hidden"}}), keep_unmentioned=True)
    assert env_of(tmp_path, "acme", "functions")["FLAG"] == "hidden"
    assert "open" not in str(manifest_of(tmp_path, "acme")["declared"])


@pytest.mark.parametrize(
    "options",
    [
        {"rest": {"extra_search_path": []}}, {"studio": {"organization": ""}}, {"storage": {"region": ""}},
        {"auth": {"mail": {"paths": {"invite": ""}}}}, {"docker_socket": ""},
        {"database": {"host": "db.example.com", "password": "abcdefgh", "name": ""}},
        {"limits": {"requests_per_second": 9, "burst": 3}},
    ],
    ids=str,
)  # fmt: skip
def test_what_would_not_start_is_refused_by_name(tmp_path: Path, options: Dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        converge(tmp_path, item("acme", **options), item("beta", size="huge"))
    told = "\n".join(caught.value.problems)
    assert "instance acme: " in told and "instance beta: " in told, "all mistakes at once"
    assert not (tmp_path / "projects").exists()


def test_a_host_that_bears_too_much_may_be_relieved(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", size="large"), item("beta", size="large"))
    tight = Capacity(cpus=1, memory=1024, cpu_factor=1, memory_factor=1)
    smaller = [item("beta", "absent"), item("gamma", size="small")]
    converge(tmp_path, *smaller, capacity=tight, confirmed=frozenset(["beta"]))
    with pytest.raises(InvalidInput, match="cannot bear"):
        converge(tmp_path, item("delta", size="large"), capacity=tight)


def test_a_diff_never_shows_the_salt(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", smtp={"password": "weak"}))
    salt = manifest_of(tmp_path, "acme")["salt"]
    diff = str(converge(tmp_path, item("acme", size="small", smtp={"password": "weak"}), with_diff=True)[0].diff)
    assert "instance.json" in diff and salt not in diff and "weak" not in diff


def test_check_mode_needs_no_library_that_the_host_gets_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LibraryMissing("install python3-cryptography")

    monkeypatch.setattr(_jwt, "_elliptic", missing)
    declared = item("acme", keys={"asymmetric": True, "opaque": True})
    assert converge(tmp_path, declared, check_mode=True)[0].actions == ["created"]
    with pytest.raises(InvalidInput, match=r"instance acme: .*python3-cryptography"):
        converge(tmp_path, declared)
    assert not (tmp_path / "projects" / "acme").exists()
