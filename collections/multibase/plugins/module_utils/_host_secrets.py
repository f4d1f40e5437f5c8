# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Secrets of the user in a file on the host (``secrets_from: host:/PATH``)."""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Dict, List, Mapping, Tuple

from ._errors import MultibaseError
from ._spec import merge

HOST_PREFIX = "host:"


def read(path: str) -> Dict[str, Any]:
    """Return what a JSON file of secrets holds. Raises MultibaseError when it is none, or others may read it."""
    if not os.path.isabs(path):
        raise MultibaseError("{0} is no absolute path".format(path))
    try:
        # Nobody may ever write to a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
                raise MultibaseError("{0} must be a file that only its owner can read (mode 0600)".format(path))
            if status.st_uid not in (0, os.geteuid()):
                raise MultibaseError("{0} must belong to root".format(path))
            content = json.load(stream)
    except OSError as error:
        raise MultibaseError("{0}: {1}".format(path, error.strerror)) from error
    except (ValueError, RecursionError) as error:
        # The error's own text would quote what it found.
        raise MultibaseError("{0} is no JSON".format(path)) from error
    if not isinstance(content, dict):
        raise MultibaseError("{0} must hold names and values".format(path))
    return content


def filled_in(label: str, options: Mapping[str, Any]) -> Tuple[Mapping[str, Any], List[str]]:
    """Return options with the secrets that their ``secrets_from`` names on this host, and what is wrong with it."""
    source = options.get("secrets_from") or ""
    if not source.startswith(HOST_PREFIX):
        return options, []
    try:
        found = read(source[len(HOST_PREFIX) :])
    except MultibaseError as error:
        return options, ["{0}: secrets_from: {1}".format(label, error)]
    return {**options, "secrets": merge(found, options.get("secrets") or {})}, []
