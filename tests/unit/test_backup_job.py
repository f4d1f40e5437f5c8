# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of backups, what monitoring reads, what pruning may delete, and the host's own tool."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple
from unittest import mock

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import (
    _backup,
    _backup_job,
    _backup_state,
    _catalogue,
    _copies,
    _errors,
    _lock,
    _offsite,
    _restore_journal,
    _retention,
    _schedule,
    _tool,
)
from ansible_collections.multibase.supabase.plugins.module_utils._backup import Options, Taken
from ansible_collections.multibase.supabase.plugins.module_utils._errors import (
    BackupFailed,
    IntegrityFailed,
    InvalidInput,
    LockTimeout,
    MultibaseError,
    UnknownInstance,
    VerificationFailed,
)
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout

DAY = 86400
# 2026-11-25 12:00:00 UTC
NOW = 1795608000.0
POLICY = _retention.Policy(keep_last=2)


def instance(layout: Layout, name: str) -> None:
    path = Path(layout.manifest(name))
    path.parent.mkdir(parents=True)
    path.write_text("{}")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(str(tmp_path))
    instance(found, "acme")
    return found


def backup(layout: Layout, at: float, verified: bool = True, **more: Any) -> str:
    """Publish a backup of one part and return its stem."""
    stem = _catalogue.make_stem(at)
    directory = Path(layout.backups("acme"))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (stem + ".sql.gz" + _catalogue.PARTIAL)
    path.write_bytes(b"data")
    parts = {stem + ".sql.gz": {"part": "postgres", "size": 4, "sha256": _catalogue.file_sha256(str(path))}}
    manifest = {"schema": 1, "stem": stem, "instance": "acme", "parts": parts, **more}
    manifest.setdefault("verified", {"at": "x"} if verified else None)
    _catalogue.publish(layout, str(directory), manifest)
    return stem


class Run:
    """Stands in for a backup run: takes a backup by itself, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Optional[BaseException] = None
        self.verified = True
        self.exit_code = 0
        self.taken: List[Tuple[str, Options]] = []
        monkeypatch.setattr(_backup, "BackupRun", self._make)

    def _make(
        self, layout: Layout, _engine: Any, _compose: Any, _host: str, options: Options, _say: Any, clock: Any
    ) -> Any:
        def take(name: str) -> Taken:
            self.taken.append((name, options))
            if self.error is not None:
                raise self.error
            stem = backup(layout, clock(), self.verified)
            reason = "no file" if self.exit_code else ""
            return Taken(
                name, stem=stem, size=4, verified=self.verified, exit_code=self.exit_code, reason=reason
            )

        return mock.Mock(take=take)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def host(layout: Layout, clock: Callable[[], float] = lambda: NOW) -> _backup_job.Host:
    return _backup_job.Host(layout, mock.Mock(), mock.Mock(), "unix:///nothing", clock=clock)


def settings(layout: Layout, since: float = NOW - 100 * DAY, **known: Any) -> None:
    path = Path(layout.state, _backup_state.SETTINGS_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known))
    _backup_job.note_schedules(layout, since)


def metrics_of(layout: Layout) -> Dict[Tuple[str, str], float]:
    return exposition(Path(layout.root, _backup_job.METRICS_FILE).read_text())


def exposition(text: str) -> Dict[Tuple[str, str], float]:
    """Read the text format of Prometheus strictly; metrics with one label only."""
    assert text.endswith("\n")
    found: Dict[Tuple[str, str], float] = {}
    helped, typed, current = set(), set(), ""
    for line in text[:-1].split("\n"):
        comment = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)", line)
        if comment:
            kind, current, rest = comment.groups()
            seen = helped if kind == "HELP" else typed
            assert current not in seen, "a second {0}".format(line)
            seen.add(current)
            assert kind == "HELP" or rest in ("gauge", "counter", "untyped")
            assert "\\" not in re.sub(r"\\[\\n]", "", rest)
            continue
        # The label of a target is told behind the name of the instance.
        line = re.sub(r'",target="([a-z0-9_-]+)"}', r' on \1"}', line)
        sample = re.fullmatch(
            r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{instance_name=\"((?:[^\"\\\n]|\\[\\\"n])*)\"\} "
            r"([+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|Inf|NaN))",
            line,
        )
        assert sample, line
        assert sample.group(1) == current and current in typed, "samples stand below their TYPE"
        assert sample.groups()[:2] not in found, "a second sample"
        found[(sample.group(1), sample.group(2))] = float(sample.group(3))
    assert helped == typed
    return found


# State


def test_a_success_is_remembered(layout: Layout, runs: Run) -> None:
    taken = _backup_job.run(host(layout), "acme", Options(), None)
    state = _backup_job.read_state(layout, "acme")
    assert (state["last_success"], state["last_attempt"], state["exit_code"], state["reason"]) == (NOW, NOW, 0, "")
    assert (state["failures"], state["stem"], state["size"]) == (0, taken.stem, 4)
    assert state["last_verified"] == _catalogue.stem_time(taken.stem)
    assert metrics_of(layout)[("multibase_backup_last_success_timestamp_seconds", "acme")] == NOW


def test_one_that_was_not_verified_leaves_the_last_verified(layout: Layout, runs: Run) -> None:
    _backup_job.run(host(layout), "acme", Options(), None)
    runs.verified = False
    _backup_job.run(host(layout, lambda: NOW + DAY), "acme", Options(verify=False), None)
    state = _backup_job.read_state(layout, "acme")
    assert (state["last_success"], state["last_verified"]) == (NOW + DAY, NOW)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackupFailed("broken"), 13), (VerificationFailed("other"), 16), (OSError(errno.EIO, "bad disk"), 1),
        (OSError(errno.ENOSPC, "full"), 14),
    ],
)  # fmt: skip
def test_failures_are_counted_until_one_succeeds(layout: Layout, runs: Run, error: Exception, code: int) -> None:
    _backup_job.run(host(layout), "acme", Options(), None)
    runs.error = error
    for number in (1, 2, 3):
        with pytest.raises(type(error)):
            _backup_job.run(host(layout, lambda number=number: NOW + number * DAY), "acme", Options(), POLICY)
        state = _backup_job.read_state(layout, "acme")
        assert (state["failures"], state["last_attempt"]) == (number, NOW + number * DAY)
        assert state["last_success"] == NOW and state["reason"]
        assert metrics_of(layout)[("multibase_backup_last_exit_code", "acme")] == state["exit_code"] == code
    runs.error = None
    _backup_job.run(host(layout, lambda: NOW + 4 * DAY), "acme", Options(), None)
    state = _backup_job.read_state(layout, "acme")
    assert (state["failures"], state["exit_code"], state["reason"]) == (0, 0, "")


def test_a_lock_that_another_holds_is_no_failure(layout: Layout, runs: Run) -> None:
    runs.error = LockTimeout("another run")
    with pytest.raises(LockTimeout):
        _backup_job.run(host(layout), "acme", Options(), None)
    assert _backup_job.read_state(layout, "acme") == {}


def test_an_instance_that_is_not_there_leaves_no_state(layout: Layout, runs: Run) -> None:
    runs.error = UnknownInstance("no such instance")
    with pytest.raises(UnknownInstance):
        _backup_job.run(host(layout), "other", Options(), None)
    assert not os.path.exists(layout.backup_state("other"))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"schema": 99, "failures": 7}'])
def test_a_damaged_state_is_none(layout: Layout, runs: Run, text: str) -> None:
    path = Path(layout.backup_state("acme"))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert _backup_job.read_state(layout, "acme") == {}
    _backup_job.run(host(layout), "acme", Options(), None)
    assert _backup_job.read_state(layout, "acme")["exit_code"] == 0


def test_a_backup_that_cannot_prune_is_a_success_for_monitoring(
    layout: Layout, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruning takes the lock anew; whoever came first then does not make the backup none."""
    monkeypatch.setattr(_backup_job, "prune", mock.Mock(side_effect=LockTimeout("another run")))
    with contextlib.suppress(MultibaseError):
        _backup_job.run(host(layout), "acme", Options(), POLICY)
    assert metrics_of(layout)[("multibase_backup_last_success_timestamp_seconds", "acme")] == NOW


# Copies


class Away:
    """Stands in for targets: remembers what was sent, and fails where told to."""

    def __init__(self, layout: Layout, monkeypatch: pytest.MonkeyPatch, names: List[str]) -> None:
        self.sent: List[Tuple[str, str]] = []
        self.broken: Dict[str, Exception] = {}
        targets = [_copies.Destination(_offsite.Target(name, "restic", {})) for name in names]
        monkeypatch.setattr(_copies, "destinations", lambda _layout: targets)
        monkeypatch.setattr(_copies, "send", self._send)
        self.targets = {to.target.name: to for to in targets}

    def _send(self, _layout: Layout, to: Any, found: Any, _timeout: float) -> _copies.Copied:
        error = self.broken.get(to.target.name) or self.broken.get(found.stem)
        if error is not None:
            raise error
        self.sent.append((to.target.name, found.stem))
        return _copies.Copied(to.target.name, found.stem)


@pytest.fixture
def away(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Away:
    return Away(layout, monkeypatch, ["near", "far"])


def test_a_copy_that_failed_is_remembered_and_made_up_for(layout: Layout, runs: Run, away: Away) -> None:
    away.broken["far"] = _offsite.OffsiteFailed("far: no route")
    stems = []
    for day in (0, 1):
        with pytest.raises(_offsite.OffsiteFailed):
            _backup_job.run(host(layout, lambda day=day: NOW + day * DAY), "acme", Options(), None)
        stems.append(_catalogue.stems(layout.backups("acme"))[-1])
        state = _backup_job.read_state(layout, "acme")
        assert (state["exit_code"], state["reason"], state["failures"]) == (17, "far: no route", 0)
        assert state["last_success"] == NOW + day * DAY and state["offsite"]["far"]["missing"] == stems
    assert _backup_state.describe(layout, ["acme"], NOW)[0]["exit_code"] == 17
    told = metrics_of(layout)
    assert told[("multibase_backup_last_exit_code", "acme")] == 17
    assert told[("multibase_backup_offsite_last_success_timestamp_seconds", "acme on near")] == NOW + DAY
    assert ("multibase_backup_offsite_last_success_timestamp_seconds", "acme on far") not in told
    assert told[("multibase_backup_offsite_missing", "acme on far")] == 2
    away.broken.clear()
    away.sent.clear()
    taken = _backup_job.run(host(layout, lambda: NOW + 2 * DAY), "acme", Options(), None)
    assert away.sent == [("near", taken.stem), ("far", taken.stem), ("far", stems[1]), ("far", stems[0])]
    assert sorted(taken.copied) == ["far", "near"] and "later than it was taken" in "".join(taken.notes)
    state = _backup_job.read_state(layout, "acme")
    assert (state["exit_code"], state["reason"], state["offsite"]["far"]["missing"]) == (0, "", [])
    told = metrics_of(layout)
    assert told[("multibase_backup_offsite_last_success_timestamp_seconds", "acme on far")] == NOW + 2 * DAY


def test_one_that_can_never_be_copied_does_not_keep_the_newest_here(layout: Layout, runs: Run, away: Away) -> None:
    away.broken["far"] = _offsite.OffsiteFailed("far: no route")
    with pytest.raises(_offsite.OffsiteFailed):
        _backup_job.run(host(layout), "acme", Options(), None)
    (damaged,) = _catalogue.stems(layout.backups("acme"))
    away.broken = {damaged: IntegrityFailed("another SHA-256")}
    with pytest.raises(IntegrityFailed):
        _backup_job.run(host(layout, lambda: NOW + DAY), "acme", Options(), None)
    newest = _catalogue.stems(layout.backups("acme"))[-1]
    assert ("far", newest) in away.sent
    state = _backup_job.read_state(layout, "acme")
    assert state["exit_code"] == 17 and state["offsite"]["far"]["missing"] == []
    _backup_job.run(host(layout, lambda: NOW + 2 * DAY), "acme", Options(), None)
    assert _backup_job.read_state(layout, "acme")["exit_code"] == 0


def test_what_was_sent_by_hand_is_no_longer_missing(layout: Layout, runs: Run, away: Away) -> None:
    away.broken["far"] = _offsite.OffsiteFailed("far: no route")
    with pytest.raises(_offsite.OffsiteFailed):
        _backup_job.run(host(layout), "acme", Options(), None)
    away.broken.clear()
    _backup_job.send(host(layout), "acme", "latest", away.targets["far"], 1)
    state = _backup_job.read_state(layout, "acme")
    assert (state["exit_code"], state["reason"], state["offsite"]["far"]["missing"]) == (0, "", [])


def test_targets_that_cannot_be_read_are_remembered(layout: Layout, runs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    error = _errors.StateCorrupt("others can read it")
    monkeypatch.setattr(_copies, "destinations", mock.Mock(side_effect=error))
    with pytest.raises(_errors.StateCorrupt):
        _backup_job.run(host(layout), "acme", Options(), None)
    assert _backup_job.read_state(layout, "acme")["exit_code"] == 17


@pytest.mark.parametrize(("code", "prunes"), [(0, True), (3, True), (17, True), (13, False), (16, False), (143, False)])
def test_which_ends_stop_pruning(layout: Layout, code: int, prunes: bool) -> None:
    for number in range(5):
        backup(layout, NOW - number * DAY)
    _backup_state.write_state(layout, "acme", {"exit_code": code})
    assert bool(_backup_job.prune(host(layout), "acme", POLICY, 1).remove) is prunes


@pytest.mark.parametrize(("error", "code"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130)])
def test_a_run_that_was_ended_by_a_signal_is_a_failure(
    layout: Layout, runs: Run, error: BaseException, code: int
) -> None:
    runs.error = error
    with pytest.raises(type(error)):
        _backup_job.run(host(layout), "acme", Options(), None)
    state = _backup_job.read_state(layout, "acme")
    assert (state["exit_code"], state["failures"], state["last_attempt"]) == (code, 1, NOW)


def test_a_backup_without_files_of_storage_ends_with_3(layout: Layout, runs: Run) -> None:
    runs.exit_code = 3
    settings(layout, acme={})
    assert tool(layout, "backup", "acme") == 3
    state = _backup_job.read_state(layout, "acme")
    assert (state["exit_code"], state["reason"], state["failures"]) == (3, "no file", 0)


# Many writers


def test_what_others_write_meanwhile_is_kept(layout: Layout, runs: Run) -> None:
    """A run lasts for hours; others verify and send while it does."""
    real = runs._make

    def take(*arguments: Any) -> Any:
        def body(name: str) -> Taken:
            _backup_job.update_state(layout, name, lambda state: {**state, "offsite": {"far": {}}})
            return real(*arguments).take(name)

        return mock.Mock(take=body)

    with mock.patch.object(_backup, "BackupRun", take):
        _backup_job.run(host(layout), "acme", Options(), None)
    state = json.loads(Path(layout.backup_state("acme")).read_text())
    assert state["last_success"] == NOW and state["offsite"] == {"far": {}}


def test_changes_of_the_state_wait_for_each_other(layout: Layout) -> None:
    def count() -> None:
        for _time in range(30):
            _backup_job.update_state(layout, "acme", lambda state: {**state, "count": state.get("count", 0) + 1})

    threads = [threading.Thread(target=count) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _backup_job.read_state(layout, "acme")["count"] == 120


def test_metrics_that_cannot_be_written_are_a_note(
    layout: Layout, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backup_job, "write_metrics", mock.Mock(side_effect=OSError(errno.EROFS, "read-only")))
    taken = _backup_job.run(host(layout), "acme", Options(), None)
    assert "metrics were not written: " in "".join(taken.notes)
    runs.error = BackupFailed("broken")
    with pytest.raises(BackupFailed):
        _backup_job.run(host(layout), "acme", Options(), None)


def test_metrics_are_readable_whatever_the_umask(layout: Layout) -> None:
    assert tool(layout, "metrics") == 0
    directory = Path(layout.root, _backup_job.METRICS_FILE).parent
    assert directory.stat().st_mode & 0o777 == 0o755
    directory.chmod(0o700)
    assert tool(layout, "metrics") == 0
    assert directory.stat().st_mode & 0o777 == 0o755, "an earlier version made it so"
    assert Path(layout.root, _backup_job.METRICS_FILE).stat().st_mode & 0o777 == 0o644


# Pruning


def test_a_backup_that_lacks_a_file_is_not_counted_as_verified(layout: Layout) -> None:
    """Of three verified ones the two newest have lost their files: the third is the only one that restores."""
    made = [backup(layout, NOW - number * DAY) for number in range(5)]
    for stem in made[:4]:
        os.unlink(os.path.join(layout.backups("acme"), stem + ".sql.gz"))
    plan = _backup_job.prune(host(layout), "acme", POLICY, 1)
    assert plan.refused and "only 1 of at least 2" in plan.refused and plan.remove == []
    assert "files are missing or have another size: " + made[3] in "".join(plan.notes)


def kept(layout: Layout, until: float) -> Path:
    """Data that a restore kept beside the new, and its journal."""
    old = Path(layout.project("acme"), "volumes", "db", ".restore-x-old-data")
    old.mkdir(parents=True)
    exchange = _restore_journal.Exchange(str(old.parent / "data"), str(old.parent / "new"), str(old))
    journal = _restore_journal.Journal("acme", "x", "done", [exchange], kept_until=until)
    _restore_journal.write(layout, journal, "done")
    return old


@pytest.mark.parametrize(
    ("nights", "state", "now", "goes"),
    [
        ([], {}, NOW, True),
        ([0, 1, 2], {}, NOW, True),
        ([0, 1, 2], {"exit_code": 17}, NOW, True),
        ([0, 1, 2], {"exit_code": 13}, NOW, False),
        ([0, 1, 2], {}, NOW - 4000, False),  # a backup from the future
        ([0, 100, 101, 102], {}, NOW, False),  # a jump of the clock
        ([0, 1, 2], {}, NOW + 500 * DAY, False),
    ],
)
def test_what_a_restore_kept_goes_when_its_days_are_over(
    layout: Layout, nights: List[int], state: Dict[str, Any], now: float, goes: bool
) -> None:
    for night in nights:
        backup(layout, NOW - night * DAY)
    _backup_state.write_state(layout, "acme", state)
    old = kept(layout, NOW - DAY)
    looked = _backup_job.prune(host(layout, lambda: now), "acme", POLICY, 1, check_mode=True)
    assert looked.directories == ([str(old)] if goes else []) and old.exists()
    _backup_job.prune(host(layout, lambda: now), "acme", POLICY, 1)
    assert old.exists() is not goes


@pytest.mark.parametrize("way", ["run", "catch-up"])
def test_what_a_restore_kept_goes_without_a_policy_too(layout: Layout, runs: Run, way: str) -> None:
    old = kept(layout, NOW - DAY)
    young = kept_until_later(layout)
    if way == "run":
        _backup_job.run(host(layout), "acme", Options(), None)
    else:
        assert tool(layout, "catch-up") == 0
    assert not old.exists() and young.exists()


def kept_until_later(layout: Layout) -> Path:
    path = Path(layout.project("acme"), "volumes", "db", ".restore-y-old-data")
    path.mkdir()
    return path


def test_orphans_go_once_two_later_backups_are_verified(layout: Layout) -> None:
    lost = backup(layout, NOW - 9 * DAY)
    young = backup(layout, NOW + 60)
    for stem in (lost, young):
        os.unlink(os.path.join(layout.backups("acme"), stem + _catalogue.MANIFEST))
    later = time.time() + 8 * DAY
    one = backup(layout, later - DAY)
    plan = _backup_job.prune(host(layout, lambda: later), "acme", POLICY, 1)
    assert plan.refused and plan.orphans == []
    two = backup(layout, later)
    looked = _backup_job.prune(host(layout, lambda: later), "acme", POLICY, 1, check_mode=True)
    assert looked.orphans == [lost + ".sql.gz"] or looked.orphans == sorted([lost + ".sql.gz", young + ".sql.gz"])
    _backup_job.prune(host(layout, lambda: later), "acme", POLICY, 1)
    assert not os.path.exists(os.path.join(layout.backups("acme"), lost + ".sql.gz"))
    assert _catalogue.stems(layout.backups("acme")) == sorted([one, two])


def test_what_the_policy_lets_go_is_deleted(layout: Layout) -> None:
    made = [backup(layout, NOW - number * DAY) for number in range(5)]
    Path(layout.backups("acme"), "mine.sql.gz").write_text("foreign")
    looked = _backup_job.prune(host(layout), "acme", POLICY, 1, check_mode=True)
    assert len(looked.remove) == 3 and len(_catalogue.stems(layout.backups("acme"))) == 5
    plan = _backup_job.prune(host(layout), "acme", POLICY, 1)
    assert plan.remove == looked.remove == sorted(made[2:])
    assert _catalogue.stems(layout.backups("acme")) == sorted(made[:2])
    left = {stem + end for stem in made[:2] for end in (".sql.gz", ".manifest.json")}
    assert set(os.listdir(layout.backups("acme"))) == left | {"mine.sql.gz"}


def _failed(layout: Layout) -> None:
    _backup_state.write_state(layout, "acme", {"exit_code": 13})


def _unsigned(layout: Layout) -> None:
    os.unlink(layout.signing_key)


@pytest.mark.parametrize(
    ("breaking", "now"), [(_failed, NOW), (_unsigned, NOW), (None, NOW - 10 * DAY), (None, NOW + 1000 * DAY)]
)
def test_a_refused_plan_deletes_nothing(
    layout: Layout, breaking: Optional[Callable[[Layout], None]], now: float
) -> None:
    for number in range(5):
        backup(layout, NOW - number * DAY)
    if breaking is not None:
        breaking(layout)
    before = sorted(os.listdir(layout.backups("acme")))
    plan = _backup_job.prune(host(layout, lambda: now), "acme", POLICY, 1)
    assert plan.refused and plan.remove == []
    assert sorted(os.listdir(layout.backups("acme"))) == before


def test_a_run_says_that_nothing_was_pruned(layout: Layout, runs: Run) -> None:
    runs.verified = False
    taken = _backup_job.run(host(layout), "acme", Options(), POLICY)
    assert taken.pruned == [] and "nothing was pruned: only 0 of at least 2" in "".join(taken.notes)


def test_pruning_waits_for_the_lock_of_the_data(layout: Layout) -> None:
    with _lock.exclusive(layout.data_lock("acme"), 1), pytest.raises(LockTimeout):
        _backup_job.prune(host(layout), "acme", POLICY, 0)


def test_a_pinned_backup_stays(layout: Layout) -> None:
    pinned = backup(layout, NOW - 9 * DAY, pinned=True)
    for number in range(5):
        backup(layout, NOW - number * DAY)
    _backup_job.prune(host(layout), "acme", POLICY, 1)
    assert pinned in _catalogue.stems(layout.backups("acme"))


# Monitoring


def test_metrics_are_what_prometheus_reads(layout: Layout) -> None:
    states = {
        "acme": {
            "last_success": NOW, "last_verified": NOW + 0.123, "size": 5_000_000_000_000, "seconds": 1e-7,
            "exit_code": 0, "reason": 'a "b"\n\\',
        },
        "never": {},
        "bad": {"exit_code": 13, "last_success": 1e22},
    }  # fmt: skip
    found = exposition(_backup_job.metrics(states, ["never"]))
    assert found[("multibase_backup_overdue", "never")] == 1 and found[("multibase_backup_overdue", "acme")] == 0
    assert found[("multibase_backup_size_bytes", "acme")] == 5_000_000_000_000
    assert ("multibase_backup_size_bytes", "never") not in found
    assert exposition(_backup_job.metrics({}, [])) == {}


def test_metrics_of_a_host_are_readable_by_others(layout: Layout) -> None:
    instance(layout, "beta")
    _backup_job.write_metrics(layout, NOW)
    path = Path(layout.root, _backup_job.METRICS_FILE)
    assert path.stat().st_mode & 0o777 == 0o644
    assert {name for _metric, name in metrics_of(layout)} == {"acme", "beta"}


DAILY = {"schedule": "0 3 * * *"}
# A local time: schedules are.
DUE = _schedule.previous(_schedule.parse("0 3 * * *"), datetime.fromtimestamp(NOW)).timestamp()


@pytest.mark.parametrize(
    ("known", "state", "now", "expected"),
    [
        ({}, {}, DUE + 3600, False),
        (DAILY, {}, DUE + 3600, True),
        (DAILY, {}, DUE + 899, True),  # yesterday's was due as well
        (DAILY, {"last_verified": DUE - DAY + 60}, DUE + 899, False),
        (DAILY, {"last_verified": DUE - DAY + 60}, DUE + 901, True),
        (DAILY, {"last_verified": DUE + 60}, DUE + 3600, False),
        (DAILY, {"last_success": DUE + 60}, DUE + 3600, True),
        ({**DAILY, "verify": False}, {"last_success": DUE + 60}, DUE + 3600, False),
        ({**DAILY, "jitter": 600}, {"last_verified": DUE - DAY + 60}, DUE + 1400, False),
        ({**DAILY, "jitter": 600}, {"last_verified": DUE - DAY + 60}, DUE + 1501, True),
    ],
)
def test_overdue(known: Dict[str, Any], state: Dict[str, Any], now: float, expected: bool) -> None:
    assert _backup_state.is_overdue(known, state, DUE - 30 * DAY, now) is expected


HOUR = 3600


@pytest.mark.parametrize(
    ("state", "now", "expected"),
    [
        ({}, DUE + HOUR, True),
        ({"last_verified": DUE + 60, "last_attempt": DUE + 60, "exit_code": 0}, DUE + HOUR, False),
        # It was begun before this one was due.
        ({"last_attempt": DUE - 60, "exit_code": 16, "failures": 9}, DUE + HOUR, True),
        # It was taken and could not be verified: each try leaves a backup on the disk.
        ({"last_attempt": DUE + 60, "exit_code": 16, "failures": 1}, DUE + 20 * HOUR, False),
        ({"last_attempt": DUE + 60, "exit_code": 16, "failures": 1}, DUE + 25 * HOUR, True),
        # Nothing was published: after one hour, two, four, ... at most a day.
        ({"last_attempt": DUE + 60, "exit_code": 12, "failures": 1}, DUE + HOUR, False),
        ({"last_attempt": DUE + 60, "exit_code": 12, "failures": 1}, DUE + HOUR + 61, True),
        ({"last_attempt": DUE + 60, "exit_code": 13, "failures": 3}, DUE + 4 * HOUR, False),
        ({"last_attempt": DUE + 60, "exit_code": 13, "failures": 3}, DUE + 4 * HOUR + 61, True),
        ({"last_attempt": DUE + 60, "exit_code": 14, "failures": 99}, DUE + 20 * HOUR, False),
        ({"last_attempt": DUE + 60, "exit_code": 143, "failures": 1}, DUE + 2 * HOUR, True),
        # Without verification nothing was asked for that is missing.
        ({"last_attempt": DUE + 60, "last_success": DUE + 60, "exit_code": 0}, DUE + 9 * HOUR, False),
        # A clock that was wrong wrote it.
        ({"last_attempt": DUE + 900 * DAY, "exit_code": 16}, DUE + HOUR, True),
    ],
)
def test_only_what_was_missed_is_caught_up(layout: Layout, state: Dict[str, Any], now: float, expected: bool) -> None:
    settings(layout, since=DUE - 30 * DAY, acme=DAILY)
    _backup_job.update_state(layout, "acme", lambda there: {**there, **state})
    assert _backup_job.due_now(layout, now) == (["acme"] if expected else [])


def test_a_run_that_was_killed_after_it_published_is_not_made_again_each_hour(layout: Layout) -> None:
    settings(layout, since=DUE - 30 * DAY, acme=DAILY)
    backup(layout, DUE + 60, verified=False)
    assert _backup_job.overdue(layout, "acme", DUE + HOUR)
    assert _backup_job.due_now(layout, DUE + HOUR) == []
    assert _backup_job.due_now(layout, DUE + DAY + HOUR) == ["acme"]


def test_nothing_is_due_before_the_schedule_was_set(layout: Layout) -> None:
    settings(layout, since=DUE + 60, acme=DAILY)
    assert _backup_job.due_now(layout, DUE + 3600) == []
    assert _backup_job.due_now(layout, DUE + DAY + 3600) == ["acme"]
    os.unlink(os.path.join(layout.state, _backup_state.SETTINGS_FILE))
    assert _backup_job.due_now(layout, DUE + DAY + 3600) == []


@pytest.mark.parametrize("schedule", ["nonsense", "99 * * * *", 3])
def test_one_wrong_schedule_does_not_stop_the_others(layout: Layout, schedule: Any) -> None:
    instance(layout, "beta")
    settings(layout, acme={"schedule": schedule}, beta=DAILY)
    assert "beta" in _backup_job.due_now(layout, DUE + 3600)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"acme": null}', '{"acme": []}', '{"acme": 3}', '{"acme": "x"}'])
def test_damaged_settings_are_none(layout: Layout, text: str) -> None:
    os.makedirs(layout.state)
    Path(layout.state, _backup_state.SETTINGS_FILE).write_text(text)
    assert _backup_job.read_settings(layout, "acme") == {}


def test_describing(layout: Layout) -> None:
    first, second = backup(layout, NOW - DAY), backup(layout, NOW, verified=False)
    os.makedirs(os.path.join(layout.root, "backups", "lost+found"))
    os.makedirs(layout.backups("gone"))
    _backup_state.write_state(layout, "acme", {"exit_code": 13, "reason": "broken"})
    told = _backup_state.describe(layout, [], NOW + 60)
    assert [row["name"] for row in told] == ["acme", "gone"]
    assert [row["stem"] for row in told[0]["backups"]] == [second, first]
    assert told[0]["exit_code"] == 13 and told[0]["backups"][0]["age_seconds"] == 60
    assert [row["verified"] for row in told[0]["backups"]] == [False, True]
    assert [row["name"] for row in _backup_state.describe(layout, ["gone", "nobody"], NOW)] == ["gone"]
    json.dumps(told)


# The tool


CODES = {
    "MultibaseError": 1, "InvalidInput": 2, "UnknownInstance": 10, "LockTimeout": 11, "EngineUnavailable": 12,
    "DatabaseDown": 12, "BackupFailed": 13, "NoSpace": 14, "PublishFailed": 15, "VerificationFailed": 16,
    "IntegrityFailed": 18, "RestoreFailed": 19, "ManualActionNeeded": 20, "Refused": 21,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_error_ends_with_its_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = getattr(_errors, name)
    error = kind(["what went wrong"]) if kind is InvalidInput else kind("what went wrong")
    monkeypatch.setattr(_tool, "_run", mock.Mock(side_effect=error))
    before = os.umask(0o022)
    try:
        assert _tool.main(["backups"]) == CODES[name]
    finally:
        os.umask(before)
    printed = capsys.readouterr()
    assert printed.out == "" and "failed: what went wrong" in printed.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.ENOSPC, "full", "/x"), 14), (OSError(errno.EDQUOT, "full", "/x"), 14),
     (OSError(errno.EIO, "bad", "/x"), 1), (KeyboardInterrupt(), 130)],
)  # fmt: skip
def test_other_ends(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool, "_run", mock.Mock(side_effect=error))
    before = os.umask(0o022)
    try:
        assert _tool.main(["backups"]) == code
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["backup", "acme"], {"command": "backup", "name": "acme", "scheduled": False, "no_verify": False}),
        (["backup", "acme", "--scheduled", "--no-verify"], {"scheduled": True, "no_verify": True}),
        (["--root", "/r", "--json", "backups"], {"root": "/r", "json": True, "names": []}),
        (["backups", "a", "b"], {"names": ["a", "b"]}),
        (["verify", "a"], {"backup": None}),
        (["verify", "a", "s"], {"backup": "s"}),
        (["restore", "a"], {"backup": "latest", "source": None, "scope": "full", "trust_unsigned": False}),
        (["restore", "a", "s", "--from", "b", "--scope", "database"], {"source": "b", "scope": "database"}),
        (["rollback", "a"], {"name": "a"}),
        (["recover", "a"], {"name": "a"}),
        (["prune", "a", "--check"], {"check": True}),
        (["catch-up"], {"command": "catch-up"}),
        (["metrics"], {"command": "metrics"}),
        (["--lock-timeout", "0.5", "metrics"], {"lock_timeout": 0.5}),
    ],
)
def test_command_lines(argv: List[str], expected: Dict[str, Any]) -> None:
    found = vars(_tool.build_parser().parse_args(argv))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    "argv",
    [[], ["nothing"], ["backup"], ["restore"], ["restore", "a", "--scope", "x"], ["--lock-timeout", "x", "metrics"]],
)
def test_wrong_command_lines(argv: List[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _tool.build_parser().parse_args(argv)
    assert ended.value.code == 2


def test_options_and_policy_come_from_the_settings() -> None:
    chosen = {"scope": "database", "format": "custom", "level": 3, "verify": False, "timeout": 9.0, "jitter": 5}
    assert _tool.options_of(chosen, 7) == Options("database", "custom", 3, False, 9.0, 7)
    assert _tool.options_of({}, 60) == Options()
    assert _tool.policy_of({}) is None and _tool.policy_of({"retention": {}}) is None
    assert _tool.policy_of({"retention": {"keep_last": 3}}) == _retention.Policy(keep_last=3)
    with pytest.raises(InvalidInput, match="keep_lsat"):
        _tool.policy_of({"retention": {"keep_lsat": 3}})


def tool(layout: Layout, *argv: str) -> int:
    before = os.umask(0o022)
    try:
        with mock.patch.object(_tool, "connect", mock.Mock()), mock.patch.object(_tool.time, "time", lambda: NOW):
            return _tool.main(["--root", layout.root, "--lock-timeout", "0", *argv])
    finally:
        os.umask(before)


def test_listing_as_json_and_for_people(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    stem = backup(layout, NOW - 60)
    assert tool(layout, "--json", "backups") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["stem"], row["age_seconds"]) == (stem, 60)
    assert tool(layout, "backups", "acme") == 0
    assert "stem=" + stem in capsys.readouterr().out


def test_a_wrong_policy_on_the_host_takes_no_backup(layout: Layout, runs: Run) -> None:
    settings(layout, acme={"retention": {"keep_lsat": 1}})
    assert tool(layout, "backup", "acme") == 2
    assert runs.taken == []


def test_the_settings_of_the_host_are_used(layout: Layout, runs: Run) -> None:
    settings(layout, acme={"scope": "database", "level": 5, "jitter": 3600})
    assert tool(layout, "backup", "acme", "--no-verify") == 0
    ((name, options),) = runs.taken
    assert (name, options.scope, options.level, options.verify) == ("acme", "database", 5, False)


@pytest.mark.parametrize(("error", "code"), [(BackupFailed("broken"), 13), (OSError(errno.EDQUOT, "quota"), 14)])
def test_catching_up_goes_on_after_one_failed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    instance(layout, "beta")
    settings(layout, acme=DAILY, beta=DAILY)
    asked: List[str] = []

    def run(_host: Any, name: str, *_more: Any) -> Taken:
        asked.append(name)
        if name == "acme":
            raise error
        return Taken(name)

    monkeypatch.setattr(_backup_job, "run", run)
    assert tool(layout, "catch-up") == code
    assert asked == ["acme", "beta"]


def test_pruning_with_check_by_the_tool_deletes_nothing(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        backup(layout, NOW - number * DAY)
    assert tool(layout, "--json", "prune", "acme", "--check") == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert len(_catalogue.stems(layout.backups("acme"))) == 9
    assert said["name"] == "acme" and set(said["kept"]) | set(said["removed"]) == set(
        _catalogue.stems(layout.backups("acme"))
    )
