# SPDX-License-Identifier: GPL-3.0-or-later
"""ARA for gunicorn, with what may be written by which way in.

Who may open ``record.sock`` (root, and the group of the service) may record. By the other socket comes the proxy, which
has checked who it is that asks: everybody reads, and those whom MULTIBASE_ARA_WRITERS names add records and go on with
them. A site of somebody else cannot have a browser write: that needs JSON, which a browser asks permission for first.
"""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

RECORD_SOCKET = "record.sock"
_READS = ("GET", "HEAD", "OPTIONS")
_WRITES = ("PATCH", "POST")
_RECORDS = re.compile(r"/api/v1/(?:playbooks|plays|tasks|hosts|results|files|records)(?:/\d+)?\Z")

StartResponse = Callable[[str, List[Tuple[str, str]]], Any]


def refusal(environ: Dict[str, Any], socket: str, writers: Sequence[str]) -> Optional[str]:
    """Return the status that a request is refused with; None where it may go on.

    ``socket`` is the path of the socket that it came by.
    """
    if os.path.basename(socket) == RECORD_SOCKET:
        return None
    path = str(environ.get("PATH_INFO", ""))
    # Nobody has a login of ARA's own.
    if path == "/admin" or path.startswith("/admin/"):
        return "404 Not Found"
    if environ.get("REQUEST_METHOD") in _READS:
        return None
    if environ.get("REQUEST_METHOD") not in _WRITES or environ.get("HTTP_X_REMOTE_USER") not in writers:
        return "405 Method Not Allowed"
    if not _RECORDS.match(path):
        return "405 Method Not Allowed"
    if str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower() != "application/json":
        return "415 Unsupported Media Type"
    return None


def guarded(ara: Callable[..., Iterable[bytes]], writers: Sequence[str]) -> Callable[..., Iterable[bytes]]:
    """Return ARA as an application that asks ``refusal`` first."""

    def application(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        refused = refusal(environ, str(environ["gunicorn.socket"].getsockname()), writers)
        if refused:
            start_response(refused, [("Content-Type", "text/plain; charset=utf-8")])
            return [refused.encode("ascii") + b"\n"]
        return ara(environ, start_response)

    return application


def __getattr__(name: str) -> Any:
    """Make the application when gunicorn asks for it: what is above needs no ARA."""
    if name != "application":
        raise AttributeError(name)
    from ara.server.wsgi import application as ara

    return guarded(ara, os.environ.get("MULTIBASE_ARA_WRITERS", "").split())
