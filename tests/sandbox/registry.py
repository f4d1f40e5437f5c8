# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox's image registry: test hosts pull the stacks' images from it as `registry.multibase.test:5000`.

It is reached in two ways: by that name on the sandbox's network, and for pushing on a port of 127.0.0.1 that Docker
chooses (the engine accepts plain HTTP there without configuration).
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import time
from typing import Dict, Tuple

from common import LABEL, NETWORK, SandboxError, docker, ensure_network, run, say, step
from images import CHILDREN, Image, present

NAME = "multibase-sandbox-registry"
ALIAS = "registry.multibase.test"
VOLUME = "multibase-sandbox-registry"
MANIFEST_TYPES = ", ".join(
    [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    ]
)


def container() -> Tuple[str, str, bool]:
    """(id, image id, running) of the registry's container; ('', '', False) when there is none."""
    done = run(
        ["docker", "container", "inspect", "--format", "{{.Id}} {{.Image}} {{.State.Running}}", NAME], check=False
    )
    if done.returncode != 0:
        return "", "", False
    identity, image, running = done.stdout.split()
    return identity, image, running == "true"


def port() -> int:
    """The port of 127.0.0.1 on which the running registry is reached."""
    return int(docker("port", NAME, "5000/tcp").splitlines()[0].rpartition(":")[2])


def request(method: str, path: str, timeout: float = 5) -> Tuple[int, Dict[str, str], bytes]:
    """(status, headers in lower case, body) of a request to the registry. Raises OSError or HTTPException."""
    conn = http.client.HTTPConnection("127.0.0.1", port(), timeout=timeout)
    try:
        conn.request(method, path, headers={"Accept": MANIFEST_TYPES})
        answer = conn.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        conn.close()


def wait() -> None:
    end = time.monotonic() + 20
    while True:
        try:
            if request("GET", "/v2/", timeout=2)[0] == 200:
                return
        except (OSError, http.client.HTTPException, SandboxError, IndexError, ValueError):
            pass
        if time.monotonic() > end:
            raise SandboxError(f"the registry does not answer; see: docker logs {NAME}")
        time.sleep(0.1)


def ensure_running(have: Dict[str, Tuple[str, str]]) -> None:
    """Start the registry, or replace it when its image is a newer one. What it stores is in a volume and stays."""
    wanted = have[next(image.reference for image in CHILDREN if image.name == "registry")][0]
    identity, image, running = container()
    if identity and image == wanted and running:
        return
    ensure_network()
    with step(f"registry {ALIAS}:5000"):
        if identity and image != wanted:
            docker("rm", "-f", identity)
            identity = ""
        if identity:
            docker("start", identity)
        else:
            docker("volume", "create", "--label", f"{LABEL}=1", VOLUME)
            argv = ["run", "-d", "--name", NAME, "--label", f"{LABEL}=1", "--restart", "unless-stopped"]
            argv += ["--network", NETWORK, "--network-alias", ALIAS, "--publish", "127.0.0.1::5000"]
            docker(*argv, "--volume", f"{VOLUME}:/var/lib/docker-registry", wanted)
        wait()


def stored(image: Image, identity: str) -> bool:
    """True when the registry has this very image under its tag.

    The image id is the digest of the image's configuration, or with containerd's image store that of its manifest.
    """
    status, headers, body = request("GET", f"/v2/multibase-sandbox/{image.name}/manifests/{image.tag}")
    if status != 200:
        return False
    config = json.loads(body).get("config", {}).get("digest", "")
    return identity in (config, headers.get("docker-content-digest", ""))


def push(image: Image) -> None:
    started = time.monotonic()
    target = f"127.0.0.1:{port()}/{image.reference}"
    docker("tag", image.reference, target)
    try:
        docker("push", "--quiet", target)
    finally:
        docker("image", "rm", target, check=False)
    say(f"{image.reference} pushed: {time.monotonic() - started:.1f} s")


def ensure_pushed(have: Dict[str, Tuple[str, str]]) -> None:
    """Push what the stacks use and the registry does not have yet."""
    images = [image for image in CHILDREN if image.pushed]
    missing = [image for image in images if not stored(image, have[image.reference][0])]
    if not missing:
        say(f"registry {ALIAS}:5000 (here 127.0.0.1:{port()}): all {len(images)} images are there")
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for future in [pool.submit(push, image) for image in missing]:
            future.result()


def ensure_registry() -> None:
    have = present()
    ensure_running(have)
    ensure_pushed(have)
