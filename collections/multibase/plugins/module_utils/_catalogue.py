# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The backups of an instance: their names, their manifests, and whether both can be trusted.

A backup is a set of files ``<stem>.<part>`` of which ``<stem>.manifest.json`` came last; without it there is no backup.
The manifest names every file with its size and SHA-256 and is signed with a key of the host, so that a file that came
from elsewhere, or was changed, is known before anything is done with it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional

from ._errors import IntegrityFailed, StateCorrupt, UnknownInstance
from ._layout import Layout
from ._publish import discard_temporary_files, replace_file, sync_directory, write_new

SCHEMA = 1
MANIFEST = ".manifest.json"
PARTIAL = ".partial"
# What the manifest of a backup is called while its files are being removed.
REMOVING = ".removing"
STEM = re.compile(r"[0-9]{8}T[0-9]{9}Z\Z")
_PART = re.compile(r"(?P<stem>[0-9]{8}T[0-9]{9}Z)\.[A-Za-z0-9_.-]+\Z")
# What this version and earlier ones call the files of a backup.
_OWN_PART = re.compile(
    r"(?P<stem>[0-9]{8}T[0-9]{9}Z)(?:"
    r"(?:\.(?:_supabase|db-[A-Za-z0-9_]{1,63}))?(?:\.sql\.gz|\.dump|\.extensions\.sql\.gz)"
    r"|\.(?:globals|passwords)\.sql\.gz|\.(?:storage|functions|config)\.tar\.gz)\Z"
)
# Older than any run that goes on: its timeouts are hours.
_ORPHAN_SECONDS = 7 * 86400
_KEY_BYTES = 32
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Backup:
    """One published backup: its directory, its stem, its manifest, and whether this host's key signed it."""

    directory: str
    stem: str
    manifest: Dict[str, Any]
    signed: bool

    def path(self, part: str) -> str:
        """Return the path of the file that plays a part, as ``postgres`` or ``storage``."""
        for name, about in self.manifest["parts"].items():
            if about["part"] == part:
                return os.path.join(self.directory, name)
        raise IntegrityFailed("backup {0} has no part {1}".format(self.stem, part))

    def has(self, part: str) -> bool:
        """Whether it has such a part."""
        return any(about["part"] == part for about in self.manifest["parts"].values())

    @property
    def verified(self) -> bool:
        return bool(self.manifest.get("verified"))

    @property
    def size(self) -> int:
        """Bytes of all its parts."""
        return sum(int(about["size"]) for about in self.manifest["parts"].values())

    @property
    def time(self) -> float:
        """When it was begun, in seconds since 1970."""
        return stem_time(self.stem)


def make_stem(now: float) -> str:
    """Return the stem of a backup that begins now: UTC with milliseconds."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    return "{0:%Y%m%dT%H%M%S}{1:03d}Z".format(moment, moment.microsecond // 1000)


def stem_time(stem: str) -> float:
    """Return the seconds since 1970 that a stem stands for."""
    moment = datetime.datetime.strptime(stem[:15], "%Y%m%dT%H%M%S").replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() + int(stem[15:18]) / 1000.0


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def signing_key(layout: Layout) -> bytes:
    """Return the key that signs manifests, made at its first use."""
    path = layout.signing_key
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = "{0}.{1}".format(path, secrets.token_hex(8))
        write_new(temporary, secrets.token_bytes(_KEY_BYTES), 0o600, sync=True)
        try:
            # Whoever was first keeps its key: a link cannot replace a file.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
        sync_directory(os.path.dirname(path))
    with open(path, "rb") as stream:
        key = stream.read()
    if len(key) != _KEY_BYTES:
        # With an empty key anybody could sign.
        raise StateCorrupt("{0} has {1} bytes instead of {2}; put it back".format(path, len(key), _KEY_BYTES))
    return key


def signature(manifest: Mapping[str, Any], key: bytes) -> str:
    """Return the HMAC-SHA256 of a manifest without its signature."""
    content = {name: value for name, value in manifest.items() if name != "signature"}
    return hmac.new(key, json.dumps(content, sort_keys=True).encode("utf-8"), hashlib.sha256).hexdigest()


def signed_bytes(layout: Layout, manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest with its signature."""
    signed = {**manifest, "signature": signature(manifest, signing_key(layout))}
    return (json.dumps(signed, indent=1, sort_keys=True) + "\n").encode("utf-8")


def publish(layout: Layout, directory: str, manifest: Mapping[str, Any], sign: bool = True) -> None:
    """Give the parts of a backup, staged and synced as ``<name>.partial``, their names, and its manifest last.

    The manifest is staged first: from that moment a second run finishes what this one began. One that came from
    elsewhere is not signed, so that restoring it asks for trust.
    """
    staged = os.path.join(directory, manifest["stem"] + MANIFEST + PARTIAL)
    content = signed_bytes(layout, manifest)
    if not sign:
        content = (json.dumps({**manifest, "signature": ""}, indent=1, sort_keys=True) + "\n").encode("utf-8")
    write_new(staged, content, 0o600, sync=True)
    sync_directory(directory)
    _finish(directory, staged, manifest)


def _finish(directory: str, staged: str, manifest: Mapping[str, Any]) -> None:
    for name in sorted(manifest["parts"]):
        path = os.path.join(directory, name)
        if os.path.lexists(path + PARTIAL):
            os.rename(path + PARTIAL, path)
    sync_directory(directory)
    os.rename(staged, staged[: -len(PARTIAL)])
    sync_directory(directory)


def recover(directory: str) -> List[str]:
    """Finish or discard what an interrupted backup left in a directory; return the stems that were finished.

    The caller holds the lock of the instance's data. Only names that end in ``.partial`` and begin with a stem of ours
    are ever deleted: a part whose manifest somebody lost stays. What a deletion left is told by its own manifest.
    """
    finished = []
    _go_on_removing(directory)
    entries = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    entries = [entry for entry in entries if not os.path.isdir(os.path.join(directory, entry))]
    discard_temporary_files(directory)
    for entry in entries:
        if not entry.endswith(MANIFEST + PARTIAL) or not _PART.match(entry):
            continue
        staged = os.path.join(directory, entry)
        try:
            with open(staged, encoding="utf-8") as stream:
                manifest = json.load(stream)
            _check_parts(manifest["parts"], entry[: -len(MANIFEST + PARTIAL)], staged)
            names = [os.path.join(directory, name) for name in manifest["parts"]]
            if manifest["stem"] != entry[: -len(MANIFEST + PARTIAL)]:
                continue
        except (ValueError, KeyError, TypeError, RecursionError, IntegrityFailed):
            continue
        if all(os.path.isfile(name) or os.path.isfile(name + PARTIAL) for name in names):
            _finish(directory, staged, manifest)
            finished.append(str(manifest["stem"]))
    for entry in entries:
        if entry.endswith(PARTIAL) and _PART.match(entry):
            try:
                os.unlink(os.path.join(directory, entry))
            except FileNotFoundError:
                continue
    return finished


def rewrite_manifest(layout: Layout, backup: Backup, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a published backup, as when it was verified."""
    replace_file(os.path.join(backup.directory, backup.stem + MANIFEST), signed_bytes(layout, manifest), 0o600)


def read(layout: Layout, directory: str, stem: str, instance: Optional[str] = None) -> Backup:
    """Read a backup's manifest. Raises IntegrityFailed when it is not one, UnknownInstance when there is none.

    ``instance`` is whose backup it must be: that after which the directory is called, unless it is said. A backup in
    the directory of another instance would bring that one's data under a wrong name, signature and all.
    """
    path = os.path.join(directory, stem + MANIFEST)
    try:
        with open(path, encoding="utf-8") as stream:
            manifest = json.load(stream)
        stem_time(stem)
    except FileNotFoundError:
        raise UnknownInstance("there is no backup {0} in {1}".format(stem, directory)) from None
    except (ValueError, RecursionError) as error:
        raise IntegrityFailed("{0} is damaged: {1}".format(path, error)) from error
    if not isinstance(manifest, dict) or manifest.get("stem") != stem:
        raise IntegrityFailed("{0} is no manifest of this backup".format(path))
    if manifest.get("schema") != SCHEMA:
        raise IntegrityFailed(
            "{0} has schema {1!r}; this version of Multibase reads {2}".format(path, manifest.get("schema"), SCHEMA)
        )
    expected = os.path.basename(os.path.abspath(directory)) if instance is None else instance
    if manifest.get("instance") != expected:
        whose = str(manifest.get("instance"))
        raise IntegrityFailed(
            "{0} is of instance {1!r}, not of {2}: move the files of this backup to {3}, and restore it from there "
            "with multibase-host restore {2} {4} --from {1}".format(
                path, whose, expected, layout.backups(os.path.basename(whose)), stem
            )
        )
    _check_parts(manifest.get("parts"), stem, path)
    given = str(manifest.get("signature", "")).encode("utf-8", "surrogatepass")
    signed = hmac.compare_digest(given, signature(manifest, signing_key(layout)).encode("ascii"))
    return Backup(directory, stem, manifest, signed)


def _check_parts(parts: Any, stem: str, path: str) -> None:
    """Check what a manifest says of its files. Raises IntegrityFailed."""
    if not isinstance(parts, dict):
        raise IntegrityFailed("{0} names no files".format(path))
    for name, about in parts.items():
        found = _PART.match(name)
        if not found or found.group("stem") != stem:
            raise IntegrityFailed("{0} names the file {1!r}, which is not of this backup".format(path, name))
        right = isinstance(about, dict) and isinstance(about.get("part"), str) and isinstance(about.get("sha256"), str)
        if not right or not isinstance(about.get("size"), int) or about["size"] < 0:
            raise IntegrityFailed("{0} does not say what the file {1!r} is".format(path, name))


def listing(layout: Layout, name: str) -> List[Backup]:
    """Return the readable backups of an instance, oldest first. Files without a manifest of ours are not looked at."""
    directory = layout.backups(name)
    found = []
    for stem in stems(directory):
        try:
            found.append(read(layout, directory, stem))
        except (IntegrityFailed, UnknownInstance):  # damaged, or deleted since it was listed
            continue
    return found


def stems(directory: str) -> List[str]:
    """Return the stems that have a manifest, oldest first."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = [entry[: -len(MANIFEST)] for entry in entries if entry.endswith(MANIFEST)]
    return sorted(stem for stem in found if STEM.match(stem))


def choose(layout: Layout, name: str, wanted: str) -> Backup:
    """Return the backup that is meant: a stem, or ``latest`` for the newest that was verified.

    Raises UnknownInstance naming those that there are.
    """
    directory = layout.backups(name)
    if wanted != "latest":
        if STEM.match(wanted):
            return read(layout, directory, wanted)
        raise UnknownInstance(
            "{0!r} names no backup; say latest, or one of: {1}".format(
                wanted, ", ".join(stems(directory)) or "there is none"
            )
        )
    good = [backup for backup in listing(layout, name) if backup.verified and backup.signed]
    if not good:
        there = ", ".join(stems(directory))
        raise UnknownInstance(
            "instance {0} has no verified backup in {1}{2}".format(
                name, directory, "; not verified: {0}. Name one to take it all the same".format(there) if there else ""
            )
        )
    return good[-1]


def check_files(backup: Backup) -> None:
    """Compare every part with the manifest. Raises IntegrityFailed naming all that differ."""
    wrong = []
    for name, about in sorted(backup.manifest["parts"].items()):
        path = os.path.join(backup.directory, name)
        try:
            size = os.stat(path).st_size
            if size != about["size"]:
                wrong.append("{0} has {1} bytes instead of {2}".format(name, size, about["size"]))
            elif file_sha256(path) != about["sha256"]:
                wrong.append("{0} has another SHA-256 than when it was written".format(name))
        except FileNotFoundError:
            wrong.append("{0} is missing".format(name))
    if wrong:
        raise IntegrityFailed("backup {0} is not what was written: {1}".format(backup.stem, "; ".join(wrong)))


def complete(backup: Backup) -> bool:
    """Whether every part is there with the size that the manifest says; cheap, and says nothing of the content."""
    for name, about in backup.manifest["parts"].items():
        try:
            status = os.lstat(os.path.join(backup.directory, name))
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != about["size"]:
            return False
    return True


def remove(backup: Backup) -> None:
    """Delete a backup. First its manifest gets another name: what is left then is no backup, and goes when resumed."""
    path = os.path.join(backup.directory, backup.stem + MANIFEST)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, path + REMOVING)
        sync_directory(backup.directory)
    _remove_files(backup.directory, backup.stem, backup.manifest["parts"])


def _remove_files(directory: str, stem: str, parts: Iterable[str]) -> None:
    for name in [*sorted(parts), stem + MANIFEST + REMOVING]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    sync_directory(directory)


def _go_on_removing(directory: str) -> None:
    """Finish the deletions that were interrupted; the caller holds the lock of the instance's data."""
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
        stem = entry[: -len(MANIFEST + REMOVING)]
        path = os.path.join(directory, entry)
        if not entry.endswith(MANIFEST + REMOVING) or not STEM.match(stem) or not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8") as stream:
                parts = json.load(stream)["parts"]
            _check_parts(parts, stem, path)
        except (ValueError, KeyError, TypeError, RecursionError, IntegrityFailed):
            # Whatever it is, it names nothing that could be removed.
            continue
        if not os.path.lexists(os.path.join(directory, stem + MANIFEST)):
            _remove_files(directory, stem, parts)


def orphans(directory: str, now: float) -> List[str]:
    """Return files that are called as parts of a backup and belong to none: an earlier version left them when killed.

    Only those whose stem has no manifest in any state, and that nobody wrote to for a week. The caller holds the lock
    of the instance's data, and decides: it may be the manifest that somebody lost.
    """
    try:
        entries = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    known = {entry.split(".", 1)[0] for entry in entries if MANIFEST in entry}
    found = []
    for entry in entries:
        match = _OWN_PART.match(entry)
        if match is None or match.group("stem") in known:
            continue
        with contextlib.suppress(OSError):
            status = os.lstat(os.path.join(directory, entry))
            if stat.S_ISREG(status.st_mode) and now - max(status.st_mtime, status.st_ctime) > _ORPHAN_SECONDS:
                found.append(entry)
    return found


def summary(backup: Backup, now: float, problem: Optional[str] = None) -> Dict[str, Any]:
    """Return what ``backup_info`` shows of a backup."""
    manifest = backup.manifest
    verified = manifest.get("verified") or {}
    return {
        "stem": backup.stem,
        "created": manifest.get("created"),
        "age_seconds": int(now - backup.time),
        "size": backup.size,
        "scope": manifest.get("scope"),
        "format": manifest.get("format"),
        "verified": bool(verified),
        "verified_at": verified.get("at"),
        "signed": backup.signed,
        "pinned": bool(manifest.get("pinned")),
        "release": manifest.get("release"),
        "server_version": manifest.get("server_version"),
        "directory": backup.directory,
        "where": ["local", *sorted(manifest.get("offsite") or {})],
        "problem": problem,
    }
