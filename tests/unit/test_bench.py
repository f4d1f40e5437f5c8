# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/bench/bench.py: its command line and the shape of its results; what it measures is not a unit test."""

from __future__ import annotations

import configparser
import json
from typing import List

import pytest

from bench import bench

RECAP = "localhost : ok=3    changed=1    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0   \n"


def series(*seconds: float) -> bench.Series:
    return bench.Series([bench.Run(value, value / 2, 57.25, 1) for value in seconds])


def test_defaults_run_every_benchmark_and_keep_the_baseline_small() -> None:
    options = bench.parse_arguments([])
    assert (options.benches, options.n) == (list(bench.BENCHES), [1, 10, 100])
    assert (options.rounds, options.baseline_max) == (3, 10)


@pytest.mark.parametrize("arguments", [["--only", "create"], ["create"], ["create", "--only", "create"]])
def test_one_benchmark_can_be_chosen_either_way(arguments: List[str]) -> None:
    assert bench.parse_arguments(arguments).benches == ["create"]


def test_sizes_are_sorted_and_measured_once() -> None:
    assert bench.parse_arguments(["--n", "100,1,10,1"]).n == [1, 10, 100]


@pytest.mark.parametrize(
    "arguments",
    [["--only", "nothing"], ["--n", "0"], ["--n", "1,x"], ["--n", "1001"], ["--rounds", "0"], ["--baseline-max", "-1"]],
)
def test_a_wrong_command_line_exits_with_2(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.parse_arguments(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_result_has_the_fixed_keys_first_and_the_ratio_is_baseline_by_ours() -> None:
    line = bench.result_line("create", "unchanged", 10, series(3, 1, 2), "loop role", series(30), {"cpus": 2})
    assert list(line)[:7] == ["bench", "case", "n", "seconds", "baseline", "baseline_seconds", "ratio"]
    assert (line["seconds"], line["baseline_seconds"], line["ratio"]) == (2, 30, 15)
    assert (line["rounds"], line["seconds_min"], line["cpu_seconds"], line["cpus"]) == (3, 1, 1, 2)
    assert json.loads(json.dumps(line)) == line


def test_without_a_baseline_its_seconds_and_the_ratio_are_null() -> None:
    line = bench.result_line("create", "create", 100, series(4), "loop role", bench.Series(), {})
    assert line["baseline"] == "loop role"
    assert line["baseline_seconds"] is None
    assert line["ratio"] is None


def test_the_cost_of_an_added_instance_is_a_slope() -> None:
    assert bench.slope_ms((1, 1.0), (101, 2.0)) == pytest.approx(10)
    assert bench.slope_ms((1, 1.0), (1, 1.0)) is None


def test_a_recap_is_read_and_a_failed_play_is_an_error() -> None:
    assert bench.changed_tasks("PLAY RECAP ****\n" + RECAP) == 1
    for output in ("no recap", RECAP + RECAP, RECAP.replace("failed=0", "failed=1")):
        with pytest.raises(bench.BenchError):
            bench.changed_tasks(output)


def test_the_measured_runs_have_the_settings_of_the_repository_but_no_callbacks() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(bench.ansible_config(bench.REPOSITORY))
    assert not [key for section in config.sections() for key in config[section] if key.startswith("callback_plugins")]
    assert "ara" not in config
    assert config["defaults"]["collections_path"] == str(bench.COLLECTIONS)
    assert config["connection"]["pipelining"] == "true"


def test_the_baseline_s_gateway_template_holds_no_value_of_the_rendering() -> None:
    template = bench.gateway_template(bench.TEMPLATE_ROOT / "0.8.2")
    assert "to-replace" not in template
    assert "59999" not in template
    assert template.count("password | sha_password") == 1


def test_a_failure_is_told_on_stderr_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_options: object) -> List[object]:
        raise bench.BenchError("the play failed: its output")

    monkeypatch.setattr(bench, "BENCHES", {"create": bench.Bench("", broken)})
    monkeypatch.setattr(bench.signal, "signal", lambda _number, _handler: None)
    assert bench.main(["--only", "create"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "its output" in captured.err
