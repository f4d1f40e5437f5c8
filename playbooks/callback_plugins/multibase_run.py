# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and labels every run for ARA, and tells ./multibase in one file what failed.

ARA takes a run's name and labels from the variables of its plays, and takes them untemplated (``ara_default.py`` of ARA
1.8, ``v2_playbook_on_play_start``). A label with an instance's name can therefore not be written in a playbook; this
plugin, which runs before ARA's, puts it into the play's variables. Both may still be given as extra variables
(``ara_playbook_name``, ``ara_playbook_labels``), which are stronger.

It also takes the recording out of the way of the run (``playbooks/recording/recorder.py``).
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
from typing import Any, Dict, List, Mapping, Optional

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: multibase_run
type: notification
short_description: Name and label runs for ARA, report failures to a file
description:
  - Gives each play the variables C(ara_playbook_name) and C(ara_playbook_labels), made from the playbook's name and the
    instances that the run is about.
  - Points ARA at the records below the project's own directory unless the environment names another place.
  - Writes what failed as JSON to the file that the environment variable E(MULTIBASE_FAILURES_FILE) names, if any.
"""

# Above this many instances a run carries their number as a label and not each name.
MAX_INSTANCE_LABELS = 50


def names_in(value: Any) -> List[str]:
    """Return the instances' names in a ``multibase_limit`` (list or comma-separated) or ``multibase_instances``.

    The role reads a limit in the same way (``__multibase_instances_asked``): split at commas, trimmed, blanks dropped.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return []
    names = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in value]
    return [part.strip() for name in names if name for part in str(name).split(",") if part.strip()]


def run_instances(shared: Mapping[str, Any], hosts: List[Mapping[str, Any]]) -> List[str]:
    """Return which instances a run is about, sorted: the named ones, or else all that its hosts declare.

    ``shared`` are the variables that hold for the whole play, ``hosts`` those of each of its hosts.
    """
    instance = shared.get("multibase_instance")
    if isinstance(instance, Mapping) and instance.get("name"):
        return [str(instance["name"])]
    named = set(names_in(shared.get("multibase_limit"))) - {"all"}
    if named:
        return sorted(named)
    declared = set(names_in(shared.get("multibase_instances")))
    for variables in hosts:
        declared.update(names_in(variables.get("multibase_instances")))
    return sorted(declared)


def labels_for(verb: str, instances: List[str], check: bool, user: str = "", ticket: str = "") -> List[str]:
    """Return ARA's labels of a run: what it does, to which instances, who began it, and why (a ticket's name)."""
    labels = ["verb:" + verb]
    # Commas would make two labels of one; a name that long is none.
    labels += [
        kind + ":" + " ".join(word.replace(",", " ").split())[:80]
        for kind, word in (("user", user), ("ticket", ticket))
        if word.strip()
    ]
    if check:
        labels.append("check")
    if len(instances) > MAX_INSTANCE_LABELS:
        labels.append("instances:{0}".format(len(instances)))
    else:
        labels.extend("instance:" + name for name in instances)
    return labels


def user_name() -> str:
    """Return who began the run: as ARA records it, and not the root that sudo made of somebody."""
    try:
        return os.environ.get("ARA_RECORD_USER_NAME") or os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # In a container with a user that has no name.
        return str(os.getuid())


def ticket_of(shared: Mapping[str, Any]) -> str:
    """Return what a run is for: the variable ``multibase_ticket``, or MULTIBASE_TICKET in the environment."""
    value = shared.get("multibase_ticket")
    return str(value) if isinstance(value, (str, int)) and value else os.environ.get("MULTIBASE_TICKET", "")


def run_name(verb: str, instances: List[str]) -> str:
    """Return ARA's name of a run, as one would type it."""
    shown = instances[:5] + (["(+{0})".format(len(instances) - 5)] if len(instances) > 5 else [])
    return " ".join(["multibase", verb, *shown])


def failure_message(result: Mapping[str, Any]) -> str:
    """Return what a failed result says for a person, including the failed items of a loop."""
    if result.get("_ansible_no_log"):
        return "the result is hidden because it may hold secrets (no_log)"
    items = [item for item in result.get("results") or [] if isinstance(item, Mapping) and item.get("failed")]
    messages = [str(item["msg"]) for item in items if item.get("msg")]
    if not messages:
        messages = [str(result.get("msg") or result.get("reason") or "no message was given")]
    return "\n".join(dict.fromkeys(messages))


def defer_recording() -> None:
    """Have ARA's callback, which is loaded after this one, record in a process of its own."""
    if not importlib.util.find_spec("ara"):
        return
    from ara.clients import utils

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "recording", "recorder.py")
    spec = importlib.util.spec_from_file_location("multibase_recorder", path)
    assert spec is not None and spec.loader is not None  # noqa: S101  # for mypy: the path ends in .py
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    recorder.defer(utils)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible is not typed
    """See the module's text."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "multibase_run"

    def __init__(self) -> None:
        super().__init__()
        self._verb = "playbook"
        self._failures: List[Dict[str, str]] = []
        self._failures_file = os.environ.get("MULTIBASE_FAILURES_FILE", "")
        records = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".ara")
        # Made by `make setup`, readable by its owner only. Where it is missing ARA keeps its own default.
        if os.path.isfile(os.path.join(records, "settings.yaml")):
            os.environ.setdefault("ARA_BASE_DIR", os.path.realpath(records))
        defer_recording()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Remember which verb runs: a playbook's file is named after it."""
        self._verb = os.path.splitext(os.path.basename(playbook._file_name))[0]

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Set ARA's variables. A play that sets them itself keeps its own."""
        manager = play.get_variable_manager()
        shared = manager.get_vars(play=play)
        inventory = manager._inventory
        hosts = inventory.get_hosts(play.hosts) if inventory else []
        instances = run_instances(shared, [manager.get_vars(play=play, host=host) for host in hosts])
        check = bool(context.CLIARGS.get("check"))
        wanted = {
            "ara_playbook_name": run_name(self._verb, instances),
            "ara_playbook_labels": labels_for(self._verb, instances, check, user_name(), ticket_of(shared)),
        }
        play.vars = {**wanted, **play.vars}

    def _record(self, result: Any, message: Optional[str] = None) -> None:
        failure = {
            "host": result._host.get_name(),
            "task": result._task.get_name(),
            "msg": message or failure_message(result._result),
        }
        self._failures.append(failure)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember a failed task, unless the play goes on as if nothing had happened."""
        if not ignore_errors:
            self._record(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remember a host that could not be reached."""
        self._record(result, "the host cannot be reached: " + failure_message(result._result))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write what failed, if anybody asked for it."""
        if self._failures_file:
            with open(self._failures_file, "w", encoding="utf-8") as stream:
                json.dump(self._failures, stream)
