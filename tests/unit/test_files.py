# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that roles write in one task, and what they ask a host in one: the modules ``files`` and ``look``.

The last tests run the action plugin with Ansible, against ``ansible.builtin.template``.
"""

from __future__ import annotations

import base64
import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.multibase.supabase.plugins.module_utils import _files
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.modules import files, look
from unit.support import REPOSITORY, leftovers, snapshot

ME, MY_GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
CANARY = "canary-4711"


def run(module: Any, capsys: pytest.CaptureFixture[str], check: bool = False, **arguments: Any) -> Dict[str, Any]:
    """Run a module's ``main`` as Ansible does; return what it prints."""
    capsys.readouterr()
    options = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(options), pytest.raises(SystemExit):
        module.main()
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def entry(path: Path, content: Optional[str] = None, **more: Any) -> Dict[str, Any]:
    """An entry as the action plugin hands it on."""
    made = {"path": str(path), "owner": ME, "group": MY_GROUP, **more}
    return made if content is None else {**made, "content": base64.b64encode(content.encode()).decode()}


def entries(top: Path) -> List[Dict[str, Any]]:
    """A directory, a file in it, a secret one, and one to be removed."""
    return [
        entry(top / "d" / "e", state="directory", mode="0750"),
        entry(top / "d" / "e" / "plain", "one\n"),
        entry(top / "secret", CANARY, mode="0600", diff=False),
        entry(top / "gone", state="absent"),
    ]


def test_check_run_check_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    before = snapshot(tmp_path)
    for check in (True, False):
        answer = run(files, capsys, check=check, entries=entries(tmp_path))
        assert [result["changed"] for result in answer["results"]] == [True] * 4
        assert answer["changed_paths"] == [given["path"] for given in entries(tmp_path)]
        assert (snapshot(tmp_path) == before) is check
        told = [part["after"] for part in answer["diff"]]
        assert "one\n" in told and CANARY not in json.dumps({**answer, "invocation": None})
    done = snapshot(tmp_path, times=True)
    assert {path: done[path][0] for path in ("d", "d/e", "d/e/plain", "secret")} == {
        "d": "0o40750", "d/e": "0o40750", "d/e/plain": "0o100644", "secret": "0o100600",
    }  # fmt: skip
    assert "gone" not in done and leftovers(tmp_path) == []
    for check in (True, False):
        answer = run(files, capsys, check=check, entries=entries(tmp_path))
        assert (answer["changed"], answer["changed_paths"], answer["diff"]) == (False, [], [])
    assert snapshot(tmp_path, times=True) == done, "nothing was touched"


def test_what_differs_is_put_right_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(files, capsys, entries=entries(tmp_path))
    (tmp_path / "secret").chmod(0o644)
    (tmp_path / "d" / "e" / "plain").write_text("two\n")
    inode = (tmp_path / "secret").stat().st_ino
    answer = run(files, capsys, entries=entries(tmp_path))
    assert answer["changed_paths"] == [str(tmp_path / "d" / "e" / "plain"), str(tmp_path / "secret")]
    modes = [part for part in answer["diff"] if part["before_header"].endswith("secret")]
    assert [(part["before"], part["after"]) for part in modes] == [({"mode": "0644"}, {"mode": "0600"})]
    assert (tmp_path / "secret").stat().st_ino == inode, "a mode is set in place"
    assert (tmp_path / "d" / "e" / "plain").read_text() == "one\n"


def test_compared_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(files, capsys, entries=[entry(tmp_path / "rules", "x", compare=True)])
    assert answer["changed_paths"] == [str(tmp_path / "rules")] and list(tmp_path.iterdir()) == []


def test_one_that_is_refused_keeps_the_others_from_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = ["/bin/sh", "-c", 'grep -q good "$0" || { echo no good; exit 1; }', "%s"]
    given = [entry(tmp_path / "a", "first"), entry(tmp_path / "b", CANARY, validate=validate)]
    answer = run(files, capsys, entries=given)
    assert answer["failed"] and "b: /bin/sh refused it: no good" in answer["msg"]
    assert list(tmp_path.iterdir()) == []
    given[1] = entry(tmp_path / "b", "good", validate=validate)
    assert run(files, capsys, entries=given)["changed"] and (tmp_path / "b").read_text() == "good"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"content": "", "mode": "rw"}, "is no octal number"),
        ({"state": "file"}, "needs src or content"),
        ({"content": "", "path": "d"}, "absolute path"),
        ({"content": "", "path": "{0}/d"}, "is a directory"),
        ({"state": "directory", "path": "{0}/f"}, "is no directory"),
        ({"state": "absent", "path": "{0}/d"}, "is not removed"),
        ({"content": "", "owner": "nobody-has-this-name"}, "does not have its owner"),
        ({"content": "", "path": "{0}/none/f"}, "none/f"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Dict[str, Any], said: str
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    one = {"owner": ME, "group": MY_GROUP, "path": "{0}/new", **given}
    one["path"] = one["path"].format(tmp_path)
    before = snapshot(tmp_path)
    answer = run(files, capsys, entries=[entry(tmp_path / "other", "x"), one])
    assert answer["failed"] and said in answer["msg"] and "Traceback" not in answer["msg"]
    assert snapshot(tmp_path) == before


def test_a_new_host_may_lack_the_owner_in_check_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [entry(tmp_path / "x" / "y", "", owner="nobody-has-this-name")]
    assert run(files, capsys, check=True, entries=given)["changed"]


def test_an_attack_on_the_staged_name_writes_nothing_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "f.multibase-new").symlink_to(victim)
    wanted = _files.Wanted(str(tmp_path / "f"), _files.FILE, b"new", os.getuid(), os.getgid())

    def check(_argv: Sequence[str]) -> Tuple[int, str]:
        raise AssertionError

    assert _files.bring([wanted], check, dry=False)[0] == [True]
    assert victim.read_text() == "mine" and (tmp_path / "f").read_text() == "new" and leftovers(tmp_path) == []


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    wanted = [_files.Wanted(str(tmp_path), _files.FILE), _files.Wanted(str(tmp_path), _files.ABSENT)]
    with pytest.raises(InvalidInput) as caught:
        _files.bring(wanted, lambda _argv: (0, ""), dry=True)
    assert len(caught.value.problems) == 2


def test_several_things_are_asked_in_one_go(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {
        "said": ["/bin/sh", "-c", "echo $HOME; echo '${db:x}'; echo two >&2; exit 3"],
        "literal": ["echo", "$HOME", "~"],
        "missing": ["/nonexistent/program"],
        "left_out": [],
    }
    for check in (True, False):
        answer = run(look, capsys, check=check, commands=commands)
        assert answer["changed"] is False and sorted(answer["said"]) == ["literal", "missing", "said"]
        said = answer["said"]["said"]
        assert (said["rc"], said["stdout_lines"][1], said["stderr"]) == (3, "${db:x}", "two")
        assert answer["said"]["literal"]["stdout"] == "$HOME ~", "nothing is expanded but by a shell"
        assert answer["said"]["missing"]["rc"] == 127 and answer["said"]["missing"]["stdout_lines"] == []
    assert "commands: x" in run(look, capsys, commands={"x": "text"})["msg"]


# With Ansible


def play(directory: Path, tasks: List[Dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine."""
    (directory / "play.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    ansible = str(REPOSITORY / ".venv" / "bin" / "ansible-playbook")
    return subprocess.run(
        [ansible, "-i", "localhost,", "-c", "local", *options, "play.yml"],
        env={
            **os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_CALLBACK_PLUGINS": "",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        cwd=directory, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_templates_are_expanded_as_the_module_template_does(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    text = (
        "# {{ ansible_managed }}\n{% for n in [1, 2] %}\n  {{ n }} \u00e9\n{% endfor %}\n{% if true %}x{% endif %}\n"
        "{{ '{' }}\"a\": {{ [1] | to_json }}}\n{{ template_path | basename }} {{ template_destpath | basename }}\n"
        "{% include 'part.j2' %}\n\n  \n"
    )
    (tmp_path / "templates" / "t.j2").write_text(text)
    (tmp_path / "templates" / "json.j2").write_text('{"a": {{ [1, "b"] | to_json }}}')
    (tmp_path / "templates" / "empty.j2").write_text("{% if false %}x{% endif %}")
    (tmp_path / "templates" / "part.j2").write_text("part {{ inner }}\n")
    names = ["t", "json", "empty"]
    owner = {"owner": ME, "group": MY_GROUP, "mode": "0640"}
    mine = [{"path": str(tmp_path / "ours" / name), "src": name + ".j2", **owner} for name in names]
    tasks: List[Dict[str, Any]] = [
        {
            "ansible.builtin.template": {"src": name + ".j2", "dest": str(tmp_path / "theirs" / name), **owner},
            "vars": {"inner": "same"},
        }
        for name in names
    ]
    for kind in ("ours", "theirs"):
        (tmp_path / kind).mkdir()
    tasks.append({"multibase.supabase.files": {"entries": mine}, "vars": {"inner": "same"}})
    done = play(tmp_path, tasks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert snapshot(tmp_path / "ours") == snapshot(tmp_path / "theirs")
    assert len(snapshot(tmp_path / "ours")) == 3


def test_contents_are_in_no_output(tmp_path: Path) -> None:
    given = [
        {"path": str(tmp_path / "new"), "content": CANARY + "\n", "owner": ME, "group": MY_GROUP, "diff": False},
        {"path": str(tmp_path / "old"), "content": "shown\n", "owner": ME, "group": MY_GROUP},
    ]
    tasks = [{"multibase.supabase.files": {"entries": given}, "register": "made"}, {"debug": {"var": "made"}}]
    coded = base64.b64encode((CANARY + "\n").encode()).decode()
    for options in (("--check", "--diff", "-vvv"), ("--diff", "-vvv"), ("-vvv",)):
        done = play(tmp_path, tasks, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        told = done.stdout + done.stderr
        assert CANARY not in told and coded not in told and "module_args" not in told
        assert ("+shown" in told) is ("--diff" in options)
    assert (tmp_path / "new").read_text() == CANARY + "\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text", "a list of dictionaries is needed"),
        ([{"path": "/x", "src": "a", "content": "b"}], "and not both"),
        ([{"path": "/x"}], "a file needs src or content"),
        ([{"path": "/x", "content": {"a": 1}}], "its content is no text"),
    ],
)
def test_what_the_controller_refuses(tmp_path: Path, given: Any, said: str) -> None:
    done = play(tmp_path, [{"multibase.supabase.files": {"entries": given}}])
    assert done.returncode == 2 and said in done.stdout + done.stderr
