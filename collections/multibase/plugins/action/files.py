# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

from ansible._internal._templating import _template_vars
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

_MODULE = "multibase.supabase.files"


class ActionModule(ActionBase):
    """Expands templates on the controller and hands all files to the module in one call."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Return what the module returns, without its arguments: they hold the contents."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        entries = self._task.args.get("entries")
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise AnsibleActionFail("entries: a list of dictionaries is needed")
        arguments = {**self._task.args, "entries": [self._complete(entry, task_vars) for entry in entries]}
        result = self._execute_module(module_name=_MODULE, module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)
        return result

    def _complete(self, entry: Mapping, task_vars: dict) -> dict:
        """Return an entry with its content in Base64."""
        complete = dict(entry)
        source, content = complete.pop("src", None), complete.get("content")
        if (source is None) == (content is None) and complete.get("state", "file") == "file":
            raise AnsibleActionFail(f"{complete.get('path')}: a file needs src or content, and not both")
        if source is not None:
            content = self._expanded(source, complete.get("path"), task_vars)
        if content is not None:
            if not isinstance(content, str):
                raise AnsibleActionFail(f"{complete.get('path')}: its content is no text")
            complete["content"] = base64.b64encode(content.encode("utf-8", "surrogateescape")).decode("ascii")
        return complete

    def _expanded(self, source: str, path: object, task_vars: dict) -> str:
        """Expand a template as ``ansible.builtin.template`` does, with the same variables: not a byte may differ."""
        file = self._find_needle("templates", source)
        places = [*task_vars.get("ansible_search_path", []), self._loader.get_basedir(), os.path.dirname(file)]
        variables = {
            **task_vars,
            **_template_vars.generate_ansible_template_vars(
                path=source,
                fullpath=file,
                dest_path=path,
                include_ansible_managed="ansible_managed" not in task_vars,
            ),
        }
        templar = self._templar.copy_with_new_env(
            searchpath=[way for place in places for way in (os.path.join(place, "templates"), place)],
            available_variables=variables,
        )
        text = templar.template(
            trust_as_template(self._loader.get_text_file_contents(file)),
            escape_backslashes=False,
            overrides={"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"},
        )
        return "" if text is None else str(text)
