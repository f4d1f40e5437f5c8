# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Directories as tar files, extended attributes included, and back; links are never followed.

Containers can write in some of these directories, so nothing in them is trusted: a link is stored as a link, devices
and sockets are left out, and unpacking refuses whatever would lie outside its directory.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import stat
import tarfile
import zlib
from dataclasses import dataclass
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Tuple, cast

from ._errors import BackupFailed, IntegrityFailed

# What GNU tar and star call them, so that `tar --xattrs` reads the files too.
_ATTRIBUTE = "SCHILY.xattr."
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")
_NOT_OURS = frozenset(
    (
        errno.EEXIST,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ENOENT,
        errno.EOVERFLOW,
    )
)
_CHUNK = 1 << 20
# Storage keeps objects that are mostly compressed already.
_LEVEL = 1


@dataclass
class Contents:
    """What an archive holds: number of files, their bytes, and a digest of names, contents and attributes."""

    files: int
    bytes: int
    digest: str

    def as_dict(self) -> Dict[str, Any]:
        """Return it as JSON values."""
        return {"files": self.files, "bytes": self.bytes, "digest": self.digest}


class _Hashing:
    """A file that is read while its content is hashed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        return data


def _open_directory(name: str, parent: Optional[int] = None) -> int:
    """Open a directory, never through a link: in ``parent``, an open directory, or by its path."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _walk(directory: int, relative: str) -> Iterator[Tuple[int, str, str]]:
    """Yield everything below an open directory, sorted, as (open parent, name in it, path for the archive).

    A container may replace a directory by a link at any moment: each is opened from its open parent, and what is no
    directory any more is not gone into. A directory is yielded before what is in it.
    """
    for name in sorted(os.listdir(directory)):
        below = os.path.join(relative, name)
        yield directory, name, below
        try:
            child = _open_directory(name, directory)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                continue
            raise
        try:
            yield from _walk(child, below)
        finally:
            os.close(child)


def _attributes(file: int) -> Dict[str, str]:
    """Return the extended attributes of an open file; bytes that are no UTF-8 as surrogates, as in tarfile."""
    found = {}
    for name in sorted(os.listxattr(file)):
        if name.startswith("user."):
            found[name] = os.getxattr(file, name).decode("utf-8", "surrogateescape")
    return found


def _quoted(name: str) -> str:
    """Return the name of an attribute as a keyword of a tar header, escaped as GNU tar does."""
    escaped = []
    for character in name:
        code = ord(character)
        if character in "%=\n" or 0xDC80 <= code <= 0xDCFF:
            escaped.append("%{0:02X}".format(code & 0xFF))
        else:
            escaped.append(character)
    return "".join(escaped)


def _unquoted(keyword: str) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found.group(1), 16)]), os.fsencode(keyword)))


def _line(name: str, kind: str, content: str, attributes: Mapping[str, str]) -> bytes:
    """Return what stands for one entry in the digest of an archive or a directory."""
    shown = "\x1f".join("{0}={1}".format(key, attributes[key]) for key in sorted(attributes))
    return "\x1e".join((name, kind, content, shown)).encode("utf-8", "surrogateescape") + b"\n"


def pack(stream: IO[bytes], sources: List[Tuple[str, str]]) -> Contents:
    """Write a gzipped tar of ``sources``, pairs of (prefix in the archive, directory or file), to ``stream``.

    A file that vanishes meanwhile is left out; one that shrinks is an error (BackupFailed), because its end is unknown.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    with contextlib.ExitStack() as open_files:
        packed = open_files.enter_context(gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=_LEVEL, mtime=0))
        archive = open_files.enter_context(tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT))
        for prefix, source in sources:
            for parent, name, member in _entries(prefix, source):
                line, added = _add(archive, member, parent, name)
                digest.update(line)
                if added is not None:
                    count, size = count + 1, size + added
    return Contents(count, size, digest.hexdigest())


def _entries(prefix: str, source: str) -> Iterator[Tuple[int, str, str]]:
    """Yield a source that is a file, or all that is in it when it is a directory, as ``_walk`` does."""
    try:
        parent = os.open(os.path.dirname(source), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        try:
            directory = _open_directory(os.path.basename(source), parent)
        except NotADirectoryError:
            yield parent, os.path.basename(source), prefix
            return
        except FileNotFoundError:
            return
        try:
            yield from _walk(directory, prefix)
        finally:
            os.close(directory)
    finally:
        os.close(parent)


def _add(archive: tarfile.TarFile, member: str, parent: int, name: str) -> Tuple[bytes, Optional[int]]:
    """Add one entry; return its line of the digest, and the size of a regular file. What vanished is nothing."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        info = tarfile.TarInfo(member)
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
            archive.addfile(_owned(info, status))
            return _line(member, "directory", "", {}), None
        if stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
            archive.addfile(_owned(info, status))
            return _line(member, "link", info.linkname, {}), None
        if not stat.S_ISREG(status.st_mode):
            return b"", None
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        # Gone, or another thing than a moment ago.
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.ENXIO):
            return b"", None
        raise
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b"", None
        attributes = _attributes(descriptor)
        info.size = status.st_size
        info.pax_headers = {_ATTRIBUTE + _quoted(key): value for key, value in attributes.items()}
        source = _Hashing(stream)
        try:
            archive.addfile(_owned(info, status), cast("IO[bytes]", source))
        except OSError as error:
            if str(error) == "unexpected end of data":
                raise BackupFailed(
                    "{0} became shorter while it was read; run the backup again".format(member)
                ) from error
            raise
    return _line(member, "file", source.hash.hexdigest(), attributes), info.size


def _owned(info: tarfile.TarInfo, status: os.stat_result) -> tarfile.TarInfo:
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = int(status.st_mtime)
    return info


def _check(info: tarfile.TarInfo, place: str) -> None:
    parts = info.name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\x00" in info.name:
        raise IntegrityFailed("{0} holds {1!r}, which is no path within it".format(place, info.name))
    if not (info.isreg() or info.isdir() or info.issym()):
        raise IntegrityFailed(
            "{0} holds {1!r}, which is neither a file, a directory nor a link".format(place, info.name)
        )


def _open_parent(top: str, parts: List[str]) -> int:
    """Open the directory that holds an entry, making what is missing, without following a link on the way."""
    current = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=current)
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def unpack(stream: IO[bytes], targets: Mapping[str, str], place: str) -> Contents:
    """Unpack an archive: what lies below a prefix in ``targets`` into that directory, the rest nowhere.

    ``place`` is what error messages call the archive. Raises IntegrityFailed for entries that do not belong there.
    Returns what the whole archive holds, to be compared with what ``pack`` said.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            for info in archive:
                _check(info, place)
                attributes = {
                    _unquoted(key[len(_ATTRIBUTE) :]): value
                    for key, value in info.pax_headers.items()
                    if key.startswith(_ATTRIBUTE + "user.")
                }
                parts = info.name.split("/")
                prefix = next((key for key in targets if info.name == key or info.name.startswith(key + "/")), None)
                content = ""
                if info.isreg():
                    count, size = count + 1, size + info.size
                    hashed = _Hashing(cast("IO[bytes]", archive.extractfile(info)))
                    if prefix is None:
                        while hashed.read(_CHUNK):
                            pass
                    else:
                        rest = parts[len(prefix.split("/")) :]
                        _write(targets[prefix], rest, info, hashed, attributes)
                    content = hashed.hash.hexdigest()
                elif prefix is not None:
                    rest = parts[len(prefix.split("/")) :]
                    if rest:
                        _make(targets[prefix], rest, info)
                if info.issym():
                    content = info.linkname
                kind = "file" if info.isreg() else "directory" if info.isdir() else "link"
                digest.update(_line(info.name, kind, content, attributes))
            # To the end: the checksum stands there.
            while packed.read(_CHUNK):
                pass
    except OSError as error:
        # A name that is there already, a way through a link: no archive of ours has those. A full disk is no such.
        if error.errno is not None and error.errno not in _NOT_OURS:
            raise
        raise IntegrityFailed("{0} is damaged: {1}".format(place, error)) from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise IntegrityFailed("{0} is damaged: {1}".format(place, error)) from error
    return Contents(count, size, digest.hexdigest())


def _write(top: str, parts: List[str], info: tarfile.TarInfo, source: _Hashing, attributes: Mapping[str, str]) -> None:
    """Write one regular file below ``top``; without ``parts``, as ``top`` itself."""
    parent = _open_parent(top if parts else os.path.dirname(top), parts[:-1])
    name = parts[-1] if parts else os.path.basename(top)
    try:
        descriptor = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
        )
    finally:
        os.close(parent)
    with open(descriptor, "wb") as target:
        while True:
            chunk = source.read(_CHUNK)
            if not chunk:
                break
            target.write(chunk)
        target.flush()
        for attribute, value in attributes.items():
            os.setxattr(descriptor, attribute, value.encode("utf-8", "surrogateescape"))
        os.fchown(descriptor, info.uid, info.gid)
        os.fchmod(descriptor, info.mode & 0o777)
        os.utime(descriptor, (info.mtime, info.mtime))


def _make(top: str, parts: List[str], info: tarfile.TarInfo) -> None:
    """Make a directory or a link below ``top``."""
    if info.issym():
        parent = _open_parent(top, parts[:-1])
        try:
            os.symlink(info.linkname, parts[-1], dir_fd=parent)
            os.chown(parts[-1], info.uid, info.gid, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        return
    descriptor = _open_parent(top, parts)
    try:
        os.fchown(descriptor, info.uid, info.gid)
        os.fchmod(descriptor, info.mode & 0o777)
    finally:
        os.close(descriptor)
