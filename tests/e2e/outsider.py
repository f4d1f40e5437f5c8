# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody outside can reach: run in the network namespace of a neighbour. Needs CAP_NET_RAW and only Python.

outsider.py scan ADDRESS          prints the open TCP ports of all 65,535 as JSON
outsider.py ask PROTO/ADDRESS/PORT ...
                                  prints which of them answer as JSON: TCP by a connection, UDP by an echo
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import List, Set

SOURCE_PORT = 40007
TIMEOUT = 2.0


def words(data: bytes) -> int:
    """Sum of 16-bit words, as TCP's checksum needs it."""
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def folded(total: int) -> int:
    """The ones' complement sum of a total."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def scan(address: str) -> List[int]:
    """Send a SYN to every port, twice, and return those that answered SYN and ACK.

    A scan with connections would wait for a timeout at every port that drops: minutes instead of seconds.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    target = socket.getaddrinfo(address, None, family)[0][4]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target[0], 9, *target[2:]))
        source = probe.getsockname()[0].partition("%")[0]
    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    base = struct.pack("!HHIIBBHHH", SOURCE_PORT, 0, 1, 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = b""
    if family == socket.AF_INET:
        pseudo = socket.inet_aton(source) + socket.inet_aton(target[0]) + struct.pack("!HH", 6, len(base))
    else:
        raw.setsockopt(socket.IPPROTO_IPV6, getattr(socket, "IPV6_CHECKSUM", 7), 16)
    fixed = words(pseudo + base)
    found: Set[int] = set()

    def drain(seconds: float) -> None:
        """Read answers until there was none for a while."""
        while select.select([raw], [], [], seconds)[0]:
            packet = raw.recv(512)
            if family == socket.AF_INET:
                packet = packet[(packet[0] & 15) * 4 :]
            sender, receiver, _sequence, _acknowledged, _offset, flags = struct.unpack("!HHIIBB", packet[:14])
            if receiver == SOURCE_PORT and flags & 0x12 == 0x12:
                found.add(sender)

    for _attempt in range(2):
        for port in range(1, 65536):
            packet = struct.pack(
                "!HHIIBBHHH", SOURCE_PORT, port, 1, 0, 5 << 4, 2, 64240, folded(fixed + port) if pseudo else 0, 0
            )
            raw.sendto(packet, (target[0], 0, *target[2:]))
            if port % 500 == 0:
                drain(0.002)
        drain(1.0)
    return sorted(found)


def tcp(address: str, port: int) -> bool:
    """Whether a connection comes about."""
    try:
        with socket.create_connection((address, port), timeout=TIMEOUT):
            return True
    except OSError:
        return False


def udp(address: str, port: int) -> bool:
    """Whether a datagram comes back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT / 4)
        sock.connect((address, port))
        for _attempt in range(4):
            try:
                sock.send(b"ping")
                return sock.recv(16) == b"ping"
            except OSError:
                continue
    return False


def ask(what: str) -> bool:
    """Whether PROTO/ADDRESS/PORT answers."""
    proto, address, port = what.split("/")
    return {"tcp": tcp, "udp": udp}[proto](address, int(port))


def main(argv: List[str]) -> None:
    started = time.monotonic()
    if argv[0] == "scan":
        print(json.dumps({"open": scan(argv[1]), "seconds": round(time.monotonic() - started, 1)}))
    else:
        with ThreadPoolExecutor(len(argv)) as pool:
            print(json.dumps(dict(zip(argv[1:], pool.map(ask, argv[1:])))))


if __name__ == "__main__":
    main(sys.argv[1:])
