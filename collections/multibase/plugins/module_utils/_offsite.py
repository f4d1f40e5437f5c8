# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Copies of backups outside the host: S3-compatible storage, SFTP, or a restic repository.

The transport is done by rclone and restic, programs of the host. restic reaches other hosts through rclone too, so that
there is one place where credentials are handed over: files with mode 0600 in a private directory that is removed. No
secret stands in an argument, where every user of the host can read it, or in an environment.

A copy counts when its bytes were read back from the target and have the SHA-256 of the local file. On S3 and SFTP a
backup is there when its manifest is, which is uploaded last and removed first; in restic a backup is one snapshot.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ._errors import InvalidInput, MultibaseError
from ._names import name_problem
from ._process import clean_environment
from ._publish import sync_directory
from ._stacks import redact

Evidence = Dict[str, Any]

MANIFEST = ".manifest.json"
PARTIAL = ".partial"
REMOTE = "target"  # what the only section of rclone's configuration is called
HOUR = 3600.0
# Bytes a second that even a slow line moves: a call may take its limit, and longer for what it moves.
SLOWEST = 250_000
# Repacking a repository moves what nobody knows before.
_PRUNING = 12

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_TARGET_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")
_PRIVATE_PREFIX = "multibase-offsite-"
_GRACE_SECONDS = 10.0
_STALE_SECONDS = 60.0
_CHUNK = 1 << 20
_MANIFEST_LIMIT = 1 << 24
_TIMED_OUT = 124
# rclone's exit codes for what is not there, a directory or a file.
_NO_DIRECTORY, _NO_FILE = 3, 4

_S3_ACCESS = {"region", "access_key_id", "secret_access_key", "path_style", "plain_http", "ca_file"}
_SFTP_ACCESS = {"key_file", "password", "known_hosts_file"}
_OPTIONS = {
    "s3": {"endpoint", "bucket", "prefix"} | _S3_ACCESS,
    "sftp": {"host", "port", "user", "path"} | _SFTP_ACCESS,
    "restic": {"repository", "password", "credentials"},
}
_REQUIRED = {
    "s3": ("endpoint", "bucket", "access_key_id", "secret_access_key"),
    "sftp": ("host", "user", "path", "known_hosts_file"),
    "restic": ("repository", "password"),
}
_SECRETS = ("access_key_id", "secret_access_key", "password")
# Patience with the network: a connection that moves nothing for a minute is given up and tried again, thrice at most.
_PATIENCE = {"contimeout": "15s", "timeout": "1m", "retries": "3", "low-level-retries": "3"}


class OffsiteFailed(MultibaseError):
    """A target outside the host could not be reached, or does not hold what was written to it."""

    exit_code = 17


@dataclass(frozen=True)
class Target:
    """Where copies of backups go. ``options`` holds secrets and is not part of what is printed."""

    name: str
    kind: str
    options: Mapping[str, Any] = field(repr=False)

    def secrets(self) -> List[str]:
        """Return what must not appear in a message, also as it would stand in an address."""
        found = []
        for options in (self.options, self.options.get("credentials") or {}):
            found += [str(options[key]) for key in _SECRETS if options.get(key)]
        return found + [urllib.parse.quote(value, safe="") for value in found]

    def remote(self) -> Optional[Tuple[str, Mapping[str, Any]]]:
        """Return the kind and the options of what rclone is to reach; None for a directory of this host."""
        if self.kind != "restic":
            return self.kind, self.options
        address = _repository_address(str(self.options["repository"]))
        if address is None:
            return None
        kind, place = address
        return kind, {**(self.options.get("credentials") or {}), **place}


def target_of(mapping: Mapping[str, Any]) -> Target:
    """Return the target that is declared. Raises InvalidInput with everything that is wrong."""
    problems = target_problems(mapping)
    if problems:
        raise InvalidInput(problems)
    return Target(str(mapping["name"]), str(mapping["kind"]), dict(mapping["options"]))


def target_problems(mapping: Mapping[str, Any]) -> List[str]:
    """Say everything that is wrong with a declared target (``name``, ``kind``, ``options``), never a value of it."""
    name, kind, options = (mapping.get(key) for key in ("name", "kind", "options"))
    problems = ["unknown key {0!r}".format(key) for key in sorted(set(map(str, mapping)) - {"name", "kind", "options"})]
    if not isinstance(name, str) or not _TARGET_NAME.match(name):
        problems.append("name must be lower-case letters, digits, - and _, a letter first, 40 at most")
        name = "?"
    if kind not in _OPTIONS:
        problems.append("kind must be one of {0}".format(", ".join(sorted(_OPTIONS))))
    elif not isinstance(options, Mapping):
        problems.append("options must be a mapping")
    else:
        problems += _option_problems(str(kind), options)
    return ["offsite target {0}: {1}".format(name, problem) for problem in problems]


def _option_problems(kind: str, options: Mapping[str, Any]) -> List[str]:
    problems = _key_problems("", options, _OPTIONS[kind])
    problems += ["{0} is missing".format(key) for key in _REQUIRED[kind] if options.get(key) in (None, "")]
    if kind != "restic":
        return problems + _value_problems("", kind, options)
    password, repository = options.get("password"), options.get("repository")
    credentials = options.get("credentials") or {}
    if password not in (None, ""):
        problems += _text_problems("password", password, secret=True)
    if not isinstance(credentials, Mapping):
        problems.append("credentials must be a mapping")
        return problems
    if repository in (None, ""):
        return problems
    problems += _text_problems("repository", repository)
    try:
        address = _repository_address(str(repository))
    except ValueError as error:
        return [*problems, "repository {0}".format(error)]
    if address is None:
        if credentials:
            problems.append("credentials are of no use for a repository in a directory of the host")
        return problems
    remote, place = address
    problems += _key_problems("credentials.", credentials, _S3_ACCESS if remote == "s3" else _SFTP_ACCESS)
    whole = {**credentials, **place}
    problems += [
        "credentials.{0} is missing".format(key)
        for key in _REQUIRED[remote]
        if key not in place and whole.get(key) in (None, "")
    ]
    return problems + _value_problems("credentials.", remote, whole)


def _key_problems(where: str, options: Mapping[str, Any], known: Any) -> List[str]:
    return ["unknown option {0}{1}".format(where, key) for key in sorted(set(map(str, options)) - set(known))]


def _text_problems(key: str, value: object, secret: bool = False) -> List[str]:
    """Refuse texts that would mean something else in rclone's configuration or restic's password file."""
    if not isinstance(value, str):
        return ["{0} must be a text".format(key)]
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        return ["{0} has a line break or another control character".format(key)]
    if value != value.strip() or value[:1] in ("`", '"') or "%(" in value:
        return ["{0} must not begin or end with a space, begin with a quote, or hold %(".format(key)]
    if secret and len(value) < 4:
        # What is shorter cannot be taken out of messages without taking out half of them.
        return ["{0} is shorter than 4 characters".format(key)]
    return []


def _value_problems(where: str, kind: str, options: Mapping[str, Any]) -> List[str]:
    problems = []
    for key in sorted(set(map(str, options)) & _OPTIONS[kind]):
        value = options[key]
        if value is None or value == "":
            continue
        if key in ("path_style", "plain_http"):
            if not isinstance(value, bool):
                problems.append("{0}{1} must be true or false".format(where, key))
        elif key == "port":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
                problems.append("port must be a number from 1 to 65535")
        else:
            wrong = _text_problems(where + key, value, secret=key in _SECRETS)
            if not wrong and key.endswith("_file") and not value.startswith("/"):
                wrong = ["{0}{1} must be an absolute path".format(where, key)]
            if not wrong and key in ("path", "prefix") and ".." in value.split("/"):
                wrong = ["{0} must not hold ..".format(key)]
            problems += wrong
    if kind == "sftp" and bool(options.get("key_file")) == bool(options.get("password")):
        problems.append("one of {0}key_file and {0}password is needed, and not both".format(where))
    if kind == "s3":
        problems += _s3_problems(options)
    return problems


def _s3_problems(options: Mapping[str, Any]) -> List[str]:
    problems = []
    bucket, endpoint = options.get("bucket"), options.get("endpoint")
    if isinstance(bucket, str) and bucket and not re.match(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z", bucket):
        problems.append("bucket must have 3 to 63 lower-case letters, digits, dots and hyphens")
    if isinstance(endpoint, str) and endpoint:
        try:
            parts = urllib.parse.urlsplit(endpoint)
            host = parts.hostname
        except ValueError:
            return [*problems, "endpoint is no address"]
        if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
            problems.append("endpoint must be like https://s3.example.org, without a path")
        elif parts.username or parts.password:
            problems.append("endpoint must not hold credentials")
        elif parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost") and not options.get("plain_http"):
            # The archive of the configuration holds every secret of an instance.
            problems.append(
                "endpoint is not encrypted; use https, or say plain_http: true for a network that you trust"
            )
    return problems


def _repository_address(repository: str) -> Optional[Tuple[str, Mapping[str, Any]]]:
    """Take an address of restic's apart: kind and place, or None for a path. Raises ValueError saying what is wrong."""
    if repository.startswith("/"):
        return None
    if repository.startswith("s3:"):
        address = repository[3:]
        parts = urllib.parse.urlsplit(address if "://" in address else "https://" + address)
        bucket, _slash, prefix = parts.path.strip("/").partition("/")
        if not bucket:
            raise ValueError("must be like s3:https://s3.example.org/bucket/prefix")
        return "s3", {"endpoint": "{0}://{1}".format(parts.scheme, parts.netloc), "bucket": bucket, "prefix": prefix}
    if repository.startswith("sftp://"):
        parts = urllib.parse.urlsplit(repository)
        if parts.password:
            raise ValueError("must not hold a password")
        # restic takes the path after the slash that ends the host: with two slashes it is absolute.
        place = {"host": parts.hostname or "", "user": parts.username or "", "path": parts.path[1:]}
        if parts.port:
            return "sftp", _filled({**place, "port": parts.port})
        return "sftp", _filled(place)
    found = re.match(r"sftp:(?:(?P<user>[^@:/]+)@)?(?P<host>[^@:/]+):(?P<path>.+)\Z", repository)
    if found:
        return "sftp", _filled({**found.groupdict()})
    raise ValueError("must be an absolute path, or begin with s3: or sftp:")


def _filled(place: Mapping[str, Any]) -> Mapping[str, Any]:
    if not all(place.get(key) for key in ("host", "user", "path")):
        raise ValueError("must be like sftp:user@host:/path")
    return place


def rclone_config(kind: str, options: Mapping[str, Any], obscured: str = "") -> str:
    """Return the text of rclone's configuration. ``obscured`` is the password as ``rclone obscure`` wrote it."""
    if kind == "s3":
        values = {
            "type": "s3",
            "provider": "Other",
            "env_auth": "false",
            "access_key_id": options["access_key_id"],
            "secret_access_key": options["secret_access_key"],
            "endpoint": options["endpoint"],
            "region": options.get("region"),
            "force_path_style": "true" if options.get("path_style", True) else "false",
            # Credentials for one bucket often may not ask for it, and it is not ours to make.
            "no_check_bucket": "true",
        }
    else:
        values = {
            "type": "sftp",
            "host": options["host"],
            "port": options.get("port") or 22,
            "user": options["user"],
            "key_file": options.get("key_file"),
            "pass": obscured,
            "known_hosts_file": options["known_hosts_file"],
            # An account that may do SFTP and nothing else has no shell to ask for checksums.
            "shell_type": "none",
            "disable_hashcheck": "true",
        }
    lines = ["{0} = {1}".format(key, value) for key, value in values.items() if value not in (None, "")]
    return "\n".join(["[{0}]".format(REMOTE), *lines, ""])


def rclone_argv(config: str, ca_file: Optional[str], *words: str) -> List[str]:
    """Return a call of rclone."""
    patience = [word for key, value in _PATIENCE.items() for word in ("--" + key, value)]
    trust = ["--ca-cert", ca_file] if ca_file else []
    return ["rclone", "--config", config, *patience, *trust, *words]


def restic_argv(repository: str, *words: str) -> List[str]:
    """Return a call of restic. What it reads back comes from the repository: a cache would answer for it."""
    return ["restic", "--repo", repository, "--no-cache", *words]


def base_path(kind: str, options: Mapping[str, Any]) -> str:
    """Return where rclone finds the directory of a target."""
    if kind == "s3":
        return "/".join(part for part in (options["bucket"], str(options.get("prefix") or "").strip("/")) if part)
    path = str(options["path"])
    return path if path == "/" else path.rstrip("/")


def upload(
    target: Target, directory: str, name: str, files: Sequence[str], manifest: str, timeout: float = HOUR
) -> Evidence:
    """Copy a backup's parts and then its manifest, and read every one back. ``timeout`` is for each program call,
    beside the time that its bytes take on a slow line.

    What is there already and reads back right is not uploaded again. Raises OffsiteFailed.
    """
    started = time.monotonic()
    stem = manifest[: -len(MANIFEST)] if manifest.endswith(MANIFEST) else ""
    _check_words(name, stem)
    for file in files:
        if not _FILE.match(file) or not file.startswith(stem + ".") or file == manifest or file.endswith(PARTIAL):
            raise InvalidInput(["{0!r} is no part of backup {1}".format(file, stem)])
    local = [_local(target, directory, file) for file in [*files, manifest]]
    with _session(target, timeout) as session:
        session.upload(directory, name, stem, local)
    return {
        "target": target.name,
        "kind": target.kind,
        "parts": local[:-1],
        "manifest": local[-1],
        "seconds": round(time.monotonic() - started, 3),
        "read_back": True,
    }


def listing(target: Target, name: str, timeout: float = HOUR) -> List[Dict[str, Any]]:
    """Return ``stem`` and ``files`` of every backup of an instance that is there whole, oldest first."""
    _check_words(name)
    with _session(target, timeout) as session:
        sets = session.sets(name)
    return [{"stem": stem, "files": files} for stem, files in sorted(sets.items())]


def fetch(target: Target, name: str, stem: str, directory: str, timeout: float = HOUR) -> List[str]:
    """Download a backup, checked against its manifest, which gets its name last; return the names of its files.

    The caller holds the lock of the instance's data. A file that is there with other content is never replaced.
    """
    _check_words(name, stem)
    with _session(target, timeout) as session:
        session.open_set(name, stem)
        content = session.read(name, stem + MANIFEST)
        parts = _manifest_parts(target, stem, content)
        wanted = {**parts, stem + MANIFEST: _about(content)}
        missing = _missing_here(target, directory, wanted)
        for file in missing:
            if file == stem + MANIFEST:
                continue
            with _staged(os.path.join(directory, file)) as stream:
                sink = _Digest(stream)
                session.stream(name, file, sink, int(wanted[file]["size"]))
            if sink.about() != wanted[file]:
                os.unlink(os.path.join(directory, file + PARTIAL))
                raise session.failure(
                    file, "what was read is not what the manifest says: " + _versus(sink, wanted[file])
                )
        # A staged manifest says that all parts are complete: it comes into being after them.
        if stem + MANIFEST in missing:
            with _staged(os.path.join(directory, stem + MANIFEST)) as stream:
                stream.write(content)
        for file in missing:
            path = os.path.join(directory, file)
            if file == stem + MANIFEST:
                sync_directory(directory)
            os.rename(path + PARTIAL, path)
        sync_directory(directory)
    return list(wanted)


def remove(target: Target, name: str, stem: str, timeout: float = HOUR) -> None:
    """Remove one backup, its manifest first, and nothing else. One that is not there is no error."""
    _check_words(name, stem)
    with _session(target, timeout) as session:
        session.remove(name, stem)


def prune(target: Target, timeout: float = HOUR) -> None:
    """Free the space of what was removed from a restic repository; the other kinds free it at once."""
    with _session(target, timeout) as session:
        session.prune()


def _check_words(name: str, stem: str = "x") -> None:
    problem = name_problem(name)
    if problem or not _STEM.match(stem):
        raise InvalidInput([problem or "{0!r} is not what a backup is called".format(stem)])


def _about(content: bytes) -> Dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _local(target: Target, directory: str, file: str) -> Dict[str, Any]:
    digest = _Digest()
    try:
        with open(os.path.join(directory, file), "rb") as stream:
            for chunk in iter(lambda: stream.read(_CHUNK), b""):
                digest(chunk)
    except OSError as error:
        raise OffsiteFailed(
            "offsite target {0}: {1}: cannot be read here: {2}".format(target.name, file, error.strerror)
        ) from error
    return {"file": file, **digest.about()}


def _manifest_parts(target: Target, stem: str, content: bytes) -> Dict[str, Dict[str, Any]]:
    """Return the size and SHA-256 of every part that a manifest names; its names are not trusted as paths."""
    try:
        parts = json.loads(content.decode("utf-8"))["parts"]
        found = {file: {"size": int(about["size"]), "sha256": str(about["sha256"])} for file, about in parts.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        found = {}
    good = all(_FILE.match(file) and file.startswith(stem + ".") and file != stem + MANIFEST for file in found)
    if not found or not good:
        raise OffsiteFailed("offsite target {0}: {1}: is no manifest of ours".format(target.name, stem + MANIFEST))
    return found


def _missing_here(target: Target, directory: str, wanted: Mapping[str, Mapping[str, Any]]) -> List[str]:
    missing = []
    for file, about in wanted.items():
        if not os.path.lexists(os.path.join(directory, file)):
            missing.append(file)
        elif _local(target, directory, file) != {"file": file, **about}:
            raise OffsiteFailed(
                "offsite target {0}: {1} is in {2} with other content; move it away first".format(
                    target.name, file, directory
                )
            )
    return missing


@contextlib.contextmanager
def _staged(path: str) -> Iterator[IO[bytes]]:
    """Write ``path``.partial, readable by its owner alone, and sync it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + PARTIAL)
    descriptor = os.open(path + PARTIAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        yield stream
        stream.flush()
        os.fsync(descriptor)


class _Digest:
    """Takes what a program prints: counts it, hashes it, and writes it to a stream if there is one."""

    def __init__(self, stream: Optional[IO[bytes]] = None) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._size = 0

    def __call__(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._size += len(chunk)
        if self._stream is not None:
            self._stream.write(chunk)

    def about(self) -> Dict[str, Any]:
        return {"size": self._size, "sha256": self._hash.hexdigest()}


def _versus(read: _Digest, wanted: Mapping[str, Any]) -> str:
    return "{0[size]} bytes with SHA-256 {0[sha256]}, not {1[size]} bytes with {1[sha256]}".format(read.about(), wanted)


def _private_parent() -> Optional[str]:
    """Return a directory in memory where there is one: credentials then never reach a disk."""
    return "/run" if os.geteuid() == 0 and os.access("/run", os.W_OK | os.X_OK) else None


def _sweep(parent: str) -> None:
    """Remove what a killed run left: a private directory of ours that nobody holds."""
    for entry in os.listdir(parent):
        path = os.path.join(parent, entry)
        if not entry.startswith(_PRIVATE_PREFIX) or os.path.islink(path):
            continue
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _STALE_SECONDS:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _session(target: Target, timeout: float) -> Iterator[_Session]:
    """Make the private directory with the credentials, and remove it whatever happens."""
    parent = _private_parent()
    _sweep(parent or tempfile.gettempdir())
    private = tempfile.mkdtemp(prefix=_PRIVATE_PREFIX, dir=parent)
    descriptor = os.open(private, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        session = (_Snapshots if target.kind == "restic" else _Files)(target, private, timeout)
        yield session
    finally:
        shutil.rmtree(private)
        os.close(descriptor)


def _execute(
    argv: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    timeout: float,
    errors: IO[bytes],
    sink: Callable[[bytes], None],
    feed: bytes,
) -> int:
    """Run a program, hand over what it prints, and return its exit code, 124 when it ran out of time."""
    deadline = time.monotonic() + timeout
    process = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
    )
    if process.stdin is None or process.stdout is None:
        raise OffsiteFailed("the program has no pipes")
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(feed)
            process.stdin.close()
        while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(process.stdout.fileno(), _CHUNK)
            if not chunk:
                return process.wait(max(0.0, deadline - time.monotonic()))
            sink(chunk)
        return _TIMED_OUT
    except subprocess.TimeoutExpired:
        return _TIMED_OUT
    finally:
        _end(process)
        process.stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs: asked first, so that rclone drops an upload in parts and restic its lock."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


class _Session:
    """One conversation with a target: its credentials in files, and calls of its program."""

    def __init__(self, target: Target, private: str, timeout: float) -> None:
        self.target = target
        self._private = private
        self._timeout = timeout
        self._secrets = target.secrets()
        self._config = os.path.join(private, "rclone.conf")
        self._environment = clean_environment()
        self._ca_file: Optional[str] = None
        self._base = ""
        remote = target.remote()
        if remote is not None:
            kind, options = remote
            self._ca_file = options.get("ca_file")
            self._base = base_path(kind, options)
            obscured = self._obscured(str(options["password"])) if kind == "sftp" and options.get("password") else ""
            self._write("rclone.conf", rclone_config(kind, options, obscured))

    def upload(self, directory: str, name: str, stem: str, local: Sequence[Mapping[str, Any]]) -> None:
        """Copy files, the last of which is the manifest, and read them back."""
        raise NotImplementedError

    def sets(self, name: str) -> Dict[str, List[str]]:
        """Return the files of every backup that is whole, by stem."""
        raise NotImplementedError

    def open_set(self, name: str, stem: str) -> None:
        """Get ready to read a backup. Raises OffsiteFailed when it is not there."""
        raise NotImplementedError

    def stream(self, name: str, file: str, sink: Callable[[bytes], None], size: int = 0) -> None:
        """Hand over the content of a file of the target, which has about ``size`` bytes."""
        raise NotImplementedError

    def remove(self, name: str, stem: str) -> None:
        """Remove a backup."""
        raise NotImplementedError

    def prune(self) -> None:
        """Free space."""

    def failure(self, file: str, what: str, lines: str = "") -> OffsiteFailed:
        """Word an error without a secret in it."""
        text = "offsite target {0}: {1}: {2}{3}".format(self.target.name, file, what, ": " + lines if lines else "")
        return OffsiteFailed(redact(text, self._secrets))

    def read(self, name: str, file: str) -> bytes:
        """Return the content of a small file of the target."""
        content = bytearray()

        def take(chunk: bytes) -> None:
            content.extend(chunk)
            if len(content) > _MANIFEST_LIMIT:
                raise self.failure(file, "is larger than a manifest can be")

        self.stream(name, file, take)
        return bytes(content)

    def differs(self, name: str, about: Mapping[str, Any]) -> Optional[str]:
        """Read a file back and say how it differs from the local one; None when it does not."""
        digest = _Digest()
        self.stream(name, about["file"], digest, int(about["size"]))
        wanted = {"size": about["size"], "sha256": about["sha256"]}
        return None if digest.about() == wanted else _versus(digest, wanted)

    def same(self, name: str, about: Mapping[str, Any]) -> bool:
        """Whether a file from earlier is good. One that cannot be read is not: it is then uploaded again."""
        try:
            return self.differs(name, about) is None
        except OffsiteFailed:
            return False

    def _write(self, file: str, text: str) -> str:
        path = os.path.join(self._private, file)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def _obscured(self, password: str) -> str:
        """rclone wants passwords obscured. That is no encryption, so the result is kept as secret as the password."""
        found = bytearray()
        self._call(
            ["rclone", "--config", "", "obscure", "-"],
            "password",
            "could not be handed over",
            found.extend,
            feed=password.encode("utf-8") + b"\n",
        )
        obscured = found.decode("ascii").strip()
        self._secrets.append(obscured)
        return obscured

    def _call(
        self,
        argv: Sequence[str],
        file: str,
        what: str,
        sink: Optional[Callable[[bytes], None]] = None,
        good: Sequence[int] = (0,),
        cwd: Optional[str] = None,
        feed: bytes = b"",
        size: int = 0,
    ) -> int:
        """Run a program and return its exit code, which is one of ``good``; else raise with its last lines.

        ``size`` is how many bytes it moves.
        """
        limit = self._timeout + size / SLOWEST
        with tempfile.TemporaryFile(dir=self._private) as errors:
            try:
                code = _execute(
                    argv, cwd or self._private, self._environment, limit, errors, sink or (lambda _: None), feed
                )
            except FileNotFoundError as error:
                if error.filename != argv[0]:
                    raise
                raise self.failure(
                    file, "{0} is not installed (Debian and Ubuntu: apt-get install {0})".format(argv[0])
                ) from None
            if code in good:
                return code
            size = errors.seek(0, os.SEEK_END)
            errors.seek(max(0, size - 65536))
            printed = errors.read().decode("utf-8", "replace")
        if code == _TIMED_OUT:
            what = "{0} within {1:g} seconds".format(what, limit)
        # Redacted before it is cut: half a secret would not be recognised.
        lines = [line.strip()[:300] for line in redact(printed, self._secrets).splitlines() if line.strip()]
        raise self.failure(file, "{0} ({1} ended with {2})".format(what, argv[0], code), " | ".join(lines[-5:]))

    def _rclone(self, *words: str) -> List[str]:
        return rclone_argv(self._config, self._ca_file, *words)

    def _names(self, path: str, file: str) -> Dict[str, int]:
        """Return the files of a directory of the target and their sizes."""
        printed = bytearray()
        remote = self.target.remote()
        # Where S3 has a bucket, a directory in it that is not there is an empty one: only a bucket can be missing.
        good = (0,) if remote is not None and remote[0] == "s3" else (0, _NO_DIRECTORY)
        call = self._rclone("lsjson", "--files-only", "--no-modtime", "--no-mimetype", path)
        if self._call(call, file, "could not be listed", printed.extend, good) != 0:
            return {}
        return {str(entry["Name"]): int(entry["Size"]) for entry in json.loads(printed.decode("utf-8"))}


class _Files(_Session):
    """Targets that hold files: S3 and SFTP."""

    def _place(self, name: str, file: str = "") -> str:
        return "{0}:{1}/{2}".format(REMOTE, self._base.rstrip("/"), name) + ("/" + file if file else "")

    def upload(self, directory: str, name: str, stem: str, local: Sequence[Mapping[str, Any]]) -> None:
        there = self._names(self._place(name), name)
        for file in sorted(there):
            if file.startswith(stem + ".") and file.endswith(PARTIAL):
                self._delete(name, file)
        missing = [about for about in local if there.get(about["file"]) != about["size"] or not self.same(name, about)]
        manifest = local[-1]
        if manifest["file"] in there and any(about is not manifest for about in missing):
            # It says that all parts are there, and they are not.
            self._delete(name, manifest["file"])
            missing = [*(about for about in missing if about is not manifest), manifest]
        for about in missing:
            self._put(os.path.join(directory, about["file"]), name, about["file"])
            difference = self.differs(name, about)
            if difference is not None:
                self._delete(name, about["file"])
                raise self.failure(about["file"], "what was read back is not what was written: " + difference)

    def sets(self, name: str) -> Dict[str, List[str]]:
        there = sorted(self._names(self._place(name), name))
        stems = [file[: -len(MANIFEST)] for file in there if file.endswith(MANIFEST)]
        return {
            stem: [file for file in there if file.startswith(stem + ".") and not file.endswith(PARTIAL)]
            for stem in stems
            if _STEM.match(stem)
        }

    def open_set(self, name: str, stem: str) -> None:
        if stem + MANIFEST not in self._names(self._place(name), name):
            raise self.failure(stem + MANIFEST, "is not there")

    def stream(self, name: str, file: str, sink: Callable[[bytes], None], size: int = 0) -> None:
        self._call(self._rclone("cat", self._place(name, file)), file, "could not be read", sink, size=size)

    def remove(self, name: str, stem: str) -> None:
        def of_it() -> List[str]:
            return sorted(file for file in self._names(self._place(name), name) if file.startswith(stem + "."))

        for file in sorted(of_it(), key=lambda file: file != stem + MANIFEST):
            self._delete(name, file)
        left = of_it()
        if left:
            raise self.failure(left[0], "is still there after it was deleted")

    def _put(self, path: str, name: str, file: str) -> None:
        """Upload a file so that it is complete when it has its name.

        S3 shows an object when it is complete. On SFTP only rclone 1.63 and later write to another name first, so we
        do. Times are ignored: a damaged file can have the time and the size of a good one.
        """
        size = os.stat(path).st_size
        place = self._place(name, file if self.target.kind == "s3" else file + PARTIAL)
        self._call(self._rclone("copyto", "--ignore-times", path, place), file, "was not uploaded", size=size)
        if self.target.kind == "s3":
            return
        staged = place
        self._call(
            self._rclone("moveto", "--ignore-times", staged, self._place(name, file)), file, "did not get its name"
        )

    def _delete(self, name: str, file: str) -> None:
        call = self._rclone("deletefile", self._place(name, file))
        self._call(call, file, "was not deleted", good=(0, _NO_DIRECTORY, _NO_FILE))


class _Snapshots(_Session):
    """A restic repository: one snapshot per backup."""

    def __init__(self, target: Target, private: str, timeout: float) -> None:
        super().__init__(target, private, timeout)
        self._repository = str(target.options["repository"])
        self._environment["RESTIC_PASSWORD_FILE"] = self._write("password", str(target.options["password"]) + "\n")
        self._snapshot = ""
        if self._base:
            self._repository = "rclone:{0}:{1}".format(REMOTE, self._base)
            # restic starts rclone itself; only the names of files go through the environment.
            self._environment["RCLONE_CONFIG"] = self._config
            for key, value in _PATIENCE.items():
                self._environment["RCLONE_" + key.upper().replace("-", "_")] = value
            if self._ca_file:
                self._environment["RCLONE_CA_CERT"] = self._ca_file

    def upload(self, directory: str, name: str, stem: str, local: Sequence[Mapping[str, Any]]) -> None:
        if not self._exists():
            self._call(self._restic("init"), "repository", "could not be made")
        self._unlock()
        before = self._snapshots(name, stem)
        files = [str(about["file"]) for about in local]
        for number, snapshot in enumerate(before):
            if sorted(snapshot["files"]) == sorted(files) and self._whole(name, snapshot["id"], local):
                self._forget([old["id"] for old in before[:number] + before[number + 1 :]])
                return
        tags = ["multibase", "instance=" + name, "stem=" + stem]
        words = ["backup", "--quiet", "--force", *(word for tag in tags for word in ("--tag", tag)), *files]
        # It may end badly and yet have written a snapshot, which then must not be taken for a backup.
        known = {snapshot["id"] for snapshot in before}
        try:
            size = sum(int(about["size"]) for about in local)
            self._call(self._restic(*words), files[-1], "was not uploaded", cwd=directory, size=size)
            made = [snapshot["id"] for snapshot in self._snapshots(name, stem) if snapshot["id"] not in known]
            if len(made) != 1:
                raise self.failure(files[-1], "{0} snapshots were made instead of one".format(len(made)))
            self._snapshot = made[0]
            for about in local:
                difference = self.differs(name, about)
                if difference is not None:
                    raise self.failure(about["file"], "what was read back is not what was written: " + difference)
        except OffsiteFailed:
            with contextlib.suppress(OffsiteFailed):
                self._unlock()
                self._forget([one["id"] for one in self._snapshots(name, stem) if one["id"] not in known])
            raise
        self._forget(sorted(known))

    def sets(self, name: str) -> Dict[str, List[str]]:
        self._must_exist()
        # They come oldest first, so that of two with one stem the newer stays.
        found = {snapshot["stem"]: sorted(snapshot["files"]) for snapshot in self._snapshots(name)}
        return {stem: files for stem, files in found.items() if stem + MANIFEST in files}

    def open_set(self, name: str, stem: str) -> None:
        self._must_exist()
        found = self._snapshots(name, stem)
        if not found:
            raise self.failure(stem + MANIFEST, "is not there")
        self._snapshot = found[-1]["id"]

    def stream(self, name: str, file: str, sink: Callable[[bytes], None], size: int = 0) -> None:
        self._call(self._restic("dump", self._snapshot, "/" + file), file, "could not be read", sink, size=size)

    def remove(self, name: str, stem: str) -> None:
        self._must_exist()
        self._unlock()
        self._forget([snapshot["id"] for snapshot in self._snapshots(name, stem)])
        if self._snapshots(name, stem):
            raise self.failure(stem + MANIFEST, "is still there after it was deleted")

    def prune(self) -> None:
        self._must_exist()
        self._unlock()
        self._timeout *= _PRUNING
        self._call(self._restic("prune", "--quiet"), "repository", "could not be pruned")

    def _restic(self, *words: str) -> List[str]:
        return restic_argv(self._repository, *words)

    def _exists(self) -> bool:
        """Ask rclone, not restic: restic does not tell a wrong key from a repository that is not there yet."""
        if not self._base:
            return os.path.exists(os.path.join(self._repository, "config"))
        return "config" in self._names("{0}:{1}".format(REMOTE, self._base), "repository")

    def _must_exist(self) -> None:
        if not self._exists():
            raise self.failure("repository", "there is none at this address")

    def _unlock(self) -> None:
        """Remove locks of runs that were killed; those of living ones stay."""
        self._call(self._restic("unlock", "--quiet"), "repository", "could not be unlocked")

    def _whole(self, name: str, snapshot: str, local: Sequence[Mapping[str, Any]]) -> bool:
        self._snapshot = snapshot
        return all(self.same(name, about) for about in local)

    def _forget(self, snapshots: Sequence[str]) -> None:
        if snapshots:
            self._call(self._restic("forget", "--quiet", *snapshots), "snapshot", "was not forgotten")

    def _snapshots(self, name: str, stem: Optional[str] = None) -> List[Dict[str, Any]]:
        """Return our snapshots of an instance, or of one backup of it, oldest first."""
        printed = bytearray()
        self._call(
            self._restic("snapshots", "--json", "--tag", "multibase,instance=" + name),
            "repository",
            "could not be listed",
            printed.extend,
        )
        found = []
        for snapshot in json.loads(printed.decode("utf-8")) or []:
            stems = [tag[len("stem=") :] for tag in snapshot.get("tags") or [] if tag.startswith("stem=")]
            if len(stems) == 1 and _STEM.match(stems[0]) and stem in (None, stems[0]):
                files = [os.path.basename(path) for path in snapshot["paths"]]
                found.append({"id": snapshot["id"], "stem": stems[0], "files": files, "time": snapshot["time"]})
        return sorted(found, key=lambda snapshot: str(snapshot["time"]))
