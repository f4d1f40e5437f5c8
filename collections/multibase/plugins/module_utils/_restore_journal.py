# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Exchanging an instance's directories for new ones, so that a kill at any moment can be finished or undone.

The journal says which directories are exchanged and how far it is; it reaches the disk before each step. Each new
directory lies beside the one that it replaces, and the replaced one stays beside it, so that every step is a rename.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from ._errors import Refused, StateCorrupt
from ._layout import Layout
from ._publish import replace_file, sync_directory

SCHEMA = 1
_CONFLICT = "{0}, {1} and {2} are all there; nobody can say which is which"
# building: new directories are being made; swapping: renames are under way; swapped: the new data is in place but not
# proven; undoing: the old data is being put back, which can only be gone on with; done: it is proven and the old data
# is kept; undone: the old data is back; expired: what was kept is being deleted.
EXCHANGING = ("swapping", "swapped", "undoing")
"""Directories may be of two kinds: nothing may be started on them."""
UNFINISHED = ("building", *EXCHANGING)


@dataclass
class Exchange:
    """One directory that is exchanged: where it is used, where the new one is made, where the old one is kept."""

    live: str
    new: str
    old: str

    def reversed(self) -> Exchange:
        """Return the exchange that brings the kept directory back and keeps the present one in its stead."""
        return Exchange(self.live, self.old, self.new)


@dataclass
class Journal:
    """What is written to ``state/restore/<name>.json``. ``kept_until`` is in seconds since 1970.

    ``rollback`` says that the new directories are those that an earlier restore had kept: they are never discarded.
    ``previous`` is the journal of the restore before, whose kept data stays until this one is done. ``held`` are pairs
    of words and statement, of what is switched off in the new data, and ``held_kept`` in the data that it replaces.
    ``ran`` says that services may have run on the new data. ``failed`` are directories with data that services ran on
    before a restore was undone, and others that only wait to be deleted; ``until`` says until when each is kept (when
    it does not, ``kept_until`` does).
    """

    name: str
    backup: str
    phase: str
    exchanges: List[Exchange] = field(default_factory=list)
    services: List[str] = field(default_factory=list)
    started: str = ""
    kept_until: float = 0.0
    rollback: bool = False
    previous: Optional[Dict[str, Any]] = None
    held: List[List[str]] = field(default_factory=list)
    failed: List[str] = field(default_factory=list)
    ran: bool = False
    held_kept: List[List[str]] = field(default_factory=list)
    until: Dict[str, float] = field(default_factory=dict)


def succeeding(last: Optional[Journal], journal: Journal) -> Journal:
    """Return ``journal``, of the next restore or rollback, with what the last one leaves to it.

    What failed restores left is deleted when its own days are over, however many restores come in between.
    """
    if last is None:
        return journal
    doomed = [exchange.old for exchange in last.exchanges] if last.phase == "expired" else []
    journal.failed = list(dict.fromkeys([*last.failed, *doomed]))
    journal.until = {path: last.until.get(path, last.kept_until) for path in last.failed}
    journal.until.update(dict.fromkeys(doomed, 0.0))
    journal.held_kept = last.held
    if journal.rollback:
        journal.held = last.held_kept
    elif last.phase == "done":
        journal.previous = as_dict(last)
    return journal


def _from_dict(data: Dict[str, Any]) -> Journal:
    values = dict(data)
    if values.pop("schema") != SCHEMA:
        raise ValueError("another schema")
    exchanges = [Exchange(**exchange) for exchange in values.pop("exchanges")]
    return Journal(exchanges=exchanges, **values)


def as_dict(journal: Journal) -> Dict[str, Any]:
    """Return a journal as JSON values."""
    exchanges = [dict(exchange.__dict__) for exchange in journal.exchanges]
    return {**journal.__dict__, "schema": SCHEMA, "exchanges": exchanges}


def read(layout: Layout, name: str) -> Optional[Journal]:
    """Return the journal of an instance, None when it never had a restore. Raises StateCorrupt."""
    path = layout.restore_journal(name)
    try:
        with open(path, encoding="utf-8") as stream:
            return _from_dict(json.load(stream))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        message = "{0} is damaged ({1}); a restore of {2} may be half done".format(path, error, name)
        raise StateCorrupt(message) from error


def write(layout: Layout, journal: Journal, phase: str) -> None:
    """Set the phase and bring the journal to the disk."""
    journal.phase = phase
    path = layout.restore_journal(journal.name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    replace_file(path, (json.dumps(as_dict(journal), indent=1, sort_keys=True) + "\n").encode("utf-8"), 0o600)


def let_go_of_previous(layout: Layout, journal: Journal) -> None:
    """Remove what the restore before this one kept: one restore back is what can be rolled back.

    The journal names it until it is gone, so that a kill in between leaves nothing that nobody knows of.
    """
    if journal.previous is None:
        return
    for exchange in _from_dict(journal.previous).exchanges:
        remove_tree(exchange.old)
    journal.previous = None
    write(layout, journal, "done")


def undone(layout: Layout, journal: Journal) -> None:
    """Record that everything is as before a restore, after the old data is in place again.

    What a restore had built is discarded, unless services ran on it: clients may have written there. What a
    rollback would have brought back stays kept, and so does what the restore before kept.
    """
    if journal.rollback:
        journal.exchanges = [exchange.reversed() for exchange in journal.exchanges]
        journal.held, journal.held_kept = journal.held_kept, journal.held
        journal.rollback = journal.ran = False
        write(layout, journal, "done")
        return
    before, phase = journal, "undone"
    if journal.previous is not None:
        before = _from_dict(journal.previous)
        phase = before.phase
        before.failed = list(dict.fromkeys([*before.failed, *journal.failed]))
        before.until = {**before.until, **journal.until}
    else:
        # What is held in the new data is gone with it.
        before.held, before.held_kept = journal.held_kept, []
    if journal.ran:
        new = [exchange.new for exchange in journal.exchanges]
        before.failed = list(dict.fromkeys([*before.failed, *new]))
        before.until = {**before.until, **dict.fromkeys(new, journal.kept_until)}
    else:
        for exchange in journal.exchanges:
            remove_tree(exchange.new)
    before.ran = False
    write(layout, before, phase)


def discard_outdated(layout: Layout, name: str, now: float) -> List[str]:
    """Delete what restores kept once its days are over; return the directories. The caller holds the data lock."""
    journal = read(layout, name)
    kept, failed = _outdated(journal, now)
    if journal is None or not kept + failed:
        return []
    if kept and journal.phase == "done":
        # From now on nobody rolls back to what is half deleted.
        write(layout, journal, "expired")
    for path in kept + failed:
        remove_tree(path)
    journal.failed = [path for path in journal.failed if os.path.isdir(path)]
    journal.until = {path: until for path, until in journal.until.items() if path in journal.failed}
    if journal.phase == "expired":
        journal.held_kept = []
    write(layout, journal, "undone" if journal.phase == "expired" else journal.phase)
    return kept + failed


def outdated(layout: Layout, name: str, now: float) -> List[str]:
    """Return the directories that ``discard_outdated`` would delete."""
    kept, failed = _outdated(read(layout, name), now)
    return kept + failed


def _outdated(journal: Optional[Journal], now: float) -> Tuple[List[str], List[str]]:
    """Return what was kept for a rollback, and what is of failed restores, of which the days are over."""
    if journal is None or journal.phase in UNFINISHED:
        return [], []
    kept: List[str] = []
    if journal.phase == "expired" or (journal.phase == "done" and now >= journal.kept_until):
        kept = [exchange.old for exchange in journal.exchanges]
    failed = [path for path in journal.failed if now >= journal.until.get(path, journal.kept_until)]
    return [path for path in kept if os.path.isdir(path)], [path for path in failed if os.path.isdir(path)]


def pending(layout: Layout, name: str) -> Optional[str]:
    """Return the phase of a restore that was interrupted, None when there is none."""
    journal = read(layout, name)
    return journal.phase if journal is not None and journal.phase in UNFINISHED else None


def plan(journal_id: str, live: str) -> Exchange:
    """Return the exchange of one directory. Raises Refused for a mount point, which cannot be renamed."""
    if os.path.islink(live) or (os.path.lexists(live) and not os.path.isdir(live)):
        raise Refused("{0} is no directory; a restore exchanges directories. Mount the data there".format(live))
    if os.path.ismount(live):
        raise Refused("{0} is a mount point; a restore renames it. Mount the directory above it instead".format(live))
    parent, base = os.path.split(live)
    return Exchange(
        live,
        os.path.join(parent, ".restore-{0}-new-{1}".format(journal_id, base)),
        os.path.join(parent, ".restore-{0}-old-{1}".format(journal_id, base)),
    )


def swap(exchanges: List[Exchange]) -> None:
    """Put every new directory in place of the live one, which is kept; goes on where an earlier call was killed."""
    for exchange in exchanges:
        if os.path.lexists(exchange.new):
            if os.path.lexists(exchange.live):
                if os.path.lexists(exchange.old):
                    raise StateCorrupt(_CONFLICT.format(exchange.live, exchange.new, exchange.old))
                os.rename(exchange.live, exchange.old)
            os.rename(exchange.new, exchange.live)
            sync_directory(os.path.dirname(exchange.live))


def unswap(exchanges: List[Exchange]) -> None:
    """Put every kept directory back, whatever ``swap`` came to; the new ones get their staging names again."""
    for exchange in exchanges:
        if not os.path.lexists(exchange.old):
            continue
        if os.path.lexists(exchange.live):
            if os.path.lexists(exchange.new):
                raise StateCorrupt(_CONFLICT.format(exchange.live, exchange.new, exchange.old))
            os.rename(exchange.live, exchange.new)
        os.rename(exchange.old, exchange.live)
        sync_directory(os.path.dirname(exchange.live))


def swapped(exchanges: List[Exchange]) -> bool:
    """Whether every new directory is in place and none is on its way back: only then can an exchange be finished."""
    return all(
        os.path.isdir(exchange.live) and os.path.isdir(exchange.old) and not os.path.lexists(exchange.new)
        for exchange in exchanges
    )


def remove_tree(path: str) -> None:
    """Remove a directory that is ours, if it is there. Links in it are removed, not followed."""
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.lexists(path):
        shutil.rmtree(path)
