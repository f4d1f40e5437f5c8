# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of directories in which containers write: nothing is followed, nothing leaves its place, nothing is lost."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _archive
from ansible_collections.multibase.supabase.plugins.module_utils._errors import IntegrityFailed


def packed(source: Path) -> bytes:
    stream = io.BytesIO()
    _archive.pack(stream, [("storage", str(source))])
    return stream.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with what Storage and users put there, and what an attacker would."""
    top = tmp_path / "source"
    (top / "stub" / "a bucket" / "\u00e4\u6587").mkdir(parents=True)
    file = top / "stub" / "a bucket" / "\u00e4\u6587" / "v1"
    file.write_bytes(os.urandom(300_000))
    os.setxattr(file, "user.supabase.content-type", b"image/png")
    os.setxattr(file, "user.raw", b"\xff\x00\xfe")
    (top / "empty").mkdir()
    (top / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(top / "fifo")
    (top / "setuid").write_text("x")
    (top / "setuid").chmod(0o4755)
    return top


def test_what_is_unpacked_is_what_was_packed(source: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    contents = _archive.pack(stream, [("storage", str(source))])
    stream.seek(0)
    target = tmp_path / "target"
    target.mkdir()
    assert _archive.unpack(stream, {"storage": str(target)}, "the archive") == contents
    file = target / "stub" / "a bucket" / "\u00e4\u6587" / "v1"
    assert file.read_bytes() == (source / file.relative_to(target)).read_bytes()
    assert os.getxattr(file, "user.supabase.content-type") == b"image/png"
    assert os.getxattr(file, "user.raw") == b"\xff\x00\xfe"
    assert (target / "empty").is_dir()
    assert os.readlink(target / "passwd") == "/etc/passwd"
    assert not (target / "fifo").exists()
    assert stat.S_IMODE((target / "setuid").stat().st_mode) == 0o755
    assert contents.files == 2


def test_the_digest_tells_content_names_and_attributes(source: Path) -> None:
    seen = set()
    file = source / "setuid"
    changes: Dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "content": lambda: file.write_text("y"),
        "attribute": lambda: os.setxattr(file, "user.a", b"1"),
        "name": lambda: file.rename(source / "other"),
        "link": lambda: ((source / "passwd").unlink(), (source / "passwd").symlink_to("/etc/group")),
    }
    for change in changes.values():
        change()
        seen.add(_archive.pack(io.BytesIO(), [("storage", str(source))]).digest)
    assert len(seen) == len(changes)


def hostile(*members: tarfile.TarInfo) -> io.BytesIO:
    """An archive with members as given, files of one byte."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as zipped, tarfile.open(fileobj=zipped, mode="w|") as archive:
        for member in members:
            member.size = 1 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x"))
    stream.seek(0)
    return stream


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        [member("storage/../../x")], [member("/etc/x")], [member("storage/dev", tarfile.CHRTYPE)],
        [member("storage/a"), member("storage/b", tarfile.LNKTYPE, "storage/a")],
        [member("storage/l", tarfile.SYMTYPE, "/tmp"), member("storage/l/x")],
        [member("storage/a"), member("storage/a")],
    ],
)  # fmt: skip
def test_nothing_is_written_outside(tmp_path: Path, bad: Any) -> None:
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    with pytest.raises((IntegrityFailed, OSError)):
        _archive.unpack(hostile(*bad), {"storage": str(target)}, "the archive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    assert not Path("/tmp/x").exists()


def test_damage_is_told_as_damage(source: Path, tmp_path: Path) -> None:
    whole = packed(source)
    for number, cut in enumerate((10, len(whole) // 2, len(whole) - 20)):
        target = tmp_path / str(number)
        target.mkdir()
        with pytest.raises(IntegrityFailed, match="the archive"):
            _archive.unpack(io.BytesIO(whole[:cut]), {"storage": str(target)}, "the archive")
    for number in range(10, len(whole), len(whole) // 40):
        broken = bytearray(whole)
        broken[number] ^= 0x10
        target = tmp_path / f"flip{number}"
        target.mkdir()
        with pytest.raises(IntegrityFailed, match="the archive"):
            _archive.unpack(io.BytesIO(broken), {"storage": str(target)}, "the archive")
