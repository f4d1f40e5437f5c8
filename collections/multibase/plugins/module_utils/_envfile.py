# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The ``.env`` file and the ``env_file`` files of an instance, in the dialect that Docker Compose reads.

Of the quoting forms, only double quotes with escaped backslash, quote, dollar sign and line feed carry every printable
value through Compose unchanged (measured with 2.26.1 and 5.6.1); values of harmless characters are written bare.

Lines that people write are read as Compose reads them, or refused: values that go over several lines, octal escapes,
``NAME: VALUE`` and ``NAME`` alone are Compose's, but not ours.
"""

from __future__ import annotations

import re
from typing import Collection, Dict, List, Mapping, Match, Sequence, Tuple

from ._errors import StateCorrupt

# Stands above the lines that are not ours.
ADDED_HEADING = "Added by hand; kept as it is"
# Bytes. Linux refuses to start a process when a variable, its name counted, has more than 128 KiB (MAX_ARG_STRLEN).
LONGEST_VALUE = 127 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Compose takes ``export =1`` for a variable without a name.
_ASSIGNMENT = re.compile(r"[ \t]*(?!export[ \t]+=)(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(.*)")
_BARE = re.compile(r"[A-Za-z0-9_./:,@%+=-]*\Z")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# What Compose strips before a value and what it strips behind one; Python's own idea of white space is another.
_SPACE_BEFORE = "\t\v\f\r \x85\xa0"
_SPACE = _SPACE_BEFORE + "\n\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_DOUBLE_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_SINGLE_QUOTED = re.compile(r"'([^'\\]*(?:\\.[^'\\]*)*)'", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# A dollar sign is written twice here because references are looked for behind the escapes.
_ESCAPES = {
    "\\": "\\", '"': '"', "$": "$$", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
}  # fmt: skip
# Compose compares names without regard to case, and two letters outside ASCII (long s, Kelvin sign) fold into it.
_DOLLAR = re.compile("\\$(\\$|[A-Za-z_{\u017f\u212a])?")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = frozenset({
    "ACCESSKEY", "APIKEY", "APITOKEN", "AUTHTOKEN", "CRED", "CREDENTIAL", "CREDENTIALS", "CREDS", "DSN", "KEY", "KEYS",
    "PASS", "PASSCODE", "PASSPHRASE", "PASSWD", "PASSWORD", "PASSWORDS", "PGPASSWORD", "PRIVATEKEY", "PW", "SALT",
    "SECRET", "SECRETKEY", "SECRETS", "TOKEN", "TOKENS",
})  # fmt: skip
# These mean a secret only as the last word: compare AUTH_SITE_URL, PRIVATE_NETWORK and PWD, the working directory.
_SECRET_ENDINGS = frozenset({"AUTH", "COOKIE", "PRIVATE", "PWD"})
# A last word that makes the value something about a secret, and a first word that makes it a switch.
_ABOUT = frozenset({
    "ALGORITHM", "CHARACTERS", "COUNT", "DISABLED", "ENABLED", "EXP", "EXPIRATION", "EXPIRES", "EXPIRY", "FILE",
    "HEADER", "INTERVAL", "LENGTH", "LIFETIME", "LIMIT", "MAX", "MIN", "NAME", "PATH", "POLICY", "PREFIX", "REQUIRED",
    "ROTATION", "SECONDS", "SIZE", "TIMEOUT", "TTL", "TYPE",
})  # fmt: skip
_SWITCHES = frozenset({"ALLOW", "DISABLE", "ENABLE", "REQUIRE", "SKIP", "VERIFY"})


def value_problem(value: str) -> str:
    """Return why ``value`` cannot stand in a ``.env`` file, or an empty string when it can."""
    if _FORBIDDEN.search(value):
        return "holds control characters"
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds half a character, which UTF-8 cannot write"
    if size > LONGEST_VALUE:
        return "is longer than the {0} KiB that fit into a process's variable".format(LONGEST_VALUE // 1024)
    return ""


def name_problem(name: str) -> str:
    """Return why ``name`` is no name of a variable, or an empty string when it is one.

    Lower case is taken: programs look for ``http_proxy`` and ``no_proxy`` under just these names.
    """
    if _NAME.match(name):
        return ""
    if not name:
        return "is empty"
    if name[0] in "0123456789":
        return "begins with a digit"
    return "holds other characters than letters, digits and underscores"


def looks_secret(name: str) -> bool:
    """Tell whether the value of a variable called ``name`` is likely to be a secret.

    Whole words decide, so that ``MONKEY`` and ``KEYCLOAK_URL`` are none; words end at underscores, at digits and where
    a capital follows a small letter. In doubt the answer is yes: it costs only that the value is given another way.
    """
    words = [word.upper() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT or words[0] in _SWITCHES:
        return False
    if words[-1] in _SECRET_ENDINGS:
        return words != ["PWD"]
    return any(
        word in _SECRET_WORDS and not (word in ("KEY", "KEYS") and before in ("PUBLIC", "PUBLISHABLE"))
        for before, word in zip(["", *words], words)
    )


def encode_value(value: str) -> str:
    """Return ``value`` as it is written behind the equals sign. Raises ValueError for one with a ``value_problem``."""
    if _BARE.match(value) and len(value) <= LONGEST_VALUE:
        return value
    problem = value_problem(value)
    if problem:
        raise ValueError("a value " + problem)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
    return '"' + escaped + '"'


def decode_value(text: str) -> str:
    """Return the value that ``text`` (what stands behind the equals sign) means.

    A value that refers to other variables comes back with its references as they stand, and in it ``$$`` for a dollar
    sign: what they refer to is not known here.

    Raises ValueError, with a message that goes on behind the variable's name, when ``text`` is refused.
    """
    return _read_value(text)[0]


def _read_value(text: str) -> Tuple[str, bool]:
    """Return the value of ``decode_value``, and whether it refers to other variables. Raises ValueError as that."""
    text = text.lstrip(_SPACE_BEFORE)
    quote = text[:1]
    if quote not in ("'", '"'):
        return _without_dollars(text.partition(" #")[0].rstrip(_SPACE))
    found = (_DOUBLE_QUOTED if quote == '"' else _SINGLE_QUOTED).match(text)
    if found is None:
        raise ValueError("has a quoted value that does not end on its line; write a line feed as \\n in double quotes")
    behind = text[found.end() :].lstrip(_SPACE)
    if behind and not behind.startswith("#"):
        raise ValueError("has text behind its closing quote")
    value = found.group(1)
    if quote == "'":
        return _ESCAPE.sub(_single_escape, value), False
    return _without_dollars(_ESCAPE.sub(_double_escape, value) if "\\" in value else value)


def _single_escape(found: Match[str]) -> str:
    return "'" if found.group(1) == "'" else found.group()


def _double_escape(found: Match[str]) -> str:
    character = found.group(1)
    if character == "0":
        raise ValueError("has an octal escape; write the character itself")
    return _ESCAPES.get(character, found.group())


def _without_dollars(template: str) -> Tuple[str, bool]:
    """Return what ``template`` means and False, or itself and True when it refers to other variables."""
    if "$" not in template:
        return template, False
    if any(found.group(1) not in (None, "$") for found in _DOLLAR.finditer(template)):
        return template, True
    return template.replace("$$", "$"), False


def hand_written(text: str, ours: Collection[str], headings: Collection[str]) -> List[str]:
    """Return the lines of a ``.env`` file that ``parse`` takes which are not ours, in their order, for ``render``.

    ``ours`` are the names of the variables that we wrote last time and that we write this time; ``headings`` are those
    of every section that we ever wrote, the one of these lines excepted. Kept are the lines of other variables,
    comments, and empty lines between them, of which several count as one. A comment is ours when it says, word for
    word, what a heading of ours says: an edited heading is a comment like another.

    A comment stays right above the line that it stood above. Where that line was ours and goes, an empty line keeps
    the comment from the next variable.
    """
    own_lines = {"# " + heading for heading in (ADDED_HEADING, *headings)}
    lines: List[str] = []
    gap = parted = False
    for line in text.split("\n"):
        found = _ASSIGNMENT.match(line)
        if found:
            if found.group(1) in ours:
                parted = True
                continue
        elif not line.strip(_SPACE):
            gap = True
            continue
        elif line.rstrip() in own_lines:
            # The empty line above a heading is ours as well.
            gap, parted = False, True
            continue
        if lines and (gap or (parted and not _ASSIGNMENT.match(lines[-1]))):
            lines.append("")
        lines.append(line.rstrip("\r"))
        gap = parted = False
    return lines


def parse(text: str, path: str = ".env", plain: Collection[str] = ()) -> Dict[str, str]:
    """Return the variables of a ``.env`` file in their order.

    ``text`` has the file's own line ends (``newline=""``): a carriage return in a line ends it for Python, but not for
    Compose. ``plain`` are names whose values have to be known and are going to be written anew: they may not refer to
    other variables, nor have a ``value_problem``.

    Raises StateCorrupt with the path and line number (never the value) for anything that is not ``NAME=VALUE``, a
    comment or an empty line, and for a name that stands twice.
    """
    variables: Dict[str, str] = {}
    if text.startswith("\ufeff"):
        raise StateCorrupt("{0} begins with a byte order mark; save it as plain UTF-8".format(path))
    if "\x00" in text:
        raise StateCorrupt("{0} holds NUL bytes; it is damaged".format(path))
    for number, line in enumerate(text.split("\n"), start=1):
        found = _ASSIGNMENT.match(line)
        if found is None:
            start = line.strip(_SPACE)[:1]
            if not start or start == "#":
                continue
            raise StateCorrupt("{0}, line {1}: not of the form NAME=VALUE".format(path, number))
        name, rest = found.groups()
        if name in variables:
            raise StateCorrupt("{0}, line {1}: {2} stands there twice".format(path, number, name))
        if _BARE.match(rest):
            variables[name] = rest
            continue
        problem = ""
        try:
            variables[name], refers = _read_value(rest)
        except ValueError as error:
            problem = str(error)
        else:
            if name in plain:
                problem = value_problem(variables[name])
                if refers:
                    problem = "refers to other variables; write a dollar sign as \\$ in double quotes"
        if problem:
            raise StateCorrupt("{0}, line {1}: {2} {3}".format(path, number, name, problem))
    return variables


def render(sections: Sequence[Tuple[str, Mapping[str, str]]], raw: Sequence[str] = ()) -> str:
    """Return the text of a ``.env`` file: each section is a heading and its variables, in the order given.

    ``raw`` lines (of ``hand_written``) come last and are written as they are, so that references in them stay
    references. Without sections they are all there is.

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
        if lines:
            lines.append("")
        lines += ["# " + ADDED_HEADING, *raw]
    return "\n".join(lines) + "\n"
