# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The ``.env`` file of an instance, in the dialect that Docker Compose reads.

Of the quoting forms, only double quotes with escaped backslash, quote, dollar sign and line feed carry every printable
value through Compose unchanged (measured with 2.26.1); values of harmless characters are written bare.
"""

from __future__ import annotations

import re
from typing import Dict, List, Mapping, Sequence, Tuple

from ._errors import StateCorrupt

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_BARE = re.compile(r"[A-Za-z0-9_./:,@%+=-]*\Z")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n"}
_UNESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def value_problem(value: str) -> str:
    """Return why ``value`` cannot stand in a ``.env`` file, or an empty string when it can."""
    if _FORBIDDEN.search(value):
        return "holds control characters"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half a character, which UTF-8 cannot write"
    return ""


def encode_value(value: str) -> str:
    """Return ``value`` as it is written behind the equals sign. Raises ValueError for control characters."""
    problem = value_problem(value)
    if problem:
        raise ValueError("a value " + problem)
    if _BARE.match(value):
        return value
    return '"' + "".join(_ESCAPES.get(character, character) for character in value) + '"'


def decode_value(text: str) -> str:
    """Return the value that ``text`` (what stands behind the equals sign) means. Raises ValueError if it is cut off."""
    text = text.strip()
    if text[:1] not in ("'", '"'):
        return re.split(r"\s#", text, maxsplit=1)[0].rstrip()
    quote, value, position = text[0], [], 1
    while position < len(text) and text[position] != quote:
        character = text[position]
        if quote == '"' and character == "\\":
            position += 1
            if position < len(text):
                value.append(_UNESCAPES.get(text[position], text[position]))
        else:
            value.append(character)
        position += 1
    if position >= len(text):
        raise ValueError("unterminated quote")
    behind = text[position + 1 :]
    if behind.strip() and not re.match(r"\s+#", behind):
        raise ValueError("ending behind its closing quote")
    return "".join(value)


def raw_lines(text: str) -> Dict[str, str]:
    """Return the line that sets each variable of a ``.env`` file that ``parse`` takes, as it stands there."""
    lines: Dict[str, str] = {}
    for line in text.split("\n"):
        name = line.partition("=")[0].strip()
        if name.startswith("export "):
            name = name[len("export ") :].strip()
        if _NAME.match(name) and "=" in line:
            lines[name] = line.rstrip("\r")
    return lines


def parse(text: str, path: str = ".env") -> Dict[str, str]:
    """Return the variables of a ``.env`` file in their order.

    Raises StateCorrupt with the path and line number (never the value) for anything that is not ``NAME=VALUE``, a
    comment or an empty line, and for a name that stands twice.
    """
    variables: Dict[str, str] = {}
    if text.startswith("\ufeff"):
        raise StateCorrupt("{0} begins with a byte order mark; save it as plain UTF-8".format(path))
    if "\x00" in text:
        raise StateCorrupt("{0} holds NUL bytes; it is damaged".format(path))
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, rest = line.partition("=")
        name = name.strip()
        if name.startswith("export "):
            name = name[len("export "):].strip()
        if not separator or not _NAME.match(name):
            raise StateCorrupt("{0}, line {1}: not of the form NAME=VALUE".format(path, number))
        if name in variables:
            raise StateCorrupt("{0}, line {1}: {2} stands there twice".format(path, number, name))
        try:
            variables[name] = decode_value(rest)
        except ValueError as error:
            raise StateCorrupt("{0}, line {1}: {2} has an {3}".format(path, number, name, error)) from error
    return variables


def render(sections: Sequence[Tuple[str, Mapping[str, str]]], raw: Sequence[str] = ()) -> str:
    """Return the text of a ``.env`` file: each section is a heading and its variables, in the order given.

    ``raw`` lines come last and are written as they are, so that references in them stay references.

    Raises ValueError for a value with control characters or a name that is none.
    """
    lines: List[str] = []
    for heading, variables in sections:
        if not variables:
            continue
        if lines:
            lines.append("")
        lines.append("# " + heading)
        for name, value in variables.items():
            if not _NAME.match(name):
                raise ValueError("{0!r} is no name of a variable".format(name))
            lines.append("{0}={1}".format(name, encode_value(value)))
    if raw:
        lines += ["", "# Added by hand; kept as it is", *raw]
    return "\n".join(lines) + "\n"
