# SPDX-License-Identifier: GPL-3.0-or-later
"""One Chromium and one nginx for all tests of the panel, and a site whose files each test writes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from browser import example

ROOT = Path(__file__).resolve().parents[2]
PANEL = ROOT / "roles" / "multibase_monitor" / "files" / "panel"
SCREENSHOTS = ROOT / ".cache" / "reports" / "screenshots"
# axe-core is the rules that most checkers of accessibility share; npm hands it out.
AXE = "axe-core@4.11.1"
PASSWORD = "panel-of-the-tests"
PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver", "nginx": "nginx-light"}
# Headers as those of the site that the role multibase_proxy makes; a login for all files, as there.
NGINX = """
daemon off; pid {work}/nginx.pid; error_log {work}/error.log; worker_processes 1; user root;
events {{ worker_connections 64; }}
http {{
  types {{ text/html html; text/css css; text/javascript js; image/svg+xml svg; application/json json; }}
  access_log off; client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  server {{
    listen 127.0.0.1:{port};
    add_header X-Content-Type-Options nosniff always; add_header X-Frame-Options DENY always;
    add_header Referrer-Policy no-referrer always;
    root {site};
    location / {{ auth_basic Multibase; auth_basic_user_file {work}/people; try_files $uri $uri/index.html =404; }}
  }}
}}
"""


def install() -> None:
    """Install what is missing, as `make test` does with all that it needs."""
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # Debian would start nginx at once, on port 80 of this machine.
        policy = Path("/usr/sbin/policy-rc.d")
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment, capture_output=True)
            subprocess.run(
                ["apt-get", "install", "-qq", "--no-install-recommends", *missing],
                check=True,
                env=environment,
                capture_output=True,
            )
        finally:
            if ours:
                policy.unlink()


@dataclass
class Site:
    """The files that nginx serves."""

    directory: Path
    address: str
    people: Path

    def write(self, live: Any, histories: bool = True) -> None:
        """Put a live document, and histories of its instances, in place of the ones before."""
        staged = self.directory / "live.json.new"
        staged.write_text(json.dumps(live))
        staged.replace(self.directory / "live.json")
        if histories:
            for name in ["_host", *(entry["name"] for entry in live["instances"][:12])]:
                path = self.directory / "history" / f"{name}.json"
                path.write_text(json.dumps(example.history(name, time.time())))

    def let_in(self, whether: bool = True) -> None:
        """Write the file of people, with the one of the tests or without."""
        command = ["openssl", "passwd", "-apr1", PASSWORD]
        hashed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        self.people.write_text(f"admin:{hashed}\n" if whether else "nobody:x\n")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real nginx on a free port of the loopback."""
    install()
    work = tmp_path_factory.mktemp("nginx")
    directory = work / "site"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (work / "nginx.conf").write_text(NGINX.format(work=work, port=port, site=directory))
    site = Site(directory, f"127.0.0.1:{port}", work / "people")
    site.let_in()
    process = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(work / "nginx.conf")])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield site
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def chromium(server: Site) -> Iterator[webdriver.Chrome]:
    """A real Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core."""
    cache = ROOT / ".cache" / "axe"
    script = cache / "package" / "axe.min.js"
    if not script.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", AXE], cwd=cache, check=True, capture_output=True)
        (archive,) = cache.glob("axe-core-*.tgz")
        subprocess.run(["tar", "-xzf", archive.name], cwd=cache, check=True)
    return script.read_text()


class Panel:
    """The panel in the browser."""

    def __init__(self, driver: webdriver.Chrome, site: Site, axe: str) -> None:
        self.driver, self.site, self._axe = driver, site, axe

    def open(self, view: str = "", width: int = 1440, height: int = 1400) -> None:
        """Load the page anew at a view, and wait for what the host saw."""
        self.driver.set_window_size(width, height)
        self.driver.get("about:blank")
        self.driver.get(f"http://admin:{PASSWORD}@{self.site.address}/#/{view}")
        self.until("document.querySelector('h1')")
        self.settle()

    def settle(self) -> None:
        """Wait until charts are drawn, where there are any."""
        self.until("[...document.querySelectorAll('[data-chart]')].every((box) => box.querySelector('canvas'))")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: str, seconds: float = 15) -> None:
        """Wait until an expression of JavaScript is true."""
        WebDriverWait(self.driver, seconds, 0.1).until(
            lambda _driver: self.run(f"return Boolean({condition})"), condition
        )

    def text(self, selector: str = "body") -> str:
        """The words that a person sees."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def names(self) -> List[str]:
        """The instances that are shown, in their order."""
        return list(self.run("return [...document.querySelectorAll('.card h3')].map((one) => one.innerText)"))

    def problems(self) -> List[str]:
        """What the console complained of since it was asked last."""
        return [str(row["message"]) for row in self.driver.get_log("browser") if row["level"] in ("SEVERE", "WARNING")]

    def violations(self) -> List[str]:
        """What axe-core finds wrong with the page as it is."""
        # Its own script: the page's rules for scripts do not hold for the driver.
        self.run(self._axe + "\nwindow.axe = axe;")
        found: Dict[str, Any] = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run().then(done)"
        )
        return [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]

    def screenshot(self, name: str) -> Path:
        """Keep a picture of what is seen."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path


@pytest.fixture
def panel(chromium: webdriver.Chrome, server: Site, axe: str) -> Iterator[Panel]:
    """The panel of the example's host, just written. Complaints of the console fail the test."""
    shutil.rmtree(server.directory, ignore_errors=True)
    shutil.copytree(PANEL, server.directory)
    (server.directory / "history").mkdir()
    (server.directory / "hosts.json").write_text("[]")
    server.let_in()
    server.write(example.live(time.time()))
    made = Panel(chromium, server, axe)
    chromium.get_log("browser")
    yield made
    assert made.problems() == []


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until something is so."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.1)

    return wait
