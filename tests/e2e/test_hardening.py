# SPDX-License-Identifier: GPL-3.0-or-later
"""What hardening does to a host with SSH: who gets in, and what still works. What lynis says is in test_lynis.

The tests build on each other and run in this order.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any, Dict, Iterator

import pytest

from e2e.guarded import Guarded

ON = {"multibase_hardening_enabled": True}
KERNEL = "cd /proc/sys/kernel; grep -H . kptr_restrict dmesg_restrict unprivileged_bpf_disabled"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A host with SSH, where root has a password and nobody a key."""
    made = Guarded("hardening-e2e", tmp_path_factory.mktemp("hardening"), dict(ON))
    made.up()
    try:
        made.shell("apt-get update -qq; apt-get install -qq openssh-server sshpass > /dev/null 2>&1")
        made.run(
            "tee", "/etc/ssh/sshd_config.d/50-cloud-init.conf", text="PasswordAuthentication yes\nPermitRootLogin yes\n"
        )
        made.shell("systemctl restart ssh; useradd -m -s /bin/sh deploy")
        made.run("chpasswd", text="root:much-too-simple\ndeploy:much-too-simple\n")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(made.work / "key")], check=True)
        yield made
    finally:
        made.down()


def hardening(host: Guarded, *options: str, succeeds: bool = True, **variables: Any) -> str:
    return host.play("--tags", "hardening", *options, succeeds=succeeds, **variables)


def changed(told: str) -> int:
    found = re.search(r"changed=(\d+) ", told)
    assert found
    return int(found.group(1))


def by_password(host: Guarded) -> bool:
    """Whether the host lets somebody in with a password, from itself."""
    ssh = "sshpass -p much-too-simple ssh -o StrictHostKeyChecking=no -o PubkeyAuthentication=no -o ConnectTimeout=5"
    return host.run("sh", "-c", ssh + " deploy@127.0.0.1 echo in", check=False) == "in"


def by_key(host: Guarded) -> Dict[str, Any]:
    """Variables of a connection by SSH."""
    known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
    return {
        "ansible_connection": "ssh",
        "ansible_host": host.address(),
        "ansible_ssh_private_key_file": str(host.work / "key"),
        "ansible_ssh_common_args": known + " -o ControlPath=" + str(host.work / "cm-%C"),
    }


def test_it_stops_before_nobody_could_log_in(host: Guarded) -> None:
    assert "has no key in authorized_keys" in hardening(host, succeeds=False)
    assert (
        host.run("sh", "-c", "ls /etc/ssh/sshd_config.d; ls /etc/sysctl.d | grep multibase", check=False)
        == "50-cloud-init.conf"
    )
    assert by_password(host)


def test_check_run_check_run(host: Guarded) -> None:
    host.run("install", "-d", "-m", "700", "/root/.ssh")
    host.run("tee", "/root/.ssh/authorized_keys", text=(host.work / "key.pub").read_text())
    before = host.shell(KERNEL)
    assert changed(hardening(host, "--check", "--diff", **by_key(host))) > 0
    assert host.run("sh", "-c", "ls /etc/sysctl.d | grep multibase; command -v fail2ban-client", check=False) == ""
    told = hardening(host, "--diff", **by_key(host))
    assert changed(told) > 0
    assert "goes on without these settings of the kernel" in told
    for options in (["--check"], []):
        assert changed(hardening(host, *options, **by_key(host))) == 0
    # The test host is a container: the kernel's settings are this machine's, and none of them moved.
    assert host.shell(KERNEL) == before
    assert host.run("sysctl", "-n", "net.ipv4.conf.all.send_redirects") == "0"


def test_keys_come_in_and_passwords_do_not(host: Guarded) -> None:
    # That keys do is what the run above came in by.
    assert not by_password(host)
    effective = host.run("sshd", "-T").splitlines()
    assert {"passwordauthentication no", "permitrootlogin without-password", "maxauthtries 3", "port 22"} <= set(
        effective
    )
    assert host.run("systemctl", "is-active", "multibase-ssh-rollback.timer", check=False) == "inactive"


def test_updates_leave_the_engine_alone(host: Guarded) -> None:
    settings = host.run("apt-config", "dump")
    assert 'Unattended-Upgrade::Package-Blacklist:: "^docker";' in settings
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings
    host.run("unattended-upgrade", "--dry-run")


def test_who_guesses_is_banned(host: Guarded) -> None:
    address = host.address(host.neighbour)
    assert host.reachable(host.address(), [22]) == [22]
    pid = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", host.neighbour], capture_output=True, text=True, check=True
    ).stdout.strip()
    for number in range(6):
        subprocess.run(
            ["nsenter", "--target", pid, "--net", "ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
             "-o", "ConnectTimeout=3", "-o", "UserKnownHostsFile=/dev/null", "-F", "none",
             "guess{0}@{1}".format(number, host.address()), "true"],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
    host.wait("fail2ban-client status sshd | grep -q {0}".format(address.replace(".", "[.]")), 20)
    host.wait("nft list ruleset | grep -q {0}".format(address.replace(".", "[.]")), 5)
    assert host.reachable(host.address(), [22]) == []
