# SPDX-License-Identifier: GPL-3.0-or-later
"""Health and state of an instance from what the Engine says of its containers."""

from __future__ import annotations

from typing import List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._engine import Container, container_from_json
from ansible_collections.multibase.supabase.plugins.module_utils._health import (
    instance_health,
    instance_state,
    service_health,
)

KINDS = {
    "healthy": ("running", "Up 1 minute (healthy)"),
    "no check": ("running", "Up 1 minute"),
    "starting": ("running", "Up 1 second (health: starting)"),
    "unhealthy": ("running", "Up 1 minute (unhealthy)"),
    "restarting": ("restarting", "Restarting (1) 2 seconds ago"),
    "created": ("created", "Created"),
    "exited": ("exited", "Exited (1) 2 seconds ago"),
    "paused": ("paused", "Up 1 minute (Paused)"),
    "dead": ("dead", "Dead"),
}


def containers(*kinds: str) -> List[Container]:
    return [
        container_from_json(
            {
                "Id": str(number),
                "State": KINDS[kind][0],
                "Status": KINDS[kind][1],
                "Labels": {"com.docker.compose.service": "s{0}".format(number)},
            }
        )
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kind", "health"),
    [
        ("healthy", "healthy"), ("no check", "healthy"), ("starting", "starting"), ("unhealthy", "unhealthy"),
        ("restarting", "unhealthy"), ("exited", "stopped"), ("dead", "stopped"), ("paused", "stopped"),
    ],
)  # fmt: skip
def test_one_service(kind: str, health: str) -> None:
    assert service_health(containers(kind)[0]) == health


@pytest.mark.parametrize(
    ("kinds", "health"),
    [
        ([], "stopped"),
        (["exited", "exited"], "stopped"),
        (["exited", "created", "dead"], "stopped"),
        (["healthy", "healthy"], "healthy"),
        (["healthy", "no check"], "healthy"),
        (["no check"], "healthy"),
        (["healthy", "starting"], "starting"),
        (["starting", "starting"], "starting"),
        (["healthy", "unhealthy"], "degraded"),
        (["healthy", "exited"], "degraded"),
        (["healthy", "restarting"], "degraded"),
        (["healthy", "paused"], "degraded"),
        (["starting", "unhealthy"], "degraded"),
        (["unhealthy", "unhealthy"], "unhealthy"),
        (["unhealthy", "exited"], "unhealthy"),
        (["restarting"], "unhealthy"),
    ],
)
def test_an_instance(kinds: List[str], health: str) -> None:
    found = containers(*kinds)
    assert instance_health(found, [container.service for container in found]) == health


def test_a_missing_service_is_bad() -> None:
    assert instance_health(containers("healthy"), ["s0", "s1"]) == "degraded"
    assert instance_health(containers("unhealthy"), ["s0", "s1"]) == "unhealthy"
    assert instance_health([], ["s0"]) == "stopped"


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ([], "created"), (["healthy", "unhealthy"], "running"), (["healthy", "exited"], "partial"),
        (["exited", "created"], "stopped"), (["restarting", "healthy"], "running"),
    ],
)  # fmt: skip
def test_the_state(kinds: List[str], state: str) -> None:
    assert instance_state(containers(*kinds), ["s0", "s1"]) == state


def test_a_service_without_a_container_makes_it_partial() -> None:
    assert instance_state(containers("healthy"), ["s0", "s1"]) == "partial"
