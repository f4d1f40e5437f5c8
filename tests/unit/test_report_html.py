# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as one HTML file, read back with a parser: well nested, self-contained, and hostile words stay words."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, Dict, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, given, settings

from ansible_collections.multibase.supabase.plugins.module_utils import _report, _report_html
from unit.report_support import AWAY, HOSTILE, answer, hostile, live_documents, report, sample

PROPERTY = settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
VOID = {"meta"}
ELEMENTS = {
    "a", "body", "caption", "code", "dd", "div", "dl", "dt", "h1", "h2", "h3", "head", "header", "html", "main", "meta",
    "nav", "p", "polyline", "section", "span", "style", "svg", "table", "tbody", "td", "th", "thead", "time", "title",
    "tr",
}  # fmt: skip
ATTRIBUTES = {
    "aria-label", "aria-labelledby", "charset", "class", "content", "datetime", "href", "http-equiv", "id", "lang",
    "name", "points", "preserveaspectratio", "rel", "role", "scope", "tabindex", "vector-effect", "viewbox",
}  # fmt: skip


class Page(HTMLParser):
    """What a page consists of; anything that does not nest is an error of the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: List[str] = []
        self.elements: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.tables: List[Tuple[str, List[List[str]]]] = []
        self.texts: List[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        assert len({name for name, _value in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append(("", []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("th", "td"):
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if "caption" in self.open:
            self.tables[-1] = (self.tables[-1][0] + data, self.tables[-1][1])
        elif "table" in self.open and self.open[-1] not in ("table", "thead", "tbody", "tr"):
            self.tables[-1][1][-1][-1] += data

    def table(self, caption: str) -> List[Dict[str, str]]:
        """The rows of a table, by heading."""
        (found,) = [rows for name, rows in self.tables if name.startswith(caption)]
        return [dict(zip(found[0], row)) for row in found[1:]]


def checked(made: Dict[str, Any]) -> Page:
    """Render a report and check what holds for every page."""
    text = _report_html.render(made)
    text.encode("utf-8")
    page = Page(text)
    assert {tag for tag, _attributes in page.elements} <= ELEMENTS
    assert {name for _tag, attributes in page.elements for name in attributes} <= ATTRIBUTES
    ids = [attributes["id"] for _tag, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        href = attributes.get("href") or "#"
        assert (href.startswith("#") and (href == "#" or href[1:] in ids)) or href.startswith(("http://", "https://"))
        assert tag != "th" or attributes["scope"] in ("row", "col")
        assert attributes.get("aria-labelledby", ids[0]) in ids
        assert tag != "svg" or attributes["aria-label"]
    for caption, rows in page.tables:
        assert caption and all(len(row) == len(rows[0]) for row in rows)
        assert all(row[0].strip() for row in rows[:1])
    return page


def test_the_page_of_the_sample() -> None:
    page = checked(report())
    attention = page.table("What needs attention")
    assert attention[0]["Message"] == "the host cannot be reached: no route"
    assert attention[0]["Severity"] == "✖ critical" and len(attention) == 7
    h1, away = page.table("Hosts of the run")
    assert (h1["Read"], h1["Memory"], h1["CPU"]) == ("2026-09-21 14:13:20 UTC", "5.9 GiB of 15.6 GiB", "31.5 %")
    assert (away["Read"], away["CPU"]) == ("✖ not read: the host cannot be reached: no route", "-")
    acme, beta, gamma = page.table("Instances of all hosts")
    assert (acme["State"], beta["State"], gamma["State"]) == ("✔ healthy", "▲ degraded", "▲ stopped")
    assert (beta["CPU"], beta["Probes"], beta["Up, month"]) == ("51.0 %", "✖ failing: storage", "99.42 %")
    assert (gamma["CPU"], gamma["Memory"], gamma["Probes"]) == ("-", "-", "-")
    assert acme["Addresses"] == "api, studio, runs"
    backups = page.table("Backups of each")
    assert [row["Newest verified"] for row in backups] == ["119 min", "3 d", "none"]
    assert [row["Overdue"] for row in backups] == ["no", "✖ yes", "no"]
    assert [row["Answered"] for row in page.table("Alerts")] == [
        "-", "acknowledged by ann: the consumer is being moved", "silenced until 2026-09-21 15:13:20 UTC", "-",
    ]  # fmt: skip
    assert [row["Days left"] for row in page.table("Certificates")] == ["5.0", "60.0"]
    assert [row["Health"] for row in page.table("Services of beta on h1")] == ["✔ healthy", "✔ healthy", "✖ unhealthy"]
    assert page.table("Slow queries of acme")[0]["Query"] == "SELECT * FROM todos WHERE owner = $1"


def test_stale_data_is_marked() -> None:
    live = sample()
    page = checked(report(answer(live=live, read_at=live["sampled_at"] + 600)))
    assert page.table("Hosts of the run")[0]["Read"] == "▲ stale, 2026-09-21 14:13:20 UTC"
    assert page.table("What needs")[0]["Message"] == "nothing was written for 600 s: the sampler has stopped"


def test_nothing_is_fetched_and_nothing_can_run() -> None:
    text = _report_html.render(report())
    assert "<script" not in text and "<link" not in text and "<img" not in text
    assert "url(" not in text and "@import" not in text
    page = checked(report())
    policies = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_page_is_for_phones_paper_and_the_dark() -> None:
    text = _report_html.render(report())
    for needed in ("prefers-color-scheme: dark", "@media print", 'name="viewport"', 'lang="en"', "focus-visible"):
        assert needed in text
    regions = [a for tag, a in checked(report()).elements if a.get("role") == "region"]
    assert regions and all(a["tabindex"] == "0" and a["aria-labelledby"] for a in regions)


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_stay_words(word: str) -> None:
    page = checked(report(answer(word, hostile(word)), AWAY))
    shown = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in word.replace("\ud800", "?"))
    assert any(shown in text for text in page.texts)
    assert "\u202e" not in "".join(page.texts) and "\x1b" not in "".join(page.texts)


@PROPERTY
@given(live_documents)
def test_whatever_hosts_say_is_a_page(live: Dict[str, Any]) -> None:
    checked(report(answer(live=live), answer("h2", live), AWAY))


def test_addresses_that_are_not_of_the_web_are_no_links() -> None:
    live = sample()
    live["instances"][0]["urls"] = {"api": "javascript:alert(1)", "studio": "https://acme.example.com/"}
    live["instances"][0]["runs_url"] = "data:text/html,x"
    page = checked(report(answer(live=live)))
    links = [a["href"] for tag, a in page.elements if tag == "a" and not str(a["href"]).startswith("#")]
    assert "https://acme.example.com/" in links and not [href for href in links if "alert" in href or "data:" in href]
    assert page.table("Instances of all hosts")[0]["Addresses"] == "api, studio, runs"


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2 of a colour as #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(letter * 2 for letter in colour[1:])
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_has_the_contrast_of_wcag_in_both_schemes() -> None:
    schemes = re.findall(r":root \{([^}]*)\}", _report_html._STYLE)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        assert {"text", "soft", "critical", "warning", "well", "link", "ground", "band"} <= set(colours)
        for name in ("text", "soft", "critical", "warning", "well", "link"):
            for ground in ("ground", "band"):
                light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


def test_a_report_of_nothing_is_a_page_too() -> None:
    page = checked(_report.build([], 0.0, "0.1.0"))
    assert "✔ Nothing does." in page.texts
