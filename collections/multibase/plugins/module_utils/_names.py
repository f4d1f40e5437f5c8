# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Names of instances and what is derived from them."""

from __future__ import annotations

import re
from typing import Optional

NAME_PATTERN = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?\Z")
NAME_RULE = "1 to 40 characters: lower-case letters, digits and single hyphens, a letter first, no hyphen last"
# Words that already mean something in a command line, an inventory or below the root directory.
RESERVED_NAMES = frozenset(
    {"all", "any", "default", "host", "hosts", "instance", "instances", "localhost", "multibase", "none", "self"}
)
INSTANCE_LABEL = "io.multibase.instance"
CONFIG_LABEL = "io.multibase.config"


def name_problem(name: object) -> Optional[str]:
    """Say what is wrong with ``name`` as the name of an instance, or return None when it is good."""
    if not isinstance(name, str) or not name:
        return "a name is needed ({0})".format(NAME_RULE)
    shown = name if len(name) <= 60 else name[:57] + "..."
    if not NAME_PATTERN.match(name) or "--" in name:
        return "{0!r} is no valid name: {1}".format(shown, NAME_RULE)
    if name in RESERVED_NAMES:
        return "{0!r} is reserved: {1}".format(shown, ", ".join(sorted(RESERVED_NAMES)))
    return None


def project_name(name: str) -> str:
    """Return the Compose project of a new instance. An adopted one keeps the project in its ``instance.json``."""
    return "multibase-" + name
