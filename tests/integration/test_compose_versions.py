# SPDX-License-Identifier: GPL-3.0-or-later
"""The release's Compose files through the oldest and the newest Compose that can be had here; no engine takes part.

What is checked of a resolved stack is the same as in the unit tests, which run with the Compose that docker has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Tuple

import pytest

from contract.stack import (
    OVERLAYS,
    RELEASE,
    canary,
    check_resolved,
    compose_environment,
    config,
    label,
    pairs,
    run_config,
    variables,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def compose_binaries() -> Dict[str, str]:
    """Return the Compose plugins to test with, version -> path."""
    command = [sys.executable, "tests/sandbox/sandbox.py", "compose-binaries", ".cache/compose"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def docker_config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return settings for docker with one Compose plugin."""
    binaries = compose_binaries()
    by_age = sorted(binaries, key=lambda version: [int(part) for part in version.split(".")])
    version = by_age[0 if request.param == "oldest" else -1]
    directory = tmp_path_factory.mktemp("docker-config")
    (directory / "cli-plugins").mkdir()
    (directory / "cli-plugins" / "docker-compose").symlink_to((REPOSITORY / binaries[version]).resolve())
    answer = subprocess.run(
        ["docker", "compose", "version", "--short"],
        env=compose_environment(directory), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.strip().startswith(version)
    return directory


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the release."""
    directory = tmp_path_factory.mktemp("release") / "project"
    shutil.copytree(RELEASE, directory)
    return directory


@pytest.mark.parametrize("overlays", [(), *pairs(), OVERLAYS], ids=label)
def test_overlays(docker_config: Path, project: Path, overlays: Tuple[str, ...]) -> None:
    values = variables()
    check_resolved(config(project, overlays, values, docker_config), overlays, values)


def test_environment_file(docker_config: Path, tmp_path: Path) -> None:
    """A file that is not there is none; in one that is, quotes and dollars mean what they mean in the `.env`."""
    project = tmp_path / "project"
    shutil.copytree(RELEASE, project)
    values = variables()
    before = config(project, (), values, docker_config)["services"]
    (project / "env").mkdir()
    (project / "env" / "auth.env").write_text(
        'A="a\\$b"\nB=\'a$b\'\nC=$MULTIBASE_INSTANCE\nD="${MULTIBASE_INSTANCE}x"\nGOTRUE_SITE_URL=theirs\nE="l\\n\\"\\\\"\n',
        encoding="utf-8",
    )
    after = config(project, (), values, docker_config)["services"]
    added = {
        key: value.replace("$$", "$")
        for key, value in after["auth"].pop("environment").items()
        if key not in before["auth"]["environment"]
    }
    assert added == {"A": "a$b", "B": "a$b", "C": "acme", "D": "acmex", "E": 'l\n"\\'}
    again = config(project, (), values, docker_config)["services"]["auth"]["environment"]
    assert again["GOTRUE_SITE_URL"] == canary("SITE_URL")
    del before["auth"]["environment"]
    assert after == before
    (project / "env" / "auth.env").write_text("NO NAME\n", encoding="utf-8")
    assert run_config(project, (), values, docker_config).returncode != 0
