# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that were cut off, damaged or edited are named before anything else happens, and nothing is made up for them.

What test_instances.py says of the plain ``.env`` is said here of every line of it, with all optional keys, of the
environment files, and of the registry of a hundred instances.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Result
from faults.cases import CANARY, UNUSED, tried
from unit.support import (
    assert_no_secret,
    converge,
    env_of,
    item,
    manifest_of,
    quiet_host,
    registry_of,
    request,
    secrets_of,
    snapshot,
)

OPTIONAL = (
    "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "JWT_KEYS", "JWT_JWKS", "ANON_KEY_ASYMMETRIC",
    "SERVICE_ROLE_KEY_ASYMMETRIC",
)  # fmt: skip
SECRET = "GOTRUE_EXTERNAL_GITHUB_SECRET"
OPTIONS: Dict[str, Any] = {
    "auth": {"providers": {"github": {"client_id": "multibase", "secret": CANARY + "github"}}},
    "env": {"functions": {"GREETING": 'hello $you "there"'}},
    "smtp": {"host": "mail.example.com", "user": "acme", "password": CANARY + "mail"},
    "keys": {"asymmetric": True, "opaque": True},
}
# The runs of an instance whose keys are on, and of one whose keys were on.
RUNS = {"used": [item("acme", **OPTIONS)], "unused": [item("acme", **OPTIONS), item("acme", **{**OPTIONS, "keys": {}})]}
DAMAGES = {
    "NUL": b"\x00" * 100,
    "no UTF-8": b"\xff\xfe",
    "byte order mark": b"\xef\xbb\xbfA=1\n",
    "garbage": b"garbage\n",
    "twice": b"A=1\nA=2\n",
    "open quote": b'A="1\n',
}


def made(root: Path, keys: str = "used") -> Dict[str, Any]:
    """Make the instance acme, and beside it beta; return what is declared of acme."""
    for declared in RUNS[keys]:
        converge(root, declared, item("beta"))
    return RUNS[keys][-1]


def state_of(root: Path) -> Dict[str, Any]:
    return {path: row for path, row in snapshot(root, times=True).items() if not path.startswith("state")}


def refusal(root: Path, path: Path, declared: Mapping[str, Any], **changes: Any) -> str:
    """Return with what words a run is refused, which also has work for others; empty when it is not refused.

    Checks that it names instance and file, shows no secret and did nothing, also in check mode.
    """
    others = [item("new"), item("beta", size="large")]
    before, problems = state_of(root), []
    for check_mode in (True, False):
        try:
            converge(root, *others, declared, check_mode=check_mode, **changes)
        except MultibaseError as error:
            problems.append(str(error))
            assert "instance acme" in problems[-1] and str(path) in problems[-1]
            assert CANARY not in problems[-1]
            assert state_of(root) == before
        else:
            break
    assert len(set(problems)) in (0, 1), "check mode says something else"
    return problems[-1] if len(problems) == 2 else ""


# The .env


@pytest.mark.parametrize("keys", RUNS)
@pytest.mark.parametrize("within", [False, True], ids=["between lines", "within lines"])
def test_an_env_cut_off_anywhere(fast_path: Path, keys: str, within: bool) -> None:
    declared = made(fast_path, keys)
    path = fast_path / "projects" / "acme" / ".env"
    whole, values = path.read_bytes(), env_of(fast_path, "acme")
    secrets = secrets_of(fast_path, "acme")
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    lengths = [end - size // 2 - 1 for size, end in zip(map(len, whole.splitlines()), ends)] if within else ends
    assert len(lengths) > 120
    for number, length in enumerate(lengths[:-1]):
        path.write_bytes(whole[:length])
        keep = number % 2 == 1
        problem = refusal(fast_path, path, item("acme") if keep else declared, keep_unmentioned=keep)
        assert problem, "cut off after {0} of {1} bytes, and taken".format(length, len(whole))
        assert_no_secret(problem, secrets, "message")
    # The last line repeats what another line says: nothing is lost with it.
    cut_off = whole[: lengths[-1]]
    path.write_bytes(cut_off)
    refused = tried(lambda: converge(fast_path, declared))
    assert path.read_bytes() == (cut_off if refused else whole)
    path.write_bytes(whole)
    assert not converge(fast_path, declared)[0].changed and env_of(fast_path, "acme") == values


@pytest.mark.parametrize("keys", RUNS)
@pytest.mark.parametrize("how", ["removed", "emptied", "changed"])
def test_an_optional_key_that_is_not_what_it_was(fast_path: Path, keys: str, how: str) -> None:
    declared = made(fast_path, keys)
    path = fast_path / "projects" / "acme" / ".env"
    whole, values = path.read_text(encoding="utf-8"), env_of(fast_path, "acme")
    for key in OPTIONAL:
        name = key if keys == "used" else UNUSED + key
        value = values[name]
        middle = len(value) // 2
        changed = value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :]
        line = {"removed": "", "emptied": name + "=\n", "changed": "{0}={1}\n".format(name, changed)}[how]
        path.write_text(whole.replace("{0}={1}\n".format(name, value), line), encoding="utf-8")
        problem = refusal(fast_path, path, declared)
        assert key in problem, name
        assert value not in problem and changed not in problem
    path.write_text(whole, encoding="utf-8")
    assert not converge(fast_path, declared)[0].changed


def test_keys_of_another_instance_are_named(fast_path: Path) -> None:
    # Whole, valid and unused before: only the record says that they are not this instance's own.
    declared = made(fast_path)
    converge(fast_path, item("beta", keys=OPTIONS["keys"]))
    path, others = fast_path / "projects" / "acme" / ".env", env_of(fast_path, "beta")
    text, values = path.read_text(encoding="utf-8"), env_of(fast_path, "acme")
    for name in ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"):
        text = text.replace(values[name], others[name])
    path.write_text(text, encoding="utf-8")
    result = converge(fast_path, declared)[0]
    assert len(result.warnings) == 1 and "instance acme" in result.warnings[0]
    assert "SUPABASE_PUBLISHABLE_KEY" in result.warnings[0] and "SUPABASE_SECRET_KEY" in result.warnings[0]
    assert env_of(fast_path, "acme")["SUPABASE_SECRET_KEY"] == others["SUPABASE_SECRET_KEY"], "kept"


# Environment files


@pytest.mark.parametrize("keep", [False, True], ids=["declared", "kept"])
@pytest.mark.parametrize("service", ["auth", "functions"])
def test_an_environment_file_cut_off_anywhere(fast_path: Path, service: str, keep: bool) -> None:
    declared = made(fast_path)
    relative = "env/{0}.env".format(service)
    path = fast_path / "projects" / "acme" / relative
    whole = path.read_bytes()
    refused = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            results = converge(fast_path, item("acme") if keep else declared, keep_unmentioned=keep)
        except MultibaseError as error:
            refused += 1
            assert "instance acme" in str(error) and str(path) in str(error) and CANARY not in str(error)
            assert path.read_bytes() == whole[:length]
        else:
            assert path.read_bytes() == whole, "cut off after {0} bytes, and taken".format(length)
            assert results[0].actions == ["changed " + relative], "named as changed"
    assert refused > 10


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("keep", [False, True], ids=["declared", "kept"])
def test_a_damaged_environment_file_is_refused(fast_path: Path, damage: str, keep: bool) -> None:
    declared = made(fast_path)
    path = fast_path / "projects" / "acme" / "env" / "auth.env"
    path.write_bytes(DAMAGES[damage])
    assert refusal(fast_path, path, item("acme") if keep else declared, keep_unmentioned=keep)
    assert path.read_bytes() == DAMAGES[damage]
    assert converge(fast_path, item("beta"))[0].changed is False, "the others can be worked on"


def test_a_lost_environment_file_is_made_anew_from_the_declaration_only(fast_path: Path) -> None:
    declared = made(fast_path)
    path = fast_path / "projects" / "acme" / "env" / "auth.env"
    whole = path.read_bytes()
    path.unlink()
    problem = refusal(fast_path, path, item("acme", size="large"), keep_unmentioned=True)
    assert SECRET in problem and not path.exists()
    result = converge(fast_path, declared)[0]
    assert result.actions == ["changed env/auth.env"] and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [("env/auth.env", SECRET, CANARY + "github"), (".env", "SMTP_PASS", CANARY + "mail")],
)
def test_a_secret_of_the_user_that_was_edited_is_named(fast_path: Path, file: str, name: str, value: str) -> None:
    declared = made(fast_path)
    path = fast_path / "projects" / "acme" / file
    whole = path.read_text(encoding="utf-8")
    edited = whole.replace(value, "edited-by-hand")
    assert edited != whole
    path.write_text(edited, encoding="utf-8")
    # Declared, it becomes what is declared, and the run says in which file.
    result = converge(fast_path, declared)[0]
    assert result.actions == ["changed " + file] and path.read_text(encoding="utf-8") == whole
    # Kept as it is, nothing but a warning can tell.
    path.write_text(edited, encoding="utf-8")
    result = converge(fast_path, item("acme"), keep_unmentioned=True)[0]
    assert path.read_text(encoding="utf-8") == edited
    assert [name in warning and "instance acme" in warning for warning in result.warnings] == [True]
    assert "edited-by-hand" not in str(result.warnings)


# The registry


def test_the_lost_registry_of_a_hundred_is_rebuilt(fast_path: Path) -> None:
    items = [item("i{0:03d}".format(number), port_base=None) for number in range(100)]
    converge(fast_path, *items)
    # Some go, so that blocks are no simple count, and some take their places.
    gone = [item["name"] for item in items[10:20]]
    converge(fast_path, *[item(name, "absent") for name in gone], confirmed=frozenset(gone))
    converge(fast_path, *[item("late{0}".format(number)) for number in range(10)])
    path = fast_path / "registry.json"
    whole, rows = path.read_bytes(), registry_of(fast_path)
    assert len(rows) == 100
    before = state_of(fast_path / "projects")
    for length in (None, 0, 1, *range(100, len(whole), 1500), len(whole) - 2):
        path.unlink()
        if length is not None:
            path.write_bytes(whole[:length])
        assert converge(fast_path, item("i000"), item("late3"))[0].changed is False
        assert path.read_bytes() == whole, "cut off after {0} bytes".format(length)
    assert state_of(fast_path / "projects") == before
    path.unlink()
    assert converge(fast_path, item("new"))[0].ports["gateway_http"] == 21000
    assert {name: registry_of(fast_path)[name] for name in rows} == rows


CONTRADICTIONS: Dict[str, Callable[[Dict[str, Any]], Any]] = {
    "other ports": lambda rows: rows["acme"].update(port_base=20500),
    "another's ports": lambda rows: rows["acme"].update(port_base=rows["beta"]["port_base"]),
    "another's subnet": lambda rows: rows["acme"].update(subnet=rows["beta"]["subnet"]),
    "a row too many": lambda rows: rows.update(ghost={**rows["acme"], "port_base": 20020}),
    "a row too few": lambda rows: rows.pop("acme"),
    "rows exchanged": lambda rows: rows.update(acme=rows["beta"], beta=rows["acme"]),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_registry_that_contradicts_the_manifests_is_put_right(fast_path: Path, what: str) -> None:
    converge(fast_path, item("acme"), item("beta"))
    path = fast_path / "registry.json"
    whole, before = path.read_bytes(), state_of(fast_path / "projects")
    data = json.loads(whole)
    CONTRADICTIONS[what](data["instances"])
    path.write_text(json.dumps(data), encoding="utf-8")
    assert path.read_bytes() != whole
    assert not any(result.changed for result in converge(fast_path, item("acme"), item("beta")))
    assert path.read_bytes() == whole and state_of(fast_path / "projects") == before
    assert converge(fast_path, item("gamma"))[0].ports["gateway_http"] == 20020


def said(root: Path, *items: Mapping[str, Any]) -> str:
    """Return everything that a run says: warnings, and why it was refused."""
    converger = Converger(request(root), lambda: None)
    results: List[Result] = []
    problem = ""
    with quiet_host():
        try:
            results = converger.run(list(items))
        except MultibaseError as error:
            problem = str(error)
    return "\n".join([problem, *converger.warnings, *(text for result in results for text in result.warnings)])


@pytest.mark.parametrize("field", ["port_base", "subnet", "project"])
@pytest.mark.parametrize("declared", ["both", "another"])
def test_two_manifests_that_claim_the_same_are_reported(fast_path: Path, field: str, declared: str) -> None:
    converge(fast_path, item("acme"), item("beta"))
    path = fast_path / "projects" / "beta" / "instance.json"
    claimed = manifest_of(fast_path, "acme")[field]
    path.write_text(json.dumps({**manifest_of(fast_path, "beta"), field: claimed}), encoding="utf-8")
    before = {name: env_of(fast_path, name) for name in ("acme", "beta")}
    text = said(fast_path, *([item("acme"), item("beta")] if declared == "both" else [item("new")]))
    assert "acme" in text and "beta" in text and str(claimed) in text
    assert {name: env_of(fast_path, name) for name in ("acme", "beta")} == before, "nobody's ports move"


def test_a_copy_under_another_name_is_reported(fast_path: Path) -> None:
    converge(fast_path, item("acme"))
    projects = fast_path / "projects"
    shutil.copytree(projects / "acme", projects / "twin")
    for path in (projects / "twin" / ".env", projects / "twin" / "instance.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("acme", "twin"), encoding="utf-8")
    assert manifest_of(fast_path, "twin")["name"] == "twin"
    before = env_of(fast_path, "acme")
    text = said(fast_path, item("acme"), item("twin"))
    assert "acme" in text and "twin" in text and "20000" in text
    assert env_of(fast_path, "acme") == before
