# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""People who may log in to Studio, the panel and ARA: a file of names and bcrypt hashes, as nginx reads it.

Hashes are made by libcrypt, which nginx checks them with: no further package, and no two ideas of a format.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import ctypes.util
import os
import re
import secrets
import string
from typing import Dict, List, Optional

from ._errors import InvalidInput, LibraryMissing, StateCorrupt
from ._publish import sync_directory, write_new

COST = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}\Z")
# The password of a person is made for them: 32 letters and digits are 190 bits.
PASSWORD_LENGTH = 32
_ALPHABET = string.ascii_letters + string.digits


def name_problem(name: str) -> Optional[str]:
    """Say why ``name`` cannot be a person's, or return None. A colon or a line feed would end it early."""
    if isinstance(name, str) and _NAME.match(name):
        return None
    return "{0!r} is no name of a person: 1 to 64 letters, digits and . _ @ - are allowed".format(name)


def hash_problem(text: str) -> Optional[str]:
    """Say why ``text`` is no hash that would be kept, or return None. What it is, is not told."""
    found = _HASH.match(text) if isinstance(text, str) else None
    if found and int(found.group(1)) >= COST:
        return None
    return "the hash is no bcrypt hash of cost {0} or more".format(COST)


def make_password() -> str:
    """Return a new password."""
    return "".join(secrets.choice(_ALPHABET) for _index in range(PASSWORD_LENGTH))


def hash_password(password: str) -> str:
    """Return the bcrypt hash of a password. Raises LibraryMissing where this system's libcrypt makes none."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    except OSError as error:
        raise LibraryMissing("this host has no libcrypt to hash a password with") from error
    library.crypt.restype = ctypes.c_char_p
    library.crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    # 16 bytes in bcrypt's own base64; the last character holds two bits of them only.
    standard = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    own = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    salt = base64.b64encode(secrets.token_bytes(16)).decode("ascii")[:22].translate(str.maketrans(standard, own))
    made = library.crypt(password.encode("utf-8"), "$2y${0:02d}${1}".format(COST, salt).encode("ascii"))
    text = (made or b"").decode("ascii", "replace")
    if hash_problem(text):
        raise LibraryMissing("this host's libcrypt makes no bcrypt hash")
    return text


def parse(text: str, path: str = "the file") -> Dict[str, str]:
    """Return name -> hash of a file. Raises StateCorrupt, naming the line, where it is none that we write.

    A name that is there twice is an error: nginx goes by the first line, whoever added the second meant that, and a
    guess would let somebody in with a password that was to be replaced.
    """
    people: Dict[str, str] = {}
    lines: Dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, hashed = line.partition(":")
        if not separator or name_problem(name) or not hashed:
            raise StateCorrupt("{0}, line {1}: it is no name and hash".format(path, number))
        if name in people:
            raise StateCorrupt(
                "{0}, line {1}: {2} is there already, in line {3}, and nginx goes by that one only; remove one of "
                "the two lines".format(path, number, name, lines[name])
            )
        lines[name] = number
        people[name] = hashed
    return people


def render(people: Dict[str, str]) -> str:
    """Return the text of a file."""
    return "".join("{0}:{1}\n".format(name, people[name]) for name in sorted(people))


def read(path: str) -> Optional[Dict[str, str]]:
    """Return who is in a file; None where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return parse(stream.read(), path)
    except FileNotFoundError:
        return None


def write(path: str, people: Dict[str, str], group: int) -> None:
    """Replace a file; nginx's workers read it as the group (0640)."""
    staged = path + ".multibase-new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged)
    write_new(staged, render(people).encode("utf-8"), 0o640, sync=True)
    os.chown(staged, 0, group)
    os.rename(staged, path)
    sync_directory(os.path.dirname(path))


def forget_logins(directory: str) -> None:
    """Empty nginx's memory of who was let in, so that who was removed is asked again at once."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def change(people: Dict[str, str], name: str, hashed: str, renew: bool) -> Dict[str, str]:
    """Return the people with one more. Raises InvalidInput for a name that is there, unless it is to be renewed."""
    problems: List[str] = [found for found in (name_problem(name), hash_problem(hashed)) if found]
    if name in people and not renew:
        problems.append("{0} is there already; with force the password is replaced".format(name))
    if problems:
        raise InvalidInput(problems)
    return {**people, name: hashed}
