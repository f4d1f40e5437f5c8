# SPDX-License-Identifier: GPL-3.0-or-later
"""The leak scanner finds what is planted; otherwise its silence would mean nothing."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from leaks import LeakScanner

CANARY = "canary-0123456789-abcdef"


@pytest.fixture
def scanner() -> LeakScanner:
    made = LeakScanner()
    made.add_canaries({"PLANTED": CANARY})
    return made


def test_text_plain_and_encoded(scanner: LeakScanner) -> None:
    assert scanner.search("log", b"nothing here") == []
    assert scanner.search("log", b"x " + CANARY.encode() + b" y") == ["log: PLANTED"]
    assert scanner.search("log", base64.b64encode(CANARY.encode())) == ["log: PLANTED"]
    assert CANARY not in str(scanner.search("log", CANARY.encode()))


def test_short_canaries_are_refused(scanner: LeakScanner) -> None:
    with pytest.raises(ValueError, match="too short"):
        scanner.add_canaries({"SHORT": "abc"})


def test_arguments_of_a_process(scanner: LeakScanner) -> None:
    scanner.start()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)", "--password", CANARY])
    process.wait()
    time.sleep(0.05)
    scanner.stop()
    assert [line.split(":")[-1].strip() for line in scanner.search_commands()] == ["PLANTED"]


def test_database_compressed_and_deleted(scanner: LeakScanner, tmp_path: Path) -> None:
    path = tmp_path / "ansible.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE contents (id INTEGER, body BLOB)")
    connection.execute("INSERT INTO contents VALUES (1, ?)", (zlib.compress(CANARY.encode()),))
    connection.commit()
    assert scanner.search_database(path) == ["ansible.sqlite, table contents: PLANTED"]
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("DELETE FROM contents")
    connection.execute("INSERT INTO contents VALUES (2, ?)", (CANARY,))
    connection.execute("DELETE FROM contents")
    connection.commit()
    connection.close()
    assert scanner.search_database(path) == ["ansible.sqlite, raw bytes: PLANTED"]


def test_repository(scanner: LeakScanner, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "notes.txt").write_text("the key is " + CANARY)
    assert scanner.search_repository(tmp_path) == ["{0}: PLANTED".format(tmp_path / "notes.txt")]
