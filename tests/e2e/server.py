# SPDX-License-Identifier: GPL-3.0-or-later
"""The test host of the end-to-end tests, looked at from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile, _secrets
from leaks import LeakScanner

REPOSITORY = Path(__file__).resolve().parents[2]
SCENARIO = REPOSITORY / "tests" / "molecule" / "default"
CONTAINER = "multibase-sandbox-molecule"
ROOT = "/opt/multibase"
# What Molecule and terminals put between the characters of a long line.
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|[\s\u2500-\u257f]")


@dataclass
class Server:
    """The test host: its processes, files, network and Engine, never what the tool says of itself."""

    inventory: Path
    ara: Path
    scanner: LeakScanner
    brought: Mapping[str, str]
    outputs: Dict[str, str] = field(default_factory=dict)
    container: str = CONTAINER
    scenario: str = SCENARIO.name

    @property
    def environment(self) -> Dict[str, str]:
        """The environment of every command that the tests run on the controller."""
        return {
            **os.environ,
            "PATH": "{0}:{1}".format(REPOSITORY / ".venv" / "bin", os.environ["PATH"]),
            "ARA_BASE_DIR": str(self.ara),
            "MULTIBASE_TEST_INVENTORY": str(self.inventory),
            "MULTIBASE_INVENTORY": str(self.inventory),
            "MOLECULE_PROJECT_DIRECTORY": str(REPOSITORY),
            "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
            "MOLECULE_EPHEMERAL_DIRECTORY": str(self.inventory.parent / "molecule"),
            "NO_COLOR": "1",
        }

    def command(
        self, label: str, argv: Sequence[str], verbose: bool = False, succeeds: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the project as a pipeline would, without standard input; its output will be scanned."""
        environment = self.environment
        if verbose:
            environment.update({"ANSIBLE_VERBOSITY": "3", "ANSIBLE_DIFF_ALWAYS": "1"})
        done = subprocess.run(
            list(argv),
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.outputs[label] = self.outputs.get(label, "") + done.stdout + done.stderr
        if succeeds:
            assert done.returncode == 0, "{0}:\n{1}\n{2}".format(label, done.stdout[-6000:], done.stderr[-6000:])
        return done

    def molecule(self, action: str, verbose: bool = False) -> str:
        """Run one action of the scenario and return what it printed."""
        done = self.command(
            "molecule " + action, ["molecule", action, "--scenario-name", self.scenario], verbose=verbose
        )
        return done.stdout + done.stderr

    def multibase(self, *words: str, succeeds: bool = True, verbose: bool = False) -> subprocess.CompletedProcess[str]:
        """Run ``./multibase``."""
        return self.command("multibase " + words[0], ["./multibase", *words], succeeds=succeeds, verbose=verbose)

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command on the host and return its standard output."""
        done = subprocess.run(["docker", "exec", self.container, *argv], capture_output=True, text=True, check=False)
        if check:
            assert done.returncode == 0, "{0}: {1}".format(argv, done.stderr)
        return done.stdout

    def succeeds(self, *argv: str) -> bool:
        """Whether a command on the host ends with 0."""
        done = subprocess.run(["docker", "exec", self.container, *argv], capture_output=True, check=False)
        return done.returncode == 0

    def inside(self, program: str, data: Any) -> Any:
        """Run a Python program in the host's network, with ``data`` as JSON on its standard input.

        That is how a client on the host itself sees it: instances are bound to its loopback address. The program has
        ``data`` as a variable, and what it assigns to ``result`` is returned.
        """
        pid = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", self.container],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        source = "import json, sys\ndata = json.load(sys.stdin)\n{0}\njson.dump(result, sys.stdout)\n".format(program)
        done = subprocess.run(
            ["nsenter", "--target", pid, "--net", str(REPOSITORY / ".venv" / "bin" / "python"), "-c", source],
            input=json.dumps(data),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def variables(self, name: str) -> Dict[str, str]:
        """Return the variables of an instance's ``.env``."""
        return _envfile.parse(self.run("cat", "{0}/projects/{1}/.env".format(ROOT, name)))

    def registry(self) -> Mapping[str, Any]:
        return dict(json.loads(self.run("cat", ROOT + "/registry.json"))["instances"])

    def containers(self, name: str) -> Dict[str, str]:
        """Return service -> container id of an instance, from the host's Engine by label."""
        listed = self.run(
            "docker", "ps", "--all", "--no-trunc", "--filter", "label=com.docker.compose.project=multibase-" + name,
            "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}',
        )  # fmt: skip
        return dict(line.split() for line in listed.splitlines())

    def volumes(self, name: str) -> List[str]:
        listed = self.run("docker", "volume", "ls", "--quiet", "--filter", "label=io.multibase.instance=" + name)
        return sorted(listed.split())

    def collect_canaries(self) -> None:
        """Take all secrets of all instances on the host as canaries."""
        for name in self.registry():
            texts = sorted(_secrets.confidential_texts(self.variables(name)))
            self.scanner.add_canaries({"{0}.{1}".format(name, number): text for number, text in enumerate(texts)})


def undecorated(text: str) -> bytes:
    """Return output without colours, boxes and white space, so that a value that was wrapped is one piece again."""
    return _DECORATION.sub("", text).encode("utf-8")
