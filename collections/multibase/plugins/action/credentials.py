# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import secrets
import stat

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib, match_encrypt_secret
from ansible.plugins.action import ActionBase

from ansible_collections.multibase.supabase.plugins.module_utils import _credentials
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._sealed import Receiver

_MODULE = "multibase.supabase.credentials"
_MODE = 0o600


class Destination:
    """The file on the controller, checked before anything is asked of a host.

    Everything after the check goes through the descriptor of its directory, so that nobody can swap the directory for
    another one in between. Raises AnsibleActionFail with the reason where the file may not be written.
    """

    def __init__(self, path: str, force: bool) -> None:
        self.path = path
        self._force = force
        self._name = os.path.basename(path)
        if not os.path.isabs(path) or self._name in ("", ".", ".."):
            raise AnsibleActionFail(f"path {path!r}: an absolute path of a file is needed")
        try:
            self._directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise AnsibleActionFail(f"path {path}: {os.path.dirname(path)}: {error.strerror}") from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        mode = os.fstat(self._directory).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise AnsibleActionFail(
                f"path {self.path}: everybody may write to its directory, and could put another file in its place"
            )
        try:
            there = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(there.st_mode):
            raise AnsibleActionFail(f"path {self.path}: it is no plain file (a link is not followed)")
        if not self._force:
            raise AnsibleActionFail(f"path {self.path}: it is there already, and is replaced with force only")

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._directory)

    def write(self, content: bytes) -> None:
        """Publish the file: written beside its place, synced, and given its name when it is complete."""
        staged = f".{self._name[:200]}.{secrets.token_hex(8)}"
        try:
            self._write_staged(staged, content)
            try:
                if self._force:
                    os.rename(staged, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                else:
                    # Unlike a rename, a link fails where somebody has made a file of this name in the meantime.
                    os.link(staged, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(staged, dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as error:
            raise AnsibleActionFail(f"path {self.path}: {error.strerror}") from error

    def _write_staged(self, staged: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(staged, flags, _MODE, dir_fd=self._directory)
        try:
            os.fchmod(descriptor, _MODE)
            if os.fstat(descriptor).st_mode & 0o077:
                raise AnsibleActionFail(f"path {self.path}: its file system cannot keep a file from other users")
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except BaseException:
            os.unlink(staged, dir_fd=self._directory)
            raise
        finally:
            os.close(descriptor)


def rendered(credentials: list, form: str) -> str:
    """Return the text of a file of credentials."""
    if form == "yaml":
        values = _credentials.as_dictionary(credentials)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, explicit_start=True, width=1 << 20)
    return {"table": _credentials.as_table, "env": _credentials.as_env, "json": _credentials.as_json}[form](credentials)


class ActionModule(ActionBase):
    """Has the module collect the credentials on the host, and writes them to a file on the controller itself."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        """Run the module. Nothing that is returned, raised or shown on the way holds a secret."""
        super().run(tmp, task_vars)
        try:
            return self._hand_over(task_vars)
        except AnsibleActionFail as error:
            # Returned and not raised, so that a playbook that hides the task can still tell what went wrong.
            return {"failed": True, "msg": error.message}

    def _hand_over(self, task_vars):
        _validated, options = self.validate_argument_spec(
            {
                "root": {"type": "path", "default": "/opt/multibase"},
                "name": {"type": "str", "required": True},
                "path": {"type": "path", "required": True},
                "format": {"type": "str", "choices": list(_credentials.FORMATS), "default": "table"},
                "encrypt": {"type": "bool", "default": False},
                "force": {"type": "bool", "default": False},
            }
        )
        if not options["name"]:
            return {"changed": False, "instances": []}
        vault_id, vault_secret = self._vault_secret() if options["encrypt"] else (None, None)
        destination = Destination(options["path"], options["force"])
        try:
            receiver = Receiver()
            arguments = {**self._task.args, "receiver": receiver.address}
            answer = self._execute_module(module_name=_MODULE, module_args=arguments, task_vars=task_vars)
            if answer.get("failed") or "instances" not in answer:
                # Of a module that broke down, only the message: what else it printed is not known to be harmless.
                raise AnsibleActionFail(str(answer.get("msg") or "the module ended without an answer"))
            if not self._task.check_mode:
                content = self._text(receiver, answer, options["format"]).encode("utf-8")
                if vault_secret:
                    content = VaultLib([(vault_id, vault_secret)]).encrypt(content, vault_secret, vault_id)
                destination.write(content)
        finally:
            destination.close()
        place = {
            "path": options["path"],
            "format": options["format"],
            "encrypted": options["encrypt"],
            "written": not self._task.check_mode,
        }
        return {"changed": True, "instances": [{**told, **place} for told in answer["instances"]]}

    @staticmethod
    def _text(receiver: Receiver, answer: dict, form: str) -> str:
        try:
            return rendered(_credentials.from_rows(receiver.open(answer.get("sealed") or {})), form)
        except MultibaseError as error:
            raise AnsibleActionFail(str(error)) from None
        except ValueError:
            # The exception could quote what it is about.
            raise AnsibleActionFail(f"a value of the instance's .env cannot be written as {form}") from None

    def _vault_secret(self) -> tuple:
        """Return name and secret that Ansible encrypts with. Raises AnsibleActionFail where it was given none."""
        try:
            found = match_encrypt_secret(self._loader._vault.secrets or [], constants.DEFAULT_VAULT_ENCRYPT_IDENTITY)
        except AnsibleError as error:
            raise AnsibleActionFail(f"encrypt: {error}") from error
        if not found:
            raise AnsibleActionFail(
                "encrypt: no vault secret to encrypt with was given (--vault-password-file, --vault-id or "
                "--ask-vault-pass; with ./multibase behind two hyphens)"
            )
        return found
