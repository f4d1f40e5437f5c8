# SPDX-License-Identifier: GPL-3.0-or-later
"""A test host with a neighbour on the same network segment: firewall and hardening, seen from where attackers are."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NETWORK = "multibase-sandbox"
IMAGE = "multibase-sandbox/host:13"
PYTHON = str(REPOSITORY / ".venv" / "bin" / "python")
# What listens on the host: a web server's ports, one that nobody meant to open, with both IP versions; UDP that echoes.
LISTENERS = """
import socket, socketserver, threading

class Tcp(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True

class Udp(socketserver.ThreadingUDPServer):
    address_family, allow_reuse_address = socket.AF_INET6, True

class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"host\\n")

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0], self.client_address)

for port in (80, 443, 9998):
    threading.Thread(target=Tcp(("::", port), Hello).serve_forever).start()
threading.Thread(target=Udp(("::", 9997), Echo).serve_forever).start()
"""
UNIT = """
[Service]
ExecStart=/usr/bin/python3 /root/listeners.py
[Install]
WantedBy=multi-user.target
"""


def output(*argv: str, check: bool = True, text: str = "") -> str:
    """Run a command of this machine and return what it prints."""
    done = subprocess.run(list(argv), input=text, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, "{0}: {1}{2}".format(argv, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout.strip()


@dataclass
class Guarded:
    """The host, its neighbour, and the playbook that works on the host."""

    name: str
    work: Path
    variables: Dict[str, Any] = field(default_factory=dict)

    @property
    def container(self) -> str:
        return NETWORK + "-" + self.name

    @property
    def neighbour(self) -> str:
        return self.container + "-neighbour"

    def sandbox(self, *words: str) -> None:
        output(PYTHON, str(REPOSITORY / "tests" / "sandbox" / "sandbox.py"), *words)

    def up(self) -> None:
        """Start both. IPv6 is given by hand, because the sandbox's network has none."""
        self.down()
        self.sandbox("host", "up", self.name)
        output(
            "docker", "run", "--detach", "--name", self.neighbour, "--network", NETWORK, "--cap-add", "NET_ADMIN",
            "--label", "io.multibase.sandbox=1", "--label", "io.multibase.sandbox.host=" + self.name,
            "--sysctl", "net.ipv6.conf.all.disable_ipv6=0", IMAGE, "sleep", "infinity",
        )  # fmt: skip
        self.address6()

    def down(self) -> None:
        output("docker", "rm", "--force", self.neighbour, check=False)
        self.sandbox("host", "down", self.name)

    def host6(self, container: str = "") -> str:
        """IPv6 address of the host or the neighbour: as unique on the sandbox's network as their IPv4 addresses."""
        return "fd00:212::" + self.address(container).rpartition(".")[2]

    def address6(self) -> None:
        """Give both their IPv6 addresses, which a restart takes away."""
        self.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
        for container in (self.container, self.neighbour):
            address = self.host6(container) + "/64"
            output("docker", "exec", container, "ip", "-6", "addr", "replace", address, "dev", "eth0", "nodad")

    def address(self, container: str = "") -> str:
        """IPv4 address of the host or the neighbour."""
        form = '{{(index .NetworkSettings.Networks "' + NETWORK + '").IPAddress}}'
        return output("docker", "inspect", "--format", form, container or self.container)

    def run(self, *argv: str, check: bool = True, text: str = "") -> str:
        """Run a command on the host."""
        return output("docker", "exec", "--interactive", self.container, *argv, check=check, text=text)

    def shell(self, script: str) -> str:
        """Run a script on the host; every command in it must succeed."""
        return self.run("/bin/sh", "-euc", script)

    def outside(self, *words: str) -> str:
        """Do something of outsider.py in the neighbour's network."""
        pid = output("docker", "inspect", "--format", "{{.State.Pid}}", self.neighbour)
        return output("nsenter", "--target", pid, "--net", PYTHON, str(HERE / "outsider.py"), *words)

    def scan(self, address: str) -> List[int]:
        """Every TCP port that is open to the neighbour."""
        found = json.loads(self.outside("scan", address))
        print("full scan of {0}: {1[open]} in {1[seconds]} s".format(address, found))
        return list(found["open"])

    def ask(self, *what: str) -> Dict[str, bool]:
        """Which of PROTO/ADDRESS/PORT answer to the neighbour."""
        return dict(json.loads(self.outside("ask", *what)))

    def reachable(self, address: str, ports: Sequence[int]) -> List[int]:
        """Which of some TCP ports are open to the neighbour."""
        found = self.ask(*("tcp/{0}/{1}".format(address, port) for port in ports))
        return [port for port in ports if found["tcp/{0}/{1}".format(address, port)]]

    def play(self, *options: str, succeeds: bool = True, **variables: Any) -> str:
        """Run the playbook; variables are those of the fixture and these on top."""
        inventory = self.work / "hosts.json"
        host = {
            "ansible_connection": "community.docker.docker",
            "ansible_host": self.container,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            **self.variables,
            **variables,
        }
        inventory.write_text(json.dumps({"all": {"children": {"multibase_hosts": {"hosts": {self.name: host}}}}}))
        started = time.monotonic()
        done = subprocess.run(
            [PYTHON.replace("python", "ansible-playbook"), "-i", str(inventory), str(HERE / "guarded.yml"), *options],
            cwd=REPOSITORY,
            env={**os.environ, "ANSIBLE_CALLBACK_PLUGINS": "/nonexistent", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        print("ansible-playbook {0}: {1:.1f} s".format(" ".join(options), time.monotonic() - started))
        if succeeds:
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        else:
            assert done.returncode != 0, done.stdout[-6000:]
        return done.stdout + done.stderr

    def listen(self) -> None:
        """Start what listens on the host, now and at every boot."""
        self.run("tee", "/root/listeners.py", text=LISTENERS)
        self.run("tee", "/etc/systemd/system/listeners.service", text=UNIT)
        self.run("systemctl", "enable", "--now", "listeners.service")

    def load_image(self) -> None:
        """Give the host's own Engine an image that holds busybox only."""
        script = "mkdir -p /tmp/i/bin && cp /bin/busybox /tmp/i/bin/ && tar -C /tmp/i -c . | base64"
        packed = output("docker", "run", "--rm", "--entrypoint", "/bin/sh", "multibase-sandbox/base:13", "-ec", script)
        self.run("/bin/sh", "-ec", "base64 -d | docker import - tiny", text=packed)

    def container_address(self, name: str) -> str:
        """Address of a container of the host's own Engine."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.run("docker", "inspect", "--format", form, name)

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until a command on the host succeeds."""
        self.shell(
            "for i in $(seq {0}); do if {1}; then exit 0; fi; sleep 0.5; done; exit 1".format(
                int(seconds * 2), condition
            )
        )

    def reboot(self) -> None:
        """Restart the host, and wait until it has booted."""
        output("docker", "restart", self.container)
        self.sandbox("host", "up", self.name)
        self.address6()
