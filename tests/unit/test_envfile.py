# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec of ``.env``: every printable value survives, and an error names file and line but never a value.

Docker Compose is the oracle where ``docker compose version`` answers; ``docker compose config`` needs no Engine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile
from ansible_collections.multibase.supabase.plugins.module_utils._errors import StateCorrupt
from unit.support import PROPERTY

HOSTILE = [
    "", " ", "  leading", "trailing  ", "a b", "a#b", "a #b", "# comment", "#", '"', '""', "'", "''", '"quoted"',
    "'quoted'", "it's", 'say "x"', "\\", "\\\\", "trailing\\", "a\\nb", "a\\\\nb", "\\$", "$", "$$", "$HOME", "${HOME}",
    "${HOME:-x}", "$(id)", "`id`", "a\nb", "a\n\nb\n", "\n", "a\tb", "=", "a=b", "=a", "!", "%s", "{{ 7*7 }}",
    "*anchor",
    "{a: b}", "x: y\nprivileged: true", "yes", "null", "1e3", "0x1F", "~", "ä€😀", "а", "\u202e", "\u2028", "\u00a0x",
    "\\t", "\\r", "\\u0041", "a\\", "export A=b", "'a\"b$c\\d#e\nf'", "p@ss/w:rd?&+%41", "x" * 65536,
]  # fmt: skip
printable = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=60)
nasty = st.text(st.sampled_from("\"'\\$#=\n\t `{}ab "), max_size=20)


def roundtrip(values: List[str]) -> Dict[str, str]:
    named = {"V{0}".format(number): value for number, value in enumerate(values)}
    text = _envfile.render([("Heading", named)])
    assert _envfile.parse(text) == named
    return named


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value[:20]))
def test_hostile_values_survive(value: str) -> None:
    assert _envfile.decode_value(_envfile.encode_value(value)) == value
    assert "\n" not in _envfile.encode_value(value), "one line each"
    roundtrip([value, "next"])


@PROPERTY
@given(st.lists(printable | nasty, max_size=8))
@example(["\\", "next"])
@example(['"', "#"])
def test_any_printable_value_survives(values: List[str]) -> None:
    roundtrip(values)


@PROPERTY
@given(printable | nasty)
def test_encoding_is_stable(value: str) -> None:
    encoded = _envfile.encode_value(value)
    assert _envfile.encode_value(_envfile.decode_value(encoded)) == encoded


@pytest.mark.parametrize(
    "character", [chr(code) for code in range(32) if chr(code) not in "\t\n"] + ["\x7f"], ids=ascii
)
def test_control_characters_are_refused(character: str) -> None:
    assert _envfile.value_problem("a" + character)
    with pytest.raises(ValueError) as caught:
        _envfile.render([("Heading", {"NAME": "canary" + character})])
    assert "canary" not in str(caught.value)


def test_lone_surrogates_are_refused() -> None:
    # UTF-8 has no form for them: the file could not be written.
    assert _envfile.value_problem("a\ud800")


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "$A"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        _envfile.render([("Heading", {name: "value"})])


def test_layout_of_the_file() -> None:
    text = _envfile.render([("First", {"A": "1", "B": "x y"}), ("Empty", {}), ("Last", {"C": ""})])
    assert text == '# First\nA=1\nB="x y"\n\n# Last\nC=\n'


def test_what_people_write_is_read() -> None:
    text = "\n# comment\n  # indented\nA=1\nexport B=2\n C = 3 \nD='a b'\n"
    text += 'E="a \\"b\\" \\$c \\\\ \\n"\nF=x # why\nG=a#b\nH=\n'
    assert _envfile.parse(text) == {
        "A": "1", "B": "2", "C": "3", "D": "a b", "E": 'a "b" $c \\ \n', "F": "x", "G": "a#b", "H": "",
    }  # fmt: skip
    assert _envfile.parse('A=1\r\nB="x"\r\n') == {"A": "1", "B": "x"}


CANARY = "s3cr3tcanary"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\n{0}\n".format(CANARY), 2),
        ("A=1\nB B={0}\n".format(CANARY), 2),
        ("A=1\n\n# x\n={0}\n".format(CANARY), 4),
        ("A=\"{0}\n".format(CANARY), 1),
        ("A='{0}\n".format(CANARY), 1),
        ("A=\"{0}\\\"\n".format(CANARY), 1),
        ("A=\"x\" {0}\"\n".format(CANARY), 1),
        ("A=\"\n", 1),
        ("A=1\nA={0}\n".format(CANARY), 2),
        ("POSTGRES_PASSWORD=1\nPOSTGRES_PASSWORD={0}\n".format(CANARY), 2),
    ],
)  # fmt: skip
def test_errors_name_file_and_line_but_no_value(text: str, line: int) -> None:
    with pytest.raises(StateCorrupt) as caught:
        _envfile.parse(text, "/srv/x/.env")
    message = str(caught.value)
    assert "/srv/x/.env" in message and "line {0}".format(line) in message
    assert CANARY not in message
    assert CANARY not in repr(caught.value.__cause__)


@pytest.mark.parametrize("text", ["\ufeffA=1\n", "A=1\x00\n"])
def test_damaged_files_are_refused(text: str) -> None:
    with pytest.raises(StateCorrupt, match=r"/srv/x/\.env"):
        _envfile.parse(text, "/srv/x/.env")


@PROPERTY
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        _envfile.parse(text)
    except StateCorrupt:
        return


# Compose as the oracle


def compose_command() -> Optional[List[str]]:
    if not shutil.which("docker"):
        return None
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
    return ["docker", "compose"] if done.returncode == 0 else None


def as_compose_reads(directory: Path, env_text: str, names: List[str]) -> Dict[str, str]:
    service = {"image": "x", "environment": {name: "${" + name + "}" for name in names}}
    (directory / "docker-compose.yml").write_text(json.dumps({"services": {"x": service}}), encoding="utf-8")
    (directory / ".env").write_text(env_text, encoding="utf-8")
    done = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=directory, capture_output=True, check=False, timeout=60,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    read = json.loads(done.stdout)["services"]["x"]["environment"]
    # Compose writes a dollar sign of its result twice, so that the result can be read again.
    return {name: read[name].replace("$$", "$") for name in names}


def test_compose_reads_the_same(tmp_path: Path) -> None:
    values = list(HOSTILE)
    for first in "\"'\\$#=\n\t ":
        values += [first + second for second in "\"'\\$#=\n\t a"]
        values += ["x" + first + "y" + first, first * 3]
    named = roundtrip(values)
    if compose_command() is None:
        return
    read = as_compose_reads(tmp_path, _envfile.render([("Heading", named)]), list(named))
    assert {name: read[name] for name in named if read[name] != named[name]} == {}


def test_what_people_write_means_the_same_to_compose(tmp_path: Path) -> None:
    text = 'A=1\nexport B=2\nC=\'a b\'\nD="a \\"b\\" \\\\ \\n"\nE=x # why\nF=a#b\nG=\nH=  padded  \nI="x" # why\n'
    ours = _envfile.parse(text)
    assert ours["I"] == "x"
    if compose_command() is None:
        return
    assert as_compose_reads(tmp_path, text, list(ours)) == ours
