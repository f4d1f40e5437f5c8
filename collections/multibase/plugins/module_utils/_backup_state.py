# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What is remembered of the backups of instances, how they are scheduled, and whether one is overdue.

Apart from what takes them, so that who only reads need not load that.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from . import _catalogue, _lock, _schedule
from ._errors import InvalidInput, StateCorrupt
from ._layout import Layout
from ._names import name_problem
from ._publish import replace_file
from ._registry import read_json

SCHEMA = 1
# Written by the role multibase_backup: {name: {schedule, scope, format, level, verify, timeout, jitter, retention}}.
SETTINGS_FILE = "backup-settings.json"
# It is held to read and to write one small file.
STATE_LOCK_SECONDS = 30.0


def read_state(layout: Layout, name: str) -> Dict[str, Any]:
    """Return what is remembered of an instance's backups; empty when there is nothing, or it is damaged."""
    try:
        state = read_json(layout.backup_state(name))
    except StateCorrupt:
        return {}
    return state if isinstance(state, dict) and state.get("schema") == SCHEMA else {}


def write_state(layout: Layout, name: str, state: Mapping[str, Any]) -> None:
    """Remember what came of an instance's backups."""
    path = layout.backup_state(name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    replace_file(path, (json.dumps({**state, "schema": SCHEMA}, indent=1, sort_keys=True) + "\n").encode(), 0o600)


def update_state(layout: Layout, name: str, change: Callable[[Dict[str, Any]], Optional[Mapping[str, Any]]]) -> None:
    """Change what is remembered, as it is now: a run lasts for hours, and others write meanwhile.

    ``change`` gets what there is, and returns what is to be; None, when nothing is to be written.
    """
    with _lock.exclusive(layout.backup_state_lock(name), STATE_LOCK_SECONDS):
        state = change(read_state(layout, name))
        if state is not None:
            write_state(layout, name, state)


def read_settings(layout: Layout, name: str) -> Dict[str, Any]:
    """Return the backup settings of an instance that the controller left; empty without any."""
    try:
        known = read_json(os.path.join(layout.state, SETTINGS_FILE))
    except StateCorrupt:
        return {}
    found = known.get(name) if isinstance(known, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def is_overdue(settings: Mapping[str, Any], state: Mapping[str, Any], since: float, now: float) -> bool:
    """Whether a scheduled backup did not come within 15 minutes, and its jitter, of when it was due.

    ``since`` is when the instance, or its schedule, began to be: nothing was due before. A backup counts when it was
    verified, where verifying is asked for.
    """
    expression = settings.get("schedule")
    if not expression:
        return False
    last = state.get("last_verified" if settings.get("verify", True) else "last_success") or since
    grace = 900.0 + float(settings.get("jitter") or 0)
    return _schedule.overdue(_schedule.parse(str(expression)), max(float(last), since), now, grace)


def overdue(layout: Layout, name: str, now: float) -> bool:
    """Whether a backup of an instance is overdue. Nothing is before its schedule was first seen."""
    state = read_state(layout, name)
    settings = read_settings(layout, name)
    if state.get("schedule") != settings.get("schedule"):
        return False
    try:
        return is_overdue(settings, state, float(state.get("scheduled_since") or 0), now)
    except InvalidInput:
        # Somebody edited the file; the other instances' backups must not suffer from it.
        return True


def describe(layout: Layout, names: Sequence[str], now: float) -> List[Dict[str, Any]]:
    """Return what ``backup_info`` tells of instances: of those named, else of all that exist or have backups."""
    parent = os.path.join(layout.root, "backups")
    there = set(layout.instance_names())
    if os.path.isdir(parent):
        there.update(entry for entry in os.listdir(parent) if name_problem(entry) is None)
    told = []
    for name in sorted(there & set(names) if names else there):
        state = read_state(layout, name)
        backups = _catalogue.listing(layout, name)
        told.append(
            {
                "name": name,
                "changed": False,
                "overdue": overdue(layout, name, now),
                "exit_code": state.get("exit_code"),
                "reason": state.get("reason") or "",
                "backups": [_catalogue.summary(backup, now) for backup in reversed(backups)],
            }
        )
    return told
