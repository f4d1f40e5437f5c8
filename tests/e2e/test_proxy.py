# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy on a test host of its own, looked at from outside. The tests build on each other, in order.

Behind nginx is a stand-in on the ports of instances that exist as files only: what is tested is what nginx does. ACME
is a real one (Debian's pebble and certbot), TLS is checked by sslyze, the configuration by gixy.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
import yaml
from cryptography import x509

from ansible_collections.multibase.supabase.plugins.module_utils import _certificates, _envfile
from figures import record
from tools import tool

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "proxy"
NAME = "proxy"
CONTAINER = "multibase-sandbox-" + NAME
ROOT = "/opt/multibase"
ACME, BETA, GAMMA, PANEL = "acme.sandbox.test", "beta.sandbox.test", "gamma.sandbox.test", "panel.sandbox.test"
# Longer than nginx's table of names takes, though the name is good.
REFUSED = ".".join(["x" * 62] * 4)
HSTS = "max-age=63072000"


class Answer(NamedTuple):
    """Status, headers (names in small letters) and body."""

    status: int
    headers: Dict[str, str]
    body: bytes

    def told(self) -> Dict[str, Any]:
        """What the stand-in says it got."""
        return dict(json.loads(self.body))


def basic(user: str, password: str) -> str:
    """Return the value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Host:
    """The test host, and a client of its sites."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.settings: Dict[str, Any] = {
            "multibase_proxy_enabled": True,
            "multibase_proxy_certificates": "self_signed",
            "multibase_proxy_panel_domain": PANEL,
            "multibase_proxy_own_source": str(work / "own"),
            "multibase_proxy_sites": {"beta": {"certificate": "own"}},
            "multibase_start": False,
            "multibase_template_root": str(REPOSITORY / "compose_templates"),
            "multibase_overcommit_memory": 0,
            "multibase_overcommit_cpus": 0,
            "multibase_instances": [
                {"name": "acme", "domain": ACME, "port_base": 20000},
                {"name": "beta", "domain": BETA, "port_base": 20010},
                {"name": "gamma", "port_base": 20020},
            ],
        }
        self.address = ""
        self.outputs = ""
        self.seconds = 0.0

    def write(self) -> None:
        """Write the inventory."""
        connection = {
            "ansible_connection": "community.docker.docker", "ansible_host": CONTAINER, "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
        }  # fmt: skip
        groups = {"all": {"children": {"multibase_hosts": {"hosts": {NAME: {**connection, **self.settings}}}}}}
        (self.work / "hosts.yml").write_text(yaml.safe_dump(groups))

    def play(self, playbook: Path, *words: str, succeeds: Optional[bool] = True, **variables: Any) -> str:
        """Run a playbook and return what it printed."""
        self.write()
        program = str(REPOSITORY / ".venv" / "bin" / "ansible-playbook")
        argv = [program, "-i", str(self.work / "hosts.yml"), *words, "-e", json.dumps(variables), str(playbook)]
        started = time.monotonic()
        environment = {**os.environ, "ANSIBLE_CALLBACK_PLUGINS": "/nonexistent", "NO_COLOR": "1"}
        done = subprocess.run(
            argv, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        self.seconds = time.monotonic() - started
        self.outputs += done.stdout + done.stderr
        if succeeds is not None:
            assert (done.returncode == 0) == succeeds, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def site(self, *words: str, succeeds: Optional[bool] = True) -> str:
        """Provision."""
        return self.play(HERE / "play.yml", *words, succeeds=succeeds)

    def sites(self, *words: str, succeeds: Optional[bool] = True) -> Dict[str, Dict[str, Any]]:
        """Make the sites anew and return what is said of each."""
        result = self.work / "result.json"
        result.unlink(missing_ok=True)
        self.play(REPOSITORY / "playbooks" / "sites.yml", *words, succeeds=succeeds, multibase_result_file=str(result))
        if not result.exists():
            return {}
        return {site["name"]: site for site in json.loads(result.read_text())["sites"]}

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command on the host and return its standard output."""
        done = subprocess.run(["docker", "exec", CONTAINER, *argv], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def copy(self, source: Path, target: str) -> None:
        """Put a file on the host."""
        subprocess.run(["docker", "cp", "--quiet", str(source), f"{CONTAINER}:{target}"], check=True)

    def connect(self, name: str = "", port: int = 443, before: bytes = b"") -> socket.socket:
        """Open a connection; with TLS on port 443. No certificate is checked here: sslyze does that."""
        raw = socket.create_connection((self.address, port), timeout=20)
        if before:
            raw.sendall(before)
        if port != 443:
            return raw
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(raw, server_hostname=name or None)

    def ask(
        self,
        name: str,
        path: str = "/",
        method: str = "GET",
        headers: Optional[Dict[str, str]] = None,
        body: bytes = b"",
        port: int = 443,
        before: bytes = b"",
    ) -> Answer:
        """Make one request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {name}", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        with self.connect(name, port, before) as stream:
            stream.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            return read_answer(stream)

    def certificate(self, name: str) -> x509.Certificate:
        """Return the certificate that a site shows."""
        with self.connect(name) as stream:
            assert isinstance(stream, ssl.SSLSocket)
            shown = stream.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown)

    def variables(self, name: str) -> Dict[str, str]:
        """Return the variables of an instance's ``.env``."""
        return _envfile.parse(self.run("cat", f"{ROOT}/projects/{name}/.env"))


def read_answer(stream: socket.socket) -> Answer:
    """Read until the server closes the connection."""
    content = b""
    while True:
        try:
            piece = stream.recv(65536)
        except ConnectionResetError:
            # That is how nginx leaves a client without an answer.
            break
        if not piece:
            break
        content += piece
    if not content:
        return Answer(0, {}, b"")
    head, _, body = content.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers: Dict[str, str] = {}
    for line in rest:
        key, _, value = line.partition(":")
        assert key.lower() not in headers, f"twice: {line}"
        headers[key.lower()] = value.strip()
    return Answer(int(first.split()[1]), headers, body)


def own_certificate(directory: Path, name: str) -> None:
    """Make a certificate as if bought."""
    directory.mkdir(parents=True, mode=0o700)
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate, key = _certificates.self_signed([name], now)
    (directory / "fullchain.pem").write_bytes(certificate)
    (directory / "privkey.pem").touch(mode=0o600)
    (directory / "privkey.pem").write_bytes(key)


def sandbox(*words: str) -> None:
    """Run a command of the sandbox."""
    subprocess.run([sys.executable, str(REPOSITORY / "tests" / "sandbox" / "sandbox.py"), *words], check=True)


def digest(host: Host) -> str:
    """Return what changes when anything on the host does."""
    # Ansible's own working directory is not meant: it keeps one wherever a file would be copied.
    places = "find /etc /opt /usr /root /srv /run/systemd/system -xdev -path /root/.ansible -prune -o ! -path /root"
    find = places + " -printf '%p %m %s %T@\\n' | sort | sha256sum"
    return host.run("sh", "-c", find)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A bare host. Removed at the end."""
    made = Host(tmp_path_factory.mktemp("proxy"))
    own_certificate(made.work / "own" / "beta", BETA)
    sandbox("host", "down", NAME)
    sandbox("host", "up", NAME)
    try:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        made.address = subprocess.run(
            ["docker", "inspect", "--format", form, CONTAINER], capture_output=True, text=True, check=True
        ).stdout.strip()
        yield made
    finally:
        sandbox("host", "down", NAME)


@pytest.fixture(scope="module")
def password(host: Host) -> str:
    """The password of the first person."""
    return host.run("cat", f"{ROOT}/state/people/admin.password").strip()


def stand_in(host: Host, port: int) -> None:
    """Start a stand-in for a gateway, and wait for it."""
    program = ["python3", "/usr/local/bin/upstream.py", str(port)]
    host.run("systemd-run", "--quiet", "--unit", f"standin-{port}", *program)
    host.run("sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9; do ss -ltn | grep -q :{port} && exit; sleep 0.2; done; exit 1")


def test_check_mode_on_a_bare_host_works_and_changes_nothing(host: Host) -> None:
    before = digest(host)
    output = host.site("--check", "--diff")
    assert digest(host) == before
    assert "nginx" in output


def test_the_second_run_changes_nothing(host: Host) -> None:
    host.site("-vvv", "--diff")
    host.copy(HERE / "upstream.py", "/usr/local/bin/upstream.py")
    for port in (20000, 20010, 20020):
        stand_in(host, port)
    output = host.site()
    assert re.findall(r"changed=(\d+)", output) == ["0"]
    print(f"a run with nothing to do: {host.seconds:.1f} s")
    host.sites()
    print(f"sites.yml with nothing to do: {host.seconds:.1f} s")


@pytest.fixture(scope="module")
def websocket(host: Host) -> Iterator[socket.socket]:
    """A WebSocket that is open while other tests change the sites."""
    with host.connect(ACME) as stream:
        assert open_websocket(stream)
        yield stream


def open_websocket(stream: socket.socket, path: str = "/realtime/v1/websocket") -> bool:
    """Ask for a WebSocket; return whether it was opened."""
    stream.sendall(upgrade(path))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = stream.recv(1)
        assert piece, head
        head += piece
    return head.startswith(b"HTTP/1.1 101 ")


def upgrade(path: str) -> bytes:
    """Return a request for a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {ACME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def echoed(stream: socket.socket, text: bytes) -> bytes:
    """Send a short text frame and return the text that comes back."""
    mask = b"\x01\x02\x03\x04"
    stream.sendall(bytes((0x81, 0x80 | len(text))) + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(text)))
    back = b""
    while len(back) < 2 + len(text):
        piece = stream.recv(1024)
        assert piece, "the connection was closed"
        back += piece
    return back[2:]


def test_websockets_pass_on_realtime_and_nowhere_else(host: Host, websocket: socket.socket) -> None:
    assert echoed(websocket, b"first") == b"first"
    for path in ("/rest/v1/x", "/storage/v1/x", "/functions/v1/x", "/auth/v1/x"):
        with host.connect(ACME) as stream:
            assert not open_websocket(stream, path)


def test_each_site_reaches_its_own_instance(host: Host) -> None:
    assert host.ask(ACME, "/rest/v1/one").told()["headers"]["host"] == ACME
    assert host.ask(BETA, "/rest/v1/one").told()["headers"]["host"] == BETA
    assert not [line for line in host.run("ls", "/etc/nginx/multibase/live/").split() if "gamma" in line]


def test_headers_are_on_every_answer(host: Host) -> None:
    for status in (200, 204, 301, 400, 401, 404, 500, 503):
        answer = host.ask(ACME, f"/rest/v1/status/{status}")
        assert answer.status == status
        assert answer.headers["strict-transport-security"] == HSTS
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "strict-origin-when-cross-origin"
        assert "x-frame-options" not in answer.headers
        assert "x-powered-by" not in answer.headers
        assert answer.headers["server"] == "nginx"
    # nginx's own answers, and Studio, which nobody may put into a frame.
    studio = host.ask(ACME, "/")
    assert studio.status == 401
    assert studio.headers["strict-transport-security"] == HSTS
    assert studio.headers["content-security-policy"] == "frame-ancestors 'self'"
    assert host.ask(PANEL, "/").headers["content-security-policy"] == "frame-ancestors 'none'"
    odd = host.ask(ACME, "/auth/v1/a\\..\\token")
    assert (odd.status, odd.headers["strict-transport-security"]) == (400, HSTS)


def test_http_leads_to_https_and_unknown_names_nowhere(host: Host) -> None:
    answer = host.ask(ACME, "/rest/v1/x?y=1", port=80)
    assert (answer.status, answer.headers["location"]) == (308, f"https://{ACME}/rest/v1/x?y=1")
    assert "strict-transport-security" not in answer.headers
    assert host.ask("other.sandbox.test", port=80).status == 0
    assert host.ask(host.address, port=80).status == 0
    for name in ("other.sandbox.test", ""):
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized"):
            host.connect(name)
    # A good handshake does not open the door to another name.
    with host.connect(ACME) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: other.sandbox.test\r\nConnection: close\r\n\r\n")
        assert read_answer(stream).status == 421


def test_what_clients_claim_about_themselves_is_not_believed(host: Host) -> None:
    claims = {
        "X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "X-Forwarded-Proto": "gopher", "Forwarded": "for=6.6.6.6",
        "X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "666",
    }  # fmt: skip
    for path in ("/rest/v1/x", "/realtime/v1/api/x", "/storage/v1/x", "/auth/v1/token"):
        told = host.ask(ACME, path, headers=claims).told()["headers"]
        assert "6.6.6.6" not in json.dumps(told), path
        assert told["x-forwarded-for"] == told["x-real-ip"]
        assert (told["x-forwarded-proto"], told["x-forwarded-host"], told["x-forwarded-port"]) == ("https", ACME, "443")


def test_uploads_to_storage_stream_through(host: Host) -> None:
    size, first = 100 << 20, 1 << 20
    with host.connect(ACME) as stream:
        head = (
            f"POST /storage/v1/object/x HTTP/1.1\r\nHost: {ACME}\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
        )
        stream.sendall(head.encode() + bytes(first))
        end = time.monotonic() + 10
        # The upstream has the first part while 99 MB are not even sent.
        while host.ask(ACME, "/rest/v1/progress").told()["received"] < first - 65536:
            assert time.monotonic() < end
            time.sleep(0.1)
        for _ in range(size // first - 1):
            stream.sendall(bytes(first))
        assert read_answer(stream).told()["length"] == size
    assert host.run("sh", "-c", "find /var/lib/nginx/body -type f").strip() == ""
    too_large = host.ask(ACME, "/rest/v1/x", "POST", {"Content-Type": "text/plain"}, bytes(8))
    assert too_large.status == 200
    with host.connect(ACME) as stream:
        stream.sendall(f"POST /rest/v1/x HTTP/1.1\r\nHost: {ACME}\r\nContent-Length: {size + 1}\r\n\r\n".encode())
        assert b" 413 " in stream.recv(64)


def test_studio_is_for_people(host: Host, password: str) -> None:
    login = {"Authorization": basic("admin", password)}
    dashboard = host.variables("acme")
    known = basic(dashboard["DASHBOARD_USERNAME"], dashboard["DASHBOARD_PASSWORD"])
    for path in ("/", "/project/default", "/api/platform/projects", "/_next/static/x", "//", "/rest/v2", "/auth"):
        refused = host.ask(ACME, path)
        assert (refused.status, refused.headers.get("www-authenticate")) == (401, 'Basic realm="Multibase"'), path
        answer = host.ask(ACME, path, headers=login)
        # What the gateway wants to see is not what people log in with.
        assert answer.told()["headers"]["authorization"] == known
        assert "x-multibase-user" not in answer.told()["headers"]
    # An API's path without its slash leads to the API, never to Studio.
    assert host.ask(ACME, "/rest/v1").headers["location"].partition("://")[2] == ACME + "/rest/v1/"
    assert host.ask(ACME, headers={"Authorization": basic("admin", password + "x")}).status == 401
    assert host.ask(ACME, headers={"Authorization": basic("nobody", password)}).status == 401
    # The instance's own login is the gateway's to check: it goes there as it is.
    for given in (known, basic(dashboard["DASHBOARD_USERNAME"], "wrong")):
        assert host.ask(ACME, headers={"Authorization": given}).told()["headers"]["authorization"] == given
    # The APIs' Authorization is theirs.
    assert (
        host.ask(ACME, "/rest/v1/x", headers={"Authorization": "Bearer abc"}).told()["headers"]["authorization"]
        == "Bearer abc"
    )
    assert host.ask(ACME, "/multibase-login", headers=login).status == 404
    hashed = host.run("cat", "/etc/nginx/multibase/people.htpasswd")
    assert re.fullmatch(r"admin:\$2y\$12\$[./A-Za-z0-9]{53}\n", hashed)
    assert host.run("stat", "-c", "%a %U %G", "/etc/nginx/multibase/people.htpasswd").split() == [
        "640",
        "root",
        "www-data",
    ]
    host.run("mkdir", "-p", f"{ROOT}/www/panel")
    host.run("sh", "-c", f"echo panel > {ROOT}/www/panel/index.html")
    assert host.ask(PANEL).status == 401
    assert host.ask(PANEL, headers=login).body == b"panel\n"
    assert host.ask(PANEL, method="POST", headers=login).status == 405


def test_a_page_of_a_hundred_files_costs_one_hash(host: Host, password: str) -> None:
    login = {"Authorization": basic("admin", password)}
    host.ask(ACME, headers=login)
    started = time.monotonic()
    for number in range(50):
        assert host.ask(ACME, f"/_next/static/{number}", headers=login).status == 200
    # Fifty hashes would take more than ten seconds.
    assert time.monotonic() - started < 6


def test_guessing_is_slowed_down(host: Host, password: str) -> None:
    guesses = [host.ask(ACME, headers={"Authorization": basic("admin", f"guess{n}")}).status for n in range(20)]
    assert set(guesses) == {401, 429}
    assert guesses.count(401) <= 12
    assert host.ask(ACME, headers={"Authorization": basic("admin", password)}).status == 200
    sign_in = [host.ask(ACME, "/auth/v1/token?grant_type=password", "POST").status for _ in range(30)]
    assert set(sign_in) == {200, 429}
    assert sign_in.count(200) <= 23
    json_type = {"Content-Type": "application/json"}
    renewals = [host.ask(ACME, "/auth/v1/token?grant_type=refresh_token", "POST", json_type).status for _ in range(30)]
    assert set(renewals) == {200}
    # Other spellings of a login are logins.
    for path in (
        "/auth/v1/%74oken",
        "/auth/v1//token",
        "/auth/v1/x/../token",
        "/auth/v1/token?grant_type=refresh_token&grant_type=password",
    ):
        assert host.ask(ACME, path, "POST", json_type).status == 429, path


def test_logs_hold_no_query_and_no_login(host: Host, password: str) -> None:
    host.ask(BETA, "/rest/v1/x?apikey=canary-in-a-query")
    host.run("systemctl", "stop", "standin-20010")
    assert host.ask(BETA, "/rest/v1/x?apikey=canary-in-a-query").status == 502
    stand_in(host, 20010)
    logs = host.run("sh", "-c", "cat /var/log/nginx/*.log; journalctl --no-pager -u nginx")
    assert '"GET /rest/v1/x HTTP/1.1" 200' in logs
    for secret in ("canary-in-a-query", password, host.variables("acme")["DASHBOARD_PASSWORD"]):
        assert secret not in logs


def test_secrets_are_in_no_output_and_for_root_only(host: Host, password: str) -> None:
    values = host.variables("acme")
    login = basic(values["DASHBOARD_USERNAME"], values["DASHBOARD_PASSWORD"])[6:]
    key = (host.work / "own" / "beta" / "privkey.pem").read_text().splitlines()[1]
    for secret in (password, values["DASHBOARD_PASSWORD"], login, key):
        assert secret not in host.outputs
    assert host.run("sh", "-c", "runuser -u nobody -- grep -rs -e 'Basic' /etc/nginx/multibase || true") == ""
    private = "find /etc/nginx/multibase -name privkey.pem -perm /077 -o -name 'site-*' -perm /077"
    assert host.run("sh", "-c", private) == ""


def test_one_bad_site_takes_no_other_down(host: Host, websocket: socket.socket) -> None:
    good = host.settings["multibase_instances"]
    host.settings["multibase_instances"] = [
        {**good[0]},
        # It is refused by nginx, and beta keeps the site that it has.
        {**good[1], "domain": REFUSED},
        {**good[2], "domain": GAMMA},
        {"name": "delta", "domain": ACME, "port_base": 20030},
    ]
    host.settings["multibase_proxy_sites"] = {"beta": {"certificate": "self_signed"}}
    output = host.site(succeeds=False)
    assert "beta (serves what it served before): nginx refuses it" in output
    assert f"delta (is not served): {ACME} is the domain of acme already" in output
    assert [host.ask(name, "/rest/v1/x").status for name in (ACME, BETA, GAMMA)] == [200, 200, 200]
    assert echoed(websocket, b"after") == b"after"
    # Somebody else's mistake stops everything, and changes nothing.
    host.run("sh", "-c", "echo 'nonsense;' > /etc/nginx/conf.d/other.conf")
    host.settings["multibase_proxy_hsts_subdomains"] = True
    host.sites(succeeds=False)
    assert host.ask(ACME, "/rest/v1/x").headers["strict-transport-security"] == HSTS
    host.run("rm", "/etc/nginx/conf.d/other.conf")
    del host.settings["multibase_proxy_hsts_subdomains"]
    host.settings["multibase_instances"] = [*good[:2], {**good[2], "domain": GAMMA}]
    host.settings["multibase_proxy_sites"] = {"beta": {"certificate": "own"}}
    host.play(HERE / "play.yml", succeeds=None)
    host.run("rm", "-rf", f"{ROOT}/projects/delta")
    found = host.sites()
    assert not any(site["problem"] for site in found.values())


def test_a_load_balancer_is_believed_and_nobody_else(host: Host) -> None:
    gateway = host.ask(ACME, "/rest/v1/x").told()["headers"]["x-real-ip"]
    host.settings["multibase_proxy_trusted"] = [gateway]
    host.sites()
    claim = {"X-Forwarded-For": "6.6.6.6, 198.51.100.7"}
    assert host.ask(ACME, "/rest/v1/x", headers=claim).told()["headers"]["x-forwarded-for"] == "198.51.100.7"
    assert host.ask("10.0.0.1", "/multibase-health", port=80).body == b"ok"
    host.settings["multibase_proxy_protocol"] = True
    host.sites()
    line = b"PROXY TCP4 198.51.100.9 10.0.0.1 5000 443\r\n"
    told = host.ask(ACME, "/rest/v1/x", headers=claim, before=line).told()["headers"]
    assert told["x-forwarded-for"] == "198.51.100.9"
    with pytest.raises((ssl.SSLError, OSError)):
        host.ask(ACME, "/rest/v1/x")
    del host.settings["multibase_proxy_trusted"], host.settings["multibase_proxy_protocol"]
    host.sites()
    assert host.ask(ACME, "/rest/v1/x", headers=claim).told()["headers"]["x-forwarded-for"] == gateway


def test_people_come_and_go(host: Host) -> None:
    user = REPOSITORY / "playbooks" / "user.yml"
    place = host.work / "ann.txt"
    add = {"multibase_user_action": "add", "multibase_user_name": "ann", "multibase_user_file": str(place)}
    host.play(user, "--check", **add)
    assert not place.exists()
    host.play(user, "-vvv", "--diff", **add)
    assert place.stat().st_mode & 0o777 == 0o600
    name, password = (line.split(": ")[1] for line in place.read_text().splitlines())
    assert name == "ann"
    login = {"Authorization": basic("ann", password)}
    # Logins from this address were slowed down a moment ago: a minute's wait, or another name for it.
    host.run("systemctl", "restart", "nginx")
    assert host.ask(PANEL, headers=login).status == 200
    assert "say --force" in host.play(user, succeeds=False, **add)
    host.play(user, multibase_user_action="remove", multibase_user_name="ann")
    assert host.ask(PANEL, headers=login).status == 401
    assert "There is no ann" in host.play(
        user, succeeds=False, multibase_user_action="remove", multibase_user_name="ann"
    )
    assert "name: admin" in host.play(user)
    assert password not in host.outputs
    hashed = host.run("cat", "/etc/nginx/multibase/people.htpasswd").split(":")[1].strip()
    assert hashed not in host.outputs


@pytest.fixture(scope="module")
def quiet(host: Host) -> Iterator[Tuple[socket.socket, float]]:
    """A WebSocket on which nothing is said, and since when."""
    with host.connect(ACME) as stream:
        assert open_websocket(stream)
        yield stream, time.monotonic()


@pytest.fixture(scope="module")
def acme(host: Host, quiet: Tuple[socket.socket, float]) -> None:
    """An ACME server, and names that lead to the host."""
    host.run(
        "sh", "-c", "apt-get update -qq && apt-get install -y -qq --no-install-recommends pebble openssl >/dev/null"
    )
    host.copy(HERE / "pebble.sh", "/usr/local/bin/pebble.sh")
    host.run("sh", "/usr/local/bin/pebble.sh", host.address)
    names = " ".join((ACME, GAMMA, PANEL, "broken.sandbox.test", "one.wild.test", "two.wild.test"))
    host.run("sh", "-c", f"echo '{host.address} {names}' >> /etc/hosts")
    host.settings.update(
        {
            "multibase_proxy_acme_directory": "https://localhost:14000/dir",
            "multibase_proxy_acme_email": "ops@sandbox.test",
            "multibase_proxy_acme_agree_tos": True,
            "multibase_proxy_sites": {
                "beta": {"certificate": "own"},
                "acme": {"certificate": "acme"},
                "_panel": {"certificate": "acme"},
                "gamma": {"certificate": "acme"},
            },
        }
    )


def test_certificates_are_ordered_and_one_that_cannot_be_holds_up_no_other(host: Host, acme: None) -> None:
    instances = host.settings["multibase_instances"]
    host.settings["multibase_instances"] = [
        instances[0],
        instances[1],
        # A name that leads nowhere; the site that gamma has stays.
        {**instances[2], "domain": "nowhere.sandbox.test"},
        {"name": "broken", "domain": "broken.sandbox.test", "port_base": 20030},
    ]
    host.settings["multibase_proxy_sites"]["broken"] = {"certificate": "acme"}
    # What the host sees is not what the authority sees.
    host.run("curl", "-sf", "-d", '{"host":"broken.sandbox.test."}', "http://127.0.0.1:8055/set-servfail")
    output = host.site(succeeds=False)
    print(f"a run with three orders: {host.seconds:.1f} s")
    assert "the name nowhere.sandbox.test has no address" in output
    assert "broken (is not served): certbot:" in output
    for name in (ACME, PANEL):
        assert "Pebble" in host.certificate(name).issuer.rfc4514_string()
    assert host.ask(GAMMA, "/rest/v1/x").status == 200
    asked = host.run("sh", "-c", "ls /var/log/letsencrypt | wc -l")
    found = host.sites(succeeds=False)
    assert "not asked again for" in found["broken"]["problem"]
    assert host.run("sh", "-c", "ls /var/log/letsencrypt | wc -l") == asked
    assert (found["acme"]["changed"], found["acme"]["problem"]) == (False, "")
    host.settings["multibase_instances"] = [instances[0], instances[1], instances[2]]
    del host.settings["multibase_proxy_sites"]["broken"]
    host.run("rm", "-rf", f"{ROOT}/projects/broken")
    host.site()
    assert "Pebble" in host.certificate(GAMMA).issuer.rfc4514_string()
    assert not any(site["changed"] or site["problem"] for site in host.sites().values())
    assert host.run("sh", "-c", "find /etc/letsencrypt/archive -name 'privkey*' -perm /077") == ""


def renew(host: Host) -> str:
    """Have certbot renew one certificate, as its timer does; return what it said."""
    started = time.monotonic()
    said = host.run(
        "sh", "-c",
        "certbot renew --force-renewal --no-random-sleep-on-renew --cert-name multibase-acme 2>&1 || true",
    )  # fmt: skip
    print(f"certbot renew: {time.monotonic() - started:.1f} s")
    return said


def test_a_renewal_is_read_only_when_nginx_accepts_its_configuration(host: Host, acme: None) -> None:
    before = host.certificate(ACME).serial_number
    renew(host)
    end = time.monotonic() + 10
    # A reload is asked for, and done a moment later.
    while host.certificate(ACME).serial_number == before:
        assert time.monotonic() < end
        time.sleep(0.2)
    after = host.certificate(ACME).serial_number
    host.run("sh", "-c", "echo 'nonsense;' > /etc/nginx/conf.d/other.conf")
    assert "nginx refuses its configuration" in renew(host)
    assert host.certificate(ACME).serial_number == after
    assert host.ask(ACME, "/rest/v1/x").status == 200
    assert host.run("systemctl", "is-active", "nginx").strip() == "active"
    host.run("rm", "/etc/nginx/conf.d/other.conf")
    host.run("systemctl", "reload", "nginx")


def test_sslyze_finds_mozillas_intermediate_configuration(host: Host, acme: None) -> None:
    root = host.work / "root.pem"
    root.write_text(host.run("cat", "/srv/pebble/root.pem"))
    compliant = []
    for name in (ACME, PANEL, GAMMA):
        # NAME:PORT{ADDRESS}, because only the test host knows the name.
        place = f"{name}:443{{{host.address}}}"
        command = [tool("sslyze"), "--mozilla_config=intermediate", f"--certinfo_ca_file={root}", place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        verdict = done.stdout.partition("COMPLIANCE AGAINST")[2]
        assert f"{name}:443: OK - Compliant." in verdict, verdict or done.stdout
        assert done.returncode == 0
        compliant.append(name)
    record(
        "sites that comply with Mozilla's intermediate TLS", f"{len(compliant)}/3", "sites", "sslyze 6.3.1, test_proxy"
    )


def test_gixy_finds_nothing_of_weight(host: Host) -> None:
    dump = host.work / "nginx.conf"
    dump.write_text(host.run("nginx", "-T"))

    def issues(*level: str) -> List[Dict[str, Any]]:
        command = [tool("gixy"), *level, "-f", "json", str(dump)]
        return list(json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout))

    found, everything = issues("-ll"), issues()
    # Functions stream their answers piece by piece, and for them alone nginx must not collect what it gets.
    weighed = [issue for issue in found if issue["plugin"] != "proxy_buffering_off"]
    for severity in ("HIGH", "MEDIUM", "LOW"):
        number = sum(issue["severity"] == severity for issue in everything)
        record(f"nginx: findings of gixy, {severity.lower()}", number, "findings", "gixy-next 0.9.0, test_proxy")
    record(
        "nginx: those of gixy that are waived", len(found) - len(weighed), "findings",
        "proxy_buffering off, for functions alone",
    )  # fmt: skip
    assert weighed == []
    text = dump.read_text()
    for before, _, _ in (
        part.rpartition("proxy_buffering off;") for part in re.split(r"(?<=proxy_buffering off;)", text)[:-1]
    ):
        assert before.rpartition("location ")[2].startswith("/functions/v1/ {")


def test_the_unit_is_locked_in(host: Host) -> None:
    level = re.search(r"exposure level for nginx.service: ([0-9.]+)", host.run("systemd-analyze", "security", "nginx"))
    assert level
    record("systemd-analyze security nginx.service", float(level.group(1)), "exposure, 0 to 10", "test_proxy")
    assert float(level.group(1)) <= 3.0


def test_a_wildcard_serves_several_sites_with_one_order(host: Host, acme: None) -> None:
    host.settings["multibase_proxy_acme_wildcards"] = ["wild.test"]
    host.settings["multibase_proxy_acme_dns"] = {
        "plugin": "manual", "auth_hook": "/srv/pebble/auth.sh", "cleanup_hook": "/srv/pebble/cleanup.sh",
    }  # fmt: skip
    instances = host.settings["multibase_instances"]
    host.settings["multibase_instances"] = [
        {**instances[0], "domain": "one.wild.test"}, instances[1], {**instances[2], "domain": "two.wild.test"},
    ]  # fmt: skip
    host.site()
    one, two = host.certificate("one.wild.test"), host.certificate("two.wild.test")
    assert one.serial_number == two.serial_number
    assert host.ask("two.wild.test", "/rest/v1/x").told()["headers"]["host"] == "two.wild.test"


def test_a_quiet_websocket_outlasts_a_minute_and_reloads(quiet: Tuple[socket.socket, float]) -> None:
    stream, since = quiet
    # A minute is what nginx allows a quiet upstream by itself.
    time.sleep(max(0.0, since + 62 - time.monotonic()))
    assert echoed(stream, b"still") == b"still"


def test_a_killed_nginx_comes_back(host: Host) -> None:
    host.run("sh", "-c", "kill -9 $(cat /run/nginx.pid); pkill -9 -x nginx; true")
    end = time.monotonic() + 20
    while True:
        try:
            assert host.ask("one.wild.test", "/rest/v1/x").status == 200
            break
        except OSError:
            assert time.monotonic() < end, host.run("journalctl", "--no-pager", "-n", "20", "-u", "nginx")
            time.sleep(0.3)
