# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Text of nginx's configuration for the sites of a host. Pure: what goes in was checked by `_proxy`.

Set in each server and not for all of HTTP: whatever else this nginx serves keeps its own settings, and a directive that
the distribution's nginx.conf has already would be refused as a duplicate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from ._proxy import Site
from ._routes import DASHBOARD, PREFIX, ROUTES

# Stands in a text for the login that the gateway wants, until the text is written.
SECRET = "@@MULTIBASE-SECRET@@"  # noqa: S105
LOGIN_SOCKET = "/run/multibase-proxy.sock"
LOGIN_CACHE = "/run/multibase-proxy"
PEOPLE_FILE = "/etc/nginx/multibase/people.htpasswd"
ACCESS_LOG = "/var/log/nginx/multibase-access.log"
ERROR_LOG = "/var/log/nginx/multibase-error.log"
HEALTH_PATH = "/multibase-health"
CHALLENGES = "/.well-known/acme-challenge/"

# Mozilla's intermediate recommendation 5.7 without its DHE suites, which would need a file of parameters.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
# What is guessed at: passwords, codes and mails sent to others.
_GUESSED = "token|signup|recover|otp|magiclink|resend|verify|invite|factors/[^/]+/verify|sso"
_INCLUDE = re.compile(r"^[ \t]*include[ \t]+(?:/etc/nginx/)?conf\.d/\*\.conf[ \t]*;", re.MULTILINE)
# A WebSocket takes two connections of a worker, and the distributions' 768 are few for all instances of a host.
_WORKER_CONNECTIONS = 8192
_RLIMIT = 4 * _WORKER_CONNECTIONS
_CONNECTIONS = re.compile(
    r"^(?:[ \t]*# Multibase: \d+ before, raised to \d+\.\n)?([ \t]*)(worker_connections[ \t]+)(\d{1,9})([ \t]*;)",
    re.MULTILINE,
)
# What roomy_main writes, and what has to stand there instead for it to be gone: multibase_uninstall does that. A number
# that somebody else has written since is not ours to take back.
RAISED = (
    r"^[ \t]*# Multibase: (\d+) before, raised to (\d+)\.\n([ \t]*worker_connections[ \t]+)\2([ \t]*;)",
    r"\3\1\4",
)
ADDED = (r"^# Multibase: added as (\d+)\.\nworker_rlimit_nofile \1;\n", "")
_OURS = re.compile(
    r"^[ \t]*(worker_connections[ \t]+{0}[ \t]*;|worker_rlimit_nofile[ \t]+{1}[ \t]*;)".format(
        _WORKER_CONNECTIONS, _RLIMIT
    ),
    re.MULTILINE,
)
_EVENTS = re.compile(r"^events[ \t]*\{", re.MULTILINE)
_SAFE_NAME = re.compile(r"[^a-z0-9_]")


@dataclass(frozen=True)
class Settings:
    """What all sites of a host have in common."""

    version: Tuple[int, ...]
    ipv6: bool
    http_port: int
    https_port: int
    webroot: str
    trusted: Tuple[str, ...]
    proxy_protocol: bool
    hsts_seconds: int
    hsts_subdomains: bool
    body_size: str
    requests_per_second: int
    burst: int
    auth_per_minute: int
    auth_burst: int
    login_per_minute: int
    login_burst: int
    connections: int


@dataclass(frozen=True)
class Files:
    """Certificate (with its chain) and key of a site."""

    certificate: str
    key: str


def has_directive(text: str, name: str) -> bool:
    """Whether a configuration sets a directive (in a line that is no comment)."""
    return re.search(r"^[ \t]*{0}[ \t]".format(re.escape(name)), text, re.MULTILINE) is not None


def roomy_main(main: str) -> str:
    """Return nginx.conf with room for many connections; what is set to more, or is written otherwise, stays.

    What was there before is said above each line, so that it can be had back.
    """

    def more(found: re.Match[str]) -> str:
        if int(found.group(3)) >= _WORKER_CONNECTIONS:
            return found.group(0)
        indent, name, before, end = found.groups()
        remark = "# Multibase: {0} before, raised to {1}.".format(before, _WORKER_CONNECTIONS)
        return "{0}{1}\n{0}{2}{3}{4}".format(indent, remark, name, _WORKER_CONNECTIONS, end)

    text = _CONNECTIONS.sub(more, main, count=1)
    if not has_directive(text, "worker_rlimit_nofile"):
        line = "# Multibase: added as {0}.\nworker_rlimit_nofile {0};\n".format(_RLIMIT)
        text = _EVENTS.sub(lambda found: line + found.group(0), text, count=1)
    return text


def roomy_lines(main: str) -> List[str]:
    """Return the lines of nginx.conf that have the numbers of `roomy_main`."""
    return [found.group(1) for found in _OURS.finditer(main)]


def _quoted(text: str) -> str:
    """Return a text as one word of nginx's configuration, whatever is in it."""
    return '"{0}"'.format(re.sub(r'["\\]', r"\\\g<0>", text))


def _include(path: str) -> str:
    """Return a directive that includes the one file of this name: nginx takes a name with ``*?[`` for a pattern."""
    if re.search(r"[*?\[]", path):
        path = re.sub(r"[*?\[\\]", r"\\\g<0>", path)
    return "include {0};".format(_quoted(path))


def staged_main(main: str, others: Sequence[str], staged: str) -> Optional[str]:
    """Return nginx.conf with ``staged`` in the place of what is live, or None where it does not include conf.d.

    ``others`` are the other files of conf.d, which count too. Their names are somebody else's: blanks, quotes and
    semicolons in them are nothing but parts of a name.
    """
    if not _INCLUDE.search(main):
        return None
    lines = [*map(_include, others), "include {0};".format(_quoted(staged + "/*.conf"))]
    return _INCLUDE.sub(lambda _found: "\n".join(lines), main, count=1)


def _indent(lines: Sequence[str]) -> List[str]:
    return ["    " + line if line else line for line in lines]


def _block(head: str, lines: Sequence[str]) -> List[str]:
    return [head + " {", *_indent(lines), "}"]


def _listen(settings: Settings, port: int, tls: bool, default: bool) -> List[str]:
    words = ["ssl"] if tls else []
    if tls and settings.version < (1, 25, 1):
        words.append("http2")
    if settings.proxy_protocol:
        words.append("proxy_protocol")
    if default:
        words.append("default_server")
    places = [str(port)] + (["[::]:{0}".format(port)] if settings.ipv6 else [])
    lines = ["listen {0};".format(" ".join([place, *words])) for place in places]
    if tls and settings.version >= (1, 25, 1):
        lines.append("http2 on;")
    return lines


def _tls(files: Optional[Files]) -> List[str]:
    lines = []
    if files is not None:
        lines = ["ssl_certificate {0};".format(files.certificate), "ssl_certificate_key {0};".format(files.key)]
    return [
        *lines,
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_ciphers {0};".format(CIPHERS),
        "ssl_ecdh_curve X25519:prime256v1:secp384r1;",
        "ssl_prefer_server_ciphers off;",
        "ssl_session_cache shared:multibase_tls:10m;",
        "ssl_session_timeout 1d;",
        "ssl_session_tickets off;",
    ]


def _common(settings: Settings) -> List[str]:
    """Logs without queries, time limits for slow clients, and who the client is."""
    lines = [
        "server_tokens off;",
        "access_log {0} multibase;".format(ACCESS_LOG),
        # At lower levels nginx quotes the whole request, and with it the key that may stand in the query.
        "error_log {0} crit;".format(ERROR_LOG),
        "client_header_timeout 10s;",
        "client_body_timeout 30s;",
        "send_timeout 30s;",
        "keepalive_timeout 65s;",
        "reset_timedout_connection on;",
        "large_client_header_buffers 4 16k;",
    ]
    lines += ["set_real_ip_from {0};".format(network) for network in settings.trusted]
    if settings.trusted:
        lines.append("real_ip_header {0};".format("proxy_protocol" if settings.proxy_protocol else "X-Forwarded-For"))
        lines.append("real_ip_recursive on;")
    return lines


def _limits() -> List[str]:
    return [
        "limit_req_status 429;",
        "limit_conn_status 429;",
        "limit_req_log_level info;",
        "limit_conn_log_level info;",
    ]


def _headers(settings: Settings, site: Site, frames: str = "") -> List[str]:
    """Headers of answers. nginx inherits none of them into a block that has one of its own, so blocks repeat them."""
    lines = []
    if site.scheme == "https" and settings.hsts_seconds:
        value = "max-age={0}{1}".format(
            settings.hsts_seconds, "; includeSubDomains" if settings.hsts_subdomains else ""
        )
        lines.append('add_header Strict-Transport-Security "{0}" always;'.format(value))
    lines.append('add_header X-Content-Type-Options "nosniff" always;')
    lines.append('add_header Referrer-Policy "strict-origin-when-cross-origin" always;')
    if frames:
        old = {"'self'": "SAMEORIGIN", "'none'": "DENY"}[frames]
        lines.append('add_header X-Frame-Options "{0}" always;'.format(old))
        lines.append('add_header Content-Security-Policy "frame-ancestors {0}" always;'.format(frames))
    return lines


def _challenges(settings: Settings) -> List[str]:
    return _block(
        "location ^~ {0}".format(CHALLENGES),
        ["root {0};".format(settings.webroot), "default_type text/plain;", "try_files $uri =404;"],
    )


def render_base(settings: Settings, main: str, fallback: Optional[Files]) -> str:
    """Return what all sites share: log format, limits, the check of logins, and the servers for unknown names.

    ``main`` is the text of nginx.conf; ``fallback`` a certificate for an nginx that cannot refuse a handshake.
    """
    lines = ["# Made by Multibase, and written anew by it.", ""]
    for name, value in (("server_names_hash_bucket_size", "256"), ("server_names_hash_max_size", "8192")):
        if not has_directive(main, name):
            lines.append("{0} {1};".format(name, value))
    lines += [
        "# The path as it was asked for, without the query: keys may stand in that.",
        *_block("map $request_uri $multibase_path", ["default -;", '"~^(?<multibase_bare>[^?]*)" $multibase_bare;']),
        "log_format multibase '$remote_addr - $remote_user [$time_local] \"$request_method $multibase_path "
        '$server_protocol" $status $body_bytes_sent "$host" $request_time $upstream_status\';',
        "",
        "# The gateway takes a backslash for a slash, nginx does not: then they would disagree on what is asked for.",
        *_block("map $request_uri $multibase_odd", ["default 0;", '"~\\x5c" 1;']),
        *_block("map $http_upgrade $multibase_upgrade", ['default "";', '"~*^websocket$" websocket;']),
        *_block("map $http_upgrade $multibase_connection", ['default "";', '"~*^websocket$" upgrade;']),
        "",
        "limit_req_zone $binary_remote_addr zone=multibase_all:10m rate={0}r/s;".format(settings.requests_per_second),
        "limit_conn_zone $binary_remote_addr zone=multibase_connections:10m;",
        "# Clients renew their tokens often, and nobody guesses those: not counted, in the one form that no other",
        "# reading of the request can turn into a login by password.",
        *_block(
            'map "$request_method $args $content_type" $multibase_guess',
            [
                "default $binary_remote_addr;",
                '"~^POST grant_type=refresh_token application/json(?:;.*)?$" "";',
                '"~^OPTIONS " "";',
            ],
        ),
        "limit_req_zone $multibase_guess zone=multibase_auth:10m rate={0}r/m;".format(settings.auth_per_minute),
        "",
        "# Logins of people. bcrypt takes a quarter of a second of a worker, and a page of Studio has a hundred files:",
        "# who was let in is not asked again for five minutes. Removing somebody empties this cache.",
        "proxy_cache_path {0} keys_zone=multibase_logins:1m max_size=8m inactive=5m use_temp_path=off;".format(
            LOGIN_CACHE
        ),
        *_block("map $http_authorization $multibase_login_key", ["default $binary_remote_addr;", '"" "";']),
        "limit_req_zone $multibase_login_key zone=multibase_login:10m rate={0}r/m;".format(settings.login_per_minute),
        "# The login of an instance's dashboard is checked by its gateway.",
        *_block(
            'map "$remote_user $http_x_multibase_user" $multibase_realm',
            ['default "Multibase";', '"~^(?<multibase_name>[^ ]+) (?P=multibase_name)$" off;'],
        ),
        *_block(
            "server",
            [
                "listen unix:{0};".format(LOGIN_SOCKET),
                "server_name _;",
                "server_tokens off;",
                "access_log off;",
                "error_log {0} crit;".format(ERROR_LOG),
                "set_real_ip_from unix:;",
                "real_ip_header X-Real-IP;",
                *_block(
                    "location /",
                    [
                        "limit_req zone=multibase_login burst={0} nodelay;".format(settings.login_burst),
                        "limit_req_status 403;",
                        "limit_req_log_level info;",
                        "auth_basic $multibase_realm;",
                        "auth_basic_user_file {0};".format(PEOPLE_FILE),
                        "try_files /nonexistent @in;",
                    ],
                ),
                *_block("location @in", ["return 204;"]),
            ],
        ),
        "",
    ]
    health = []
    if settings.trusted:
        lines += _block(
            "geo $realip_remote_addr $multibase_trusted",
            ["default 0;", *("{0} 1;".format(network) for network in settings.trusted)],
        )
        health = _block(
            "location = {0}".format(HEALTH_PATH),
            ["if ($multibase_trusted = 0) {", "    return 444;", "}", "default_type text/plain;", "return 200 ok;"],
        )
    lines += [
        "# Names that no site has: only challenges of ACME are answered, so that a certificate can be had first.",
        *_block(
            "server",
            [
                *_listen(settings, settings.http_port, False, True),
                "server_name _;",
                *_common(settings),
                *_challenges(settings),
                *health,
                *_block("location /", ["return 444;"]),
            ],
        ),
    ]
    refusal = ["ssl_reject_handshake on;"] if settings.version >= (1, 19, 4) else []
    if refusal or fallback is not None:
        lines += _block(
            "server",
            [
                *_listen(settings, settings.https_port, True, True),
                "server_name _;",
                *_common(settings),
                *_tls(None if refusal else fallback),
                *refusal,
                "# Only reached on a connection that was made for another name.",
                *_block("location /", ["return 421;"]),
            ],
        )
    return "\n".join(lines) + "\n"


def _forward(site: Site) -> List[str]:
    """What an upstream is told: set, never added to what the client sent."""
    return [
        "proxy_http_version 1.1;",
        "proxy_set_header Host {0};".format(site.domain),
        "proxy_set_header X-Real-IP $remote_addr;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto {0};".format(site.scheme),
        "proxy_set_header X-Forwarded-Host {0};".format(site.domain),
        "proxy_set_header X-Forwarded-Port {0};".format(443 if site.scheme == "https" else 80),
        'proxy_set_header Forwarded "";',
    ]


def _login(site: Site, settings: Settings) -> Tuple[List[str], List[str]]:
    """Return what a location says that people must log in to, and the blocks that go with it."""
    inside = [
        "auth_request /multibase-login;",
        "auth_request_set $multibase_login_status $upstream_status;",
        "error_page 403 = @multibase-refused;",
    ]
    beside = [
        *_block(
            "location = /multibase-login",
            [
                "internal;",
                "proxy_pass http://unix:{0}:/;".format(LOGIN_SOCKET),
                "proxy_pass_request_body off;",
                "proxy_pass_request_headers off;",
                "proxy_set_header Host login;",
                'proxy_set_header Content-Length "";',
                "proxy_set_header Authorization $http_authorization;",
                "proxy_set_header X-Real-IP $remote_addr;",
                'proxy_set_header X-Multibase-User "{0}";'.format(site.dashboard_user),
                "proxy_cache multibase_logins;",
                'proxy_cache_key "{0} $http_authorization";'.format(site.dashboard_user or "-"),
                "proxy_cache_valid 204 5m;",
                "proxy_cache_lock on;",
            ],
        ),
        *_block(
            "location @multibase-refused",
            ["if ($multibase_login_status = 403) {", "    return 429;", "}", "return 403;"],
        ),
    ]
    return inside, beside


def _allowed(site: Site) -> List[str]:
    if not site.studio_allow_from:
        return []
    return ["allow {0};".format(network) for network in site.studio_allow_from] + ["deny all;"]


def api_prefixes() -> List[str]:
    """Return the paths that are the APIs': all rows of the gateway's table but the dashboard's, shortest first."""
    paths = sorted({row.path for row in ROUTES if row.access != DASHBOARD}, key=lambda path: (len(path), path))
    kept: List[str] = []
    prefixes = {row.path for row in ROUTES if row.match == PREFIX}
    for path in paths:
        if not any(path.startswith(other) for other in kept if other in prefixes):
            kept.append(path)
    return sorted(kept)


def _api(site: Site, settings: Settings, pass_on: str) -> List[str]:
    lines: List[str] = []
    special = {
        "/realtime/v1/": [
            "proxy_set_header Upgrade $multibase_upgrade;",
            "proxy_set_header Connection $multibase_connection;",
            "proxy_read_timeout 3600s;",
            "proxy_send_timeout 3600s;",
        ],
        "/storage/v1/": [
            "client_max_body_size 0;",
            "client_body_timeout 300s;",
            "send_timeout 300s;",
            "proxy_request_buffering off;",
            "proxy_max_temp_file_size 0;",
            "proxy_read_timeout 3600s;",
            "proxy_send_timeout 3600s;",
        ],
        # Functions stream what they answer, piece by piece.
        "/functions/v1/": ["proxy_buffering off;", "proxy_read_timeout 420s;"],
    }
    paths = dict.fromkeys([*api_prefixes(), *special])
    for path in paths:
        if path.startswith("/realtime/v1/") and path != "/realtime/v1/":
            continue
        lines += _block(
            "location {0}".format(path),
            [
                *special.get(path, []),
                *(_forward_headers(site) if path == "/realtime/v1/" else []),
                pass_on,
            ],
        )
    lines += _block(
        "location ~ ^/auth/v1/(?:{0})(?:/|$)".format(_GUESSED),
        [
            "limit_req zone=multibase_all burst={0} nodelay;".format(settings.burst),
            "limit_req zone=multibase_auth burst={0} nodelay;".format(settings.auth_burst),
            pass_on,
        ],
    )
    return lines


def _forward_headers(site: Site) -> List[str]:
    """The lines of ``_forward`` that a block with headers of its own does not inherit."""
    return [line for line in _forward(site) if line.startswith("proxy_set_header")]


def _hidden() -> List[str]:
    """Headers that an upstream may send and we set, or that tell what it is made of."""
    names = ("Strict-Transport-Security", "X-Content-Type-Options", "Referrer-Policy", "X-Powered-By")
    return ["proxy_hide_header {0};".format(name) for name in names]


def _instance(site: Site, settings: Settings) -> List[str]:
    pass_on = "proxy_pass http://{0};".format(upstream_name(site))
    beside: List[str] = []
    inside: List[str] = []
    headers = [*_forward_headers(site), 'proxy_set_header Connection "";']
    if site.studio_auth == "people":
        inside, beside = _login(site, settings)
        headers.append("proxy_set_header Authorization ${0};".format(_variable(site)))
    return [
        "client_max_body_size {0};".format(settings.body_size),
        "proxy_connect_timeout 5s;",
        "proxy_read_timeout 300s;",
        "proxy_send_timeout 300s;",
        *_forward(site),
        'proxy_set_header Connection "";',
        *_hidden(),
        *_api(site, settings, pass_on),
        *beside,
        *_block(
            "location /",
            [
                *_allowed(site),
                *inside,
                *headers,
                *_hidden(),
                "proxy_hide_header X-Frame-Options;",
                *_headers(settings, site, "'self'"),
                pass_on,
            ],
        ),
    ]


def _panel(site: Site, settings: Settings) -> List[str]:
    inside, beside = _login(site, settings)
    return [
        "root {0};".format(site.upstream),
        "index index.html;",
        "if ($request_method !~ ^(?:GET|HEAD)$) {",
        "    return 405;",
        "}",
        *beside,
        *_block("location /", [*_allowed(site), *inside, "try_files $uri $uri/ =404;"]),
    ]


def _ara(site: Site, settings: Settings) -> List[str]:
    """ARA is looked at from outside, and written to by Ansible on the host only."""
    inside, beside = _login(site, settings)
    return [
        "if ($request_method !~ ^(?:GET|HEAD)$) {",
        "    return 405;",
        "}",
        *beside,
        *_block(
            "location /",
            [
                *_allowed(site),
                *inside,
                *_forward(site),
                'proxy_set_header Connection "";',
                'proxy_set_header Authorization "";',
                "proxy_set_header X-Remote-User $remote_user;",
                "proxy_pass http://unix:{0}:;".format(site.upstream),
            ],
        ),
    ]


def upstream_name(site: Site) -> str:
    """Name of a site's group of upstreams."""
    return "multibase_" + _SAFE_NAME.sub("_", site.name)


def _variable(site: Site) -> str:
    return "multibase_authorization_" + _SAFE_NAME.sub("_", site.name)


def render_site(site: Site, settings: Settings, files: Optional[Files]) -> str:
    """Return the text of one site. ``files`` is None where the certificate is none. SECRET stands for the secret."""
    body = {"instance": _instance, "panel": _panel, "ara": _ara}[site.kind](site, settings)
    frames = "" if site.kind == "instance" else "'none'"
    names = "server_name {0};".format(" ".join(site.domains))
    shared = [
        *_common(settings),
        *_limits(),
        "limit_req zone=multibase_all burst={0} nodelay;".format(settings.burst),
        "limit_conn multibase_connections {0};".format(settings.connections),
        *_headers(settings, site, frames),
        "if ($multibase_odd) {",
        "    return 400;",
        "}",
    ]
    lines = ["# {0}: made by Multibase, and written anew by it.".format(site.name)]
    if site.kind == "instance":
        lines += _block(
            "upstream {0}".format(upstream_name(site)),
            ["server {0};".format(site.upstream), "keepalive 16;", "keepalive_timeout 50s;"],
        )
        if site.studio_auth == "people":
            own = ['"{0}" $http_authorization;'.format(site.dashboard_user)] if site.dashboard_user else []
            lines += _block(
                "map $remote_user ${0}".format(_variable(site)), ['default "Basic {0}";'.format(SECRET), *own]
            )
    if files is None:
        lines += _block(
            "server",
            [*_listen(settings, settings.http_port, False, False), names, *shared, *_challenges(settings), *body],
        )
        return "\n".join(lines) + "\n"
    port = "" if settings.https_port == 443 else ":{0}".format(settings.https_port)
    lines += _block(
        "server",
        [
            *_listen(settings, settings.http_port, False, False),
            names,
            *_common(settings),
            *_challenges(settings),
            *_block("location /", ["return 308 https://{0}{1}$request_uri;".format(site.domain, port)]),
        ],
    )
    lines += _block(
        "server", [*_listen(settings, settings.https_port, True, False), names, *_tls(files), *shared, *body]
    )
    return "\n".join(lines) + "\n"
