# SPDX-License-Identifier: GPL-3.0-or-later
"""The power goes at any step: what ``disk`` says may be lost is lost, and the same holds as after a kill.

Every state that the model knows is made and checked in `make test-long`. `make test` takes all those that differ by
what was renamed, removed or synced, up to a number, and a share of the others (directories that are being filled).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, List

import pytest

from faults.cases import CASES, Trial, summary, tried
from faults.disk import Image, cuts, pending
from faults.steps import Step, recorded


def hidden(path: str) -> bool:
    """Whether nobody looks there: in what is staged or being removed, or at a lock."""
    parts = path.split("/")
    return (
        path.endswith(".multibase-new")
        or "locks" in parts
        or any(part.startswith((".staging-", ".deleting-")) for part in parts)
    )


def publishing(steps: List[Step]) -> List[int]:
    """Return the numbers of the renames that show something to others."""
    return [number for number, step in enumerate(steps) if step.call == "rename" and not hidden(step.target)]


@pytest.mark.parametrize("name", CASES)
def test_content_is_on_the_disk_before_its_name(name: str, fast_path: Path) -> None:
    trial = Trial(CASES[name], fast_path)
    steps = recorded(trial.root, trial.work)
    renames = publishing(steps)
    assert renames or name == "delete one"
    for number in renames:
        source = steps[number].path
        late = [
            steps[earlier].shown(trial.root)
            for earlier in pending(steps, number)
            # What names a file is brought to the disk with the rename.
            if steps[earlier].path.startswith(source + "/")
            or (steps[earlier].path == source and steps[earlier].call in ("write", "chmod"))
        ]
        assert late == [], "{0}, but not on the disk: {1}".format(steps[number].shown(trial.root), ", ".join(late))


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_comes_last(name: str, fast_path: Path) -> None:
    trial = Trial(CASES[name], fast_path)
    steps = recorded(trial.root, trial.work)
    manifests = {
        os.path.dirname(steps[number].target): number
        for number in publishing(steps)
        if os.path.basename(steps[number].target) == "instance.json"
    }
    for directory, number in manifests.items():
        late = [steps[earlier] for earlier in pending(steps, number)]
        late += [step for step in steps[number + 1 :] if step.done]
        shown = [
            step.shown(trial.root)
            for step in late
            if step.path.startswith(directory + "/") and step.call not in ("syncfs", "fsync")
        ]
        assert shown == [], "not on the disk when the manifest got its name: {0}".format(", ".join(shown))


@pytest.mark.parametrize("name", CASES)
def test_what_a_run_did_is_on_the_disk_when_it_ends(name: str, fast_path: Path) -> None:
    trial = Trial(CASES[name], fast_path)
    steps = recorded(trial.root, trial.work)
    late = [steps[number].shown(trial.root) for number in pending(steps, len(steps))]
    assert [words for words in late if not hidden(words.split(" ")[-1])] == []


@pytest.mark.parametrize("name", CASES)
def test_the_power_goes_at_any_step(name: str, fast_path: Path, most_points: int, record_property: Any) -> None:
    trial = Trial(CASES[name], fast_path)
    start = Image(trial.root)
    steps = recorded(trial.root, trial.work)
    every = list(cuts(start, steps))
    telling = [cut for cut in every if cut.telling]
    others = [cut for cut in every if not cut.telling]
    some = [
        *telling[:: max(1, -(-len(telling) // most_points))],
        *others[:: max(1, -(-len(others) * 4 // most_points))],
    ]
    failed: List[str] = []
    for cut in some:
        cut.image.write_to(trial.root)
        step = steps[cut.after - 1].shown(trial.root) if cut.after else "nothing"
        where = "power cut after step {0} of {1} ({2}), on the disk: {3}".format(cut.after, len(steps), step, cut.left)
        failed += tried(lambda where=where: trial.check(where, ordered=False))
    record_property("power cuts, " + name, (len(some), len(every)))
    assert not failed, summary(failed, len(some))


def test_the_model_loses_what_was_not_synced(fast_path: Path) -> None:
    """Written to a name without a sync, a file may be there and empty: a model that keeps it would prove nothing."""
    root = fast_path / "root"
    root.mkdir()
    start = Image(root)

    def work() -> None:
        descriptor = os.open(root / "new", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, b"content")
        os.close(descriptor)
        os.rename(root / "new", root / "file")
        directory = os.open(root, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    found = set()
    for cut in cuts(start, recorded(root, work)):
        cut.image.write_to(root)
        found.add(tuple(sorted((path.name, path.read_bytes()) for path in root.iterdir())))
    assert found == {(), (("new", b""),), (("file", b""),)}
