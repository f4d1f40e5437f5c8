# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``report`` and the filters, as Ansible runs them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.filter import report as report_filter
from ansible_collections.multibase.supabase.plugins.filter import report_files, report_outputs
from ansible_collections.multibase.supabase.plugins.module_utils import _report_csv
from unit.report_support import NOW, answer, live_validator, report_validator, sample
from unit.support import PLUGINS, FakeDocker, converge, item
from unit.test_modules import Ended, disagreements, documented, module, run, spec_of


def written(root: Path, text: str) -> None:
    """Put something there as the sampler's file."""
    (root / "www" / "panel").mkdir(parents=True)
    (root / "www" / "panel" / "live.json").write_text(text)


def told(ended: Ended) -> Dict[str, Any]:
    """The one result, of the documented form."""
    assert ended.code == 0 and ended.result["changed"] is False
    (result,) = ended.result["results"]
    contains = yaml.safe_load(module("report").RETURN)["results"]["contains"]
    types = {"str": str, "bool": bool, "dict": dict, "float": float}
    assert set(result) == set(contains)
    assert all(isinstance(result[key], types[about["type"]]) for key, about in contains.items())
    if result["live"]:
        live_validator.validate(result["live"])
    return dict(result)


def test_what_the_sampler_wrote_is_returned_without_an_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = {**sample(), "sampled_at": time.time() - 10}
    written(tmp_path, json.dumps({**live, "later": "part of a later version"}))
    result = told(run("report", {"root": str(tmp_path)}, capsys))
    assert (result["live"], result["problem"], result["name"]) == (live, "", "alpha.example.com")
    assert 10 <= result["read_at"] - live["sampled_at"] < 20


def test_without_a_sampler_the_module_looks_itself_and_misses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converge(tmp_path, item("acme"))
    result = told(run("report", {"root": str(tmp_path)}, capsys, FakeDocker()))
    assert result["problem"] == ""
    assert [one["name"] for one in result["live"]["instances"]] == ["acme"]
    assert result["live"]["sampled_at"] == pytest.approx(result["read_at"], abs=0.01)


def test_a_sampler_that_stands_still_is_told_beside_a_look_of_our_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converge(tmp_path, item("acme"))
    written(tmp_path, json.dumps({**sample(), "sampled_at": time.time() - 600}))
    result = told(run("report", {"root": str(tmp_path)}, capsys, FakeDocker()))
    assert result["problem"] == "the sampler (multibase-monitor.service) wrote last 600 s ago"
    assert [one["name"] for one in result["live"]["instances"]] == ["acme"]
    made = report_filter.report([{"host": "h1", "answer": {"results": [result]}}], made_at=NOW)
    assert made["hosts"][0]["stale"] is False
    assert ("warning", "stale") in [(one["severity"], one["kind"]) for one in made["attention"]]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1, "sampled_at": 1e18, "interval": 5}', '{"schema": 9}'])
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"))
    written(tmp_path, text)
    result = told(run("report", {"root": str(tmp_path)}, capsys, FakeDocker()))
    assert result["problem"].startswith(str(tmp_path / "www" / "panel" / "live.json") + " ")
    assert [one["name"] for one in result["live"]["instances"]] == ["acme"]


def test_a_host_without_an_engine_is_read_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"))
    result = told(run("report", {"root": str(tmp_path)}, capsys))
    assert result["live"]["host"]["engine"]["reachable"] is False
    made = report_filter.report([{"host": "h1", "answer": {"results": [result]}}], made_at=NOW)
    assert "engine" in [one["kind"] for one in made["attention"]]


def test_where_even_looking_fails_the_last_figures_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.multibase.supabase.plugins.module_utils import _sampler

    def fail(_self: Any, _now: float) -> Any:
        raise OSError("no /proc")

    monkeypatch.setattr(_sampler.Sampler, "once", fail)
    result = told(run("report", {"root": str(tmp_path)}, capsys))
    assert result["live"] == {} and result["name"] == ""
    assert result["problem"].startswith("the sampler has not written ")
    assert "switch multibase_monitor_enabled on; looking without it failed: no /proc" in result["problem"]
    written(tmp_path, json.dumps(sample()))
    result = told(run("report", {"root": str(tmp_path)}, capsys))
    assert result["live"] == sample() and "wrote last " in result["problem"]


@pytest.mark.parametrize("name", ["report", "mail"])
def test_documentation_and_argument_spec_agree(name: str) -> None:
    assert disagreements(spec_of(name), documented(name)["options"]) == []
    examples = yaml.safe_load(module(name).EXAMPLES)
    assert examples and all("multibase.supabase." + name in example for example in examples)


# The filters

ANSWERS: List[Dict[str, Any]] = [
    {"host": "h1", "answer": {"results": [answer()]}},
    {"host": "away", "answer": {"unreachable": True, "msg": "no route"}},
]


def choices() -> List[str]:
    text = (PLUGINS / "filter" / "report.py").read_text()
    documentation = text.split('DOCUMENTATION = r"""')[1].split('"""')[0]
    return list(yaml.safe_load(documentation)["options"]["form"]["choices"])


def test_every_documented_form_is_made_and_no_other() -> None:
    assert choices()[5:] == list(_report_csv.TABLES)
    for form in choices():
        made = report_filter.report(ANSWERS, form, NOW)
        if form == "document":
            report_validator.validate(made)
        else:
            assert (
                isinstance(made, str)
                and made.endswith("\n")
                and "beta" in made + ("beta" * (form in ("hosts", "certificates")))
            )
    assert json.loads(report_filter.report(ANSWERS, "json", NOW)) == report_filter.report(ANSWERS, "document", NOW)
    with pytest.raises(AnsibleFilterError, match="there is no form 'pdf'; there are document, json, html"):
        report_filter.report(ANSWERS, "pdf", NOW)


def test_the_text_begins_with_what_a_mail_is_called() -> None:
    lines = report_filter.report(ANSWERS, "text", NOW).splitlines()
    assert lines[0] == "Multibase: 4 critical, 3 warnings (2 hosts, 3 instances)"
    assert lines[2] == "CRITICAL away: the host cannot be reached: no route"
    assert "hosts:     2, 1 not read, 0 stale" in lines and "instances: 1 healthy, 1 degraded, 1 stopped" in lines


def test_names_narrow_a_report(tmp_path: Path) -> None:
    made = report_filter.report(ANSWERS, "document", NOW, ["acme"])
    report_validator.validate(made)
    # The host that is away may have it.
    assert [(host["host"], [one["name"] for one in host["instances"]]) for host in made["hosts"]] == [
        ("h1", ["acme"]), ("away", []),
    ]  # fmt: skip
    assert made["hosts"][0]["alerts"] == []
    assert [one["site"] for one in made["hosts"][0]["certificates"]] == ["acme", "_panel"]
    assert {one["instance"] for one in made["attention"]} <= {"", "acme"}
    assert [host["host"] for host in report_filter.report(ANSWERS, "document", NOW, ["nil"])["hosts"]] == ["away"]
    with pytest.raises(AnsibleFilterError, match="there is no instance nil; there are: acme, beta, gamma"):
        report_filter.report(ANSWERS[:1], "document", NOW, ["acme", "nil"])


def test_outputs_and_their_contents() -> None:
    outputs = report_outputs.report_outputs(" html, csv,html", "/srv", "backups,hosts")
    assert outputs == [
        {"form": "html", "path": "/srv/multibase-report.html"},
        {"form": "backups", "path": "/srv/multibase-backups.csv"},
        {"form": "hosts", "path": "/srv/multibase-hosts.csv"},
    ]
    files = report_files.report_files(outputs, ANSWERS, NOW, [], "0640")
    assert [(one["path"], one["mode"], one["diff"]) for one in files] == [(o["path"], "0640", False) for o in outputs]
    assert [one["content"] for one in files] == [report_filter.report(ANSWERS, o["form"], NOW) for o in outputs]
    assert report_outputs.report_outputs(["json"], "/srv", [], "/x/y.json") == [{"form": "json", "path": "/x/y.json"}]


def test_all_mistakes_in_outputs_are_told_together() -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        report_outputs.report_outputs(["pdf", "csv", "html"], "/srv", ["users", "hosts"], "/x.html")
    for part in ("no format 'pdf'", "no table 'users'", "/x.html is one file, and the report would be "):
        assert part in str(caught.value)
