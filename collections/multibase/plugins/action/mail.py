# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.multibase.supabase.plugins.module_utils import _mail
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError

_KINDS = {".html": "text/html", ".json": "application/json", ".csv": "text/csv"}


class ActionModule(ActionBase):
    """Sends a mail from the controller; nothing is put into a file or a process on the way."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Send it. Nothing that is returned or raised holds the password."""
        super().run(tmp, task_vars)
        try:
            return self._send()
        except AnsibleActionFail as error:
            # Returned and not raised, so that a playbook that hides the task can still tell what went wrong.
            return {"failed": True, "msg": error.message}

    def _send(self):
        _validated, options = self.validate_argument_spec(
            {
                "settings": {"type": "dict", "required": True},
                "subject": {"type": "str", "required": True},
                "body": {"type": "str", "required": True},
                "attachments": {"type": "list", "elements": "dict", "default": []},
            }
        )
        problems = _mail.problems(options["settings"])
        if problems:
            raise AnsibleActionFail("the settings of the mail are wrong: " + "; ".join(problems))
        attachments = [
            _mail.Attachment(
                os.path.basename(str(one["path"])),
                _KINDS.get(os.path.splitext(str(one["path"]))[1], "text/plain"),
                str(one["content"]),
            )
            for one in options["attachments"]
        ]
        if self._task.check_mode:
            return {"changed": True, "sent": False}
        message = _mail.compose(options["settings"], options["subject"], options["body"], attachments, time.time())
        try:
            _mail.send(options["settings"], message)
        except MultibaseError as error:
            raise AnsibleActionFail("the mail was not sent: {0}".format(error)) from None
        return {"changed": True, "sent": True}
