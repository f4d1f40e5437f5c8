# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel as people use it: with a mouse, a keyboard, a reader, a phone, by day and by night."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml
from jsonschema import Draft202012Validator
from selenium.webdriver.common.keys import Keys

from browser import example
from browser.conftest import PANEL, ROOT, Panel
from figures import record

VIEWS = {"overview": "", "instance": "instance/acme", "host": "host"}
Wait = Callable[[Callable[[], bool]], None]


def test_the_example_is_what_a_sampler_writes() -> None:
    for kind, document in (("live", example.live(1.0, hostile=True)), ("history", example.history("acme", 1e9))):
        schema = json.loads((ROOT / "docs" / "schemas" / f"{kind}.schema.json").read_text())
        Draft202012Validator(schema).validate(document)


def test_the_role_installs_every_file_of_the_panel() -> None:
    variables = yaml.safe_load((ROOT / "roles" / "multibase_monitor" / "vars" / "main.yml").read_text())
    installed = [row["path"].rsplit("/", 1)[1] for row in variables["__multibase_monitor_panel"]]
    assert installed == sorted(path.name for path in PANEL.iterdir())


def test_nothing_comes_from_elsewhere() -> None:
    for path in PANEL.iterdir():
        if path.name not in ("uplot-LICENSE.txt", "uplot.js"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://", text), path.name


def test_everything_is_seen_at_a_glance(panel: Panel) -> None:
    panel.open()
    assert panel.names() == ["acme", "beta", "carousel", "delta-shop", "ecole", "fjord"]
    tiles = panel.text(".tiles")
    for words in ("3 of 6", "23.4 %", "43.4 %", "82.0 %", "full in 48 days", "13 days"):
        assert words in tiles, words
    assert "the health check of functions fails" in panel.text() and "known to alice" in panel.text()
    carousel = panel.text("article:nth-of-type(3)")
    for words in ("degraded", "1 of 8 fail", "functions", "verified", "99.97 % of 99.9 %", "port 20020"):
        assert words in carousel, words
    assert panel.run("return document.title") == "(2) sup1.example.net – Multibase"


def test_one_instance_in_full(panel: Panel) -> None:
    panel.open("instance/acme")
    text = panel.text()
    for words in (
        "Services", "127.0.0.1:20000", "Probes through the gateway", "no_key", "13 of 100: 11 idle, 2 active",
        "99.71 %",        "realtime", "1.2 MB", "select * from orders", "Newest verified", "Latency",
    ):  # fmt: skip
        assert words in text, words
    assert panel.run("return document.querySelectorAll('.plot canvas').length") == 7
    assert panel.run("return document.querySelector('a[href*=\"label=instance:acme\"]').innerText") == "Runs"
    panel.run("[...document.querySelectorAll('.ranges a')].find((one) => one.innerText === 'Year').click()")
    panel.until("document.querySelector('.ranges [aria-current]').innerText === 'Year'")
    panel.open("instance/nobody")
    assert "no such instance" in panel.text()


def test_the_host_in_full(panel: Panel) -> None:
    panel.open("host")
    for words in ("22 d 3 h", "28.1.1", "/var/lib/docker", "panel.example.com", "CN=R11,O=Let's Encrypt", "resolved"):
        assert words in panel.text(), words


def test_it_is_live_and_keeps_what_one_does(panel: Panel, eventually: Wait) -> None:
    live = example.live(time.time())
    live["interval"] = 1
    panel.site.write(live)
    panel.open(height=700)
    panel.run("window.kept = document.querySelector('article'); scrollTo(0, 300)")
    panel.run("document.querySelector('.card:nth-of-type(4) a').focus({ preventScroll: true })")
    before = panel.run("return [document.activeElement.href, scrollY]")
    database = next(one for one in live["instances"][0]["services"] if one["name"] == "db")
    database.update(state="exited", health="stopped")
    live["instances"][0].update(state="degraded")
    live["sampled_at"] = time.time()
    panel.site.write(live)
    eventually(lambda: "degraded" in panel.text("article"))
    assert panel.run("return document.querySelector('article') === window.kept"), "without a reload"
    assert panel.run("return [document.activeElement.href, scrollY]") == before
    # A service that was stopped is red, and said in words too.
    database_badge = "[...document.querySelectorAll('article .badge')].find((one) => one.innerText.includes('db'))"
    colour = f"return getComputedStyle({database_badge}).color"
    assert panel.run(colour) == "rgb(179, 38, 30)"
    panel.screenshot("stopped-service")


def test_old_data_is_said_to_be_old(panel: Panel, eventually: Wait) -> None:
    panel.site.write(example.live(time.time() - 300))
    panel.open()
    assert "What you see is old" in panel.text("#notice") and "Last seen 5 min ago" in panel.text("#head")
    panel.screenshot("stale")
    panel.site.write(example.live(time.time()))
    eventually(lambda: panel.text("#notice") == "")


def test_data_that_cannot_be_read_leaves_what_was_seen(panel: Panel, eventually: Wait) -> None:
    panel.open()
    (panel.site.directory / "live.json").write_text("{")
    eventually(lambda: "could not be read" in panel.text("#notice"))
    assert "acme" in panel.names()
    panel.site.write(example.live(time.time()))
    panel.until("document.getElementById('notice').innerText === ''", 30)


def test_nobody_sees_it_without_a_login(panel: Panel) -> None:
    for path in ("", "live.json", "history/acme.json", "panel.js"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{panel.site.address}/{path}", timeout=10)  # our own nginx
        assert caught.value.code == 401
        caught.value.close()


def test_a_host_that_has_written_nothing_yet(panel: Panel, eventually: Wait) -> None:
    (panel.site.directory / "live.json").unlink()
    panel.driver.get("about:blank")
    panel.driver.get(f"http://{panel.site.address}/")
    eventually(lambda: "written nothing yet" in panel.text("#notice"))
    panel.driver.get("about:blank")
    assert all("404" in text for text in panel.problems())


def type_into(panel: Panel, text: str) -> None:
    field = panel.driver.find_element("css selector", "input[type=search]")
    field.send_keys(text)


def test_filters_and_their_address(panel: Panel, eventually: Wait) -> None:
    panel.open()
    type_into(panel, "carou")
    eventually(lambda: panel.names() == ["carousel"])
    assert "1 of 6 instances" in panel.text() and "q=carou" in panel.driver.current_url
    assert panel.run("return document.activeElement.type") == "search", "typing goes on"
    panel.driver.find_element("css selector", "button.plain").click()
    eventually(lambda: len(panel.names()) == 6)
    panel.run("[...document.querySelectorAll('.card .chip')].find((one) => one.innerText === 'team=data').click()")
    eventually(lambda: panel.names() == ["beta", "delta-shop", "fjord"])
    panel.run(
        "[...document.querySelectorAll('.filters .chip')].find((one) => one.innerText.startsWith('healthy')).click()"
    )
    eventually(lambda: panel.names() == ["beta", "delta-shop"])
    # The address is the filter: whoever gets it sees the same.
    panel.open(panel.driver.current_url.split("#/", 1)[1])
    assert panel.names() == ["beta", "delta-shop"]
    panel.open("?order=state")
    assert panel.names()[0] == "carousel"
    panel.open("?q=nothing-like-that")
    assert "No instance is like that" in panel.text()


def test_the_keyboard_alone_is_enough(panel: Panel) -> None:
    panel.open(height=900)
    seen = []
    body = panel.driver.find_element("css selector", "body")
    body.send_keys(Keys.TAB)
    for _ in range(30):
        words = panel.run("const one = document.activeElement; return one.innerText || one.ariaLabel || one.type || ''")
        seen.append(str(words).split("\n")[0])
        outline = panel.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"nobody sees that {words} has the focus"
        panel.driver.switch_to.active_element.send_keys(Keys.TAB)
    for words in ("Skip to content", "Multibase", "Host", "search", "healthy 3", "acme"):
        assert words in seen, seen
    panel.open()
    panel.driver.find_element("css selector", ".card a").send_keys(Keys.ENTER)
    panel.until("document.querySelector('h1').innerText === 'acme'")
    assert panel.run("return document.activeElement.id") == "main", "a reader begins with the new view"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", sorted(VIEWS))
def test_nobody_is_kept_out(panel: Panel, view: str, theme: str) -> None:
    panel.open()
    choose = "const one = document.querySelector('.theme select'); one.value = arguments[0];"
    panel.run(choose + " one.dispatchEvent(new Event('change'))", theme)
    panel.open(VIEWS[view])
    assert panel.run("return document.documentElement.dataset.theme") == theme, "it is remembered"
    assert panel.violations() == []
    panel.screenshot(f"{view}-{theme}")


@pytest.mark.parametrize("width", [320, 768, 1440, 2560])
@pytest.mark.parametrize("view", sorted(VIEWS))
def test_it_fits(panel: Panel, view: str, width: int) -> None:
    # A window is not narrower than 500; the page is told otherwise.
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    panel.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        panel.site.write(example.live(time.time(), hostile=True))
        panel.open(VIEWS[view])
        assert panel.run("return document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        panel.screenshot(f"{view}-{width}")
    finally:
        panel.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_words_of_others_are_words(panel: Panel, view: str) -> None:
    panel.site.write(example.live(time.time(), hostile=True))
    panel.open(VIEWS[view])
    assert panel.run("return document.querySelectorAll('main img, main script').length") == 0
    assert (
        panel.run(
            "return [...document.querySelectorAll('a')].filter((one) => one.href.startsWith('javascript')).length"
        )
        == 0
    )
    assert "broken" not in panel.run("return document.title")
    if view == "overview":
        assert "<img src=x" in panel.text()


def test_a_hundred_instances_are_no_burden(panel: Panel) -> None:
    panel.site.write(example.live(time.time(), 100))
    panel.open()
    assert len(panel.names()) == 100
    script = """
        const done = arguments[arguments.length - 1];
        const times = [];
        const next = () => {
            if (times.length === 20) return done(times.sort((one, other) => one - other)[10]);
            const started = performance.now();
            dispatchEvent(new HashChangeEvent('hashchange'));
            times.push(performance.now() - started);
            setTimeout(next, 10);
        };
        next();
    """
    median = panel.driver.execute_async_script(script)
    record("panel, 100 instances drawn again", round(float(median), 1), "ms", "median of 20 in Chromium, tests/browser")
    assert median < 200
    nodes = "return document.getElementsByTagName('*').length"
    before = panel.run(nodes)
    panel.driver.execute_async_script(script)
    assert panel.run(nodes) == before


def test_other_hosts_are_linked(panel: Panel) -> None:
    hosts: Any = [
        {"name": "sup2", "url": "https://panel.sup2.example.net/"},
        {"name": "bad", "url": "javascript:alert(1)"},
    ]
    (panel.site.directory / "hosts.json").write_text(json.dumps(hosts))
    panel.open()
    panel.until("document.querySelector('#head nav').innerText.includes('sup2')")
    found = panel.run("return [...document.querySelectorAll('#head nav a')].map((one) => one.href)")
    assert "https://panel.sup2.example.net/" in found and not [one for one in found if one.startswith("javascript")]


def test_pictures_for_the_documentation_are_there() -> None:
    for name in ("panel.png", "panel-instance.png"):
        path = Path(ROOT / "docs" / "images" / name)
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 300_000
