# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Statements as they may be shown: without what people wrote into them. Pure.

``pg_stat_statements`` replaces constants, but not in utility statements (the password of ALTER ROLE stands there), not
in comments, and not where an entry was discarded while its statement ran. So only statements that read or change rows
are shown, and what literals and comments are still in them is taken out here.
"""

from __future__ import annotations

import re
from typing import List, Optional

LONGEST_QUERY = 300
_TOLD = frozenset(("select", "insert", "update", "delete", "merge", "with", "values", "table"))
# In this order: a comment or a literal may hold what looks like the others.
_TOKEN = re.compile(
    r"""(?P<block>/\*)
    | (?P<line>--[^\n]*)
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<quote>(?:\b[eE]|\b[uU]&|\b[bBxXnN])?')
    | (?P<identifier>"(?:[^"]|"")*(?:"|\Z))
    | (?P<word>[^\W\d]\w*|\$\d+)
    | (?P<number>\d[\w.]*)
    | (?P<space>\s+)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def _end_of_comment(text: str, start: int) -> int:
    """Return where a comment that begins at ``start`` ends; comments nest."""
    depth = 0
    for found in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if found.group() == "/*" else -1
        if depth == 0:
            return found.end()
    return len(text)


def _end_of_literal(text: str, start: int, escapes: bool) -> int:
    """Return where a literal ends whose first character is at ``start``; one that was cut ends with the text."""
    place = start
    while place < len(text):
        if escapes and text[place] == "\\":
            place += 2
        elif text[place] == "'":
            if text[place : place + 2] != "''":
                return place + 1
            place += 2
        else:
            place += 1
    return len(text)


def presentable(query: str) -> Optional[str]:
    """Return a statement without literals and comments, on one line and cut; None for one that is not told of."""
    parts: List[str] = []
    place = 0
    while place < len(query):
        found = _TOKEN.match(query, place)
        if found is None:  # cannot be: the last alternative takes any character
            return None
        kind, text = found.lastgroup, found.group()
        place = found.end()
        if kind == "block":
            place = _end_of_comment(query, found.start())
            parts.append(" ")
        elif kind == "dollar":
            end = query.find(text, place)
            place = len(query) if end < 0 else end + len(text)
            parts.append("?")
        elif kind == "quote":
            escaped = _end_of_literal(query, place, escapes=True)
            plain = _end_of_literal(query, place, escapes=False)
            # Whether a backslash takes the quote after it along is a setting of the server, but for E''. Where it makes
            # a difference, what is a literal from here on is not known.
            place = escaped if text[0] in "eE" or escaped == plain else len(query)
            parts.append("?")
        elif kind in ("line", "space"):
            parts.append(" ")
        elif kind == "number":
            parts.append("?")
        else:
            parts.append(text)
    line = " ".join("".join(parts).split())
    first = re.match(r"[(\s]*([A-Za-z]+)", line)
    if first is None or first.group(1).lower() not in _TOLD:
        return None
    return line if len(line) <= LONGEST_QUERY else line[: LONGEST_QUERY - 1] + "…"
