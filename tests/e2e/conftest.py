# SPDX-License-Identifier: GPL-3.0-or-later
"""One test host for all end-to-end tests, provisioned by Molecule, with the leak scanner around everything."""

from __future__ import annotations

import secrets
import shutil
from typing import Iterator

import pytest

from e2e.server import SCENARIO, Server
from leaks import LeakScanner


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The host after: check mode while it was bare, the run, the second run. Removed at the end."""
    work = tmp_path_factory.mktemp("e2e")
    inventory = work / "inventory"
    shutil.copytree(SCENARIO / "inventory", inventory)
    scanner = LeakScanner()
    # A secret that the user brings, as an option and not through the host.
    canary = "smtp-" + secrets.token_hex(12)
    scanner.add_canaries({"smtp.password": canary})
    path = inventory / "group_vars" / "multibase_hosts" / "main.yml"
    smtp = "multibase_defaults:\n  smtp: {{host: mail.example.com, user: mailer, password: {0}}}\n".format(canary)
    path.write_text(path.read_text().replace("multibase_defaults:\n", smtp))
    ara = work / "ara"
    ara.mkdir(mode=0o700)
    made = Server(inventory, ara, scanner)
    made.command("molecule destroy", ["molecule", "destroy"])
    scanner.start()
    try:
        made.molecule("create")
        yield made
    finally:
        scanner.stop()
        made.command("molecule destroy", ["molecule", "destroy"], succeeds=False)
