# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives: what containers can plant, what damage looks like, and that GNU tar reads them too."""

from __future__ import annotations

import gzip
import io
import os
import socket
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _archive
from ansible_collections.multibase.supabase.plugins.module_utils._errors import BackupFailed, IntegrityFailed
from unit.support import PROPERTY

TEXT = "something to read\n"


def packed(source: Path) -> bytes:
    stream = io.BytesIO()
    _archive.pack(stream, [("storage", str(source))])
    return stream.getvalue()


def unpacked(content: bytes, target: Path) -> _archive.Contents:
    target.mkdir(parents=True, exist_ok=True)
    return _archive.unpack(io.BytesIO(content), {"storage": str(target)}, "the archive")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "deep" / "empty").mkdir(parents=True)
    (top / "deep" / "file").write_text(TEXT * 400)
    (top / "\u00e4\u6587").write_bytes(os.urandom(3000))
    Path(os.fsdecode(os.fsencode(str(top)) + b"/raw\xff")).write_text("raw")
    (top / "passwd").symlink_to("/etc/passwd")
    (top / "etc").symlink_to("/etc")
    os.symlink(b"bad\xfe", os.fsencode(str(top)) + b"/link\xfd")
    os.setxattr(top / "deep" / "file", "user.a", b"\xff\x00'\"\n\\")
    os.setxattr(top / "deep" / "file", "user.empty", b"")
    return top


def test_a_tree_comes_back_whole(source: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    contents = _archive.pack(stream, [("storage", str(source))])
    assert unpacked(stream.getvalue(), tmp_path / "target") == contents
    assert snapshot_bytes(str(tmp_path / "target")) == snapshot_bytes(str(source))
    assert os.getxattr(tmp_path / "target" / "deep" / "file", "user.a") == b"\xff\x00'\"\n\\"
    assert os.getxattr(tmp_path / "target" / "deep" / "file", "user.empty") == b""
    assert contents.bytes == sum(
        path.stat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink()
    )


def test_the_digest_tells_content_names_and_attributes(source: Path) -> None:
    seen = set()
    file = source / "plain"
    file.write_text("x")
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


def test_links_are_links_in_the_archive_and_nothing_of_etc_is(source: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(source))) as archive:
        by_name = {info.name: info for info in archive}
    assert by_name["storage/etc"].issym() and by_name["storage/passwd"].issym()
    assert not [name for name in by_name if name.startswith("storage/etc/")]


def test_sockets_and_pipes_are_left_out(source: Path) -> None:
    before = _archive.pack(io.BytesIO(), [("storage", str(source))])
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(source)
        try:
            server.bind("sock")
        finally:
            os.chdir(here)
    assert _archive.pack(io.BytesIO(), [("storage", str(source))]) == before


@pytest.mark.parametrize("bits", [0o600, 0o644, 0o4755, 0o2755, 0o1777, 0o7777])
def test_modes_come_back_without_special_bits(tmp_path: Path, bits: int) -> None:
    (tmp_path / "source" / "d").mkdir(parents=True)
    (tmp_path / "source" / "f").write_text("x")
    for name in ("f", "d"):
        (tmp_path / "source" / name).chmod(bits)
    unpacked(packed(tmp_path / "source"), tmp_path / "target")
    for name in ("f", "d"):
        assert stat.S_IMODE((tmp_path / "target" / name).stat().st_mode) == bits & 0o777


def test_a_single_file_and_an_unwanted_prefix(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "two").write_text("2")
    stream = io.BytesIO()
    said = _archive.pack(stream, [("one", str(tmp_path / "one")), ("other", str(tmp_path / "dir"))])
    stream.seek(0)
    assert _archive.unpack(stream, {"one": str(tmp_path / "copy")}, "the archive") == said
    assert (tmp_path / "copy").read_text() == "1" and not (tmp_path / "two").exists()


def test_what_is_not_there_is_an_empty_archive(tmp_path: Path) -> None:
    said = _archive.pack(io.BytesIO(), [("storage", str(tmp_path / "missing"))])
    assert (said.files, said.bytes) == (0, 0)


def test_a_prefix_is_whole_words(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_text("x")
    stream = io.BytesIO()
    _archive.pack(stream, [("storage2", str(tmp_path / "source"))])
    unpacked(stream.getvalue(), tmp_path / "target")
    assert os.listdir(tmp_path / "target") == []


# Trees that change while they are read


def meddle(monkeypatch: pytest.MonkeyPatch, relative: str, change: Any) -> None:
    """Do ``change`` once, when a member is about to be added."""
    original, done = _archive._add, []

    def add(archive: Any, member: str, *more: Any) -> Any:
        if member == relative and not done:
            done.append(member)
            change()
        return original(archive, member, *more)

    monkeypatch.setattr(_archive, "_add", add)


def test_a_file_that_shrinks_is_a_failed_backup(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    def taller(descriptor: int) -> Any:
        found = real(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size == len(TEXT) * 400:
            (source / "deep" / "file").write_text("short")
        return found

    monkeypatch.setattr(os, "fstat", taller)
    with pytest.raises(BackupFailed, match="deep/file became shorter"):
        packed(source)


def test_a_file_that_grows_is_taken_as_it_was(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    def growing(descriptor: int) -> Any:
        found = real(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size == len(TEXT) * 400:
            with open(source / "deep" / "file", "a") as stream:
                stream.write("more")
        return found

    monkeypatch.setattr(os, "fstat", growing)
    stream = io.BytesIO()
    said = _archive.pack(stream, [("storage", str(source))])
    monkeypatch.undo()
    assert unpacked(stream.getvalue(), tmp_path / "target") == said
    assert (tmp_path / "target" / "deep" / "file").read_text() == TEXT * 400


@pytest.mark.parametrize("name", ["deep/file", "passwd", "deep/empty"])
def test_what_vanishes_before_it_is_read_is_left_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = source / name
    meddle(monkeypatch, "storage/" + name, path.rmdir if name == "deep/empty" else path.unlink)
    unpacked(packed(source), tmp_path / "target")


def test_a_file_that_vanishes_once_it_is_open_is_no_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = _archive._attributes

    def vanishing(path: Any) -> Dict[str, str]:
        (source / "deep" / "file").unlink(missing_ok=True)
        return original(path)

    monkeypatch.setattr(_archive, "_attributes", vanishing)
    packed(source)


@pytest.mark.parametrize("moment", ["storage/deep", "storage/deep/file"])
def test_a_directory_that_becomes_a_link_is_not_followed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A container that owns the tree swaps a directory for a link between listing it and reading what is in it."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("secret of the host")
    (tmp_path / "host" / "empty").mkdir()

    def swap() -> None:
        (source / "deep").rename(tmp_path / "moved")
        (source / "deep").symlink_to(tmp_path / "host")

    meddle(monkeypatch, moment, swap)
    try:
        content = packed(source)
    except (BackupFailed, OSError):
        return
    assert b"secret of the host" not in gzip.decompress(content)


@pytest.mark.parametrize("name", [b"user.a=b", b"user.\xff", b"user.a b", b"user.line\nbreak", "user.\u00e4".encode()])
def test_attributes_of_any_name_come_back(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_text("x")
    os.setxattr(tmp_path / "source" / "f", name, b"v=1")
    unpacked(packed(tmp_path / "source"), tmp_path / "target")
    target = tmp_path / "target" / "f"
    assert {key: os.getxattr(target, key) for key in os.listxattr(target)} == {os.fsdecode(name): b"v=1"}


# Archives that are not ours


def hostile(*members: tarfile.TarInfo, headers: Optional[Dict[str, str]] = None) -> bytes:
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb") as zipped,
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for info in members:
            info.size = 1 if info.isreg() else 0
            info.pax_headers = {**info.pax_headers, **(headers or {})}
            archive.addfile(info, io.BytesIO(b"x"))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for key, value in more.items():
        setattr(info, key, value)
    return info


HOSTILE: Dict[str, List[tarfile.TarInfo]] = {
    "dots": [member("storage/../../x")],
    "dots first": [member("../x")],
    "dots last": [member("storage/a/..", tarfile.DIRTYPE)],
    "dots not wanted": [member("other/../x")],
    "absolute": [member("/etc/x")],
    "character device": [member("storage/d", tarfile.CHRTYPE)],
    "block device": [member("storage/d", tarfile.BLKTYPE)],
    "pipe": [member("storage/d", tarfile.FIFOTYPE)],
    "hard link": [member("storage/a"), member("storage/b", tarfile.LNKTYPE, "storage/a")],
    "hard link out": [member("storage/b", tarfile.LNKTYPE, "/etc/passwd")],
    "file below a link": [member("storage/l", tarfile.SYMTYPE, ".."), member("storage/l/x")],
    "directory below a link": [member("storage/l", tarfile.SYMTYPE, ".."), member("storage/l/x", tarfile.DIRTYPE)],
    "directory as a link": [member("storage/l", tarfile.SYMTYPE, ".."), member("storage/l", tarfile.DIRTYPE)],
    "link below a link": [member("storage/l", tarfile.SYMTYPE, ".."), member("storage/l/x", tarfile.SYMTYPE, "y")],
    "file through a link": [member("storage/l", tarfile.SYMTYPE, "../x"), member("storage/l")],
    "file twice": [member("storage/a"), member("storage/a")],
    "link twice": [member("storage/a", tarfile.SYMTYPE, "b"), member("storage/a", tarfile.SYMTYPE, "c")],
    "below a file": [member("storage/a"), member("storage/a/b")],
    "file over a directory": [member("storage/a", tarfile.DIRTYPE), member("storage/a")],
    "dot": [member("storage/.")],
    "two slashes": [member("storage//a/b")],
    "too long": [member("storage/" + "a" * 300)],
    "owner too big": [member("storage/a", uid=2**40)],
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_what_does_not_belong_there_is_refused_as_such(tmp_path: Path, case: str) -> None:
    with pytest.raises(IntegrityFailed, match="the archive"):
        unpacked(hostile(*HOSTILE[case]), tmp_path / "deep" / "target")
    assert os.listdir(tmp_path) == ["deep"] and os.listdir(tmp_path / "deep") == ["target"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "-5", "x"])
def test_impossible_times_are_no_other_error(tmp_path: Path, value: str) -> None:
    try:
        unpacked(hostile(member("storage/a"), headers={"mtime": value}), tmp_path / "target")
    except IntegrityFailed:
        return


# Without the time, which would be part of the tests' names: those have to be the same in every process.
@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", b"no archive", gzip.compress(b"", mtime=0), gzip.compress(b"x" * 2000, mtime=0)],
    ids=["nothing", "magic", "text", "empty", "no members"],
)
def test_what_is_no_archive_is_damaged(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(IntegrityFailed, match="the archive is damaged"):
        unpacked(content, tmp_path / "target")


def test_every_truncation_is_damage(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_bytes(os.urandom(700))
    whole = packed(tmp_path / "source")
    escaped = set()
    for length in range(len(whole)):
        try:
            unpacked(whole[:length], tmp_path / "targets" / str(length))
            escaped.add("nothing at {0} of {1}".format(length, len(whole)))
        except IntegrityFailed:
            continue
        except Exception as error:
            escaped.add(type(error).__name__)
    assert not escaped


def test_every_flip_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_bytes(b"text " * 300)
    os.setxattr(tmp_path / "source" / "f", "user.a", b"1")
    whole = packed(tmp_path / "source")
    said = unpacked(whole, tmp_path / "first")
    escaped: Dict[str, List[int]] = {}
    # Not the ten bytes of the header, most of which say nothing about the content.
    for position in range(10, len(whole)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[position] ^= 1 << bit
            with tempfile.TemporaryDirectory(dir=str(tmp_path)) as target:
                try:
                    if unpacked(bytes(broken), Path(target)) != said:
                        escaped.setdefault("other contents", []).append(position)
                except IntegrityFailed:
                    continue
                except Exception as error:
                    escaped.setdefault(type(error).__name__, []).append(position)
    assert not escaped, {name: (len(where), where[:3]) for name, where in escaped.items()}


def test_gnu_tar_reads_it_attributes_included(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed(source))
    listed = subprocess.run(["tar", "-tzf", str(tmp_path / "a.tar.gz")], check=True, capture_output=True).stdout
    assert b"storage/deep/file" in listed
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["tar", "--xattrs", "-xzf", str(tmp_path / "a.tar.gz"), "-C", str(tmp_path / "out")],
        check=True,
        capture_output=True,
    )
    assert snapshot_bytes(str(tmp_path / "out" / "storage")) == snapshot_bytes(str(source))
    assert os.getxattr(tmp_path / "out" / "storage" / "deep" / "file", "user.a").startswith(b"\xff")


# Any small tree

_NAME = st.binary(min_size=1, max_size=8).filter(
    lambda name: not set(name) & set(b"/\x00") and name not in (b".", b"..")
)
_NODE = st.recursive(
    st.one_of(
        st.tuples(st.just("file"), st.binary(max_size=600), st.dictionaries(st.just("user.a"), st.binary(max_size=9))),
        st.tuples(
            st.just("link"),
            st.binary(min_size=1, max_size=12).filter(lambda text: b"\x00" not in text),
            st.just({}),
        ),
    ),
    lambda below: st.tuples(st.just("directory"), st.dictionaries(_NAME, below, max_size=3), st.just({})),
    max_leaves=8,
)


def plant(path: bytes, node: Any) -> None:
    kind, content, attributes = node
    if kind == "directory":
        os.mkdir(path)
        for name, below in content.items():
            plant(os.path.join(path, name), below)
    elif kind == "link":
        os.symlink(content, path)
    else:
        Path(os.fsdecode(path)).write_bytes(content)
        for name, value in attributes.items():
            os.setxattr(path, name, value)


@PROPERTY
@given(tree=st.dictionaries(_NAME, _NODE, max_size=4))
def test_any_tree_comes_back(tree: Dict[bytes, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        plant(os.fsencode(place) + b"/source", ("directory", tree, {}))
        stream = io.BytesIO()
        said = _archive.pack(stream, [("storage", place + "/source")])
        assert unpacked(stream.getvalue(), Path(place, "target")) == said
        assert os.fsencode(str(sorted(snapshot_bytes(place + "/target").items()))) == os.fsencode(
            str(sorted(snapshot_bytes(place + "/source").items()))
        )


def snapshot_bytes(top: str) -> Dict[bytes, Any]:
    """Like ``snapshot``, for links to names that are no text, and with attributes."""
    found: Dict[bytes, Any] = {}
    for parent, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(parent, name)
            about: Any = "directory"
            if os.path.islink(path):
                about = os.readlink(path)
            elif os.path.isfile(path):
                about = (
                    Path(os.fsdecode(path)).read_bytes(),
                    {key: os.getxattr(path, key) for key in os.listxattr(path)},
                )
            found[os.path.relpath(path, os.fsencode(top))] = about
    return found
