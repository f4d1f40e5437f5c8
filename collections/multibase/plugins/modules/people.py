#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: people
short_description: Manage who may log in to Studio, the panel and ARA
version_added: 0.1.0
description:
  - Keeps the file of names and bcrypt hashes that nginx checks logins with. It takes no password, and returns none.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - A difference would show hashes.
  idempotent:
    support: partial
    details:
      - O(state=present) is done once; a name that is there is refused without O(force=true).
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  path:
    description:
      - The file.
    type: path
    default: /etc/nginx/multibase/people.htpasswd
  group:
    description:
      - Group that reads the file, the one of nginx's workers.
    type: str
    default: www-data
  state:
    description:
      - V(listed) only tells who there is.
      - V(initial) makes the file with the one person O(name), unless it is there already, and writes the password of
        that person to C(state/people/NAME.password) below O(root), readable by root only.
      - V(present) adds O(name) with O(hash), V(absent) removes it. Where there is no file, V(absent) makes none.
    type: str
    choices: [listed, initial, present, absent]
    default: listed
  name:
    description:
      - Name of the person.
    type: str
    default: ""
  hash:
    description:
      - bcrypt hash of the password, of cost 12 at least. Needed with O(state=present).
    type: str
    default: ""
  force:
    description:
      - Whether O(state=present) replaces the password of a person who is there.
    type: bool
    default: false
  lock_timeout:
    description:
      - Seconds to wait for another run on the same host.
    type: int
    default: 60
seealso:
  - module: multibase.supabase.proxy
"""

EXAMPLES = r"""
- name: Who may log in
  multibase.supabase.people:
  register: known

- name: Let Ann log in no more
  multibase.supabase.people:
    name: ann
    state: absent
"""

RETURN = r"""
results:
  description: One element for O(name), or none.
  returned: success
  type: list
  elements: dict
  sample: [{name: ann, changed: true, password_file: ""}]
people:
  description: Names of all people, sorted.
  returned: success
  type: list
  elements: str
  sample: [admin, ann]
"""

import grp
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _lock, _nginx, _people
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._publish import replace_file


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "path": {"type": "path", "default": _nginx.PEOPLE_FILE},
        "group": {"type": "str", "default": "www-data"},
        "state": {"type": "str", "choices": ["listed", "initial", "present", "absent"], "default": "listed"},
        "name": {"type": "str", "default": ""},
        "hash": {"type": "str", "default": "", "no_log": True},
        "force": {"type": "bool", "default": False},
        "lock_timeout": {"type": "int", "default": 60},
    }


def _group(name, check_mode):
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if check_mode:
            return 0
        raise InvalidInput(["there is no group {0}; nginx has to be installed first".format(name)]) from None


def _initial(params, path):
    """Return the first person, whose password lies on the host only."""
    password = _people.make_password()
    hashed = _people.hash_password(password)
    directory = os.path.dirname(path)
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # The password first: a hash without one would lock everybody out.
    replace_file(path, (password + "\n").encode("ascii"), 0o600)
    return {params["name"]: hashed}


def _result(name, changed, password_file=""):
    """Return what is told of one person."""
    return {"name": name, "changed": changed, "password_file": password_file}


def manage(params, check_mode):
    """Do what was asked; return what the module returns."""
    state, name, path = params["state"], params["name"], params["path"]
    people = _people.read(path)
    before = people or {}
    if state == "listed":
        return {"changed": False, "results": [], "people": sorted(before)}
    problem = _people.name_problem(name)
    if problem:
        raise InvalidInput([problem])
    layout = Layout(os.path.abspath(params["root"]))
    password_file = ""
    after = before
    if state == "absent" and name not in before:
        # Not even an empty file: with one, a host would never get its first person.
        return {"changed": False, "results": [_result(name, False)], "people": sorted(before)}
    group = _group(params["group"], check_mode)
    if state == "initial" and people is None:
        password_file = os.path.join(layout.state, "people", name + ".password")
        after = {name: ""} if check_mode else _initial(params, password_file)
    elif state == "present":
        after = _people.change(before, name, params["hash"], params["force"])
    elif state == "absent":
        after = {key: value for key, value in before.items() if key != name}
    changed = after != before
    if changed and not check_mode:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        _people.write(path, after, group)
        _people.forget_logins(_nginx.LOGIN_CACHE)
        kept = os.path.join(layout.state, "people", name + ".password")
        if state in ("present", "absent") and os.path.exists(kept):
            # It is nobody's password any more.
            os.unlink(kept)
    return {"changed": changed, "results": [_result(name, changed, password_file)], "people": sorted(after)}


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    params = module.params
    try:
        if module.check_mode or params["state"] == "listed":
            answer = manage(params, module.check_mode)
        else:
            lock = os.path.join(Layout(os.path.abspath(params["root"])).state, "locks", "_people.lock")
            with _lock.exclusive(lock, params["lock_timeout"]):
                answer = manage(params, False)
    except MultibaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or params["path"], error.strerror or error))
    for result in answer["results"]:
        if result["password_file"] and not module.check_mode:
            module.warn(
                "{0} may log in now; the password is in {1} on the host, for root only. Take it from there, then "
                "remove the file".format(result["name"], result["password_file"])
            )
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
