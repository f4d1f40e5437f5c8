# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports by the real playbook and module: of hosts with a sampler, and one that is away."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
from prometheus_client.parser import text_string_to_metric_families

from unit.mail_support import PASSWORD, mail_server
from unit.report_support import report_validator, sample
from unit.test_playbooks import Fleet

HOSTS: Dict[str, List[Any]] = {"away": [], "h1": [], "h2": []}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Host h1 as the sample has it now, h2 with nothing but a healthy delta; the one called away cannot be reached."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexit 255\n")
    ssh.chmod(0o755)
    made = Fleet(tmp_path)
    live = sample()
    write(made, "h1", live)
    live["instances"] = [{**live["instances"][0], "name": "delta"}]
    live["alerts"], live["certificates"], live["host"]["disks"] = [], [], []
    write(made, "h2", live)
    return made


def write(fleet: Fleet, host: str, live: Dict[str, Any]) -> None:
    """Put a live document there as the sampler does; fresh for as long as a test lasts."""
    path = fleet.root(host) / "www" / "panel" / "live.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**live, "sampled_at": time.time(), "interval": 120}))


def result(fleet: Fleet) -> Dict[str, Any]:
    """What was written to the result file; it follows the schema."""
    made = dict(json.loads((fleet.directory / "result.json").read_text()))
    report_validator.validate(made)
    return made


def test_all_formats_of_a_fleet_with_a_host_that_is_away(fleet: Fleet) -> None:
    out = fleet.directory / "out"
    variables = {
        "multibase_report_format": "html,json,csv,prometheus",
        "multibase_report_tables": ["instances", "services"],
        "multibase_report_directory": str(out),
    }
    done = fleet.run("report", variables, HOSTS)
    assert done.returncode == 0, done.stdout
    made = result(fleet)
    names = ["multibase-report.html", "multibase-report.json", "multibase-instances.csv", "multibase-services.csv",
             "multibase-report.prom"]  # fmt: skip
    assert made["files"] == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    assert [host["host"] for host in made["hosts"]] == ["away", "h1", "h2"]
    assert made["hosts"][0]["problem"].startswith("the host cannot be reached: ")
    assert made["attention"][0]["kind"] == "unreadable" and made["totals"]["instances"] == 4
    written = json.loads((out / "multibase-report.json").read_text())
    assert {**written, "files": made["files"]} == made
    assert abs(made["made_at"] - time.time()) < 120
    assert (out / "multibase-instances.csv").read_bytes().count(b"\r\n") == 5
    assert (out / "multibase-report.html").read_text().startswith("<!DOCTYPE html>")
    families = {one.name: one for one in text_string_to_metric_families((out / "multibase-report.prom").read_text())}
    read = {one.labels["host"]: one.value for one in families["multibase_host_read"].samples}
    assert read == {"away": 0, "h1": 1, "h2": 1}


def test_nothing_is_written_unless_asked_for(fleet: Fleet) -> None:
    before = sorted(path.name for path in fleet.directory.iterdir())
    done = fleet.run("report", {}, {"h1": []})
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout
    assert result(fleet)["files"] == []
    after = sorted(path.name for path in fleet.directory.iterdir())
    assert set(after) - set(before) <= {"result.json", "inventory.yml", "failures.json"}


def test_without_a_result_file_it_says_what_needs_attention(fleet: Fleet) -> None:
    done = fleet.run("report", {"multibase_result_file": "{{ undefined_on_purpose }}"}, {"h2": []}, "--list-tasks")
    assert done.returncode == 0 and done.stdout.count("Publish | ") == 9
    done = fleet.run("report", {"multibase_report_fail_on": "critical"}, {"h1": []})
    assert done.returncode == 2
    assert fleet.failure().startswith("3 findings are at least critical, the first on h1: storage of beta is unhealthy")


@pytest.mark.parametrize(("least", "code"), [("critical", 0), ("warning", 0), ("", 0)])
def test_where_all_is_well_no_severity_fails(fleet: Fleet, least: str, code: int) -> None:
    assert fleet.run("report", {"multibase_report_fail_on": least}, {"h2": []}).returncode == code


def test_only_what_is_about_the_named_instances(fleet: Fleet) -> None:
    done = fleet.run("report", {"multibase_limit": "acme, beta"}, {"h1": [], "h2": []})
    assert done.returncode == 0, done.stdout
    made = result(fleet)
    assert [(host["host"], [one["name"] for one in host["instances"]]) for host in made["hosts"]] == [
        ("h1", ["acme", "beta"])
    ]
    done = fleet.run("report", {"multibase_limit": "nil"}, {"h1": [], "h2": []})
    assert done.returncode == 2
    assert "there is no instance nil; there are: acme, beta, delta, gamma" in fleet.failure()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"multibase_report_format": ["pdf", "html"]},
            "there is no format 'pdf'; there are html, json, prometheus, csv",
        ),
        ({"multibase_report_format": "csv", "multibase_report_tables": "users"}, "there is no table 'users'"),
        ({"multibase_report_format": "html,csv", "multibase_report_file": "/x/r.html"}, "is one file"),
        ({"multibase_report_fail_on": "info"}, "must be warning, critical or empty (it is info)"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(fleet: Fleet, variables: Dict[str, Any], told: str) -> None:
    out = fleet.directory / "out"
    done = fleet.run("report", {"multibase_report_directory": str(out), **variables}, {"h1": []})
    assert done.returncode == 2, done.stdout
    assert told in fleet.failure() and not out.exists()


def test_one_file(fleet: Fleet) -> None:
    path = fleet.directory / "mine.csv"
    variables = {"multibase_report_format": "csv", "multibase_report_file": str(path), "multibase_report_mode": "0640"}
    assert fleet.run("report", variables, {"h1": []}).returncode == 0
    assert result(fleet)["files"] == [str(path)]
    assert path.read_text().startswith("host,sampled_at,") and stat.S_IMODE(path.stat().st_mode) == 0o640
    checked = fleet.directory / "checked.html"
    variables = {"multibase_report_format": "html", "multibase_report_file": str(checked)}
    assert fleet.run("report", variables, {"h1": []}, "--check").returncode == 0
    assert result(fleet)["files"] == [] and not checked.exists()


def test_a_report_goes_by_mail_and_its_password_nowhere(fleet: Fleet) -> None:
    with mail_server(fleet.directory) as server:
        mail = {
            "host": "127.0.0.1", "port": server.port, "from": "m@example.com", "to": ["ann@example.com"],
            "user": "multibase", "password": PASSWORD, "ca_file": str(server.certificate),
        }  # fmt: skip
        variables = {"multibase_report_mail": mail, "multibase_report_format": ["html", "csv"]}
        done = fleet.run("report", variables, HOSTS, "-vvv")
        assert done.returncode == 0, done.stdout
        assert PASSWORD not in done.stdout + done.stderr + (fleet.directory / "result.json").read_text()
        (got,) = server.messages
        assert got["Subject"] == "Multibase: 4 critical, 4 warnings (3 hosts, 4 instances)"
        assert "CRITICAL away: the host cannot be reached" in got.get_body().get_content()
        assert [part.get_filename() for part in got.iter_attachments()] == [
            "multibase-report.html", "multibase-instances.csv",
        ]  # fmt: skip
        variables["multibase_report_mail"] = {**mail, "password": PASSWORD + "-wrong"}
        done = fleet.run("report", variables, {"h1": []}, "-vvv")
    assert done.returncode == 2 and PASSWORD not in done.stdout + done.stderr
    assert fleet.failure() == (
        f"the mail was not sent: 127.0.0.1:{server.port}: the server refused user and password (status 535)"
    )
    assert result(fleet)["totals"]["hosts"] == 1


def test_each_host_gets_what_is_about_itself_and_nothing_of_the_others(fleet: Fleet) -> None:
    places = {host: (fleet.directory / f"{host}-copies", fleet.directory / f"{host}-textfiles") for host in HOSTS}
    for copies, textfiles in places.values():
        copies.mkdir()
        textfiles.mkdir()
    variables = {
        "multibase_report_copy_to": str(fleet.directory) + "/{{ inventory_hostname }}-copies",
        "multibase_report_textfile_directory": str(fleet.directory) + "/{{ inventory_hostname }}-textfiles",
        "multibase_report_format": ["json"],
    }
    done = fleet.run("report", variables, HOSTS)
    assert done.returncode == 0, done.stdout
    assert list(places["away"][0].iterdir()) == list(places["away"][1].iterdir()) == []
    for host, others in (("h1", ("delta", "away")), ("h2", ("beta", "away"))):
        copies, textfiles = places[host]
        (copy,), (textfile,) = copies.iterdir(), textfiles.iterdir()
        assert (stat.S_IMODE(copy.stat().st_mode), stat.S_IMODE(textfile.stat().st_mode)) == (0o600, 0o644)
        made = json.loads(copy.read_text())
        report_validator.validate(made)
        assert [one["host"] for one in made["hosts"]] == [host]
        families = list(text_string_to_metric_families(textfile.read_text()))
        assert {one.labels["host"] for family in families for one in family.samples} == {host}
        assert not [word for word in others if f'"{word}"' in copy.read_text() + textfile.read_text()]
    # A directory that is not there is that host's failure; the report was given before.
    places["h1"][0].joinpath("multibase-report.json").unlink()
    places["h1"][0].rmdir()
    (fleet.directory / "result.json").unlink()
    done = fleet.run("report", variables, {"h1": [], "h2": []})
    assert done.returncode == 2 and "h1-copies" in fleet.failure()
    assert result(fleet)["totals"]["hosts"] == 2
