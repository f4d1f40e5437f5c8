# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Brings the proxy of a host to its sites: certificates, configuration that nginx has accepted, one reload.

A generation of the configuration is a directory; `live` is a link to the one in use, and changes by a rename. What
nginx refuses is never in a generation: the site keeps the text that it had, or is left out, and the others go live.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from . import _certificates, _nginx, _process, _proxy
from ._certificates import Acme
from ._errors import MultibaseError
from ._nginx import SECRET, Files, Settings
from ._proxy import Site
from ._publish import replace_file, sync_directory, write_new

_BASE = "00-base.conf"
_SITE = re.compile(r"site-([a-z_][a-z0-9-]*)\.conf\Z")
_SERVER_NAME = re.compile(r"^\s*server_name ([a-z0-9. -]+);", re.MULTILINE)
_CERTBOT_SECONDS = 300.0
_COMMAND_SECONDS = 60.0
# Messages of nginx about a certificate or a name are long; the rest repeats itself.
_LONGEST_MESSAGE = 1500


@dataclass(frozen=True)
class Paths:
    """Where things are. Tests have them elsewhere."""

    etc: str = "/etc/nginx"
    letsencrypt: str = "/etc/letsencrypt"
    state: str = "/opt/multibase/state/proxy"
    program: str = "/usr/sbin/nginx"

    @property
    def base(self) -> str:
        return os.path.join(self.etc, "multibase")

    @property
    def live(self) -> str:
        return os.path.join(self.base, "live")

    @property
    def entry(self) -> str:
        """The file by which nginx finds us."""
        return os.path.join(self.etc, "conf.d", "multibase.conf")

    @property
    def main(self) -> str:
        return os.path.join(self.etc, "nginx.conf")

    @property
    def pending(self) -> str:
        """A file that is there from before new files go live until nginx has read them."""
        return os.path.join(self.state, "reload-pending")

    @property
    def certificates(self) -> str:
        return os.path.join(self.base, "certificates")


def live_texts(paths: Paths) -> Dict[str, str]:
    """Return the files that nginx has of us, by name."""
    try:
        entries = os.listdir(paths.live)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {entry: _text(os.path.join(paths.live, entry)) for entry in entries}


def live_sites(paths: Paths) -> Dict[str, str]:
    """Return the texts of the sites that are served, by their names."""
    found = ((_SITE.match(entry), text) for entry, text in live_texts(paths).items())
    return {match.group(1): text for match, text in found if match}


@dataclass
class SiteResult:
    """What became of one site."""

    name: str
    domains: Sequence[str]
    certificate: str
    live: bool = False
    changed: bool = False
    problem: str = ""
    expires: str = ""
    actions: List[str] = field(default_factory=list)

    def as_dict(self) -> Dict[str, Any]:
        """Return what a module returns of it."""
        return {
            "name": self.name,
            "domains": list(self.domains),
            "certificate": self.certificate,
            "live": self.live,
            "changed": self.changed,
            "problem": self.problem,
            "expires": self.expires,
            "actions": self.actions,
        }


@dataclass
class Outcome:
    """What became of the proxy."""

    changed: bool = False
    results: List[SiteResult] = field(default_factory=list)
    diff: List[Dict[str, str]] = field(default_factory=list)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def _domains(text: str) -> List[str]:
    """Return the domains of the text of a site."""
    return sorted({domain for names in _SERVER_NAME.findall(text) for domain in names.split()})


def _hold_back(wanted: Dict[str, str], live: Mapping[str, str]) -> Dict[str, str]:
    """Let no site have a domain that another one, which stays as it is, serves; tell of those that were held back.

    nginx accepts two servers of one name, and only the first gets requests. Who is held back stays as it is too (in
    ``wanted``), with the domains that others may want.
    """
    held: Dict[str, str] = {}
    moving = sorted(name for name, text in wanted.items() if live.get(name) != text)
    if not moving:
        return held
    owners = {domain: name for name in set(wanted).difference(moving) for domain in _domains(wanted[name])}
    while True:
        for name in moving:
            domains = [domain for domain in _domains(wanted[name]) if domain in owners]
            if domains:
                break
        else:
            return held
        held[name] = "{0} is still served by {1}, which could not be changed".format(
            ", ".join(domains), ", ".join(sorted({owners[domain] for domain in domains}))
        )
        moving.remove(name)
        del wanted[name]
        if name in live:
            wanted[name] = live[name]
            owners.update({domain: name for domain in _domains(live[name])})


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def nginx_version(program: str) -> Tuple[int, ...]:
    """Return the version of nginx; a recent one where it is not installed yet."""
    if not os.path.exists(program):
        return (1, 26, 0)
    said = _process.run([program, "-v"], "/", _process.clean_environment(), _COMMAND_SECONDS).errors
    found = re.search(r"nginx/([0-9.]+)", said)
    if not found:
        raise MultibaseError("{0} does not tell its version: {1}".format(program, said.strip()))
    return tuple(int(part) for part in found.group(1).split("."))


def own_addresses() -> List[str]:
    """Return the addresses of this host that others may reach, without those of its loopback."""
    done = _process.run(["ip", "-json", "address", "show"], "/", _process.clean_environment(), _COMMAND_SECONDS)
    found = []
    with contextlib.suppress(ValueError, TypeError, KeyError):
        for link in json.loads(done.output):
            found += [str(entry["local"]) for entry in link.get("addr_info", []) if entry.get("scope") == "global"]
    return sorted(found)


def resolve(domain: str) -> List[str]:
    """Return the addresses of a name."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(domain, 80, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):
        return []


class Proxy:
    """The proxy of this host. ``secrets_of`` holds by site the login that its gateway wants, in base64."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        acme: Acme,
        addresses: Sequence[str],
        check_dns: bool,
        retry_seconds: int,
        check_mode: bool,
        run: Callable[..., Any] = _process.run,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._acme = acme
        self._addresses = list(addresses)
        self._check_dns = check_dns
        self._retry_seconds = retry_seconds
        self._check_mode = check_mode
        self._run = run
        self._secrets: Mapping[str, str] = {}
        self._used: Set[str] = set()

    # --- the whole of it ---

    def converge(self, plan: _proxy.Plan, secrets_of: Mapping[str, str]) -> Outcome:
        """Bring certificates and sites to what is planned; tell of each site. Raises MultibaseError where none can be.

        First what has its certificate goes live, and with it the answers to challenges; then certificates are
        ordered; then the sites that got one go live.
        """
        self._secrets = secrets_of
        self._discard_leftovers()
        results = {site.name: SiteResult(site.name, site.domains, site.certificate) for site in plan.sites}
        for name, problem in plan.problems.items():
            results[name] = SiteResult(name, (), "", problem=problem)
        texts: Dict[str, str] = {}
        waiting: List[Site] = []
        for site in plan.sites:
            self._prepare(site, results[site.name], texts, waiting)
        outcome = Outcome()
        keep = set(plan.problems) | {site.name for site in waiting}
        self._publish(texts, keep, results, outcome, final=not waiting)
        if waiting:
            self._order(waiting, results, texts)
            for site in plan.sites:
                if site.name in texts:
                    keep.discard(site.name)
            self._publish(texts, keep, results, outcome, final=True)
        self._forget_certificates()
        outcome.results = [results[name] for name in sorted(results)]
        outcome.changed = outcome.changed or any(result.changed for result in outcome.results)
        return outcome

    def live_domains(self) -> Dict[str, List[str]]:
        """Return by site the domains that are live."""
        return {name: _domains(text) for name, text in live_sites(self._paths).items()}

    # --- certificates ---

    def _prepare(self, site: Site, result: SiteResult, texts: Dict[str, str], waiting: List[Site]) -> None:
        """Find the certificate of a site, and render it; or put it with those that wait for an order."""
        try:
            if site.certificate == "acme":
                files = self._ordered(site, result)
                if files is None:
                    waiting.append(site)
                    return
            elif site.certificate == "own":
                files = self._own(site, result)
            elif site.certificate == "self_signed":
                files = self._self_signed(site, result)
            else:
                texts[site.name] = _nginx.render_site(site, self._settings, None)
                return
        except MultibaseError as error:
            result.problem = str(error)
        except OSError as error:
            result.problem = "{0}: {1}".format(error.filename, error.strerror)
        else:
            texts[site.name] = _nginx.render_site(site, self._settings, files)

    def _checked(self, path: str, site: Site, result: SiteResult) -> Tuple[bytes, _certificates.Certificate]:
        with open(path, "rb") as stream:
            content = stream.read(1 << 20)
        try:
            certificate = _certificates.read(content)
        except MultibaseError as error:
            raise MultibaseError("{0}: {1}".format(path, error)) from error
        result.expires = certificate.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
        problem = _certificates.problem(certificate, site.domains, _now())
        if problem:
            raise MultibaseError("{0}: {1}".format(path, problem))
        return content, certificate

    def _own(self, site: Site, result: SiteResult) -> Files:
        """Take the user's certificate over, under a name that says what is in it: key and certificate go together."""
        content, certificate = self._checked(site.certificate_file, site, result)
        with open(site.key_file, "rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o007:
                raise MultibaseError("{0}: everybody on the host can read this key".format(site.key_file))
            key = stream.read(1 << 20)
        problem = _certificates.key_problem(key, certificate)
        if problem:
            raise MultibaseError("{0}: {1}".format(site.key_file, problem))
        return self._keep(site.name, content, key)

    def _self_signed(self, site: Site, result: SiteResult) -> Files:
        parent = os.path.join(self._paths.certificates, site.name)
        for entry in sorted(self._entries(parent)):
            path = os.path.join(parent, entry, "fullchain.pem")
            with contextlib.suppress(MultibaseError, OSError):
                content, certificate = self._checked(path, site, result)
                left = certificate.expires - _now()
                with open(os.path.join(parent, entry, "privkey.pem"), "rb") as stream:
                    key = stream.read(1 << 20)
                enough = datetime.timedelta(days=_certificates.RENEWAL_DAYS)
                if left > enough and certificate.issuer == _certificates.SELF_SIGNED_ISSUER:
                    return self._keep(site.name, content, key)
        if self._check_mode:
            return Files(os.path.join(parent, "new", "fullchain.pem"), os.path.join(parent, "new", "privkey.pem"))
        content, key = _certificates.self_signed(site.domains, _now())
        result.actions.append("certificate made")
        result.expires = _certificates.read(content).expires.strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._keep(site.name, content, key)

    def _keep(self, name: str, content: bytes, key: bytes) -> Files:
        digest = hashlib.sha256(content + b"\0" + key).hexdigest()[:20]
        directory = os.path.join(self._paths.certificates, name, digest)
        files = Files(os.path.join(directory, "fullchain.pem"), os.path.join(directory, "privkey.pem"))
        self._used.add(directory)
        if os.path.isdir(directory) or self._check_mode:
            return files
        parent = os.path.dirname(directory)
        os.makedirs(parent, mode=0o700, exist_ok=True)
        staged = os.path.join(parent, ".new-" + secrets.token_hex(8))
        os.mkdir(staged, 0o700)
        write_new(os.path.join(staged, "fullchain.pem"), content, 0o600, sync=True)
        write_new(os.path.join(staged, "privkey.pem"), key, 0o600, sync=True)
        os.rename(staged, directory)
        sync_directory(parent)
        return files

    @staticmethod
    def _entries(directory: str) -> List[str]:
        try:
            return [entry for entry in os.listdir(directory) if not entry.startswith(".")]
        except FileNotFoundError:
            return []

    def _forget_certificates(self) -> None:
        """Remove kept certificates that no site names any more."""
        if self._check_mode:
            return
        texts = "".join(live_sites(self._paths).values()) + live_texts(self._paths).get(_BASE, "")
        for path in glob.glob(os.path.join(self._paths.certificates, "*", "*")):
            if path not in self._used and path + "/" not in texts:
                shutil.rmtree(path, ignore_errors=True)
        for path in glob.glob(os.path.join(self._paths.certificates, "*")):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def _ordered(self, site: Site, result: SiteResult) -> Optional[Files]:
        """Return the certificate that certbot keeps for a site; None where it has to be ordered."""
        name, names = _certificates.lineage(site.name, site.domains, self._acme)
        directory = os.path.join(self._paths.letsencrypt, "live", name)
        files = Files(os.path.join(directory, "fullchain.pem"), os.path.join(directory, "privkey.pem"))
        renewal = _text(os.path.join(self._paths.letsencrypt, "renewal", name + ".conf"))
        if _certificates.renewal_server(renewal) != self._acme.directory:
            return None
        try:
            _content, certificate = self._checked(files.certificate, site, result)
        except (MultibaseError, OSError):
            return None
        return files if set(names) <= set(certificate.names) else None

    def _order(self, waiting: Sequence[Site], results: Mapping[str, SiteResult], texts: Dict[str, str]) -> None:
        """Order certificates one after the other. One that cannot be had keeps no other from being ordered."""
        failed = self._failures()
        tried: Dict[str, str] = {}
        for site in waiting:
            result = results[site.name]
            name, names = _certificates.lineage(site.name, site.domains, self._acme)
            if self._check_mode:
                result.changed = True
                result.actions.append("certificate would be ordered")
                continue
            if name not in tried:
                tried[name] = self._order_one(name, names, failed)
            problem = tried[name]
            files = None if problem else self._ordered(site, result)
            if files is None:
                result.problem = problem or "certbot ended well, but the certificate is not there"
                continue
            result.actions.append("certificate ordered")
            texts[site.name] = _nginx.render_site(site, self._settings, files)

    def _order_one(self, name: str, names: Sequence[str], failed: Dict[str, Any]) -> str:
        """Order one certificate; return what went wrong. The same order is not tried again for a while."""
        problem = _certificates.acme_problem(self._acme)
        if problem:
            return problem
        if self._check_dns and not self._acme.dns.get("plugin"):
            for domain in names:
                problem = _certificates.dns_problem(domain, resolve(domain), [*self._addresses, *own_addresses()])
                if problem:
                    return problem
        order = {"names": list(names), "directory": self._acme.directory}
        earlier = failed.get(name) or {}
        wait = int(earlier.get("at", 0)) + self._retry_seconds - int(time.time())
        if earlier.get("order") == order and 0 < wait <= self._retry_seconds:
            return "not asked again for {0} minutes, because the last order failed: {1}".format(
                -(-wait // 60), earlier.get("problem", "")
            )
        problem, counts = self._certbot(name, names)
        if not problem:
            if failed.pop(name, None) is not None:
                self._remember(failed)
        elif counts:
            failed[name] = {"at": int(time.time()), "order": order, "problem": problem}
            self._remember(failed)
        return problem

    def _certbot(self, name: str, names: Sequence[str]) -> Tuple[str, bool]:
        """Run certbot for one order; return what went wrong, and whether the authority was asked."""
        renewal = _text(os.path.join(self._paths.letsencrypt, "renewal", name + ".conf"))
        anew = bool(renewal) and _certificates.renewal_server(renewal) != self._acme.directory
        path = os.path.join(self._paths.state, "certbot-{0}.ini".format(secrets.token_hex(8)))
        try:
            write_new(path, _certificates.certbot_settings(name, names, self._acme, anew).encode("utf-8"), 0o600)
            done = self._run(
                ["certbot", "certonly", "--config", path], "/", _process.clean_environment(), _CERTBOT_SECONDS
            )
        except FileNotFoundError:
            return "certbot is not installed on this host", False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if done.code == 0:
            return "", True
        output = done.output + done.errors
        if self._acme.eab_hmac_key:
            output = output.replace(self._acme.eab_hmac_key, "***")
        if "Another instance of Certbot" in output:
            return "certbot is busy with another run; try again", False
        return "certbot: " + _certificates.said(output), True

    def _failures(self) -> Dict[str, Any]:
        with contextlib.suppress(ValueError):
            found = json.loads(_text(os.path.join(self._paths.state, "acme.json")) or "{}")
            return found if isinstance(found, dict) else {}
        return {}

    def _remember(self, failed: Mapping[str, Any]) -> None:
        path = os.path.join(self._paths.state, "acme.json")
        replace_file(path, (json.dumps(failed, indent=2) + "\n").encode("utf-8"), 0o600)

    # --- configuration ---

    def _filled(self, name: str, text: str) -> str:
        return text.replace(SECRET, self._secrets.get(name, ""))

    def _fallback(self) -> Optional[Files]:
        if self._settings.version >= (1, 19, 4):
            return None
        site = Site("_default", "panel", ("invalid.invalid",), "", "self_signed")
        return self._self_signed(site, SiteResult("_default", (), ""))

    def _publish(
        self,
        texts: Mapping[str, str],
        keep: Set[str],
        results: Dict[str, SiteResult],
        outcome: Outcome,
        final: bool,
    ) -> None:
        """Put the sites live that nginx accepts. Sites in ``keep``, and those refused, stay what they are.

        Unless it is ``final``, a site that waits for the domain of another may still get it.
        """
        base = _nginx.render_base(self._settings, _text(self._paths.main), self._fallback())
        main = _nginx.roomy_main(_text(self._paths.main))
        around = (
            main == _text(self._paths.main)
            and _text(self._paths.entry) == self._entry
            # Files that a killed run put in place look done, but nginx runs with those before them.
            and not os.path.exists(self._paths.pending)
        )
        live_base, live = live_texts(self._paths).get(_BASE, ""), live_sites(self._paths)
        wanted = {name: self._filled(name, text) for name, text in texts.items()}
        for name, result in results.items():
            if name in live and (name in keep or (result.problem and name not in wanted)):
                wanted[name] = live[name]
        held = _hold_back(wanted, live)
        while base != live_base or wanted != live or not around:
            if self._check_mode:
                break
            wanted = self._accepted(base, wanted, live, results)
            # Those that nginx refused stay where they are: others may not go there.
            more = _hold_back(wanted, live)
            if not more:
                break
            held.update(more)
        for name, result in results.items():
            result.live = name in wanted
            if final and name in held and not result.problem:
                result.problem = held[name]
        if base == live_base and wanted == live and around:
            return
        for name in sorted({*wanted, *live}):
            if wanted.get(name) == live.get(name):
                continue
            outcome.diff.append(self._difference(name, live.get(name, ""), wanted.get(name, "")))
            if name not in results:
                results[name] = SiteResult(name, (), "")
            results[name].changed = True
            results[name].actions.append("published" if name in wanted else "removed")
        if main != _text(self._paths.main):
            path = self._paths.main
            outcome.diff.append({"before_header": path, "after_header": path, "before": _text(path), "after": main})
        if base != live_base:
            outcome.diff.append({"before_header": _BASE, "after_header": _BASE, "before": live_base, "after": base})
        outcome.changed = True
        if not self._check_mode:
            self._replace(base, wanted, main)

    @property
    def _entry(self) -> str:
        return "include {0}/*.conf;\n".format(self._paths.live)

    def _difference(self, name: str, before: str, after: str) -> Dict[str, str]:
        path = "site-{0}.conf".format(name)
        hide = re.compile(r'(default "Basic )[^"]+(")')

        def shown(text: str) -> str:
            def redact(found: re.Match[str]) -> str:
                digest = hashlib.sha256(found.group(0).encode("utf-8") + self._salt()).hexdigest()[:12]
                return "{0}fingerprint:{1}{2}".format(found.group(1), digest, found.group(2))

            return hide.sub(redact, text)

        return {"before_header": path, "after_header": path, "before": shown(before), "after": shown(after)}

    def _salt(self) -> bytes:
        if not hasattr(self, "_salted"):
            self._salted = secrets.token_bytes(16)
        return self._salted

    def _accepted(
        self, base: str, wanted: Mapping[str, str], live: Mapping[str, str], results: Mapping[str, SiteResult]
    ) -> Dict[str, str]:
        """Return of the wanted sites those that nginx accepts together; halves that fail are tried by themselves."""
        if self._problem(base, wanted) is None:
            return dict(wanted)
        same = {name: text for name, text in wanted.items() if live.get(name) == text}
        problem = self._problem(base, {})
        if problem is not None:
            raise MultibaseError("nginx refuses its configuration without any site of ours: {0}".format(problem))
        accepted: Dict[str, str] = {}

        def take(names: Sequence[str]) -> None:
            if not names:
                return
            found = self._problem(base, {**accepted, **{name: wanted[name] for name in names}})
            if found is None:
                accepted.update({name: wanted[name] for name in names})
                return
            if len(names) > 1:
                half = len(names) // 2
                take(names[:half])
                take(names[half:])
                return
            name = names[0]
            if name in results:
                results[name].problem = "nginx refuses it: {0}".format(found)
            before = live.get(name)
            if before and before != wanted[name] and self._problem(base, {**accepted, name: before}) is None:
                accepted[name] = before

        # What is live already goes before what is new: where two cannot be together, the new one yields.
        take(sorted(same))
        take(sorted(set(wanted) - set(same)))
        return accepted

    @contextlib.contextmanager
    def _staged(self, base: str, sites: Mapping[str, str]) -> Iterator[str]:
        directory = os.path.join(self._paths.base, ".staged-" + secrets.token_hex(8))
        os.mkdir(directory, 0o700)
        try:
            write_new(os.path.join(directory, _BASE), base.encode("utf-8"), 0o600, sync=True)
            for name, text in sites.items():
                write_new(os.path.join(directory, "site-{0}.conf".format(name)), text.encode("utf-8"), 0o600, sync=True)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _problem(self, base: str, sites: Mapping[str, str]) -> Optional[str]:
        """Return what nginx says against the whole configuration with these sites, or None."""
        others = sorted(
            path
            for path in glob.glob(os.path.join(self._paths.etc, "conf.d", "*.conf"))
            if os.path.realpath(path) != os.path.realpath(self._paths.entry)
        )
        with self._staged(base, sites) as directory:
            main = _nginx.staged_main(_nginx.roomy_main(_text(self._paths.main)), others, directory)
            if main is None:
                raise MultibaseError(
                    "{0} does not include conf.d/*.conf, where the sites are; put that line back".format(
                        self._paths.main
                    )
                )
            # Beside nginx.conf, because names of files in it may be relative to its place.
            path = os.path.join(self._paths.etc, ".multibase-{0}.conf".format(secrets.token_hex(8)))
            try:
                # Names of files are bytes, and those of others need not be UTF-8.
                write_new(path, main.encode("utf-8", "surrogateescape"), 0o600)
                done = self._run(
                    [self._paths.program, "-t", "-q", "-c", path], "/", _process.clean_environment(), _COMMAND_SECONDS
                )
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            if done.code == 0:
                return None
            lines = [line for line in done.errors.splitlines() if "[emerg]" in line] or done.errors.splitlines()
            message = " / ".join(re.sub(r"^nginx: (\[emerg\] )?", "", line) for line in lines)
            message = message.replace(directory + "/", "")
            for secret in self._secrets.values():
                if secret:
                    message = message.replace(secret, "***")
            return message[:_LONGEST_MESSAGE]

    def _replace(self, base: str, sites: Mapping[str, str], main: str) -> None:
        """Make a new generation the live one, and have nginx read it."""
        before = os.path.realpath(self._paths.live) if os.path.islink(self._paths.live) else ""
        with self._staged(base, sites) as directory:
            generation = os.path.join(self._paths.base, "sites-" + secrets.token_hex(8))
            sync_directory(directory)
            os.rename(directory, generation)
            # The context removes what is at the old name: nothing.
        replace_file(self._paths.pending, b"", 0o600)
        link = self._paths.live + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(os.path.basename(generation), link)
        os.rename(link, self._paths.live)
        sync_directory(self._paths.base)
        for path, text in ((self._paths.entry, self._entry), (self._paths.main, main)):
            if _text(path) != text:
                replace_file(path, text.encode("utf-8"), 0o644)
        self._reload()
        os.unlink(self._paths.pending)
        if before and before != os.path.realpath(self._paths.live):
            shutil.rmtree(before, ignore_errors=True)

    def _reload(self) -> None:
        done = self._run(
            ["systemctl", "reload-or-restart", "nginx"], "/", _process.clean_environment(), _COMMAND_SECONDS
        )
        if done.code:
            raise MultibaseError("nginx could not be reloaded: {0}".format((done.errors or done.output).strip()[:500]))

    def _discard_leftovers(self) -> None:
        """Remove what an interrupted run left: staged copies, keys among them, and generations that never went live."""
        if self._check_mode:
            return
        keep = os.path.realpath(self._paths.live) if os.path.islink(self._paths.live) else ""
        for pattern in (".staged-*", "sites-*"):
            for path in glob.glob(os.path.join(self._paths.base, pattern)):
                if os.path.realpath(path) != keep:
                    shutil.rmtree(path, ignore_errors=True)
        for path in glob.glob(os.path.join(self._paths.certificates, "*", ".new-*")):
            shutil.rmtree(path, ignore_errors=True)
        for path in glob.glob(os.path.join(self._paths.etc, ".multibase-*.conf")):
            os.unlink(path)
        for path in glob.glob(os.path.join(self._paths.state, "certbot-*.ini")):
            os.unlink(path)
