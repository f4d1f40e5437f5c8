# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing: data before names, the file that makes it real last, and nothing half done."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path
from typing import Any, List, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _publish
from ansible_collections.multibase.supabase.plugins.module_utils._publish import (
    FileSet,
    Publisher,
    make_directories,
    replace_file,
    sync_filesystem,
    write_new,
)
from unit.support import count_operations, killed_at, snapshot

FILES = {
    "a.txt": (b"a", 0o644), "deep/er/b.txt": (b"b", 0o644), "secret": (b"s", 0o600), "last.json": (b"{}", 0o600),
}  # fmt: skip


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_new(str(tmp_path / "f"), b"x", 0o600)
        make_directories(str(tmp_path), "d/e", 0o755)
        publisher = Publisher(str(tmp_path), ".staging-")
        publisher.add_tree("tree", FileSet(FILES, {"deep": 0o755, "data": 0o700}, "last.json"), 0o700)
        publisher.commit()
    finally:
        os.umask(before)
    assert mode(tmp_path / "f") == 0o600
    assert mode(tmp_path / "d") == mode(tmp_path / "d" / "e") == 0o755
    assert mode(tmp_path / "tree") == 0o700 and mode(tmp_path / "tree" / "data") == 0o700
    assert mode(tmp_path / "tree" / "secret") == 0o600 and mode(tmp_path / "tree" / "a.txt") == 0o644
    assert mode(tmp_path / "tree" / "deep" / "er") == 0o755


def test_secrets_are_never_open_not_even_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: List[int] = []
    original = os.open

    def spy(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            opened.append(more[0])
        return original(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", spy)
    write_new(str(tmp_path / "f"), b"x", 0o600)
    replace_file(str(tmp_path / "f"), b"y", 0o600)
    assert opened == [0o600, 0o600]


def test_an_existing_file_or_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            write_new(str(tmp_path / name), b"x", 0o644)
    assert (tmp_path / "there").read_text() == "old" and not (tmp_path / "elsewhere").exists()
    replace_file(str(tmp_path / "link"), b"x", 0o600)
    assert not (tmp_path / "link").is_symlink() and not (tmp_path / "elsewhere").exists()


def test_directories_that_exist_keep_their_mode(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o710)
    make_directories(str(tmp_path), "d/e", 0o755)
    assert mode(tmp_path / "d") == 0o710


def test_a_tree_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path), ".staging-")
    publisher.add_tree("one", FileSet(FILES, {"data": 0o700}, "last.json"), 0o700)
    publisher.add_tree("two", FileSet(FILES, {}, "last.json"), 0o700)
    assert sorted(os.listdir(tmp_path)) == [".staging-one", ".staging-two"]
    publisher.commit()
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    assert (tmp_path / "one" / "deep" / "er" / "b.txt").read_bytes() == b"b"


def test_the_rest_of_an_earlier_try_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".staging-one").mkdir()
    (tmp_path / ".staging-one" / "old").write_text("old")
    publisher = Publisher(str(tmp_path), ".staging-")
    publisher.add_tree("one", FileSet(FILES, {}, "last.json"), 0o700)
    publisher.commit()
    assert not (tmp_path / "one" / "old").exists()


def journal(monkeypatch: pytest.MonkeyPatch) -> List[Tuple[str, str]]:
    """Record renames and syncs in their order."""
    log: List[Tuple[str, str]] = []
    rename, fsync, sync = os.rename, os.fsync, sync_filesystem

    def renamed(source: str, target: str) -> None:
        log.append(("rename", os.path.basename(target)))
        rename(source, target)

    def fsynced(descriptor: int) -> None:
        log.append(("fsync", os.path.basename(os.readlink("/proc/self/fd/{0}".format(descriptor)))))
        fsync(descriptor)

    def synced(path: str) -> None:
        log.append(("sync", ""))
        sync(path)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(_publish, "sync_filesystem", synced)
    return log


def test_data_reaches_the_disk_before_names_and_the_last_file_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
    log = journal(monkeypatch)
    publisher = Publisher(str(tmp_path), ".staging-")
    publisher.add_tree("new", FileSet(FILES, {}, "last.json"), 0o700)
    publisher.change_tree("tree", FileSet(FILES, {}, "last.json"))
    assert log == []
    publisher.commit()
    assert log[0] == ("sync", ""), "nothing has a name before its data is on the disk"
    assert log[-1] == ("sync", ""), "acknowledged only when the names are on the disk"
    last = log.index(("rename", "last.json"))
    before = [entry for entry in log[:last] if entry[0] == "rename"]
    assert sorted(name for _kind, name in before) == ["a.txt", "b.txt", "new", "secret"]
    assert log[last - 1] == ("sync", ""), "all other names are on the disk before the one that makes it real"
    log.clear()
    publisher.commit()
    assert log == [], "a second commit has nothing to do"


def test_one_sync_for_many_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = journal(monkeypatch)
    publisher = Publisher(str(tmp_path), ".staging-")
    for number in range(20):
        publisher.add_tree("t{0}".format(number), FileSet(FILES, {}, "last.json"), 0o700)
    publisher.commit()
    assert len([entry for entry in log if entry[0] != "rename"]) == 2


def test_one_file_is_synced_renamed_and_its_directory_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("old")
    log = journal(monkeypatch)
    replace_file(str(tmp_path / "f"), b"new", 0o600)
    assert [kind for kind, _name in log] == ["fsync", "rename", "fsync"]
    assert log[1] == ("rename", "f") and log[2] == ("fsync", tmp_path.name)


def test_one_file_is_old_or_new_whenever_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "d" / "f"
    path.parent.mkdir()

    def work() -> None:
        replace_file(str(path), b"new" * 1000, 0o600)

    path.write_bytes(b"old")
    total = len(count_operations(work))
    assert total >= 4
    for number in range(1, total + 1):
        path.write_bytes(b"old")
        killed_at(number, work)
        assert path.read_bytes() in (b"old", b"new" * 1000)
        work()
        assert path.read_bytes() == b"new" * 1000
        assert os.listdir(path.parent) == ["f"]


def test_writers_of_one_file_do_not_break_each_other(tmp_path: Path) -> None:
    """cron's metrics, a backup and a module write the same textfile."""
    path = tmp_path / "f"
    failed: List[BaseException] = []

    def write(number: int) -> None:
        try:
            for _round in range(60):
                replace_file(str(path), str(number).encode() * 5000, 0o600)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert path.read_bytes() in [str(number).encode() * 5000 for number in range(4)]
    assert os.listdir(tmp_path) == ["f"]


def test_what_another_stages_stays_and_what_nobody_holds_goes(tmp_path: Path) -> None:
    words = (".0123456789abcdef", ".fedcba9876543210", "")
    held, left, old = (tmp_path / ("f" + word + ".multibase-new") for word in words)
    other = tmp_path / "f.json.0123456789abcdef.multibase-new"
    for one in (held, left, old, other):
        one.write_text("staged")
    with held.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        replace_file(str(tmp_path / "f"), b"new", 0o600)
        assert sorted(os.listdir(tmp_path)) == sorted(["f", held.name, other.name])


def test_a_changed_tree_is_old_or_new_file_by_file_and_new_after_a_second_run(tmp_path: Path) -> None:
    old = {name: (b"old", bits) for name, (_content, bits) in FILES.items()}

    def work() -> None:
        publisher = Publisher(str(tmp_path), ".staging-")
        publisher.change_tree("tree", FileSet(FILES, {}, "last.json"))
        publisher.commit()

    def reset() -> None:
        publisher = Publisher(str(tmp_path), ".staging-")
        publisher.change_tree("tree", FileSet(old, {}, "last.json"))
        publisher.commit()

    (tmp_path / "tree").mkdir()
    reset()
    for number in range(1, len(count_operations(work)) + 1):
        reset()
        killed_at(number, work)
        contents = {name: (tmp_path / "tree" / name).read_bytes() for name in FILES}
        assert all(content in (b"old", FILES[name][0]) for name, content in contents.items())
        if contents["last.json"] != b"old":
            assert contents == {name: content for name, (content, _mode) in FILES.items()}
        work()
        assert {path for path in snapshot(tmp_path / "tree") if "." in path or path == "secret"} == set(FILES)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, bytes(data)[:7]))
    write_new(str(tmp_path / "f"), b"0123456789" * 10, 0o600)
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 10


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(str(tmp_path / "f"), b"new", 0o600)
    assert (tmp_path / "f").read_bytes() == b"old"


def test_syncing_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    sync_filesystem(str(tmp_path))
    with pytest.raises(OSError):
        sync_filesystem(str(tmp_path / "missing"))
