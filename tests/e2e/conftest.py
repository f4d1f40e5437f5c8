# SPDX-License-Identifier: GPL-3.0-or-later
"""One test host for all end-to-end tests, provisioned by Molecule, with the leak scanner around everything."""

from __future__ import annotations

import secrets
import shutil
from typing import Iterator

import pytest
import yaml

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
    variables = yaml.safe_load(path.read_text())
    variables["multibase_defaults"]["smtp"] = {"host": "mail.example.com", "user": "mailer", "password": canary}
    path.write_text(yaml.safe_dump(variables))
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
