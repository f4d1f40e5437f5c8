# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the database to what this version of ARA needs; one that has records is backed up first.

python -m multibase_ara.prepare BACKUPS
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(backups: str) -> None:
    """Do it. Raises what Django raises where the database cannot be reached."""
    import django
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    from multibase_ara import upkeep

    django.setup()
    executor = MigrationExecutor(connection)
    if not executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return
    if executor.loader.applied_migrations:
        upkeep.back_up(Path(backups))
    call_command("migrate", verbosity=0, interactive=False)


if __name__ == "__main__":
    main(sys.argv[1])
