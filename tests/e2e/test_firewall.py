# SPDX-License-Identifier: GPL-3.0-or-later
"""What a neighbour on the same network segment can reach, with and without the rules, whatever happens to the host.

The tests build on each other and run in this order.
"""

from __future__ import annotations

import re
import subprocess
from typing import Iterator, List

import pytest

from e2e.guarded import Guarded
from figures import record

OPEN = [22, 80, 443]
# 9998: a process of the host. 9999 and 9995: published by containers, on port 80 of their own. 9443: same.
ROGUE = [9995, 9998, 9999]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A host with Docker and SSH, and much too much that listens."""
    made = Guarded("firewall-e2e", tmp_path_factory.mktemp("firewall"))
    made.up()
    try:
        # Check mode first, on a host that has neither Docker nor nftables.
        bare = made.play("--check", "--diff", "--tags", "firewall", multibase_firewall_enabled=True)
        assert "ct original proto-dst { 80, 443 }" in bare
        assert (
            made.run("sh", "-c", "command -v nft; ls -d /etc/multibase; ls /etc/systemd/system/multibase*", check=False)
            == ""
        )
        made.play()
        made.shell("apt-get update -qq; apt-get install -qq openssh-server iputils-ping > /dev/null 2>&1")
        made.listen()
        made.load_image()
        run = "docker run -d --restart always --name "
        web = " tiny /bin/busybox httpd -f -p 80 -h /bin"
        made.shell(run + "rogue -p 0.0.0.0:9999:80 -p [::]:9999:80" + web)
        made.shell(run + "exposed -p 0.0.0.0:9995:80 -p [::]:9995:80" + web)
        made.shell(run + "local -p 127.0.0.1:5432:80" + web)
        made.shell("docker network create other; " + run + "apart --network other" + web)
        yield made
    finally:
        made.down()


def route(host: Guarded, container: str) -> str:
    """Let the neighbour send to a container's own address by way of the host; return that address."""
    address = host.container_address(container)
    subprocess.run(
        ["docker", "exec", host.neighbour, "ip", "route", "replace", address + "/32", "via", host.address()], check=True
    )
    return address


def open_ports(version: str, when: str, found: List[int]) -> None:
    """Record what a full scan found."""
    name = "open ports {0} ({1})".format(when, version)
    record(name, ", ".join(map(str, found)) or "none", "of 65535 TCP", "full SYN scan by a neighbour, test_firewall")


def closed(host: Guarded, full: bool = True) -> None:
    """Only what should be is open: TCP and UDP, IPv4 and IPv6, published ports, and containers asked directly."""
    # All of it runs: a scan of a host where nothing listens would prove nothing.
    host.wait("curl -sf --max-time 2 -o /dev/null http://127.0.0.1:9999/busybox")
    host.wait("curl -sf --max-time 2 -o /dev/null http://127.0.0.1:5432/busybox")
    host.wait("ss -Hltn sport = :443 | grep -q 443")
    if full:
        for version, address in (("IPv4", host.address()), ("IPv6", host.host6())):
            found = host.scan(address)
            open_ports(version, "with the firewall", found)
            assert found == OPEN
    tcp = {
        "tcp/{0}/{1}".format(at, port): port in OPEN for at in (host.address(), host.host6()) for port in OPEN + ROGUE
    }
    udp = {"udp/{0}/9997".format(at): False for at in (host.address(), host.host6())}
    direct = {"tcp/{0}/80".format(route(host, name)): False for name in ("rogue", "local", "apart")}
    expected = {**tcp, **udp, **direct}
    assert host.ask(*expected) == expected
    # Docker's own work goes on: containers reach the outside, and not each other across networks.
    fetch = "docker exec rogue /bin/busybox nc -w {0} {1} {2} < /dev/null"
    host.shell(fetch.format(5, host.address(host.neighbour), 8000) + " | grep -q outside")
    other = fetch.format(1, host.container_address("apart"), 80)
    assert host.run("sh", "-c", other + " && echo connected", check=False) == ""


def test_without_rules_all_is_open(host: Guarded) -> None:
    found = host.scan(host.address())
    open_ports("IPv4", "without it, with much that listens", found)
    assert found == sorted(OPEN + ROGUE)
    assert host.reachable(host.host6(), OPEN + sorted(ROGUE)) == OPEN + sorted(ROGUE)
    assert all(host.ask("udp/{0}/9997".format(host.address()), "udp/{0}/9997".format(host.host6())).values())
    # What Engines before 28 do: a port that is published on 127.0.0.1 only, and one that is not published at all.
    assert all(host.ask(*("tcp/{0}/80".format(route(host, name)) for name in ("local", "apart"))).values())


def test_with_rules_only_what_should_be_is(host: Guarded) -> None:
    host.variables["multibase_firewall_enabled"] = True
    # Something for containers to reach.
    subprocess.run(
        ["docker", "exec", "-d", host.neighbour, "python3", "-c",
         "import socketserver, socket\n"
         "class H(socketserver.BaseRequestHandler):\n"
         "    def handle(self): self.request.sendall(b'outside\\n')\n"
         "socketserver.ThreadingTCPServer(('', 8000), H).serve_forever()"],
        check=True,
    )  # fmt: skip
    told = host.play("--tags", "firewall", "--diff")
    assert "+" in told
    closed(host)


def test_a_second_run_changes_nothing(host: Guarded) -> None:
    for options in (["--check"], []):
        assert "changed=0 " in host.play("--tags", "firewall", *options)
    # The way back of the first run is not waiting any more.
    assert host.run("systemctl", "is-active", "multibase-firewall-rollback.timer", check=False) == "inactive"


@pytest.mark.parametrize(
    "event",
    [
        "systemctl restart docker",
        "iptables -F; iptables -t nat -F; systemctl reload multibase-firewall; systemctl restart multibase-firewall",
        "systemctl start nftables; systemctl reload nftables; systemctl restart nftables; systemctl stop nftables",
    ],
)
def test_the_rules_outlast_what_others_do(host: Guarded, event: str) -> None:
    before = host.run("nft", "--stateless", "list", "table", "inet", "multibase")
    for step in event.split("; "):
        host.shell(step)
        assert host.run("nft", "--stateless", "list", "table", "inet", "multibase") == before
    # What was flushed are Docker's rules as well, which come back with it. systemd allows few restarts.
    host.shell("systemctl reset-failed docker; systemctl restart docker")
    closed(host, full=event == "systemctl restart docker")


def test_the_rules_are_there_before_anything_after_a_reboot(host: Guarded) -> None:
    host.shell("systemctl enable nftables")
    host.reboot()
    closed(host)
    order = host.run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", "multibase-firewall")
    docker = host.run("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", "docker")
    assert 0 < int(order) < int(docker)
    assert host.run("systemctl", "list-units", "--failed", "--no-legend", "multibase*") == ""


def test_a_run_repairs_rules_that_are_gone_or_others(host: Guarded) -> None:
    for damage in (
        "nft flush ruleset; systemctl reset-failed docker; systemctl restart docker",
        "nft insert rule inet multibase input accept",
    ):
        host.shell(damage)
        assert host.reachable(host.address(), [9998]) == [9998]
        if "flush" in damage:
            assert "changed=0 " not in host.play("--tags", "firewall", "--check")
            assert host.reachable(host.address(), [9998]) == [9998]
        host.play("--tags", "firewall")
        closed(host, full=False)


def test_exposures_are_explicit_and_by_the_hosts_port(host: Guarded) -> None:
    neighbour = host.address(host.neighbour)
    allow = [
        {"port": 9995, "from": [neighbour + "/32", "192.0.2.0/24"], "comment": "acme"},
        {"port": "9996-9997", "proto": "udp", "from": [host.host6() + "/64"]},
        {"port": 9998, "from": ["192.0.2.0/24", "2001:db8::/32"]},
    ]
    host.play("--tags", "firewall", multibase_firewall_allow=allow)
    assert host.reachable(host.address(), OPEN + ROGUE) == [*OPEN, 9995]
    assert host.reachable(host.host6(), OPEN + ROGUE) == OPEN
    expected = {
        "udp/{0}/9997".format(host.host6()): True,
        "udp/{0}/9997".format(host.address()): False,
        "tcp/{0}/80".format(route(host, "exposed")): False,
    }
    assert host.ask(*expected) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"multibase_firewall_allow": [{"port": "80; accept"}]},
        {"multibase_firewall_allow": [{"port": 99999}]},
        {"multibase_firewall_allow": [{"port": 1, "comment": '" accept'}]},
        {"multibase_firewall_ssh_from": ["example.net"]},
        {"multibase_firewall_trusted_interfaces": ['eth0" accept']},
    ],
    ids=["port", "figure", "comment", "network", "interface"],
)
def test_a_mistake_changes_nothing(host: Guarded, wrong: dict) -> None:
    before = host.run("nft", "--stateless", "list", "ruleset") + host.run("cat", "/etc/multibase/firewall.nft")
    host.play("--tags", "firewall", succeeds=False, **wrong)
    assert host.run("nft", "--stateless", "list", "ruleset") + host.run("cat", "/etc/multibase/firewall.nft") == before


def test_rules_that_lock_ansible_out_are_taken_back(host: Guarded) -> None:
    key = host.work / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    host.run("install", "-d", "-m", "700", "/root/.ssh")
    host.run("tee", "/root/.ssh/authorized_keys", text=key.with_suffix(".pub").read_text())
    # A port of its own, which nobody told the role about: it sees by which one Ansible came in.
    host.shell("printf 'Port 22\\nPort 2222\\n' > /etc/ssh/sshd_config.d/port.conf; systemctl restart ssh")
    ssh = {
        "ansible_connection": "ssh",
        "ansible_host": host.address(),
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlPath="
        + str(host.work / "cm-%C"),
        "ansible_ssh_timeout": 5,
    }
    # Let it in there first, by the connection that is not SSH; then it must stay open without being named.
    host.play("--tags", "firewall", multibase_firewall_allow=[{"port": 2222}])
    host.play("--tags", "firewall", ansible_port=2222, **ssh)
    assert host.reachable(host.address(), [22, 2222]) == [22, 2222]
    before = host.run("cat", "/etc/multibase/firewall.nft")
    live = host.run("nft", "--stateless", "list", "table", "inet", "multibase")

    told = host.play(
        "--tags", "firewall", succeeds=False, ansible_port=2222, multibase_firewall_ssh_from=["192.0.2.1"],
        multibase_firewall_rollback_seconds=12, **ssh,
    )  # fmt: skip
    assert re.search(r"timed out waiting for ping|unreachable", told, re.IGNORECASE)
    host.wait("! systemctl is-active --quiet multibase-firewall-rollback.timer", 20)
    assert host.reachable(host.address(), [22, 2222, 9998]) == [22, 2222]
    assert host.run("cat", "/etc/multibase/firewall.nft") == before
    assert host.run("nft", "--stateless", "list", "table", "inet", "multibase") == live


def test_switched_off_the_rules_go_and_it_is_said(host: Guarded) -> None:
    off = {"multibase_firewall_enabled": False}
    assert "is false: removing the table" in host.play("--tags", "firewall", "--check", **off)
    assert host.reachable(host.address(), [9998]) == []
    assert "is false: removing the table" in host.play("--tags", "firewall", **off)
    assert host.reachable(host.address(), [9998]) == [9998]
    assert (
        host.run(
            "sh",
            "-c",
            "ls /etc/multibase/firewall* /etc/systemd/system/multibase*; nft list tables | grep multibase",
            check=False,
        )
        == ""
    )
    assert "changed=0 " in host.play("--tags", "firewall", **off)
