# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Following the statements of a dump line by line, so that rows, texts and bodies of functions are no SQL."""

from __future__ import annotations

import re

# What matters outside of quotes. A word may contain a dollar sign, which then opens nothing.
_CODE = re.compile(
    rb"(?P<comment>--[^\r\n]*)|(?P<block>/\*)|(?P<escaped>[eE]')|(?P<text>')|(?P<name>\")"
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$)"
    rb"|(?P<backslash>\\)|(?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)|(?P<sign>[();])"
)
_ESCAPED_END = re.compile(rb"\\.|''|(')", re.DOTALL)
_BLOCK_EDGE = re.compile(rb"(/\*)|\*/")
_ROUTINE = re.compile(rb"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE) ")


class Scanner:
    """Knows after each line whether a statement is open, and whether rows of a COPY follow."""

    def __init__(self) -> None:
        self.resting = True
        """No statement is open: the next line begins one, or is blank, a comment or a command of psql."""
        self.copying = False
        """The next line is a row, or ends the rows."""
        self.command = False
        """The last line held a backslash outside of quotes: psql takes what follows for a command."""
        self._quote = b""  # what ends the quote that is open; b"e" for a text with escapes, b"*" for a comment
        self._comments = 0  # block comments can be nested
        self._parentheses = 0
        self._blocks = 0  # BEGIN ATOMIC ... END, with CASE ... END inside
        self._copy = False
        self._routine = False

    def read(self, line: bytes) -> None:
        """Follow one line, its line end included."""
        self.command = False
        if self.copying:
            self.copying = line.rstrip(b"\r\n") != b"\\."
            return
        if self.resting:
            self.command = line.startswith(b"\\")
            if not line.strip() or self.command or line.startswith(b"--"):
                return
            self._copy = line.startswith(b"COPY ")
            self._routine = bool(_ROUTINE.match(line))
            self.resting = False
        position = 0
        while position < len(line):
            position = self._in_quote(line, position) if self._quote else self._in_code(line, position)
        if self.resting and self._copy and line.rstrip().endswith(b" FROM stdin;"):
            self.copying = True

    def _in_quote(self, line: bytes, position: int) -> int:
        if self._quote == b"e":
            for found in _ESCAPED_END.finditer(line, position):
                if found.group(1):
                    self._quote = b""
                    return found.end()
            return len(line)
        if self._quote == b"*":
            for found in _BLOCK_EDGE.finditer(line, position):
                self._comments += 1 if found.group(1) else -1
                if not self._comments:
                    self._quote = b""
                    return found.end()
            return len(line)
        end = line.find(self._quote, position)
        if end < 0:
            return len(line)
        # A doubled quote closes and opens again: the same in the end.
        end += len(self._quote)
        self._quote = b""
        return end

    def _in_code(self, line: bytes, position: int) -> int:
        found = _CODE.search(line, position)
        if not found:
            if line[position:].strip():
                self.resting = False
            return len(line)
        if line[position : found.start()].strip():
            self.resting = False
        kind = found.lastgroup
        if kind == "comment":
            return found.end()
        if kind == "sign":
            self._sign(found.group())
            return found.end()
        self.resting = False
        if kind == "backslash":
            self.command = True
        elif kind == "word":
            self._word(found.group().lower())
        elif kind == "block":
            self._quote, self._comments = b"*", 1
        elif kind == "escaped":
            self._quote = b"e"
        else:
            self._quote = found.group()
        return found.end()

    def _word(self, word: bytes) -> None:
        if not self._routine:
            return
        if word == b"begin" or (word == b"case" and self._blocks):
            self._blocks += 1
        elif word == b"end" and self._blocks:
            self._blocks -= 1

    def _sign(self, sign: bytes) -> None:
        self.resting = sign == b";" and not self._parentheses and not self._blocks
        if sign == b"(":
            self._parentheses += 1
        elif sign == b")":
            self._parentheses = max(0, self._parentheses - 1)
