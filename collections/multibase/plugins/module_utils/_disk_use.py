# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""How much of the disks instances take, and how full the disks are."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ._layout import Layout

# After so many files somebody else gets a turn.
_FILES_AT_ONCE = 500
_PAUSE_SECONDS = 0.02


def bytes_of(path: str, ended: Callable[[], bool] = lambda: False) -> Optional[int]:
    """Return the bytes that a directory takes on the disk, as ``du`` counts them, None where there is none.

    Links are not followed, other file systems are not entered, a file with several names counts once; what goes away
    meanwhile is left out. It pauses now and then: nobody waits for it.
    """
    try:
        first = os.lstat(path)
    except OSError:
        return None
    total = first.st_blocks * 512
    seen = set()
    count = 0
    directories = [path]
    while directories:
        try:
            entries = os.scandir(directories.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    is_directory = entry.is_dir(follow_symlinks=False)
                except OSError:
                    continue
                count += 1
                if count % _FILES_AT_ONCE == 0:
                    if ended():
                        return None
                    time.sleep(_PAUSE_SECONDS)
                if status.st_nlink > 1 and not is_directory:
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
                if is_directory and status.st_dev == first.st_dev:
                    directories.append(entry.path)
    return total


def of_instance(layout: Layout, name: str, now: float, ended: Callable[[], bool]) -> Dict[str, Any]:
    """Return the bytes of an instance's database, stored objects and backups as the live file has them."""
    volumes = os.path.join(layout.project(name), "volumes")
    return {
        "database_bytes": bytes_of(os.path.join(volumes, "db"), ended),
        "storage_bytes": bytes_of(os.path.join(volumes, "storage"), ended),
        "backups_bytes": bytes_of(layout.backups(name), ended),
        "checked_at": now,
    }


UNKNOWN: Dict[str, Any] = {"database_bytes": None, "storage_bytes": None, "backups_bytes": None, "checked_at": None}


def disks(places: Sequence[Tuple[str, str]]) -> List[Dict[str, Any]]:
    """Return how full the file systems of (purpose, path) are, each once: the first purpose names it.

    What is free is what others than root may use, and a disk is full when that is gone, as ``df`` counts.
    """
    told: List[Dict[str, Any]] = []
    seen = set()
    for purpose, path in places:
        try:
            device = os.stat(path).st_dev
            status = os.statvfs(path)
        except OSError:
            continue
        if device in seen or not status.f_blocks:
            continue
        seen.add(device)
        free = status.f_bavail * status.f_frsize
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        told.append(
            {
                "path": path,
                "purpose": purpose,
                "total_bytes": status.f_blocks * status.f_frsize,
                "used_bytes": used,
                "free_bytes": free,
                "used_percent": round(100.0 * used / (used + free), 2) if used + free else 100.0,
                "full_in_days": None,
            }
        )
    return told
