# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be shown of statements: nothing that somebody wrote into them."""

from __future__ import annotations

from typing import List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _database_figures
from ansible_collections.multibase.supabase.plugins.module_utils._statements import presentable
from unit.support import PROPERTY

CANARY = "CANARY"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("select count(*) from t where a = $1", "select count(*) from t where a = $1"),
        ("  (SELECT\n\t1)", "(SELECT ?)"),
        ("WITH a AS (SELECT $1) DELETE FROM b USING a", "WITH a AS (SELECT $1) DELETE FROM b USING a"),
        ('/* CANARY */ -- CANARY\nselect "Odd ""Name" from t1', 'select "Odd ""Name" from t1'),
        ("/* a /* CANARY */ CANARY */ select $1", "select $1"),
        ("select 'CANARY', 12.5e3, b'1', E'CAN\\'ARY', $x$CANARY$x$ from t2", "select ?, ?, ?, ?, ? from t2"),
        ("select 'it''s CANARY', a", "select ?, a"),
        # A backslash before the quote: whether the literal ends there is a setting.
        ("select 'a\\', 'CANARY'", "select ?"),
        ("select 'CANARY", "select ?"),
        ("select $$CANARY", "select ?"),
        ('select "cut', 'select "cut'),
        ("ALTER ROLE bob PASSWORD 'CANARY'", None),
        ("create user mapping for a server s options (password 'CANARY')", None),
        ("COPY t FROM PROGRAM 'CANARY'", None),
        ("DECLARE c CURSOR FOR SELECT 'CANARY'", None),
        ("-- CANARY", None),
        ("", None),
        ("selector", None),
    ],
)
def test_what_is_shown_of_a_statement(query: str, shown: Optional[str]) -> None:
    assert presentable(query) == shown
    assert CANARY not in (shown or "")


def test_a_long_statement_is_cut() -> None:
    shown = presentable("select " + ", ".join("column_{0}".format(number) for number in range(100)))
    assert shown is not None and len(shown) == 300 and shown.endswith("…")


LITERALS = st.sampled_from(
    ["'CANARY'", "E'CANARY'", "'CAN''ARY CANARY'", "$$CANARY$$", "$a$CANARY$$ CANARY$a$", "/* CANARY */", "-- CANARY\n"]
)
PIECES = st.one_of(LITERALS, st.sampled_from([" ", ", ", "a", '"b"', "$1", "(", "::text", "1", "\\", "''"]))


@PROPERTY
@given(st.lists(PIECES, max_size=12))
def test_no_literal_and_no_comment_is_ever_shown(pieces: List[str]) -> None:
    assert CANARY not in (presentable("select " + " ".join(pieces)) or "")


@PROPERTY
@given(st.text(max_size=80))
def test_any_text_is_survived(text: str) -> None:
    shown = presentable("select " + text)
    assert shown is None or len(shown) <= 300


def test_the_slowest_that_may_be_shown() -> None:
    figures = {"calls": 1, "mean_ms": 1.0, "total_ms": 1.0}
    rows = [{"query": "ALTER ROLE a PASSWORD 'CANARY'", **figures}]
    rows += [{"query": f"select {letter} /* CANARY */", **figures} for letter in "abcdefg"]
    told = _database_figures.shown(rows)
    assert [row["query"] for row in told] == [f"select {letter}" for letter in "abcde"]
    assert all({**row, "query": ""} == {"query": "", **figures} for row in told)
