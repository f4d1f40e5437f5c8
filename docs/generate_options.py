#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/options.md from the table that the argument spec is made from; --check says whether it is up to date.

Run it with the Python of .venv: the collection is found through the path below.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.multibase.supabase.plugins.doc_fragments.instance_options import default_of  # noqa: E402 - after sys.path
from ansible_collections.multibase.supabase.plugins.module_utils._settings import (  # noqa: E402 - after sys.path
    HOOKS,
    OAUTH_PROVIDERS,
    SETTINGS,
    Setting,
    group_about,
)

PAGE = ROOT / "docs" / "options.md"
HEAD = """# Options of an instance

Made by `docs/generate_options.py` from the argument spec; `make test` fails when it is out of date.

Options stand in an entry of `multibase_instances`, in `multibase_defaults` (under every instance) and in a blueprint of
`multibase_blueprints` (under the instances that name it, over the defaults). Groups merge; lists and single values
replace. On the command line: `./multibase create NAME --set auth.jwt_expiry=7200`.

The last column says where the value ends: `NAME` is a variable of the instance's `.env`, `service: NAME` one of that
service's environment (`env/<service>.env`), which is set only when the option is given. Secret options (marked) are
written to those files on the host (0600), never recorded and never shown; they may also come by `secrets` or
`secrets_from`, see below.

Besides these an entry of `multibase_instances` has `name` (required), `state` (`present`, `absent`) and `port_base`
(the first of its ten ports).

"""
TAIL = """## Secrets of your own

Three ways, which may be mixed:

```yaml
multibase_instances:
  - name: acme
    smtp: {host: mail.example.com, user: acme, password: "{{ vault_acme_smtp }}"}   # the option
    secrets:                                                                      # by the name of the variable
      OPENAI_API_KEY: "{{ vault_openai }}"
      functions: {STRIPE_KEY: "{{ vault_stripe }}"}                               # any name, for one service
    secrets_from: secrets/acme.yml                                                # the same, in a file
```

`secrets_from` is a YAML file on the controller, plain or encrypted with `ansible-vault encrypt`, looked for in the
working directory and then where Ansible looks for variables' files; or `host:/etc/multibase/acme.json`, a JSON file on
the host with mode 0600.

Options that are not marked are recorded in `instance.json` and shown: put no token into the query of an address. Where
a mail template or a hook needs one, give the variable under `secrets: {auth: {GOTRUE_...: ...}}` instead of the option.
Values of secrets should be no ordinary words: Ansible hides them wherever they occur in its output.

A secret that is declared once and no longer is goes away with the next `site.yml`; `./multibase create NAME` keeps
what it does not mention. One that you put into `.env` by hand stays.

Names that Multibase knows, for `secrets`:

{names}

## Variables that have no option

```yaml
    env:
      MY_TAG: v1                                # .env only: for your docker-compose.override.yml
      auth: {GOTRUE_LOG_LEVEL: debug}           # reaches the containers of this service
```

Refused are names that a Compose file of the release or an option sets (they would have no effect), and names that look
like a secret. What is set shows in the result of a run and in `./multibase show`.
"""


def plain(text: str) -> str:
    """Turn Ansible's markup into Markdown."""
    text = re.sub(r"O\(instances\[\]\.([^)=]+)\)", r"`\1`", text)
    text = re.sub(r"O\(template_root\)", "`multibase_template_root`", text)
    text = re.sub(r"O\(([a-z_]+)\)", r"`multibase_\1`", text)
    text = re.sub(r"[VC]\(((?:[^()]|\([^()]*\))*)\)", r"`\1`", text)
    return text.replace("|", "\\|")


def goes_to(setting: Setting) -> str:
    """Return where the value ends."""
    if not setting.variable:
        return ""
    return f"`{setting.service}: {setting.variable}`" if setting.service else f"`{setting.variable}`"


def kind(setting: Setting) -> str:
    """Return the type, with what it is restricted to."""
    if setting.choices:
        words = ", ".join(f"`{choice}`" for choice in setting.choices)
        return f"list of {words}" if setting.kind == "list" else words
    if setting.low is not None:
        return f"{setting.kind}, {setting.low} to {setting.high}"
    return {"raw": "name or dict", "list": "list of str"}.get(setting.kind, setting.kind)


def row(option: str, setting: Setting, target: str) -> str:
    """Return one line of a table."""
    default = default_of(setting.option).replace(" when not given.", "")
    mark = " **Secret.**" if setting.secret else ""
    return f"| `{option}` | {kind(setting)} | {plain(default)} | {plain(setting.about)}{mark} | {target} |"


def page() -> str:
    """Return the whole page."""
    groups: Dict[str, List[str]] = {}
    for setting in SETTINGS:
        *group, name = setting.path
        key = ".".join(group)
        target = goes_to(setting)
        for kind_of, names in (("auth.providers", OAUTH_PROVIDERS), ("auth.hooks", HOOKS)):
            if key.startswith(kind_of + "."):
                member = group[-1]
                if member != names[0]:
                    break
                key, name = kind_of, f"NAME.{name}"
                target = target.replace(member.upper(), "NAME")
        else:
            groups.setdefault(key, []).append(row(name, setting, target))
            continue
        if key in ("auth.providers", "auth.hooks"):
            groups.setdefault(key, []).append(row(name, setting, target))
    lines = []
    for group_name, rows in groups.items():
        title = f"`{group_name}`" if group_name else "General"
        lines += [f"## {title}", ""]
        if group_name:
            lines += [plain(group_about(group_name)), ""]
        if group_name in ("auth.providers", "auth.hooks"):
            names = OAUTH_PROVIDERS if group_name == "auth.providers" else HOOKS
            lines += ["NAME is one of " + ", ".join(f"`{name}`" for name in names) + ".", ""]
        lines += ["| option | type | default | what it is | becomes |", "|---|---|---|---|---|", *rows, ""]
    secrets = [setting for setting in SETTINGS if setting.secret and setting.variable]
    known = ", ".join(f"`{setting.variable}`" for setting in secrets if not setting.service)
    by_service = "and those of Auth in the tables above (`GOTRUE_...`)."
    return HEAD + "\n".join(lines) + "\n" + TAIL.replace("{names}", f"{known}, {by_service}")


def main() -> int:
    """Write the page, or with --check compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != text:
            print("docs/options.md is out of date; run docs/generate_options.py")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
