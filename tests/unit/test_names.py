# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of instances: what is let through can be a path, a label, a Compose project and a word of a command line."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._names import (
    INSTANCE_LABEL,
    name_problem,
    project_name,
)
from unit.support import PROPERTY

RULE = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
RESERVED = ["default", "all", "localhost"]
HOSTILE = [
    "../x", "a/b", "a;id", "$(id)", "`id`", "a b", "-rf", "--help", "a\nb", "a\n", "\na", "a\r", "a\x00", "a\tb", "",
    "a" * 64, "a" * 255, "a" * 10_000, "CON", "ä", "а", "aа", "a\u202eb", "{{7*7}}", "%s", "..", ".", "-a",
    "a.", "a-", "A", "aB", "Acme", "a--b", "a---b", "a_b", "1a", "1", "a,b", "a:b", "a=b", "a|b", "a&b", "a*", "~",
    "a'b", 'a"b', "a\\b", "a%00", "ａ", "a²", "١", "a١", "ß", "ı", "a\u200b", "a\u2028",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_refused(name: str) -> None:
    problem = name_problem(name)
    assert problem
    assert len(problem) < 400, "a name of 10,000 characters does not fill the screen"
    assert problem.isprintable(), "control characters are shown escaped"


@pytest.mark.parametrize("name", [None, 5, 1.5, True, [], {}, b"acme"], ids=repr)
def test_what_is_no_text_is_refused(name: object) -> None:
    assert name_problem(name)


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_words_are_refused_and_said_to_be(name: str) -> None:
    problem = name_problem(name)
    assert problem and "reserved" in problem and name in problem


@pytest.mark.parametrize(
    "name", ["a", "z9", "acme", "a-b", "a-b-c-d", "a1-2b", "app", "app2", "x" * 40, "a" + "-b" * 19]
)
def test_good_names_pass(name: str) -> None:
    assert name_problem(name) is None


def test_forty_characters_and_no_more() -> None:
    assert name_problem("a" * 40) is None
    assert name_problem("a" * 41)
    assert name_problem("a" + "b" * 38 + "-")


def test_the_message_says_what_was_found_and_what_is_allowed() -> None:
    problem = name_problem("Acme_1")
    assert problem and "Acme_1" in problem and "40" in problem and "lower-case" in problem


@PROPERTY
@given(st.text(max_size=45) | st.from_regex(r"[a-z0-9-]{1,42}", fullmatch=True))
def test_exactly_the_documented_names_pass(name: str) -> None:
    documented = RULE.fullmatch(name) is not None and "--" not in name
    if name_problem(name) is None:
        assert documented
    elif documented:
        assert "reserved" in str(name_problem(name))


@PROPERTY
@given(st.from_regex(RULE, fullmatch=True))
def test_a_good_name_stays_below_the_root(name: str) -> None:
    if name_problem(name) is not None:
        return
    layout = Layout("/srv/root")
    for path in (layout.project(name), layout.env(name), layout.manifest(name), layout.record(name), layout.lock(name)):
        assert os.path.normpath(path) == path
        assert path.startswith("/srv/root/")
    assert layout.lock(name) != layout.registry_lock
    # Compose's own rule for projects, and no two names share one.
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project_name(name))
    assert project_name(name) == "multibase-" + name


def test_the_label_is_the_published_one() -> None:
    assert INSTANCE_LABEL == "io.multibase.instance"
