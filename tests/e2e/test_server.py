# SPDX-License-Identifier: GPL-3.0-or-later
"""From a bare server to running instances and back, looked at from outside. The tests build on each other, in order."""

from __future__ import annotations

import base64
import json
import re
import shlex
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import jsonschema
import yaml

import container_checks
from ansible_collections.multibase.supabase.plugins.module_utils import _secrets
from e2e.server import CONTAINER, REPOSITORY, ROOT, Server, undecorated
from figures import keep, record

HTTP = """
import base64, urllib.error, urllib.request
result = []
for call in data:
    request = urllib.request.Request(call["url"], headers=call.get("headers", {}), method=call.get("method", "GET"))
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            result.append([answer.status, answer.read().decode("utf-8", "replace"), dict(answer.headers)])
    except urllib.error.HTTPError as error:
        result.append([error.code, error.read().decode("utf-8", "replace"), dict(error.headers)])
"""
# By name, with a certificate that nobody vouches for: what it is worth is tests/e2e/test_proxy.py's business.
PANEL = """
import base64, http.client, socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
result = []
for path in data["paths"]:
    connection = http.client.HTTPConnection("panel.example.test")
    plain = socket.create_connection(("127.0.0.1", 443), timeout=15)
    connection.sock = context.wrap_socket(plain, server_hostname="panel.example.test")
    login = {"Authorization": "Basic " + base64.b64encode(data["login"].encode()).decode()} if data["login"] else {}
    connection.request("GET", path, headers=login)
    answer = connection.getresponse()
    result.append([answer.status, answer.read().decode("utf-8", "replace")])
    connection.close()
"""
SQL = """
import psycopg
with psycopg.connect(**data["connection"], connect_timeout=10) as connection:
    result = [list(map(str, row)) for row in (connection.execute(data["query"]).fetchall() if data["fetch"] else [])
              ] if data["fetch"] else connection.execute(data["query"]).statusmessage
"""


def http(server: Server, calls: List[Dict[str, Any]]) -> List[Any]:
    """Make HTTP calls from the host and return [status, body, headers] of each."""
    return list(server.inside(HTTP, calls))


def sql(server: Server, name: str, query: str, port: str = "POOLER_PROXY_PORT_SESSION", fetch: bool = True) -> Any:
    """Run one statement in an instance's database, by default through the pooler."""
    variables = server.variables(name)
    # Supavisor finds the tenant in the name; PgBouncer and Postgres take it as it is.
    plain = port == "POSTGRES_PUBLISHED_PORT" or "pgbouncer" in variables["COMPOSE_PROFILES"].split(",")
    user = "postgres" if plain else "postgres." + name
    connection = {
        "host": "127.0.0.1",
        "port": variables[port],
        "user": user,
        "password": variables["POSTGRES_PASSWORD"],
        "dbname": "postgres",
    }
    return server.inside(SQL, {"connection": connection, "query": query, "fetch": fetch})


def recap_changed(output: str) -> List[int]:
    """Return the numbers behind ``changed=`` in Ansible's recaps."""
    return [int(number) for number in re.findall(r"changed=(\d+)", output)]


def test_check_mode_on_a_bare_host_works_and_changes_nothing(server: Server) -> None:
    def fingerprint() -> str:
        # Ansible's own working directory is not meant: it keeps one wherever a file would be copied.
        places = "find /etc /opt /usr /root /var/lib/dpkg /srv -xdev -path /root/.ansible -prune -o ! -path /root"
        return server.run("sh", "-c", places + " -printf '%p %m %s %T@\\n' | sort | sha256sum")

    before = fingerprint()
    output = server.molecule("check", verbose=True)
    assert fingerprint() == before
    assert not server.succeeds("test", "-e", ROOT)
    assert not server.succeeds("sh", "-c", "command -v dockerd")
    assert "acme" in output


def test_site_and_again_without_a_change(server: Server) -> None:
    server.molecule("converge", verbose=True)
    server.collect_canaries()
    started = time.monotonic()
    output = server.molecule("idempotence")
    seconds = round(time.monotonic() - started, 1)
    record("site.yml with nothing to do", seconds, "s", "wall clock, with Molecule around it, test_server")
    assert recap_changed(output)[-1:] == [0]
    server.molecule("verify")


def test_containers_pass_the_checks_of_the_cis_benchmark(server: Server) -> None:
    secrets = {
        name: {*_secrets.confidential_texts(server.variables(name)), *server.brought.values()}
        for name in server.registry()
    }
    containers = container_checks.collect(server.run, secrets)
    assert {(one.instance, one.service) for one in containers} == {
        (name, service) for name in secrets for service in server.containers(name)
    }
    assert all(one.processes and one.host for one in containers)
    rows = container_checks.judge(containers)
    count = container_checks.verdicts(rows, len(containers))
    page = keep("containers.md", container_checks.table(rows, len(containers)))
    source = "CIS Docker Benchmark 1.6, sections 4 and 5, and ours: {0}".format(page.relative_to(REPOSITORY))
    record("container checks", len(rows), "on {0} containers".format(len(containers)), source)
    for verdict, number in count.items():
        record("container checks {0}".format(verdict), number, "verdicts", "by reason, see above")
    assert container_checks.failures(rows) == []


def test_our_units_are_locked_in(server: Server) -> None:
    # The firewall's has to change the host's own network.
    for unit, most in (
        ("multibase-stacks.service", 2.0), ("multibase-firewall.service", 3.5), ("nginx.service", 3.0),
        ("multibase-monitor.service", 3.0),
    ):  # fmt: skip
        told = server.run("systemd-analyze", "security", "--no-pager", unit)
        (level,) = re.findall(r"exposure level for {0}: ([0-9.]+)".format(re.escape(unit)), told)
        record("systemd-analyze security " + unit, float(level), "exposure, 0 to 10", "test_server")
        assert float(level) <= most, told


def test_gateway_lets_in_who_has_the_right_key(server: Server) -> None:
    variables = server.variables("acme")
    base = "http://127.0.0.1:" + variables["API_GW_HTTP_PORT"]
    anon = {"apikey": variables["ANON_KEY"]}
    service = {"apikey": variables["SERVICE_ROLE_KEY"]}
    expected = [
        ("/rest/v1/table", {}, 401),
        ("/rest/v1/table", {"apikey": "wrong"}, 401),
        ("/rest/v1/table", anon, 200),
        ("/rest/v1/table", service, 200),
        ("/rest/v1/", anon, 403),
        ("/auth/v1/settings", {}, 401),
        ("/auth/v1/settings", anon, 200),
        ("/auth/v1/verify", {}, 200),
        ("/storage/v1/status", {}, 200),
        ("/pg/tables", {}, 401),
        ("/pg/tables", anon, 403),
        ("/pg/tables", service, 200),
        ("/functions/v1/hello", anon, 200),
        ("/realtime/v1/api/tenants", service, 403),
        ("/", {}, 401),
        ("/", {"Authorization": "Basic c3VwYWJhc2U6d3Jvbmc="}, 401),
    ]
    answers = http(server, [{"url": base + path, "headers": headers} for path, headers, _status in expected])
    assert [answer[0] for answer in answers] == [status for _path, _headers, status in expected]
    # Real services answer behind it: postgres-meta and Deno.
    tables = json.loads(answers[11][1])
    assert {"auth", "storage"} <= {table["schema"] for table in tables}
    assert "Hello" in answers[12][1]
    for _status, _body, headers in answers:
        assert not {"server", "via", "x-powered-by"} & {header.lower() for header in headers}
        assert not [header for header in headers if header.lower().startswith("x-envoy")]


def test_opaque_keys_open_what_the_others_open(server: Server) -> None:
    variables = server.variables("acme")
    base = "http://127.0.0.1:" + variables["API_GW_HTTP_PORT"]
    publishable, secret = variables["SUPABASE_PUBLISHABLE_KEY"], variables["SUPABASE_SECRET_KEY"]
    calls = [("/rest/v1/table", publishable), ("/rest/v1/", publishable), ("/rest/v1/", secret), ("/pg/tables", secret)]
    answers = http(server, [{"url": base + path, "headers": {"apikey": key}} for path, key in calls])
    assert [answer[0] for answer in answers] == [200, 403, 200, 200]
    # The service behind sees a JWT in their place: the asymmetric one.
    assert publishable not in answers[0][1] and variables["ANON_KEY_ASYMMETRIC"] in answers[0][1]


def test_what_the_user_brought_is_in_the_containers(server: Server) -> None:
    containers = server.containers("acme")

    def environment(service: str) -> Dict[str, str]:
        shown = server.run("docker", "inspect", "--format", "{{json .Config.Env}}", containers[service])
        return dict(entry.split("=", 1) for entry in json.loads(shown))

    auth, functions = environment("auth"), environment("functions")
    assert auth["GOTRUE_SMTP_PASS"] == server.brought["smtp"]
    assert auth["GOTRUE_EXTERNAL_GITHUB_SECRET"] == server.brought["github"]
    assert auth["GOTRUE_EXTERNAL_GITHUB_ENABLED"] == "true" and auth["GOTRUE_EXTERNAL_GITHUB_CLIENT_ID"] == "one"
    assert functions["STRIPE_KEY"] == server.brought["stripe"] and functions["GREETING"] == "Grüß $dich"
    assert json.loads(auth["GOTRUE_JWT_KEYS"])[0]["alg"] == "ES256"
    files = ["{0}/projects/acme/env/{1}.env".format(ROOT, service) for service in ("auth", "functions")]
    assert server.run("stat", "--format", "%a %U", *files).split("\n")[:2] == ["600 root", "600 root"]


def test_studio_is_behind_the_dashboard_password(server: Server) -> None:
    variables = server.variables("acme")
    user = "{0}:{1}".format(variables["DASHBOARD_USERNAME"], variables["DASHBOARD_PASSWORD"])
    headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
    base = "http://127.0.0.1:" + variables["API_GW_HTTP_PORT"]
    ((status, body, _headers),) = http(server, [{"url": base + "/project/default", "headers": headers}])
    assert status == 200
    assert json.loads(body)["service"] == "studio"


def test_keys_of_one_instance_are_refused_by_another(server: Server) -> None:
    base = "http://127.0.0.1:" + server.variables("beta")["API_GW_HTTP_PORT"]
    key = server.variables("acme")["SERVICE_ROLE_KEY"]
    assert http(server, [{"url": base + "/rest/v1/table", "headers": {"apikey": key}}])[0][0] == 401


def test_row_is_written_and_read_through_postgres(server: Server) -> None:
    sql(server, "acme", "create table public.notes (id int primary key, body text)", fetch=False)
    sql(server, "acme", "insert into public.notes values (1, 'kept')", "POOLER_PROXY_PORT_TRANSACTION", fetch=False)
    assert sql(server, "acme", "select body from public.notes", "POSTGRES_PUBLISHED_PORT") == [["kept"]]
    others = sql(
        server, "beta", "select count(*) from pg_tables where tablename = 'notes'", "POOLER_PROXY_PORT_TRANSACTION"
    )
    assert others == [["0"]]
    databases = sql(server, "acme", "select datname from pg_database order by 1", "POSTGRES_PUBLISHED_PORT")
    assert ["_supabase"] in databases


def test_ports_are_those_of_the_registry_and_on_loopback_only(server: Server) -> None:
    registry = server.registry()
    expected = set()
    for name, offsets in (("acme", (0, 3, 4, 5)), ("beta", (0, 4))):
        expected |= {"127.0.0.1:{0}".format(registry[name]["port_base"] + offset) for offset in offsets}
    listening = {line.split()[3] for line in server.run("ss", "-Hltn").splitlines()}
    assert {address for address in listening if re.search(r":2\d{4}$", address)} == expected


def test_instances_cannot_reach_each_other(server: Server) -> None:
    def address(name: str, service: str) -> str:
        identity = server.containers(name)[service]
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return server.run("docker", "inspect", "--format", form, identity).strip()

    def reaches(name: str, host: str, port: int) -> bool:
        probe = "timeout 3 bash -c 'exec 3<>/dev/tcp/{0}/{1}'".format(host, port)
        return server.succeeds("docker", "exec", server.containers(name)["auth"], "bash", "-c", probe)

    assert reaches("beta", address("beta", "db"), 5432), "the probe itself does not work"
    assert not reaches("beta", address("acme", "db"), 5432)
    assert not reaches("beta", address("acme", "api-gw"), 8000)
    assert not server.succeeds("docker", "exec", server.containers("beta")["auth"], "getent", "hosts", "studio")


def test_other_users_of_the_host_see_nothing(server: Server) -> None:
    modes = server.run("stat", "--format", "%a", ROOT + "/projects/acme", ROOT + "/projects/acme/.env")
    assert modes.split() == ["700", "600"]
    for path in ("projects/acme/.env", "projects/acme/volumes/api/envoy.json", "registry.json"):
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert not server.succeeds(*nobody, "cat", ROOT + "/" + path)


def test_images_came_from_the_hosts_own_registry(server: Server) -> None:
    images = server.run("docker", "images", "--digests", "--format", "{{.Repository}} {{.Digest}}").splitlines()
    assert images
    for line in images:
        repository, digest = line.split()
        assert repository.startswith("registry.multibase.test:5000/") and digest.startswith("sha256:")


def test_list_and_status(server: Server) -> None:
    listed = json.loads(server.multibase("list", "--json").stdout)
    assert [(entry["host"], entry["name"], entry["state"], entry["health"]) for entry in listed["instances"]] == [
        ("server", "acme", "running", "healthy"),
        ("server", "beta", "running", "healthy"),
    ]
    base = server.registry()["beta"]["port_base"]
    assert listed["instances"][1]["ports"] == {
        "gateway_http": base,
        "pooler_transaction": base + 4,
    }
    assert [entry["environment"] for entry in listed["instances"]] == ["production", ""]
    assert listed["instances"][1]["urls"]["api"] == "http://127.0.0.1:{0}".format(base)
    table = server.multibase("list").stdout
    assert "acme" in table and "healthy" in table and not table.startswith("{")
    assert "pgbouncer" in server.multibase("status", "beta").stdout


def panel(server: Server, *paths: str) -> List[Any]:
    """Ask the panel as its first person; return [status, body] of each path."""
    login = "admin:" + server.run("cat", ROOT + "/state/people/admin.password").strip()
    return list(server.inside(PANEL, {"paths": list(paths), "login": login}))


def live(server: Server) -> Dict[str, Any]:
    """What the panel polls."""
    ((status, body),) = panel(server, "/live.json")
    assert status == 200
    found = json.loads(body)
    assert isinstance(found, dict)
    return found


def eventually(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that within {0} s".format(seconds)
        time.sleep(1)


def firing(server: Server) -> Set[Tuple[str, str, str]]:
    """Rule, instance and subject of the alerts that fire."""
    return {
        (one["rule"], one["instance"], one["subject"]) for one in live(server)["alerts"] if one["state"] == "firing"
    }


def test_the_panel_shows_what_is(server: Server) -> None:
    assert [status for status, _body in server.inside(PANEL, {"paths": ["/", "/live.json"], "login": ""})] == [401, 401]
    pages = panel(server, "/", "/panel.js", "/uplot.js", "/history/_host.json", "/history/acme.json", "/nothing")
    assert [status for status, _body in pages] == [200, 200, 200, 200, 200, 404]
    assert "<title>Multibase</title>" in pages[0][1]
    eventually(lambda: all(probe["ok"] for entry in live(server)["instances"] for probe in entry["probes"]))
    found = live(server)
    schema = json.loads((REPOSITORY / "docs" / "schemas" / "live.schema.json").read_text())
    jsonschema.validate(found, schema)
    acme, beta = found["instances"]
    assert [(one["name"], one["state"], one["wanted"]) for one in (acme, beta)] == [
        ("acme", "healthy", "running"), ("beta", "healthy", "running"),
    ]  # fmt: skip
    assert {probe["name"] for probe in acme["probes"]} == {
        "auth", "jwks", "rest", "storage", "realtime", "functions", "no_key", "pooler",
    }  # fmt: skip
    assert {probe["name"] for probe in beta["probes"]} == {"auth", "jwks", "rest", "no_key", "pooler"}
    assert {service["name"] for service in acme["services"]} == set(server.containers("acme"))
    assert all(service["use"]["memory_bytes"] > 0 for service in acme["services"])
    assert acme["database"]["size_bytes"] > 0 and acme["disk"]["database_bytes"] > 0
    assert {row["site"] for row in found["certificates"]} == {"acme", "_panel"}
    assert time.time() - found["sampled_at"] < 20
    modes = server.run("stat", "--format", "%a %U %G", ROOT + "/www/panel", ROOT + "/www/panel/live.json")
    assert modes.splitlines() == ["2750 root www-data", "640 root www-data"]
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert not server.succeeds(*nobody, "cat", ROOT + "/www/panel/live.json")


def test_a_service_that_stops_is_an_alert_until_it_runs_again(server: Server) -> None:
    rest = server.containers("beta")["rest"]
    server.run("docker", "stop", rest)
    alert = ("service_down", "beta", "rest")
    eventually(lambda: alert in firing(server))
    assert live(server)["instances"][1]["state"] == "degraded"
    told = server.multibase("alerts").stdout
    assert "rest does not run" in told and "firing" in told
    (host,) = json.loads(server.multibase("alerts", "--json").stdout)["hosts"]
    (identity,) = [one["id"] for one in host["alerts"] if one["rule"] == "service_down"]
    server.multibase("alerts", "ack", identity, "--by", "alice", "--note", "on it")
    assert "known to alice on it" in server.multibase("alerts").stdout
    assert server.multibase("alerts", "ack", "nothing", succeeds=False).returncode != 0
    silenced = server.multibase("alerts", "silence", "--instance", "beta", "--for", "2h").stdout
    server.multibase("alerts", "unsilence", silenced.split("silence ", 1)[1].split()[0])
    server.run("docker", "start", rest)
    eventually(lambda: alert not in firing(server))
    eventually(lambda: live(server)["instances"][1]["state"] == "healthy")


def test_channels_that_take_nothing_are_named(server: Server) -> None:
    journal = server.run("journalctl", "--unit=multibase-monitor", "--no-pager", "--output=cat")
    for words in ("CRITICAL beta on server: rest does not run", "channel pager", "channel ops", "tried again"):
        assert words in journal, words
    tested = server.multibase("alerts", "test", "pager").stdout
    assert "channel pager" in tested


def test_stats_and_reports(server: Server, tmp_path: Path) -> None:
    told = json.loads(server.multibase("stats", "--json").stdout)
    assert [host["source"] for host in told["hosts"]] == ["sampler"]
    assert [entry["name"] for entry in told["instances"]] == ["acme", "beta"]
    # Beside what Docker says, which counts page cache in another way.
    for entry in told["instances"]:
        assert entry["use"]["memory_bytes"] > 10_000_000 and entry["use"]["cpu_percent"] is not None
    table = server.multibase("stats", "acme", "--services").stdout
    assert "realtime" in table and "beta" not in table
    formats = [word for name in ("html", "json", "csv", "prometheus") for word in ("--format", name)]
    server.multibase("report", *formats, "--output", str(tmp_path / "reports"), verbose=True)
    files = sorted(path for path in (tmp_path / "reports").rglob("*") if path.is_file())
    assert len(files) >= 4
    for path in files:
        assert "acme" in path.read_text()
        server.outputs["report " + path.name] = path.read_text()


def test_show_tells_everything_but_secrets(server: Server) -> None:
    (shown,) = json.loads(server.multibase("show", "acme", "--json").stdout)["instances"]
    assert shown["declared"]["auth"] == {"providers": {"github": {"client_id": "one"}}}
    assert shown["user_secrets"]["auth"] == ["GOTRUE_EXTERNAL_GITHUB_SECRET"]
    assert shown["resources"]["memory"] == 4096
    limits = server.run("docker", "inspect", "--format", "{{.HostConfig.Memory}}", *server.containers("acme").values())
    assert sum(map(int, limits.split())) <= 4096 << 20
    assert "GOTRUE_EXTERNAL_GITHUB_SECRET" in server.multibase("show", "acme").stdout


def test_credentials_are_handed_over_in_a_file(server: Server, tmp_path: Path) -> None:
    handed = tmp_path / "acme.json"
    server.multibase("credentials", "acme", "--format", "json", "--output", str(handed), verbose=True)
    assert handed.stat().st_mode & 0o777 == 0o600
    credentials, variables = json.loads(handed.read_text()), server.variables("acme")
    assert credentials["SERVICE_ROLE_KEY"] == variables["SERVICE_ROLE_KEY"]
    assert credentials["SUPABASE_SECRET_KEY"] == variables["SUPABASE_SECRET_KEY"]
    assert variables["POSTGRES_PASSWORD"] in handed.read_text()
    again = server.multibase("credentials", "acme", "--output", str(handed), succeeds=False)
    assert "there already" in again.stderr and json.loads(handed.read_text()) == credentials


def test_a_host_refuses_what_it_cannot_bear(server: Server) -> None:
    before = server.registry()
    done = server.multibase("create", "huge", "--set", 'size={"cpus": 2, "memory": "900g"}', succeeds=False)
    assert "cannot bear" in done.stdout + done.stderr and "921600 MiB" in done.stdout + done.stderr
    assert server.registry() == before and not server.succeeds("test", "-e", ROOT + "/projects/huge")


def test_stop_keeps_every_volume_and_the_data(server: Server) -> None:
    volumes, secrets = server.volumes("acme"), server.variables("acme")
    server.multibase("stop", "acme", verbose=True)
    assert server.volumes("acme") == volumes != []
    running = server.run(
        "docker", "ps", "--quiet", "--filter", "label=com.docker.compose.project=multibase-acme"
    ).split()
    assert running == []
    assert json.loads(server.multibase("list", "--json").stdout)["instances"][0]["state"] == "stopped"
    server.multibase("start", "acme")
    assert server.variables("acme") == secrets
    assert sql(server, "acme", "select body from public.notes") == [["kept"]]


def test_restart_of_one_service(server: Server) -> None:
    before = server.containers("acme")
    started = server.run("docker", "inspect", "--format", "{{.State.StartedAt}}", before["auth"])
    server.multibase("restart", "acme", "--service", "auth")
    assert server.containers("acme") == before
    assert server.run("docker", "inspect", "--format", "{{.State.StartedAt}}", before["auth"]) != started


def test_create_from_the_command_line_and_change_one_option(server: Server) -> None:
    off = without("studio", "meta", "realtime", "storage", "imgproxy")
    server.multibase("create", "gamma", "--size", "small", *off)
    table = server.run("cat", "/etc/cron.d/multibase")
    assert [table.count(" backup {0} --scheduled ".format(name)) for name in ("acme", "beta", "gamma")] == [1, 1, 1]
    server.collect_canaries()
    before = server.containers("gamma")
    secrets = server.variables("gamma")
    server.multibase("create", "gamma", "--site-url", "https://app.example.com", verbose=True)
    after = server.containers("gamma")
    assert set(after) == {"api-gw", "auth", "db", "functions", "rest", "supavisor"}
    # The site's origin is allowed by the gateway and known to Auth; nothing else has to do with it.
    assert {service for service in after if after[service] != before[service]} == {"api-gw", "auth"}
    assert server.variables("gamma")["POSTGRES_PASSWORD"] == secrets["POSTGRES_PASSWORD"]
    assert server.variables("gamma")["MULTIBASE_MEMORY_DB"] == secrets["MULTIBASE_MEMORY_DB"]


def without(*services: str) -> List[str]:
    return [word for service in services for word in ("--without", service)]


def test_bad_input_is_refused_with_all_errors_before_anything_is_written(server: Server) -> None:
    # What cron and the sampler write beside it is not meant.
    own = ("metrics", "log", "state/_monitor", "www/panel")
    others = " -o ".join("-path '{0}'".format(path) for path in ["*/volumes/db", *(ROOT + "/" + name for name in own)])
    find = "find {0} \\( {1} \\) -prune -o -printf '%p %s %T@\\n' | sort".format(ROOT, others)
    before = server.run("sh", "-c", find)

    def refused(variables: Dict[str, Any]) -> subprocess.CompletedProcess[str]:
        site = ["ansible-playbook", "--inventory", str(server.inventory), "playbooks/site.yml"]
        return server.command("bad input", [*site, "--extra-vars", json.dumps(variables)], succeeds=False)

    extra: Dict[str, Any] = {
        "multibase_instances": [
            {"name": "Bad_Name"},
            {"name": "one", "services": {"postgrest": True, "db": False}},
            {"name": "one"},
            {"name": "two", "release": "9.9", "colour": "blue"},
            {"name": "three", "size": "huge"},
        ]
    }
    done = refused(extra)
    assert done.returncode != 0
    text = re.sub(r"\s+", " ", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    for problem in ("two", "colour", "three", "huge"):
        assert problem in text
    del extra["multibase_instances"][3]["colour"]
    extra["multibase_instances"].pop()
    done = refused(extra)
    text = re.sub(r"\s+", " ", done.stdout)
    for problem in ("Bad_Name", "unknown service 'postgrest'", "db cannot be switched off", "declared twice", "9.9"):
        assert problem in text
    assert server.run("sh", "-c", find) == before


def test_unknown_instance_is_named_with_those_that_exist(server: Server) -> None:
    done = server.multibase("stop", "nobody", succeeds=False)
    assert done.returncode != 0
    assert "nobody" in done.stderr and "acme" in done.stderr
    assert "Traceback" not in done.stderr


def test_delete_without_a_terminal_needs_yes(server: Server) -> None:
    assert server.multibase("delete", "gamma", succeeds=False).returncode != 0
    assert "gamma" in server.registry()


def test_delete_removes_only_its_own_things(server: Server) -> None:
    others = {name: (server.containers(name), server.volumes(name)) for name in ("acme", "beta")}
    server.multibase("delete", "gamma", "--yes", verbose=True)
    assert " gamma " not in server.run("cat", "/etc/cron.d/multibase")
    assert "gamma" not in server.registry()
    assert not server.succeeds("test", "-e", ROOT + "/projects/gamma")
    assert server.containers("gamma") == {} and server.volumes("gamma") == []
    networks = server.run("docker", "network", "ls", "--format", "{{.Name}}").split()
    assert "multibase-gamma_default" not in networks and "multibase-acme_default" in networks
    assert {name: (server.containers(name), server.volumes(name)) for name in ("acme", "beta")} == others
    assert sql(server, "acme", "select body from public.notes") == [["kept"]]
    assert server.multibase("delete", "gamma", "--yes", succeeds=False).returncode != 0


def test_commands_of_the_page_on_backups(server: Server) -> None:
    page = (REPOSITORY / "docs" / "backup.md").read_text()
    lines = page.split("```sh\n", 1)[1].split("```", 1)[0].splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    assert [words[1] for words in commands] == ["backup", "backups", "verify", *["restore"] * 4]
    late = "select count(*) from public.notes where body = 'late'"
    before = server.containers("acme")
    said = {}
    for words in commands:
        if "latest" in words:
            sql(server, "acme", "insert into public.notes values (2, 'late')", fetch=False)
        done = server.command("docs " + " ".join(words[1:]), words)
        said[" ".join(words[1:])] = done.stdout
        if "latest" in words:
            assert sql(server, "acme", late) == [["0"]]
        if "--rollback" in words:
            assert sql(server, "acme", late) == [["1"]]
    server.collect_canaries()
    assert " yes " in said["backups"] and "kept until" in said["restore acme --backup latest"]
    manifests = server.run("sh", "-c", "cat {0}/backups/acme/*.manifest.json".format(ROOT))
    assert json.loads(manifests)["verified"]["rows"] > 0
    assert server.run("sh", "-c", "stat -c %a {0}/backups/acme/* | sort -u".format(ROOT)).split() == ["600"]
    # The same containers: a restore replaces data, not services.
    assert server.containers("acme") == before
    assert sql(server, "copy", "select body from public.notes") == [["kept"]]
    mine, others = server.variables("copy"), server.variables("acme")
    assert mine["JWT_SECRET"] != others["JWT_SECRET"] and mine["POSTGRES_PASSWORD"] != others["POSTGRES_PASSWORD"]
    base = "http://127.0.0.1:{0}/rest/v1/table".format(mine["API_GW_HTTP_PORT"])
    keys = [{"url": base, "headers": {"apikey": one["ANON_KEY"]}} for one in (mine, others)]
    assert [answer[0] for answer in http(server, keys)] == [200, 401]
    server.multibase("delete", "copy", "--yes")
    assert server.containers("copy") == {}


def test_hosts_back_up_by_themselves(server: Server) -> None:
    table = server.run("cat", "/etc/cron.d/multibase")
    (line,) = [line for line in table.splitlines() if " backup beta " in line]
    # What cron runs, without the wait that spreads the instances over half an hour, and with cron's environment.
    command = line.split(" root ", 1)[1].replace(" --scheduled", "")
    server.run("env", "-i", "SHELL=/bin/sh", "PATH=/usr/bin:/bin", "sh", "-c", command)
    log = server.run("cat", ROOT + "/log/backup-beta.log")
    assert "publishing backup" in log
    metrics = server.run("cat", ROOT + "/metrics/backup.prom")
    assert 'multibase_backup_last_exit_code{instance_name="beta"} 0' in metrics
    assert 'multibase_backup_overdue{instance_name="beta"} 0' in metrics


def test_docker_restarts_while_a_backup_runs(server: Server) -> None:
    """The backup fails and leaves nothing; the containers go on, and the next one is good."""
    rows = "create table public.big as select n, md5(n::text) as words from generate_series(1, 1500000) n"
    sql(server, "beta", rows, "POOLER_PROXY_PORT_TRANSACTION", fetch=False)
    started = server.run("docker", "inspect", "--format", "{{.State.StartedAt}}", server.containers("beta")["db"])
    before = server.run("ls", ROOT + "/backups/beta").split()
    tool = [ROOT + "/bin/multibase-host", "backup", "beta"]
    with subprocess.Popen(["docker", "exec", CONTAINER, *tool], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "dumping database postgres" in line:
                # Said before the dump begins.
                server.run("sh", "-c", "for n in $(seq 100); do pgrep -x pg_dump && exit; sleep 0.1; done; exit 1")
                server.run("systemctl", "restart", "docker")
                break
        said += process.stderr.read()
    assert process.returncode not in (0, None), said
    assert "Traceback" not in said
    assert server.run("ls", ROOT + "/backups/beta").split() == before
    server.run(*tool)
    after = server.run("ls", ROOT + "/backups/beta").split()
    assert set(before) < set(after) and not [name for name in after if name.endswith(".partial")]
    assert started == server.run(
        "docker", "inspect", "--format", "{{.State.StartedAt}}", server.containers("beta")["db"]
    )
    sql(server, "beta", "drop table public.big", "POOLER_PROXY_PORT_TRANSACTION", fetch=False)


def test_sample_pipeline(server: Server, tmp_path: Path) -> None:
    pipeline = yaml.safe_load((REPOSITORY / "docs" / "examples" / "pipeline.yml").read_text())
    ran = 0
    for stage in pipeline["stages"]:
        for line in [*pipeline["default"]["before_script"], *pipeline[stage]["script"]]:
            # The pipeline leaves its artefact in the checkout; ours is not to be littered.
            line = line.replace("instances.json", shlex.quote(str(tmp_path / "instances.json")))
            server.command("pipeline " + stage, ["bash", "-euo", "pipefail", "-c", line])
            ran += 1
    assert ran >= 8
    assert json.loads((tmp_path / "instances.json").read_text())["instances"]


def test_every_run_is_recorded_with_verb_and_instance(server: Server) -> None:
    (database,) = server.ara.rglob("*.sqlite")
    connection = sqlite3.connect("file:{0}?mode=ro".format(database), uri=True)
    rows = connection.execute(
        "SELECT p.name, p.status, group_concat(l.name) FROM playbooks p"
        " JOIN playbooks_labels pl ON pl.playbook_id = p.id JOIN labels l ON l.id = pl.label_id GROUP BY p.id"
    ).fetchall()
    connection.close()
    runs = {name: (status, set(labels.split(","))) for name, status, labels in rows}
    for verb, name in (("stop", "acme"), ("create", "gamma"), ("delete", "gamma")):
        _status, labels = runs["multibase {0} {1}".format(verb, name)]
        assert {"multibase", "verb:" + verb, "instance:" + name} <= labels
    assert runs["multibase stop acme"][0] == "completed"
    assert runs["multibase stop nobody"][0] == "failed"


def test_no_secret_anywhere(server: Server) -> None:
    scanner = server.scanner
    found: List[str] = []
    for label, output in server.outputs.items():
        found += scanner.search("output of " + label, undecorated(output))
    found += scanner.search_commands()
    databases = list(server.ara.rglob("*.sqlite"))
    assert databases
    for database in databases:
        found += scanner.search_database(database)
    found += scanner.search_files(path for path in server.ara.rglob("*") if path.suffix != ".sqlite")
    journal = subprocess.run(
        ["docker", "exec", CONTAINER, "journalctl", "--no-pager", "--all"], capture_output=True, check=True
    ).stdout
    assert len(journal) > 10000
    found += scanner.search("journal", journal)
    # Docker keeps what it gives to its containers below /run, for root only.
    left = "find /tmp /var/tmp /root /var/log /run -type f -not -path '/run/docker/*' -not -path '/run/containerd/*'"
    temporary = subprocess.run(
        ["docker", "exec", CONTAINER, "sh", "-c", left + " -size -20M -exec cat {} +"], capture_output=True, check=False
    ).stdout
    found += scanner.search("temporary files and logs of the host", temporary)
    # What the panel shows, and what the sampler keeps.
    kept = "find {0}/www/panel {0}/state/_monitor -type f -exec cat {{}} +".format(ROOT)
    shown = subprocess.run(["docker", "exec", CONTAINER, "sh", "-c", kept], capture_output=True, check=True).stdout
    assert b'"probes"' in shown
    found += scanner.search("panel and sampler", shown)
    logs = subprocess.run(
        ["docker", "exec", CONTAINER, "sh", "-c", "for c in $(docker ps -aq); do docker logs $c 2>&1; done"],
        capture_output=True,
        check=True,
    ).stdout
    found += scanner.search("containers' logs", logs)
    found += scanner.search_repository(REPOSITORY)
    assert scanner.samples > 100 and scanner.commands > 500
    assert not found, "\n".join(found)
