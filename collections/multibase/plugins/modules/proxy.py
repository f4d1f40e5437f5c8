#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: proxy
short_description: Make the sites of nginx what the instances of a host need
version_added: 0.1.0
description:
  - Gives every instance that has a domain a site of nginx, with its certificate, and the panel and ARA theirs.
  - All sites are tested by C(nginx -t) on a copy before they go live, together, by the rename of one link; nginx is
    reloaded once, and only when something changed.
  - A site that cannot be (a domain that is none or taken, no certificate, refused by nginx) keeps what it had, or is
    left out, and is told of in RV(results); the others go live. The module fails only when nothing can be done at all.
  - nginx has to be installed, and its C(nginx.conf) has to include C(conf.d/*.conf), as the distributions' does.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
    details:
      - What nginx would say to the sites is not known then, and no certificate is ordered.
  diff_mode:
    support: full
    details:
      - The login of a gateway is shown as a fingerprint that differs from run to run.
  idempotent:
    support: full
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  panel_domain:
    description:
      - Domain of the panel. It has no site when this is empty.
    type: str
    default: ""
  ara_domain:
    description:
      - Domain of the records of ARA. They have no site when this is empty.
    type: str
    default: ""
  ara_socket:
    description:
      - The socket that ARA listens on.
    type: path
    default: /run/multibase-ara/ara.sock
  sites:
    description:
      - By name of an instance (C(_panel) and C(_ara) for the two others), settings of its site. These are C(enabled),
        C(aliases), C(certificate), C(certificate_file), C(key_file), C(studio_auth) and C(studio_allow_from).
    type: dict
    default: {}
  certificate:
    description:
      - Where the certificates of sites come from that do not say otherwise. V(none) is for plain HTTP behind a load
        balancer that ends TLS.
    type: str
    choices: [acme, own, self_signed, none]
    default: acme
  own_directory:
    description:
      - Where certificates of one's own lie, as C(NAME/fullchain.pem) and C(NAME/privkey.pem).
    type: path
    default: /etc/nginx/multibase/own
  studio_auth:
    description:
      - Who checks the login to Studio. V(people) asks for one of the people of the host, or for the dashboard login of
        the instance; V(gateway) for the latter only.
    type: str
    choices: [people, gateway]
    default: people
  http_port:
    description:
      - Port for plain HTTP.
    type: int
    default: 80
  https_port:
    description:
      - Port for HTTPS.
    type: int
    default: 443
  trusted:
    description:
      - Addresses and networks of load balancers, which are believed who the client is.
    type: list
    elements: str
    default: []
  proxy_protocol:
    description:
      - Whether load balancers speak the PROXY protocol. Then nobody else can connect.
    type: bool
    default: false
  hsts_seconds:
    description:
      - How long browsers remember to use HTTPS only. 0 says nothing about it.
    type: int
    default: 63072000
  hsts_subdomains:
    description:
      - Whether that goes for names below a domain too.
    type: bool
    default: false
  body_size:
    description:
      - The largest request, but for uploads to Storage, which have no limit here.
    type: str
    default: 100m
  limits:
    description:
      - What one address may ask for. C(requests_per_second) with C(burst), C(auth_per_minute) with C(auth_burst) for
        logins and what is like them, C(login_per_minute) with C(login_burst) for logins of people, and C(connections).
    type: dict
    default: {}
  acme:
    description:
      - How certificates are ordered. C(directory), C(email), C(agree_tos), C(eab_kid), C(dns), C(wildcards),
        C(check_dns), C(retry_seconds).
    type: dict
    default: {}
  eab_hmac_key:
    description:
      - The key of the external account that C(eab_kid) of O(acme) names.
    type: str
    default: ""
  addresses:
    description:
      - Addresses at which the host is reached, besides those of its interfaces.
    type: list
    elements: str
    default: []
  lock_timeout:
    description:
      - Seconds to wait for another run on the same host.
    type: int
    default: 60
seealso:
  - module: multibase.supabase.people
"""

EXAMPLES = r"""
- name: Sites for all instances that have a domain, with certificates of Let's Encrypt
  multibase.supabase.proxy:
    acme:
      email: ops@example.com
      agree_tos: true

- name: One with a certificate of its own, the others self-signed
  multibase.supabase.proxy:
    certificate: self_signed
    sites:
      acme:
        certificate: own
"""

RETURN = r"""
results:
  description: One element per site, sorted by name, those included that could not be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance, C(_panel) or C(_ara).
      type: str
      returned: success
      sample: acme
    domains:
      description: Its domains.
      type: list
      elements: str
      returned: success
      sample: [acme.example.com]
    certificate:
      description: Where its certificate comes from.
      type: str
      returned: success
      sample: acme
    expires:
      description: When the certificate expires. Empty without one.
      type: str
      returned: success
      sample: "2027-02-01T12:00:00Z"
    live:
      description: Whether nginx serves the site, be it what it was before.
      type: bool
      returned: success
      sample: true
    changed:
      description: Whether it changed.
      type: bool
      returned: success
      sample: false
    actions:
      description: What was done.
      type: list
      elements: str
      returned: success
      sample: [certificate ordered, published]
    problem:
      description: What kept the site from being what was declared. Empty when nothing did.
      type: str
      returned: success
      sample: ""
"""

import base64
import os
import re

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _certificates, _lock, _nginx, _proxy
from ansible_collections.multibase.supabase.plugins.module_utils import _proxy_host as host
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._instances import read_existing
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._values import as_boolean

LIMITS = {
    "requests_per_second": 100,
    "burst": 400,
    "auth_per_minute": 10,
    "auth_burst": 20,
    "login_per_minute": 5,
    "login_burst": 10,
    "connections": 500,
}
_ACME = {
    "directory": _certificates.LETS_ENCRYPT,
    "email": "",
    "agree_tos": False,
    "eab_kid": "",
    "dns": {},
    "wildcards": [],
    "check_dns": True,
    "retry_seconds": 3600,
}


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "panel_domain": {"type": "str", "default": ""},
        "ara_domain": {"type": "str", "default": ""},
        "ara_socket": {"type": "path", "default": "/run/multibase-ara/ara.sock"},
        "sites": {"type": "dict", "default": {}},
        "certificate": {"type": "str", "choices": list(_proxy.CERTIFICATES), "default": "acme"},
        "own_directory": {"type": "path", "default": "/etc/nginx/multibase/own"},
        "studio_auth": {"type": "str", "choices": list(_proxy.STUDIO_AUTH), "default": "people"},
        "http_port": {"type": "int", "default": 80},
        "https_port": {"type": "int", "default": 443},
        "trusted": {"type": "list", "elements": "str", "default": []},
        "proxy_protocol": {"type": "bool", "default": False},
        "hsts_seconds": {"type": "int", "default": 63072000},
        "hsts_subdomains": {"type": "bool", "default": False},
        "body_size": {"type": "str", "default": "100m"},
        "limits": {"type": "dict", "default": {}},
        "acme": {"type": "dict", "default": {}},
        "eab_hmac_key": {"type": "str", "default": "", "no_log": True},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "lock_timeout": {"type": "int", "default": 60},
    }


def _whole(value, name, problems):
    if isinstance(value, str) and re.match(r"[0-9]{1,9}\Z", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**6:
        problems.append("{0} {1!r} is no whole number from 1 to 1000000".format(name, value))
        return 1
    return value


def _truth(values, key, problems):
    """Return a setting of ``acme`` as a truth value: inside a dictionary Ansible turns no text into one."""
    value = as_boolean(values[key])
    if value is None:
        problems.append("{0} of acme {1!r} is neither true nor false".format(key, values[key]))
    return value is True


def _settings(params, webroot):
    """Return the settings of all sites. Raises InvalidInput with every mistake."""
    problems = []
    unknown = sorted(set(params["limits"]) - set(LIMITS)) + sorted(set(params["acme"]) - set(_ACME))
    if unknown:
        problems.append("there is no limit, or setting of acme, {0}".format(", ".join(map(str, unknown))))
    limits = {key: _whole(params["limits"].get(key, value), key, problems) for key, value in LIMITS.items()}
    problems += [found for found in map(_proxy.network_problem, params["trusted"]) if found]
    problems += [found for found in map(_proxy.path_problem, (webroot, params["ara_socket"])) if found]
    if not re.match(r"[0-9]{1,6}[kmgKMG]?\Z", params["body_size"]):
        problems.append("body_size {0!r} is no size such as 100m".format(params["body_size"]))
    for port in ("http_port", "https_port"):
        if not 1 <= params[port] <= 65535:
            problems.append("{0} {1} is no port".format(port, params[port]))
    if params["http_port"] == params["https_port"]:
        problems.append("http_port and https_port are the same")
    if params["proxy_protocol"] and not params["trusted"]:
        problems.append("proxy_protocol needs the load balancers' addresses in trusted")
    if params["hsts_seconds"] < 0:
        problems.append("hsts_seconds is below 0")
    if problems:
        raise InvalidInput(problems)
    return _nginx.Settings(
        version=host.nginx_version(host.Paths().program),
        ipv6=os.path.exists("/proc/net/if_inet6"),
        http_port=params["http_port"],
        https_port=params["https_port"],
        webroot=webroot,
        trusted=tuple(params["trusted"]),
        proxy_protocol=params["proxy_protocol"],
        hsts_seconds=params["hsts_seconds"],
        hsts_subdomains=params["hsts_subdomains"],
        body_size=params["body_size"],
        **limits,
    )


def _acme(given, eab_hmac_key, webroot):
    """Return how certificates are ordered."""
    values = {**_ACME, **{key: value for key, value in given.items() if value is not None}}
    wildcards = [str(name) for name in values["wildcards"]]
    problems = [found for found in map(_proxy.domain_problem, wildcards) if found]
    agreed = _truth(values, "agree_tos", problems)
    _truth(values, "check_dns", problems)
    if not isinstance(values["dns"], dict):
        problems.append("dns of acme is no dictionary")
    elif values["dns"] and not re.match(r"[a-z0-9-]{1,40}\Z", str(values["dns"].get("plugin", ""))):
        problems.append("dns of acme names no plugin such as cloudflare")
    if problems:
        raise InvalidInput(problems)
    return _certificates.Acme(
        directory=str(values["directory"]),
        email=str(values["email"]),
        agreed=agreed,
        webroot=webroot,
        eab_kid=str(values["eab_kid"]),
        eab_hmac_key=eab_hmac_key,
        dns=values["dns"],
        wildcards=tuple(wildcards),
    )


def instances(layout):
    """Return of each instance what its site needs, and by name the login that its gateway wants."""
    found, logins = [], {}
    for name in layout.instance_names():
        try:
            existing = read_existing(layout, name)
            manifest, variables = existing.manifest, existing.variables
            user = variables.get("DASHBOARD_USERNAME", "")
            found.append(
                {
                    "name": name,
                    "url": manifest["urls"].get("api", ""),
                    "port": manifest["ports"]["gateway_http"],
                    "bind_address": manifest["bind_address"],
                    "studio": "studio" in manifest["services"],
                    # What could not stand in nginx's configuration is left to the gateway alone.
                    "dashboard_user": user if re.match(r"[A-Za-z0-9._@-]{1,64}\Z", user) else "",
                }
            )
            login = "{0}:{1}".format(user, variables.get("DASHBOARD_PASSWORD", ""))
            logins[name] = base64.b64encode(login.encode("utf-8")).decode("ascii")
        except MultibaseError as error:
            found.append({"name": name, "problem": str(error)})
        except KeyError as error:
            found.append({"name": name, "problem": "its manifest lacks {0}".format(error)})
    return found, logins


def converge(params, check_mode):
    """Bring the sites to what they should be; return what the module returns."""
    layout = Layout(os.path.abspath(params["root"]))
    webroot = os.path.join(layout.root, "www", "acme")
    settings, acme = _settings(params, webroot), _acme(params["acme"], params["eab_hmac_key"], webroot)
    paths = host.Paths(state=os.path.join(layout.state, "proxy"))
    given = {**_ACME, **{key: value for key, value in params["acme"].items() if value is not None}}
    problems = []
    retry = _whole(given["retry_seconds"], "retry_seconds", problems)
    if problems:
        raise InvalidInput(problems)
    proxy = host.Proxy(
        paths=paths,
        settings=settings,
        acme=acme,
        addresses=params["addresses"],
        check_dns=_truth(given, "check_dns", problems),
        retry_seconds=retry,
        check_mode=check_mode,
    )
    extra = {}
    if params["panel_domain"]:
        extra[_proxy.PANEL] = "{0}={1}".format(params["panel_domain"], os.path.join(layout.root, "www", "panel"))
    if params["ara_domain"]:
        extra[_proxy.ARA] = "{0}={1}".format(params["ara_domain"], params["ara_socket"])
    defaults = _proxy.Defaults(params["certificate"], params["studio_auth"], params["own_directory"])
    if check_mode:
        found, logins = instances(layout)
        return proxy.converge(_proxy.plan(found, extra, params["sites"], defaults, proxy.live_domains()), logins)
    for directory in (paths.base, paths.state):
        os.makedirs(directory, mode=0o700 if directory == paths.state else 0o755, exist_ok=True)
    with _lock.exclusive(os.path.join(layout.state, "locks", "_proxy.lock"), params["lock_timeout"]):
        found, logins = instances(layout)
        plan = _proxy.plan(found, extra, params["sites"], defaults, proxy.live_domains())
        return proxy.converge(plan, logins)


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        outcome = converge(module.params, module.check_mode)
    except MultibaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or module.params["root"], error.strerror or error))
    for result in outcome.results:
        if result.problem:
            module.warn("site {0}: {1}".format(result.name, result.problem))
    answer = {"changed": outcome.changed, "results": [result.as_dict() for result in outcome.results]}
    if module._diff:
        answer["diff"] = outcome.diff
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
