# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Copies of backups outside the host: what leaves it, how encrypted, and back again.

A copy is a backup of its own: a manifest that names the files that are there, signed like every manifest of this host,
and those files. What holds secrets (``.env``, the Vault key, hashes of passwords) leaves the host only encrypted: for
recipients of age, or in a restic repository, which encrypts everything. Without either it stays, and the copy's
manifest says so.

Manifests leave as they are to restic only. Users keep secrets in settings of their own of databases and roles, such as
``app.settings.jwt_secret``: settings with a dot in their name. To other targets these go in an encrypted file of their
own, and come back into the manifest, or they stay.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, cast

from . import _catalogue, _offsite, _restore_journal, _retention
from ._database import end, last_words
from ._errors import IntegrityFailed, InvalidInput, Refused, StateCorrupt, UnknownInstance
from ._layout import Layout
from ._offsite import OffsiteFailed, Target
from ._process import clean_environment
from ._publish import write_new
from ._registry import read_json
from ._sql_lines import Scanner

TARGETS_FILE = "backup-targets.json"
ENCRYPTED = ".age"
SETTINGS = ".settings.json"
_SETTINGS_PART = "settings"
# What pg_dumpall writes for a role's setting with a dot in its name, which it quotes.
_ROLE_SETTING = re.compile(
    rb"ALTER ROLE (?:\"(?:[^\"]|\"\")+\"|[^\s\"]+) (?:IN DATABASE (?:\"(?:[^\"]|\"\")+\"|[^\s\"]+) )?"
    rb"SET \"?(?:[^\"=\s]|\"\")+\.",
    re.IGNORECASE,
)
_ROLE_SETTINGS = 8  # which element of a role in a manifest holds its settings
_SLOWEST = _offsite.SLOWEST
_CHUNK = 1 << 20
_PIPE = 4096  # what a pipe that is ready for writing takes without waiting
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
    notes: List[str] = field(default_factory=list)
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


def _age(argv: Sequence[str], what: str, timeout: float, source: Optional[str] = None) -> str:
    """Run age; it reads and writes files, and keys stand in files too. Return the SHA-256 of what it was fed.

    ``source`` is a file that is fed to it, and hashed on the way: what is encrypted is what is compared.
    """
    digest = hashlib.sha256()
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as open_files:
        errors = open_files.enter_context(tempfile.TemporaryFile())
        stream = open_files.enter_context(open(source, "rb")) if source is not None else None
        try:
            process = subprocess.Popen(
                ["age", *argv], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
                env=clean_environment(), start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise OffsiteFailed("age is not installed on this host (Debian: apt-get install age)") from error
        try:
            pipe = cast("IO[bytes]", process.stdin)
            with contextlib.suppress(BrokenPipeError):
                for chunk in iter(lambda: stream.read(_CHUNK) if stream is not None else b"", b""):
                    digest.update(chunk)
                    _feed(pipe, chunk, deadline)
                pipe.close()
            code = process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise OffsiteFailed("{0}: age did not end within {1:.0f} s".format(what, timeout)) from None
        finally:
            end(process)
        if code != 0:
            raise OffsiteFailed("{0}: age ended with {1}: {2}".format(what, code, last_words(errors)))
    return digest.hexdigest()


def _feed(pipe: IO[bytes], chunk: bytes, deadline: float) -> None:
    """Write to a program, piece by piece, as long as it reads. Raises TimeoutExpired."""
    for start in range(0, len(chunk), _PIPE):
        if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
            raise subprocess.TimeoutExpired("age", 0)
        pipe.write(chunk[start : start + _PIPE])
        pipe.flush()


def _is_own(entry: Any) -> bool:
    """Whether a setting, as ``name=value``, is one of the user's or of an extension: only they can hold secrets."""
    return "." in str(entry).partition("=")[0]


def reduced(manifest: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return a manifest without the settings that may hold secrets, and what ``completed`` needs to put them back.

    The latter is empty when there are none.
    """
    taken: Dict[str, Any] = {"databases": {}, "roles": {}}
    databases, roles = {}, {}
    for name, about in (manifest.get("databases") or {}).items():
        databases[name] = about
        settings = (about.get("fingerprint") or {}).get("settings") or []
        if any(_is_own(entry) for _role, entry in settings):
            taken["databases"][name] = settings
            kept = [[role, entry] for role, entry in settings if not _is_own(entry)]
            databases[name] = {**about, "fingerprint": {**about["fingerprint"], "settings": kept}}
    for name, about in (manifest.get("roles") or {}).items():
        roles[name] = about
        if len(about) > _ROLE_SETTINGS and any(map(_is_own, about[_ROLE_SETTINGS])):
            taken["roles"][name] = about[_ROLE_SETTINGS]
            roles[name] = [*about]
            roles[name][_ROLE_SETTINGS] = [entry for entry in about[_ROLE_SETTINGS] if not _is_own(entry)]
    small = {**manifest}
    small.update({key: value for key, value in (("databases", databases), ("roles", roles)) if key in manifest})
    return small, taken if taken["databases"] or taken["roles"] else {}


def completed(manifest: Mapping[str, Any], taken: Any) -> Dict[str, Any]:
    """Return a manifest with the settings that ``reduced`` took out. Raises IntegrityFailed."""
    whole = json.loads(json.dumps(manifest))
    try:
        for name, settings in taken["databases"].items():
            whole["databases"][name]["fingerprint"]["settings"] = settings
        for name, settings in taken["roles"].items():
            whole["roles"][name][_ROLE_SETTINGS] = settings
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise IntegrityFailed("the settings of backup {0} do not belong to it".format(manifest.get("stem"))) from error
    return dict(whole)


def without_role_settings(text: bytes) -> bytes:
    """Return the SQL of roles without statements that give them settings with a dot in their name."""
    scanner, statement, kept = Scanner(), b"", []
    for line in text.splitlines(keepends=True):
        scanner.read(line)
        statement += line
        if scanner.resting:
            if not _ROLE_SETTING.match(statement):
                kept.append(statement)
            statement = b""
    return b"".join([*kept, statement])


def _public_globals(source: str, target: str) -> bool:
    """Write the roles of a backup without what may be secret in their settings; return whether there was any."""
    with gzip.open(source, "rb") as stream:
        text = stream.read()
    small = without_role_settings(text)
    if small != text:
        write_new(target, gzip.compress(small, mtime=0), 0o600, sync=True)
    return small != text


def _about(path: str) -> Dict[str, Any]:
    return {"size": os.stat(path).st_size, "sha256": _catalogue.file_sha256(path)}


def _encrypt(to: Destination, source: str, target: str, about: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
    """Encrypt a file for the recipients; return what the copy's manifest says of it. Raises IntegrityFailed."""
    options = [word for key in to.recipients for word in ("--recipient", key)]
    file = os.path.basename(source)
    limit = timeout + int(about["size"]) / _SLOWEST
    fed = _age([*options, "--output", target], file, limit, source)
    if fed != about["sha256"]:
        raise IntegrityFailed(
            "{0} has another SHA-256 than when it was written; nothing was copied. Its copies elsewhere may be "
            "good".format(file)
        )
    return {**about, **_about(target), "plain": {"size": about["size"], "sha256": about["sha256"]}}


def send(layout: Layout, to: Destination, backup: _catalogue.Backup, timeout: float) -> Copied:
    """Copy a backup to a destination and read it back, then let go of what its policy does not keep there.

    The caller holds the lock of the instance's data. Raises OffsiteFailed; the local backup is as good as before.
    Raises Refused for what this host neither verified nor signed: the copy and the manifest here are signed anew.
    Raises IntegrityFailed before anything is copied when a file here is not what was written.
    """
    if not backup.signed:
        raise Refused(
            "backup {0} was not signed by this host; copying it would sign it. Restore it, if you trust it, and take a "
            "backup of that".format(backup.stem)
        )
    if not backup.verified:
        raise Refused("backup {0} was not verified; only what can be restored is copied".format(backup.stem))
    started = time.monotonic()
    name = str(backup.manifest["instance"])
    copied = Copied(to.target.name, backup.stem)
    if to.recipients:
        # The rest is seen when it is encrypted, and nothing leaves before all is.
        _check_sizes(backup)
    else:
        # A good copy there is not replaced by a bad one.
        _catalogue.check_files(backup)
    with _staging(backup.directory) as staging:
        parts: Dict[str, Dict[str, Any]] = {}
        manifest: Dict[str, Any] = dict(backup.manifest)
        settings: Dict[str, Any] = {}
        if to.recipients or not to.encrypted:
            manifest, settings = reduced(backup.manifest)
        for file, about in sorted(backup.manifest["parts"].items()):
            if about["secret"] and not to.encrypted:
                copied.left_out.append(file)
                continue
            source = os.path.join(backup.directory, file)
            target = os.path.join(staging, file)
            if to.recipients:
                target += ENCRYPTED
                parts[file + ENCRYPTED] = _encrypt(to, source, target, about, timeout)
            elif not to.encrypted and about["part"] == "globals" and _public_globals(source, target):
                parts[file] = {**about, **_about(target)}
            else:
                os.link(source, target)
                parts[file] = dict(about)
        if settings:
            file = backup.stem + SETTINGS
            if to.recipients:
                plain = os.path.join(staging, file)
                write_new(plain, json.dumps(settings, sort_keys=True).encode("utf-8"), 0o600)
                about = {"part": _SETTINGS_PART, "secret": True, **_about(plain)}
                parts[file + ENCRYPTED] = _encrypt(to, plain, plain + ENCRYPTED, about, timeout)
                os.unlink(plain)
            else:
                copied.left_out.append(file)
        manifest = {**manifest, "parts": parts, "left_out": copied.left_out, "offsite": {}}
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
        _prune(to, name, time.time(), timeout, copied)
    copied.seconds = round(time.monotonic() - started, 1)
    return copied


def _check_sizes(backup: _catalogue.Backup) -> None:
    if not _catalogue.complete(backup):
        # It names what is wrong.
        _catalogue.check_files(backup)


def _prune(to: Destination, name: str, now: float, timeout: float, copied: Copied) -> None:
    """Remove from a destination what its policy does not keep there; only verified backups were ever copied to it."""
    if to.policy is None:
        return
    stems = [one["stem"] for one in _offsite.listing(to.target, name, timeout) if _catalogue.STEM.match(one["stem"])]
    entries = [_retention.Entry(stem, _catalogue.stem_time(stem), True, 0) for stem in stems]
    plan = _retention.plan(entries, to.policy, now)
    if plan.doubtful:
        copied.notes.append("nothing was pruned on {0}: {1}".format(to.target.name, plan.refused))
    for stem in plan.remove:
        _offsite.remove(to.target, name, stem, timeout)
    if plan.remove:
        _offsite.prune(to.target, timeout)
    copied.removed = plan.remove


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
                limit = timeout + int(about["size"]) / _SLOWEST
                _age(["--decrypt", "--identity", identity, "--output", os.path.join(staging, plain), path], file, limit)
                about = {**about, **(about.get("plain") or {})}
                about.pop("plain", None)
                if _catalogue.file_sha256(os.path.join(staging, plain)) != about["sha256"]:
                    raise IntegrityFailed("{0}: what was decrypted is not what was backed up".format(file))
            parts[plain] = about
        manifest = dict(copy.manifest)
        for file in [file for file, about in parts.items() if about["part"] == _SETTINGS_PART]:
            manifest = completed(manifest, _read_settings(os.path.join(staging, file)))
            del parts[file]
        # Somebody wants it: no policy takes it away again.
        manifest.update(parts=parts, pinned=True)
        if not copy.signed:
            # Whoever wrote that it was verified was not this host.
            manifest["verified"] = None
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


def _read_settings(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (ValueError, RecursionError) as error:
        raise IntegrityFailed("{0} is damaged: {1}".format(os.path.basename(path), error)) from error


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
