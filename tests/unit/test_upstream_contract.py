# SPDX-License-Identifier: GPL-3.0-or-later
"""Our stack against the facts about upstream's (tests/contract/upstream-0.8.2.yml), after Compose has resolved ours.

Compared are images, variables and what they are made of, ports, mounts, health checks, commands, dependencies and
whatever else a service has; for the base and for every overlay. Both sides must agree: a difference that the list of
deviations does not have fails, and a deviation that is no difference any more fails as well.
"""

from __future__ import annotations

import copy
import fnmatch
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

import pytest
import yaml

from ansible_collections.multibase.supabase.plugins.module_utils._routes import CLUSTER_PORTS
from contract import stack

FACTS: Dict[str, Any] = yaml.load(
    (Path(__file__).resolve().parents[1] / "contract" / "upstream-0.8.2.yml").read_text(encoding="utf-8"), stack.Loader
)
# Ours for each of upstream's overlays: the files, and the image of an alternative where that is all there is to it.
OURS: Dict[str, Tuple[Tuple[str, ...], str]] = {
    "logs": (("overlays/logs.yml",), ""),
    "kong": (("overlays/kong.yml",), "kong"),
    "pg15": ((), "pg15"),
    "pgbouncer": (("overlays/pgbouncer.yml",), ""),
    "s3": (("overlays/s3.yml",), ""),
}
REFERENCE = re.compile(r"\$\{([A-Z0-9_]+)\}")
MISSING = "nothing"
# What is compared under a name of its own; any other key of a resolved service is a difference as it stands.
COMPARED = {
    "command", "container_name", "depends_on", "entrypoint", "environment", "healthcheck", "image", "networks", "ports",
    "restart", "security_opt", "volumes",
}  # fmt: skip

Tree = Dict[str, Any]
Differences = Dict[str, Tuple[Any, Any]]


def values_of(overlay: str) -> Dict[str, str]:
    """Return the `.env` that ours is resolved with: every variable has a value, so that its effect can be seen."""
    values = stack.variables()
    for name in stack.DEFINITION["variables"]["may_be_empty"]:
        values[name] = stack.canary(name)
    # Two variables that Compose wants as numbers, as other ones that they could be mistaken for are.
    values["POSTGRES_PORT"] = "28105"
    off = stack.DEFINITION["off"] if overlay != "logs" else ["pgbouncer"]
    if overlay == "pgbouncer":
        off = ["analytics", "vector", "supavisor"]
    values["COMPOSE_PROFILES"] = ",".join(sorted(stack.SERVICES - stack.ALWAYS - set(off)))
    alternative = OURS[overlay][1] if overlay else ""
    if alternative:
        changed = stack.DEFINITION["alternatives"][alternative]
        values[stack.variable("IMAGE", changed["service"])] = changed["images"]["upstream"]
    return values


def upstream(overlay: str) -> Tree:
    """Return upstream's services with one of its overlays, or "" for none."""
    services: Tree = copy.deepcopy(FACTS["services"])
    if not overlay:
        return services
    changes = FACTS["overlays"][overlay]
    services.update(copy.deepcopy(changes.get("adds", {})))
    services.update(copy.deepcopy(changes.get("replaces", {})))
    for name in changes.get("removes", []):
        del services[name]
    for name, change in changes.get("changes", {}).items():
        for key, value in change.items():
            if isinstance(value, dict):
                services[name].setdefault(key, {}).update(value)
            else:
                services[name][key] = value
    return services


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Return a fact with the values of its variables; one that ours does not have at all gets a value of its own."""
    return REFERENCE.sub(lambda match: values.get(match.group(1), stack.canary(match.group(1))), text)


def seconds(text: str) -> int:
    """Return a duration as Compose prints it (1m30s) in seconds."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    assert parts and text, text
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + rest


def mounts_of_ours(service: Tree) -> Dict[str, str]:
    return {
        mount["target"]: mount["source"] if mount["type"] == "volume" else ("ro" if mount.get("read_only") else "rw")
        for mount in service.get("volumes", [])
    }


def flat_fact(name: str, fact: Tree, values: Mapping[str, str]) -> Dict[str, Any]:
    """Return a service of upstream as path -> value."""
    found: Dict[str, Any] = {
        name + ".image": fact["image"],
        name + ".restart": FACTS["restart"],
    }
    if "container_name" in fact:
        found[name + ".container_name"] = fact["container_name"]
    for alias in fact.get("aliases", []):
        found["{0}.aliases.{1}".format(name, alias)] = True
    for option in fact.get("security", []):
        found["{0}.security_opt.{1}".format(name, option)] = True
    for port in fact.get("published", []):
        host, _, target = port.rpartition(":")
        found["{0}.published.{1}".format(name, target)] = filled_in(host, values)
    for key, value in fact.get("environment", {}).items():
        found["{0}.environment.{1}".format(name, key)] = filled_in(value, values)
    for target, mode in fact.get("mounts", {}).items():
        found["{0}.mounts.{1}".format(name, target)] = mode
    for other, state in fact.get("depends_on", {}).items():
        found["{0}.depends_on.{1}".format(name, other)] = state
    for key in ("command", "entrypoint"):
        if key in fact:
            found["{0}.{1}".format(name, key)] = fact[key]
    for key, value in fact.get("healthcheck", {}).items():
        if key == "words":
            value = [filled_in(word, values) for word in value]
        found["{0}.healthcheck.{1}".format(name, key)] = value
    return found


def flat_ours(name: str, service: Tree) -> Dict[str, Any]:
    """Return a resolved service of ours as path -> value. Commands and tests are one text, in which words are found."""
    found: Dict[str, Any] = {
        "{0}.{1}".format(name, key): True for key, value in service.items() if key not in COMPARED and value is not None
    }
    for key in ("image", "restart", "container_name"):
        if key in service:
            found["{0}.{1}".format(name, key)] = service[key]
    for alias in (service["networks"]["default"] or {}).get("aliases", []):
        found["{0}.aliases.{1}".format(name, alias)] = True
    for option in service.get("security_opt", []):
        found["{0}.security_opt.{1}".format(name, option)] = True
    for port in service.get("ports", []):
        found["{0}.published.{1}".format(name, port["target"])] = port["published"]
        found[name + ".published.host_ip"] = port["host_ip"]
    for key, value in service.get("environment", {}).items():
        # `config` writes a literal dollar doubled, as its output is a Compose file again.
        found["{0}.environment.{1}".format(name, key)] = value.replace("$$", "$")
    for target, mode in mounts_of_ours(service).items():
        found["{0}.mounts.{1}".format(name, target)] = mode
    for other, dependency in service.get("depends_on", {}).items():
        state = dependency["condition"].replace("service_", "")
        optional = "" if dependency["required"] else ", if it is there"
        found["{0}.depends_on.{1}".format(name, other)] = state + optional
    for key in ("command", "entrypoint"):
        if service.get(key):
            found["{0}.{1}".format(name, key)] = " ".join(service[key]).replace("$$", "$")
    check = service.get("healthcheck", {})
    for key, value in check.items():
        if key == "test":
            found[name + ".healthcheck.words"] = " ".join(value).replace("$$", "$")
        else:
            found["{0}.healthcheck.{1}".format(name, key)] = value if key == "retries" else seconds(value)
    return found


def same(theirs: Any, mine: Any) -> bool:
    """Compare a fact with ours: words must be there, in their order; anything else must be equal."""
    if isinstance(theirs, list):
        position = 0
        for word in theirs:
            position = str(mine).find(word, position)
            if position < 0:
                return False
        return True
    return bool(theirs == mine)


def differences(theirs: Tree, data: Tree, values: Mapping[str, str]) -> Differences:
    """Return path -> (upstream's, ours) wherever they differ."""
    ours = data["services"]
    found: Differences = {}
    for name in sorted(set(theirs) ^ set(ours)):
        found[name] = (theirs.get(name) and "there", ours.get(name) and "there")
    for name in sorted(set(theirs) & set(ours)):
        left, right = flat_fact(name, theirs[name], values), flat_ours(name, ours[name])
        for path in sorted(set(left) | set(right)):
            one, other = left.get(path, MISSING), right.get(path, MISSING)
            if not same(one, other):
                found[path] = (one, other)
    return found


def top_differences(data: Tree) -> Differences:
    """Return the differences outside services."""
    found: Differences = {}
    if data["name"] != FACTS["project"]:
        found["project"] = (FACTS["project"], data["name"])
    for name in sorted(set(FACTS["volumes"]) ^ set(data["volumes"])):
        found["volumes." + name] = (name in FACTS["volumes"], name in data["volumes"])
    for name, volume in data["volumes"].items():
        for key in sorted(set(volume) - {"name"}):
            found["volumes.{0}.{1}".format(name, key)] = (MISSING, volume[key])
    for name, network in data["networks"].items():
        for key in sorted(set(network) - {"name"}):
            found["networks.{0}.{1}".format(name, key)] = (MISSING, network[key])
    return found


def patterns(deviations: Sequence[Mapping[str, Any]]) -> List[str]:
    """Return the paths that deviations name."""
    return [path for deviation in deviations for path in deviation["where"]]


def covered(path: str, wanted: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in wanted)


def unlisted(found: Differences, wanted: Sequence[str]) -> Differences:
    """Return the differences that no deviation explains."""
    return {path: sides for path, sides in found.items() if not covered(path, wanted)}


def unneeded(found: Differences, wanted: Sequence[str]) -> Set[str]:
    """Return the paths of deviations that no difference needs."""
    return {pattern for pattern in wanted if not any(fnmatch.fnmatchcase(path, pattern) for path in found)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stack.check_compose()
    directory = tmp_path_factory.mktemp("contract") / "project"
    shutil.copytree(stack.RELEASE, directory)
    return directory


def compare(project: Path, overlay: str) -> Differences:
    values = values_of(overlay)
    data = stack.config(project, OURS[overlay][0] if overlay else (), values)
    return {**differences(upstream(overlay), data, values), **top_differences(data)}


def test_base(project: Path) -> None:
    found = compare(project, "")
    wanted = patterns(FACTS["deviations"])
    assert unlisted(found, wanted) == {}
    assert unneeded(found, wanted) == set()


@pytest.mark.parametrize("overlay", sorted(OURS))
def test_overlay(project: Path, overlay: str) -> None:
    """What an overlay changes differs from upstream's only as its own list says, beside what the base's list says."""
    found = compare(project, overlay)
    own = patterns(FACTS["overlays"][overlay].get("deviations", []))
    assert unlisted(found, own + patterns(FACTS["deviations"])) == {}
    assert unneeded(unlisted(found, patterns(FACTS["deviations"])), own) == set()


def test_every_overlay_of_upstream_is_accounted_for() -> None:
    assert set(FACTS["overlays"]) == set(OURS)
    assert not set(FACTS["not_offered"]) & set(OURS)


def test_every_deviation_has_a_reason() -> None:
    lists = [FACTS["deviations"], *(overlay.get("deviations", []) for overlay in FACTS["overlays"].values())]
    for deviation in (item for entries in lists for item in entries):
        assert set(deviation) == {"where", "reason"}
        assert len(deviation["reason"].split()) >= 3, deviation
    for reason in [*FACTS["not_offered"].values(), *FACTS["dotenv_deviations"].values()]:
        assert len(reason.split()) >= 3, reason


def test_variables_of_upstreams_env() -> None:
    """Each is in use in our Compose files, or it is said why it is not."""
    declared = {name for names in stack.DEFINITION["variables"].values() for name in names}
    theirs = set(FACTS["dotenv"])
    assert theirs - declared == set(FACTS["dotenv_deviations"])


def test_services_listen_where_the_gateway_expects_them() -> None:
    ports = {name: fact["listens"] for name, fact in FACTS["services"].items() if "listens" in fact}
    assert {name: ports[name] for name in CLUSTER_PORTS} == CLUSTER_PORTS


def test_a_difference_is_found(project: Path) -> None:
    """The comparison itself: a stack that differs in one place of each kind is not taken for the same."""
    values = values_of("")
    data = stack.config(project, (), values)
    known = differences(upstream(""), data, values)
    services = data["services"]
    del services["auth"]["environment"]["GOTRUE_SITE_URL"]
    services["auth"]["environment"]["GOTRUE_NEW"] = "1"
    services["rest"]["environment"]["PGRST_DB_URI"] = "postgres://elsewhere"
    services["rest"]["image"] = "postgrest/postgrest:v1"
    services["rest"]["command"] = ["other"]
    services["meta"]["depends_on"]["rest"] = {"condition": "service_started", "required": True}
    services["studio"]["volumes"][1]["read_only"] = False
    services["studio"]["privileged"] = True
    services["imgproxy"]["healthcheck"]["test"] = ["CMD", "true"]
    services["supavisor"]["ports"][1]["published"] = "6543"
    services["api-gw"]["networks"]["default"]["aliases"].remove("kong")
    services["functions"]["ports"] = [{"target": 9000, "published": "9000", "host_ip": "0.0.0.0"}]
    del services["realtime"]
    changed = differences(upstream(""), data, values)
    assert changed.pop("realtime") == ("there", None)
    assert {path for path, sides in changed.items() if known.get(path) != sides} == {
        "auth.environment.GOTRUE_SITE_URL",
        "auth.environment.GOTRUE_NEW",
        "rest.environment.PGRST_DB_URI",
        "rest.image",
        "rest.command",
        "meta.depends_on.rest",
        "studio.mounts./app/edge-functions",
        "studio.privileged",
        "imgproxy.healthcheck.words",
        "supavisor.published.6543",
        "api-gw.aliases.kong",
        "functions.published.9000",
        "functions.published.host_ip",
    }
