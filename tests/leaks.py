# SPDX-License-Identifier: GPL-3.0-or-later
"""The leak scanner: looks for secrets wherever a run may have left them.

While it runs, a thread reads the command lines of all processes of this machine (those in test hosts and their
containers are among them) some fifty times a second; one that lives shorter may be missed. Afterwards texts, ARA's
databases, files and what was sampled are searched for the canaries: the secrets that the run made or was given.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sqlite3
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Set
from urllib.parse import quote

_SAMPLE_SECONDS = 0.02
# A shorter canary would be found by chance.
_MINIMUM_LENGTH = 12


class LeakScanner:
    """Collects command lines from ``start`` to ``stop`` and searches for canaries."""

    def __init__(self) -> None:
        self._commands: Set[bytes] = set()
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._patterns: Dict[str, List[bytes]] = {}
        self.samples = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._halt.set()
        self._thread.join()

    def _sample(self) -> None:
        own = str(os.getpid())
        while not self._halt.is_set():
            for entry in os.listdir("/proc"):
                if entry.isdigit() and entry != own:
                    try:
                        with open("/proc/{0}/cmdline".format(entry), "rb") as stream:
                            self._commands.add(stream.read())
                    except OSError:
                        continue
            self.samples += 1
            time.sleep(_SAMPLE_SECONDS)

    @property
    def commands(self) -> int:
        """How many different command lines were seen."""
        return len(self._commands)

    def add_canaries(self, canaries: Mapping[str, str]) -> None:
        """Look for these secrets (name -> value), as they are and as base64 and URL encoding would write them."""
        for name, value in canaries.items():
            if len(value) < _MINIMUM_LENGTH:
                raise ValueError("{0} is too short to be looked for".format(name))
            plain = value.encode("utf-8")
            forms = {plain, base64.b64encode(plain), quote(value, safe="").encode("ascii")}
            self._patterns.setdefault(name, []).extend(forms)

    def search(self, where: str, data: bytes) -> List[str]:
        """Return one line for each canary in ``data``, naming the place and the canary, never its value."""
        return [
            "{0}: {1}".format(where, name)
            for name, forms in sorted(self._patterns.items())
            if any(form in data for form in forms)
        ]

    def search_commands(self) -> List[str]:
        """Search the command lines that were sampled. The program is named, its arguments are not."""
        found: Set[str] = set()
        for command in list(self._commands):
            program = os.path.basename(command.split(b"\0", 1)[0].decode("utf-8", "replace"))
            found.update(self.search("arguments of " + program, command))
        return sorted(found)

    def search_database(self, path: Path) -> List[str]:
        """Search every value of every table of an SQLite file, zlib-compressed ones unpacked (as ARA stores text)."""
        found: Set[str] = set()
        connection = sqlite3.connect("file:{0}?mode=ro".format(path), uri=True)
        connection.text_factory = bytes
        try:
            tables = [
                row[0].decode()
                for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            ]
            for table in tables:
                for row in connection.execute('SELECT * FROM "{0}"'.format(table)):
                    for value in row:
                        if not isinstance(value, bytes):
                            continue
                        with contextlib.suppress(zlib.error):
                            value = value + b"\n" + zlib.decompress(value)
                        found.update(self.search("{0}, table {1}".format(path.name, table), value))
        finally:
            connection.close()
        # Deleted rows stay in free pages.
        found.update(self.search("{0}, raw bytes".format(path.name), path.read_bytes()))
        return sorted(found)

    def search_files(self, paths: Iterable[Path]) -> List[str]:
        """Search files, each read whole."""
        found: List[str] = []
        for path in paths:
            if path.is_file() and not path.is_symlink():
                found += self.search(str(path), path.read_bytes())
        return found

    def search_repository(self, repository: Path) -> List[str]:
        """Search all files of a checkout that git tracks or would track."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=repository,
            capture_output=True,
            check=True,
        ).stdout
        names = [name.decode() for name in listed.split(b"\0") if name]
        return self.search_files(repository / name for name in names)
