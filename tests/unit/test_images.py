# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles of images: what an image is, what a host lacks, and archives that a stand-in for docker writes and reads."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.filter.stack_images import stack_images
from ansible_collections.multibase.supabase.plugins.module_utils import _images
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from unit.support import TEMPLATES

# Keeps "images" as files: tag -> what inspect tells. save prints the tags' files, load takes one back.
DOCKER = r"""#!/usr/bin/env python3
import json, os, sys
store = os.environ["DOCKER_FAKE_STORE"]
def path(tag): return os.path.join(store, tag.replace("/", "_"))
words = sys.argv[1:]
if words[:2] == ["image", "inspect"]:
    if not os.path.exists(path(words[2])):
        sys.exit("Error: No such image: " + words[2])
    print(json.dumps([json.load(open(path(words[2])))]))
elif words[0] == "save":
    if os.path.exists(os.path.join(store, "broken")):
        sys.stdout.write("half"); sys.stdout.flush(); sys.exit("write error")
    json.dump({tag: json.load(open(path(tag))) for tag in words[1:]}, sys.stdout)
elif words[0] == "load":
    for tag, image in json.load(sys.stdin).items():
        json.dump(image, open(path(tag), "w"))
"""


def image(number: int, **more: Any) -> Dict[str, Any]:
    """What docker tells of an image."""
    return {
        "Id": "sha256:{0:064x}".format(number), "Os": "linux", "Architecture": "amd64", "Size": 10,
        "RootFS": {"Layers": ["layer {0}".format(number)]}, "Config": {"Cmd": ["run"], "Entrypoint": None}, **more,
    }  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images of an Engine: one file for each tag."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)
    made = tmp_path / "store"
    made.mkdir()
    monkeypatch.setenv("PATH", "{0}:{1}".format(program.parent, os.environ["PATH"]))
    monkeypatch.setenv("DOCKER_FAKE_STORE", str(made))
    return made


def put(store: Path, tag: str, number: int) -> None:
    (store / tag.replace("/", "_")).write_text(json.dumps(image(number)))


def described(store: Path, *tags: str) -> List[Dict[str, Any]]:
    for number, tag in enumerate(tags, start=1):
        put(store, tag, number)
    return _images.describe(tags)


def saved(store: Path, directory: Path, compression: str = "gzip") -> Dict[str, Any]:
    """One image in an archive, as the manifest names it."""
    (entry,) = described(store, "r.example/a:1")
    entry["file"] = _images.archive_name(entry, compression)
    return {**entry, **_images.save(entry, str(directory / entry["file"]), compression)}


def test_content_is_the_same_in_every_engine() -> None:
    one = image(1)
    other = image(1, Id="sha256:" + "f" * 64, Size=99, Config={"Cmd": ["run"], "Env": [], "Labels": {}})
    assert _images.content_of(one) == _images.content_of(other)
    assert _images.content_of(one) != _images.content_of(image(1, Config={"Cmd": ["other"]}))
    assert _images.content_of(one) != _images.content_of(image(1, Architecture="arm64"))
    assert _images.content_of(one) != _images.content_of(image(2))


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a", "a:latest"), ("a:1", "a:1"), ("h:5000/a", "h:5000/a:latest"), ("h:5000/b/a:1", "h:5000/b/a:1")],
)
def test_references_have_a_tag(given: str, expected: str) -> None:
    assert _images.normalised(given) == expected


def test_a_digest_is_refused() -> None:
    with pytest.raises(MultibaseError, match="tags, not digests"):
        _images.normalised("a@sha256:" + "0" * 64)


def test_tags_of_one_image_are_one_entry_and_all_missing_are_named(store: Path) -> None:
    put(store, "r.example/a:1", 1)
    put(store, "r.example/b:1", 1)
    put(store, "r.example/c:1", 2)
    entries = _images.describe(["r.example/c:1", "r.example/b:1", "r.example/a:1"])
    assert [entry["tags"] for entry in entries] == [["r.example/a:1", "r.example/b:1"], ["r.example/c:1"]]
    with pytest.raises(MultibaseError, match="x:1, y:latest"):
        _images.describe(["y", "x:1", "r.example/a:1"])


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_an_archive_comes_back(store: Path, tmp_path: Path, compression: str) -> None:
    if compression == "zstd" and not shutil.which("zstd"):
        pytest.skip("no zstd on this machine")
    entry = saved(store, tmp_path, compression)
    archive = tmp_path / entry["file"]
    assert archive.stat().st_mode & 0o777 == 0o600 and archive.stat().st_size == entry["size"]
    if compression == "gzip":
        assert json.loads(gzip.decompress(archive.read_bytes())) == {"r.example/a:1": image(1)}
    assert _images.compare([entry]) == ([], [])
    (store / "r.example_a:1").unlink()
    assert _images.compare([entry]) == ([entry], [])
    _images.load(entry, str(archive))
    assert _images.compare([entry]) == ([], [])


@pytest.mark.parametrize("harm", ["flipped", "cut", "longer"])
def test_a_damaged_archive_is_never_loaded(store: Path, tmp_path: Path, harm: str) -> None:
    entry = saved(store, tmp_path)
    archive = tmp_path / entry["file"]
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= harm == "flipped"
    archive.write_bytes(content[:-1] if harm == "cut" else content + b"x" * (harm == "longer"))
    (store / "r.example_a:1").unlink()
    with pytest.raises(MultibaseError, match="nothing was loaded"):
        _images.load(entry, str(archive))
    assert not (store / "r.example_a:1").exists()


def test_an_archive_with_another_image_is_found_out(store: Path, tmp_path: Path) -> None:
    entry = saved(store, tmp_path)
    put(store, "r.example/a:1", 7)
    other = dict(entry, **_images.save(entry, str(tmp_path / "other.tar.gz"), "gzip"))
    (store / "r.example_a:1").unlink()
    with pytest.raises(MultibaseError, match="another image than the manifest says"):
        _images.load(other, str(tmp_path / "other.tar.gz"))


def test_a_tag_of_another_image_is_told(store: Path, tmp_path: Path) -> None:
    entry = saved(store, tmp_path)
    put(store, "r.example/a:1", 7)
    missing, elsewhere = _images.compare([entry])
    assert missing == [entry] and elsewhere == [{"tag": "r.example/a:1", "id": image(7)["Id"]}]


def test_a_broken_save_leaves_nothing(store: Path, tmp_path: Path) -> None:
    (entry,) = described(store, "r.example/a:1")
    (store / "broken").touch()
    with pytest.raises(MultibaseError, match="write error"):
        _images.save(entry, str(tmp_path / "a.tar.gz"), "gzip")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("a.tar")]


def test_what_a_bundle_has_is_not_written_again(store: Path, tmp_path: Path) -> None:
    entry = saved(store, tmp_path)
    (found,) = _images.describe(["r.example/a:1"])
    known: Optional[Dict[str, Any]] = _images.reusable(found, [entry], "gzip")
    assert known == entry
    assert _images.reusable(found, [entry], "zstd") is None
    assert _images.reusable({**found, "tags": ["other:1"]}, [entry], "gzip") is None
    put(store, "r.example/a:1", 7)
    assert _images.reusable(_images.describe(["r.example/a:1"])[0], [entry], "gzip") is None


def images_of(*instances: Dict[str, Any], **more: Any) -> List[str]:
    return stack_images(list(instances), template_root=str(TEMPLATES), **more)


def test_images_of_declared_instances() -> None:
    off = {"services": {"studio": False, "imgproxy": False, "supavisor": False}}
    plain = images_of({"name": "acme"})
    assert len(plain) == 11 and any(name.startswith("supabase/studio:") for name in plain)
    less = images_of({"name": "acme", **off})
    assert set(less) < set(plain) and len(less) == 8
    under = images_of(
        {"name": "acme", "blueprint": "api"}, {"name": "old", "state": "absent"},
        defaults={"image_registry": "r.example:5000"}, blueprints={"api": off},
    )  # fmt: skip
    assert len(under) == 8 and all(name.startswith("r.example:5000/") for name in under)
    assert any("kong" in name for name in images_of({"name": "acme", "gateway": "kong"}))
    assert images_of() == []


def test_mistakes_in_declarations_are_told() -> None:
    with pytest.raises(AnsibleFilterError, match=r"nosuch(.|\n)*unknown release"):
        images_of({"name": "acme", "nosuch": 1}, {"name": "beta", "release": "9.9"})
