# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What of Multibase is on a host: files, data with its size, the user, rules, and what the Engine has of it.

For taking it away, and for telling what remains afterwards; nothing is changed here. What is looked at works on a host
where Multibase was never, or only half installed.
"""

from __future__ import annotations

import glob
import grp
import os
import pwd
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ._engine import Engine
from ._nginx import roomy_lines
from ._process import Completed

INSTANCE_LABEL = "io.multibase.instance"
USER = "multibase"
# In a directory that others use too, a file is ours by its name and by this word near its beginning.
_MARK = b"Multibase"
_MARK_WITHIN = 2048
_COMMAND_SECONDS = 60.0
_SIZE_SECONDS = 600.0


@dataclass(frozen=True)
class Place:
    """Where the roles put something outside the root directory.

    ``kind`` is what it is. ``shared`` says that the name alone does not make it ours. What is ``kept`` stays on the
    host: it may be the user's own, or guard the host.
    """

    pattern: str
    kind: str
    shared: bool = True
    kept: bool = False


PLACES: Tuple[Place, ...] = (
    Place("/etc/systemd/system/multibase-*.*", "unit"),
    Place("/etc/systemd/system/*.d/multibase*.conf", "drop-in"),
    Place("/etc/cron.d/multibase*", "cron"),
    Place("/etc/logrotate.d/multibase*", "logrotate"),
    Place("/etc/tmpfiles.d/multibase*", "settings"),
    Place("/etc/multibase", "settings", shared=False),
    Place("/etc/nginx/conf.d/multibase*.conf", "nginx"),
    Place("/etc/nginx/multibase/*", "nginx", shared=False),
    # What a run that was killed left there: sites with the logins of their gateways, and a copy of nginx.conf.
    Place("/etc/nginx/multibase/.staged-*", "nginx", shared=False),
    Place("/etc/nginx/.multibase-*.conf", "nginx", shared=False),
    # What nginx works with as long as it has our sites.
    Place("/run/multibase-proxy", "runtime", shared=False),
    Place("/run/multibase-proxy.sock", "runtime", shared=False),
    Place("/etc/letsencrypt/renewal-hooks/*/multibase*", "certbot"),
    # Files that a person may have put there, and logins.
    Place("/etc/nginx/multibase/own", "certificates", shared=False, kept=True),
    Place("/etc/nginx/multibase/people.htpasswd", "logins", shared=False, kept=True),
    # Who asked for what; nginx's own log rotation goes on with them.
    Place("/var/log/nginx/multibase-*.log*", "logs", shared=False, kept=True),
    # A host is not opened because Multibase goes.
    Place("/etc/sysctl.d/*multibase*", "hardening", kept=True),
    Place("/etc/ssh/sshd_config.d/*multibase*", "hardening", kept=True),
    Place("/etc/fail2ban/*.d/*multibase*", "hardening", kept=True),
    Place("/etc/apt/apt.conf.d/*multibase*", "hardening", kept=True),
    Place("/etc/modprobe.d/*multibase*", "hardening", kept=True),
    Place("/etc/security/limits.d/*multibase*", "hardening", kept=True),
    Place("/etc/systemd/coredump.conf.d/*multibase*", "hardening", kept=True),
    Place("/etc/letsencrypt/live/*", "certificates", shared=False, kept=True),
    # Docker stays, and goes on being updated.
    Place("/etc/apt/sources.list.d/multibase-docker.sources", "docker", shared=False, kept=True),
    Place("/etc/apt/keyrings/multibase-docker.asc", "docker", shared=False, kept=True),
    Place("/etc/docker/daemon.json", "docker", shared=False, kept=True),
    Place("/var/lib/docker", "docker", shared=False, kept=True),
)

_NGINX_MAIN = "/etc/nginx/nginx.conf"

Command = Callable[[Sequence[str], float], Completed]


def _is_marked(path: str) -> bool:
    """Whether a file says that it is ours; a link to nowhere and a directory say nothing."""
    try:
        with open(path, "rb") as stream:
            return _MARK in stream.read(_MARK_WITHIN)
    except OSError:
        return False


def files(system: str = "/") -> List[Dict[str, Any]]:
    """Return what lies outside the root directory: path, kind, and whether it is to be kept.

    Of nginx.conf the lines are told that have our numbers: the file is the distribution's.
    """
    told: Dict[str, Dict[str, Any]] = {}
    for place in PLACES:
        for path in sorted(glob.glob(os.path.join(system, place.pattern.lstrip("/")))):
            if os.path.basename(path) == "README":
                continue
            foreign = place.shared and not _is_marked(path)
            # What comes later in the table is said more exactly.
            told[path] = {"path": path, "kind": place.kind, "kept": place.kept or foreign}
    main = os.path.join(system, _NGINX_MAIN.lstrip("/"))
    try:
        with open(main, encoding="utf-8", errors="replace") as stream:
            lines = roomy_lines(stream.read())
    except OSError:
        lines = []
    if lines:
        told[main] = {"path": main, "kind": "nginx.conf", "kept": True, "lines": lines}
    return [told[path] for path in sorted(told)]


def untaken_passwords(root: str) -> List[Dict[str, Any]]:
    """Return the files with passwords of people that nobody has taken from the host yet; they stay with the logins."""
    paths = glob.glob(os.path.join(glob.escape(root), "state", "people", "*.password"))
    return [{"path": path, "kind": "logins", "kept": True} for path in sorted(paths)]


def mounts_below(root: str, mountinfo: str) -> List[str]:
    """Return the mount points at or below ``root`` in the text of ``/proc/self/mountinfo``."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            # Blanks and the like are written as octal numbers.
            path = fields[4].encode("latin-1", "replace").decode("unicode_escape")
            if path == root or path.startswith(root.rstrip("/") + "/"):
                found.append(path)
    return sorted(set(found))


def children(root: str) -> List[str]:
    """Return the paths of everything directly below the root directory."""
    try:
        return [os.path.join(root, name) for name in sorted(os.listdir(root))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def holds_data(root: str) -> bool:
    """Whether there are instances, backups or exports: what is not to be lost."""
    kinds = ("projects", "backups", "exports")
    return any(children(os.path.join(root, kind)) for kind in kinds)


def sizes(paths: Sequence[str], run: Command) -> Dict[str, int]:
    """Return the bytes that each path takes on the disk, of those that there are."""
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        return {}
    done = run(["du", "--summarize", "--block-size=1", "--", *there], _SIZE_SECONDS)
    rows = [line.partition("\t") for line in done.output.splitlines()]
    return {path: int(number) for number, _tab, path in rows if number.isdigit()}


def account() -> Dict[str, bool]:
    """Return whether our user and our group are there."""
    told = {"user": True, "group": True}
    try:
        pwd.getpwnam(USER)
    except KeyError:
        told["user"] = False
    try:
        grp.getgrnam(USER)
    except KeyError:
        told["group"] = False
    return told


def _answers(argv: Sequence[str], run: Command) -> Optional[Completed]:
    """Run a program that the host may not have."""
    try:
        return run(argv, _COMMAND_SECONDS)
    except OSError:
        return None


def has_table(run: Command) -> bool:
    """Whether the packet filter has our table."""
    done = _answers(["nft", "list", "table", "inet", "multibase"], run)
    return done is not None and done.code == 0


def packages(names: Sequence[str], run: Command) -> List[str]:
    """Return those packages that are installed."""
    if not names:
        return []
    done = _answers(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n", *names], run)
    rows = [line.split() for line in (done.output if done else "").splitlines()]
    return sorted(row[1] for row in rows if row[:1] == ["installed"])


def of_engine(engine: Engine, measure: bool, run: Command) -> Dict[str, Any]:
    """Return what an Engine has of instances, by label, and what else it has."""
    everything = engine.inventory()
    ours: Dict[str, Any] = {}
    for kind in ("containers", "networks", "volumes"):
        rows = everything[kind]
        ours[kind] = [
            {"name": row["name"], "instance": row["labels"][INSTANCE_LABEL], "path": row.get("path", "")}
            for row in rows
            if INSTANCE_LABEL in row["labels"]
        ]
    ours["others"] = [row["name"] for row in everything["containers"] if INSTANCE_LABEL not in row["labels"]]
    ours["images"] = everything["images"]
    if measure:
        known = sizes([row["path"] for row in ours["volumes"]], run)
        for row in ours["volumes"]:
            row["bytes"] = known.get(row["path"], 0)
    return ours
