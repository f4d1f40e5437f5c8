# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What of a host is in use already: listening sockets, ports that other projects claim, routes."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Callable, Dict, Iterable, List, Optional, Tuple

from ._engine import Engine
from ._layout import ENV_FILE, Layout
from ._subnets import parse_network

_LISTEN = "0A"
_PORT_VARIABLE = re.compile(
    r"^\s*(?:export\s+)?[A-Z0-9_]*PORT[A-Z0-9_]*\s*=\s*[\"']?(?:[0-9.]+:)?(\d{2,5})[\"']?\s*(?:\s#.*)?$", re.MULTILINE
)
_SUBNET_VARIABLE = re.compile(r"^MULTIBASE_SUBNET=(\S+)$", re.MULTILINE)


def listening_ports(tables: Iterable[str]) -> Dict[int, str]:
    """Return the listening TCP ports in the texts of ``/proc/net/tcp`` and ``/proc/net/tcp6`` (proc_net_tcp(5))."""
    ports: Dict[int, str] = {}
    for table in tables:
        for line in table.splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == _LISTEN:
                ports[int(fields[1].rsplit(":", 1)[1], 16)] = "a listening process"
    return ports


def routed_networks(table: str) -> List[ipaddress.IPv4Network]:
    """Return the networks in the text of ``/proc/net/route``, without the default route (little-endian hex words)."""
    networks: List[ipaddress.IPv4Network] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[7] == "00000000":
            continue
        address = ipaddress.IPv4Address(bytes.fromhex(fields[1])[::-1])
        mask = ipaddress.IPv4Address(bytes.fromhex(fields[7])[::-1])
        network = parse_network("{0}/{1}".format(address, mask))
        if network is not None:
            networks.append(network)
    return networks


def claimed_ports(env_text: str) -> List[int]:
    """Return the numbers of all variables with PORT in their names: a project that is stopped keeps its ports."""
    return [int(number) for number in _PORT_VARIABLE.findall(env_text)]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


class HostView:
    """The host as far as allocation cares, read once and only when something is allocated.

    ``engine`` returns the Docker Engine, or None on a host that has none.
    """

    def __init__(self, layout: Layout, engine: Callable[[], Optional[Engine]]) -> None:
        self._layout = layout
        self._engine = engine

    def taken_ports(self, known: Iterable[str]) -> Dict[int, str]:
        """Return every port in use and what uses it. ``known`` are our instances, whose blocks are reserved as such."""
        ports = listening_ports(_read(path) for path in ("/proc/net/tcp", "/proc/net/tcp6"))
        engine = self._engine()
        if engine is not None:
            ports.update(engine.published_ports())
        for env_path in self._foreign_env_files(known):
            for port in claimed_ports(_read(env_path)):
                ports.setdefault(port, env_path)
        return ports

    def _foreign_env_files(self, known: Iterable[str]) -> List[str]:
        ours = set(known)
        try:
            entries = sorted(os.listdir(self._layout.projects))
        except FileNotFoundError:
            return []
        return [
            os.path.join(self._layout.projects, entry, ENV_FILE)
            for entry in entries
            if entry not in ours and not entry.startswith(".")
        ]

    def taken_networks(self, known: Iterable[str]) -> List[ipaddress.IPv4Network]:
        """Return the networks that the host routes to, of its Engine, and of directories that are not ``known``."""
        networks = routed_networks(_read("/proc/net/route"))
        for env_path in self._foreign_env_files(known):
            claimed = [parse_network(text) for text in _SUBNET_VARIABLE.findall(_read(env_path))]
            networks += [network for network in claimed if network is not None]
        engine = self._engine()
        if engine is not None:
            networks += [network for network in map(parse_network, engine.subnets()) if network is not None]
        return networks

    def engine_version(self) -> Optional[Tuple[int, ...]]:
        """Return the version of the Engine, or None on a host that has none."""
        engine = self._engine()
        return None if engine is None else engine.version()
