# SPDX-License-Identifier: GPL-3.0-or-later
"""What every option of an instance changes in the Compose files as Compose resolves them.

The table is written from docs/options.md and from what the services of upstream read, not from the code that fills the
files in. ``test_option_effects`` runs it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Set, Tuple
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True)
class View:
    """An instance as it would run: ``resolved`` is what Compose makes of its files, dollar signs written once."""

    name: str
    directory: Path
    resolved: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def services(self) -> Mapping[str, Any]:
        services = self.resolved["services"]
        assert isinstance(services, dict)
        return services

    def environment(self, service: str) -> Mapping[str, str]:
        """The environment of a service's containers; empty for a service that does not run."""
        return dict(self.services.get(service, {}).get("environment") or {})

    def ports(self) -> Dict[Tuple[str, int], Tuple[str, int]]:
        """Service and port inside -> address and offset in the instance's block."""
        base = self.manifest["port_base"]
        return {
            (name, port["target"]): (port["host_ip"], int(port["published"]) - base)
            for name, service in self.services.items()
            for port in service.get("ports", [])
        }

    def gateway(self) -> Tuple[str, Any]:
        """Name and content of the file that the gateway is told to read, found through its mount."""
        service = self.services["api-gw"]
        (mount,) = [mount for mount in service["volumes"] if mount["target"] == "/etc/multibase"]
        told = [*service["command"], *self.environment("api-gw").values()]
        (path,) = {word for word in told if word.startswith("/etc/multibase/")}
        file = Path(mount["source"]) / Path(path).name
        return file.name, json.loads(file.read_text(encoding="utf-8"))


Look = Callable[[View], Any]


@dataclass(frozen=True)
class Sight:
    """``look`` finds something in an instance, described by ``what``; with the option it is ``expected``.

    ``service`` is the one in whose environment it is, when that is where it is.
    """

    what: str
    look: Look
    expected: Any
    service: str = ""


@dataclass(frozen=True)
class Effect:
    """An option with a value other than its default, and everything that must then be seen.

    Effects of one ``group`` are independent of each other and are tried together, over the options that ``GROUPS`` has
    for it. ``secret`` is the name by which ``secrets`` knows the same value.
    """

    option: str
    value: Any
    sights: Tuple[Sight, ...]
    group: str = "together"
    secret: str = ""

    def options(self) -> Dict[str, Any]:
        """The option as it would stand in an entry of ``instances``."""
        tree: Any = self.value
        for part in reversed(self.option.split(".")):
            tree = {part: tree}
        assert isinstance(tree, dict)
        return tree


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Dict[str, Any]:
    """Options over others: groups merge, everything else replaces."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result


# Ways to look


def env(service: str, variable: str, text: str) -> Sight:
    """A variable of a service's containers."""
    return Sight(
        "{0} of {1}".format(variable, service), lambda view: view.environment(service).get(variable), text, service
    )


def env_json(service: str, variable: str, read: Callable[[Any], Any], expected: Any) -> Sight:
    """Something in a variable that holds JSON."""

    def look(view: View) -> Any:
        return read(json.loads(view.environment(service)[variable]))

    return Sight("{0} of {1}".format(variable, service), look, expected, service)


def env_start(service: str, variable: str, start: str) -> Sight:
    """The first letters of a variable that is generated."""
    return Sight(
        "the start of {0} of {1}".format(variable, service),
        lambda view: view.environment(service).get(variable, "")[: len(start)],
        start,
        service,
    )


def address(service: str, variable: str, part: Callable[[SplitResult], Any], expected: Any) -> Sight:
    """A part of a database's address in a variable."""

    def look(view: View) -> Any:
        return part(urlsplit(view.environment(service).get(variable, "")))

    return Sight("{0} of {1}".format(variable, service), look, expected, service)


def image(service: str, reference: str) -> Sight:
    return Sight("image of " + service, lambda view: view.services[service]["image"], reference)


def repository(service: str, name: str) -> Sight:
    return Sight(
        "repository of the image of " + service, lambda view: view.services[service]["image"].rpartition(":")[0], name
    )


def runs(service: str, expected: bool) -> Sight:
    return Sight("whether {0} runs".format(service), lambda view: service in view.services, expected)


def published(service: str, target: int, offset: int) -> Sight:
    """The offset in the block of ten ports on which a port is published."""
    return Sight(
        "where port {0} of {1} is published".format(target, service),
        lambda view: view.ports().get((service, target), ("", None))[1],
        offset,
    )


def recorded(key: str, value: Any) -> Sight:
    return Sight(key + " in instance.json", lambda view: view.manifest[key], value)


def everywhere(what: str, look: Callable[[Any], Any], expected: Any) -> Sight:
    """Something that all services of an instance have alike."""

    def of_all(view: View) -> Any:
        found = {look(service) for service in view.services.values()}
        return found.pop() if len(found) == 1 else found

    return Sight(what + " of every service", of_all, expected)


def total(key: str, unit: float, expected: float) -> Sight:
    """What all services have of something, in ``unit``, to one digit: rounding loses a little of each share."""
    return Sight(
        "sum of {0}".format(key),
        lambda view: round(sum(float(service[key]) for service in view.services.values()) / unit, 1),
        expected,
    )


def leaves(tree: Any, path: Tuple[str, ...] = ()) -> Iterator[Tuple[Tuple[str, ...], Any]]:
    """All values in a tree, each with the keys that lead to it; places in lists do not count."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value, path)
    else:
        yield path, tree


def in_gateway(*keys: str, expected: Any) -> Sight:
    """All different values in the gateway's file that stand below ``keys``."""

    def look(view: View) -> Any:
        _name, tree = view.gateway()
        return sorted({value for path, value in leaves(tree) if path[-len(keys) :] == keys}, key=str)

    return Sight(".".join(keys) + " in the gateway's file", look, expected)


def gateway_users(expected: str) -> Sight:
    """The name in Envoy's list of users, NAME:{SHA}DIGEST."""

    def look(view: View) -> Any:
        _name, tree = view.gateway()
        (users,) = {value for path, value in leaves(tree) if path[-2:] == ("users", "inline_string")}
        return users.partition(":")[0]

    return Sight("the dashboard's user in the gateway's file", look, expected)


def gateway_holds(service: str, variable: str) -> Sight:
    """Whether the gateway's file holds what a service has in a variable (in a key or in a value)."""

    def look(view: View) -> Any:
        value = view.environment(service)[variable]
        _name, tree = view.gateway()
        return bool(value) and json.dumps(value)[1:-1] in json.dumps(tree)

    return Sight("{0} of {1} in the gateway's file".format(variable, service), look, True)


# Values

# Everything that YAML, the .env file, Compose's interpolation and a shell could spoil.
HARD = "a $HOME ${PATH} $$ 100% \\ \\n \"b\" 'c' `d` #e # f é ü 雪 {} : = ~"
LINES = "-----BEGIN KEY-----\nfirst $line\n\n\tlast 'line' \\n\n-----END KEY-----\n"
PROVIDERS = (
    "apple", "azure", "bitbucket", "discord", "facebook", "figma", "fly", "github", "gitlab", "google", "kakao",
    "keycloak", "linkedin_oidc", "notion", "slack_oidc", "snapchat", "spotify", "twitch", "twitter", "workos", "x",
    "zoom",
)  # fmt: skip
HOOKS = (
    "before_user_created", "custom_access_token", "mfa_verification_attempt", "password_verification_attempt",
    "send_email", "send_sms",
)  # fmt: skip
MAILS = ("confirmation", "email_change", "invite", "magic_link", "reauthentication", "recovery")
RATES = ("anonymous_users", "email_sent", "otp", "sms_sent", "sso", "token_refresh", "verify")

# With these every effect of the group is a whole: a captcha has its account, a provider its id, a hook its place.
_WHOLE: Dict[str, Any] = {
    "auth": {
        "captcha": {"provider": "turnstile", "secret": "another-account"},
        "saml": {"private_key": "QW5vdGhlciBrZXkK" * 8},
        "sms": {"provider": "messagebird", "messagebird": {"originator": "Another", "access_key": "another-key"}},
        "hooks": {name: {"uri": "pg-functions://postgres/public/another"} for name in HOOKS},
        "providers": {name: {"client_id": "another-id", "secret": "another-secret"} for name in PROVIDERS},
    }
}
_POOLED = {"services": {"pgbouncer": True, "supavisor": False}}
_BUCKET_KEYS = {"access_key_id": "another-key", "secret_access_key": "another-secret"}
GROUPS: Dict[str, Dict[str, Any]] = {
    "together": _WHOLE,
    "switched off": _WHOLE,
    "with the services for logs": {"services": {"analytics": True, "vector": True}},
    "with PgBouncer": _POOLED,
    "files in S3": {"storage": {"bucket": "another-bucket", "s3": _BUCKET_KEYS}},
    "with a bucket": {"storage": {"backend": "s3", "bucket": "another-bucket", "s3": _BUCKET_KEYS}},
    "with a database elsewhere": {"database": {"host": "another.example.com", "password": "another-password"}},
    "a database elsewhere": {"database": {"password": "another-password"}},
}


def _auth(option: str, value: Any, variable: str, text: str = "", **more: Any) -> Effect:
    """An option that ends in the environment of Auth, a string as it stands."""
    return Effect("auth." + option, value, (env("auth", variable, text or value),), **more)


def _switch(option: str, variable: str) -> List[Effect]:
    """A truth of Auth that upstream decides unless it is given: both values must arrive."""
    return [
        _auth(option, True, variable, "true"),
        _auth(option, False, variable, "false", group="switched off"),
    ]


def _auth_secret(option: str, variable: str) -> Effect:
    value = "{0} {1}".format(option, HARD)
    return _auth(option, value, variable, value, secret=variable)


def _general() -> List[Effect]:
    public = "https://supabase.example.com"
    return [
        Effect(
            "image_set",
            "sandbox",
            (repository("db", "multibase-sandbox/db"), repository("api-gw", "multibase-sandbox/envoy")),
            group="image_set",
        ),
        Effect(
            "image_registry",
            "mirror.example.com:5000/hub",
            (
                image("db", "mirror.example.com:5000/hub/supabase/postgres:17.6.1.136"),
                image("api-gw", "mirror.example.com:5000/hub/envoyproxy/envoy:v1.39.1"),
                everywhere(
                    "registry", lambda service: service["image"].startswith("mirror.example.com:5000/hub/"), True
                ),
            ),
            group="image_registry",
        ),
        Effect(
            "images",
            {"rest": "registry.example.com/own/rest:1"},
            (image("rest", "registry.example.com/own/rest:1"),),
        ),
        Effect(
            "services",
            {"imgproxy": False, "analytics": True, "vector": True},
            (
                runs("imgproxy", False),
                runs("analytics", True),
                runs("vector", True),
                env("storage", "ENABLE_IMAGE_TRANSFORMATION", "false"),
                env("studio", "ENABLED_FEATURES_LOGS_ALL", "true"),
                env("studio", "LOGFLARE_URL", "http://analytics:4000"),
            ),
            group="services",
        ),
        Effect(
            "services",
            _POOLED["services"],
            (runs("pgbouncer", True), runs("supavisor", False), published("pgbouncer", 6432, 4)),
            group="PgBouncer instead of Supavisor",
        ),
        Effect("environment", "production", (recorded("environment", "production"),)),
        Effect("labels", {"team": "core", "tier": "1"}, (recorded("labels", {"team": "core", "tier": "1"}),)),
        Effect(
            "size",
            "small",
            (total("mem_limit", 2**30, 2.0), everywhere("cpus", lambda service: float(service["cpus"]), 1.0)),
            group="a named size",
        ),
        Effect(
            "size",
            {"cpus": 1.5, "memory": "3g"},
            (total("mem_limit", 2**30, 3.0), everywhere("cpus", lambda service: float(service["cpus"]), 1.5)),
            group="a size of one's own",
        ),
        # 2 processors, of which no service has more than its share.
        Effect("cpu_burst", False, (total("cpus", 1, 2.0),), group="cpu_burst"),
        Effect(
            "gateway",
            "kong",
            (
                image("api-gw", "kong/kong:3.9.3"),
                Sight("command of api-gw", lambda view: view.services["api-gw"]["command"], ["kong", "docker-start"]),
                Sight("the gateway's file", lambda view: view.gateway()[0], "kong.json"),
                published("api-gw", 8443, 1),
            ),
            group="gateway",
        ),
        Effect(
            "bind_address",
            "0.0.0.0",
            (
                Sight(
                    "addresses of all published ports",
                    lambda view: {host for host, _offset in view.ports().values()},
                    {"0.0.0.0"},
                ),
            ),
        ),
        Effect("expose", ["postgres", "studio"], (published("db", 5432, 5), published("studio", 3000, 2))),
        Effect("expose", ["analytics"], (published("analytics", 4000, 6),), group="with the services for logs"),
        Effect(
            "port_base",
            25000,
            (
                Sight(
                    "port of the gateway",
                    lambda view: [port["published"] for port in view.services["api-gw"]["ports"]],
                    ["25000"],
                ),
                Sight(
                    "ports of the pooler",
                    lambda view: [port["published"] for port in view.services["supavisor"]["ports"]],
                    ["25003", "25004"],
                ),
            ),
            group="port_base",
        ),
        Effect(
            "domain",
            "db.example.com",
            (
                env("studio", "SUPABASE_PUBLIC_URL", "https://db.example.com"),
                env("auth", "API_EXTERNAL_URL", "https://db.example.com/auth/v1"),
                env("auth", "GOTRUE_SITE_URL", "https://db.example.com"),
            ),
            group="domain",
        ),
        Effect(
            "public_url",
            public,
            (
                env("studio", "SUPABASE_PUBLIC_URL", public),
                env("functions", "SUPABASE_PUBLIC_URL", public),
                env("storage", "STORAGE_PUBLIC_URL", public),
                env("auth", "API_EXTERNAL_URL", public + "/auth/v1"),
                env("auth", "GOTRUE_JWT_ISSUER", public + "/auth/v1"),
            ),
        ),
        Effect("site_url", "https://app.example.com", (env("auth", "GOTRUE_SITE_URL", "https://app.example.com"),)),
        Effect(
            "redirect_urls",
            ["https://one.example.com/back", "https://*.two.example.com/**"],
            (env("auth", "GOTRUE_URI_ALLOW_LIST", "https://one.example.com/back,https://*.two.example.com/**"),),
        ),
        Effect(
            "health_interval",
            "45s",
            (everywhere("health interval", lambda service: service["healthcheck"]["interval"], "45s"),),
        ),
        Effect(
            "docker_socket",
            "/run/user/1000/docker.sock",
            (
                Sight(
                    "what vector has as the socket",
                    lambda view: [
                        mount["source"]
                        for mount in view.services.get("vector", {}).get("volumes", [])
                        if mount["target"] == "/var/run/docker.sock"
                    ],
                    ["/run/user/1000/docker.sock"],
                ),
            ),
            group="with the services for logs",
        ),
        Effect(
            "env",
            {"auth": {"GOTRUE_LOG_LEVEL": "debug"}, "rest": {"PGRST_SERVER_TRACE_HEADER": HARD}},
            (
                env("auth", "GOTRUE_LOG_LEVEL", "debug"),
                env("rest", "PGRST_SERVER_TRACE_HEADER", HARD),
            ),
        ),
        Effect(
            "keys.asymmetric",
            True,
            (
                env_json("auth", "GOTRUE_JWT_KEYS", _kinds, ["EC", "oct"]),
                env_json("realtime", "API_JWT_JWKS", lambda keys: _kinds(keys["keys"]), ["EC", "oct"]),
                env_json("storage", "JWT_JWKS", lambda keys: _kinds(keys["keys"]), ["EC", "oct"]),
                env_json("functions", "SUPABASE_JWKS", lambda keys: _kinds(keys["keys"]), ["EC", "oct"]),
                # Without, it is the secret itself.
                env_start("rest", "PGRST_JWT_SECRET", '{"keys":['),
            ),
        ),
        Effect(
            "keys.opaque",
            True,
            (
                env_start("studio", "SUPABASE_PUBLISHABLE_KEY", "sb_publishable_"),
                env_start("studio", "SUPABASE_SECRET_KEY", "sb_secret_"),
                env_start("functions", "SUPABASE_PUBLISHABLE_KEYS", '{"default":"sb_publishable_'),
                env_start("functions", "SUPABASE_SECRET_KEYS", '{"default":"sb_secret_'),
            ),
        ),
    ]


def _kinds(keys: List[Mapping[str, str]]) -> List[str]:
    return sorted(key["kty"] for key in keys)


def _logins() -> List[Effect]:
    effects = [
        _auth("disable_signup", True, "GOTRUE_DISABLE_SIGNUP", "true"),
        _auth("email_signup", False, "GOTRUE_EXTERNAL_EMAIL_ENABLED", "false"),
        _auth("email_autoconfirm", True, "GOTRUE_MAILER_AUTOCONFIRM", "true"),
        _auth("anonymous_users", True, "GOTRUE_EXTERNAL_ANONYMOUS_USERS_ENABLED", "true"),
        _auth("phone_signup", True, "GOTRUE_EXTERNAL_PHONE_ENABLED", "true"),
        _auth("phone_autoconfirm", True, "GOTRUE_SMS_AUTOCONFIRM", "true"),
        Effect(
            "auth.jwt_expiry",
            7200,
            (
                env("auth", "GOTRUE_JWT_EXP", "7200"),
                env("rest", "PGRST_APP_SETTINGS_JWT_EXP", "7200"),
                env("db", "JWT_EXP", "7200"),
            ),
        ),
        *_switch("secure_email_change", "GOTRUE_MAILER_SECURE_EMAIL_CHANGE_ENABLED"),
        _auth("password_min_length", 12, "GOTRUE_PASSWORD_MIN_LENGTH", "12"),
        _auth("password_required_characters", "abc:ABC:123:$\"'\\:#", "GOTRUE_PASSWORD_REQUIRED_CHARACTERS"),
        *_switch("refresh_token_rotation", "GOTRUE_SECURITY_REFRESH_TOKEN_ROTATION_ENABLED"),
        _auth("refresh_token_reuse_interval", 11, "GOTRUE_SECURITY_REFRESH_TOKEN_REUSE_INTERVAL", "11"),
        _auth(
            "refresh_token_reuse_interval", 0, "GOTRUE_SECURITY_REFRESH_TOKEN_REUSE_INTERVAL", "0", group="switched off"
        ),
        *_switch("manual_linking", "GOTRUE_SECURITY_MANUAL_LINKING_ENABLED"),
        *_switch("reauthenticate_for_password", "GOTRUE_SECURITY_UPDATE_PASSWORD_REQUIRE_REAUTHENTICATION"),
        *_switch("captcha.enabled", "GOTRUE_SECURITY_CAPTCHA_ENABLED"),
        _auth("captcha.provider", "hcaptcha", "GOTRUE_SECURITY_CAPTCHA_PROVIDER"),
        _auth_secret("captcha.secret", "GOTRUE_SECURITY_CAPTCHA_SECRET"),
        _auth("sessions.timebox", "24h", "GOTRUE_SESSIONS_TIMEBOX"),
        _auth("sessions.inactivity_timeout", "8h", "GOTRUE_SESSIONS_INACTIVITY_TIMEOUT"),
        *_switch("sessions.single_per_user", "GOTRUE_SESSIONS_SINGLE_PER_USER"),
        _auth("mail.otp_expiry", 601, "GOTRUE_MAILER_OTP_EXP", "601"),
        _auth("mail.otp_length", 8, "GOTRUE_MAILER_OTP_LENGTH", "8"),
        _auth("mail.max_frequency", "61s", "GOTRUE_SMTP_MAX_FREQUENCY"),
        *_switch("mfa.totp_enroll", "GOTRUE_MFA_TOTP_ENROLL_ENABLED"),
        *_switch("mfa.totp_verify", "GOTRUE_MFA_TOTP_VERIFY_ENABLED"),
        *_switch("mfa.phone_enroll", "GOTRUE_MFA_PHONE_ENROLL_ENABLED"),
        *_switch("mfa.phone_verify", "GOTRUE_MFA_PHONE_VERIFY_ENABLED"),
        *_switch("mfa.webauthn_enroll", "GOTRUE_MFA_WEB_AUTHN_ENROLL_ENABLED"),
        *_switch("mfa.webauthn_verify", "GOTRUE_MFA_WEB_AUTHN_VERIFY_ENABLED"),
        _auth("mfa.webauthn_rp_id", "login.example.com", "GOTRUE_WEBAUTHN_RP_ID"),
        _auth("mfa.webauthn_rp_name", "Acme logins", "GOTRUE_WEBAUTHN_RP_DISPLAY_NAME"),
        _auth(
            "mfa.webauthn_rp_origins",
            ["https://login.example.com", "https://app.example.com"],
            "GOTRUE_WEBAUTHN_RP_ORIGINS",
            "https://login.example.com,https://app.example.com",
        ),
        _auth("mfa.max_enrolled_factors", 3, "GOTRUE_MFA_MAX_ENROLLED_FACTORS", "3"),
        *_switch("saml.enabled", "GOTRUE_SAML_ENABLED"),
        _auth("saml.private_key", "T25lIGtleSBvZiBu" * 8, "GOTRUE_SAML_PRIVATE_KEY", secret="GOTRUE_SAML_PRIVATE_KEY"),
        *_switch("saml.allow_encrypted_assertions", "GOTRUE_SAML_ALLOW_ENCRYPTED_ASSERTIONS"),
        _auth("saml.relay_state_validity", "3m", "GOTRUE_SAML_RELAY_STATE_VALIDITY_PERIOD"),
        _auth("saml.rate_limit_assertion", 16, "GOTRUE_SAML_RATE_LIMIT_ASSERTION", "16"),
        _auth("saml.external_url", "https://sso.example.com/auth/v1", "GOTRUE_SAML_EXTERNAL_URL"),
        _auth("sms.provider", "vonage", "GOTRUE_SMS_PROVIDER"),
        _auth("sms.otp_expiry", 61, "GOTRUE_SMS_OTP_EXP", "61"),
        _auth("sms.otp_length", 7, "GOTRUE_SMS_OTP_LENGTH", "7"),
        _auth("sms.max_frequency", "62s", "GOTRUE_SMS_MAX_FREQUENCY"),
        _auth("sms.template", "Your code is {{ .Code }}. " + HARD, "GOTRUE_SMS_TEMPLATE"),
        _auth(
            "sms.test_otp", "15555550100:123456,15555550101:654321", "GOTRUE_SMS_TEST_OTP", secret="GOTRUE_SMS_TEST_OTP"
        ),
        _auth("sms.twilio.account_sid", "AC-one", "GOTRUE_SMS_TWILIO_ACCOUNT_SID"),
        _auth("sms.twilio.message_service_sid", "MG-one", "GOTRUE_SMS_TWILIO_MESSAGE_SERVICE_SID"),
        _auth("sms.twilio.content_sid", "HX-one", "GOTRUE_SMS_TWILIO_CONTENT_SID"),
        _auth_secret("sms.twilio.auth_token", "GOTRUE_SMS_TWILIO_AUTH_TOKEN"),
        _auth("sms.twilio_verify.account_sid", "AC-two", "GOTRUE_SMS_TWILIO_VERIFY_ACCOUNT_SID"),
        _auth("sms.twilio_verify.message_service_sid", "VA-two", "GOTRUE_SMS_TWILIO_VERIFY_MESSAGE_SERVICE_SID"),
        _auth_secret("sms.twilio_verify.auth_token", "GOTRUE_SMS_TWILIO_VERIFY_AUTH_TOKEN"),
        _auth("sms.messagebird.originator", "Acme", "GOTRUE_SMS_MESSAGEBIRD_ORIGINATOR"),
        _auth_secret("sms.messagebird.access_key", "GOTRUE_SMS_MESSAGEBIRD_ACCESS_KEY"),
        _auth("sms.textlocal.sender", "Acme Ltd", "GOTRUE_SMS_TEXTLOCAL_SENDER"),
        _auth_secret("sms.textlocal.api_key", "GOTRUE_SMS_TEXTLOCAL_API_KEY"),
        _auth_secret("sms.vonage.api_key", "GOTRUE_SMS_VONAGE_API_KEY"),
        _auth("sms.vonage.from", "Acme Inc", "GOTRUE_SMS_VONAGE_FROM"),
        _auth_secret("sms.vonage.api_secret", "GOTRUE_SMS_VONAGE_API_SECRET"),
    ]
    for number, kind in enumerate(("confirmation", "email_change", "invite", "recovery")):
        path = "/auth/v1/verify-{0}".format(number)
        effects.append(_auth("mail.paths." + kind, path, "GOTRUE_MAILER_URLPATHS_" + kind.upper()))
    for kind in MAILS:
        text = "{0}: {1}".format(kind, HARD)
        url = "https://example.com/mails/{0}.html".format(kind)
        effects.append(_auth("mail.subjects." + kind, text, "GOTRUE_MAILER_SUBJECTS_" + kind.upper()))
        effects.append(_auth("mail.templates." + kind, url, "GOTRUE_MAILER_TEMPLATES_" + kind.upper()))
    for number, kind in enumerate(RATES):
        variable = "GOTRUE_RATE_LIMIT_" + kind.upper()
        effects.append(_auth("rate_limits." + kind, 1000 + number, variable, str(1000 + number)))
    for name in HOOKS:
        option, prefix = "hooks." + name, "GOTRUE_HOOK_" + name.upper()
        uri = "https://hooks.example.com/hooks/{0}".format(name)
        # What Auth takes: v1,whsec_ and 24 bytes or more in base64, several behind each other.
        keys = "v1,whsec_{0}|v1,whsec_{1}".format("QUJD" * 8, "REVG" * 8)
        effects += [
            _auth(option + ".enabled", False, prefix + "_ENABLED", "false"),
            _auth(option + ".uri", uri, prefix + "_URI"),
            _auth(option + ".secrets", keys, prefix + "_SECRETS", secret=prefix + "_SECRETS"),
        ]
    for name in PROVIDERS:
        option, prefix = "providers." + name, "GOTRUE_EXTERNAL_" + name.upper()
        back = "https://app.example.com/{0}/callback".format(name)
        effects += [
            _auth(option + ".enabled", False, prefix + "_ENABLED", "false"),
            _auth(option + ".client_id", name + "-1,ios.$1", prefix + "_CLIENT_ID", name + "-1,ios.$1"),
            _auth_secret(option + ".secret", prefix + "_SECRET"),
            _auth(option + ".redirect_uri", back, prefix + "_REDIRECT_URI"),
            _auth(option + ".url", "https://id.example.com/" + name, prefix + "_URL"),
            *_switch(option + ".skip_nonce_check", prefix + "_SKIP_NONCE_CHECK"),
            *_switch(option + ".email_optional", prefix + "_EMAIL_OPTIONAL"),
        ]
    return effects


def _services() -> List[Effect]:
    return [
        Effect("smtp.host", "mail.example.com", (env("auth", "GOTRUE_SMTP_HOST", "mail.example.com"),)),
        Effect("smtp.port", 2525, (env("auth", "GOTRUE_SMTP_PORT", "2525"),)),
        Effect("smtp.user", "mail-$user@example.com", (env("auth", "GOTRUE_SMTP_USER", "mail-$user@example.com"),)),
        Effect("smtp.password", HARD, (env("auth", "GOTRUE_SMTP_PASS", HARD),), secret="SMTP_PASS"),
        Effect(
            "smtp.admin_email",
            "no-reply@example.com",
            (env("auth", "GOTRUE_SMTP_ADMIN_EMAIL", "no-reply@example.com"),),
        ),
        Effect("smtp.sender_name", "Acme " + HARD, (env("auth", "GOTRUE_SMTP_SENDER_NAME", "Acme " + HARD),)),
        Effect("studio.organization", "O " + HARD, (env("studio", "DEFAULT_ORGANIZATION_NAME", "O " + HARD),)),
        Effect("studio.project", "P " + HARD, (env("studio", "DEFAULT_PROJECT_NAME", "P " + HARD),)),
        Effect(
            "studio.openai_api_key",
            "sk-" + HARD,
            (env("studio", "OPENAI_API_KEY", "sk-" + HARD),),
            secret="OPENAI_API_KEY",
        ),
        Effect("pooler.pool_size", 21, (env("supavisor", "POOLER_DEFAULT_POOL_SIZE", "21"),)),
        Effect("pooler.max_clients", 201, (env("supavisor", "POOLER_MAX_CLIENT_CONN", "201"),)),
        Effect("pooler.pool_size", 22, (env("pgbouncer", "DEFAULT_POOL_SIZE", "22"),), group="with PgBouncer"),
        Effect("pooler.max_clients", 202, (env("pgbouncer", "MAX_CLIENT_CONN", "202"),), group="with PgBouncer"),
        Effect("pooler.db_pool_size", 6, (env("supavisor", "DB_POOL_SIZE", "6"),)),
        Effect("pooler.tenant_id", "tenant-one", (env("supavisor", "POOLER_TENANT_ID", "tenant-one"),)),
        Effect(
            "rest.schemas",
            ["public", "shop"],
            (env("rest", "PGRST_DB_SCHEMAS", "public,shop"), env("studio", "PGRST_DB_SCHEMAS", "public,shop")),
        ),
        Effect(
            "rest.extra_search_path",
            ["public", "extensions"],
            (
                env("rest", "PGRST_DB_EXTRA_SEARCH_PATH", "public,extensions"),
                env("studio", "PGRST_DB_EXTRA_SEARCH_PATH", "public,extensions"),
            ),
        ),
        Effect(
            "rest.max_rows", 501, (env("rest", "PGRST_DB_MAX_ROWS", "501"), env("studio", "PGRST_DB_MAX_ROWS", "501"))
        ),
        Effect("rest.pool_size", 14, (env("rest", "PGRST_DB_POOL", "14"),)),
        Effect("realtime.max_concurrent_users", 301, (env("realtime", "TENANT_MAX_CONCURRENT_USERS", "301"),)),
        Effect("realtime.max_events_per_second", 302, (env("realtime", "TENANT_MAX_EVENTS_PER_SECOND", "302"),)),
        Effect("realtime.max_bytes_per_second", 303000, (env("realtime", "TENANT_MAX_BYTES_PER_SECOND", "303000"),)),
        Effect("realtime.max_channels_per_client", 304, (env("realtime", "TENANT_MAX_CHANNELS_PER_CLIENT", "304"),)),
        Effect("realtime.max_joins_per_second", 305, (env("realtime", "TENANT_MAX_JOINS_PER_SECOND", "305"),)),
        Effect("realtime.db_pool_size", 8, (env("realtime", "DB_POOL_SIZE", "8"),)),
        Effect("storage.file_size_limit", 1048577, (env("storage", "FILE_SIZE_LIMIT", "1048577"),)),
        Effect(
            "storage.backend",
            "s3",
            (
                env("storage", "STORAGE_BACKEND", "s3"),
                env("storage", "GLOBAL_S3_FORCE_PATH_STYLE", "true"),
                env("storage", "TUS_ALLOW_S3_TAGS", "true"),
            ),
            group="files in S3",
        ),
        Effect("storage.bucket", "one-bucket", (env("storage", "GLOBAL_S3_BUCKET", "one-bucket"),)),
        Effect("storage.region", "eu-central-1", (env("storage", "REGION", "eu-central-1"),)),
        Effect("storage.tenant_id", "tenant-two", (env("storage", "TENANT_ID", "tenant-two"),)),
        _bucket("endpoint", "https://s3.example.com", "GLOBAL_S3_ENDPOINT", "https://s3.example.com"),
        _bucket("force_path_style", False, "GLOBAL_S3_FORCE_PATH_STYLE", "false"),
        _bucket("allow_tags", False, "TUS_ALLOW_S3_TAGS", "false"),
        _bucket("access_key_id", "id " + HARD, "AWS_ACCESS_KEY_ID", "id " + HARD, "STORAGE_S3_ACCESS_KEY_ID"),
        _bucket("secret_access_key", HARD, "AWS_SECRET_ACCESS_KEY", HARD, "STORAGE_S3_SECRET_ACCESS_KEY"),
        Effect("imgproxy.auto_webp", False, (env("imgproxy", "IMGPROXY_AUTO_WEBP", "false"),)),
        Effect("imgproxy.max_megapixels", 25.5, (env("imgproxy", "IMGPROXY_MAX_SRC_RESOLUTION", "25.5"),)),
        Effect("functions.verify_jwt", True, (env("functions", "VERIFY_JWT", "true"),)),
    ]


def _bucket(option: str, value: Any, variable: str, text: str, secret: str = "") -> Effect:
    return Effect(
        "storage.s3." + option, value, (env("storage", variable, text),), group="with a bucket", secret=secret
    )


def _database() -> List[Effect]:
    # Service and variable that have the address of the database; the database of Supavisor's own tables is another.
    addresses = (
        ("auth", "GOTRUE_DB_DATABASE_URL"),
        ("rest", "PGRST_DB_URI"),
        ("storage", "DATABASE_URL"),
        ("functions", "SUPABASE_DB_URL"),
    )
    pooler = ("supavisor", "DATABASE_URL")
    # Service, and the names under which it has host, port, database and password apart.
    apart = (
        ("realtime", "DB_HOST", "DB_PORT", "DB_NAME", "DB_PASSWORD"),
        ("meta", "PG_META_DB_HOST", "PG_META_DB_PORT", "PG_META_DB_NAME", "PG_META_DB_PASSWORD"),
        ("studio", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB", "POSTGRES_PASSWORD"),
        ("supavisor", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB", "POSTGRES_PASSWORD"),
    )
    group = "with a database elsewhere"
    host, name, password = "pg.example.com", "shop", "One.password_of~99"
    return [
        Effect("database.version", 15, (image("db", "supabase/postgres:15.8.1.085"),), group="database.version"),
        Effect(
            "database.host",
            host,
            (
                runs("db", False),
                Sight(
                    "services that wait for the database",
                    lambda view: {
                        name for name, service in view.services.items() if "db" in (service.get("depends_on") or {})
                    },
                    set(),
                ),
            ),
            group="a database elsewhere",
        ),
        Effect(
            "database.host",
            host,
            (
                *(address(*place, lambda url: url.hostname, host) for place in (*addresses, pooler)),
                *(env(service, variable, host) for service, variable, *_rest in apart),
            ),
            group=group,
        ),
        Effect(
            "database.port",
            6000,
            (
                *(address(*place, lambda url: url.port, 6000) for place in (*addresses, pooler)),
                *(env(service, variable, "6000") for service, _host, variable, *_rest in apart),
            ),
            group=group,
        ),
        Effect(
            "database.name",
            name,
            (
                *(address(*place, lambda url: url.path, "/" + name) for place in addresses),
                *(env(service, variable, name) for service, _host, _port, variable, _password in apart),
            ),
            group=group,
        ),
        Effect(
            "database.password",
            password,
            (
                *(address(*place, lambda url: url.password, password) for place in (*addresses, pooler)),
                *(env(service, variable, password) for service, *_rest, variable in apart),
            ),
            group=group,
        ),
    ]


EFFECTS: List[Effect] = [*_general(), *_logins(), *_services(), *_database()]

# ``secrets`` takes the same values by the names of their variables, and any other for one service.
GROUPS["secrets"] = {"storage": {"backend": "s3", "bucket": "another-bucket"}}
EFFECTS.append(
    Effect(
        "secrets",
        {
            **{effect.secret: effect.value for effect in EFFECTS if effect.secret},
            "functions": {"STRIPE_KEY": "sk " + HARD, "PUSH_KEY": LINES},
        },
        (
            *(sight for effect in EFFECTS if effect.secret for sight in effect.sights),
            env("functions", "STRIPE_KEY", "sk " + HARD),
            env("functions", "PUSH_KEY", LINES),
        ),
        group="secrets",
    )
)

# What acts through the file of the gateway. The group is the options that lie under the effect.
GROUPS["envoy"] = {}
GROUPS["envoy with a limit"] = {"limits": {"requests_per_second": 3}}
GROUPS["kong"] = {"gateway": "kong"}
GROUPS["kong with a limit"] = {"gateway": "kong", "limits": {"requests_per_second": 3}}


def _origin(*origins: str) -> Sight:
    """The origins that may call the instance, of Envoy; routes that only its own address may call are left out."""

    def look(view: View) -> Any:
        _name, tree = view.gateway()
        return {
            value
            for path, value in leaves(tree)
            if path[-2:] == ("allow_origin_string_match", "exact") and "routes" not in path
        }

    return Sight("origins in the gateway's file", look, set(origins))


def _networks(expected: Set[str]) -> Sight:
    """The networks that either gateway lets in; parts of the instance's own, whose services call it, are left out."""

    def find(tree: Any) -> Iterator[str]:
        if isinstance(tree, list):
            for value in tree:
                yield from find(value)
        elif isinstance(tree, dict):
            if "address_prefix" in tree:
                yield "{0}/{1}".format(tree["address_prefix"], tree["prefix_len"])
            if tree.get("name") == "ip-restriction":
                yield from tree["config"]["allow"]
            yield from find(list(tree.values()))

    def look(view: View) -> Any:
        own = IPv4Network(view.manifest["subnet"])
        return {network for network in find(view.gateway()[1]) if not IPv4Network(network).subnet_of(own)}

    return Sight("networks in the gateway's file", look, expected)


def _plugin(name: str, key: str, expected: Any, route: str = "") -> Sight:
    """The values of a setting of Kong's plugin of that name: of one route, or of all together."""

    def look(view: View) -> Any:
        _name, tree = view.gateway()
        if route:
            (tree,) = [entry for service in tree["services"] for entry in service["routes"] if entry["name"] == route]
        configs = [plugin["config"] for plugin in tree["plugins"] if plugin["name"] == name]
        return [config.get(key) for config in configs]

    return Sight("{0} of {1} in the gateway's file".format(key, name), look, [expected])


GATEWAY_EFFECTS: List[Effect] = [
    Effect(
        "cors_origins",
        ["https://one.example.com", "https://two.example.com:8443"],
        (_origin("https://one.example.com", "https://two.example.com:8443"),),
        group="envoy",
    ),
    Effect("domain", "db.example.com", (_origin("https://db.example.com"),), group="envoy"),
    Effect(
        "public_url",
        "https://supabase.example.com:8443",
        (_origin("https://supabase.example.com:8443"),),
        group="envoy",
    ),
    Effect("dashboard_username", "boss", (gateway_users("boss"),), group="envoy"),
    Effect(
        "limits.requests_per_second",
        51,
        (
            in_gateway("token_bucket", "tokens_per_fill", expected=[51]),
            in_gateway("token_bucket", "max_tokens", expected=[51]),
            in_gateway("token_bucket", "fill_interval", expected=["1s"]),
        ),
        group="envoy",
    ),
    Effect(
        "limits.burst",
        77,
        (in_gateway("token_bucket", "max_tokens", expected=[77]),),
        group="envoy with a limit",
    ),
    Effect(
        "limits.allow_from",
        ["192.0.2.0/24", "198.51.100.7/32"],
        (_networks({"192.0.2.0/24", "198.51.100.7/32"}),),
        group="envoy",
    ),
    Effect("limits.trusted_proxies", 2, (in_gateway("xff_num_trusted_hops", expected=[2]),), group="envoy"),
    Effect(
        "keys.opaque",
        True,
        (gateway_holds("studio", "SUPABASE_PUBLISHABLE_KEY"), gateway_holds("studio", "SUPABASE_SECRET_KEY")),
        group="envoy",
    ),
    Effect(
        "cors_origins",
        ["https://one.example.com"],
        (_plugin("cors", "origins", ["^https://one\\.example\\.com$"], route="rest"),),
        group="kong",
    ),
    Effect(
        "dashboard_username",
        "boss",
        (in_gateway("basicauth_credentials", "username", expected=["boss"]),),
        group="kong",
    ),
    Effect("limits.requests_per_second", 51, (_plugin("rate-limiting", "second", 51),), group="kong"),
    Effect("limits.burst", 77, (_plugin("rate-limiting", "second", 77),), group="kong with a limit"),
    Effect(
        "limits.allow_from",
        ["192.0.2.0/24", "198.51.100.7/32"],
        (_networks({"192.0.2.0/24", "198.51.100.7/32"}),),
        group="kong",
    ),
    Effect(
        "keys.opaque",
        True,
        (gateway_holds("studio", "SUPABASE_PUBLISHABLE_KEY"), gateway_holds("studio", "SUPABASE_SECRET_KEY")),
        group="kong",
    ),
]
