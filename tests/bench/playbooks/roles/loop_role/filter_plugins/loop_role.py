# SPDX-License-Identifier: GPL-3.0-or-later
"""The two computations of the role that Jinja2 has no filter for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

LIFETIME = 5 * 365 * 24 * 3600


def _encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def api_key(secret, role, issued_at):
    """Return a JSON Web Token for ``role``, signed HS256 with ``secret``, valid for five years from ``issued_at``."""
    claims = {"role": role, "iss": "supabase", "iat": issued_at, "exp": issued_at + LIFETIME}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(_encode(json.dumps(part, separators=(",", ":")).encode("utf-8")) for part in parts)
    signature = hmac.new(secret.encode("utf-8"), signed.encode("ascii"), hashlib.sha256).digest()
    return signed + "." + _encode(signature)


def sha_password(password):
    """Return what Envoy's basic authentication expects behind ``{SHA}``: the SHA-1 digest in base64."""
    return base64.b64encode(hashlib.sha1(password.encode("utf-8"), usedforsecurity=False).digest()).decode("ascii")


class FilterModule:
    """Makes both known to Ansible."""

    def filters(self):
        return {"api_key": api_key, "sha_password": sha_password}
