# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.multibase.supabase.plugins.action.credentials import Destination
from ansible_collections.multibase.supabase.plugins.module_utils import _people


def _library():
    """Return the library, which the controller has by requirements.txt. Raises AnsibleActionFail where it has not."""
    try:
        import bcrypt
    except ImportError as error:
        raise AnsibleActionFail("the controller needs the Python package bcrypt: make setup") from error
    return bcrypt


class ActionModule(ActionBase):
    """Makes a password on the controller: into a file there, and as a hash into what is returned."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Make it. Nothing that is returned or raised holds the password."""
        super().run(tmp, task_vars)
        try:
            return self._make()
        except AnsibleActionFail as error:
            # Returned and not raised, so that a playbook that hides the task can still tell what went wrong.
            return {"failed": True, "msg": error.message}

    def _make(self):
        _validated, options = self.validate_argument_spec(
            {
                "path": {"type": "path", "required": True},
                "name": {"type": "str", "required": True},
                "force": {"type": "bool", "default": False},
            }
        )
        problem = _people.name_problem(options["name"])
        if problem:
            raise AnsibleActionFail(problem)
        destination = Destination(options["path"], options["force"])
        try:
            hashed = ""
            if not self._task.check_mode:
                password = _people.make_password()
                # The same algorithm under the name that every libcrypt and htpasswd knows.
                hashed = _library().hashpw(password.encode("ascii"), _library().gensalt(_people.COST)).decode("ascii")
                hashed = hashed.replace("$2b$", "$2y$", 1)
                destination.write("user: {0}\npassword: {1}\n".format(options["name"], password).encode("utf-8"))
        finally:
            destination.close()
        return {"changed": True, "path": options["path"], "hash": hashed}
