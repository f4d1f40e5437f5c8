# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The command ``multibase-host sample``, apart from the rest of the tool.

It is the one command that may run at any moment and all the time: what the others need, for backups and mail, would be
a third of its memory, and half of the time of a single look.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Callable, Sequence

from . import _engine_socket, _monitor_settings, _sampler
from ._engine import DEFAULT_HOST
from ._errors import MultibaseError, exit_code_of
from ._layout import Layout

HELP = "watch the host and its instances, until it is told to end"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--once", action="store_true", help="look once and print what was seen, as JSON")


def run(root: str, docker_host: str, once: bool, say: Callable[[str], None]) -> int:
    """Watch the host until SIGTERM comes; or look once and print the live document. Returns the exit status."""
    layout = Layout(os.path.abspath(root))

    def watchers(settings: _monitor_settings.MonitorSettings) -> Sequence[_sampler.Watcher]:
        from . import _watchers

        return _watchers.watchers(layout, settings, say)

    sampler = _sampler.Sampler(
        layout, lambda: _engine_socket.connect(docker_host, _sampler.ENGINE_SECONDS), say, watchers
    )
    if once:
        sys.stdout.write(json.dumps(sampler.once(time.time()), indent=1) + "\n")
        return 0
    end = _sampler.Ending()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end.set)
    sampler.run(end)
    # Probes that wait for an answer would keep the process until they have it.
    sys.stderr.flush()
    os._exit(0)


def main(argv: Sequence[str]) -> int:
    """Run one command line, without its word ``sample``; return the exit status."""
    parser = argparse.ArgumentParser(prog="multibase-host sample", description=HELP)
    parser.add_argument("--root", default="/opt/multibase", help="where everything of Multibase lies")
    parser.add_argument("--docker-host", default=DEFAULT_HOST)
    add_options(parser)
    args = parser.parse_args(argv)
    os.umask(0o077)

    def say(text: str) -> None:
        sys.stderr.write("{0}  {1}\n".format(time.strftime("%Y-%m-%dT%H:%M:%S%z"), text))
        sys.stderr.flush()

    try:
        return run(args.root, args.docker_host, args.once, say)
    except (MultibaseError, OSError) as error:
        say("failed: {0}".format(error))
        return exit_code_of(error)
