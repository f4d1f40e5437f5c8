# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Images in files: what a bundle for hosts without a registry is made of, and how it gets into an Engine.

A bundle has one archive for each image, so that a host gets only what it lacks, and a manifest (a list of entries):
``file``, ``sha256`` and ``size`` of the archive; ``id``, ``content``, ``tags``, ``os``, ``architecture`` of the image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import zlib
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, cast

from ._errors import MultibaseError
from ._process import clean_environment

SUFFIXES = {"gzip": ".tar.gz", "zstd": ".tar.zst"}
_CHUNK = 1 << 20
# Level 6 takes twice the time of 3 for one byte in thirty less.
_GZIP_LEVEL = 3
_ANSWER_SECONDS = 120
# Parts of an image's configuration that decide what a container of it does.
_CONFIGURATION = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "StopSignal", "Labels")

Inspect = Callable[[str], Optional[Dict[str, Any]]]


def inspect(reference: str) -> Optional[Dict[str, Any]]:
    """Return what the Engine tells of an image, None when it has none of that name."""
    done = _docker("image", "inspect", reference)
    if done.returncode == 0:
        found: Dict[str, Any] = json.loads(done.stdout)[0]
        return found
    if "no such image" in done.stderr.lower():
        return None
    raise MultibaseError("docker image inspect {0}: {1}".format(reference, done.stderr.strip()))


def pull(reference: str, timeout: float) -> None:
    """Pull an image."""
    done = _docker("pull", "--quiet", reference, timeout=timeout)
    if done.returncode != 0:
        raise MultibaseError("docker pull {0}: {1}".format(reference, done.stderr.strip()))


def architecture() -> str:
    """Return the architecture that the Engine runs images of."""
    done = _docker("version", "--format", "{{.Server.Arch}}")
    if done.returncode != 0:
        raise MultibaseError("the Docker Engine does not answer: {0}".format(done.stderr.strip()))
    return done.stdout.strip()


def _docker(*words: str, timeout: float = _ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, env=clean_environment(),
            timeout=timeout, check=False, text=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise MultibaseError("there is no docker on this host; playbooks/site.yml installs it") from None
    except subprocess.TimeoutExpired:
        raise MultibaseError("docker {0} did not end within {1:.0f} s".format(" ".join(words), timeout)) from None


def content_of(found: Mapping[str, Any]) -> str:
    """Return a digest of what an image is, the same in every Engine.

    Its id is not: with containerd's image store it is the digest of the manifest, otherwise that of the configuration.
    """
    configuration = found.get("Config") or {}
    told = {
        "layers": (found.get("RootFS") or {}).get("Layers") or [],
        "os": found.get("Os"),
        "architecture": found.get("Architecture"),
        # Absent, null and empty mean the same, and which it is differs between releases of the Engine.
        "configuration": {key: configuration[key] for key in _CONFIGURATION if configuration.get(key)},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8")).hexdigest()


def normalised(reference: str) -> str:
    """Return a reference with its tag. Raises MultibaseError for one by digest, which no archive can carry."""
    if "@" in reference:
        raise MultibaseError("{0}: an archive carries tags, not digests; name it by its tag".format(reference))
    return reference if ":" in reference.rsplit("/", 1)[-1] else reference + ":latest"


def describe(references: Sequence[str], look: Inspect = inspect) -> List[Dict[str, Any]]:
    """Return one entry (without an archive yet) for each image that the references name, sorted by name.

    Raises MultibaseError that names all references which the Engine does not have.
    """
    entries: Dict[str, Dict[str, Any]] = {}
    missing = []
    for reference in sorted({normalised(text) for text in references}):
        found = look(reference)
        if found is None:
            missing.append(reference)
            continue
        entry = entries.setdefault(
            str(found["Id"]),
            {
                "id": str(found["Id"]),
                "content": content_of(found),
                "os": str(found.get("Os") or ""),
                "architecture": str(found.get("Architecture") or ""),
                "bytes": int(found.get("Size") or 0),
                "tags": [],
            },
        )
        entry["tags"].append(reference)
    if missing:
        raise MultibaseError("the Engine does not have {0}".format(", ".join(missing)))
    return sorted(entries.values(), key=lambda entry: str(entry["tags"][0]))


def archive_name(entry: Mapping[str, Any], compression: str) -> str:
    """Return the name of an image's archive: of its first tag, and of its content."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", entry["tags"][0].rsplit("/", 1)[-1])
    return "{0}-{1}{2}".format(stem, entry["content"][:12], SUFFIXES[compression])


def reusable(
    entry: Mapping[str, Any], known: Sequence[Mapping[str, Any]], compression: str
) -> Optional[Dict[str, Any]]:
    """Return the entry of a bundle that holds this very image with these tags, None when none does."""
    for other in known:
        if (
            other.get("content") == entry["content"]
            and other.get("tags") == entry["tags"]
            and str(other.get("file", "")).endswith(SUFFIXES[compression])
        ):
            return dict(other)
    return None


def save(entry: Mapping[str, Any], path: str, compression: str) -> Dict[str, Any]:
    """Write an image to an archive and return what the manifest says of it. It appears complete, or not at all."""
    staged = path + ".part"
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target:
            for piece in _compressed(entry["tags"], compression):
                digest.update(piece)
                size += len(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staged)
        raise
    return {"sha256": digest.hexdigest(), "size": size}


def _compressed(tags: Sequence[str], compression: str) -> Iterator[bytes]:
    with subprocess.Popen(
        ["docker", "save", *tags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:  # fmt: skip
        output = cast(BinaryIO, process.stdout)
        try:
            if compression == "zstd":
                yield from _through(["zstd", "--quiet", "-3", "--threads=0", "--stdout"], output)
            else:
                squeeze = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
                for piece in iter(lambda: output.read(_CHUNK), b""):
                    yield squeeze.compress(piece)
                yield squeeze.flush()
        except BaseException:
            process.kill()
            raise
        errors = cast(BinaryIO, process.stderr).read().decode("utf-8", "replace").strip()
    if process.returncode != 0:
        raise MultibaseError("docker save {0}: {1}".format(" ".join(tags), errors))


def _through(argv: Sequence[str], source: Any) -> Iterator[bytes]:
    """Yield what a program makes of a stream."""
    try:
        process = subprocess.Popen(list(argv), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise MultibaseError("there is no {0} on this host; install it, or use gzip".format(argv[0])) from None
    with process:
        output = cast(BinaryIO, process.stdout)
        yield from iter(lambda: output.read(_CHUNK), b"")
    if process.returncode != 0:
        raise MultibaseError("{0} ended with {1}".format(argv[0], process.returncode))


def checksum(path: str) -> str:
    """Return a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(piece)
    return digest.hexdigest()


def compare(
    manifest: Sequence[Mapping[str, Any]], look: Inspect = inspect
) -> Tuple[List[Dict[str, Any]], List[Dict[str, str]]]:
    """Return the entries that an Engine lacks, and the tags that stand for another image there (``tag``, ``id``)."""
    missing, elsewhere = [], []
    for entry in manifest:
        lacks = False
        for tag in entry["tags"]:
            found = look(tag)
            if found is None:
                lacks = True
            elif found["Id"] != entry["id"] and content_of(found) != entry["content"]:
                lacks = True
                elsewhere.append({"tag": str(tag), "id": str(found["Id"])})
        if lacks:
            missing.append(dict(entry))
    return missing, elsewhere


def load(entry: Mapping[str, Any], path: str, look: Inspect = inspect) -> None:
    """Load an image from its archive after checking it, and look whether the Engine has that very image then."""
    if os.path.getsize(path) != entry["size"] or checksum(path) != entry["sha256"]:
        raise MultibaseError("{0} is damaged: it is not what the manifest says; nothing was loaded".format(path))
    with open(path, "rb") as stream, subprocess.Popen(
        ["docker", "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:  # fmt: skip
        source = cast(BinaryIO, process.stdin)
        try:
            with contextlib.suppress(BrokenPipeError):  # what docker says, below, tells why it ended
                for piece in _expanded(stream, path):
                    source.write(piece)
                source.close()
        except BaseException:
            process.kill()
            raise
        errors = cast(BinaryIO, process.stderr).read().decode("utf-8", "replace").strip()
    if process.returncode != 0:
        raise MultibaseError("docker load of {0}: {1}".format(path, errors))
    missing, elsewhere = compare([entry], look)
    if missing or elsewhere:
        raise MultibaseError("{0} was loaded, but its tags stand for another image than the manifest says".format(path))


def _expanded(stream: Any, path: str) -> Iterator[bytes]:
    if path.endswith(SUFFIXES["zstd"]):
        yield from _through(["zstd", "--quiet", "--decompress", "--stdout"], stream)
        return
    expand = zlib.decompressobj(31)
    for piece in iter(lambda: stream.read(_CHUNK), b""):
        yield expand.decompress(piece)
    yield expand.flush()
