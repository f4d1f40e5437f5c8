# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Directories as tar files, extended attributes included, and back; links are never followed.

Containers can write in some of these directories, so nothing in them is trusted: a link is stored as a link, devices
and sockets are left out, and unpacking refuses whatever would lie outside its directory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import stat
import tarfile
import zlib
from dataclasses import dataclass
from typing import IO, Any, Dict, Iterator, List, Mapping, Tuple, cast

from ._errors import BackupFailed, IntegrityFailed

# What GNU tar and star call them, so that `tar --xattrs` reads the files too.
_ATTRIBUTE = "SCHILY.xattr."
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


def _walk(top: str, relative: str = "") -> Iterator[Tuple[str, os.stat_result]]:
    """Yield everything below ``top``, sorted, as (relative path, status); a link is itself."""
    try:
        entries = sorted(os.scandir(os.path.join(top, relative)), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        below = os.path.join(relative, entry.name) if relative else entry.name
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # deleted since it was listed
            continue
        yield below, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(top, below)


def _attributes(path: str) -> Dict[str, str]:
    """Return the extended attributes of the user namespace; bytes that are no UTF-8 as surrogates, as in tarfile."""
    found = {}
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if name.startswith("user."):
            found[name] = os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape")
    return found


def _line(name: str, kind: str, content: str, attributes: Mapping[str, str]) -> bytes:
    """Return what stands for one entry in the digest of an archive or a directory."""
    shown = "\x1f".join("{0}={1}".format(key, attributes[key]) for key in sorted(attributes))
    return "\x1e".join((name, kind, content, shown)).encode("utf-8", "surrogateescape") + b"\n"


def pack(stream: IO[bytes], sources: List[Tuple[str, str]]) -> Contents:
    """Write a gzipped tar of ``sources``, pairs of (prefix in the archive, directory or file), to ``stream``.

    A file that vanishes meanwhile is left out; one that shrinks is an error (BackupFailed), because its end is unknown.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=_LEVEL, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for prefix, source in sources:
            entries: Iterator[Tuple[str, os.stat_result]]
            if os.path.isfile(source) and not os.path.islink(source):
                entries = iter([("", os.lstat(source))])
            else:
                entries = _walk(source)
            for relative, status in entries:
                path = os.path.join(source, relative) if relative else source
                member = os.path.join(prefix, relative) if relative else prefix
                line, added = _add(archive, member, path, status)
                if line:
                    digest.update(line)
                if added is not None:
                    count, size = count + 1, size + added
    return Contents(count, size, digest.hexdigest())


def _add(archive: tarfile.TarFile, member: str, path: str, status: os.stat_result) -> Tuple[bytes, Any]:
    """Add one entry; return its line of the digest, and the size of a regular file."""
    info = tarfile.TarInfo(member)
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        return _line(member, "directory", "", {}), None
    if stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        archive.addfile(info)
        return _line(member, "link", info.linkname, {}), None
    if not stat.S_ISREG(status.st_mode):
        return b"", None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b"", None
    with open(descriptor, "rb") as stream:
        attributes = _attributes(path)
        info.size = os.fstat(descriptor).st_size
        info.pax_headers = {_ATTRIBUTE + name: value for name, value in attributes.items()}
        source = _Hashing(stream)
        try:
            archive.addfile(info, cast("IO[bytes]", source))
        except OSError as error:
            if str(error) == "unexpected end of data":
                raise BackupFailed("{0} became shorter while it was read; run the backup again".format(path)) from error
            raise
    return _line(member, "file", source.hash.hexdigest(), attributes), info.size


def _check(info: tarfile.TarInfo, place: str) -> None:
    parts = info.name.split("/")
    if info.name.startswith("/") or ".." in parts or "\x00" in info.name or not info.name:
        raise IntegrityFailed("{0} holds the path {1!r}, which leads out of it".format(place, info.name))
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
                    key[len(_ATTRIBUTE) :]: value
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
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, UnicodeError, ValueError) as error:
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
