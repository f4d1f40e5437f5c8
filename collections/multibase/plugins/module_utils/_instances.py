# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Makes the instances of a host what was declared: validate all, lock, allocate, generate, render, compare, publish."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Collection,
    ContextManager,
    Dict,
    FrozenSet,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from . import _envfile, _lock, _names, _registry, _secrets, _spec
from ._engine import Engine
from ._errors import InvalidInput, LibraryMissing, MultibaseError, StateCorrupt
from ._host import HostView
from ._layout import (
    ENV_FILE,
    ENVIRONMENT_DIRECTORY,
    MANIFEST_FILE,
    OVERRIDE_FILE,
    REMOVAL_PREFIX,
    STAGING_PREFIX,
    Layout,
    environment_file,
)
from ._names import project_name
from ._ports import PortRange, allocate_block
from ._publish import FileSet, Publisher, discard_temporary_files, sync_directory
from ._registry import Allocation
from ._release import Release
from ._render import (
    ENVIRONMENT_END,
    ENVIRONMENT_FIRST_LINES,
    GATEWAY_FILES,
    START_INTERVAL_ENGINE,
    HostFacts,
    HostFiles,
    Rendered,
    env_names,
    render_instance,
)
from ._settings import SETTINGS
from ._sizes import SIZES, Capacity, Size, overcommitment
from ._subnets import SubnetAllocator, parse_network

_DIRECTORY_MODE = 0o700


@dataclass(frozen=True)
class Request:
    """What the user asked of a host, but for the instances themselves."""

    layout: Layout
    releases: Mapping[str, Release]
    ports: PortRange
    subnet_pool: Any
    layers: _spec.Layers
    keep_unmentioned: bool
    confirmed: FrozenSet[str]
    lock_timeout: float
    check_mode: bool
    with_diff: bool
    capacity: Capacity
    now: int


@dataclass
class Result:
    """What was done, or in check mode would be done, to one instance."""

    name: str
    state: str
    changed: bool = False
    actions: List[str] = field(default_factory=list)
    ports: Mapping[str, int] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, Sequence[str]] = field(default_factory=dict)
    directory: str = ""
    warnings: List[str] = field(default_factory=list)
    diff: List[Dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> Dict[str, Any]:
        """Return what a module returns of it."""
        return {
            "name": self.name,
            "state": self.state,
            "changed": self.changed,
            "actions": self.actions,
            "ports": dict(self.ports),
            "urls": dict(self.urls),
            "env": {place: list(names) for place, names in self.env.items()},
            "directory": self.directory,
        }


@dataclass(frozen=True)
class Existing:
    """An instance that is on the host: its manifest, the text of its ``.env`` and the variables in it.

    ``environments`` are the variables of its environment files, by service.
    """

    manifest: Mapping[str, Any]
    variables: Mapping[str, str]
    text: str
    environments: Mapping[str, Mapping[str, str]]

    @property
    def user_secrets(self) -> Mapping[str, Sequence[str]]:
        """Names of the secrets that the user declared when it was last written, by place."""
        # Earlier versions knew one, and did not record it.
        earlier = {"": ["SMTP_PASS"] if self.variables.get("SMTP_PASS") else []}
        recorded: Mapping[str, Sequence[str]] = self.manifest.get("user_secrets", earlier)
        return recorded

    @property
    def secrets_by_hand(self) -> FrozenSet[str]:
        """Names of the secrets in ``.env`` that the user has an option for, but put there by hand."""
        declared = self.user_secrets.get("", ())
        return frozenset(name for name in _secrets.USER_NAMES if self.variables.get(name) and name not in declared)

    def confidential_texts(self) -> FrozenSet[str]:
        """Return all that must not be shown of it: its secrets, the user's, and what was added to ``.env`` by hand."""
        texts = _secrets.confidential_texts(self.variables)
        ours = self.manifest.get("variables") or self.variables
        texts.update(value for name, value in self.variables.items() if name not in ours)
        for place, names in self.user_secrets.items():
            texts.update(self.environments.get(place, {}).get(name, "") for name in names)
        return frozenset(texts)


def read_existing(layout: Layout, name: str) -> Existing:
    """Read a published instance. Raises StateCorrupt, naming file and variable, when something is lost or damaged.

    A secret that was there when the file was written and is not there now is never made anew: services and data depend
    on the old one.
    """
    manifest = _registry.read_manifest(layout, name)
    path = layout.env(name)
    text = _read_text(path)
    ours = manifest.get("variables") or ()
    variables = _envfile.parse(text, path, plain=frozenset(ours))
    lost = [secret for secret in sorted(manifest.get("secrets") or {}) if not _secrets.is_kept(variables, secret)]
    salt = str(manifest.get("salt", ""))
    lost += [
        name
        for name, recorded in sorted((manifest.get("put_aside") or {}).items())
        if not _secrets.is_aside(variables, name)
        # A run that was killed may have put it back in use without recording that.
        and _secrets.fingerprint(variables.get(name, ""), salt) != recorded
    ]
    # The user's own may be empty. What is derived comes last: a file that does not name it was cut off.
    last = _secrets.USER_NAMES + _secrets.DERIVED_NAMES
    lost += [name for name in last if name in ours and name not in variables]
    if lost:
        raise StateCorrupt(
            "{0} lacks {1}, which it had when it was written. Put the file back from a backup; it is not made anew, "
            "because the database knows the old values".format(path, ", ".join(lost))
        )
    try:
        wrong = _secrets.problems(variables)
    except LibraryMissing:
        # Without the library its keys cannot be verified, but it can still be looked at and stopped.
        wrong = []
    if wrong:
        raise StateCorrupt("{0}: {1}".format(path, "; ".join(wrong)))
    return Existing(manifest, variables, text, _read_environments(layout.project(name), manifest))


def _read_text(path: str) -> str:
    """Return the text of a file, empty when there is none. Raises StateCorrupt when it is not UTF-8."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise StateCorrupt("{0} is not UTF-8 text; it is damaged".format(path)) from error


def _read_environments(directory: str, manifest: Mapping[str, Any]) -> Dict[str, Dict[str, str]]:
    environments = {}
    for relative in manifest.get("managed") or ():
        parent, name = os.path.split(relative)
        if parent == ENVIRONMENT_DIRECTORY:
            path = os.path.join(directory, relative)
            service = name[: -len(".env")]
            kept = frozenset((manifest.get("user_secrets") or {}).get(service, ()))
            text = _read_text(path)
            environments[service] = _envfile.parse(text, path, plain=kept)
            # Of a file that was cut off the last value may be half of one.
            if text and ENVIRONMENT_END not in text:
                raise StateCorrupt(
                    "{0} was cut off: its last line is missing. Put it back from a backup, or remove it and declare "
                    "all of it again".format(path)
                )
    return environments


def edited_secrets(existing: Existing) -> List[str]:
    """Return the names of generated secrets that are no longer those that were recorded."""
    return _edited(existing.manifest, existing.manifest.get("secrets") or {}, existing.variables)


def edited_user_secrets(existing: Existing) -> List[str]:
    """Return the names of secrets of the user that are there, but no longer those that were declared."""
    found: List[str] = []
    for place, recorded in sorted((existing.manifest.get("user_fingerprints") or {}).items()):
        variables = existing.environments.get(place, {}) if place else existing.variables
        found += _edited(existing.manifest, recorded, variables)
    return found


def _edited(manifest: Mapping[str, Any], recorded: Mapping[str, str], variables: Mapping[str, str]) -> List[str]:
    salt = str(manifest.get("salt", ""))
    return [
        name
        for name, fingerprint in sorted(recorded.items())
        if variables.get(name) and _secrets.fingerprint(variables[name], salt) != fingerprint
    ]


# Keys and password hashes of the gateway's file, also such as the .env no longer has.
_SHAPES = re.compile(
    r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+|(?<=\{SHA\})[A-Za-z0-9+/]{27}="
    r"|sb_(?:publishable|secret)_[A-Za-z0-9_-]{31}"
    # Kong has the dashboard's password itself.
    r'|(?<="password": ")(?:[^"\\]|\\.)+'
)


class _Redactor:
    """Replaces an instance's secrets, and the hash of the dashboard's password, by fingerprints in any text.

    ``ours`` are the variables that Multibase writes; what was added by hand is never shown.
    """

    def __init__(self, variables: Mapping[str, str], salt: str, ours: Collection[str], fresh: bool) -> None:
        self._salt = salt
        self._fresh = fresh
        self._ours = ours
        replacements: Dict[str, str] = {}
        for value in _secrets.confidential_texts(variables):
            replacements[value] = self.shown(value)
        password = variables.get("DASHBOARD_PASSWORD", "")
        if password:
            # Envoy's basic_auth knows SHA-1 only; that the hash is of 190 random bits does not make it presentable.
            digest = hashlib.sha1(password.encode("utf-8"), usedforsecurity=False).digest()
            replacements[base64.b64encode(digest).decode("ascii")] = self.shown(password)
        # With the salt, fingerprints of weak secrets could be tried out.
        replacements[salt] = "(salt)"
        self._replacements = sorted(replacements.items(), key=lambda pair: -len(pair[0]))

    def shown(self, value: str) -> str:
        return "(to be generated)" if self._fresh else _secrets.fingerprint(value, self._salt)

    def text(self, text: str) -> str:
        for value, replacement in self._replacements:
            text = text.replace(value, replacement)
        return _SHAPES.sub(lambda found: self.shown(found.group(0)), text)

    def environment(self, variables: Mapping[str, str], open_names: Collection[str]) -> str:
        """Return the variables of a service's environment file, of which only ``open_names`` may be shown."""
        return self._lines(variables, lambda name: name not in open_names)

    def env(self, variables: Mapping[str, str]) -> str:
        """Return the variables of a ``.env``. What is not ours may be anything, so it is not shown."""
        return self._lines(variables, lambda name: name in _secrets.SECRET_NAMES or name not in self._ours)

    def _lines(self, variables: Mapping[str, str], is_secret: Callable[[str], bool]) -> str:
        lines = []
        for name, value in variables.items():
            secret = is_secret(name) and value
            lines.append("{0}={1}".format(name, self.shown(value) if secret else self.text(value)))
        return "\n".join(lines) + "\n"


@dataclass
class _Plan:
    """One instance between reading and writing."""

    result: Result
    rendered: Optional[Rendered] = None
    existing: Optional[Existing] = None
    changed_files: Dict[str, Tuple[bytes, int]] = field(default_factory=dict)
    obsolete: List[str] = field(default_factory=list)
    opened: bool = False


class Converger:
    """Brings the instances of one host to what was declared. ``engine`` returns the Engine, None where none is."""

    def __init__(self, request: Request, engine: Callable[[], Optional[Engine]]) -> None:
        self._request = request
        self._layout = request.layout
        self._engine_factory = engine
        self._engine: Optional[Engine] = None
        self._engine_asked = False
        self._host = HostView(request.layout, self._engine_once)
        # What the user should know that belongs to no instance of this run.
        self.warnings: List[str] = []

    def _engine_once(self) -> Optional[Engine]:
        if not self._engine_asked:
            self._engine, self._engine_asked = self._engine_factory(), True
        return self._engine

    def run(self, items: Sequence[Mapping[str, Any]], problems: Sequence[str] = ()) -> List[Result]:
        """Converge all ``items`` (each with ``name``, ``state`` and options); return one result each, in their order.

        Raises InvalidInput with every mistake of every instance before the first write.
        """
        items = [_spec.without_unset(item) for item in items]
        request = self._request
        declared = [_spec.merge(self._under(item), item) for item in items]
        found = _spec.declaration_problems(declared, request.layers, request.releases, request.confirmed)
        self._refuse([*problems, *found])
        if not items:
            return []
        with self._locked():
            return self._converge(items)

    def _locked(self) -> ContextManager[Optional[int]]:
        if self._request.check_mode:
            return contextlib.nullcontext()
        return _lock.exclusive(self._layout.registry_lock, self._request.lock_timeout)

    @staticmethod
    def _refuse(problems: Sequence[str]) -> None:
        if problems:
            raise InvalidInput(problems)

    def _recorded(self, name: Any) -> Mapping[str, Any]:
        """Return what was declared for an instance earlier, when that is to be kept and can be read."""
        if not self._request.keep_unmentioned or _names.name_problem(name):
            return {}
        try:
            recorded = dict(_registry.read_manifest(self._layout, name).get("declared") or {})
        except StateCorrupt:
            return {}
        recorded.pop("port_base", None)
        return recorded

    def _under(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what lies under an item of what was recorded: without variables of env that it makes secrets."""
        recorded = dict(self._recorded(item["name"]))
        secrets = item.get("secrets")
        if recorded.get("env") and isinstance(secrets, Mapping):
            recorded["env"] = _without(recorded["env"], secrets)
        return recorded

    def _build(self, item: Mapping[str, Any]) -> Tuple[Optional[_spec.InstanceSpec], List[str]]:
        declared = _spec.merge(self._under(item), item)
        return _spec.build_from(declared, self._request.layers, self._request.releases)

    # With the host

    def _converge(self, items: Sequence[Mapping[str, Any]]) -> List[Result]:
        allocations = _registry.load(self._layout)
        self._report_conflicts(allocations, {str(item["name"]) for item in items if item["state"] == "present"})
        plans: Dict[str, _Plan] = {}
        present = [item for item in items if item["state"] == "present"]
        absent = [item for item in items if item["state"] == "absent"]
        problems = self._plan_present(present, allocations, plans, {str(item["name"]) for item in absent})
        problems += self._plan_absent(absent, allocations, plans)
        self._refuse(problems)
        if not self._request.check_mode:
            self._discard_leftovers(plans)
            self._publish(plans)
            self._remove([str(item["name"]) for item in absent if plans[str(item["name"])].result.changed], allocations)
            _registry.save(self._layout, allocations)
        return [plans[str(item["name"])].result for item in items]

    def _report_conflicts(self, allocations: Mapping[str, Allocation], names: Collection[str]) -> None:
        """Refuse to work on instances that claim the same; tell of others that do."""
        conflicts = _registry.conflicts(allocations)
        self._refuse([sentence for claimants, sentence in conflicts if claimants & set(names)])
        self.warnings += [sentence for _claimants, sentence in conflicts]

    def _plan_present(
        self,
        items: Sequence[Mapping[str, Any]],
        allocations: Dict[str, Allocation],
        plans: Dict[str, _Plan],
        going: Collection[str],
    ) -> List[str]:
        problems: List[str] = []
        ready: List[Tuple[_spec.InstanceSpec, Optional[Existing]]] = []
        for item in items:
            name = str(item["name"])
            try:
                known = name in allocations or os.path.isfile(self._layout.manifest(name))
                existing = read_existing(self._layout, name) if known else None
                self._refuse_foreign_directory(name, existing)
            except MultibaseError as error:
                problems.append("instance {0}: {1}".format(name, error))
                continue
            spec, found = self._build(item)
            wanted = item.get("port_base")
            if existing is not None and wanted is not None and wanted != allocations[name].port_base:
                found.append(
                    "port_base {0}: it has {1}, and ports of an instance do not move".format(
                        wanted, allocations[name].port_base
                    )
                )
            if spec is not None and existing is not None:
                found += self._directory_problems(spec) + self._data_problems(spec, existing)
            if spec is not None:
                found += self._secret_problems(spec, existing)
            problems += ["instance {0}: {1}".format(name, problem) for problem in found]
            if spec is not None and not found:
                ready.append((spec, existing))
        if problems:
            return problems
        problems = self._allocate([spec for spec, existing in ready if existing is None], allocations)
        if problems:
            return problems
        version = self._host.engine_version() if ready else None
        for spec, existing in ready:
            try:
                plans[spec.name] = self._plan_one(spec, allocations[spec.name], existing, version)
            except InvalidInput as error:
                problems += error.problems
            except MultibaseError as error:
                problems.append("instance {0}: {1}".format(spec.name, error))
        if problems:
            return problems
        return self._overcommitment(plans, allocations, going)

    def _overcommitment(self, plans: Mapping[str, _Plan], names: Collection[str], going: Collection[str]) -> List[str]:
        """Say why the host cannot bear what is planned.

        ``names`` are those of all instances that it has or gets, ``going`` of those that this run deletes.
        """
        wanted = {name: _demand(plan.rendered.manifest) for name, plan in plans.items() if plan.rendered is not None}
        had = {name: _demand(plan.existing.manifest) for name, plan in plans.items() if plan.existing is not None}
        if wanted == had:
            return []
        for name in names:
            if name not in wanted:
                with contextlib.suppress(StateCorrupt):
                    had[name] = _demand(_registry.read_manifest(self._layout, name))
                    if name not in going:
                        wanted[name] = had[name]
        problem = overcommitment(list(had.items()), list(wanted.items()), self._request.capacity)
        return [problem] if problem else []

    def _directory_problems(self, spec: _spec.InstanceSpec) -> List[str]:
        """Say what of an existing instance must not be written to, or not be made anew."""
        directory = self._layout.project(spec.name)
        release = self._request.releases[spec.options["release"]]
        problems = [
            "{0} is missing: put it back (is a file system not mounted?). It is not made anew, because the instance "
            "would start without its data".format(os.path.join(directory, path))
            for path in release.data
            if not os.path.isdir(os.path.join(directory, path))
        ]
        # Services write below volumes/: a link there would have us, as root, write wherever it points to.
        parents = {os.path.dirname(path) for path in release.files} | set(release.directories)
        parents -= set(release.data)
        problems += [
            "{0} is a symbolic link; nothing is written through it. Put a directory in its place".format(path)
            for path in sorted(os.path.join(directory, parent) for parent in parents if parent)
            if os.path.islink(path)
        ]
        return problems

    def _data_problems(self, spec: _spec.InstanceSpec, existing: Existing) -> List[str]:
        """Say what would separate an existing instance from its data."""
        directory = self._layout.project(spec.name)
        problems: List[str] = []
        if not spec.external_database:
            major = _read_text(os.path.join(directory, "volumes/db/data/PG_VERSION")).strip()
            wanted = str(spec.options["database"]["version"])
            if major and major != wanted:
                problems.append(
                    "database.version {0}: its data is of version {1}, which Postgres {0} does not read".format(
                        wanted, major
                    )
                )
        storage = spec.options["storage"]
        moves = [
            "storage.{0} {1!r}: it has {2!r}".format(option, storage[option], existing.variables[variable])
            for option, variable in (("bucket", "GLOBAL_S3_BUCKET"), ("tenant_id", "STORAGE_TENANT_ID"))
            if existing.variables.get(variable, storage[option]) != storage[option]
        ]
        was_s3 = "overlays/s3.yml" in existing.manifest.get("overlays", ())
        if was_s3 != (storage["backend"] == "s3"):
            moves.append("storage.backend {0}: it has {1}".format(storage["backend"], "s3" if was_s3 else "file"))
        if moves and (was_s3 or _has_entries(os.path.join(directory, "volumes/storage"))):
            problems += [move + ", and its files would no longer be found" for move in moves]
        return problems

    def _secret_problems(self, spec: _spec.InstanceSpec, existing: Optional[Existing]) -> List[str]:
        secrets = self._user_secrets(spec, existing)
        problems = [
            "{0}; give it as that option, under secrets ({1}{2}) or in secrets_from".format(
                reason, place + "." if place else "", variable
            )
            for place, variable, reason in spec.needed
            if not secrets.get(place, {}).get(variable)
        ]
        if self._request.keep_unmentioned and existing is not None:
            problems += [
                "{0} lacks {1}, which it had when it was written; give that secret again".format(
                    os.path.join(self._layout.project(spec.name), environment_file(place) if place else ENV_FILE), name
                )
                for place, names in sorted(existing.user_secrets.items())
                for name in names
                if name not in secrets.get(place, {})
            ]
        known = existing is not None and _secrets.is_aside(existing.variables, "POSTGRES_PASSWORD")
        if spec.external_database and not known and spec.database_password is None:
            problems.append("database.host needs database.password, the password of the roles there")
        return problems

    def _user_secrets(self, spec: _spec.InstanceSpec, existing: Optional[Existing]) -> Dict[str, Dict[str, str]]:
        """Return the user's secrets by place: those that are given, and of the old ones those that stay.

        One that was declared once and no longer is goes, unless what is not mentioned is to be kept. One that stands in
        ``.env`` and never was declared was put there by hand, and stays.
        """
        places = {place: dict(values) for place, values in spec.secrets.items()}
        if existing is None:
            return places
        for name in existing.secrets_by_hand:
            places.setdefault("", {}).setdefault(name, existing.variables[name])
        if self._request.keep_unmentioned:
            for place, names in existing.user_secrets.items():
                found = existing.environments.get(place, {}) if place else existing.variables
                for name in names:
                    if found.get(name):
                        places.setdefault(place, {}).setdefault(name, found[name])
        return places

    def _refuse_foreign_directory(self, name: str, existing: Optional[Existing]) -> None:
        directory = self._layout.project(name)
        if existing is None and os.path.lexists(directory):
            raise StateCorrupt("{0} exists, but holds no {1}; move it away first".format(directory, MANIFEST_FILE))

    def _allocate(self, specs: Sequence[_spec.InstanceSpec], allocations: Dict[str, Allocation]) -> List[str]:
        """Give each new instance a block and a subnet; those that ask for a certain block come first."""
        if not specs:
            return []
        problems: List[str] = []
        known = list(allocations)
        taken = self._host.taken_ports(known)
        reserved = {allocation.port_base for allocation in allocations.values()}
        networks = [parse_network(allocation.subnet) for allocation in allocations.values()]
        subnets = SubnetAllocator(
            self._request.subnet_pool,
            self._host.taken_networks(known) + [network for network in networks if network is not None],
        )
        for spec in sorted(specs, key=lambda spec: spec.options.get("port_base") is None):
            try:
                base = allocate_block(self._request.ports, taken, reserved, spec.options.get("port_base"))
                reserved.add(base)
                allocations[spec.name] = Allocation(base, subnets.allocate(), project_name(spec.name))
            except MultibaseError as error:
                problems.append("instance {0}: {1}".format(spec.name, error))
        return problems

    def _plan_one(
        self,
        spec: _spec.InstanceSpec,
        allocation: Allocation,
        existing: Optional[Existing],
        engine_version: Optional[Tuple[int, ...]],
    ) -> _Plan:
        directory = self._layout.project(spec.name)
        before: Mapping[str, str] = existing.variables if existing else {}
        salt = str(existing.manifest["salt"]) if existing else _secrets.random_secret(22)
        if engine_version is None:
            start_interval = bool(existing and existing.manifest.get("start_interval"))
        else:
            start_interval = engine_version >= START_INTERVAL_ENGINE
        secrets = self._user_secrets(spec, existing)
        secrets[""] = {**self._made_secrets(spec, before), **secrets.get("", {})}
        rendered = render_instance(
            spec,
            self._request.releases[spec.options["release"]],
            allocation,
            secrets,
            HostFacts(self._layout.root, self._request.capacity.cpus, start_interval),
            salt,
            HostFiles(
                env=existing.text if existing else "",
                ours=frozenset(existing.manifest.get("variables") or ()) | env_names(existing.text)
                if existing
                else frozenset(),
                override=os.path.isfile(os.path.join(directory, OVERRIDE_FILE)),
                secrets_by_hand=frozenset(existing.secrets_by_hand - set(spec.secrets.get("", {})))
                if existing
                else frozenset(),
            ),
        )
        result = Result(
            spec.name,
            "present",
            ports=rendered.manifest["ports"],
            urls=rendered.manifest["urls"],
            env=rendered.manifest["env"],
            directory=directory,
        )
        plan = _Plan(result, rendered, existing)
        self._refuse(_foreign_environments(directory, plan))
        self._compare(plan)
        result.warnings += ["instance {0}: {1}".format(spec.name, warning) for warning in spec.warnings]
        if spec.external_database and os.path.exists(os.path.join(directory, "volumes/db/data/PG_VERSION")):
            result.warnings.append(
                "instance {0}: it has a database of its own in volumes/db/data, which stays there unused while "
                "database.host names another one".format(spec.name)
            )
        for exposed in ("studio", "analytics"):
            if exposed in spec.options["expose"]:
                result.warnings.append(
                    "instance {0}: {1} is published on port {2} and has no login of its own there".format(
                        spec.name, exposed.capitalize(), result.ports[exposed]
                    )
                )
        if spec.size.cpus > self._request.capacity.cpus:
            result.warnings.append(
                "instance {0}: size {1} has {2:g} processors, this host has {3}; its services get those".format(
                    spec.name, rendered.manifest["size"], spec.size.cpus, self._request.capacity.cpus
                )
            )
        if existing is not None:
            expired = _secrets.expired(existing.variables, self._request.now)
            result.warnings += ["instance {0}: {1}".format(spec.name, problem) for problem in expired]
            edited = edited_user_secrets(existing)
            if edited and self._request.keep_unmentioned:
                result.warnings.append(
                    "instance {0}: {1} was changed by hand since it was declared; the new value is kept".format(
                        spec.name, ", ".join(edited)
                    )
                )
            edited = edited_secrets(existing)
            if edited:
                result.warnings.append(
                    "instance {0}: {1} in its .env was changed by hand; the new value is kept, but services that store "
                    "it elsewhere (the database its roles' passwords) do not learn of it".format(
                        spec.name, ", ".join(edited)
                    )
                )
        return plan

    def _made_secrets(self, spec: _spec.InstanceSpec, before: Mapping[str, str]) -> Dict[str, str]:
        """Return the instance's own secrets, the old and the new ones, verified when any is new."""
        keys = spec.options["keys"]
        try:
            made = _secrets.fill_in(before, self._request.now, **keys)
        except LibraryMissing as error:
            if not self._request.check_mode:
                raise InvalidInput(["instance {0}: {1}".format(spec.name, error)]) from error
            # A host that was only checked has not got the library yet. Nothing of what is made now is written or shown.
            made = _secrets.fill_in(before, self._request.now, opaque=keys["opaque"])
            missing = [name for name in _secrets.OPTIONAL_NAMES if name not in made]
            return {**made, **{name: _secrets.random_secret(64) for name in missing}}
        made = _secrets.with_database(made, spec.database_password, spec.external_database)
        known = _secrets.read_back(before)
        if any(known.get(name) != value for name, value in made.items()):
            self._refuse(["instance {0}: {1}".format(spec.name, problem) for problem in _secrets.problems(made)])
        return made

    def _compare(self, plan: _Plan) -> None:
        """Find out which files differ, and word it."""
        rendered, result = plan.rendered, plan.result
        if rendered is None:
            return
        files = dict(rendered.files)
        files[MANIFEST_FILE] = (rendered.manifest_bytes(), 0o600)
        if plan.existing is None:
            files.update(rendered.seeds)
            plan.changed_files = files
            result.changed, result.actions = True, ["created"]
            if self._request.with_diff:
                self._diff_new(plan)
            return
        for path, (content, mode) in files.items():
            if _read(os.path.join(result.directory, path)) != (content, mode):
                plan.changed_files[path] = (content, mode)
        old = {*(plan.existing.manifest.get("managed") or []), *_left_over(result.directory)}
        plan.obsolete = [
            path for path in sorted(old - set(files)) if os.path.lexists(os.path.join(result.directory, path))
        ]
        missing = [
            path for path in sorted(rendered.directories) if not os.path.isdir(os.path.join(result.directory, path))
        ]
        result.actions = ["changed " + path for path in sorted(plan.changed_files)]
        result.actions += ["removed " + path for path in plan.obsolete]
        result.actions += ["created directory " + path for path in missing]
        if stat.S_IMODE(os.stat(result.directory).st_mode) != _DIRECTORY_MODE:
            plan.opened = True
            result.actions.append("closed the directory to others")
        result.changed = bool(result.actions)
        if self._request.with_diff:
            self._diff_changed(plan)

    def _diff_new(self, plan: _Plan) -> None:
        if plan.rendered is None:
            return
        redactor = self._redactor(plan.rendered, plan.rendered.variables, fresh=True)
        listing = "".join("{0:04o} {1}\n".format(mode, path) for path, (_c, mode) in sorted(plan.changed_files.items()))
        directory = plan.result.directory
        plan.result.diff = [
            {"before_header": directory, "after_header": directory, "before": "", "after": listing},
            _diff_entry(os.path.join(directory, ENV_FILE), "", redactor.env(plan.rendered.variables)),
        ]

    @staticmethod
    def _redactor(rendered: Rendered, variables: Mapping[str, str], fresh: bool) -> _Redactor:
        return _Redactor(variables, str(rendered.manifest["salt"]), set(rendered.variables), fresh)

    def _diff_changed(self, plan: _Plan) -> None:
        if plan.rendered is None or plan.existing is None:
            return
        ours = set(plan.existing.manifest.get("variables") or ())
        old = _Redactor(plan.existing.variables, str(plan.rendered.manifest["salt"]), ours, fresh=False)
        new = self._redactor(plan.rendered, plan.rendered.variables, fresh=False)
        for path, (content, mode) in sorted(plan.changed_files.items()):
            full = os.path.join(plan.result.directory, path)
            found = _read(full)
            texts = (found[0].decode("utf-8", "replace") if found else "", content.decode("utf-8", "replace"))
            if os.path.dirname(path) == ENVIRONMENT_DIRECTORY or path == ENV_FILE:
                open_names = _open_names(path, plan.existing.manifest, plan.rendered.manifest)
                before, after = (
                    _shown_variables(path, text, redactor, open_names) for text, redactor in zip(texts, (old, new))
                )
            else:
                before, after = old.text(texts[0]), new.text(texts[1])
            if found and before == after and found[1] != mode:
                before, after = "mode {0:04o}\n".format(found[1]), "mode {0:04o}\n".format(mode)
            plan.result.diff.append(_diff_entry(full, before, after))
        for path in plan.obsolete:
            plan.result.diff.append(_diff_entry(os.path.join(plan.result.directory, path), "present\n", ""))

    def _plan_absent(
        self, items: Sequence[Mapping[str, Any]], allocations: Dict[str, Allocation], plans: Dict[str, _Plan]
    ) -> List[str]:
        problems: List[str] = []
        for item in items:
            name = str(item["name"])
            directory = self._layout.project(name)
            plan = plans[name] = _Plan(Result(name, "absent", directory=directory))
            if name not in allocations:
                if os.path.lexists(directory):
                    problems.append(
                        "instance {0}: {1} exists, but has no {2} that can be read; it is left alone. If it is to go, "
                        "remove it by hand".format(name, directory, MANIFEST_FILE)
                    )
                continue
            problem = self._removal_problem(name, allocations[name])
            if problem:
                problems.append("instance {0}: {1}".format(name, problem))
                continue
            plan.result.changed, plan.result.actions = True, ["deleted"]
            if self._request.with_diff:
                plan.result.diff = [_diff_entry(directory, "present\n", "")]
        return problems

    def _removal_problem(self, name: str, allocation: Allocation) -> Optional[str]:
        """Say why an instance's directory must stay, or return None."""
        directory = self._layout.project(name)
        outside = _other_filesystem(directory)
        if outside:
            return "{0} is a link or a file system of its own; nothing was deleted. Unmount or unlink it first".format(
                outside
            )
        engine = self._engine_once()
        if engine is None:
            if os.path.exists(self._layout.record(name)) or _has_entries(os.path.join(directory, "volumes/db/data")):
                return (
                    "no Docker Engine answers, so nobody can tell whether its containers run; nothing was deleted. "
                    "Start Docker and try again"
                )
            return None
        left = engine.left_of(allocation.project, name)
        remaining = ["{0} {1}".format(kind[:-1], what) for kind, names in left.items() for what in names]
        if not remaining:
            return None
        return (
            "its directory stays while there is still {0}; remove them first with playbooks/delete.yml or "
            "multibase.supabase.stack state=absent purge_volumes=true".format(", ".join(remaining))
        )

    # Writing

    def _discard_leftovers(self, plans: Mapping[str, _Plan]) -> None:
        """Finish removals and undo creations that an earlier run did not get to the end of."""
        for prefix in (STAGING_PREFIX, REMOVAL_PREFIX):
            for path in _registry.unpublished(self._layout, prefix):
                # What cannot be removed must not keep the other instances from being worked on.
                shutil.rmtree(path, ignore_errors=True)
                if os.path.lexists(path):
                    self.warnings.append("{0} is left of an interrupted run and cannot be removed".format(path))
        discard_temporary_files(self._layout.root)
        for plan in plans.values():
            if plan.rendered is not None and plan.existing is not None:
                for relative in ("", *plan.rendered.directories):
                    discard_temporary_files(os.path.join(plan.result.directory, relative))

    def _publish(self, plans: Mapping[str, _Plan]) -> None:
        os.makedirs(self._layout.projects, mode=0o700, exist_ok=True)
        publisher = Publisher(self._layout.projects, STAGING_PREFIX)
        for name, plan in plans.items():
            if plan.rendered is None or not plan.result.changed:
                continue
            content = FileSet(plan.changed_files, plan.rendered.directories, last=MANIFEST_FILE)
            if plan.existing is None:
                publisher.add_tree(name, content, _DIRECTORY_MODE)
            else:
                publisher.change_tree(name, content, plan.obsolete)
            if plan.opened:
                os.chmod(plan.result.directory, _DIRECTORY_MODE)
        publisher.commit()

    def _remove(self, names: Sequence[str], allocations: Dict[str, Allocation]) -> None:
        """Delete instances: out of sight first, then out of the registry, then off the disk."""
        for name in names:
            # Not while a backup or a restore is at work on its data.
            data_lock = _lock.exclusive(self._layout.data_lock(name), self._request.lock_timeout)
            with data_lock, _lock.exclusive(self._layout.lock(name), self._request.lock_timeout):
                # Asked again, because somebody may have started it while we waited for the lock.
                problem = self._removal_problem(name, allocations[name])
                if problem:
                    raise InvalidInput(["instance {0}: {1}".format(name, problem)])
                # First: a record that outlived its instance would be taken for one of the next of that name.
                # So would what is remembered of its backups and restores; the backups themselves stay.
                for path in (
                    self._layout.record(name),
                    self._layout.restore_journal(name),
                    self._layout.backup_state(name),
                ):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                        sync_directory(os.path.dirname(path))
                doomed = os.path.join(self._layout.projects, REMOVAL_PREFIX + name)
                os.rename(self._layout.project(name), doomed)
                sync_directory(self._layout.projects)
                del allocations[name]
                _registry.save(self._layout, allocations)
                shutil.rmtree(doomed)


def _without(options: Mapping[str, Any], names: Mapping[str, Any]) -> Dict[str, Any]:
    """Return ``options`` without the entries that ``names`` has too, at both levels."""
    result: Dict[str, Any] = {}
    for key, value in options.items():
        other = names.get(key)
        if isinstance(value, Mapping):
            result[key] = _without(value, other if isinstance(other, Mapping) else {})
        elif key not in names:
            result[key] = value
    return result


def _demand(manifest: Mapping[str, Any]) -> Size:
    """Return what an instance was promised, as its manifest says."""
    resources = manifest.get("resources")
    if resources:
        return Size(memory=int(resources["memory"]), cpus=float(resources["cpus"]))
    return SIZES.get(str(manifest.get("size")), SIZES["medium"])


def _foreign_environments(directory: str, plan: _Plan) -> List[str]:
    """Say which environment files of the user stand where ours would have to be written."""
    if plan.rendered is None or plan.existing is None:
        return []
    managed = plan.existing.manifest.get("managed") or ()
    return [
        "instance {0}: {1} was put there by hand, and options of the instance need that file now. Move what is in it "
        "to the options env and secrets, and remove it".format(plan.result.name, os.path.join(directory, path))
        for path in sorted(plan.rendered.files)
        if os.path.dirname(path) == ENVIRONMENT_DIRECTORY
        and path not in managed
        and os.path.lexists(os.path.join(directory, path))
        and not _is_our_environment(os.path.join(directory, path))
    ]


def _left_over(directory: str) -> List[str]:
    """Return files that only we write and that a run which was killed may have left unrecorded, relative to the place.

    An environment file without our heading is the user's.
    """
    found = list(GATEWAY_FILES.values())
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(directory, ENVIRONMENT_DIRECTORY)) as entries:
        for entry in entries:
            if entry.name.endswith(".env") and _is_our_environment(entry.path):
                found.append(os.path.join(ENVIRONMENT_DIRECTORY, entry.name))
    return found


def _is_our_environment(path: str) -> bool:
    """Whether an environment file is one that we wrote: it has our first and our last line."""
    content = _read(path)
    text = content[0].decode("utf-8", "replace") if content else ""
    return text.split("\n", 1)[0] in ENVIRONMENT_FIRST_LINES and ENVIRONMENT_END in text


def _open_names(path: str, *manifests: Mapping[str, Any]) -> Set[str]:
    """Return the names of variables of an environment file whose values are no secrets, for certain."""
    service = os.path.basename(path)[: -len(".env")]
    names = {setting.variable for setting in SETTINGS if setting.service == service and not setting.secret}
    for manifest in manifests:
        names.update((manifest.get("env") or {}).get(service, ()))
    for manifest in manifests:
        names.difference_update((manifest.get("user_secrets") or {}).get(service, ()))
    return names


def _shown_variables(path: str, text: str, redactor: _Redactor, open_names: Collection[str]) -> str:
    """Return an environment file as a diff may show it."""
    try:
        variables = _envfile.parse(text, path)
    except StateCorrupt:
        return "(damaged)\n"
    if path == ENV_FILE:
        return redactor.env(variables)
    return redactor.environment(variables, open_names)


def _has_entries(directory: str) -> bool:
    try:
        return bool(os.listdir(directory))
    except FileNotFoundError:
        return False


def _other_filesystem(directory: str) -> Optional[str]:
    """Return the first directory of an instance that is a link or on another file system than the instances, or None.

    Services make no mounts: three levels hold all that somebody could have put on a disk of its own.
    """
    device = os.stat(os.path.dirname(directory)).st_dev
    level = [directory]
    for _depth in range(4):
        below: List[str] = []
        for path in level:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) or status.st_dev != device:
                return path
            with os.scandir(path) as entries:
                below += [entry.path for entry in entries if entry.is_dir()]
        level = sorted(below)
    return None


def _diff_entry(path: str, before: str, after: str) -> Dict[str, str]:
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def _read(path: str) -> Optional[Tuple[bytes, int]]:
    """Return content and mode of a file of ours, None when it is missing or no plain file."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        with open(path, "rb") as stream:
            return stream.read(), stat.S_IMODE(status.st_mode)
    except FileNotFoundError:
        return None
