#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox of Multibase: a Docker Engine, an image set made from packages, a registry, and test hosts.

Commands are idempotent; `README.md` beside this file describes them. Exit status: 0 done, 1 failed, 2 wrong usage,
3 this machine lacks something (one line says what).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import List, Optional

import engine
import host
import images
import registry
from common import SandboxError, lock


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="sandbox.py", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("engine", help="start (and if needed install) a Docker Engine with Compose on this machine")
    image_set = commands.add_parser("images", help="build the image set, start the registry, push")
    image_set.add_argument(
        "--debian",
        metavar="RELEASE",
        action="append",
        choices=sorted(images.OLDER_HOSTS),
        default=[],
        help="build the test host of this older release of Debian as well (may be given more than once)",
    )
    hosts = commands.add_parser("host", help="test hosts").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    host_up = hosts.add_parser("up", help="create and start a test host")
    host_up.add_argument("name", metavar="NAME")
    host_up.add_argument(
        "--publish",
        metavar="ADDRESS:PORTS",
        action="append",
        default=[],
        help="publish ports of the host here, such as 127.0.0.1:20000-20019 (may be given more than once)",
    )
    host_up.add_argument(
        "--debian",
        metavar="RELEASE",
        choices=sorted(images.SUITES),
        default="13",
        help="release of Debian of a new host (default: %(default)s)",
    )
    hosts.add_parser("down", help="remove a test host and its volumes").add_argument("name", metavar="NAME")
    commands.add_parser("down", help="remove all test hosts, the registry and the network (images and engine stay)")
    binaries = commands.add_parser("compose-binaries", help="put the oldest and the newest Compose plugin into DIR")
    binaries.add_argument("directory", metavar="DIR", type=Path)
    return top


def main(argv: Optional[List[str]] = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.command == "engine":
            with lock("engine"):
                engine.ensure_engine()
        elif args.command == "images":
            images.check_machine()
            with lock("images"):
                images.build_all(args.debian)
                registry.ensure_registry()
        elif args.command == "host" and args.action == "up":
            host.up(args.name, args.publish, args.debian)
        elif args.command == "host":
            host.down(args.name)
        elif args.command == "down":
            host.down_all()
        elif args.command == "compose-binaries":
            with lock("compose-binaries"):
                print(json.dumps(engine.compose_binaries(args.directory.resolve()), indent=2))
    except SandboxError as exc:
        print(f"sandbox: {exc}", file=sys.stderr)
        return exc.code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
