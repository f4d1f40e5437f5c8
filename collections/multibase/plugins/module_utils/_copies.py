# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Copies of backups outside the host: what leaves it, how encrypted, and back again.

A copy is a backup of its own: a manifest that names the files that are there, signed like every manifest of this host,
and those files. What holds secrets (``.env``, the Vault key, hashes of passwords) leaves the host only encrypted: for
recipients of age, or in a restic repository, which encrypts everything. Without either it stays, and the copy's
manifest says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from . import _catalogue, _offsite, _restore_journal, _retention
from ._database import last_words
from ._errors import IntegrityFailed, InvalidInput, StateCorrupt, UnknownInstance
from ._layout import Layout
from ._offsite import OffsiteFailed, Target
from ._process import clean_environment
from ._publish import write_new
from ._registry import read_json

TARGETS_FILE = "backup-targets.json"
ENCRYPTED = ".age"
_STAGING_PREFIX = ".offsite-"
_KEYS = ("name", "kind", "options", "recipients", "retention", "instances")


@dataclass(frozen=True)
class Destination:
    """A target with what this host does with it: age recipients, a policy, and the instances that it is for (all)."""

    target: Target
    recipients: Sequence[str] = ()
    policy: Optional[_retention.Policy] = None
    instances: Sequence[str] = ()

    @property
    def encrypted(self) -> bool:
        """Whether nobody can read there what is copied."""
        return bool(self.recipients) or self.target.kind == "restic"


@dataclass
class Copied:
    """What came of copying one backup to one target."""

    target: str
    stem: str
    files: List[str] = field(default_factory=list)
    left_out: List[str] = field(default_factory=list)
    removed: List[str] = field(default_factory=list)
    seconds: float = 0.0


def destination_problems(declared: Any) -> List[str]:
    """Say everything that is wrong with declared destinations, a list of mappings; never a secret."""
    if not isinstance(declared, list):
        return ["backup targets must be a list"]
    problems: List[str] = []
    for index, one in enumerate(declared):
        if not isinstance(one, Mapping):
            problems.append("backup target {0} must be a mapping".format(index + 1))
            continue
        where = "offsite target {0}: ".format(one.get("name"))
        unknown = sorted(set(map(str, one)) - set(_KEYS))
        problems += [where + "unknown key {0!r}".format(key) for key in unknown]
        problems += _offsite.target_problems({key: one.get(key) for key in ("name", "kind", "options")})
        recipients = one.get("recipients") or []
        if not isinstance(recipients, list) or not all(_is_recipient(text) for text in recipients):
            problems.append(where + "recipients must be a list of age's public keys, each age1...")
        instances = one.get("instances") or []
        if not isinstance(instances, list) or not all(isinstance(name, str) for name in instances):
            problems.append(where + "instances must be a list of names")
        policy = one.get("retention") or {}
        if not isinstance(policy, Mapping):
            problems.append(where + "retention must be a mapping")
        elif policy:
            if policy.get("max_bytes"):
                problems.append(where + "retention: max_bytes is for backups on the host only")
            problems += [where + "retention: " + text for text in _retention.policy_problems(policy)]
    names = [str(one.get("name")) for one in declared if isinstance(one, Mapping)]
    problems += [
        "offsite target {0}: declared twice".format(name) for name in sorted(set(names)) if names.count(name) > 1
    ]
    return problems


def _is_recipient(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("age1") and text.isalnum() and text.islower()


def destinations(layout: Layout) -> List[Destination]:
    """Return the destinations that the controller left on the host. Raises InvalidInput, StateCorrupt."""
    path = os.path.join(layout.state, TARGETS_FILE)
    if not os.path.exists(path):
        return []
    if os.stat(path).st_mode & 0o077:
        raise StateCorrupt("{0} holds secrets and others can read it: chmod 600 {0}".format(path))
    declared = read_json(path)
    problems = destination_problems(declared)
    if problems:
        raise InvalidInput(problems)
    return [
        Destination(
            Target(str(one["name"]), str(one["kind"]), dict(one["options"])),
            tuple(one.get("recipients") or ()),
            _retention.read_policy(one["retention"]) if one.get("retention") else None,
            tuple(one.get("instances") or ()),
        )
        for one in declared
    ]


def destination(layout: Layout, name: str) -> Destination:
    """Return one destination by its name. Raises UnknownInstance naming those that there are."""
    known = {one.target.name: one for one in destinations(layout)}
    if name not in known:
        raise UnknownInstance("there is no offsite target {0}; there are: {1}".format(name, ", ".join(known) or "none"))
    return known[name]


@contextlib.contextmanager
def _staging(directory: str) -> Iterator[str]:
    """Make a private directory beside backups, and remove it with those that killed runs left; under the data lock."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for entry in os.listdir(directory):
        if entry.startswith(_STAGING_PREFIX):
            _restore_journal.remove_tree(os.path.join(directory, entry))
    path = tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=directory)
    try:
        yield path
    finally:
        _restore_journal.remove_tree(path)


def _age(argv: Sequence[str], what: str, timeout: float) -> None:
    """Run age; it reads and writes files, and keys stand in files too."""
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                ["age", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, check=False,
                env=clean_environment(), timeout=timeout,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise OffsiteFailed("age is not installed on this host (Debian: apt-get install age)") from error
        except subprocess.TimeoutExpired:
            raise OffsiteFailed("{0}: age did not end within {1:.0f} s".format(what, timeout)) from None
        if done.returncode != 0:
            raise OffsiteFailed("{0}: age ended with {1}: {2}".format(what, done.returncode, last_words(errors)))


def send(layout: Layout, to: Destination, backup: _catalogue.Backup, timeout: float) -> Copied:
    """Copy a backup to a destination and read it back, then let go of what its policy does not keep there.

    The caller holds the lock of the instance's data. Raises OffsiteFailed; the local backup is as good as before.
    """
    started = time.monotonic()
    name = str(backup.manifest["instance"])
    copied = Copied(to.target.name, backup.stem)
    with _staging(backup.directory) as staging:
        parts: Dict[str, Dict[str, Any]] = {}
        for file, about in sorted(backup.manifest["parts"].items()):
            if about["secret"] and not to.encrypted:
                copied.left_out.append(file)
                continue
            source = os.path.join(backup.directory, file)
            if to.recipients:
                target = os.path.join(staging, file + ENCRYPTED)
                options = [word for key in to.recipients for word in ("--recipient", key)]
                _age([*options, "--output", target, source], file, timeout)
                parts[file + ENCRYPTED] = {
                    **about, "size": os.stat(target).st_size, "sha256": _catalogue.file_sha256(target),
                    "plain": {"size": about["size"], "sha256": about["sha256"]},
                }  # fmt: skip
            else:
                os.link(source, os.path.join(staging, file))
                parts[file] = dict(about)
        manifest = {**backup.manifest, "parts": parts, "left_out": copied.left_out, "offsite": {}}
        manifest.pop("signature", None)
        file = backup.stem + _catalogue.MANIFEST
        write_new(os.path.join(staging, file), _catalogue.signed_bytes(layout, manifest), 0o600, sync=True)
        evidence = _offsite.upload(to.target, staging, name, list(parts), file, timeout)
    copied.files = sorted([*parts, file])
    local = dict(backup.manifest)
    local["offsite"] = {
        **(local.get("offsite") or {}),
        to.target.name: {
            "kind": to.target.kind, "seconds": evidence["seconds"], "read_back": True, "left_out": copied.left_out,
            "encrypted": "age" if to.recipients else "restic" if to.target.kind == "restic" else None,
        },
    }  # fmt: skip
    _catalogue.rewrite_manifest(layout, backup, local)
    if to.policy is not None:
        copied.removed = _prune(to, name, time.time(), timeout)
    copied.seconds = round(time.monotonic() - started, 1)
    return copied


def _prune(to: Destination, name: str, now: float, timeout: float) -> List[str]:
    """Remove from a destination what its policy does not keep there; only verified backups were ever copied to it."""
    stems = [one["stem"] for one in _offsite.listing(to.target, name, timeout) if _catalogue.STEM.match(one["stem"])]
    entries = [_retention.Entry(stem, _catalogue.stem_time(stem), True, 0) for stem in stems]
    plan = _retention.plan(entries, to.policy, now) if to.policy is not None else None
    for stem in plan.remove if plan is not None else []:
        _offsite.remove(to.target, name, stem, timeout)
    if plan is not None and plan.remove:
        _offsite.prune(to.target, timeout)
    return plan.remove if plan is not None else []


def fetch(
    layout: Layout, source: Destination, name: str, stem: str, identity: Optional[str], timeout: float
) -> _catalogue.Backup:
    """Bring a copy back to this host, decrypted; return it as a backup of the instance.

    What this host signed, and nobody changed since, is signed again; anything else stays unsigned, so that restoring it
    asks for trust. ``identity`` is a file with age's private key. The caller holds the lock of the instance's data.
    Raises IntegrityFailed, OffsiteFailed, InvalidInput.
    """
    directory = layout.backups(name)
    if stem in _catalogue.stems(directory):
        raise InvalidInput(["backup {0} of instance {1} is on this host already".format(stem, name)])
    with _staging(directory) as staging:
        _offsite.fetch(source.target, name, stem, staging, timeout)
        copy = _catalogue.read(layout, staging, stem, name)
        parts: Dict[str, Dict[str, Any]] = {}
        for file, about in sorted(copy.manifest["parts"].items()):
            plain = file
            if file.endswith(ENCRYPTED):
                if identity is None:
                    raise InvalidInput(["{0} is encrypted: name the file with age's private key".format(file)])
                plain = file[: -len(ENCRYPTED)]
                path = os.path.join(staging, file)
                _age(
                    ["--decrypt", "--identity", identity, "--output", os.path.join(staging, plain), path], file, timeout
                )
                about = {**about, **(about.get("plain") or {})}
                about.pop("plain", None)
                if _catalogue.file_sha256(os.path.join(staging, plain)) != about["sha256"]:
                    raise IntegrityFailed("{0}: what was decrypted is not what was backed up".format(file))
            parts[plain] = about
        # Somebody wants it: no policy takes it away again.
        manifest = {**copy.manifest, "parts": parts, "pinned": True}
        for file in parts:
            target = os.path.join(directory, file) + _catalogue.PARTIAL
            os.chmod(os.path.join(staging, file), 0o600)
            os.rename(os.path.join(staging, file), target)
            descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _catalogue.publish(layout, directory, manifest, sign=copy.signed)
    return _catalogue.read(layout, directory, stem)


def listing(layout: Layout, name: str, timeout: float) -> List[Dict[str, Any]]:
    """Return the copies of an instance's backups on all destinations: target, stem, number of files."""
    return [
        {"name": name, "target": to.target.name, "stem": one["stem"], "files": len(one["files"])}
        for to in destinations(layout)
        for one in _offsite.listing(to.target, name, timeout)
    ]


def targets_bytes(declared: Any) -> bytes:
    """Return what the controller writes to the host. Raises InvalidInput."""
    problems = destination_problems(declared)
    if problems:
        raise InvalidInput(problems)
    return (json.dumps(declared, indent=1, sort_keys=True) + "\n").encode("utf-8")
