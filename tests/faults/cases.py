# SPDX-License-Identifier: GPL-3.0-or-later
"""What is interrupted, and what has to hold after that: at once for who reads, and after the next run.

``support.FakeDocker`` stands in for the Engine; files, locks and processes are real.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Collection, Dict, FrozenSet, List, Mapping, NamedTuple, Sequence, Tuple

from ansible_collections.multibase.supabase.plugins.module_utils import _registry
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._info import describe_all
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Result, edited_secrets, read_existing
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from unit.support import SECRETS, FakeDocker, converge, env_of, item, manifest_of, registry_of, snapshot

CANARY = "canary-of-the-user-"
OPAQUE = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY")
UNUSED = "MULTIBASE_UNUSED_"
_SECRET_VARIABLES = frozenset({*SECRETS, *OPAQUE, *(UNUSED + name for name in OPAQUE)})
# Written by the user's declaration, not made here.
_GIVEN = frozenset({"SMTP_PASS"})
# The gateway reads its keys in a file that its container's user can open; the directory keeps the host's users out.
_GATEWAY_FILES = ("volumes/api/envoy.json", "volumes/api/kong.json")
_IN_GATEWAY_FILES = frozenset({"ANON_KEY", "SERVICE_ROLE_KEY", *OPAQUE})
# Kong compares the password itself.
_IN_KONG = _IN_GATEWAY_FILES | {"DASHBOARD_PASSWORD"}
_TEMPORARY = ".multibase-new"
_UNFINISHED = (".staging-", ".deleting-")
# Whether the file of a lock is there or not means nothing.
_LOCKS = "state/locks/"


@dataclass(frozen=True)
class Case:
    """Work that is interrupted: the runs before it, the instances that it declares, and those that it deletes."""

    before: Tuple[Sequence[Mapping[str, Any]], ...]
    declared: Sequence[Mapping[str, Any]]
    deleted: FrozenSet[str] = frozenset()
    # Files below the root that are there before, or not any more.
    added: Mapping[str, str] = field(default_factory=dict)
    removed: Tuple[str, ...] = ()

    def prepare(self, root: Path) -> None:
        for items in self.before:
            self.run(root, items)
        for path, text in self.added.items():
            (root / path).write_text(text, encoding="utf-8")
        for path in self.removed:
            (root / path).unlink()

    def work(self, root: Path, check_mode: bool = False) -> List[Result]:
        return self.run(root, self.declared, check_mode)

    def run(self, root: Path, items: Sequence[Mapping[str, Any]], check_mode: bool = False) -> List[Result]:
        return converge(
            root, *items, confirmed=self.deleted, engine=Engine(FakeDocker()), check_mode=check_mode, lock_timeout=0
        )


def _github(secret: str) -> Dict[str, Any]:
    return {"providers": {"github": {"client_id": "multibase", "secret": CANARY + secret}}}


_PLAIN = item("acme", smtp={"host": "mail.example.com", "user": "acme", "password": CANARY + "mail"})
_CHANGED = item(
    "acme",
    smtp={"host": "mail.example.com", "user": "acme", "password": CANARY + "other-mail"},
    gateway="kong",
    keys={"opaque": True},
    auth=_github("github"),
    env={"FEATURE_FLAG": "on", "functions": {"GREETING": "hello $you"}},
    expose=["postgres"],
    size="small",
)
_SIBLING = item("beta", auth=_github("sibling"))

CASES: Dict[str, Case] = {
    "create three": Case(
        before=(),
        declared=[
            item("acme"),
            item("beta", gateway="kong", keys={"opaque": True}, auth=_github("beta")),
            item("gamma", size="small", services={"realtime": False}, smtp=_PLAIN["smtp"]),
        ],
    ),
    "change": Case(before=([_PLAIN, _SIBLING],), declared=[_CHANGED, _SIBLING]),
    "change back": Case(before=([_CHANGED, _SIBLING],), declared=[_PLAIN, _SIBLING]),
    "keys on again": Case(before=([_CHANGED], [_PLAIN]), declared=[item("acme", keys={"opaque": True})]),
    "delete one": Case(
        before=([_CHANGED, _SIBLING],),
        declared=[item("acme", state="absent"), _SIBLING],
        deleted=frozenset({"acme"}),
        added={"state/acme.json": "{}"},
    ),
    "create, change and delete": Case(
        before=([_PLAIN, _SIBLING],),
        declared=[_CHANGED, item("beta", state="absent"), item("gamma")],
        deleted=frozenset({"beta"}),
        added={"state/beta.json": "{}"},
    ),
    "lost registry": Case(before=([_PLAIN, _SIBLING],), declared=[_PLAIN, _SIBLING], removed=("registry.json",)),
}


class Facts(NamedTuple):
    """What an instance keeps for life."""

    port_base: int
    subnet: str
    salt: str
    secrets: Mapping[str, str]


def facts(root: Path) -> Dict[str, Facts]:
    """Return what the instances that are published keep for life, read without the code under test."""
    found = {}
    for name in published(root):
        manifest, variables = manifest_of(root, name), env_of(root, name)
        secrets = {key: variables[key] for key in SECRETS if variables.get(key) and key not in _GIVEN}
        for key in OPAQUE:
            value = variables.get(key) or variables.get(UNUSED + key)
            if value:
                secrets[key] = value
        found[name] = Facts(manifest["port_base"], variables["MULTIBASE_SUBNET"], manifest["salt"], secrets)
    return found


def published(root: Path) -> List[str]:
    """Return the names of the instances that are there for everybody to see."""
    projects = root / "projects"
    return sorted(name for name in os.listdir(projects) if not name.startswith(".")) if projects.is_dir() else []


def unfinished(root: Path) -> List[str]:
    """Return paths that only an interrupted run leaves."""
    return [
        path
        for path in snapshot(root)
        if path.endswith(_TEMPORARY) or any(part.startswith(_UNFINISHED) for part in path.split("/"))
    ]


def shape(root: Path) -> Dict[str, Any]:
    """Return every path below a root with its kind and mode, and what is in files that are not random."""
    found: Dict[str, Any] = {path: row[0] for path, row in snapshot(root).items() if not path.startswith(_LOCKS)}
    for name in published(root):
        manifest, variables = manifest_of(root, name), env_of(root, name)
        manifest.pop("salt")
        found["manifest of " + name] = without_fingerprints(manifest)
        # Digests of the gateway's file change with the keys in it.
        found["variables of " + name] = {
            key: "" if key in _SECRET_VARIABLES - _GIVEN or key.startswith("MULTIBASE_CONFIG_") else value
            for key, value in variables.items()
        }
        directory = root / "projects" / name
        for path in sorted(directory.glob("env/*.env")):
            found["text of " + str(path.relative_to(root))] = path.read_text(encoding="utf-8")
    found["registry"] = registry_of(root)
    return found


def without_fingerprints(data: Any) -> Any:
    """Return data of a manifest as it is for any secrets."""
    if isinstance(data, dict):
        return {key: without_fingerprints(value) for key, value in data.items()}
    if isinstance(data, list):
        return [without_fingerprints(value) for value in data]
    return "fingerprint" if isinstance(data, str) and data.startswith("fingerprint:") else data


class Trial:
    """A case below a directory, which can be brought back to its beginning as often as one likes."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self.root, self.before_path = directory / "root", directory / "before"
        self.root.mkdir()
        case.prepare(self.root)
        shutil.copytree(self.root, self.before_path, symlinks=True)
        self.before = facts(self.root)
        # How it is when nothing interrupts; under the same path, which is in the files.
        case.work(self.root)
        self.complete = shape(self.root)
        self.reset()

    def reset(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.before_path, self.root, symlinks=True)

    def work(self, check_mode: bool = False) -> List[Result]:
        return self.case.work(self.root, check_mode)

    def go_back(self) -> List[Result]:
        """Run what was run last before the work."""
        return self.case.run(self.root, self.case.before[-1])

    def check(self, where: str, ordered: bool = True) -> None:
        """Check the root after an interruption: as it is, after the next run, and after one more.

        ``ordered`` tells whether what was renamed and removed lies there in the order in which that was done.
        """
        found = self._check_reader(where, ordered)
        untouched = snapshot(self.root, times=True)
        told = [result.as_dict() for result in self.work(check_mode=True)]
        assert snapshot(self.root, times=True) == untouched, where + ": check mode wrote something"
        done = self.work()
        assert [result.as_dict() for result in done] == told, where + ": check mode said something else"
        self._check_finished(found, where)

    def _check_reader(self, where: str, ordered: bool) -> Dict[str, Facts]:
        """Check what holds at once, before any other run. Returns what is published."""
        root, layout = self.root, Layout(str(self.root))
        found = facts(root)
        assert set(self.before) - self.case.deleted <= set(found), where + ": an instance is lost"
        assert layout.instance_names() == sorted(found), where + ": a directory without a manifest is published"
        for name, told in zip(found, describe_all(layout, list(found), None, "no engine", details=True)):
            problem = told["problem"]
            assert (told["state"], problem) == ("unknown", "no engine"), "{0}: {1}".format(where, problem)
            existing = read_existing(layout, name)
            assert int(existing.variables["API_GW_HTTP_PORT"]) == existing.manifest["port_base"], where
            files = set(existing.manifest["managed"])
            if ordered:
                compose_files = existing.variables["COMPOSE_FILE"].split(":")
                files |= {*compose_files, _GATEWAY_FILES["overlays/kong.yml" in compose_files]}
            self._check_complete(name, files, where)
        self._check_kept(self.before, found, where)
        bases = [entry.port_base for entry in found.values()]
        assert len(set(bases)) == len(bases) == len({entry.subnet for entry in found.values()}), where
        # The index may be behind; what is read of it is not.
        assert {name: (row.port_base, row.subnet) for name, row in _registry.load(layout).items()} == {
            name: entry[:2] for name, entry in found.items()
        }, where
        if (root / "registry.json").exists():
            for name, row in registry_of(root).items():
                assert name not in found or (row["port_base"], row["subnet"]) == found[name][:2], where
        check_secrecy(root, where)
        return found

    def _check_complete(self, name: str, files: Collection[str], where: str) -> None:
        """Files of an instance lie there, but for those that the work removes."""
        places = {file: "projects/{0}/{1}".format(name, file) for file in files}
        missing = sorted(
            file for file, path in places.items() if path in self.complete and not (self.root / path).is_file()
        )
        assert missing == [], "{0}: {1} lacks {2}".format(where, name, ", ".join(missing))

    @staticmethod
    def _check_kept(earlier: Mapping[str, Facts], later: Mapping[str, Facts], where: str) -> None:
        for name, entry in earlier.items():
            if name in later:
                assert later[name][:3] == entry[:3], "{0}: {1} got other ports or another salt".format(where, name)
                lost = [key for key, value in entry.secrets.items() if later[name].secrets.get(key) != value]
                assert lost == [], "{0}: {1} lost {2}".format(where, name, ", ".join(lost))

    def _check_finished(self, found: Mapping[str, Facts], where: str) -> None:
        root = self.root
        assert unfinished(root) == [], where
        after = shape(root)
        for what in sorted({*after, *self.complete}):
            assert after.get(what) == self.complete.get(what), "{0}: {1} is not as without an interruption".format(
                where, what
            )
        now = facts(root)
        self._check_kept(found, now, where)
        for name in now:
            managed = set(manifest_of(root, name)["managed"])
            directory = root / "projects" / name
            there = {str(path.relative_to(directory)) for path in directory.glob("env/*")}
            there |= {file for file in _GATEWAY_FILES if (directory / file).exists()}
            assert there == {file for file in managed if file in there or file.startswith("env/")}, where
        for name, row in registry_of(root).items():
            assert (row["port_base"], row["subnet"]) == now[name][:2], where
            assert edited_secrets(read_existing(Layout(str(root)), name)) == [], where + ": wrong fingerprints"
        check_secrecy(root, where)
        untouched = snapshot(root, times=True)
        again = [result.name for result in self.work() if result.changed]
        assert again == [], "{0}: a further run changed {1}".format(where, ", ".join(again))
        # The lock file is opened, not changed.
        assert snapshot(root, times=True) == untouched, where + ": a further run wrote something"


def secret_values(root: Path) -> Dict[str, str]:
    """Return every secret that lies below a root, value to name, those in unfinished files too."""
    found: Dict[str, str] = {}
    for path in snapshot(root):
        if os.path.basename(path).startswith(".env"):
            for line in (root / path).read_text(encoding="utf-8").splitlines():
                name, _separator, value = line.partition("=")
                # Shorter ones are cut off, or what stands for keys that are off.
                if name in _SECRET_VARIABLES and len(value) >= 16:
                    found[value] = name[len(UNUSED) :] if name.startswith(UNUSED) else name
    return found


def check_secrecy(root: Path, where: str) -> None:
    """Check that secrets lie in files for their owner only, in directories of instances, which are closed too."""
    secrets = {**secret_values(root), CANARY: "a secret of the user"}
    for relative in snapshot(root):
        path = root / relative
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        held = {name for value, name in secrets.items() if value in text}
        if not held:
            continue
        parts = relative.split("/")
        place = "{0}: {1} holds {2}".format(where, relative, ", ".join(sorted(held)))
        assert parts[0] == "projects" and len(parts) > 2, place
        directory = root / "projects" / parts[1]
        assert stat.S_IMODE(directory.lstat().st_mode) == 0o700, place + ", below an open directory"
        inside = "/".join(parts[2:])
        inside = inside[: -len(_TEMPORARY)] if inside.endswith(_TEMPORARY) else inside
        if inside in _GATEWAY_FILES:
            assert held <= (_IN_KONG if "kong" in inside else _IN_GATEWAY_FILES), place
        else:
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600, place + ", open to others"


def tried(check: Callable[[], None]) -> List[str]:
    """Return what a check that failed said, as the only element; nothing when it did not fail."""
    try:
        check()
    except Exception as error:
        return ["{0}: {1}".format(type(error).__name__, (str(error).splitlines() or [""])[0])]
    return []


def summary(failed: Sequence[str], count: int) -> str:
    """Return what to say of a sweep of so many points."""
    return "\n".join(["{0} of {1} failed; the first:".format(len(failed), count), *failed[:8]])
