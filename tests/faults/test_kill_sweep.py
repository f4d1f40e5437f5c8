# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed by SIGKILL at any step: what is there is whole, and the next run finishes or leaves nothing.

`make test-long` tries every point, `make test` the first and last ten, every rename and a share of the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Sequence

import pytest

from faults.cases import CASES, UNUSED, Trial, facts, summary, tried, unfinished
from faults.steps import Point, Step, chosen, killed_at, points, recorded
from unit.support import converge, env_of, item

# Kill points that a case has at least; fewer would mean that steps are no longer seen.
_LEAST = {
    "create three": 700,
    "change": 50,
    "change back": 40,
    "keys on again": 30,
    "delete one": 100,
    "create, change and delete": 350,
    "lost registry": 10,
}
_MIXED = "create, change and delete"


def worded(point: Point, steps: Sequence[Step], root: Path) -> str:
    return "killed {0} step {1} of {2} ({3})".format(
        {"half": "halfway in"}.get(point.moment, point.moment),
        point.number + 1,
        len(steps),
        steps[point.number].shown(root),
    )


@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_step(name: str, fast_path: Path, most_points: int, record_property: Any) -> None:
    trial = Trial(CASES[name], fast_path)
    steps = recorded(trial.root, trial.work)
    trial.check("not killed")
    every = points(steps)
    assert len(every) >= _LEAST[name]
    some = chosen(every, steps, most_points)
    failed: List[str] = []
    for point in some:
        trial.reset()
        killed_at(trial.root, point, trial.work)
        failed += tried(lambda point=point: trial.check(worded(point, steps, trial.root)))
    record_property("kill points, " + name, (len(some), len(every)))
    assert not failed, summary(failed, len(some))


def test_killed_again_while_finishing(fast_path: Path, most_points: int, record_property: Any) -> None:
    trial = Trial(CASES[_MIXED], fast_path)
    steps = recorded(trial.root, trial.work)
    renames = [Point(number, "after") for number, step in enumerate(steps) if step.call == "rename"]
    failed: List[str] = []
    count = 0
    for first in renames:
        trial.reset()
        killed_at(trial.root, first, trial.work)
        rest = recorded(trial.root, trial.work)
        every = points(rest)
        for second in every[:: max(1, len(every) * len(renames) // most_points)]:
            trial.reset()
            killed_at(trial.root, first, trial.work)
            killed_at(trial.root, second, trial.work)
            where = "{0}, then {1}".format(worded(first, steps, trial.root), worded(second, rest, trial.root))
            failed += tried(lambda where=where: trial.check(where))
            count += 1
    assert count >= 30
    record_property("kill points, twice", (count, count))
    assert not failed, summary(failed, count)


def _killed_and_checked(trial: Trial, most: int, check: Callable[[Trial, str], None]) -> None:
    steps = recorded(trial.root, trial.work)
    failed: List[str] = []
    some = chosen(points(steps), steps, most)
    for point in some:
        trial.reset()
        killed_at(trial.root, point, trial.work)
        failed += tried(lambda point=point: check(trial, worded(point, steps, trial.root)))
    assert not failed, summary(failed, len(some))


@pytest.mark.parametrize("name", ["change", "change back"])
def test_the_next_run_declares_what_was_before(name: str, fast_path: Path, most_points: int) -> None:
    trial = Trial(CASES[name], fast_path)
    _killed_and_checked(trial, most_points // 2, _check_back)


def _check_back(trial: Trial, where: str) -> None:
    trial.go_back()
    names = {name: set(env_of(trial.before_path, name)) for name in trial.before}
    assert unfinished(trial.root) == [], where
    now = facts(trial.root)
    for name, entry in trial.before.items():
        # Keys that were made by then stay, unused.
        assert now[name][:3] == entry[:3] and entry.secrets.items() <= now[name].secrets.items(), where
        left = {key for key in env_of(trial.root, name) if not key.startswith(UNUSED)} - names[name]
        assert left == set(), "{0}: {1} still has {2}".format(where, name, ", ".join(sorted(left)))
    assert not any(result.changed for result in trial.go_back()), where


def test_a_run_for_another_instance_comes_first(fast_path: Path, most_points: int) -> None:
    """What was interrupted stays as it is, or is cleared away; it is in nobody's way."""
    trial = Trial(CASES[_MIXED], fast_path)
    _killed_and_checked(trial, most_points // 2, _check_another)


def _check_another(trial: Trial, where: str) -> None:
    root = trial.root
    before = facts(root)
    assert converge(root, item("delta"), lock_timeout=0)[0].actions == ["created"], where
    found = facts(root)
    assert {name: found[name] for name in before} == before, where
    assert found["delta"].port_base not in {entry.port_base for entry in before.values()}, where
    # Temporary files of an instance go with its own next run.
    assert [path for path in unfinished(root) if not path.startswith("projects/acme/")] == [], where
    trial.work()
    assert unfinished(root) == [] and not any(result.changed for result in trial.work()), where
    assert facts(root)["delta"] == found["delta"], where
