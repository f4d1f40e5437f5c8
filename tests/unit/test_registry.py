# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry: an index over the manifests that can be lost, and in which one broken instance harms no other."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _registry
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, StateCorrupt
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._registry import Allocation
from unit.support import converge, env_of, item, registry_of, secrets_of, snapshot

DAMAGED = [
    b"", b"{", b"\xff\xfe", b"null", b"[]", b"5", b'"x"', b"{}", b'{"schema": 1}', b'{"schema": 1, "name": "acme"}',
    b'{"schema": 1, "name": "other", "port_base": 20000, "subnet": "10.213.0.0/26", "project": "x"}',
    b'{"schema": 2, "name": "acme", "port_base": 20000, "subnet": "10.213.0.0/26", "project": "multibase-acme"}',
    b'{"schema": 1, "name": "acme", "port_base": "many", "subnet": "10.213.0.0/26", "project": "multibase-acme"}',
    b'{"schema": 1, "name": "acme", "port_base": null, "subnet": null, "project": null}',
]  # fmt: skip


def manifest(root: Path, name: str) -> Path:
    return root / "projects" / name / "instance.json"


def test_rows_and_bytes() -> None:
    rows = {"b": Allocation(20010, "10.213.0.64/26", "multibase-b"), "a": Allocation(20000, "10.213.0.0/26", "p")}
    text = _registry.render(rows)
    assert text == _registry.render(dict(reversed(list(rows.items()))))
    assert json.loads(text) == {
        "schema": 1,
        "instances": {
            "a": {"port_base": 20000, "subnet": "10.213.0.0/26", "project": "p"},
            "b": {"port_base": 20010, "subnet": "10.213.0.64/26", "project": "multibase-b"},
        },
    }


def test_saving_writes_only_what_differs(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    rows = {"a": Allocation(20000, "10.213.0.0/26", "p")}
    assert _registry.save(layout, rows) is True
    assert stat.S_IMODE(os.stat(layout.registry).st_mode) == 0o600
    before = snapshot(tmp_path, times=True)
    assert _registry.save(layout, rows) is False
    assert snapshot(tmp_path, times=True) == before


@pytest.mark.parametrize("damage", [None, *DAMAGED, b'{"instances": []}', b'{"instances": {"acme": 5}}'])
def test_a_lost_or_damaged_registry_is_rebuilt(tmp_path: Path, damage: Any) -> None:
    converge(tmp_path, item("acme"), item("beta", port_base=25000))
    before = registry_of(tmp_path)
    if damage is None:
        (tmp_path / "registry.json").unlink()
    else:
        (tmp_path / "registry.json").write_bytes(damage)
    results = converge(tmp_path, item("acme"), item("beta", port_base=25000), item("gamma"))
    assert [result.changed for result in results] == [False, False, True]
    after = registry_of(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after["gamma"]["port_base"] == 20010


def test_rows_without_an_instance_free_their_block(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    shutil.rmtree(tmp_path / "projects" / "acme")
    converge(tmp_path, item("gamma"))
    assert registry_of(tmp_path)["gamma"]["port_base"] == 20000
    assert set(registry_of(tmp_path)) == {"beta", "gamma"}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_manifest_stops_its_own_instance_only(tmp_path: Path, damage: bytes) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    row, before = registry_of(tmp_path)["acme"], snapshot(tmp_path / "projects" / "acme")
    manifest(tmp_path, "acme").write_bytes(damage)
    results = converge(tmp_path, item("beta", size="large"), item("gamma"))
    assert all(result.changed for result in results)
    assert registry_of(tmp_path)["acme"] == row, "its block stays reserved"
    assert len({entry["port_base"] for entry in registry_of(tmp_path).values()}) == 3
    with pytest.raises((InvalidInput, StateCorrupt)) as caught:
        converge(tmp_path, item("acme"))
    assert "acme" in str(caught.value) and "instance.json" in str(caught.value)
    after = snapshot(tmp_path / "projects" / "acme")
    assert {path for path in after if after[path] != before.get(path)} == {"instance.json"}


@pytest.mark.parametrize("damage", DAMAGED[:6])
def test_a_damaged_manifest_without_a_registry_does_not_stop_others(tmp_path: Path, damage: bytes) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    manifest(tmp_path, "acme").write_bytes(damage)
    (tmp_path / "registry.json").unlink()
    assert converge(tmp_path, item("beta"), item("gamma"))[1].changed
    used = {int(env_of(tmp_path, name)["API_GW_HTTP_PORT"]) for name in ("acme", "beta", "gamma")}
    assert used == {20000, 20010, 20020}, "its .env still tells which ports are its own"


def test_a_lost_manifest_keeps_ports_and_secrets(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    before = secrets_of(tmp_path, "acme")
    manifest(tmp_path, "acme").unlink()
    assert converge(tmp_path, item("gamma"))[0].ports["gateway_http"] == 20020
    assert registry_of(tmp_path)["gamma"]["subnet"] not in ("10.213.0.0/26", "10.213.0.64/26")
    with pytest.raises((InvalidInput, StateCorrupt)) as caught:
        converge(tmp_path, item("acme"))
    assert "acme" in str(caught.value)
    assert secrets_of(tmp_path, "acme") == before


@pytest.mark.parametrize("copy", ["copy", "acme.bak", "acme (copy)"])
def test_a_copied_directory_stops_nothing_and_is_no_instance(tmp_path: Path, copy: str) -> None:
    converge(tmp_path, item("acme"))
    shutil.copytree(tmp_path / "projects" / "acme", tmp_path / "projects" / copy)
    before = snapshot(tmp_path / "projects" / copy)
    results = converge(tmp_path, item("acme"), item("beta"))
    assert [result.changed for result in results] == [False, True]
    assert results[1].ports["gateway_http"] == 20010
    assert set(registry_of(tmp_path)) == {"acme", "beta"}
    assert snapshot(tmp_path / "projects" / copy) == before


def test_a_manifest_from_the_future_is_refused(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    data = json.loads(manifest(tmp_path, "acme").read_text())
    manifest(tmp_path, "acme").write_text(json.dumps({**data, "schema": data["schema"] + 1}))
    before = snapshot(tmp_path, times=True)
    with pytest.raises((InvalidInput, StateCorrupt), match="newer"):
        converge(tmp_path, item("acme", size="large"))
    assert {name: row for name, row in snapshot(tmp_path, times=True).items() if "locks" not in name} == {
        name: row for name, row in before.items() if "locks" not in name
    }


def test_unfinished_directories_are_no_instances(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    for prefix in (".staging-", ".deleting-"):
        shutil.copytree(tmp_path / "projects" / "acme", tmp_path / "projects" / (prefix + "beta"))
    assert Layout(str(tmp_path)).instance_names() == ["acme"]
    converge(tmp_path, item("acme"))
    assert os.listdir(tmp_path / "projects") == ["acme"]
