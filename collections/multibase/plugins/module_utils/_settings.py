# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Every option of an instance, once: its type, what it is when nobody says otherwise, and the variable it becomes.

The argument spec, the defaults, the checks of single values, the variables of ``.env`` and ``env/<service>.env``, the
modules' documentation and docs/options.md all come from ``SETTINGS``. An option whose value has to be worked out
(sizes, addresses, images, the gateway's file) has no ``variable`` here; ``_spec`` and ``_render`` know what it means.

Names and defaults of the services' variables are upstream's (self-hosted 0.8.2) and those of the services' own
configuration (GoTrue 2.196, Realtime 2.134, PostgREST 14, Storage 1.74).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

DEFAULT_RELEASE = "0.8.2"


@dataclass(frozen=True)
class Setting:
    """One option.

    ``option`` is its path (``auth.jwt_expiry``), ``kind`` one of bool, int, number, str, list (of str), dict, raw.
    ``default`` is what holds when it is not given; None means that there is none, and then nothing is written.
    ``variable`` is set in ``.env``, or in ``env/<service>.env`` when ``service`` is named. ``shape`` names the check in
    ``_values`` that a text has to pass. ``secret`` values come from the user, are never recorded and never shown.
    ``otherwise`` says in words what holds when it is not given and that is no constant.
    """

    option: str
    kind: str
    about: str
    default: Any = None
    variable: str = ""
    service: str = ""
    choices: Tuple[str, ...] = ()
    low: Optional[int] = None
    high: Optional[int] = None
    shape: str = ""
    secret: bool = False
    otherwise: str = ""

    @property
    def path(self) -> Tuple[str, ...]:
        """The option's path, taken apart."""
        return tuple(self.option.split("."))


GROUPS: Dict[str, str] = {
    "auth": "Logins.",
    "auth.captcha": "A captcha before sign-up and login.",
    "auth.hooks": "Functions of the database or of the web that Auth calls.",
    "auth.mail": "The mails that Auth sends.",
    "auth.mail.paths": "The path of the link in each kind of mail, below the public URL.",
    "auth.mail.subjects": "The subject of each kind of mail.",
    "auth.mail.templates": "The URL of the template of each kind of mail.",
    "auth.mfa": "Second factors.",
    "auth.providers": "Logins at others (OAuth). A provider that is named is enabled.",
    "auth.rate_limits": "How often something may be done. With one of these Auth knows clients by C(X-Forwarded-For).",
    "auth.saml": "Single sign-on by SAML.",
    "auth.sessions": "How long a login lasts.",
    "auth.sms": "Logins by telephone.",
    "auth.sms.messagebird": "The account at MessageBird.",
    "auth.sms.textlocal": "The account at Textlocal.",
    "auth.sms.twilio": "The account at Twilio.",
    "auth.sms.twilio_verify": "The account at Twilio Verify.",
    "auth.sms.vonage": "The account at Vonage.",
    "database": "Postgres.",
    "functions": "Edge Functions.",
    "imgproxy": "The service that resizes images.",
    "keys": "Kinds of API keys beside the two that every instance has.",
    "limits": "Whom the gateway lets in, and how often.",
    "pooler": "The connection pooler.",
    "realtime": "Realtime. Its limits hold for the instance.",
    "rest": "The REST interface.",
    "smtp": "The mail server that Auth sends through. The role's C(multibase_smtp) lies under it.",
    "storage": "The storage service.",
    "storage.s3": "The bucket, when O(instances[].storage.backend) is V(s3).",
    "studio": "What Studio shows.",
}


def group_about(path: str) -> str:
    """Return what a group of options is about."""
    if path in GROUPS:
        return GROUPS[path]
    kind, name = path.rsplit(".", 1)
    return {"auth.hooks": "The hook C({0}).", "auth.providers": "Logins at C({0})."}[kind].format(name)


OAUTH_PROVIDERS: Tuple[str, ...] = (
    "apple",
    "azure",
    "bitbucket",
    "discord",
    "facebook",
    "figma",
    "fly",
    "github",
    "gitlab",
    "google",
    "kakao",
    "keycloak",
    "linkedin_oidc",
    "notion",
    "slack_oidc",
    "snapchat",
    "spotify",
    "twitch",
    "twitter",
    "workos",
    "x",
    "zoom",
)
HOOKS: Tuple[str, ...] = (
    "before_user_created",
    "custom_access_token",
    "mfa_verification_attempt",
    "password_verification_attempt",
    "send_email",
    "send_sms",
)
MAILS: Tuple[str, ...] = ("confirmation", "email_change", "invite", "magic_link", "reauthentication", "recovery")


def _general() -> List[Setting]:
    return [
        Setting("release", "str", "Release of the stack, a directory of O(template_root).", DEFAULT_RELEASE),
        Setting(
            "image_set",
            "str",
            "Which images run: upstream's, or those of this project's test hosts.",
            "upstream",
            choices=("upstream", "sandbox"),
        ),
        Setting("image_registry", "str", "Registry or mirror to take all images from, C(host[:port][/path]).", ""),
        Setting("images", "dict", "Image references of single services, by service.", {}),
        Setting(
            "services",
            "dict",
            "Services to switch off or on, by service. C(db) and C(api-gw) cannot be switched off; C(analytics), "
            "C(vector) and C(pgbouncer) are off when not named.",
            {},
        ),
        Setting(
            "blueprint",
            "str",
            "Name of a set of options in O(blueprints) that lies under those given here and over O(defaults).",
            "",
        ),
        Setting(
            "environment",
            "str",
            "What the instance is for, as C(production). Inventories group by it.",
            "",
            shape="tenant",
        ),
        Setting(
            "labels", "dict", "Words of your own about the instance, name to value. They are shown and searched.", {}
        ),
        Setting(
            "size",
            "raw",
            "What all services share: V(small) is 1 processor and 2 GiB of memory, V(medium) 2 and 4 GiB, V(large) "
            "4 and 8 GiB; or a dictionary such as C({cpus: 1.5, memory: 3g}).",
            "medium",
        ),
        Setting(
            "cpu_burst",
            "bool",
            "Whether a service may use processors that the others of the instance leave idle. V(false) makes the "
            "limits of all services add up to O(instances[].size), which leaves each of them a fraction of one.",
            True,
        ),
        Setting("gateway", "str", "Which gateway runs.", "envoy", choices=("envoy", "kong")),
        Setting("bind_address", "str", "IPv4 address of the host that the ports are bound to.", "127.0.0.1"),
        Setting(
            "expose",
            "list",
            "Services to publish on a port of their own besides gateway and pooler. V(studio) and V(analytics) have no "
            "login of their own there.",
            [],
            choices=("analytics", "postgres", "studio"),
        ),
        Setting(
            "domain",
            "str",
            "Name under which clients reach the gateway by HTTPS.",
            "",
            shape="domain",
        ),
        Setting(
            "public_url",
            "str",
            "Address under which clients reach the gateway. It goes before O(instances[].domain).",
            "",
            otherwise="C(https://) and O(instances[].domain), or the gateway's port on the loopback address",
        ),
        Setting(
            "site_url",
            "str",
            "Address of the application that users log in to.",
            "",
            otherwise="O(instances[].public_url)",
        ),
        Setting("redirect_urls", "list", "Further addresses that a login may return to.", []),
        Setting(
            "cors_origins",
            "list",
            "Origins that browsers may call the gateway from. V(*) allows every origin.",
            [],
            otherwise="the origins of O(instances[].public_url), O(instances[].site_url), O(instances[].redirect_urls)",
        ),
        Setting(
            "dashboard_username",
            "str",
            "User name of the dashboard.",
            "supabase",
            "DASHBOARD_USERNAME",
            shape="username",
        ),
        Setting(
            "health_interval",
            "str",
            "Time between two health checks of a running service.",
            "30s",
            "MULTIBASE_HEALTH_INTERVAL",
            shape="interval",
        ),
        Setting(
            "docker_socket",
            "str",
            "The Engine's socket, which the log collector (C(vector)) reads.",
            "/var/run/docker.sock",
            "DOCKER_SOCKET_LOCATION",
            shape="path",
        ),
    ]


def _keys_and_limits() -> List[Setting]:
    return [
        Setting(
            "keys.asymmetric",
            "bool",
            "An ES256 pair: Auth signs logins with it, and its public half is at the JWKS.",
            False,
        ),
        Setting(
            "keys.opaque", "bool", "Publishable and secret keys (C(sb_...)) beside the anon and service keys.", False
        ),
        Setting(
            "limits.requests_per_second",
            "int",
            "Requests that the gateway takes in a second. V(0) is no limit.",
            0,
            low=0,
            high=1000000,
        ),
        Setting(
            "limits.burst",
            "int",
            "Requests that it takes at once.",
            0,
            low=0,
            high=1000000,
            otherwise="O(instances[].limits.requests_per_second)",
        ),
        Setting(
            "limits.allow_from",
            "list",
            "Networks that may use the gateway, as C(192.0.2.0/24).",
            [],
            otherwise="every address",
        ),
        Setting(
            "limits.trusted_proxies",
            "int",
            "Proxies in front of the gateway whose C(X-Forwarded-For) is believed.",
            0,
            low=0,
            high=10,
        ),
    ]


def _auth() -> List[Setting]:
    def optional(name: str, kind: str, about: str, variable: str, **more: Any) -> Setting:
        return Setting("auth." + name, kind, about, None, "GOTRUE_" + variable, "auth", **more)

    settings = [
        Setting("auth.disable_signup", "bool", "Whether nobody may sign up.", False, "DISABLE_SIGNUP"),
        Setting(
            "auth.email_signup", "bool", "Whether users may log in with an e-mail address.", True, "ENABLE_EMAIL_SIGNUP"
        ),
        Setting(
            "auth.email_autoconfirm",
            "bool",
            "Whether addresses count as confirmed at once.",
            False,
            "ENABLE_EMAIL_AUTOCONFIRM",
        ),
        Setting("auth.anonymous_users", "bool", "Whether there are anonymous users.", False, "ENABLE_ANONYMOUS_USERS"),
        Setting(
            "auth.phone_signup",
            "bool",
            "Whether users may log in by telephone. Upstream has it on; it needs an SMS provider.",
            False,
            "ENABLE_PHONE_SIGNUP",
        ),
        Setting(
            "auth.phone_autoconfirm",
            "bool",
            "Whether numbers count as confirmed at once.",
            False,
            "ENABLE_PHONE_AUTOCONFIRM",
        ),
        Setting(
            "auth.jwt_expiry", "int", "Seconds that an access token is valid.", 3600, "JWT_EXPIRY", low=60, high=604800
        ),
        optional(
            "secure_email_change",
            "bool",
            "Whether both addresses confirm a change.",
            "MAILER_SECURE_EMAIL_CHANGE_ENABLED",
        ),
        optional(
            "password_min_length",
            "int",
            "Characters that a password has at least.",
            "PASSWORD_MIN_LENGTH",
            low=6,
            high=72,
        ),
        optional(
            "password_required_characters",
            "str",
            "Sets of characters of which a password needs one each, as C(abc:ABC:123).",
            "PASSWORD_REQUIRED_CHARACTERS",
        ),
        optional(
            "refresh_token_rotation",
            "bool",
            "Whether a refresh token is valid once.",
            "SECURITY_REFRESH_TOKEN_ROTATION_ENABLED",
        ),
        optional(
            "refresh_token_reuse_interval",
            "int",
            "Seconds in which it may be used again all the same.",
            "SECURITY_REFRESH_TOKEN_REUSE_INTERVAL",
            low=0,
            high=3600,
        ),
        optional(
            "manual_linking", "bool", "Whether users may link logins themselves.", "SECURITY_MANUAL_LINKING_ENABLED"
        ),
        optional(
            "reauthenticate_for_password",
            "bool",
            "Whether a change of password needs a recent login.",
            "SECURITY_UPDATE_PASSWORD_REQUIRE_REAUTHENTICATION",
        ),
        optional("captcha.enabled", "bool", "Whether a captcha is asked for.", "SECURITY_CAPTCHA_ENABLED"),
        optional(
            "captcha.provider", "str", "Who makes it.", "SECURITY_CAPTCHA_PROVIDER", choices=("hcaptcha", "turnstile")
        ),
        optional("captcha.secret", "str", "The key of your account there.", "SECURITY_CAPTCHA_SECRET", secret=True),
        optional(
            "sessions.timebox", "str", "Time after which a login ends, as C(24h).", "SESSIONS_TIMEBOX", shape="duration"
        ),
        optional(
            "sessions.inactivity_timeout",
            "str",
            "Time without use after which it ends, as C(8h).",
            "SESSIONS_INACTIVITY_TIMEOUT",
            shape="duration",
        ),
        optional(
            "sessions.single_per_user", "bool", "Whether a new login ends the older ones.", "SESSIONS_SINGLE_PER_USER"
        ),
        optional(
            "mail.otp_expiry", "int", "Seconds that a code or link is valid.", "MAILER_OTP_EXP", low=60, high=604800
        ),
        optional("mail.otp_length", "int", "Digits of a code.", "MAILER_OTP_LENGTH", low=6, high=10),
        optional(
            "mail.max_frequency",
            "str",
            "Time between two mails to one user, as C(60s).",
            "SMTP_MAX_FREQUENCY",
            shape="duration",
        ),
        optional("mfa.totp_enroll", "bool", "Whether users may add an authenticator app.", "MFA_TOTP_ENROLL_ENABLED"),
        optional("mfa.totp_verify", "bool", "Whether they may use one.", "MFA_TOTP_VERIFY_ENABLED"),
        optional("mfa.phone_enroll", "bool", "Whether users may add a telephone.", "MFA_PHONE_ENROLL_ENABLED"),
        optional("mfa.phone_verify", "bool", "Whether they may use one.", "MFA_PHONE_VERIFY_ENABLED"),
        optional(
            "mfa.webauthn_enroll", "bool", "Whether users may add a security key.", "MFA_WEB_AUTHN_ENROLL_ENABLED"
        ),
        optional("mfa.webauthn_verify", "bool", "Whether they may use one.", "MFA_WEB_AUTHN_VERIFY_ENABLED"),
        optional(
            "mfa.webauthn_rp_id",
            "str",
            "Domain that security keys are bound to.",
            "WEBAUTHN_RP_ID",
            shape="host",
            otherwise="the host of O(instances[].site_url) once security keys are on",
        ),
        optional(
            "mfa.webauthn_rp_name",
            "str",
            "Name that users see when they add one.",
            "WEBAUTHN_RP_DISPLAY_NAME",
            otherwise="the name of the instance once security keys are on",
        ),
        optional(
            "mfa.webauthn_rp_origins",
            "list",
            "Origins of the pages that may ask for one.",
            "WEBAUTHN_RP_ORIGINS",
            shape="origin",
            otherwise="the origin of O(instances[].site_url) once security keys are on",
        ),
        optional(
            "mfa.max_enrolled_factors",
            "int",
            "Second factors that a user has at most.",
            "MFA_MAX_ENROLLED_FACTORS",
            low=1,
            high=100,
        ),
        optional("saml.enabled", "bool", "Whether SAML is on. It needs a key.", "SAML_ENABLED"),
        optional(
            "saml.private_key",
            "str",
            "RSA key of at least 2048 bits, PKCS#1 in base64 on one line.",
            "SAML_PRIVATE_KEY",
            secret=True,
            shape="base64",
        ),
        optional(
            "saml.allow_encrypted_assertions",
            "bool",
            "Whether assertions may be encrypted.",
            "SAML_ALLOW_ENCRYPTED_ASSERTIONS",
        ),
        optional(
            "saml.relay_state_validity",
            "str",
            "How long a login may take, as C(2m).",
            "SAML_RELAY_STATE_VALIDITY_PERIOD",
            shape="duration",
        ),
        optional(
            "saml.rate_limit_assertion",
            "int",
            "Assertions that one client may send in five minutes.",
            "SAML_RATE_LIMIT_ASSERTION",
            low=1,
            high=100000,
        ),
        optional(
            "saml.external_url",
            "str",
            "Address in the metadata, when it is not that of Auth.",
            "SAML_EXTERNAL_URL",
            shape="url",
        ),
        optional(
            "sms.provider",
            "str",
            "Who sends messages.",
            "SMS_PROVIDER",
            choices=("messagebird", "textlocal", "twilio", "twilio_verify", "vonage"),
        ),
        optional("sms.otp_expiry", "int", "Seconds that a code is valid.", "SMS_OTP_EXP", low=10, high=86400),
        optional("sms.otp_length", "int", "Digits of a code.", "SMS_OTP_LENGTH", low=6, high=10),
        optional(
            "sms.max_frequency",
            "str",
            "Time between two messages to one number, as C(60s).",
            "SMS_MAX_FREQUENCY",
            shape="duration",
        ),
        optional("sms.template", "str", "The text, with C({{ .Code }}) in it.", "SMS_TEMPLATE"),
        optional(
            "sms.test_otp",
            "str",
            "Numbers with fixed codes for tests, as C(15555550100:123456,15555550101:654321).",
            "SMS_TEST_OTP",
            secret=True,
        ),
        optional("sms.twilio.account_sid", "str", "Account.", "SMS_TWILIO_ACCOUNT_SID"),
        optional(
            "sms.twilio.message_service_sid", "str", "Messaging service, or number.", "SMS_TWILIO_MESSAGE_SERVICE_SID"
        ),
        optional("sms.twilio.content_sid", "str", "Template.", "SMS_TWILIO_CONTENT_SID"),
        optional("sms.twilio.auth_token", "str", "Token.", "SMS_TWILIO_AUTH_TOKEN", secret=True),
        optional("sms.twilio_verify.account_sid", "str", "Account.", "SMS_TWILIO_VERIFY_ACCOUNT_SID"),
        optional(
            "sms.twilio_verify.message_service_sid", "str", "Verify service.", "SMS_TWILIO_VERIFY_MESSAGE_SERVICE_SID"
        ),
        optional("sms.twilio_verify.auth_token", "str", "Token.", "SMS_TWILIO_VERIFY_AUTH_TOKEN", secret=True),
        optional("sms.messagebird.originator", "str", "Sender.", "SMS_MESSAGEBIRD_ORIGINATOR"),
        optional("sms.messagebird.access_key", "str", "Key.", "SMS_MESSAGEBIRD_ACCESS_KEY", secret=True),
        optional("sms.textlocal.sender", "str", "Sender.", "SMS_TEXTLOCAL_SENDER"),
        optional("sms.textlocal.api_key", "str", "Key.", "SMS_TEXTLOCAL_API_KEY", secret=True),
        optional("sms.vonage.api_key", "str", "Key, which is a name here.", "SMS_VONAGE_API_KEY", secret=True),
        optional("sms.vonage.from", "str", "Sender.", "SMS_VONAGE_FROM"),
        optional("sms.vonage.api_secret", "str", "Secret.", "SMS_VONAGE_API_SECRET", secret=True),
    ]
    for mail in ("confirmation", "email_change", "invite", "recovery"):
        settings.append(
            Setting(
                "auth.mail.paths." + mail,
                "str",
                "Path in the mail of this kind.",
                "/auth/v1/verify",
                "MAILER_URLPATHS_" + mail.upper(),
                shape="path",
            )
        )
    for mail in MAILS:
        settings.append(optional("mail.subjects." + mail, "str", "Subject.", "MAILER_SUBJECTS_" + mail.upper()))
        settings.append(
            optional(
                "mail.templates." + mail,
                "str",
                "URL of the template.",
                "MAILER_TEMPLATES_" + mail.upper(),
                shape="link",
            )
        )
    for name, what in (
        ("anonymous_users", "Anonymous users that one client may make in an hour."),
        ("email_sent", "Mails sent in an hour, for all clients together."),
        ("otp", "Codes and links that one client may ask for in five minutes."),
        ("sms_sent", "Text messages sent in an hour, for all clients together."),
        ("sso", "Logins by SAML that one client may begin in five minutes."),
        ("token_refresh", "Tokens that one client may renew in five minutes."),
        ("verify", "Codes and links that one client may try in five minutes."),
    ):
        settings.append(
            optional("rate_limits." + name, "int", what, "RATE_LIMIT_" + name.upper(), low=1, high=10000000)
        )
    for hook in HOOKS:
        prefix = "HOOK_" + hook.upper()
        settings += [
            optional(
                "hooks.{0}.enabled".format(hook),
                "bool",
                "Whether it is called.",
                prefix + "_ENABLED",
                otherwise="V(true) when its C(uri) is given",
            ),
            optional(
                "hooks.{0}.uri".format(hook),
                "str",
                "C(pg-functions://postgres/SCHEMA/FUNCTION) or an HTTPS URL (HTTP on this machine only).",
                prefix + "_URI",
                shape="hook",
            ),
            optional(
                "hooks.{0}.secrets".format(hook),
                "str",
                "Keys that calls are signed with, C(v1,whsec_...), separated by C(|).",
                prefix + "_SECRETS",
                secret=True,
                shape="hook_secrets",
            ),
        ]
    for provider in OAUTH_PROVIDERS:
        prefix = "EXTERNAL_" + provider.upper()
        settings += [
            optional(
                "providers.{0}.enabled".format(provider),
                "bool",
                "Whether this login is offered.",
                prefix + "_ENABLED",
                otherwise="V(true) when anything of it is given",
            ),
            optional(
                "providers.{0}.client_id".format(provider),
                "str",
                "Client id (several separated by commas).",
                prefix + "_CLIENT_ID",
            ),
            optional("providers.{0}.secret".format(provider), "str", "Client secret.", prefix + "_SECRET", secret=True),
            optional(
                "providers.{0}.redirect_uri".format(provider),
                "str",
                "Where the provider sends users back to.",
                prefix + "_REDIRECT_URI",
                shape="link",
                otherwise="C(/auth/v1/callback) below the public URL",
            ),
            optional(
                "providers.{0}.url".format(provider),
                "str",
                "Address of a provider that you run yourself.",
                prefix + "_URL",
                shape="link",
            ),
            optional(
                "providers.{0}.skip_nonce_check".format(provider),
                "bool",
                "Whether tokens without nonce are taken.",
                prefix + "_SKIP_NONCE_CHECK",
            ),
            optional(
                "providers.{0}.email_optional".format(provider),
                "bool",
                "Whether accounts without address are taken.",
                prefix + "_EMAIL_OPTIONAL",
            ),
        ]
    return settings


def _services() -> List[Setting]:
    return [
        Setting("smtp.host", "str", "Name of the server. Without it no mail is sent.", "", "SMTP_HOST"),
        Setting("smtp.port", "int", "Its port.", 587, "SMTP_PORT", low=1, high=65535),
        Setting("smtp.user", "str", "User to log in as.", "", "SMTP_USER"),
        Setting("smtp.password", "str", "Password of the user.", None, "SMTP_PASS", secret=True),
        Setting("smtp.admin_email", "str", "Address that mails come from.", "", "SMTP_ADMIN_EMAIL"),
        Setting("smtp.sender_name", "str", "Name that mails come from.", "", otherwise="the name of the instance"),
        Setting("studio.organization", "str", "Name of the organization.", "Multibase", "STUDIO_DEFAULT_ORGANIZATION"),
        Setting("studio.project", "str", "Name of the project.", "", otherwise="the name of the instance"),
        Setting("studio.openai_api_key", "str", "Key for Studio's assistant.", None, "OPENAI_API_KEY", secret=True),
        Setting(
            "pooler.pool_size",
            "int",
            "Connections to the database for each user and mode.",
            20,
            "POOLER_DEFAULT_POOL_SIZE",
            low=1,
            high=1000,
        ),
        Setting("pooler.max_clients", "int", "Clients at a time.", 100, "POOLER_MAX_CLIENT_CONN", low=1, high=100000),
        Setting(
            "pooler.db_pool_size",
            "int",
            "Connections that Supavisor keeps for its own tables.",
            5,
            "POOLER_DB_POOL_SIZE",
            low=1,
            high=1000,
        ),
        Setting(
            "pooler.tenant_id",
            "str",
            "Tenant: users log in as C(postgres.TENANT).",
            "",
            shape="tenant",
            otherwise="the name of the instance",
        ),
        Setting(
            "rest.schemas",
            "list",
            "Schemas that it offers.",
            ["public", "graphql_public"],
            "PGRST_DB_SCHEMAS",
            shape="schema",
        ),
        Setting(
            "rest.extra_search_path",
            "list",
            "Schemas that are searched but not offered.",
            ["public"],
            "PGRST_DB_EXTRA_SEARCH_PATH",
            shape="schema",
        ),
        Setting(
            "rest.max_rows", "int", "Rows that an answer has at most.", 1000, "PGRST_DB_MAX_ROWS", low=1, high=10000000
        ),
        Setting(
            "rest.pool_size", "int", "Connections to the database.", None, "PGRST_DB_POOL", "rest", low=1, high=1000
        ),
        Setting(
            "realtime.max_concurrent_users",
            "int",
            "Connected clients.",
            None,
            "TENANT_MAX_CONCURRENT_USERS",
            "realtime",
            low=1,
            high=10000000,
        ),
        Setting(
            "realtime.max_events_per_second",
            "int",
            "Messages in a second.",
            None,
            "TENANT_MAX_EVENTS_PER_SECOND",
            "realtime",
            low=1,
            high=10000000,
        ),
        Setting(
            "realtime.max_bytes_per_second",
            "int",
            "Bytes in a second.",
            None,
            "TENANT_MAX_BYTES_PER_SECOND",
            "realtime",
            low=1,
            high=1000000000,
        ),
        Setting(
            "realtime.max_channels_per_client",
            "int",
            "Channels of a client.",
            None,
            "TENANT_MAX_CHANNELS_PER_CLIENT",
            "realtime",
            low=1,
            high=100000,
        ),
        Setting(
            "realtime.max_joins_per_second",
            "int",
            "Joins in a second.",
            None,
            "TENANT_MAX_JOINS_PER_SECOND",
            "realtime",
            low=1,
            high=1000000,
        ),
        Setting(
            "realtime.db_pool_size",
            "int",
            "Connections to the database for its own tables.",
            None,
            "DB_POOL_SIZE",
            "realtime",
            low=1,
            high=1000,
        ),
        Setting(
            "storage.file_size_limit",
            "int",
            "Bytes that an uploaded file has at most.",
            52428800,
            "STORAGE_FILE_SIZE_LIMIT",
            low=1,
            high=5 * 1024**4,
        ),
        Setting(
            "storage.backend",
            "str",
            "Where files lie: in the instance's directory, or in a bucket, named in O(instances[].storage.bucket).",
            "file",
            choices=("file", "s3"),
        ),
        Setting(
            "storage.bucket",
            "str",
            "Bucket, or the directory's name. It cannot be changed later.",
            "stub",
            "GLOBAL_S3_BUCKET",
            shape="bucket",
        ),
        Setting(
            "storage.region",
            "str",
            "Region of the bucket, which the S3 protocol endpoint names too.",
            "stub",
            "REGION",
            shape="bucket",
        ),
        Setting(
            "storage.tenant_id",
            "str",
            "First part of the path of every file. It cannot be changed later.",
            "stub",
            "STORAGE_TENANT_ID",
            shape="tenant",
        ),
        Setting(
            "storage.s3.endpoint",
            "str",
            "Address of the S3 service.",
            "",
            "STORAGE_S3_ENDPOINT",
            shape="url",
            otherwise="AWS",
        ),
        Setting(
            "storage.s3.force_path_style",
            "bool",
            "Whether the bucket stands in the path, not in the host name.",
            True,
            "STORAGE_S3_FORCE_PATH_STYLE",
        ),
        Setting(
            "storage.s3.allow_tags",
            "bool",
            "Whether resumable uploads may set tags. Cloudflare R2 does not know them.",
            True,
            "STORAGE_S3_ALLOW_TAGS",
        ),
        Setting("storage.s3.access_key_id", "str", "Key.", None, "STORAGE_S3_ACCESS_KEY_ID", secret=True),
        Setting(
            "storage.s3.secret_access_key",
            "str",
            "Secret of the key.",
            None,
            "STORAGE_S3_SECRET_ACCESS_KEY",
            secret=True,
        ),
        Setting("imgproxy.auto_webp", "bool", "Whether browsers that can get WebP.", True, "IMGPROXY_AUTO_WEBP"),
        Setting(
            "imgproxy.max_megapixels",
            "number",
            "Pixels, in millions, that a picture has at most.",
            16.8,
            "IMGPROXY_MAX_SRC_RESOLUTION",
            low=1,
            high=1000,
        ),
        Setting(
            "functions.verify_jwt", "bool", "Whether every call needs a valid token.", False, "FUNCTIONS_VERIFY_JWT"
        ),
        Setting("database.version", "int", "Major version of Postgres. It cannot be changed here later.", 17),
        Setting(
            "database.host",
            "str",
            "Host of a Postgres of your own; then none runs in the instance. It needs "
            "Supabase's roles and schemas, and O(instances[].database.password).",
            "",
            shape="host",
        ),
        Setting("database.port", "int", "Its port.", 5432, low=1, high=65535),
        Setting(
            "database.name",
            "str",
            "Name of the database there. In an instance's own Postgres it is C(postgres).",
            "postgres",
            shape="identifier",
        ),
        Setting("database.password", "str", "Password of the roles there.", None, secret=True),
    ]


def _free() -> List[Setting]:
    return [
        Setting(
            "env",
            "dict",
            "Variables that Multibase does not know. C(NAME: value) is set in C(.env), for your own "
            "C(docker-compose.override.yml); C({service: {NAME: value}}) reaches that service's containers. Names that "
            "look like a secret are refused here; they belong in O(instances[].secrets).",
            {},
        ),
        Setting(
            "secrets",
            "dict",
            "Secrets of yours: C(NAME: value) for those that have an option, by the name of their variable "
            "(C(SMTP_PASS)), and C({service: {NAME: value}}) for any other, as C({functions: {STRIPE_KEY: ...}}).",
            None,
            secret=True,
        ),
        Setting(
            "secrets_from",
            "str",
            "File with what O(instances[].secrets) would hold: a YAML file on the controller, plain or encrypted with "
            "Ansible Vault, or C(host:/PATH) for a JSON file on the host that only its owner can read.",
            "",
        ),
    ]


SETTINGS: Tuple[Setting, ...] = tuple(_general() + _keys_and_limits() + _auth() + _services() + _free())
BY_OPTION: Dict[str, Setting] = {setting.option: setting for setting in SETTINGS}
# Secrets of the user by variable: where each is written ("" is .env), and the option that it has.
USER_SECRETS: Dict[str, Setting] = {
    setting.variable: setting for setting in SETTINGS if setting.secret and setting.variable
}


def value_at(options: Mapping[str, Any], path: Tuple[str, ...]) -> Any:
    """Return what ``options`` hold at ``path``, None when they hold nothing there."""
    value: Any = options
    for part in path:
        try:
            value = value[part]
        except (KeyError, TypeError):
            return None
    return value


def put_at(options: Dict[str, Any], path: Tuple[str, ...], value: Any) -> None:
    """Set what ``options`` hold at ``path``, making the groups on the way."""
    for part in path[:-1]:
        options = options.setdefault(part, {})
    options[path[-1]] = value


def leaves(options: Mapping[str, Any], below: str = "") -> Iterator[Tuple[str, Any]]:
    """Yield the options that are given, as (path, value). A dictionary that is an option itself is a value."""
    for key, value in options.items():
        path = below + key
        if isinstance(value, Mapping) and path not in BY_OPTION:
            yield from leaves(value, path + ".")
        else:
            yield path, value


def _defaults() -> Dict[str, Any]:
    result: Dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.default is not None:
            put_at(result, setting.path, setting.default)
    return result


# What an option is when nobody says otherwise; options without a default are not in it.
DEFAULTS: Dict[str, Any] = _defaults()


def as_text(value: Any) -> str:
    """Return a value as it is written to an environment file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
