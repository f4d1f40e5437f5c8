# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that the role writes, by its variables. What the kernel makes of them is in tests/e2e/test_firewall.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from unit.support import REPOSITORY

ROLE = REPOSITORY / "roles" / "multibase_firewall"
SEEN = ["installed nftables", "uplink eth0"]


def trusted(value: Any) -> Any:
    """Mark every string of a role's file as a template, as Ansible does when it reads the file."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    return [trusted(item) for item in value] if isinstance(value, list) else value


def expand(text: str, seen: List[str] = SEEN, connection: str = "", **variables: Any) -> Any:
    """Let Ansible expand a template with the role's variables."""
    known: Dict[str, Any] = {}
    for name in ("defaults", "vars"):
        known.update(trusted(yaml.safe_load((ROLE / name / "main.yml").read_text(encoding="utf-8"))))
    said = {"host": {"stdout_lines": seen}, "connection": {"stdout": connection}}
    known.update({"ansible_managed": "managed", "__multibase_firewall_query": {"said": said}})
    known.update(variables)
    return Templar(loader=DataLoader(), variables=known).template(trust_as_template(text))


def rules(**given: Any) -> str:
    """The file of rules."""
    return str(expand((ROLE / "templates" / "firewall.nft.j2").read_text(encoding="utf-8"), **given))


def chain(text: str, name: str) -> List[str]:
    """The rules of a chain, without comments."""
    body = re.search(r"\tchain " + name + r" \{\n(.*?)\n\t\}", text, re.DOTALL)
    assert body
    return [line.strip() for line in body.group(1).splitlines() if line.strip() and not line.strip().startswith("#")]


SSH = 'meta l4proto tcp ct original proto-dst { 22 } accept comment "SSH"'
WEB = 'meta l4proto tcp ct original proto-dst { 80, 443 } accept comment "proxy"'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [SSH, WEB]),
        ({"multibase_ssh_ports": [2222, 22, 22]}, [SSH.replace("{ 22 }", "{ 22, 2222 }"), WEB]),
        # By which port Ansible came in stands last in SSH_CONNECTION.
        ({"connection": "192.0.2.7 50000 192.0.2.1 2200"}, [SSH.replace("{ 22 }", "{ 22, 2200 }"), WEB]),
        ({"connection": "2001:db8::7 50000 2001:db8::1 22"}, [SSH, WEB]),
        ({"multibase_firewall_ssh_from": ["1.2.3.4", "::1"]}, ["ip saddr 1.2.3.4 " + SSH, "ip6 saddr ::1 " + SSH, WEB]),
        ({"multibase_firewall_web_from": ["10.0.0.0/8"]}, [SSH, "ip saddr 10.0.0.0/8 " + WEB]),
        ({"multibase_proxy_http_port": 8080}, [SSH, WEB.replace("{ 80, 443 }", "{ 443, 8080 }")]),
        (
            {
                "multibase_firewall_allow": [
                    {"port": 5432, "from": ["192.0.2.1", "2001:db8::/32"], "comment": "acme"},
                    {"port": "6000-6010", "proto": "udp"},
                ]
            },
            [
                SSH,
                WEB,
                'ip saddr 192.0.2.1 meta l4proto tcp ct original proto-dst 5432 accept comment "acme"',
                'ip6 saddr 2001:db8::/32 meta l4proto tcp ct original proto-dst 5432 accept comment "acme"',
                "meta l4proto udp ct original proto-dst 6000-6010 accept",
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_open(given: Dict[str, Any], expected: List[str], tmp_path: Path) -> None:
    text = rules(**given)
    assert chain(text, "open") == expected
    if shutil.which("nft"):
        file = tmp_path / "rules"
        file.write_text(text)
        subprocess.run(["nft", "--check", "--file", str(file)], check=True)


def test_everything_else_is_dropped_and_replaced_in_one_transaction() -> None:
    text = rules()
    assert re.search(
        r"^add table inet multibase\ndelete table inet multibase\n\ntable inet multibase \{$", text, re.MULTILINE
    )
    for hook in ("input", "forward"):
        head = "type filter hook {0} priority filter - 10; policy drop;".format(hook)
        inside = ['iifname "{0}" accept'.format(name) for name in ("lo", "docker*", "br-*")]
        assert chain(text, hook) == [head, *inside, "goto {0}_outside".format(hook)]
        assert chain(text, hook + "_outside")[-2:][1] == "counter drop"
    assert "ct status dnat jump open" in chain(text, "forward_outside")
    assert "jump open" not in chain(text, "forward_outside")


@pytest.mark.parametrize(
    ("uplink", "forced"),
    [("eth0", []), ("br0", []), ("br-lan", ["br-lan"]), ("docker9", ["docker9"]), ("wg0", [])],
)
def test_an_uplink_is_outside_whatever_its_name(uplink: str, forced: List[str]) -> None:
    text = rules(seen=["uplink " + uplink, "uplink " + uplink], multibase_firewall_trusted_interfaces=["wg0"])
    first = ['iifname "{0}" goto input_outside'.format(name) for name in forced]
    assert chain(text, "input")[1 : 2 + len(forced)] == [*first, 'iifname "lo" accept']
    assert chain(text, "input")[-2] == 'iifname "wg0" accept'


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"multibase_firewall_allow": [{"port": "80; drop"}]}, ["port 80; drop"]),
        ({"multibase_firewall_allow": [{"port": "80\naccept"}]}, ["port 80\naccept"]),
        ({"multibase_firewall_allow": [{"port": 1, "comment": 'a" accept'}]}, ['comment a" accept']),
        ({"multibase_firewall_allow": [{"port": 1, "comment": "a\nb"}]}, ["comment a\nb"]),
        ({"multibase_firewall_allow": [{"port": 1, "comment": "a\\"}]}, ["comment a\\"]),
        ({"multibase_firewall_allow": [{"port": 1, "from": ["all"]}]}, ["network all"]),
        ({"multibase_firewall_ssh_from": ["1.2.3.4 accept"]}, ["network 1.2.3.4 accept"]),
        ({"multibase_firewall_web_from": ["::1/128 x"]}, ["network ::1/128 x"]),
        ({"multibase_firewall_trusted_interfaces": ['a"b', "*x"]}, ['interface a"b', "interface *x"]),
        (
            {
                "multibase_firewall_allow": [
                    {"port": "1-2", "from": ["::/0"], "comment": "it's 1: (a)"},
                    {"port": 65535},
                ],
                "multibase_firewall_ssh_from": ["10.0.0.0/8", "2001:db8::1"],
                "multibase_firewall_trusted_interfaces": ["wg*", "eth0.5@x"],
            },
            [],
        ),
    ],
)
def test_mistakes_are_named(given: Dict[str, Any], named: List[str]) -> None:
    assert expand("{{ __multibase_firewall_mistakes }}", **given) == named


def test_other_firewalls_and_missing_packages_are_seen() -> None:
    assert expand("{{ __multibase_firewall_others }}", seen=["active ufw", "uplink active", "active firewalld"]) == [
        "ufw",
        "firewalld",
    ]
    assert expand("{{ __multibase_firewall_missing_packages }}", seen=["not-installed nftables"]) == ["nftables"]
    assert expand("{{ __multibase_firewall_missing_packages }}") == []


def test_the_unit_comes_before_the_network_and_docker_and_after_who_flushes() -> None:
    text = str(expand((ROLE / "templates" / "multibase-firewall.service.j2").read_text(encoding="utf-8")))
    assert {"network-pre.target", "docker.service"} <= set(re.findall(r"^Before=(.*)$", text, re.MULTILINE)[0].split())
    assert re.findall(r"^After=(.*)$", text, re.MULTILINE) == ["nftables.service"]
    assert "ExecReload=nft --file /etc/multibase/firewall.nft" in text


@pytest.mark.parametrize(
    ("environment", "found"),
    [({"SSH_CONNECTION": "192.0.2.7 50000 192.0.2.1 2200"}, "192.0.2.7 50000 192.0.2.1 2200"), ({}, "")],
)
def test_the_connection_is_found_above_programs_that_drop_it(environment: Dict[str, str], found: str) -> None:
    tasks = yaml.safe_load((ROLE / "tasks" / "rules.yml").read_text(encoding="utf-8"))
    look = next(task["multibase.supabase.look"] for task in tasks if "multibase.supabase.look" in task)
    # A shell of the login, and one below it that has nothing in its environment, as under sudo.
    below = ["env", "-i", *look["commands"]["connection"]]
    login = ["/bin/sh", "-c", '"$@"; exit', "login", *below]
    clean = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
    # A session of SSH that the tests run in would be found as well.
    if not environment and any(b"SSH_CONNECTION=" in text for text in environments_above()):
        pytest.skip("the tests run in an SSH session")
    done = subprocess.run(login, env={**clean, **environment}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


def environments_above() -> List[bytes]:
    """The environments of this process and of those above it, as far as they may be read."""
    found: List[bytes] = []
    process = os.getpid()
    while process > 0:
        try:
            found.append(Path(f"/proc/{process}/environ").read_bytes())
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        except OSError:
            break
        process = int(status.partition("PPid:")[2].split()[0])
    return found
