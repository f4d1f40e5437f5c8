# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Until when the certificates of the proxy's sites are good."""

from __future__ import annotations

import calendar
import os
import re
from typing import Any, Dict, List, Optional, Tuple

from . import _process, _proxy_host

# A certificate's end in the words of ``openssl x509``.
_MONTHS = {name: number for number, name in enumerate(calendar.month_abbr) if name}


class Certificates:
    """The certificates of the proxy's sites, each read again when its file changed."""

    def __init__(self, paths: Optional[_proxy_host.Paths] = None) -> None:
        self._paths = paths or _proxy_host.Paths()
        self._read: Dict[str, Tuple[object, Optional[float], str]] = {}

    def all(self) -> List[Dict[str, Any]]:
        """Return the certificates part, but for how many days are left."""
        told: List[Dict[str, Any]] = []
        for site, text in sorted(_proxy_host.live_sites(self._paths).items()):
            found = re.search(r"ssl_certificate\s+([^;\s]+);", text)
            names = re.search(r"server_name\s+([^;]+);", text)
            if not found:
                continue
            path = found.group(1)
            end, issuer = self._of(path)
            kind = (
                "self_signed"
                if path.startswith(self._paths.certificates)
                else ("acme" if path.startswith(self._paths.letsencrypt) else "own")
            )
            domains = names.group(1).split() if names else []
            told.append({"site": site, "domains": domains, "not_after": end, "issuer": issuer, "kind": kind})
        return told

    def _of(self, path: str) -> Tuple[Optional[float], str]:
        try:
            status = os.stat(path)
        except OSError:
            return None, ""
        seen = (status.st_ino, status.st_mtime_ns)
        known = self._read.get(path)
        if known is None or known[0] != seen:
            try:
                done = _process.run(
                    ["openssl", "x509", "-noout", "-enddate", "-issuer", "-nameopt", "RFC2253", "-in", path],
                    "/", _process.clean_environment(), 10.0,
                )  # fmt: skip
                known = (seen, *parse_certificate(done.output))
            except OSError:
                known = (seen, None, "")
            self._read[path] = known
        return known[1], known[2]


def parse_certificate(text: str) -> Tuple[Optional[float], str]:
    """Return end (seconds since 1970) and issuer in what ``openssl x509 -enddate -issuer`` says."""
    end: Optional[float] = None
    found = re.search(r"notAfter=(\w{3})\s+(\d+) (\d+):(\d+):(\d+) (\d{4}) GMT", text)
    if found and found.group(1) in _MONTHS:
        day, hour, minute, second, year = (int(field) for field in found.groups()[1:])
        end = float(calendar.timegm((year, _MONTHS[found.group(1)], day, hour, minute, second, 0, 0, 0)))
    issuer = re.search(r"issuer=(.*)", text)
    return end, issuer.group(1).strip() if issuer else ""
