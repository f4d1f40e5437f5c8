# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.

from __future__ import annotations


class ModuleDocFragment:
    """What several modules of the collection document alike."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff
      mode.
  idempotent:
    description: When run twice in a row, the second time without changes in the target, it reports no change.
"""

    HOST = r"""
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  docker_host:
    description:
      - Where the Docker Engine listens.
    type: str
    default: unix:///var/run/docker.sock
"""

    LOCK = r"""
options:
  lock_timeout:
    description:
      - Seconds to wait for another run that works on the same instances.
    type: int
    default: 60
"""
