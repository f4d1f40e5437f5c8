# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""How an instance and its services are, from what the Engine says of their containers."""

from __future__ import annotations

from typing import Iterable, List, Sequence

from ._engine import Container


def service_health(container: Container) -> str:
    """Return healthy, starting, unhealthy or stopped. A container that runs without a check is healthy."""
    if container.state == "running":
        return "healthy" if container.health == "none" else container.health
    if container.state == "restarting":
        return "unhealthy"
    if container.state == "created":
        return "starting"
    return "stopped"


def instance_health(containers: Sequence[Container], expected: Iterable[str]) -> str:
    """Return stopped, healthy, starting, degraded or unhealthy.

    No container running: stopped. All healthy: healthy. Otherwise, some bad (unhealthy, stopped or missing though
    expected): degraded, or unhealthy when all are. None bad but some not ready yet: starting.
    """
    if not any(container.running for container in containers):
        return "stopped"
    states: List[str] = [service_health(container) for container in containers]
    present = {container.service for container in containers}
    states += ["missing" for service in expected if service not in present]
    bad = [state for state in states if state not in ("healthy", "starting")]
    if bad:
        return "unhealthy" if len(bad) == len(states) else "degraded"
    return "starting" if "starting" in states else "healthy"


def instance_state(containers: Sequence[Container], expected: Iterable[str]) -> str:
    """Return running, partial, stopped, or created for an instance that has no containers yet."""
    if not containers:
        return "created"
    running = {container.service for container in containers if container.running}
    if not running:
        return "stopped"
    return "running" if running.issuperset(expected) else "partial"
