# SPDX-License-Identifier: GPL-3.0-or-later
"""What we and what people write into ``.env`` and ``env_file`` files, with Compose and real containers as oracles.

The oldest and the newest Compose read the same ten thousand values, all of a batch in one run; the Engine then gives
them to a container, and the container tells what it got. Hypothesis draws the values, the same in every run. They are
judged in batches, so it cannot shrink them: a failure shows the shortest value that went wrong.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import docker
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile
from ansible_collections.multibase.supabase.plugins.module_utils._errors import StateCorrupt

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "multibase-sandbox/standin:2"
CASES = 10_000
HAND_WRITTEN_CASES = 5_000

# What is refused (control characters, lone surrogates) is not drawn; test_envfile.py tries it.
ANY = st.characters(exclude_categories=("Cs",), exclude_characters=[chr(code) for code in (*range(32), 127)])
ODD = st.sampled_from(
    "\"'\\$#=\n\t `{}()&|;!%~*?<>:@,[]^"
    "aZ0_-./+é\u0301\u0130\u017f\u212a\u05d0\u202e\u200b\u00a0\u0085\u009b"
    "\u2003\u2028\u2029\u3000\ufeff\ufffd\U0001f600\U00020000\U0010ffff"
)
PIECES = st.sampled_from([
    "\\n", "\\t", "\\r", "\\u0041", "\\x41", "\\0101", "\\\\", '\\"', "\\'", "\\$", "$$", "$HOME", "${HOME}",
    "${PATH:-x}", "${", "}", "$(id)", "`id`", " #", "# ", "#", "export ", "export A=b", "A=b\n", "\n", "\nB=c",
    "''", '""', '"', "'", "  ", "\t", "e\u0301", "\U0001f469\u200d\U0001f4bb", "true", "null", "{{ x }}", "%s",
    "long" * 50,
])  # fmt: skip
AROUND = st.sampled_from(["", " ", "  ", "\t", "\n", "\u00a0", "\u0085", "\u3000", '"', "'", "\\", "$", "#"])
VALUES = st.one_of(
    st.text(ODD, max_size=12),
    st.text(ANY | ODD, max_size=40),
    st.lists(PIECES | st.text(ODD, max_size=3), max_size=6).map("".join),
    st.tuples(AROUND, st.text(ODD, max_size=5), AROUND).map("".join),
)

# Lines that people write: pieces of every rule there is, and some that break them. NAME becomes a name of its own.
BODIES = st.lists(
    st.sampled_from([
        "a", "b c", "x=y", "é", "\U0001f600", "\\", "\\\\", "\\n", "\\r", "\\t", "\\a", "\\b", "\\f", "\\v", "\\q",
        "\\c", "\\x41", "\\u0041", "\\0", "\\0101", "\\$", '\\"', "\\'", "$$", "$ ", "$1", "$.", "$é", "$",
        "$NO", "${NO:-d}", "#", " #", "# ", " # c", "\t#", "\u00a0#", " ", "  ", "\t", "\r", "\v", "\x1c", "\u00a0",
        "\u0085", "\u2003", "\u2028", "\u3000", "\ufeff", '"', "'", "`", "=", ":", "export ", ";", "0", "",
    ]),
    max_size=6,
).map("".join)  # fmt: skip
BLANKS = st.sampled_from(["", " ", "\t", "  "])
BLANKS_BEHIND = BLANKS | st.sampled_from(["\u00a0", "\u2003", "\r", "\x1c", "\v"])
TAILS = BLANKS | st.sampled_from(["\r", " # why", "# why", "\t# why", "\u2003# why", "\u0085", " more", "X=1"])
EXPORTS = BLANKS | st.sampled_from(["export ", "export\t", "  export ", "export export ", "Export ", "\u00a0"])
SIGNS = st.sampled_from(["=", "=", "=", "=", "=", "=", "==", "= =", ":", ""])


def quoted(quote: str) -> st.SearchStrategy[str]:
    """A quoted value, with and without the care that its own quotes need."""
    careful = BODIES.map(lambda body: quote + body.replace(quote, "\\" + quote) + quote)
    return careful | BODIES.map(lambda body: quote + body + quote)


LINES = st.tuples(
    EXPORTS, st.just("NAME"), BLANKS, SIGNS, BLANKS_BEHIND, BODIES | quoted('"') | quoted("'"), TAILS
).map("".join)


def drawn(strategy: st.SearchStrategy[str], count: int) -> List[str]:
    """Return ``count`` different examples of ``strategy``, the same in every run."""
    found: Dict[str, None] = {}
    for number in range(20):

        @seed(number)
        @settings(
            max_examples=count - len(found) + 200, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategy)
        def collect(example: str) -> None:
            found[example] = None

        collect()
        if len(found) >= count:
            return list(found)[:count]
    raise AssertionError("only {0} different ones could be drawn".format(len(found)))


class Reading(NamedTuple):
    """What Compose made of a project: of its ``.env``, of its ``env_file``, or what it said against them."""

    dotenv: Dict[str, str]
    env_file: Dict[str, str]
    refusal: str


def environment() -> Dict[str, str]:
    """Nothing that Compose would put in place of what the files say."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_") or name == "PATH"}
    return {**kept, "HOME": "/"}


def compose_binaries() -> Dict[str, str]:
    """Return the Compose plugins to test with, version -> path."""
    command = [sys.executable, "tests/sandbox/sandbox.py", "compose-binaries", ".cache/compose"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {version: str(REPOSITORY / path) for version, path in json.loads(done.stdout).items()}


class Compose:
    """One Compose, and a project whose files are written anew for every question."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._project = "multibase-itest-env-" + secrets.token_hex(4)

    def _run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._binary, "--project-name", self._project, *words],
            cwd=self._directory, env=environment(), capture_output=True, check=False, timeout=300,
        )  # fmt: skip

    def _write(self, dotenv: str, env_file: str, service: Dict[str, object]) -> None:
        (self._directory / ".env").write_bytes(dotenv.encode("utf-8"))
        (self._directory / "service.env").write_bytes(env_file.encode("utf-8"))
        service["env_file"] = [{"path": "./service.env", "required": False}]
        (self._directory / "docker-compose.yml").write_text(json.dumps({"services": {"x": service}}))

    def read(self, dotenv: str, env_file: str, names: Sequence[str]) -> Reading:
        """Return what ``docker compose config`` shows: ``names`` come from ``.env`` under FROM_name."""
        # A name that .env does not set is told from one that it leaves empty.
        references = {"FROM_" + name: "${" + name + "-UNSET}" for name in names}
        self._write(dotenv, env_file, {"image": IMAGE, "environment": references})
        done = self._run("config", "--format", "json")
        if done.returncode:
            return Reading({}, {}, done.stderr.decode())
        # Compose writes a dollar sign of its result twice, so that the result can be read again.
        shown = json.loads(done.stdout)["services"]["x"]["environment"]
        found = {name: value.replace("$$", "$") for name, value in shown.items()}
        return Reading(
            {name: found.pop("FROM_" + name) for name in names if found["FROM_" + name] != "UNSET"}, found, ""
        )

    def in_container(self, dotenv: str, env_file: str, names: List[str]) -> Tuple[Dict[str, str], Dict[str, str]]:
        """Return what a process finds in its environment, as ``read`` does."""
        service: Dict[str, object] = {
            "image": IMAGE,
            "entrypoint": [],
            # The Engine's log breaks long lines in the middle of a character; of letters alone it gives all back.
            "command": ["base64", "/proc/self/environ"],
            "network_mode": "none",
            "environment": {"FROM_" + name: "${" + name + "}" for name in names},
        }
        self._write(dotenv, env_file, service)
        client = docker.from_env(timeout=300)
        try:
            done = self._run("create", "--pull", "never")
            assert done.returncode == 0, done.stderr.decode()[-2000:]
            (container,) = self._containers(client)
            container.start()
            assert container.wait()["StatusCode"] == 0
            printed = base64.b64decode(container.logs(stdout=True, stderr=False)).decode("utf-8")
        finally:
            for container in self._containers(client):
                container.remove(force=True)
            client.close()
        found = dict(entry.split("=", 1) for entry in printed.split("\0") if entry)
        return {name: found["FROM_" + name] for name in names}, found

    def _containers(self, client: docker.DockerClient) -> List[docker.models.containers.Container]:
        label = "com.docker.compose.project=" + self._project
        return list(client.containers.list(all=True, filters={"label": label}))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def compose(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    binaries = compose_binaries()
    by_age = sorted(binaries, key=lambda version: [int(part) for part in version.split(".")])
    return Compose(binaries[by_age[0 if request.param == "oldest" else -1]], tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def values() -> Dict[str, str]:
    """Variable -> value, of every kind that we take."""
    return {"V{0}".format(number): value for number, value in enumerate(drawn(VALUES, CASES))}


@pytest.fixture(scope="module")
def lines() -> Dict[str, str]:
    """Variable -> the line that somebody wrote for it."""
    return {
        "L{0}".format(number): line.replace("NAME", "L{0}".format(number))
        for number, line in enumerate(drawn(LINES, HAND_WRITTEN_CASES))
    }


def assert_same(got: Mapping[str, str], wanted: Mapping[str, str], written: Mapping[str, str]) -> None:
    """Fail with the shortest line of ``written`` (variable -> line) that was not read as it is meant."""
    wrong = [name for name in wanted if got.get(name) != wanted[name]]
    if wrong:
        name = min(wrong, key=lambda name: len(written[name]))
        pytest.fail(
            "{0} of {1} are read otherwise; the shortest: {2!a} means {3!a}, but is read as {4!a}".format(
                len(wrong), len(wanted), written[name], wanted[name], got.get(name)
            )
        )


def first_refused(compose: Compose, written: Mapping[str, str]) -> str:
    """Return the first of lines, some of which Compose does not take, that it does not take."""
    names = list(written)
    while len(names) > 1:
        half = names[: len(names) // 2]
        text = "".join(written[name] + "\n" for name in half)
        names = half if compose.read(text, text, []).refusal else names[len(half) :]
    return written[names[0]]


def assert_read_the_same(compose: Compose, written: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Fail unless Compose reads ``written`` (variable -> line) as ``wanted`` (variable -> value), from both files."""
    text = "".join(line + "\n" for line in written.values())
    reading = compose.read(text, text, list(written))
    if reading.refusal:
        pytest.fail("Compose refuses {0!a}: {1}".format(first_refused(compose, written), reading.refusal))
    assert_same(reading.dotenv, wanted, written)
    assert_same(reading.env_file, wanted, written)
    # What is no variable of a line would be a part of a value that Compose took for a line of its own.
    assert set(reading.env_file) == set(written)


def written_by_us(values: Mapping[str, str]) -> Dict[str, str]:
    return {name: "{0}={1}".format(name, _envfile.encode_value(value)) for name, value in values.items()}


def test_ten_thousand_values_are_read_by_compose_as_they_are(compose: Compose, values: Dict[str, str]) -> None:
    assert len(set(values.values())) == CASES == 10_000
    assert_read_the_same(compose, written_by_us(values), values)


def test_ten_thousand_values_reach_the_environment_of_a_process(compose: Compose, values: Dict[str, str]) -> None:
    text = _envfile.render([("Values", values)])
    dotenv, env_file = compose.in_container(text, text, list(values))
    assert_same(dotenv, values, written_by_us(values))
    assert_same(env_file, values, written_by_us(values))


def test_the_longest_values_reach_the_environment_of_a_process(compose: Compose) -> None:
    fillers = ["x", "\\", '"', "$", "\n", "\u20ac", "'#\t "]
    values = {}
    for number, filler in enumerate(fillers):
        repeated = filler * (_envfile.LONGEST_VALUE // len(filler.encode()))
        values["V{0}".format(number)] = repeated + "x" * (_envfile.LONGEST_VALUE - len(repeated.encode()))
    assert {len(value.encode()) for value in values.values()} == {_envfile.LONGEST_VALUE}
    text = _envfile.render([("Values", values)])
    assert _envfile.parse(text) == values
    dotenv, env_file = compose.in_container(text, text, list(values))
    assert [name for name in values if dotenv[name] != values[name]] == []
    assert [name for name in values if env_file[name] != values[name]] == []


def meaning(line: str, name: str) -> Optional[str]:
    """Return what we take a line to mean; None where we refuse it or where it refers to other variables."""
    try:
        _envfile.parse(line, plain=[name])
    except StateCorrupt as error:
        if "refers to" in str(error):
            return None
    try:
        return _envfile.parse(line).get(name)
    except StateCorrupt:
        return None


def test_what_people_write_means_the_same_to_compose(compose: Compose, lines: Dict[str, str]) -> None:
    meanings = {name: meaning(line, name) for name, line in lines.items()}
    wanted = {name: value for name, value in meanings.items() if value is not None}
    assert len(wanted) > len(lines) / 3, "most lines are refused; nothing would be tested"
    assert_read_the_same(compose, {name: lines[name] for name in wanted}, wanted)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_file_that_somebody_edited_means_the_same_before_and_after_we_write_it(compose: Compose, end: str) -> None:
    ours = {"PORT": "8000", "PASSWORD": 'a\\b"c$d', "EMPTY": ""}
    text = _envfile.render([("Ports", {"PORT": "8000"}), ("Rest", {"PASSWORD": ours["PASSWORD"], "EMPTY": ""})])
    text += "\n# Where it is\nURL=http://localhost:${PORT}/  # for now\nexport MINE='a # b'\nCOST=5$$\nALSO=\"$MINE\"\n"
    text = text.replace("\n", end)
    hand = _envfile.hand_written(text, ours, ["Ports", "Rest"])
    again = _envfile.render([("All", ours)], hand)
    names = [*ours, "URL", "MINE", "COST", "ALSO"]
    before, after = (compose.read(content, content, names) for content in (text, again))
    assert before == after and not before.refusal
    assert before.dotenv == before.env_file == {
        **ours, "URL": "http://localhost:8000/", "MINE": "a # b", "COST": "5$", "ALSO": "a # b",
    }  # fmt: skip
