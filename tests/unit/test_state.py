# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of the last start: every input counts, and every single difference is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _state
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Container

VARIABLES = {"COMPOSE_FILE": "docker-compose.yml:overlays/a.yml"}
MANAGED = ["docker-compose.yml", "overlays/a.yml", "volumes/api/envoy.json"]


def project(tmp_path: Path) -> Path:
    for name in (".env", *MANAGED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def digest(directory: Path, variables: Mapping[str, str] = VARIABLES) -> str:
    return _state.input_digest(str(directory), variables, MANAGED)


def container(service: str, **changes: Any) -> Container:
    values: Dict[str, Any] = {
        "id": service, "name": service, "project": "p", "service": service, "state": "running", "health": "healthy",
        "image": service + ":1", "image_id": "sha256:" + service, "config_hash": "hash-" + service, "created": 1,
        "status": "Up (healthy)",
    }  # fmt: skip
    values.update(changes)
    return Container(**values)


RUNNING = [container("db"), container("auth")]
IMAGES = {"db:1": "sha256:db", "auth:1": "sha256:auth", "other:1": "sha256:x"}
RECORD = json.loads(_state.record_bytes(_state.make_record("digest", "5.6.1", ["auth", "db"], RUNNING)))


def differences(
    containers: List[Container], images: Mapping[str, str] = IMAGES, record: Any = RECORD, digest: str = "digest"
) -> List[str]:
    return _state.differences(record, digest, containers, images)


# Inputs


def test_the_digest_is_stable(tmp_path: Path) -> None:
    assert digest(project(tmp_path)) == digest(tmp_path)
    assert _state.input_digest(str(tmp_path), VARIABLES, list(reversed(MANAGED))) == digest(tmp_path)


@pytest.mark.parametrize("name", [".env", *MANAGED])
@pytest.mark.parametrize("how", ["changed", "removed", "emptied"])
def test_every_input_counts(tmp_path: Path, name: str, how: str) -> None:
    before = digest(project(tmp_path))
    if how == "removed":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text("" if how == "emptied" else "other")
    assert digest(tmp_path) != before


def test_a_new_override_file_counts(tmp_path: Path) -> None:
    before = digest(project(tmp_path))
    override = tmp_path / "docker-compose.override.yml"
    override.write_text("services: {}\n")
    with_override = digest(tmp_path)
    assert with_override != before
    override.write_text("services: {db: {}}\n")
    assert digest(tmp_path) not in (before, with_override)
    override.unlink()
    assert digest(tmp_path) == before


def test_env_files_of_an_override_count(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "docker-compose.override.yml").write_text("services:\n  auth:\n    env_file: [extra.env]\n")
    (tmp_path / "extra.env").write_text("A=1\n")
    before = digest(tmp_path)
    (tmp_path / "extra.env").write_text("A=2\n")
    assert digest(tmp_path) != before


def test_contents_that_move_between_files_count(tmp_path: Path) -> None:
    before = digest(project(tmp_path))
    (tmp_path / ".env").write_text("docker-compose.yml")
    (tmp_path / "docker-compose.yml").write_text(".env")
    assert digest(tmp_path) != before


def test_what_is_the_users_own_does_not_count(tmp_path: Path) -> None:
    before = digest(project(tmp_path))
    (tmp_path / "volumes" / "functions").mkdir()
    (tmp_path / "volumes" / "functions" / "index.ts").write_text("mine")
    assert digest(tmp_path) == before


# Differences


def test_as_recorded() -> None:
    assert differences(RUNNING) == []
    assert differences(list(reversed(RUNNING))) == []


def test_health_is_no_difference() -> None:
    assert differences([container("db", health="unhealthy"), container("auth", health="starting")]) == []


@pytest.mark.parametrize("record", [None, {}, {"schema": 99}, {"schema": None}, [], [1], "text", 5])
def test_no_usable_record_is_a_difference(record: Any) -> None:
    assert len(differences(RUNNING, record=record)) == 1


@pytest.mark.parametrize(
    "services", [None, [], {}, {"db": None, "auth": None}, {"db": [[]], "auth": [[]]}, {"db": "x", "auth": 5}]
)
def test_a_record_with_damaged_rows_is_a_difference(services: Any) -> None:
    assert differences(RUNNING, record={**RECORD, "services": services})


CASES: Dict[str, Any] = {
    "another digest": (RUNNING, IMAGES, "other", ["configuration"]),
    "a service without container": (RUNNING[:1], IMAGES, "digest", ["auth"]),
    "no containers": ([], IMAGES, "digest", ["auth", "db"]),
    "a second container": ([*RUNNING, container("db", id="db2")], IMAGES, "digest", ["db"]),
    "an unexpected service": ([*RUNNING, container("rest")], IMAGES, "digest", ["rest"]),
    "stopped": ([container("db", state="exited"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "restarting": ([container("db", state="restarting"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "paused": ([container("db", state="paused"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "created": ([container("db", state="created"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "another label": ([container("db", config_hash="other"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "another image": ([container("db", image="db:2"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "another image id": ([container("db", image_id="sha256:y"), RUNNING[1]], IMAGES, "digest", ["db"]),
    "the tag moved": (RUNNING, {**IMAGES, "db:1": "sha256:new"}, "digest", ["db"]),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_each_difference_is_found_and_named(case: str) -> None:
    containers, images, current, named = CASES[case]
    reasons = differences(containers, images, digest=current)
    assert len(reasons) == len(named)
    for reason, word in zip(reasons, named):
        assert word in reason


def test_two_differences_are_two_reasons() -> None:
    assert len(differences([container("db", state="exited"), container("rest")], digest="other")) == 4


def test_the_record_holds_what_was_read_back() -> None:
    assert RECORD["digest"] == "digest" and RECORD["compose"] == "5.6.1"
    assert RECORD["services"]["db"] == [["hash-db", "db:1", "sha256:db"]]
    assert _state.record_bytes(RECORD) == _state.record_bytes(json.loads(_state.record_bytes(RECORD)))
