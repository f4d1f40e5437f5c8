#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: alerts
short_description: List, acknowledge and silence alerts of a host
version_added: 0.1.0
description:
  - Returns the alerts of a host and its silences, after it did what O(state) says.
  - The sampler of the host (the role multibase_monitor) raises alerts and tells channels of them.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
    details:
      - No channel is tried then.
  diff_mode:
    support: none
    details:
      - What changes is in what is returned.
  idempotent:
    support: partial
    details:
      - Every call with O(state=silenced) adds a silence, and one with O(state=tested) sends a message.
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  state:
    description:
      - V(listed) changes nothing. V(acknowledged) notes that somebody knows of the alert O(id). V(silenced) keeps
        alerts from being told, V(unsilenced) takes the silence O(id) back. V(tested) sends a message to O(channel).
    type: str
    choices: [listed, acknowledged, silenced, unsilenced, tested]
    default: listed
  id:
    description:
      - The alert or the silence.
    type: str
    default: ""
  by:
    description:
      - Who does it.
    type: str
    default: ""
  note:
    description:
      - Why, for an acknowledgement or a silence.
    type: str
    default: ""
  instance:
    description:
      - Silence alerts of this instance only.
    type: str
    default: ""
  rule:
    description:
      - Silence alerts of this rule only.
    type: str
    default: ""
  subject:
    description:
      - Silence alerts about this service, disk, domain or probe only.
    type: str
    default: ""
  duration:
    description:
      - How long a silence lasts, as V(90m), V(2h) or V(1d12h).
    type: str
    default: ""
  channel:
    description:
      - The channel to try; all when it is empty.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Silence acme while it is worked on
  multibase.supabase.alerts:
    state: silenced
    instance: acme
    duration: 2h
    by: alice
    note: upgrade
"""

RETURN = r"""
results:
  description:
    - The alerts of the host, what fires first, as docs/schemas/live.schema.json has them.
  returned: success
  type: list
  elements: dict
  sample: []
silences:
  description:
    - The silences that have not ended.
  returned: success
  type: list
  elements: dict
  sample: []
done:
  description:
    - The alert or the silence that was changed, empty when nothing was.
  returned: success
  type: dict
  sample: {}
channels:
  description:
    - The channels that were tried, each with C(channel), C(kind) and C(problem).
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
import socket
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _alert_acts
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._monitor_settings import SettingsFile


def act(module, layout, now):
    """Do what is asked; return what was changed, and the channels that were tried."""
    params, check = module.params, module.check_mode
    state = params["state"]
    if state == "acknowledged":
        found = _alert_acts.acknowledge(layout, params["id"], params["by"], params["note"], now, module.warn, check)
        return found, []
    if state == "silenced":
        wanted = {name: params[name] for name in ("instance", "rule", "subject", "duration")}
        wanted["reason"] = params["note"]
        return _alert_acts.silence(layout, wanted, params["by"], now, module.warn, check), []
    if state == "unsilenced":
        return _alert_acts.unsilence(layout, params["id"], module.warn, check), []
    if state == "tested" and not check:
        host = SettingsFile(layout, module.warn).current().host or socket.gethostname()
        return {}, _alert_acts.try_channels(layout, host, params["channel"] or None, now, module.warn)
    return {}, []


def main():
    """Entry point of the module."""
    words = {name: {"type": "str", "default": ""} for name in (
        "id", "by", "note", "instance", "rule", "subject", "duration", "channel",
    )}  # fmt: skip
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/multibase"},
            "state": {
                "type": "str",
                "default": "listed",
                "choices": ["listed", "acknowledged", "silenced", "unsilenced", "tested"],
            },
            **words,
        },
        required_if=[
            ("state", "acknowledged", ["id", "by"]),
            ("state", "silenced", ["duration", "by"]),
            ("state", "unsilenced", ["id"]),
        ],
        supports_check_mode=True,
    )
    layout = Layout(os.path.abspath(module.params["root"]))
    now = time.time()
    try:
        done, channels = act(module, layout, now)
        told = _alert_acts.listing(layout, now, module.warn)
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[])
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or "host", error.strerror or error), results=[])
    module.exit_json(
        changed=bool(done), results=told["alerts"], silences=told["silences"], done=done, channels=channels
    )


if __name__ == "__main__":
    main()
