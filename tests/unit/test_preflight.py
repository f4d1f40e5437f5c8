# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a host: every one when all is well, when it is not, and when nobody knows; and the page about them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, FrozenSet, List, Mapping, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._ports import BLOCK_SIZE, PortRange, block_of
from ansible_collections.multibase.supabase.plugins.module_utils._preflight import (
    CHECKS,
    GIB,
    NAMES,
    Declared,
    EngineFacts,
    Facts,
    Filesystem,
    Finding,
    Listener,
    Wanted,
    examine,
    free_blocks,
    hostnames_of,
    space_needed,
    version_of,
    wanted_from,
)
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import SIZES, Size
from unit.support import PROPERTY, REPOSITORY

DATA = Filesystem(
    use="data", path="/opt/multibase", mount="/", kind="ext4", options=frozenset({"rw", "relatime"}), device=1,
    total=100 * GIB, free=80 * GIB, inodes=6_000_000, free_inodes=5_000_000, problem=None, xattrs=True,
)  # fmt: skip
DOCKER = replace(DATA, use="docker", path="/var/lib/docker", xattrs=None)
V2 = frozenset({"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"})
ENGINE = EngineFacts(
    version=(26, 1, 5), images=12, projects={"multibase-acme": ("supabase/postgres:17",)}, published={}
)
# A virtual machine of Debian 13 as it comes, seen by root.
GOOD = Facts(
    os_release={"ID": "debian", "VERSION_ID": "13", "PRETTY_NAME": "Debian GNU/Linux 13 (trixie)"},
    architecture="x86_64", pointer_bits=64, kernel="6.12.48+deb13-amd64",
    kernel_config={
        "OVERLAY_FS": "m", "BRIDGE": "m", "BRIDGE_NETFILTER": "m", "VETH": "m", "NF_NAT": "m", "NF_TABLES": "m",
        "IP_NF_IPTABLES": "m",
    },
    kernel_modules=frozenset({"overlay", "bridge", "br_netfilter", "veth", "nf_nat", "nf_tables", "ip_tables"}),
    loaded_modules=frozenset(), filesystems_known=frozenset({"ext4"}), python=(3, 13, 5), uid=0, container="",
    systemd=True, cgroup_version=2, cgroup_controllers=V2, swap_limit=True, cpus=4, memory=15990,
    filesystems=(DATA, DOCKER), clock_synchronized=True, time_programs=("bash", "systemd-timesyn"), now=1.8e9,
    reference_time=1.8e9 + 1, addresses=frozenset({"192.0.2.10", "2001:db8::10"}),
    resolved={"acme.example.com": ("192.0.2.10",)}, listeners=(), own_proxy=False, taken_ports={22: "a process"},
    reserved_blocks=frozenset(), ephemeral=(32768, 60999), existing={},
    packages={"libc6": "installed", "python3": "installed"}, engine=None, engine_programs=(), rootless_engine=False,
    snap_engine=False,
)  # fmt: skip
ACME = Declared("acme", SIZES["medium"], ("acme.example.com",))
WANTED = Wanted(root="/opt/multibase", instances=(ACME,), proxy=True)
INSTALLED = {"engine_programs": ("/usr/sbin/dockerd",), "packages": {"docker.io": "installed"}}


def disk(**changes: Any) -> Dict[str, Any]:
    """The filesystems of GOOD, both on one, with these changes."""
    return {"filesystems": (replace(DATA, **changes), replace(DOCKER, **changes))}


def only(use: str, **changes: Any) -> Dict[str, Any]:
    """The filesystems of GOOD, apart, one of them with these changes."""
    entries = {"data": DATA, "docker": replace(DOCKER, device=2)}
    entries[use] = replace(entries[use], **changes)
    return {"filesystems": tuple(entries.values())}


def listening(program: str, port: int = 80) -> Dict[str, Any]:
    return {"listeners": (Listener("0.0.0.0", port, program),)}


def system(family: str, version: str = "", **more: str) -> Dict[str, Any]:
    return {"os_release": {"ID": family, "VERSION_ID": version, **more}}


def found_by(check: str, facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[Finding]:
    said = examine(replace(GOOD, **facts), replace(WANTED, **wanted))
    return [finding for finding in said if finding.check == check]


ORDER = ("ok", "warning", "failure")
# (check, what differs in the facts, what differs in what is wanted, the worst level, a word of what was found)
CASES: List[Tuple[str, Dict[str, Any], Dict[str, Any], str, str]] = [
    ("declared", {}, {}, "ok", "1 instances"),
    ("declared", {}, {"problems": ("instance a: size 'huge'",)}, "warning", "huge"),
    ("os", {}, {}, "ok", "trixie"),
    ("os", system("debian", "12"), {}, "ok", "debian 12"),
    ("os", system("debian", "11"), {}, "failure", "debian 11"),
    ("os", system("debian"), {}, "warning", "testing"),
    ("os", system("ubuntu", "22.04"), {}, "ok", "ubuntu 22.04"),
    ("os", system("ubuntu", "24.04"), {}, "ok", "ubuntu 24.04"),
    ("os", system("ubuntu", "20.04"), {}, "failure", "ubuntu 20.04"),
    ("os", system("ubuntu", "23.10"), {}, "warning", "long support"),
    ("os", system("ubuntu", "25.04"), {}, "warning", "long support"),
    ("os", system("fedora", "42"), {}, "failure", "fedora 42"),
    ("os", system("linuxmint", "22", ID_LIKE="ubuntu debian"), {}, "failure", "like debian, ubuntu"),
    ("os", {"os_release": {}}, {}, "failure", "no /etc/os-release"),
    ("architecture", {}, {}, "ok", "x86_64"),
    ("architecture", {"architecture": "aarch64"}, {}, "ok", "aarch64"),
    ("architecture", {"architecture": "armv7l"}, {}, "failure", "armv7l"),
    ("architecture", {"architecture": "aarch64", "pointer_bits": 32}, {}, "failure", "32-bit"),
    ("python", {}, {}, "ok", "3.13.5"),
    ("python", {"python": (3, 9, 0)}, {}, "ok", "3.9.0"),
    ("python", {"python": (3, 8, 20)}, {}, "failure", "3.8.20"),
    ("privileges", {}, {}, "ok", "root"),
    ("privileges", {"uid": 1000}, {}, "failure", "1000"),
    ("init", {}, {}, "ok", "systemd"),
    ("init", {"systemd": False}, {}, "warning", "no systemd"),
    ("init", {"container": "lxc"}, {}, "warning", "lxc"),
    ("packages", {}, {}, "ok", "2 packages"),
    ("packages", {"packages": {"nginx": "half-configured"}}, {}, "failure", "nginx"),
    ("packages", {"packages": {"man-db": "triggers-awaited"}}, {}, "ok", "1 packages"),
    ("packages", {"packages": None}, {}, "ok", "not known"),
    ("kernel", {}, {}, "ok", "6.12"),
    ("kernel", {"kernel": "4.19.0-27-amd64"}, {}, "warning", "4.19"),
    ("kernel", {"kernel": "3.10.0-1160.el7.x86_64"}, {}, "failure", "3.10"),
    ("kernel_features", {}, {}, "ok", "all there"),
    ("kernel_features", {"kernel_config": {**GOOD.kernel_config, "VETH": "n"}, "kernel_modules": None,  # type: ignore[dict-item]
                         "container": "lxc"}, {}, "failure", "not in this kernel: veth"),
    # A configuration leaves out what is off.
    ("kernel_features", {"kernel_config": {}, "kernel_modules": None}, {}, "failure", "bridge netfilter"),
    ("kernel_features", {"kernel_config": None, "kernel_modules": None}, {}, "ok", "not known"),
    ("kernel_features", {"kernel_modules": None}, {}, "failure", "are not on the disk"),
    ("kernel_features", {"kernel_modules": None, "container": "lxc"}, {}, "ok", "not known"),
    ("kernel_features", {"kernel_modules": None, "loaded_modules": GOOD.kernel_modules}, {}, "ok", "all there"),
    # One packet filter is enough.
    ("kernel_features", {"kernel_config": {**GOOD.kernel_config, "IP_NF_IPTABLES": "n"}}, {}, "ok", "all there"),  # type: ignore[dict-item]
    ("kernel_features", {"kernel_config": {}, "engine": ENGINE}, {}, "ok", "runs on this kernel"),
    ("cgroups", {}, {}, "ok", "version 2"),
    ("cgroups", {"cgroup_version": 0, "cgroup_controllers": frozenset()}, {}, "failure", "no control groups"),
    ("cgroups", {"cgroup_version": 1, "cgroup_controllers": V2 | {"devices"}}, {}, "warning", "version 1"),
    ("cgroups", {"cgroup_version": 1}, {}, "failure", "version 1"),
    ("cgroups", {"cgroup_controllers": V2 - {"cpu"}}, {}, "failure", "version 2"),
    ("cgroups", {"cgroup_controllers": V2 - {"memory"}}, {}, "warning", "version 2"),
    ("cgroups", {"swap_limit": False}, {}, "warning", "no limit of swap"),
    ("cgroups", {"swap_limit": None}, {}, "ok", "version 2"),
    ("cpus", {}, {}, "ok", "4, promised to 1 instances: 2"),
    ("cpus", {"cpus": 1}, {}, "warning", "1, promised"),
    ("cpus", {"cpus": 1}, {"minimum_cpus": 1}, "ok", "1, promised"),
    ("cpus", {"cpus": 1}, {"cpu_factor": 1.0}, "failure", "promised to 1 instances: 2"),
    ("cpus", {"cpus": 2}, {"cpu_factor": 0.0, "instances": (Declared("a", Size(512, 500)),)}, "ok", "500"),
    # Those that the host has besides are counted, and what is there already is not refused.
    ("cpus", {"cpus": 2, "existing": {"old": Size(2048, 15)}}, {}, "failure", "to 2 instances: 17"),
    ("cpus", {"cpus": 2, "existing": {"acme": Size(2048, 99), "old": Size(512, 99)}}, {}, "ok", "to 2 instances: 101"),
    ("cpus", {"cpus": 1, "existing": None}, {"cpu_factor": 1.0}, "warning", "promised"),
    ("memory", {}, {}, "ok", "15.6 GiB, promised to 1 instances: 4.0 GiB"),
    ("memory", {"memory": 1000}, {"instances": ()}, "warning", "1.0 GiB"),
    ("memory", {"memory": 1950}, {"instances": ()}, "ok", "1.9 GiB"),
    ("memory", {"memory": 3900}, {}, "warning", "promised"),
    ("memory", {"memory": 2000}, {}, "failure", "promised"),
    ("memory", {"memory": 2000}, {"memory_factor": 0.0}, "warning", "promised"),
    ("memory", {"memory": 2000, "existing": {"acme": SIZES["medium"]}}, {}, "warning", "promised"),
    ("space", {}, {}, "ok", "80.0 GiB free of 100.0 GiB for /opt/multibase and /var/lib/docker"),
    ("space", disk(free=19 * GIB), {}, "warning", "19.0 GiB free"),
    ("space", disk(free=20 * GIB), {}, "ok", "20.0 GiB free"),
    ("space", disk(free=2 * GIB), {}, "failure", "2.0 GiB free"),
    ("space", only("data", free=8 * GIB), {}, "warning", "8.0 GiB free of 100.0 GiB for /opt/multibase"),
    ("space", only("docker", free=9 * GIB), {}, "warning", "for /var/lib/docker"),
    ("space", {**only("docker", free=2 * GIB), "engine": ENGINE}, {}, "ok", "for /var/lib/docker"),
    ("space", {**disk(free=3 * GIB), "engine": ENGINE, "existing": {"acme": SIZES["medium"]}}, {}, "ok", "3.0 GiB"),
    ("inodes", {}, {}, "ok", "5,000,000 inodes"),
    ("inodes", disk(free_inodes=100_000), {}, "warning", "100,000"),
    ("inodes", disk(free_inodes=9_999), {}, "failure", "9,999"),
    ("inodes", disk(inodes=0, free_inodes=0), {}, "ok", "made as needed"),
    ("root_directory", {}, {}, "ok", "/opt/multibase"),
    ("root_directory", {}, {"root": "/srv"}, "failure", "/srv"),
    ("root_directory", {}, {"root": "/"}, "failure", "/"),
    ("root_directory", {}, {"root": "multibase"}, "failure", "multibase"),
    ("root_directory", {}, {"root": "/opt/../etc"}, "failure", ".."),
    ("root_directory", {}, {"root": "/proc/multibase"}, "failure", "/proc"),
    ("root_directory", {}, {"root": "/data"}, "ok", "/data"),
    ("root_directory", {}, {"root": "/var/tmp/multibase"}, "warning", "/var/tmp"),
    ("filesystem", {}, {}, "ok", "ext4"),
    ("filesystem", only("data", options=frozenset({"ro"})), {}, "failure", "read-only"),
    ("filesystem", only("data", options=frozenset({"rw", "noexec"})), {}, "failure", "noexec"),
    ("filesystem", only("docker", options=frozenset({"rw", "noexec"})), {}, "failure", "noexec"),
    ("filesystem", only("docker", options=frozenset({"rw", "nosuid"})), {}, "warning", "nosuid"),
    ("filesystem", only("data", options=frozenset({"rw", "nosuid"})), {}, "ok", "ext4"),
    ("filesystem", only("data", kind="nfs4"), {}, "warning", "nfs4"),
    ("filesystem", only("docker", kind="nfs4"), {}, "failure", "nfs4"),
    ("filesystem", only("data", kind="fuse.sshfs"), {}, "warning", "fuse.sshfs"),
    ("filesystem", only("data", kind="overlay"), {}, "warning", "overlay"),
    ("filesystem", only("docker", kind="tmpfs"), {}, "warning", "tmpfs"),
    ("filesystem", only("data", kind="vfat"), {}, "failure", "vfat"),
    ("filesystem", only("data", problem="Input/output error"), {}, "failure", "Input/output error"),
    ("filesystem", only("data", xattrs=False), {}, "failure", "without extended attributes"),
    ("filesystem", only("data", xattrs=False), {"instances": (replace(ACME, storage=False),)}, "warning", "attributes"),
    ("filesystem", only("data", xattrs=None), {}, "ok", "ext4"),
    ("time", {}, {}, "ok", "synchronised by systemd-timesyncd"),
    ("time", {"time_programs": ("chronyd",)}, {}, "ok", "by chrony"),
    ("time", {"time_programs": ()}, {}, "ok", "synchronised"),
    ("time", {"clock_synchronized": False}, {}, "warning", "systemd-timesyncd runs"),
    ("time", {"clock_synchronized": False, "time_programs": ()}, {}, "warning", "no time service runs"),
    ("time", {"clock_synchronized": False, "time_programs": (), "container": "lxc"}, {}, "warning", "in a container"),
    ("time", {"reference_time": 1.8e9 - 300}, {}, "warning", "300 s before"),
    ("time", {"reference_time": 1.8e9 + 31}, {}, "warning", "31 s behind"),
    ("time", {"reference_time": None}, {}, "ok", "synchronised"),
    ("time", {"now": 1.0e9}, {}, "failure", "years behind"),
    ("dns", {}, {}, "ok", "1 right: acme.example.com"),
    ("dns", {}, {"instances": ()}, "ok", "no domains"),
    ("dns", {"resolved": {}}, {}, "warning", "acme.example.com -> nothing"),
    ("dns", {"resolved": {}}, {"dns_required": True}, "failure", "nothing"),
    ("dns", {"resolved": {"acme.example.com": ("198.51.100.7",)}}, {}, "warning", "198.51.100.7"),
    ("dns", {"resolved": {"acme.example.com": ("198.51.100.7",)}}, {"dns_required": True}, "failure", "198.51.100.7"),
    ("dns", {"resolved": {"acme.example.com": ("198.51.100.7",)}},
     {"dns_required": True, "addresses": frozenset({"198.51.100.7"})}, "ok", "1 right"),
    ("dns", {"resolved": {"acme.example.com": ("192.0.2.10", "2001:db8::99")}}, {}, "warning", "2001:db8::99"),
    ("dns", {"resolved": {"acme.example.com": ("127.0.1.1",)}}, {"dns_required": True}, "warning", "127.0.1.1"),
    ("ports", {}, {}, "ok", "free"),
    ("ports", listening("apache2"), {"proxy": False}, "ok", "not needed"),
    ("ports", listening("apache2"), {}, "failure", "port 80: apache2"),
    ("ports", listening("caddy", 443), {}, "failure", "port 443: caddy"),
    ("ports", listening("caddy", 8443), {"proxy_ports": (8080, 8443)}, "failure", "port 8443: caddy"),
    ("ports", listening("caddy", 8080), {}, "ok", "free"),
    ("ports", {**listening("nginx"), "own_proxy": True}, {}, "ok", "ours"),
    ("ports", listening("nginx"), {}, "warning", "did not set up"),
    ("ports", listening(""), {}, "warning", "somebody else"),
    ("ports", {**listening("docker-proxy"), "engine": replace(ENGINE, published={80: "container web"})}, {}, "failure",
     "port 80: container web"),
    # Without a proxy process of Docker's nobody listens, and the port is taken all the same.
    ("ports", {"engine": replace(ENGINE, published={443: "container web"})}, {}, "failure", "port 443: container web"),
    ("port_range", {}, {}, "ok", "1276 of 1276 free"),
    ("port_range", {"taken_ports": {20004: "x"}}, {}, "ok", "1275 of 1276 free; in use by others: 20004 (x)"),
    ("port_range", {"taken_ports": {20000: "x"}, "reserved_blocks": frozenset({20000})}, {}, "ok", "1275 of 1276 free"),
    ("port_range", {"taken_ports": {20004: "x"}}, {"ports": PortRange(20000, 20009)}, "failure", "0 of 1 free"),
    ("port_range", {"existing": {"acme": SIZES["small"]}, "reserved_blocks": frozenset({20000})},
     {"ports": PortRange(20000, 20009)}, "ok", "0 of 1 free"),
    ("port_range", {}, {"ports": PortRange(30000, 40000)}, "warning", "32768-60999"),
    ("port_range", {"taken_ports": None}, {}, "ok", "not known"),
    ("docker", {}, {}, "ok", "none; site installs it"),
    ("docker", {**INSTALLED, "engine": ENGINE}, {}, "ok", "Engine 26.1.5"),
    ("docker", INSTALLED, {}, "ok", "not asked"),
    ("docker", {"snap_engine": True}, {}, "failure", "snap"),
    ("docker", {"packages": {"podman-docker": "installed"}}, {}, "failure", "podman-docker"),
    ("docker", {"packages": {"docker.io": "installed", "docker-ce": "installed"}}, {}, "failure", "both"),
    ("docker", {**INSTALLED, "engine_programs": ("/usr/sbin/dockerd", "/usr/local/bin/dockerd")}, {}, "failure",
     "/usr/local/bin/dockerd"),
    ("docker", {"engine_programs": ("/usr/local/bin/dockerd",)}, {}, "warning", "of no package"),
    ("docker", {"rootless_engine": True}, {}, "warning", "of another user"),
    ("docker", {**INSTALLED, "engine": replace(ENGINE, rootless=True)}, {}, "failure", "rootless"),
    ("docker", {**INSTALLED, "engine": replace(ENGINE, version=(19, 3, 15))}, {}, "failure", "Engine 19.3.15"),
    ("supabase", {}, {}, "ok", "not known"),
    ("supabase", {"engine": ENGINE}, {}, "ok", "none"),
    ("supabase", {"engine": replace(ENGINE, projects={"supabase": ("docker.io/supabase/studio:1",)})}, {}, "warning",
     "supabase"),
    ("supabase", {"engine": replace(ENGINE, projects={"blog": ("postgres:17",)})}, {}, "ok", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "facts", "wanted", "level", "word"), CASES)
def test_a_check_says(check: str, facts: Dict[str, Any], wanted: Dict[str, Any], level: str, word: str) -> None:
    said = found_by(check, facts, wanted)
    assert max(said, key=lambda finding: ORDER.index(finding.level)).level == level, said
    assert any(word in finding.found for finding in said if finding.level == level), said


def test_every_check_is_shown_at_every_level_that_its_row_names() -> None:
    for check in CHECKS:
        levels = {case[3] for case in CASES if case[0] == check.name}
        named = {"ok"} | {level for level in ("warning", "failure") if getattr(check, level)}
        assert levels == named, check.name


def test_a_good_host_has_no_complaint_and_a_bad_one_all_of_them() -> None:
    assert {finding.level for finding in examine(GOOD, WANTED)} == {"ok"}
    bad: Dict[str, Any] = {}
    for name in ("os", "python", "memory", "docker", "ports", "time"):
        bad.update(next(case[1] for case in CASES if case[0] == name and case[3] == "failure"))
    failed = {finding.check for finding in examine(replace(GOOD, **bad), WANTED) if finding.level == "failure"}
    assert failed == {"os", "python", "memory", "docker", "ports", "time"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_is_not_well_has_a_remedy_and_what_is_has_none(case: Any) -> None:
    for finding in examine(replace(GOOD, **case[1]), replace(WANTED, **case[2])):
        assert finding.found and finding.needed
        assert bool(finding.remedy) == (finding.level != "ok"), finding
        assert set(finding.as_dict()) == {"check", "level", "found", "needed", "remedy"}
        assert all("\n" not in text for text in finding.as_dict().values())


def test_checks_come_in_order_and_may_be_skipped() -> None:
    order = [finding.check for finding in examine(GOOD, WANTED)]
    assert list(dict.fromkeys(order)) == list(NAMES)
    assert "dns" not in [finding.check for finding in examine(GOOD, WANTED, frozenset({"dns"}))]


def test_what_nobody_knows_is_no_failure() -> None:
    blind = replace(
        GOOD, kernel_config=None, kernel_modules=None, swap_limit=None, filesystems=(), clock_synchronized=None,
        reference_time=None, taken_ports=None, existing=None, packages=None, ephemeral=None,
    )  # fmt: skip
    assert not [finding for finding in examine(blind, WANTED) if finding.level == "failure"]


# What grows


def test_space_grows_with_number_and_size_of_new_instances() -> None:
    def needed(*sizes: Size, existing: FrozenSet[str] = frozenset()) -> float:
        instances = tuple(Declared("i{0}".format(number), size) for number, size in enumerate(sizes))
        facts = replace(GOOD, existing={name: SIZES["small"] for name in existing})
        return sum(should for should, _must in space_needed(facts, replace(WANTED, instances=instances)).values()) / GIB

    assert needed() == 11
    # The example of docs/preflight.md.
    assert needed(SIZES["medium"], SIZES["medium"]) == 17 + 11
    assert needed(SIZES["large"]) - needed(SIZES["small"]) == 12
    assert needed(SIZES["medium"], existing=frozenset({"i0"})) == needed()


@PROPERTY
@given(
    st.lists(st.sampled_from(sorted(SIZES)), max_size=8), st.integers(1, 64), st.integers(500, 200_000),
    st.integers(0, 500), st.integers(0, 10**6),
)  # fmt: skip
def test_a_bigger_host_is_never_worse(sizes: List[str], cpus: int, memory: int, gib: int, inodes: int) -> None:
    wanted = replace(WANTED, instances=tuple(Declared("i{0}".format(n), SIZES[size]) for n, size in enumerate(sizes)))

    def levels(factor: int) -> Dict[str, int]:
        facts = replace(
            GOOD,
            cpus=cpus * factor,
            memory=memory * factor,
            **disk(free=gib * GIB * factor, free_inodes=inodes * factor),
        )
        worst: Dict[str, int] = {}
        for finding in examine(facts, wanted):
            worst[finding.check] = max(worst.get(finding.check, 0), ORDER.index(finding.level))
        return worst

    small, big = levels(1), levels(2)
    assert all(big[name] <= small[name] for name in NAMES)


@PROPERTY
@given(st.sets(st.integers(1024, 65535), max_size=60), st.sets(st.integers(2000, 3275), max_size=20))
def test_free_blocks_are_those_without_a_taken_port(taken: Any, bases: Any) -> None:
    allowed, reserved = PortRange(20000, 32759), frozenset(base * BLOCK_SIZE for base in bases)
    slow = [base for base in allowed.bases() if base not in reserved and not taken & set(block_of(base))]
    assert free_blocks(allowed, taken, reserved) == len(slow)


# What is wanted


@pytest.mark.parametrize(
    ("domain", "url", "names"),
    [
        ("", "", ()),
        ("acme.example.com", "", ("acme.example.com",)),
        ("acme.example.com", "https://ACME.example.com:8443/x?y", ("acme.example.com",)),
        ("a.example.com", "https://b.example.com", ("a.example.com", "b.example.com")),
        ("", "http://127.0.0.1:20000", ()),
        ("", "http://[2001:db8::1]:8000/", ()),
        ("", "http://2001:db8::1", ()),
        ("", "http://localhost:8000", ()),
        ("", "http://acme.localhost:8000", ()),
        ("", "https://user:word@c.example.com/p", ("c.example.com",)),
        ("trailing.example.com.", "", ("trailing.example.com",)),
        (None, None, ()),
    ],
)
def test_names_under_which_an_instance_is_reached(domain: Any, url: Any, names: Tuple[str, ...]) -> None:
    assert hostnames_of(domain, url) == names


def options(**given: Any) -> Dict[str, Any]:
    return {
        "instances": [], "addresses": [], "proxy": True, "proxy_ports": [80, 443], "dns_required": False,
        "port_range": "20000-32759", "overcommit_cpus": 8.0, "overcommit_memory": 2.0, "minimum_cpus": 2,
        "minimum_memory": 2.0, "image_space": 10.0, "data_space": 2.0, **given,
    }  # fmt: skip


def test_mistakes_in_what_is_declared_do_not_hide_the_rest() -> None:
    instances = [
        {"name": "acme", "size": "huge", "domain": "acme.example.com", "public_url": "", "storage": False},
        {"name": "beta", "size": {"cpus": 1.5, "memory": "3g"}, "domain": "", "public_url": "", "storage": True},
    ]
    wanted = wanted_from(options(instances=instances, port_range="20000"), "/opt/multibase", lambda names: {})
    assert [instance.size for instance in wanted.instances] == [SIZES["small"], Size(3072, 1.5)]
    assert [instance.storage for instance in wanted.instances] == [False, True]
    assert wanted.ports == PortRange(20000, 32759)
    assert len(wanted.problems) == 2
    assert "instance acme: size 'huge'" in wanted.problems[0] and "port_range" in wanted.problems[1]


def test_a_load_balancer_may_be_named_by_address_or_by_name() -> None:
    asked: List[Any] = []

    def resolve(names: Any) -> Dict[str, Tuple[str, ...]]:
        asked.append(list(names))
        return {"lb.example.net": ("198.51.100.7", "198.51.100.8")}

    wanted = wanted_from(options(addresses=["2001:DB8:0::9", "lb.example.net"]), "/opt/multibase", resolve)
    assert wanted.addresses == {"2001:db8::9", "198.51.100.7", "198.51.100.8"} and asked == [["lb.example.net"]]
    wanted_from(options(addresses=["192.0.2.1"]), "/opt/multibase", resolve)
    assert len(asked) == 1, "addresses need no answer"


@pytest.mark.parametrize(
    ("text", "version"), [("6.1.0-25-amd64", (6, 1, 0)), ("22.04", (22, 4)), ("", ()), ("rolling", ()), ("13", (13,))]
)
def test_versions(text: str, version: Tuple[int, ...]) -> None:
    assert version_of(text) == version


# The page


def test_the_table_of_the_page_is_the_table_of_the_code() -> None:
    page = (REPOSITORY / "docs" / "preflight.md").read_text(encoding="utf-8")
    table = page.split("## The checks")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert rows == [
        ["`{0}`".format(check.name), check.needed, check.warning or "-", check.failure or "-", check.remedy]
        for check in CHECKS
    ]


def test_the_settings_on_the_page_are_the_roles() -> None:
    page = (REPOSITORY / "docs" / "preflight.md").read_text(encoding="utf-8")
    defaults = (REPOSITORY / "roles" / "multibase_preflight" / "defaults" / "main.yml").read_text(encoding="utf-8")
    own = re.findall(r"^(multibase_preflight_\w+): (\S+)$", defaults, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \| `(\S+)` \|", page, re.MULTILINE) == own
    for check in CHECKS:
        for name in re.findall(r"`(multibase_\w+)`", check.needed + check.remedy):
            assert re.search(r"^{0}:".format(name), defaults, re.MULTILINE), name
