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
    # Secrets that the user brings: as an option, and in a file of the controller.
    canaries = {name: name + "-" + secrets.token_hex(12) for name in ("smtp", "github", "stripe", "pager", "mail")}
    scanner.add_canaries(canaries)
    brought = work / "secrets.yml"
    brought.touch(mode=0o600)
    brought.write_text(
        "GOTRUE_EXTERNAL_GITHUB_SECRET: {github}\nfunctions: {{STRIPE_KEY: {stripe}}}\n".format(**canaries)
    )
    path = inventory / "group_vars" / "multibase_hosts" / "main.yml"
    smtp = "multibase_smtp: {{host: mail.example.com, user: mailer, password: {smtp}}}\n".format(**canaries)
    # Channels that take nothing, for what is told of that; alerts come sooner than anybody would want them.
    channels = (
        "multibase_monitor_channels:\n"
        "  - {{name: pager, kind: webhook, url: 'http://127.0.0.1:9/{pager}', secret: {pager}}}\n"
        "  - {{name: ops, kind: mail, host: 127.0.0.1, port: 9, from: m@example.com, to: [o@example.com],"
        " user: m, password: {mail}}}\n"
        "multibase_monitor_rules: {{service_down: {{for: 2, resolve_after: 2}}}}\n"
    ).format(**canaries)
    login = "    auth: {providers: {github: {client_id: one}}}\n"
    acme = "  - name: acme\n{0}    secrets_from: {1}\n".format(login, brought)
    path.write_text(path.read_text().replace("---\n", "---\n" + smtp + channels).replace("  - name: acme\n", acme))
    ara = work / "ara"
    ara.mkdir(mode=0o700)
    made = Server(inventory, ara, scanner, canaries)
    made.command("molecule destroy", ["molecule", "destroy"])
    scanner.start()
    try:
        made.molecule("create")
        yield made
    finally:
        scanner.stop()
        made.command("molecule destroy", ["molecule", "destroy"], succeeds=False)
