# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What is read from the Docker Engine, and the few things done to it directly.

Everything is found by exact label; names are never matched. The Docker SDK for Python is imported only when an Engine
is there to be talked to, so that a host without either can be planned for.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

from ._errors import EngineUnavailable

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
CONFIG_HASH_LABEL = "com.docker.compose.config-hash"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
# Of a container that materialises a backup: the name of its instance.
SCRATCH_LABEL = "io.multibase.scratch"
MINIMUM_VERSION = (20, 10)
DEFAULT_HOST = "unix:///var/run/docker.sock"
INSTALL_HINT = "playbooks/site.yml installs it (role multibase_docker)"
# How the list of containers words health, in the free text of its Status field (all API versions).
_HEALTH = re.compile(r"\((healthy|unhealthy|health: starting)\)")


@dataclass(frozen=True)
class Container:
    """One container of a Compose project, as ``/containers/json`` lists it.

    ``state`` is Docker's (running, exited, restarting, created, paused, dead), ``health`` one of healthy, unhealthy,
    starting or none. ``ports`` are (address, host port, container port) of what is published now, ``addresses`` are
    those of the container in its networks.
    """

    id: str
    name: str
    project: str
    service: str
    state: str
    health: str
    image: str
    image_id: str
    config_hash: str
    created: int
    status: str
    ports: Tuple[Tuple[str, int, int], ...] = ()
    addresses: Tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self.state in ("running", "restarting", "paused")


def container_from_json(data: Mapping[str, Any]) -> Container:
    """Read one element of the answer to ``/containers/json``."""
    labels = data.get("Labels") or {}
    status = str(data.get("Status") or "")
    found = _HEALTH.search(status)
    health = {"health: starting": "starting"}.get(found.group(1), found.group(1)) if found else "none"
    names = data.get("Names") or ["/" + str(data.get("Id"))[:12]]
    ports = sorted(
        {
            (str(port.get("IP") or ""), int(port["PublicPort"]), int(port["PrivatePort"]))
            for port in data.get("Ports") or []
            if port.get("PublicPort") and port.get("Type", "tcp") == "tcp"
        }
    )
    networks = ((data.get("NetworkSettings") or {}).get("Networks") or {}).values()
    return Container(
        id=str(data["Id"]),
        name=str(names[0]).lstrip("/"),
        project=str(labels.get(PROJECT_LABEL, "")),
        service=str(labels.get(SERVICE_LABEL, "")),
        state=str(data.get("State") or ""),
        health=health,
        image=str(data.get("Image") or ""),
        image_id=str(data.get("ImageID") or ""),
        config_hash=str(labels.get(CONFIG_HASH_LABEL, "")),
        created=int(data.get("Created") or 0),
        status=status,
        ports=tuple(ports),
        addresses=tuple(sorted(filter(None, (str(network.get("IPAddress") or "") for network in networks)))),
    )


class Engine:
    """A Docker Engine. ``client`` is a ``docker.APIClient`` or anything that answers like one."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # requests.Session is not made for threads, and answers here take milliseconds.
        self._lock = threading.Lock()

    def _call(self, what: str, method: str, *args: Any, **options: Any) -> Any:
        try:
            if method == "stop":
                # It may take a minute, in which the others must not wait.
                return self._client.stop(*args, **options)
            with self._lock:
                return getattr(self._client, method)(*args, **options)
        except Exception as error:  # the SDK lets errors of requests, urllib3 and its own through
            if type(error).__name__ == "NotFound":
                raise
            raise EngineUnavailable("the Docker Engine did not {0}: {1}".format(what, error)) from error

    def version(self) -> Tuple[int, ...]:
        """Return the Engine's version as numbers, for example ``(26, 1, 5)``."""
        text = str(self._call("tell its version", "version").get("Version", ""))
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    def containers(self, project: Optional[str] = None) -> List[Container]:
        """Return all containers, running or not, that Compose made (of one project), but for one-off ``run`` ones."""
        label = PROJECT_LABEL if project is None else "{0}={1}".format(PROJECT_LABEL, project)
        listed = self._call("list containers", "containers", all=True, filters={"label": [label]})
        return [
            container_from_json(item)
            for item in listed
            if (item.get("Labels") or {}).get(ONE_OFF_LABEL, "False") != "True"
        ]

    def image_ids(self) -> Dict[str, str]:
        """Return the image id that each tag stands for at the moment."""
        return {
            tag: str(image["Id"])
            for image in self._call("list images", "images")
            for tag in image.get("RepoTags") or []
        }

    def left_of(self, project: str, instance: Optional[str] = None) -> Dict[str, List[str]]:
        """Return the names of all containers, networks and volumes that carry a project's or instance's label."""
        labels = ["{0}={1}".format(PROJECT_LABEL, project)]
        if instance is not None:
            labels.append("io.multibase.instance={0}".format(instance))
        left: Dict[str, List[str]] = {"containers": [], "networks": [], "volumes": []}
        for label in labels:
            filters = {"label": [label]}
            for item in self._call("list containers", "containers", all=True, filters=filters):
                left["containers"].append(str((item.get("Names") or [item["Id"]])[0]).lstrip("/"))
            for item in self._call("list networks", "networks", filters=filters):
                left["networks"].append(str(item["Name"]))
            for item in self._call("list volumes", "volumes", filters=filters).get("Volumes") or []:
                left["volumes"].append(str(item["Name"]))
        return {kind: sorted(set(names)) for kind, names in left.items()}

    def inventory(self) -> Dict[str, List[Dict[str, Any]]]:
        """Return all containers, networks and volumes with name and labels, and all images with name and size."""
        told: Dict[str, List[Dict[str, Any]]] = {"containers": [], "networks": [], "volumes": [], "images": []}
        for item in self._call("list containers", "containers", all=True):
            name = str((item.get("Names") or [item["Id"]])[0]).lstrip("/")
            told["containers"].append({"name": name, "labels": item.get("Labels") or {}})
        for item in self._call("list networks", "networks"):
            told["networks"].append({"name": str(item["Name"]), "labels": item.get("Labels") or {}})
        for item in self._call("list volumes", "volumes").get("Volumes") or []:
            row = {"name": str(item["Name"]), "labels": item.get("Labels") or {}}
            told["volumes"].append({**row, "path": str(item.get("Mountpoint") or "")})
        for item in self._call("list images", "images"):
            name = ", ".join(item.get("RepoTags") or []) or str(item["Id"])[:19]
            told["images"].append({"name": name, "bytes": int(item.get("Size") or 0)})
        return {kind: sorted(rows, key=lambda row: str(row["name"])) for kind, rows in told.items()}

    def published_ports(self) -> Dict[int, str]:
        """Return the host ports that any container publishes, running or stopped, and the container's name.

        A stopped container's ports are not in the list of containers; they are looked up one by one.
        """
        ports: Dict[int, str] = {}
        for item in self._call("list containers", "containers", all=True):
            name = str((item.get("Names") or [item["Id"]])[0]).lstrip("/")
            for port in item.get("Ports") or []:
                if port.get("PublicPort"):
                    ports[int(port["PublicPort"])] = "container " + name
            if item.get("State") != "running":
                bindings = (self._inspect(str(item["Id"])).get("HostConfig") or {}).get("PortBindings") or {}
                for binding in [entry for entries in bindings.values() for entry in entries or []]:
                    if str(binding.get("HostPort") or "").isdigit():
                        ports[int(binding["HostPort"])] = "container {0} (not running)".format(name)
        return ports

    def ports_in_use(self) -> Dict[int, str]:
        """Return the host ports that containers publish at the moment, and the container's name."""
        return {
            int(port["PublicPort"]): str((item.get("Names") or [item["Id"]])[0]).lstrip("/")
            for item in self._call("list containers", "containers", all=True)
            for port in item.get("Ports") or []
            if port.get("PublicPort")
        }

    def data_root(self) -> str:
        """Return the directory of the Engine's images and containers."""
        return str(self._call("tell of itself", "info").get("DockerRootDir") or "/var/lib/docker")

    def inspect(self, container: str) -> Dict[str, Any]:
        """Return all that the Engine knows of a container, nothing when it is gone."""
        return self._inspect(container)

    def sample(self, container: str) -> Dict[str, Any]:
        """Return the Engine's counters of a container, nothing when it is gone. It takes up to two seconds."""
        try:
            return dict(self._call("sample a container", "stats", container, stream=False))
        except EngineUnavailable:
            raise
        except Exception:  # removed since it was listed
            return {}

    def _inspect(self, container: str) -> Dict[str, Any]:
        try:
            return dict(self._call("inspect a container", "inspect_container", container))
        except EngineUnavailable:
            raise
        except Exception:  # removed since it was listed
            return {}

    def subnets(self) -> List[str]:
        """Return the subnets of all networks that the Engine has."""
        found: List[str] = []
        for network in self._call("list networks", "networks"):
            for config in (network.get("IPAM") or {}).get("Config") or []:
                if config.get("Subnet"):
                    found.append(str(config["Subnet"]))
        return found

    def logs(self, container: str, lines: int) -> str:
        """Return the last lines that a container printed."""
        try:
            data = self._call("show logs", "logs", container, tail=lines, timestamps=False)
        except EngineUnavailable:
            raise
        except Exception:  # removed since it was listed
            return ""
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)

    def labelled(self, label: str) -> List[str]:
        """Return the ids of all containers, running or not, that carry exactly this ``name=value`` label."""
        listed = self._call("list containers", "containers", all=True, filters={"label": [label]})
        return [str(item["Id"]) for item in listed]

    def state(self, container: str) -> str:
        """Return Docker's word for the state of a container: running, paused, exited, ...; ``gone`` without one."""
        return str((self._inspect(container).get("State") or {}).get("Status") or "gone")

    def image_of(self, container: str) -> str:
        """Return the id of the image that a container was made from, empty when it is gone."""
        return str(self._inspect(container).get("Image") or "")

    def create_isolated(self, options: Mapping[str, Any], host_options: Mapping[str, Any]) -> str:
        """Create a container without any network and start it; return its id."""
        host = self._client.create_host_config(network_mode="none", **host_options)
        made = self._call("create a container", "create_container", host_config=host, **options)
        self.start(str(made["Id"]))
        return str(made["Id"])

    def start(self, container: str) -> None:
        """Start a container by its id; one that runs already is no error."""
        self._call("start a container", "start", container)

    def directory_of_image(self, image: str, path: str) -> Optional[bytes]:
        """Return a directory of an image as a tar file, None when the image has none there. Nothing is started."""
        made = str(self._call("create a container", "create_container", image=image, command=["true"])["Id"])
        try:
            parts, _about = self._call("read from a container", "get_archive", made, path)
            return b"".join(parts)
        except EngineUnavailable:
            raise
        except Exception:  # the SDK's NotFound
            return None
        finally:
            # With the volumes that have no name: the image's own, made with this container a moment ago.
            self._call_unless_gone("remove a container", "remove_container", made, v=True, force=True)

    def stop(self, container: str, seconds: Optional[int] = None) -> None:
        """Stop a container by its id, within its own grace period or ``seconds``. One that is gone is no error."""
        self._call_unless_gone("stop a container", "stop", container, **({"timeout": seconds} if seconds else {}))

    def remove(self, container: str) -> None:
        """Remove a container by its id, if it is still there. Volumes are left alone, anonymous ones too."""
        self._call_unless_gone("remove a container", "remove_container", container, v=False, force=True)

    def remove_network(self, name: str) -> None:
        """Remove a network, if it is still there."""
        self._call_unless_gone("remove a network", "remove_network", name)

    def remove_volume(self, name: str) -> None:
        """Remove a named volume, if it is still there."""
        self._call_unless_gone("remove a volume", "remove_volume", name)

    def _call_unless_gone(self, what: str, method: str, *args: Any, **options: Any) -> None:
        try:
            self._call(what, method, *args, **options)
        except EngineUnavailable:
            raise
        except Exception:  # removed since it was listed
            return


def socket_path(docker_host: str) -> Optional[str]:
    """Return the path of a local Engine's socket, or None for a remote one."""
    return docker_host[len("unix://") :] if docker_host.startswith("unix://") else None


def connect(docker_host: str = DEFAULT_HOST, timeout: float = 60) -> Engine:
    """Return the Engine at ``docker_host``. Raises EngineUnavailable with the way to get one.

    ``timeout`` is how many seconds it may take for an answer.
    """
    path = socket_path(docker_host)
    if path is not None and not os.path.exists(path):
        raise EngineUnavailable(
            "there is no Docker Engine at {0}; {1}. If it is installed, start it: systemctl start docker".format(
                docker_host, INSTALL_HINT
            )
        )
    try:
        import docker
    except ImportError as error:
        raise EngineUnavailable(
            "the Docker SDK for Python is missing (package python3-docker); {0}".format(INSTALL_HINT)
        ) from error
    try:
        client = docker.APIClient(base_url=docker_host, version="auto", timeout=timeout)
    except Exception as error:  # the SDK lets errors of requests and urllib3 through here too
        raise EngineUnavailable(
            "the Docker Engine at {0} does not answer: {1}. Is it running? systemctl status docker".format(
                docker_host, error
            )
        ) from error
    engine = Engine(client)
    version = engine.version()
    if version[:2] < MINIMUM_VERSION:
        raise EngineUnavailable(
            "Docker Engine {0} is too old: {1}.{2} or newer is needed; {3}".format(
                ".".join(map(str, version)), MINIMUM_VERSION[0], MINIMUM_VERSION[1], INSTALL_HINT
            )
        )
    return engine


def connect_if_present(docker_host: str = DEFAULT_HOST) -> Optional[Engine]:
    """Like ``connect``, but None on a host that has no Engine yet."""
    path = socket_path(docker_host)
    if path is not None and not os.path.exists(path):
        return None
    return connect(docker_host)


def services_of(containers: List[Container]) -> FrozenSet[str]:
    """Return the services that have at least one container."""
    return frozenset(container.service for container in containers)
