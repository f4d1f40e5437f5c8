# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of reports share: a live document, hostile ones that follow the schema, and the schemas themselves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Dict, List

from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from ansible_collections.multibase.supabase.plugins.module_utils import _report

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = REPOSITORY / "docs" / "schemas"
LIVE_SCHEMA: Dict[str, Any] = json.loads((SCHEMAS / "live.schema.json").read_text())
REPORT_SCHEMA: Dict[str, Any] = json.loads((SCHEMAS / "report.schema.json").read_text())
_SAMPLE = (Path(__file__).parent / "samples" / "live.json").read_text()
NOW = 1_790_000_005.0

live_validator = Draft202012Validator(LIVE_SCHEMA)
report_validator = Draft202012Validator(
    REPORT_SCHEMA, registry=Registry().with_resource("live.schema.json", Resource.from_contents(LIVE_SCHEMA))
)

# What a name, a message or a query of a stranger may hold: markup, formulas, quotes, ends of lines, bytes of no text.
HOSTILE = (
    "<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", '"><b onmouseover="x', "&lt;b&gt; & '",
    "=HYPERLINK(\"http://x\")", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", ' "a",b\r\n;c', '\\" \\n {x="y"} 1',
    "\n# TYPE multibase_x counter\nmultibase_x 1", "\x00\x01\x1b[31m", "\ud800", "javascript:alert(1)", "\u202eabc",
    "é𝄞", "",
)  # fmt: skip


def sample() -> Dict[str, Any]:
    """A live document of a host with a healthy, a degraded and a stopped instance."""
    return dict(json.loads(_SAMPLE))


def answer(host: str = "h1", live: Any = None, problem: str = "", read_at: Any = NOW) -> Dict[str, Any]:
    """What a host answers; the sample unless another document is given."""
    return {"host": host, "live": sample() if live is None else live, "problem": problem, "read_at": read_at}


AWAY = {"host": "away", "live": None, "problem": "the host cannot be reached: no route", "read_at": None}


def report(*answers: Dict[str, Any]) -> Dict[str, Any]:
    """The report of these hosts; of the sample and of one that is away when none are given."""
    return _report.build(list(answers) or [answer(), AWAY], NOW, "0.1.0")


def texts() -> st.SearchStrategy[str]:
    return st.sampled_from(HOSTILE) | st.text(max_size=12)


def from_schema(schema: Dict[str, Any], root: Dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that follow a schema, as far as the words go that the schema of live documents uses."""
    if "$ref" in schema:
        return from_schema(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([from_schema(one, root) for one in schema["anyOf"]])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of([_of_kind(kind, schema, root) for kind in kinds])


def _of_kind(kind: str, schema: Dict[str, Any], root: Dict[str, Any]) -> st.SearchStrategy[Any]:
    plain: Dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(), "boolean": st.booleans(), "string": texts(),
        "integer": st.integers(-(2**62), 2**62) | st.integers(0, 100),
        "number": st.floats(-1e18, 1e18) | st.integers(0, 100),
    }  # fmt: skip
    if kind in plain:
        return plain[kind]
    if kind == "array":
        most = min(schema.get("maxItems", 2), 3)
        return st.lists(from_schema(schema["items"], root), min_size=schema.get("minItems", 0), max_size=most)
    known = {name: from_schema(one, root) for name, one in schema.get("properties", {}).items()}
    if known:
        needed = {name: known.pop(name) for name in schema["required"]}
        return st.fixed_dictionaries(needed, optional=known)
    return st.dictionaries(texts(), from_schema(schema["additionalProperties"], root), max_size=2)


live_documents = from_schema(LIVE_SCHEMA, LIVE_SCHEMA)


def hostile(word: str) -> Dict[str, Any]:
    """The sample with a word in every place where any text may stand."""
    live = copy.deepcopy(sample())

    def fill(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {
                (word if key in ("labels", "urls", "ports", "connections", "sparklines") else name): fill(one, name)
                for name, one in value.items()
            }
        if isinstance(value, list):
            return [fill(one, key if key == "domains" else "") for one in value]
        return word if isinstance(value, str) and key not in ("state", "wanted", "health", "severity") else value

    return dict(fill(live))


def values_of(value: Any) -> List[str]:
    """All texts in a JSON value, keys included."""
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *values_of(one))]
    if isinstance(value, list):
        return [text for one in value for text in values_of(one)]
    return [value] if isinstance(value, str) else []
