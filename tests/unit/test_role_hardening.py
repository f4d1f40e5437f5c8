# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings that the role writes, by its variables. What a host makes of them is in tests/e2e/test_hardening.py."""

from __future__ import annotations

import configparser
import subprocess
from typing import Any, Dict, List

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from unit.support import REPOSITORY
from unit.test_role_firewall import trusted

ROLE = REPOSITORY / "roles" / "multibase_hardening"


def expand(text: str, seen: List[str], **variables: Any) -> Any:
    """Let Ansible expand a template with the role's variables."""
    known: Dict[str, Any] = {}
    for name in ("defaults", "vars"):
        known.update(trusted(yaml.safe_load((ROLE / name / "main.yml").read_text(encoding="utf-8"))))
    said = {"host": {"stdout_lines": seen}, "kernel": {"stdout_lines": variables.pop("kernel", [])}}
    known.update({"ansible_managed": "managed", "__multibase_hardening_query": {"said": said}, **variables})
    return Templar(loader=DataLoader(), variables=known).template(trust_as_template(text))


def file(name: str, *seen: str, **variables: Any) -> str:
    """A file of the role."""
    return str(expand((ROLE / "templates" / name).read_text(encoding="utf-8"), list(seen), **variables))


def sysctl(text: str) -> Dict[str, str]:
    """The settings in a file for sysctl."""
    return dict(line[1:].split(" = ") for line in text.splitlines() if line.startswith("-"))


def test_forwarding_is_left_to_docker() -> None:
    found = sysctl(file("sysctl.conf.j2"))
    assert not [key for key in found if "forward" in key or key.startswith("net.bridge")]
    assert found["kernel.kptr_restrict"] == "2"
    assert sysctl(file("sysctl.conf.j2", multibase_hardening_sysctl={"vm.swappiness": 1, "kernel.sysrq": 1})) == {
        **found, "vm.swappiness": "1", "kernel.sysrq": "1",
    }  # fmt: skip


def test_a_container_gets_only_what_is_its_own() -> None:
    bare, inside = sysctl(file("sysctl.conf.j2")), sysctl(file("sysctl.conf.j2", "container lxc"))
    assert inside == {key: value for key, value in bare.items() if key.startswith(("net.ipv4.", "net.ipv6."))}
    left = expand("{{ __multibase_hardening_sysctl_left }}", ["container lxc"])
    assert sorted([*inside, *left]) == sorted(bare)
    assert expand("{{ __multibase_hardening_sysctl_left }}", []) == []
    told = ["changed kernel.sysrq", "missing net.ipv4.tcp_rfc1337"]
    assert expand("{{ __multibase_hardening_kernel_seen }}", ["container lxc"], kernel=told) == told[1:]
    assert expand("{{ __multibase_hardening_kernel_seen }}", [], kernel=told) == told


@pytest.mark.parametrize(
    ("given", "present", "absent"),
    [
        ({}, ["PasswordAuthentication no", "KbdInteractiveAuthentication no", "MaxAuthTries 3"], []),
        (
            {"multibase_hardening_ssh_passwords": True},
            ["PermitRootLogin prohibit-password"],
            ["PasswordAuthentication"],
        ),
        ({"multibase_hardening_ssh_options": {"MaxAuthTries": 6}}, ["MaxAuthTries 6"], ["MaxAuthTries 3"]),
    ],
)
def test_settings_of_sshd(given: Dict[str, Any], present: List[str], absent: List[str]) -> None:
    text = file("sshd.conf.j2", **given)
    assert set(present) <= set(text.splitlines())
    assert not [word for word in absent if word in text]
    assert "Port " not in text
    # What sshd prints of it when it is asked; that it does is checked on a host.
    expected = expand("{{ __multibase_hardening_ssh_expected }}", [], **given)
    assert "permitrootlogin without-password" in expected
    assert len(expected) == len([line for line in text.splitlines() if not line.startswith("#")])


@pytest.mark.parametrize(
    ("proxy", "seen", "jails"),
    [
        (False, ["log /var/log/nginx/error.log"], ["DEFAULT", "sshd"]),
        # A jail whose logs do not exist keeps fail2ban from starting.
        (True, [], ["DEFAULT", "sshd"]),
        (True, ["log /var/log/nginx/error.log"], ["DEFAULT", "sshd", "nginx-http-auth", "nginx-limit-req"]),
    ],
)
def test_jails(proxy: bool, seen: List[str], jails: List[str]) -> None:
    given = {"multibase_proxy_enabled": proxy, "multibase_ssh_ports": [22, 2222]}
    parsed = configparser.RawConfigParser(default_section="none")
    parsed.read_string(file("jail.conf.j2", *seen, **given))
    assert parsed.sections() == jails
    assert parsed["sshd"]["port"] == "22,2222"
    assert parsed["DEFAULT"]["ignoreip"] == "127.0.0.0/8 ::1"


def test_updates_never_touch_the_engine_and_never_reboot() -> None:
    text = file("upgrades.conf.j2", multibase_hardening_upgrades_exclude=["^postgresql"])
    for line in (
        '  "^docker";',
        '  "^containerd";',
        '  "^postgresql";',
        'Unattended-Upgrade::Automatic-Reboot "false";',
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("seen", "has_key"),
    [
        (["sshd there"], False),
        (["sshd there", "key /root/.ssh/authorized_keys"], True),
        (["key trustedusercakeys /x"], True),
    ],
)
def test_keys_are_seen(seen: List[str], has_key: bool) -> None:
    assert expand("{{ __multibase_hardening_has_key }}", seen) is has_key


def test_modules() -> None:
    text = file("modprobe.conf.j2")
    assert "install dccp /bin/false" in text.splitlines()
    assert "usb" not in text


def test_scripts_are_shell() -> None:
    for path in sorted((ROLE / "tasks").glob("*.yml")):
        for task in yaml.safe_load(path.read_text(encoding="utf-8")):
            for name, script in task.get("vars", {}).items():
                if name.endswith(("_look", "_script")):
                    subprocess.run(["/bin/sh", "-n", "-c", script], check=True)
